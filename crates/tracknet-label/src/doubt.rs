//! Which frame is worth labelling next: one of which the model is unsure, apart from those that have labels.

use std::collections::BTreeMap;

use tracknet::evaluation::TrackSource;

use crate::proposals::Proposal;

/// Frames around a labelled one that show nearly the same.
const NEAR: usize = 6;

/// Of a frame of which nothing is known.
const UNKNOWN: f32 = 0.3;

/// How unsure a model is of a frame, from 0 to 1: its score lies in the middle, a second place is nearly as good, or the trajectory
/// says something else than the picture.
pub fn doubt(proposal: &Proposal) -> f32 {
    let score = proposal.score.clamp(0.0, 1.0);
    let middle = 1.0 - (2.0 * score - 1.0).abs();
    let tie = match proposal.second {
        Some(second) if score > 0.0 => 0.8 * (second / score).clamp(0.0, 1.0) * score.max(0.3),
        _ => 0.0,
    };
    let overruled = match proposal.source {
        Some(TrackSource::Filled) => 0.9,
        Some(TrackSource::Detected) if proposal.moved => 0.9,
        // Seen, and the trajectory does not take it.
        None if proposal.tracked && score >= 0.5 => 0.8,
        _ => 0.0,
    };
    middle.max(tie).max(overruled)
}

/// The unlabelled frame that is worth most. `clips` gives the clip of each frame, `labelled` which frames have a label, `doubts` how unsure
/// the model is of each, where that is known; the frame `besides` is only taken when there is no other.
pub fn next(clips: &[usize], labelled: &[bool], doubts: &[Option<f32>], besides: Option<usize>) -> Option<usize> {
    let distance = distances(clips, labelled);
    let mut counts: BTreeMap<usize, [usize; 2]> = BTreeMap::new();
    for (clip, is_labelled) in clips.iter().zip(labelled) {
        let [frames, with_label] = counts.entry(*clip).or_default();
        *frames += 1;
        *with_label += usize::from(*is_labelled);
    }
    // The share of the frames of each clip that have labels.
    let share: BTreeMap<usize, f32> =
        counts.into_iter().map(|(clip, [all, with])| (clip, with as f32 / all as f32)).collect();
    let worth = |frame: usize| {
        let doubt = doubts[frame].unwrap_or(UNKNOWN) + 0.02;
        let near = (distance[frame].min(NEAR) as f32 / NEAR as f32).powi(2);
        // Among equals one of the clip with the fewest labels, and of these the one that is farthest from all of them.
        doubt * near + 1e-4 * distance[frame].min(1000) as f32 - 0.02 * share[&clips[frame]]
    };
    let open = (0..clips.len()).filter(|frame| !labelled[*frame]);
    let best =
        |frames: &mut dyn Iterator<Item = usize>| frames.max_by(|a, b| worth(*a).total_cmp(&worth(*b)).then(b.cmp(a)));
    best(&mut open.clone().filter(|frame| Some(*frame) != besides)).or_else(|| best(&mut open.clone()))
}

/// How far each frame is from a labelled one of its clip, or from the clip's ends where it has none.
fn distances(clips: &[usize], labelled: &[bool]) -> Vec<usize> {
    let mut distance = vec![usize::MAX; clips.len()];
    let mut sweep = |frames: &mut dyn Iterator<Item = usize>, first_of: usize| {
        let mut last: Option<(usize, usize)> = None;
        for frame in frames {
            let far = match last {
                _ if labelled[frame] => 0,
                Some((clip, far)) if clip == clips[frame] => far + 1,
                _ => first_of,
            };
            last = Some((clips[frame], far));
            distance[frame] = distance[frame].min(far);
        }
    };
    sweep(&mut (0..clips.len()), NEAR);
    sweep(&mut (0..clips.len()).rev(), NEAR);
    distance
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(score: f32, second: Option<f32>, source: Option<TrackSource>) -> Proposal {
        Proposal { xy: None, score, second, source, tracked: true, moved: false }
    }

    #[test]
    fn a_model_doubts_middle_scores_ties_and_what_the_trajectory_overrules() {
        let sure = doubt(&proposal(0.98, None, Some(TrackSource::Detected)));
        let absent = doubt(&proposal(0.02, None, None));
        assert!(sure < 0.1 && absent < 0.1, "{sure} {absent}");
        let unsure = [
            proposal(0.5, None, Some(TrackSource::Detected)),
            proposal(0.9, Some(0.85), Some(TrackSource::Detected)),
            proposal(0.05, None, Some(TrackSource::Filled)),
            proposal(0.95, None, None),
            Proposal { moved: true, ..proposal(0.95, None, Some(TrackSource::Detected)) },
        ];
        for proposal in unsure {
            assert!(doubt(&proposal) > 0.6, "{proposal:?} {}", doubt(&proposal));
        }
    }

    #[test]
    fn the_most_doubtful_frame_is_next_but_not_beside_a_label() {
        let clips = [vec![0; 40], vec![1; 40]].concat();
        let mut labelled = vec![false; 80];
        let mut doubts = vec![Some(0.1); 80];
        (doubts[20], doubts[21], doubts[60]) = (Some(0.95), Some(0.9), Some(0.8));
        assert_eq!(next(&clips, &labelled, &doubts, None), Some(20));
        assert_eq!(next(&clips, &labelled, &doubts, Some(20)), Some(21));
        labelled[20] = true;
        assert_eq!(next(&clips, &labelled, &doubts, None), Some(60));
        labelled[60] = true;
        let third = next(&clips, &labelled, &doubts, None).unwrap();
        assert!(third.abs_diff(20) >= NEAR && third.abs_diff(60) >= NEAR, "{third}");
        assert_eq!(next(&[0], &[false], &[None], Some(0)), Some(0));
        assert_eq!(next(&[0], &[true], &[None], None), None);
    }

    #[test]
    fn without_a_model_labels_spread_over_all_clips() {
        let clips: Vec<usize> = (0..100).map(|frame| frame / 25).collect();
        let (mut labelled, doubts) = (vec![false; 100], vec![None; 100]);
        for _ in 0..8 {
            let frame = next(&clips, &labelled, &doubts, None).unwrap();
            labelled[frame] = true;
        }
        let of_clip = |clip: usize| (0..100).filter(|frame| labelled[*frame] && clips[*frame] == clip).count();
        assert_eq!([0, 1, 2, 3].map(of_clip), [2, 2, 2, 2]);
    }
}

//! Which frames of the training games validate, where no games were set aside for it (`data.split.val_share`).

use std::sync::Arc;

use tracknet_random::permutation;

use crate::datasets::FrameRef;

/// First part of the key of the order in which clips are taken.
const CLIP_ORDER: u64 = 4;

/// Parts `frames`, in the order of their clips, into those to train on and those to validate on: whole clips, in an order drawn
/// from `seed`, as long as each brings their number closer to `share` of all. Frames of one clip look alike, so that parts of it
/// on both sides would flatter; where no whole clip can be spared, the end of the longest is. Both sides get at least one frame
/// if there are two.
pub(super) fn held_out(frames: Vec<FrameRef>, share: f32, seed: u64) -> (Vec<FrameRef>, Vec<FrameRef>) {
    let wanted =
        ((frames.len() as f64 * f64::from(share)).round() as usize).clamp(1, frames.len().saturating_sub(1).max(1));
    let clips: Vec<&[FrameRef]> = frames.chunk_by(|a, b| Arc::ptr_eq(&a.files, &b.files)).collect();
    let (mut taken, mut held) = (vec![false; clips.len()], 0);
    for clip in permutation(clips.len(), &[CLIP_ORDER, seed]) {
        let length = clips[clip].len();
        if held + length < frames.len() && (held + length).abs_diff(wanted) < wanted.abs_diff(held) {
            (taken[clip], held) = (true, held + length);
        }
    }
    let longest = (0..clips.len()).max_by_key(|clip| clips[*clip].len()).filter(|_| held == 0);
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (clip, frames) in clips.into_iter().enumerate() {
        let end = if longest == Some(clip) { wanted.min(frames.len() - 1) } else { 0 };
        let kept = if taken[clip] { 0 } else { frames.len() - end };
        train.extend_from_slice(&frames[..kept]);
        validation.extend_from_slice(&frames[kept..]);
    }
    (train, validation)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn clips(lengths: &[usize]) -> Vec<FrameRef> {
        let mut frames = Vec::new();
        for (clip, length) in lengths.iter().enumerate() {
            let files: Arc<[PathBuf]> = (0..*length).map(|place| format!("{clip}/{place}.jpg").into()).collect();
            let frame = |place: usize| {
                let files = Arc::clone(&files);
                FrameRef { files, place, ..FrameRef::unlabelled(Path::new(&format!("{clip}/{place}.jpg"))) }
            };
            frames.extend((0..*length).map(frame));
        }
        frames
    }

    fn parts(lengths: &[usize], share: f32, seed: u64) -> [Vec<String>; 2] {
        let (train, validation) = held_out(clips(lengths), share, seed);
        [train, validation].map(|part| part.iter().map(|f| f.frame.path.display().to_string()).collect())
    }

    #[test]
    fn whole_clips_validate_about_as_many_frames_as_are_wanted() {
        let lengths = [8, 3, 5, 2, 7, 6, 4, 5, 9, 1];
        for seed in 0..20 {
            let [train, validation] = parts(&lengths, 0.2, seed);
            assert_eq!(train.len() + validation.len(), 50);
            assert!((6..=14).contains(&validation.len()), "{seed}: {}", validation.len());
            let clip = |path: &String| path.split('/').next().unwrap().to_owned();
            let clips: Vec<String> = validation.iter().map(clip).collect();
            assert!(train.iter().all(|path| !clips.contains(&clip(path))), "{seed}");
        }
        assert_eq!(parts(&lengths, 0.2, 3), parts(&lengths, 0.2, 3));
        assert!((0..20).any(|seed| parts(&lengths, 0.2, seed) != parts(&lengths, 0.2, 3)));
    }

    #[test]
    fn of_a_single_clip_the_end_validates_and_both_sides_have_a_frame() {
        let [train, validation] = parts(&[10], 0.2, 0);
        assert_eq!((train.len(), validation), (8, vec!["0/8.jpg".to_owned(), "0/9.jpg".to_owned()]));
        let [train, validation] = parts(&[2, 40], 0.2, 0);
        assert_eq!((train.len() + validation.len(), validation.is_empty()), (42, false));
        for (lengths, share) in [(vec![2], 0.01), (vec![2], 1.0), (vec![1, 1], 0.5), (vec![1, 1], 1.0)] {
            let [train, validation] = parts(&lengths, share, 1);
            assert_eq!([train.len(), validation.len()], [1, 1], "{lengths:?} {share}");
        }
        assert_eq!(parts(&[1], 0.5, 0).map(|part| part.len()), [1, 0]);
    }
}

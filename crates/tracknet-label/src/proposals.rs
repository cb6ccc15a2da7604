//! What a trained run finds on the frames: the trajectory through its candidates, computed on a thread of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracknet::evaluation::track::CANDIDATES;
use tracknet::evaluation::{TrackOptions, TrackSource};
use tracknet::inference::{Predicted, Predictor, StreamOptions, TrackedFrames};

/// Where a model sees the ball on a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proposal {
    /// What the trajectory decides; where it does not, the best candidate if its score is at least 0.5.
    pub xy: Option<[f32; 2]>,
    /// The score of the best candidate.
    pub score: f32,
    /// The score of the second best.
    pub second: Option<f32>,
    /// Where the trajectory has its position from.
    pub source: Option<TrackSource>,
    /// Whether a trajectory was looked for.
    pub tracked: bool,
    /// Whether the trajectory takes another candidate than the best.
    pub moved: bool,
}

/// Pixels between two positions that are the same candidate.
const SAME: f32 = 2.0;

impl Proposal {
    fn of(predicted: &Predicted) -> Self {
        let prediction = predicted.prediction();
        let candidates = match predicted {
            Predicted::Frame(result) => result.candidates.as_slice(),
            Predicted::Damaged(_) => &[],
        };
        let best = candidates.first().map(|found| found.detection);
        let decided = prediction.detection.map(|found| [found.x, found.y]);
        let moved = decided.zip(best).is_some_and(|([x, y], best)| (x - best.x).hypot(y - best.y) > SAME);
        let by_score = best.filter(|found| found.score >= 0.5).map(|found| [found.x, found.y]);
        Self {
            xy: decided.or(by_score),
            score: best.map_or(0.0, |found| found.score),
            second: candidates.get(1).map(|found| found.detection.score),
            source: prediction.source,
            tracked: true,
            moved: moved && prediction.source == Some(TrackSource::Detected),
        }
    }
}

/// Looks at the frames `files` and gives a proposal for each, in order, to `take`; ends early when `stop` is set.
///
/// # Errors
/// As [`Predictor::files`].
pub fn propose(
    predictor: Predictor,
    files: &[PathBuf],
    stop: &Arc<AtomicBool>,
    take: &mut (dyn FnMut(usize, Proposal) + Send),
) -> tracknet::Result<()> {
    let options = StreamOptions { pictures: false, ..StreamOptions::default() };
    let predictor = predictor.with_candidates(CANDIDATES).with_options(options).stopping_at(Arc::clone(stop));
    let mut tracked = TrackedFrames::new(TrackOptions::default(), 1)?;
    let mut each = |predicted: Predicted| {
        if !stop.load(Ordering::Relaxed) {
            take(predicted.prediction().frame as usize, Proposal::of(&predicted));
        }
        Ok(())
    };
    predictor.files(files, &mut |predicted| tracked.push(predicted, &mut each))?;
    tracked.finish(&mut each)
}

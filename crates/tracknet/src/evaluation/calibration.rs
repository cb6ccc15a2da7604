//! Which threshold the frames of an evaluation ask for, and how far scores must move so that it becomes 0.5.
//!
//! A training decides in which order candidates come, and only by the way how high their scores are: labels that are off by some
//! pixels, or balls that are hard to see, teach a model to be unsure everywhere. Adding one number to all logits leaves the
//! order as it is.

use super::metrics::{OperatingPoint, operating_points};
use super::{FrameOutcome, MetricOptions};

/// Thresholds whose F1 is lower than the best by less than this are as good: a few frames are no reason to choose.
const AS_GOOD: f64 = 0.005;
/// How far below a score a threshold lies when there is no lower score, in logits.
const OPEN_END: f32 = 0.5;
/// Scores are kept so far from 0 and 1 before logits are taken of them.
const MARGIN: f32 = 1e-6;

/// The threshold that suits a set of frames.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Calibration {
    /// The highest whose F1 is as good as the best, for the fewest false alarms; halfway, in logits, to the next lower score.
    pub threshold: f32,
    /// What to add to all logits to make it 0.5.
    pub shift: f32,
    /// The best F1.
    pub best_f1: f64,
}

impl Calibration {
    /// That of the frames of an evaluation whose scores are logistic. `None` if 0.5 is as good as any, or no ball is found at any
    /// threshold.
    pub fn of(outcomes: &[FrameOutcome], options: &MetricOptions) -> Option<Self> {
        let points = operating_points(outcomes, options);
        let f1 = |point: &OperatingPoint| point.f1.unwrap_or(0.0);
        let best = points.iter().map(f1).fold(0.0, f64::max);
        let is_good = |point: &OperatingPoint| f1(point) >= best - AS_GOOD;
        if best == 0.0 || points.iter().rfind(|point| point.threshold >= 0.5).is_some_and(is_good) {
            return None;
        }
        let at_best = points.iter().position(|point| f1(point) == best)?;
        let first = points[..at_best].iter().rposition(|point| !is_good(point)).map_or(0, |before| before + 1);
        let lowest = logit(points[first].threshold);
        let next = points.get(first + 1).map_or(lowest - 2.0 * OPEN_END, |point| logit(point.threshold));
        let middle = f32::midpoint(lowest, next);
        Some(Self { threshold: 1.0 / (1.0 + (-middle).exp()), shift: -middle, best_f1: best })
    }
}

fn logit(score: f32) -> f32 {
    let score = score.clamp(MARGIN, 1.0 - MARGIN);
    (score / (1.0 - score)).ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::Visibility::{Absent, Visible};
    use crate::evaluation::metrics::tests::outcome;

    /// Frames with a ball that is found at a score, and frames without one where something is.
    fn frames(right: &[f32], wrong: &[f32]) -> Vec<FrameOutcome> {
        let of = |visibility, score: &f32| outcome(visibility, Some((0.0, *score)));
        right.iter().map(|score| of(Visible, score)).chain(wrong.iter().map(|score| of(Absent, score))).collect()
    }

    fn calibration(right: &[f32], wrong: &[f32]) -> Option<Calibration> {
        Calibration::of(&frames(right, wrong), &MetricOptions::default())
    }

    #[test]
    fn the_threshold_lies_halfway_between_what_is_right_and_what_is_wrong() {
        let found = calibration(&[0.4, 0.3, 0.2], &[0.05, 0.01]).unwrap();
        let middle = f32::midpoint(logit(0.2), logit(0.05));
        assert!((logit(found.threshold) - middle).abs() < 1e-5 && (found.shift + middle).abs() < 1e-6, "{found:?}");
        assert_eq!(found.best_f1, 1.0);
    }

    #[test]
    fn shifted_scores_ask_for_one_half() {
        let (right, wrong) = ([0.9, 0.4, 0.3, 0.25], [0.2, 0.1]);
        let shift = calibration(&right, &wrong).unwrap().shift;
        let shifted = |scores: &[f32]| -> Vec<f32> {
            scores.iter().map(|score| 1.0 / (1.0 + (-logit(*score) - shift).exp())).collect()
        };
        assert_eq!(calibration(&shifted(&right), &shifted(&wrong)), None);
        assert_eq!(calibration(&[0.9, 0.8], &[0.1]), None);
    }

    #[test]
    fn of_thresholds_that_are_nearly_as_good_the_highest_counts_and_a_single_score_is_not_the_border() {
        // One more of 400 balls is worth a quarter of a percent, less than a false alarm more.
        let right: Vec<f32> = [vec![0.4; 399], vec![0.01]].concat();
        let found = calibration(&right, &[1e-4; 20]).unwrap();
        assert!((logit(found.threshold) - f32::midpoint(logit(0.4), logit(0.01))).abs() < 1e-4, "{found:?}");
        // Ten more are worth having.
        let right: Vec<f32> = [vec![0.4; 390], vec![0.01; 10]].concat();
        let found = calibration(&right, &[1e-4; 20]).unwrap();
        assert!((logit(found.threshold) - f32::midpoint(logit(0.01), logit(1e-4))).abs() < 1e-4, "{found:?}");
        let found = calibration(&[0.3], &[]).unwrap();
        assert!((logit(found.threshold) - (logit(0.3) - 0.5)).abs() < 1e-5, "{found:?}");
    }

    #[test]
    fn scores_of_zero_and_one_are_no_infinities_and_nothing_found_is_no_threshold() {
        let found = calibration(&[0.4, 0.0], &[1.0]).unwrap();
        assert!(found.shift.is_finite(), "{found:?}");
        assert_eq!(calibration(&[], &[0.7]), None);
        assert_eq!(Calibration::of(&[], &MetricOptions::default()), None);
    }
}

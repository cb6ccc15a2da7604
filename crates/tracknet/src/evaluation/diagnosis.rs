//! Why nothing is found: what the outcomes of an evaluation without a single hit have in common.

use std::fmt;

use super::metrics::{MetricOptions, Tolerance};
use super::{Detection, FrameOutcome};

/// Frames below which nothing is said about what they have in common.
const FEW: usize = 8;

/// Share of the frames that have to have something in common.
const MOST: f64 = 0.8;

/// Correlation of detections and labels, on each axis, from which on the one follows the other.
const FOLLOWS: f64 = 0.9;

/// Scores below this everywhere are a heatmap of nothing.
const NOTHING: f32 = 0.05;

/// What the frames of an evaluation without a hit have in common.
#[derive(Debug, Clone, PartialEq)]
pub enum Diagnosis {
    /// No label says that a ball is in sight.
    NoVisibleBall {
        /// Frames that were looked at.
        frames: usize,
    },
    /// No value of any heatmap is worth the name.
    AllZero {
        /// The highest.
        highest: f32,
    },
    /// The highest value of many frames is on the ball, and below the threshold.
    Unsure {
        /// Share of the visible balls that a threshold of 0 would find.
        on_ball: f64,
        /// The median score there.
        score: f32,
        /// The threshold.
        threshold: f32,
    },
    /// Detections follow the labels, at another scale or place.
    Displaced {
        /// Detection = scale · label + offset, for columns and rows, in native pixels.
        fit: [Line; 2],
        /// Size of the frames as `[W, H]`.
        size: [usize; 2],
    },
    /// The same place on most frames.
    SamePlace {
        /// Where, in native pixels.
        at: [f32; 2],
        /// Share of the frames.
        share: f64,
    },
    /// Something is found, and it has nothing to do with the labels.
    Elsewhere {
        /// Median distance to the label, in native pixels.
        distance: f64,
    },
}

/// `y = slope · x + offset`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Line {
    /// Slope.
    pub slope: f64,
    /// Value at 0.
    pub offset: f64,
}

/// A visible ball and what was found on its frame.
struct Pair {
    label: [f32; 2],
    found: Detection,
    /// Between the two, in native pixels.
    distance: f64,
    is_hit: bool,
}

impl Diagnosis {
    /// What the outcomes have in common; `None` if a visible ball was found, or if there is nothing to go by.
    pub fn of(outcomes: &[FrameOutcome], options: &MetricOptions) -> Option<Self> {
        if outcomes.is_empty() {
            return None;
        }
        let visible: Vec<&FrameOutcome> =
            outcomes.iter().filter(|o| options.visible.contains(o.label.visibility)).collect();
        if visible.is_empty() {
            return Some(Self::NoVisibleBall { frames: outcomes.len() });
        }
        let pairs: Vec<Pair> = visible.iter().filter_map(|outcome| Pair::of(outcome, options.tolerance)).collect();
        if pairs.iter().any(|pair| pair.is_hit && pair.found.score >= options.threshold) {
            return None;
        }
        let highest = outcomes.iter().filter_map(|o| o.detection).map(|found| found.score).fold(0.0, f32::max);
        if highest < NOTHING {
            return Some(Self::AllZero { highest });
        }
        let hits: Vec<f32> = pairs.iter().filter(|pair| pair.is_hit).map(|pair| pair.found.score).collect();
        let on_ball = hits.len() as f64 / visible.len() as f64;
        if on_ball >= 0.2 {
            let score = median(hits.iter().map(|score| f64::from(*score)).collect()) as f32;
            return Some(Self::Unsure { on_ball, score, threshold: options.threshold });
        }
        if pairs.len() < FEW {
            return None;
        }
        if let Some(at) = common_place(&pairs, visible[0].native_size[0]) {
            return Some(at);
        }
        if let Some(fit) = follows(&pairs) {
            return Some(Self::Displaced { fit, size: visible[0].native_size });
        }
        Some(Self::Elsewhere { distance: median(pairs.iter().map(|pair| pair.distance).collect()) })
    }
}

impl Pair {
    fn of(outcome: &FrameOutcome, tolerance: Tolerance) -> Option<Self> {
        let ((label, found), distance) = outcome.label.xy.zip(outcome.detection).zip(outcome.distance())?;
        Some(Self { label, found, distance, is_hit: tolerance.admits(outcome) })
    }
}

/// The place where most detections are, within a hundredth of the frame's width.
fn common_place(pairs: &[Pair], width: usize) -> Option<Diagnosis> {
    let at = [
        median(pairs.iter().map(|pair| f64::from(pair.found.x)).collect()),
        median(pairs.iter().map(|pair| f64::from(pair.found.y)).collect()),
    ];
    let near =
        |pair: &&Pair| (f64::from(pair.found.x) - at[0]).hypot(f64::from(pair.found.y) - at[1]) <= width as f64 / 100.0;
    let share = pairs.iter().filter(near).count() as f64 / pairs.len() as f64;
    (share >= MOST).then_some(Diagnosis::SamePlace { at: at.map(|v| v as f32), share })
}

/// The lines from labels to detections, if there are such on both axes.
fn follows(pairs: &[Pair]) -> Option<[Line; 2]> {
    let axis = |read: fn(&Pair) -> [f64; 2]| line(&pairs.iter().map(read).collect::<Vec<_>>());
    let columns = axis(|pair| [f64::from(pair.label[0]), f64::from(pair.found.x)])?;
    let rows = axis(|pair| [f64::from(pair.label[1]), f64::from(pair.found.y)])?;
    Some([columns, rows])
}

/// The least squares line through points that lie close to one.
fn line(points: &[[f64; 2]]) -> Option<Line> {
    let count = points.len() as f64;
    let mean = |axis: usize| points.iter().map(|point| point[axis]).sum::<f64>() / count;
    let means = [mean(0), mean(1)];
    let product = |a: usize, b: usize| points.iter().map(|p| (p[a] - means[a]) * (p[b] - means[b])).sum::<f64>();
    let (xx, xy, yy) = (product(0, 0), product(0, 1), product(1, 1));
    let correlation = xy / (xx * yy).sqrt();
    let slope = xy / xx;
    (correlation >= FOLLOWS).then_some(Line { slope, offset: means[1] - slope * means[0] })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVisibleBall { frames } => write!(
                f,
                "none of the {frames} frames has a label with a ball in sight: look at the visibility column of the labels \
                 (`tracknet data check`), or choose other games"
            ),
            Self::AllZero { highest } => write!(
                f,
                "no heatmap has a value above {highest:.3}: the model says nowhere. Train longer, or raise \
                 training.optimizer.lr; with training.loss.name: mse small balls are easily left out, focal and wbce weigh \
                 them up"
            ),
            Self::Unsure { on_ball, score, threshold } => write!(
                f,
                "the highest value is on the ball in {:.0} % of the frames with one, with a median score of {score:.2}, \
                 below the threshold of {threshold}: it is learning; train longer",
                100.0 * on_ball
            ),
            Self::Displaced { fit, size } => displacement(f, fit, *size),
            Self::SamePlace { at: [x, y], share } => write!(
                f,
                "on {:.0} % of the frames the same place is found, x {x:.0}, y {y:.0}: something that stands still there, or a \
                 model that gives the same whatever it sees. Look at the overlays; train longer, or lower \
                 training.optimizer.lr if the loss jumps",
                100.0 * share
            ),
            Self::Elsewhere { distance } => write!(
                f,
                "what is found is {distance:.0} pixels from the label (median) and does not follow it: labels that are not on \
                 the ball teach nothing (`tracknet data preview` shows them), or the model needs more steps"
            ),
        }
    }
}

/// How what is found lies beside the labels: shifted, or on frames of another size.
fn displacement(f: &mut fmt::Formatter<'_>, [x, y]: &[Line; 2], size: [usize; 2]) -> fmt::Result {
    let [width, height] = size.map(|side| side as f64);
    let near_one = |line: &Line| (line.slope - 1.0).abs() < 0.03;
    if near_one(x) && near_one(y) {
        let shift = |line: &Line, side: f64| line.slope * side / 2.0 + line.offset - side / 2.0;
        let [dx, dy] = [shift(x, width), shift(y, height)];
        return write!(
            f,
            "what is found follows the labels {dx:+.0} pixels to the right and {dy:+.0} pixels down: the labels of these games \
             and those of the training games are placed differently"
        );
    }
    write!(
        f,
        "what is found follows the labels, {:.2} times as far to the right and {:.2} times as far down: these labels look made \
         for frames of {:.0}×{:.0} pixels, and the frames have {width}×{height}",
        x.slope,
        y.slope,
        width / x.slope,
        height / y.slope
    )
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::outcome;
    use super::*;
    use crate::datasets::{Label, Visibility};

    /// Twelve frames of 1280×720 whose balls lie on a curve, with what `found` gives for each label.
    fn outcomes(found: impl Fn(usize, [f32; 2]) -> Option<(f32, f32, f32)>) -> Vec<FrameOutcome> {
        let frame = |i: usize| {
            let xy = [100.0 + 90.0 * i as f32, 80.0 + 7.0 * (i * i % 50) as f32];
            let detection = found(i, xy).map(|(x, y, score)| Detection { x, y, score });
            let label = Label { visibility: Visibility::Visible, xy: Some(xy) };
            FrameOutcome { label, detection, native_size: [1280, 720], ..outcome(Visibility::Visible, None) }
        };
        (0..12).map(frame).collect()
    }

    fn said(outcomes: &[FrameOutcome]) -> String {
        Diagnosis::of(outcomes, &MetricOptions::default()).map_or_else(String::new, |diagnosis| diagnosis.to_string())
    }

    #[test]
    fn a_single_hit_needs_no_diagnosis() {
        let mut one = outcomes(|_, _| Some((640.0, 1.0, 0.9)));
        assert!(!said(&one).is_empty());
        let [x, y] = one[3].label.xy.unwrap();
        one[3].detection = Some(Detection { x: x + 9.0, y, score: 0.6 });
        assert_eq!(said(&one), "");
        assert_eq!(said(&[]), "");
    }

    #[test]
    fn each_kind_of_nothing_is_told_apart() {
        let absent = vec![outcome(Visibility::Absent, Some((3.0, 0.9))); 5];
        assert!(said(&absent).starts_with("none of the 5 frames has a label with a ball in sight"));
        assert!(said(&outcomes(|_, _| None)).starts_with("no heatmap has a value above 0.000"));
        let zero = said(&outcomes(|_, _| Some((5.0, 5.0, 0.02))));
        assert!(
            zero.starts_with("no heatmap has a value above 0.020") && zero.contains("training.optimizer.lr"),
            "{zero}"
        );
        let unsure = said(&outcomes(|i, [x, y]| Some((x + if i % 2 == 0 { 1.0 } else { 300.0 }, y, 0.3))));
        assert!(unsure.starts_with("the highest value is on the ball in 50 % of the frames"), "{unsure}");
        assert!(unsure.contains("score of 0.30, below the threshold of 0.5"), "{unsure}");
        let same = said(&outcomes(|i, _| Some(if i == 4 { (9.0, 9.0, 0.9) } else { (640.0, 36.0, 0.9) })));
        assert!(same.starts_with("on 92 % of the frames the same place is found, x 640, y 36"), "{same}");
        let wild = said(&outcomes(|i, _| Some(((i * 577 % 1280) as f32, (i * 331 % 720) as f32, 0.9))));
        assert!(wild.contains("pixels from the label (median) and does not follow it"), "{wild}");
        // Too few to have anything in common.
        assert_eq!(said(&outcomes(|i, _| (i < 3).then_some((640.0, 36.0, 0.9)))), "");
    }

    #[test]
    fn labels_of_other_frames_are_named_by_their_size_or_shift() {
        let scaled = said(&outcomes(|_, [x, y]| Some((1.5 * x, 1.5 * y, 0.9))));
        assert!(scaled.contains("1.50 times as far to the right and 1.50 times as far down"), "{scaled}");
        assert!(scaled.contains("frames of 853×480 pixels, and the frames have 1280×720"), "{scaled}");
        let shifted = said(&outcomes(|_, [x, y]| Some((x - 40.0, y + 25.0, 0.9))));
        assert!(shifted.contains("-40 pixels to the right and +25 pixels down"), "{shifted}");
    }
}

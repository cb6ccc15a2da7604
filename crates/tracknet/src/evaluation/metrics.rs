//! What detections are worth: the field's counts at a pixel tolerance, and the original program's heatmap distances.
//!
//! Everything is counted over frames and divided once at the end; means of batch means weigh a small last batch too
//! much. A ratio whose denominator is zero is `None` (`null`, `–`), never NaN.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{EvaluationError, FrameOutcome, TrackOptions};
use crate::datasets::Visibility;

/// How far from the label a detection may be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Tolerance {
    /// Pixels of the frame scaled to this width: `4 px at 512×288` = `10 px at 1280×720`.
    Scaled {
        /// Largest distance.
        px: f32,
        /// Width at which it is measured; heights scale by the same factor.
        width: u32,
    },
    /// Pixels of the original frame.
    Native {
        /// Largest distance.
        px: f32,
    },
}

impl Tolerance {
    /// The default of the field: 4 px at 512×288.
    pub const FIELD: Self = Self::Scaled { px: 4.0, width: 512 };

    /// Factor from native pixels to the pixels of this tolerance.
    fn scale(self, native_size: [usize; 2]) -> f64 {
        match self {
            Self::Scaled { width, .. } => f64::from(width) / native_size[0].max(1) as f64,
            Self::Native { .. } => 1.0,
        }
    }

    /// Whether the detection of a frame is within the tolerance of the label.
    pub(crate) fn admits(self, outcome: &FrameOutcome) -> bool {
        outcome.distance().is_some_and(|distance| distance * self.scale(outcome.native_size) <= self.px())
    }

    fn px(self) -> f64 {
        match self {
            Self::Scaled { px, .. } | Self::Native { px } => f64::from(px),
        }
    }
}

impl fmt::Display for Tolerance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scaled { px, width } => write!(f, "{px} px at {width}×{}", width * 9 / 16),
            Self::Native { px } => write!(f, "{px} px native"),
        }
    }
}

impl Serialize for Tolerance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Which labels count as a ball that should be found; a detection on any other frame is a false positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VisibleSet {
    /// Visibility 1, 2 and 3.
    #[default]
    WithOccluded,
    /// Visibility 1 and 2.
    InSight,
}

impl VisibleSet {
    /// Whether a ball of this class should be found.
    pub fn contains(self, visibility: Visibility) -> bool {
        match visibility {
            Visibility::Absent => false,
            Visibility::Visible | Visibility::Hard => true,
            Visibility::Occluded => self == Self::WithOccluded,
        }
    }
}

impl fmt::Display for VisibleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WithOccluded => "1,2,3",
            Self::InSight => "1,2",
        })
    }
}

impl FromStr for VisibleSet {
    type Err = EvaluationError;

    fn from_str(text: &str) -> Result<Self, EvaluationError> {
        match text.replace(' ', "").as_str() {
            "1,2,3" => Ok(Self::WithOccluded),
            "1,2" => Ok(Self::InSight),
            _ => Err(EvaluationError::Option { name: "--visible", found: text.to_owned(), expected: "1,2,3 or 1,2" }),
        }
    }
}

impl Serialize for VisibleSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// How metrics are computed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MetricOptions {
    /// A detection exists when its score is at least this.
    pub threshold: f32,
    /// The tolerance of the main numbers.
    pub tolerance: Tolerance,
    /// Tolerances that are reported too.
    pub also: Vec<Tolerance>,
    /// Which labels count as visible.
    pub visible: VisibleSet,
    /// Radii of PCK, in heatmap pixels.
    pub pck_radii: Vec<f32>,
    /// How the detections were made a trajectory, if they were: then each one that there is exists, whatever its score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub track: Option<TrackOptions>,
}

impl MetricOptions {
    /// The score from which a detection exists.
    pub fn exists_from(&self) -> f32 {
        if self.track.is_some() { 0.0 } else { self.threshold }
    }
}

impl Default for MetricOptions {
    /// Threshold 0.5, 4 px at 512×288, also 5 px and 4 px native, visible 1, 2, 3, PCK at 1, 2, 3 and 5.
    fn default() -> Self {
        Self {
            threshold: 0.5,
            tolerance: Tolerance::FIELD,
            also: vec![Tolerance::Native { px: 5.0 }, Tolerance::Native { px: 4.0 }],
            visible: VisibleSet::default(),
            pck_radii: vec![1.0, 2.0, 3.0, 5.0],
            track: None,
        }
    }
}

/// Frames by what the detector did on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Label visible, detection within the tolerance.
    pub tp: usize,
    /// Label visible, detection too far away.
    pub fp1: usize,
    /// Detection on a frame without a visible ball.
    pub fp2: usize,
    /// Label visible, no detection.
    #[serde(rename = "fn")]
    pub fn_: usize,
    /// No visible ball, no detection.
    pub tn: usize,
}

impl Counts {
    /// `TP / (TP + FP1 + FP2)`.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.tp, self.tp + self.fp1 + self.fp2)
    }

    /// `TP / (TP + FN)`: the field's recall, in which a detection at the wrong place is no miss.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.tp, self.tp + self.fn_)
    }

    /// `TP / (TP + FN + FP1)`: the share of visible balls that were found.
    pub fn strict_recall(&self) -> Option<f64> {
        ratio(self.tp, self.tp + self.fn_ + self.fp1)
    }

    /// Harmonic mean of precision and (the field's) recall: `2·TP / (2·TP + FP1 + FP2 + FN)`.
    pub fn f1(&self) -> Option<f64> {
        ratio(2 * self.tp, 2 * self.tp + self.fp1 + self.fp2 + self.fn_)
    }

    /// `(TP + TN) / all`.
    pub fn accuracy(&self) -> Option<f64> {
        ratio(self.tp + self.tn, self.tp + self.fp1 + self.fp2 + self.fn_ + self.tn)
    }
}

fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Counts and ratios at one tolerance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DetectionMetrics {
    /// The tolerance.
    pub tolerance: Tolerance,
    /// Frames by outcome.
    #[serde(flatten)]
    pub counts: Counts,
    /// See [`Counts::precision`].
    pub precision: Option<f64>,
    /// See [`Counts::recall`].
    pub recall: Option<f64>,
    /// See [`Counts::strict_recall`].
    pub strict_recall: Option<f64>,
    /// See [`Counts::f1`].
    pub f1: Option<f64>,
    /// See [`Counts::accuracy`].
    pub accuracy: Option<f64>,
    /// Area under precision over strict recall as the threshold falls through all scores, with precision replaced by
    /// its maximum at any higher recall (all-point interpolation); frames of equal score enter together.
    pub average_precision: Option<f64>,
    /// Root of the mean squared distance of the true positives, in the tolerance's pixels.
    pub rmse: Option<f64>,
}

/// Precision and recall if the threshold were this.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct OperatingPoint {
    /// The threshold: a score that occurs.
    pub threshold: f32,
    /// See [`Counts::precision`].
    pub precision: Option<f64>,
    /// See [`Counts::recall`].
    pub recall: Option<f64>,
    /// See [`Counts::strict_recall`].
    pub strict_recall: Option<f64>,
    /// See [`Counts::f1`].
    pub f1: Option<f64>,
}

/// Recall on the frames of one visibility class, whether or not the class counts as visible.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassRecall {
    /// `visible`, `hard` or `occluded`.
    pub class: &'static str,
    /// Frames of the class.
    pub frames: usize,
    /// See [`Counts::recall`].
    pub recall: Option<f64>,
    /// See [`Counts::strict_recall`].
    pub strict_recall: Option<f64>,
}

/// Distances of a heatmap position to the float label, in heatmap pixels.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PointMetrics {
    /// Mean distance.
    pub mean_l2: Option<f64>,
    /// Share of frames within each radius of [`MetricOptions::pck_radii`].
    pub pck: Vec<Option<f64>>,
}

/// The metrics of the original program, over visible frames and without any threshold.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeatmapMetrics {
    /// Visible frames with a heatmap.
    pub frames: usize,
    /// Of the largest value.
    pub argmax: PointMetrics,
    /// Of the soft-argmax (β = 100).
    pub soft_argmax: PointMetrics,
}

/// Everything that is known about a set of frames.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Metrics {
    /// Frames that were measured.
    pub frames: usize,
    /// Frames left out because their label is unusable.
    pub skipped: usize,
    /// The numbers at the main tolerance.
    pub detection: DetectionMetrics,
    /// The numbers at the other tolerances.
    pub also: Vec<DetectionMetrics>,
    /// Recall by class, at the main tolerance.
    pub by_visibility: Vec<ClassRecall>,
    /// The threshold with the best F1 at the main tolerance; of equals the highest.
    pub best: Option<OperatingPoint>,
    /// Precision and recall over thresholds, from the highest score down, at most [`CURVE_POINTS`].
    pub curve: Vec<OperatingPoint>,
    /// The metrics of the original program.
    pub heatmap: HeatmapMetrics,
}

/// Most points of [`Metrics::curve`].
pub const CURVE_POINTS: usize = 200;

impl Metrics {
    /// Measures frames; the order of the frames does not matter.
    pub fn from_outcomes(outcomes: &[FrameOutcome], options: &MetricOptions) -> Self {
        Self::of(&outcomes.iter().collect::<Vec<_>>(), options)
    }

    /// [`Metrics::from_outcomes`] of a selection.
    pub fn of(outcomes: &[&FrameOutcome], options: &MetricOptions) -> Self {
        let usable: Vec<&FrameOutcome> = outcomes.iter().copied().filter(|o| o.label.is_usable()).collect();
        let main = judge(&usable, options.tolerance, options.visible);
        let (points, detection) = (sweep(&main), detection_metrics(&main, options.tolerance, options.exists_from()));
        let best =
            points.iter().fold(
                None,
                |best: Option<OperatingPoint>, point| {
                    if best.is_none_or(|best| point.f1 > best.f1) { Some(*point) } else { best }
                },
            );
        let also = options.also.iter().map(|&tolerance| {
            detection_metrics(&judge(&usable, tolerance, options.visible), tolerance, options.exists_from())
        });
        Self {
            frames: usable.len(),
            skipped: outcomes.len() - usable.len(),
            detection,
            also: also.collect(),
            by_visibility: recall_by_class(&usable, options),
            best,
            curve: thin(points),
            heatmap: heatmap_metrics(&usable, options),
        }
    }
}

/// The operating points of frames at every score that occurs, from the highest down, at the main tolerance.
pub(super) fn operating_points(outcomes: &[FrameOutcome], options: &MetricOptions) -> Vec<OperatingPoint> {
    let usable: Vec<&FrameOutcome> = outcomes.iter().filter(|o| o.label.is_usable()).collect();
    sweep(&judge(&usable, options.tolerance, options.visible))
}

/// One frame, seen at one tolerance.
struct Verdict {
    /// Whether the ball should be found.
    visible: bool,
    /// Score of the detection.
    score: Option<f32>,
    /// Distance to the label in the tolerance's pixels, when there are both.
    distance: Option<f64>,
    /// Whether that distance is within the tolerance.
    close: bool,
}

impl Verdict {
    fn count(&self, threshold: f32, counts: &mut Counts) {
        let detected = self.score.is_some_and(|score| score >= threshold);
        match (self.visible, detected) {
            (true, true) if self.close => counts.tp += 1,
            (true, true) => counts.fp1 += 1,
            (false, true) => counts.fp2 += 1,
            (true, false) => counts.fn_ += 1,
            (false, false) => counts.tn += 1,
        }
    }
}

fn judge(outcomes: &[&FrameOutcome], tolerance: Tolerance, set: VisibleSet) -> Vec<Verdict> {
    let verdict = |outcome: &&FrameOutcome| {
        let visible = set.contains(outcome.label.visibility);
        let distance = outcome.distance().map(|distance| distance * tolerance.scale(outcome.native_size));
        let close = distance.is_some_and(|d| d <= tolerance.px());
        Verdict { visible, score: outcome.detection.map(|d| d.score), distance, close }
    };
    outcomes.iter().map(verdict).collect()
}

fn detection_metrics(verdicts: &[Verdict], tolerance: Tolerance, threshold: f32) -> DetectionMetrics {
    let mut counts = Counts::default();
    let mut squares = 0.0;
    for verdict in verdicts {
        let before = counts.tp;
        verdict.count(threshold, &mut counts);
        if counts.tp > before {
            squares += verdict.distance.unwrap_or(0.0).powi(2);
        }
    }
    DetectionMetrics {
        tolerance,
        counts,
        precision: counts.precision(),
        recall: counts.recall(),
        strict_recall: counts.strict_recall(),
        f1: counts.f1(),
        accuracy: counts.accuracy(),
        average_precision: average_precision(&sweep(verdicts)),
        rmse: (counts.tp > 0).then(|| (squares / counts.tp as f64).sqrt()),
    }
}

/// The operating points at every score that occurs, from the highest down. Without a detection there is one point, at
/// threshold 1, so that a curve exists whenever there is a frame.
fn sweep(verdicts: &[Verdict]) -> Vec<OperatingPoint> {
    let mut counts = Counts::default();
    for verdict in verdicts {
        verdict.count(f32::INFINITY, &mut counts);
    }
    let mut found: Vec<(&Verdict, f32)> = verdicts.iter().filter_map(|v| v.score.map(|score| (v, score))).collect();
    found.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut points = Vec::new();
    for group in found.chunk_by(|a, b| a.1 == b.1) {
        for (verdict, _) in group {
            match (verdict.visible, verdict.close) {
                (true, true) => (counts.fn_, counts.tp) = (counts.fn_ - 1, counts.tp + 1),
                (true, false) => (counts.fn_, counts.fp1) = (counts.fn_ - 1, counts.fp1 + 1),
                (false, _) => (counts.tn, counts.fp2) = (counts.tn - 1, counts.fp2 + 1),
            }
        }
        points.extend(group.first().map(|(_, threshold)| operating_point(*threshold, &counts)));
    }
    if points.is_empty() && !verdicts.is_empty() {
        points.push(operating_point(1.0, &counts));
    }
    points
}

fn operating_point(threshold: f32, counts: &Counts) -> OperatingPoint {
    OperatingPoint {
        threshold,
        precision: counts.precision(),
        recall: counts.recall(),
        strict_recall: counts.strict_recall(),
        f1: counts.f1(),
    }
}

/// All-point interpolated AP of a sweep; `None` when no ball is visible.
fn average_precision(points: &[OperatingPoint]) -> Option<f64> {
    let mut area = 0.0;
    let mut envelope = 0.0f64;
    let mut right = points.last()?.strict_recall?;
    for (index, point) in points.iter().enumerate().rev() {
        envelope = envelope.max(point.precision.unwrap_or(0.0));
        let left = index.checked_sub(1).and_then(|i| points[i].strict_recall).unwrap_or(0.0);
        area += (right - left) * envelope;
        right = left;
    }
    Some(area)
}

/// At most [`CURVE_POINTS`] of the points, evenly by rank, both ends included.
fn thin(points: Vec<OperatingPoint>) -> Vec<OperatingPoint> {
    if points.len() <= CURVE_POINTS {
        return points;
    }
    (0..CURVE_POINTS).map(|i| points[i * (points.len() - 1) / (CURVE_POINTS - 1)]).collect()
}

fn recall_by_class(outcomes: &[&FrameOutcome], options: &MetricOptions) -> Vec<ClassRecall> {
    let recall = |class: Visibility| {
        let frames: Vec<&FrameOutcome> = outcomes.iter().copied().filter(|o| o.label.visibility == class).collect();
        let mut counts = Counts::default();
        for mut verdict in judge(&frames, options.tolerance, options.visible) {
            verdict.visible = true;
            verdict.count(options.exists_from(), &mut counts);
        }
        let (recall, strict_recall) = (counts.recall(), counts.strict_recall());
        ClassRecall { class: class.name(), frames: frames.len(), recall, strict_recall }
    };
    [Visibility::Visible, Visibility::Hard, Visibility::Occluded].map(recall).into()
}

fn heatmap_metrics(outcomes: &[&FrameOutcome], options: &MetricOptions) -> HeatmapMetrics {
    let points: Vec<_> = outcomes
        .iter()
        .filter(|o| options.visible.contains(o.label.visibility))
        .filter_map(|o| o.points.and_then(|p| p.truth.map(|truth| (p.argmax, p.soft_argmax, truth))))
        .collect();
    let distance = |a: [f32; 2], b: [f32; 2]| f64::from(a[0] - b[0]).hypot(f64::from(a[1] - b[1]));
    let measure = |mut distances: Vec<f64>| {
        // Sorted, so that the sum does not depend on the order of the frames.
        distances.sort_by(f64::total_cmp);
        let n = distances.len();
        let within = |radius: f32| ratio(distances.iter().filter(|d| **d <= f64::from(radius)).count(), n);
        PointMetrics {
            mean_l2: (n > 0).then(|| distances.iter().sum::<f64>() / n as f64),
            pck: options.pck_radii.iter().map(|&radius| within(radius)).collect(),
        }
    };
    HeatmapMetrics {
        frames: points.len(),
        argmax: measure(points.iter().map(|(argmax, _, truth)| distance(*argmax, *truth)).collect()),
        soft_argmax: measure(points.iter().map(|(_, soft, truth)| distance(*soft, *truth)).collect()),
    }
}

/// Frames from the worst to the best, for a look at what goes wrong: confident false positives first, then misses.
pub fn worst_first<'a>(outcomes: &'a [FrameOutcome], options: &MetricOptions) -> Vec<&'a FrameOutcome> {
    let usable: Vec<&FrameOutcome> = outcomes.iter().filter(|o| o.label.is_usable()).collect();
    let verdicts = judge(&usable, options.tolerance, options.visible);
    let badness = |verdict: &Verdict| {
        let score = verdict.score.filter(|score| *score >= options.exists_from());
        // Scores lie in 0..1; a thousandth is fine enough to sort by.
        let rank = score.map_or(0, |score| (score * 1000.0) as i32);
        match (verdict.visible, score.is_some(), verdict.close) {
            (true, true, true) => -rank,
            (_, true, _) => 2000 + rank,
            (true, false, _) => 1500,
            (false, false, _) => -2000,
        }
    };
    let mut ranked: Vec<(i32, &FrameOutcome)> = verdicts.iter().map(badness).zip(usable).collect();
    ranked.sort_by_key(|(badness, _)| Reverse(*badness));
    ranked.into_iter().map(|(_, outcome)| outcome).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{Detection, HeatmapPoints};
    use super::*;
    use crate::datasets::Label;

    /// A frame of 1280×720: its visibility, and a detection `dx` native pixels from (100, 100) with a score.
    pub(crate) fn outcome(visibility: Visibility, found: Option<(f32, f32)>) -> FrameOutcome {
        let xy = (visibility != Visibility::Absent).then_some([100.0, 100.0]);
        FrameOutcome {
            game: "game1".into(),
            clip: "Clip1".into(),
            file_name: "0000.jpg".into(),
            label: Label { visibility, xy },
            native_size: [1280, 720],
            detection: found.map(|(dx, score)| Detection { x: 100.0 + dx, y: 100.0, score }),
            points: None,
        }
    }

    use Visibility::{Absent, Hard, Occluded, Visible};

    fn hand_case() -> Vec<FrameOutcome> {
        vec![
            outcome(Visible, Some((3.0, 0.9))),  // TP at every tolerance, 1.2 px at 512
            outcome(Visible, Some((10.0, 0.8))), // exactly 4 px at 512: TP; too far natively
            outcome(Hard, Some((10.1, 0.7))),    // FP1
            outcome(Absent, Some((0.0, 0.6))),   // FP2
            outcome(Occluded, Some((0.0, 0.4))), // below the threshold: FN
            outcome(Visible, None),              // FN
            outcome(Absent, None),               // TN
            outcome(Absent, Some((0.0, 0.1))),   // TN
        ]
    }

    #[test]
    fn counts_and_ratios_agree_with_a_hand_computed_case() {
        let metrics = Metrics::from_outcomes(&hand_case(), &MetricOptions::default());
        let main = &metrics.detection;
        assert_eq!(main.counts, Counts { tp: 2, fp1: 1, fp2: 1, fn_: 2, tn: 2 });
        assert_eq!(main.precision, Some(0.5));
        assert_eq!(main.recall, Some(0.5));
        assert_eq!(main.strict_recall, Some(0.4));
        assert_eq!(main.f1, Some(0.5));
        assert_eq!(main.accuracy, Some(0.5));
        // Distances 1.2 and 4 px at 512: sqrt((1.44 + 16) / 2); the labels are f32.
        assert!((main.rmse.unwrap() - 8.72f64.sqrt()).abs() < 1e-5);
        assert_eq!(metrics.also[0].counts, Counts { tp: 1, fp1: 2, fp2: 1, fn_: 2, tn: 2 });
        assert_eq!(metrics.also[0].rmse, Some(3.0));
        assert_eq!((metrics.frames, metrics.skipped), (8, 0));
    }

    #[test]
    fn the_tolerance_scales_with_the_frame() {
        let mut far = outcome(Visible, Some((10.0, 0.9)));
        let tp = |outcome: &FrameOutcome, tolerance| {
            let options = MetricOptions { tolerance, ..MetricOptions::default() };
            Metrics::of(&[outcome], &options).detection.counts.tp
        };
        assert_eq!(tp(&far, Tolerance::FIELD), 1);
        assert_eq!(tp(&far, Tolerance::Scaled { px: 10.0, width: 1280 }), 1);
        far.native_size = [640, 360];
        assert_eq!(tp(&far, Tolerance::FIELD), 0);
        assert_eq!(tp(&far, Tolerance::Native { px: 10.0 }), 1);
        assert_eq!(Tolerance::FIELD.to_string(), "4 px at 512×288");
    }

    #[test]
    fn average_precision_agrees_with_a_hand_computed_case() {
        // By falling score: TP, FP, TP, FP with 4 visible frames: precision 1, 1/2, 2/3, 1/2; recall 1/4, 1/4, 2/4, 2/4.
        let outcomes = [
            outcome(Visible, Some((0.0, 0.9))),
            outcome(Absent, Some((0.0, 0.8))),
            outcome(Visible, Some((0.0, 0.7))),
            outcome(Visible, Some((50.0, 0.6))),
            outcome(Visible, None),
        ];
        let metrics = Metrics::from_outcomes(&outcomes, &MetricOptions::default());
        let expected = 0.25 * 1.0 + 0.25 * (2.0 / 3.0);
        assert!((metrics.detection.average_precision.unwrap() - expected).abs() < 1e-12);
        // AP does not depend on the threshold, nor on the order of the frames.
        let mut reversed = outcomes.to_vec();
        reversed.reverse();
        let high = MetricOptions { threshold: 0.99, ..MetricOptions::default() };
        assert_eq!(
            Metrics::from_outcomes(&reversed, &high).detection.average_precision,
            metrics.detection.average_precision
        );
    }

    #[test]
    fn equal_scores_enter_the_curve_together() {
        let a = [outcome(Visible, Some((0.0, 0.5))), outcome(Absent, Some((0.0, 0.5)))];
        let b = [a[1].clone(), a[0].clone()];
        let ap = |o: &[FrameOutcome]| Metrics::from_outcomes(o, &MetricOptions::default()).detection.average_precision;
        assert_eq!((ap(&a), ap(&b)), (Some(0.5), Some(0.5)));
    }

    #[test]
    fn the_sweep_finds_the_threshold_with_the_best_f1() {
        let metrics = Metrics::from_outcomes(&hand_case(), &MetricOptions::default());
        // At 0.8: 2 TP, no FP, 3 FN: 4/7. At 0.4: 3 TP, 2 FP, 1 FN: 6/9. Lower scores only add an FP.
        let best = metrics.best.unwrap();
        assert_eq!((best.threshold, best.f1), (0.4, Some(6.0 / 9.0)));
        assert_eq!(metrics.curve.len(), 6);
        assert!(metrics.curve.windows(2).all(|w| w[0].threshold > w[1].threshold));
    }

    #[test]
    fn a_long_curve_is_thinned_and_keeps_both_ends() {
        let outcomes: Vec<_> = (0..1000).map(|i| outcome(Visible, Some((0.0, i as f32 / 1000.0)))).collect();
        let curve = Metrics::from_outcomes(&outcomes, &MetricOptions::default()).curve;
        assert_eq!((curve.len(), curve[0].threshold, curve[CURVE_POINTS - 1].threshold), (200, 0.999, 0.0));
    }

    #[test]
    fn occluded_balls_count_as_visible_only_when_asked() {
        let outcomes = [outcome(Occluded, Some((0.0, 0.9))), outcome(Visible, None)];
        let counts = |visible| {
            let options = MetricOptions { visible, ..MetricOptions::default() };
            let metrics = Metrics::from_outcomes(&outcomes, &options);
            // The class recall is measured either way.
            assert_eq!(metrics.by_visibility[2].recall, Some(1.0));
            metrics.detection.counts
        };
        assert_eq!(counts("1,2,3".parse().unwrap()), Counts { tp: 1, fn_: 1, ..Counts::default() });
        assert_eq!(counts("1, 2".parse().unwrap()), Counts { fp2: 1, fn_: 1, ..Counts::default() });
        let error = "2,3".parse::<VisibleSet>().unwrap_err().to_string();
        assert_eq!(error, "--visible = 2,3: expected 1,2,3 or 1,2");
    }

    #[test]
    fn recall_is_split_by_visibility_class() {
        let metrics = Metrics::from_outcomes(&hand_case(), &MetricOptions::default());
        let classes: Vec<_> =
            metrics.by_visibility.iter().map(|c| (c.class, c.frames, c.recall, c.strict_recall)).collect();
        let two_thirds = Some(2.0 / 3.0);
        let expected = [
            ("visible", 3, two_thirds, two_thirds),
            ("hard", 1, None, Some(0.0)),
            ("occluded", 1, Some(0.0), Some(0.0)),
        ];
        assert_eq!(classes, expected);
    }

    #[test]
    fn ratios_without_a_denominator_are_null_and_never_nan() {
        let unusable =
            FrameOutcome { label: Label { visibility: Visible, xy: None }, ..outcome(Visible, Some((0.0, 0.9))) };
        for outcomes in [vec![], vec![unusable], vec![outcome(Absent, None)]] {
            let metrics = Metrics::from_outcomes(&outcomes, &MetricOptions::default());
            assert_eq!((metrics.detection.f1, metrics.detection.average_precision), (None, None));
            assert_eq!((metrics.detection.rmse, metrics.heatmap.argmax.mean_l2), (None, None));
            let json = serde_json::to_string(&metrics).unwrap();
            assert!(json.contains("\"f1\":null") && !json.contains("NaN"), "{json}");
        }
    }

    #[test]
    fn a_frame_with_an_unusable_label_is_left_out_and_counted() {
        let unusable =
            FrameOutcome { label: Label { visibility: Visible, xy: None }, ..outcome(Visible, Some((0.0, 0.9))) };
        let metrics = Metrics::from_outcomes(&[unusable, outcome(Absent, None)], &MetricOptions::default());
        assert_eq!((metrics.frames, metrics.skipped, metrics.detection.counts.tn), (1, 1, 1));
    }

    #[test]
    fn heatmap_distances_are_means_over_visible_frames() {
        let with = |visibility, argmax: [f32; 2], soft_argmax: [f32; 2]| FrameOutcome {
            points: Some(HeatmapPoints { argmax, soft_argmax, truth: Some([10.0, 10.0]) }),
            ..outcome(visibility, None)
        };
        let outcomes = [
            with(Visible, [13.0, 14.0], [10.0, 11.0]), // 5 and 1
            with(Hard, [10.0, 11.0], [10.0, 12.5]),    // 1 and 2.5
            with(Absent, [90.0, 90.0], [90.0, 90.0]),  // not visible
            outcome(Visible, None),                    // no heatmap
        ];
        let heatmap = Metrics::from_outcomes(&outcomes, &MetricOptions::default()).heatmap;
        assert_eq!((heatmap.frames, heatmap.argmax.mean_l2, heatmap.soft_argmax.mean_l2), (2, Some(3.0), Some(1.75)));
        assert_eq!(heatmap.argmax.pck, [Some(0.5), Some(0.5), Some(0.5), Some(1.0)]);
        assert_eq!(heatmap.soft_argmax.pck, [Some(0.5), Some(0.5), Some(1.0), Some(1.0)]);
    }

    #[test]
    fn the_worst_frames_come_first() {
        let outcomes = hand_case();
        let order: Vec<Option<f32>> =
            worst_first(&outcomes, &MetricOptions::default()).iter().map(|o| o.detection.map(|d| d.score)).collect();
        assert_eq!(order[..2], [Some(0.7), Some(0.6)]);
        assert_eq!(order[4..6], [Some(0.8), Some(0.9)]);
    }
}

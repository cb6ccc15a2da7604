//! From heatmaps to positions to scores. No tensors here: a heatmap is a slice of `f32`.
//!
//! | module | what lives there |
//! |---|---|
//! | [`calibration`] | the threshold that frames ask for |
//! | [`decode`] | a heatmap → [`Detection`], or several [`Candidate`]s |
//! | [`diagnosis`] | why nothing is found |
//! | [`metrics`] | detections and labels of many frames → [`Metrics`] |
//! | [`overlay`] | pictures of detections and heatmaps |
//! | [`report`] | metrics by game, as a table and as JSON |
//! | [`track`] | the candidates of successive frames → the trajectory of one ball |
//! | [`trail`] | the way of the ball and the ball near by, in moving pictures |

use std::sync::Arc;

use crate::datasets::{Label, SampleInfo};

pub mod calibration;
pub mod decode;
pub mod diagnosis;
pub mod metrics;
pub mod overlay;
pub mod report;
pub mod track;
pub mod trail;

pub use calibration::Calibration;
pub use decode::{Activation, Candidate, ComponentChoice, DecodeMethod, DecodeOptions, Detection, HeatmapPoints};
pub use diagnosis::Diagnosis;
pub use metrics::{MetricOptions, Metrics, Tolerance, VisibleSet};
pub use report::EvaluationReport;
pub use track::{TrackOptions, TrackSource, Tracked, Tracker};
pub use trail::Trail;

/// What one frame contributes to the metrics.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameOutcome {
    /// Name of the game.
    pub game: Arc<str>,
    /// Name of the clip.
    pub clip: Arc<str>,
    /// Name of the image file.
    pub file_name: String,
    /// The label, in native pixels.
    pub label: Label,
    /// Size of the original image as `[W, H]`.
    pub native_size: [usize; 2],
    /// The best detection in native pixels, decoded at a low threshold, so that metrics can raise it later.
    pub detection: Option<Detection>,
    /// Positions in heatmap pixels, for the metrics of the original program; `None` leaves this frame out of them.
    pub points: Option<HeatmapPoints>,
}

impl FrameOutcome {
    /// Decodes the heatmap `[Hh, Wh]` (after its activation) of a sample.
    ///
    /// # Errors
    /// A heatmap with a value that is not finite, or of another size than the sample's target, with the frame's name.
    pub fn from_heatmap(info: &SampleInfo, heatmap: &[f32], options: &DecodeOptions) -> Result<Self, EvaluationError> {
        let size = info.geometry.heatmap_size;
        let named =
            |cause: EvaluationError| EvaluationError::Frame { frame: info.frame.to_string(), cause: Box::new(cause) };
        let found = decode::decode(heatmap, size, options).map_err(named)?;
        let points = HeatmapPoints::of(heatmap, size, info.heatmap_xy()).map_err(named)?;
        Ok(Self {
            game: Arc::clone(&info.frame.game),
            clip: Arc::clone(&info.frame.clip),
            file_name: info.frame.frame.file_name.clone(),
            label: info.label,
            native_size: info.native_size,
            detection: found.map(|found| found.to_native(&info.geometry)),
            points: Some(points),
        })
    }

    /// From the label to the detection, in native pixels, where there are both.
    pub(crate) fn distance(&self) -> Option<f64> {
        let ([x, y], found) = self.label.xy.zip(self.detection)?;
        Some(f64::from(found.x - x).hypot(f64::from(found.y - y)))
    }
}

/// Why an evaluation was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// A heatmap holds NaN or an infinity.
    #[error(
        "heatmap value {value} at x = {x}, y = {y} is not finite; the model's weights or its input are damaged, or \
         training diverged"
    )]
    NotFinite {
        /// What was found.
        value: f32,
        /// Column.
        x: usize,
        /// Row.
        y: usize,
    },
    /// A heatmap has another number of values than its size says.
    #[error("heatmap has {found} values, expected {width}×{height}")]
    Size {
        /// Number of values.
        found: usize,
        /// Expected width.
        width: usize,
        /// Expected height.
        height: usize,
    },
    /// An option makes no sense.
    #[error("{name} = {found}: expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its value.
        found: String,
        /// What is expected.
        expected: &'static str,
    },
    /// The heatmap of a frame cannot be decoded.
    #[error("frame {frame}: {cause}")]
    Frame {
        /// `game/clip/file`.
        frame: String,
        /// What went wrong.
        cause: Box<EvaluationError>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datasets::{FrameRef, Geometry, Visibility};

    fn sample(flipped: bool) -> SampleInfo {
        let geometry = Geometry { flipped, ..Geometry::whole([1280, 720], [512, 288], [64, 36]) };
        let label = Label { visibility: Visibility::Visible, xy: Some([400.0, 200.0]) };
        let frame = FrameRef::unlabelled(std::path::Path::new("a/0001.jpg"));
        SampleInfo { frame, number: 0, heatmap: 0, label, native_size: [1280, 720], flipped, geometry }
    }

    #[test]
    fn an_outcome_is_in_native_pixels_even_for_a_mirrored_sample() {
        for flipped in [false, true] {
            let info = sample(flipped);
            let mut heatmap = vec![0.0; 64 * 36];
            crate::datasets::heatmap::render_target(&mut heatmap, [64, 36], info.heatmap_xy().unwrap(), 2.0);
            let outcome = FrameOutcome::from_heatmap(&info, &heatmap, &DecodeOptions::default()).unwrap();
            let found = outcome.detection.unwrap();
            // A hundredth of a heatmap pixel, which is 20 native pixels wide; the centroid of a sampled bell is off by less.
            assert!((found.x - 400.0).abs() < 2.0 && (found.y - 200.0).abs() < 2.0, "{found:?}");
            assert_eq!(outcome.points.unwrap().truth, info.heatmap_xy());
        }
    }

    #[test]
    fn a_damaged_heatmap_is_reported_with_the_frame() {
        let mut heatmap = vec![0.0; 64 * 36];
        heatmap[64 * 3 + 5] = f32::NAN;
        let error = FrameOutcome::from_heatmap(&sample(false), &heatmap, &DecodeOptions::default()).unwrap_err();
        assert!(
            error.to_string().starts_with("frame a/0001.jpg: heatmap value NaN at x = 5, y = 3 is not finite"),
            "{error}"
        );
    }
}

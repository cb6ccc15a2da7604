//! What batches look like: sizes, windows, normalization, targets and augmentation.

use super::DatasetError;
use super::image::Normalizer;
use super::window::FrameWindow;
use crate::config::{AbsentBall, AugmentConfig, Config, ExifOrientation, HeatmapFrames};

/// What a batch looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSpec {
    /// Size of the model's input as `[W, H]`.
    pub input_size: [usize; 2],
    /// Size of the heatmap as `[Wh, Hh]`.
    pub heatmap_size: [usize; 2],
    /// The frames that a sample holds.
    pub window: FrameWindow,
    /// Which of them have a heatmap.
    pub heatmap_frames: HeatmapFrames,
    /// Standard deviation of the target, in heatmap pixels.
    pub sigma: f32,
    /// Channel means, of values in 0..1.
    pub mean: [f32; 3],
    /// Channel standard deviations, of values in 0..1.
    pub std: [f32; 3],
    /// Whether mean and deviation are used; otherwise pixels are in 0..1.
    pub normalize: bool,
    /// What a frame without a ball teaches.
    pub absent_ball: AbsentBall,
    /// Whether the labels are those of the upright pictures.
    pub exif_orientation: ExifOrientation,
    /// Probability of a horizontal flip, when [`LoaderOptions::augment`](super::LoaderOptions::augment) is set.
    pub flip_prob: f32,
    /// Further augmentations, when [`LoaderOptions::augment`](super::LoaderOptions::augment) is set.
    pub augment: AugmentConfig,
}

impl Default for BatchSpec {
    /// 512×288 in, 256×144 out, σ = 2, ImageNet's mean and deviation, no augmentation.
    fn default() -> Self {
        Self {
            input_size: [512, 288],
            heatmap_size: [256, 144],
            window: FrameWindow::SINGLE,
            heatmap_frames: HeatmapFrames::Last,
            sigma: 2.0,
            mean: [0.485, 0.456, 0.406],
            std: [0.229, 0.224, 0.225],
            normalize: true,
            absent_ball: AbsentBall::Mask,
            exif_orientation: ExifOrientation::Apply,
            flip_prob: 0.0,
            augment: AugmentConfig::default(),
        }
    }
}

impl BatchSpec {
    /// What the batches of this configuration look like; `normalization` is mean and deviation of each channel, of values
    /// in 0..1.
    pub fn new(config: &Config, (mean, std): ([f32; 3], [f32; 3])) -> Self {
        Self {
            input_size: config.data.preprocess.resize,
            heatmap_size: config.model.heatmap.size,
            window: FrameWindow { length: config.data.sequence.frames(), stride: config.data.sequence.stride },
            heatmap_frames: config.model.heatmap.frames,
            sigma: config.model.heatmap.sigma,
            mean,
            std,
            normalize: config.data.preprocess.normalize,
            absent_ball: config.data.absent_ball,
            exif_orientation: config.data.exif_orientation,
            flip_prob: config.data.preprocess.flip_prob,
            augment: config.data.augment.clone(),
        }
    }

    /// Heatmaps of a window.
    pub fn heatmaps(&self) -> usize {
        self.heatmap_frames.of(self.window.length)
    }

    /// The normalizer of this specification.
    pub fn normalizer(&self) -> Normalizer {
        Normalizer::new(self.normalize.then_some((self.mean, self.std)))
    }

    /// # Errors
    /// The first value that makes no sense, with its key.
    pub(super) fn validate(&self) -> Result<(), DatasetError> {
        let check = |good: bool, key, found: String, expected| {
            if good { Ok(()) } else { Err(DatasetError::Spec { key, found, expected }) }
        };
        let sizes = |size: [usize; 2]| size.iter().all(|n| (1..=1 << 14).contains(n));
        let expected_size = "two numbers of pixels from 1 to 16384, [W, H]";
        check(sizes(self.input_size), "data.preprocess.resize", format!("{:?}", self.input_size), expected_size)?;
        check(sizes(self.heatmap_size), "model.heatmap.size", format!("{:?}", self.heatmap_size), expected_size)?;
        let FrameWindow { length, stride } = self.window;
        for (key, value) in [("data.sequence.length", length), ("data.sequence.stride", stride)] {
            check((1..=16).contains(&value), key, value.to_string(), "a number of frames from 1 to 16")?;
        }
        let sigma_ok = self.sigma.is_finite() && self.sigma > 0.0;
        check(sigma_ok, "model.heatmap.sigma", self.sigma.to_string(), "a positive number of heatmap pixels")?;
        let std_ok = self.mean.iter().all(|v| v.is_finite()) && self.std.iter().all(|v| v.is_finite() && *v > 0.0);
        check(
            std_ok,
            "image std",
            format!("{:?} (mean {:?})", self.std, self.mean),
            "finite means, positive deviations",
        )
    }
}

//! The `data` section: where the frames are, how they are split, resized and augmented.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The `data` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Dataset root: `<root>/<game>/<clip>/…`.
    pub root: PathBuf,
    /// Label format.
    pub format: DataFormat,
    /// Which games train, validate and test.
    pub split: SplitConfig,
    /// Resize, normalization and the flip.
    pub preprocess: PreprocessConfig,
    /// Opt-in augmentations of training frames.
    pub augment: AugmentConfig,
    /// Windows of several frames.
    pub sequence: SequenceConfig,
    /// What a frame without a ball teaches.
    pub absent_ball: AbsentBall,
    /// Whether the labels are those of the upright pictures.
    pub exif_orientation: ExifOrientation,
    /// What becomes of a frame that cannot be read.
    pub on_bad_frame: OnBadFrame,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self {
            root: PathBuf::from("data/tracknet"),
            format: DataFormat::Auto,
            split: SplitConfig::default(),
            preprocess: PreprocessConfig::default(),
            augment: AugmentConfig::default(),
            sequence: SequenceConfig::default(),
            absent_ball: AbsentBall::Mask,
            exif_orientation: ExifOrientation::Apply,
            on_bad_frame: OnBadFrame::Skip,
        }
    }
}

/// How labels are stored on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DataFormat {
    /// Found by looking at the root.
    Auto,
    /// Tennis: `<game>/<clip>/Label.csv` beside the frames.
    Tracknet,
}

/// Directory names of the games in each split.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// Games to train on.
    pub train_games: Vec<String>,
    /// Games to validate on.
    pub val_games: Vec<String>,
    /// Games held out for the test; `null` or an empty list when there are none.
    #[serde(deserialize_with = "null_is_empty")]
    pub test_games: Vec<String>,
}

impl Default for SplitConfig {
    fn default() -> Self {
        Self {
            train_games: (1..=9).map(|i| format!("game{i}")).collect(),
            val_games: vec!["game10".to_owned()],
            test_games: Vec::new(),
        }
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(d)?.unwrap_or_default())
}

/// From a decoded frame to the model's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Input size as `[W, H]` in pixels.
    pub resize: [usize; 2],
    /// Subtract the mean and divide by the deviation (ImageNet's, or the checkpoint's).
    pub normalize: bool,
    /// Probability of a horizontal flip; training only, one draw per window.
    pub flip_prob: f32,
}

impl Default for PreprocessConfig {
    fn default() -> Self {
        Self { resize: [512, 288], normalize: true, flip_prob: 0.0 }
    }
}

/// Augmentations of training frames; all off by default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Probability of a brightness/contrast/saturation/hue jitter.
    pub color_jitter_prob: f32,
    /// Strength of the jitter, 0..1.
    pub color_jitter: f32,
    /// Probability of a Gaussian blur.
    pub blur_prob: f32,
    /// Probability of additive Gaussian noise.
    pub noise_prob: f32,
    /// Standard deviation of the noise, in 8-bit grey levels.
    pub noise_std: f32,
    /// Probability of a JPEG re-encoding.
    pub jpeg_prob: f32,
    /// JPEG quality range `[low, high]`, 1..100.
    pub jpeg_quality: [u8; 2],
    /// Probability of a random zoom-and-shift crop.
    pub zoom_prob: f32,
    /// Largest zoom factor of the crop, ≥ 1.
    pub zoom_max: f32,
}

impl Default for AugmentConfig {
    fn default() -> Self {
        Self {
            color_jitter_prob: 0.0,
            color_jitter: 0.3,
            blur_prob: 0.0,
            noise_prob: 0.0,
            noise_std: 6.0,
            jpeg_prob: 0.0,
            jpeg_quality: [40, 90],
            zoom_prob: 0.0,
            zoom_max: 1.5,
        }
    }
}

/// Windows of `length` frames `stride` apart, never across clips.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceConfig {
    /// Whether windows are read instead of single frames.
    pub enabled: bool,
    /// Frames in a window.
    pub length: usize,
    /// Distance of the frames in a window.
    pub stride: usize,
}

impl Default for SequenceConfig {
    fn default() -> Self {
        Self { enabled: false, length: 1, stride: 1 }
    }
}

/// What a visibility-0 frame teaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AbsentBall {
    /// Nothing: its mask is zero.
    Mask,
    /// An all-zero target.
    Negative,
}

/// What the EXIF orientation of a picture does: the labels of a data set refer either to the upright pictures or to the
/// pixels as they are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExifOrientation {
    /// Pictures are turned upright, as viewers, labelling tools and OpenCV show them.
    #[default]
    Apply,
    /// Pixels are read as they are stored.
    Ignore,
}

/// What becomes of a frame whose picture cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnBadFrame {
    /// It is left out of its batch, named once and counted.
    #[default]
    Skip,
    /// It ends the run.
    Error,
}

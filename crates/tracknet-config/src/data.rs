//! The `data` section: where the frames are, how they are split, resized and augmented.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracknet_config_derive::{Section, Words};

use super::key::Key;
use super::kind::{PIXELS, PROBABILITY};

/// The `data` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// Dataset root, such as `<root>/<game>/<clip>/…`.
    #[config(default = "data/tracknet")]
    pub root: PathBuf,
    /// Layout of the data set: `tracknet` (tennis, `Label.csv` beside the frames), those of other programs, or `auto` = by
    /// looking.
    #[config(default = DataFormat::Auto)]
    pub format: DataFormat,
    /// The class that is the ball where labels are boxes of several classes (`yolo`, `coco`): its name or number; null = the
    /// one that is called ball, tennis ball, shuttlecock and the like.
    pub ball_class: Option<String>,
    /// What the labels mark of a moving ball: the centre of its streak (`center`), which is what models are trained and
    /// measured on, or where it is when the exposure ends (`leading`), which is converted.
    #[config(default = LabelPoint::Center)]
    pub label_point: LabelPoint,
    /// Share of a frame's time in which the shutter is open, for the conversion of leading labels; `data check` measures it.
    #[config(default = 0.35, range = PROBABILITY)]
    pub shutter: f32,
    /// Which games train, validate and test.
    #[config(section)]
    pub split: SplitConfig,
    /// Resize, normalization and the flip.
    #[config(section)]
    pub preprocess: PreprocessConfig,
    /// Augmentations of training frames; all off by default.
    #[config(section)]
    pub augment: AugmentConfig,
    /// Windows of several frames.
    #[config(section)]
    pub sequence: SequenceConfig,
    /// What a frame without a ball teaches: `mask` = nothing, `negative` = an all-zero target.
    #[config(default = AbsentBall::Mask)]
    pub absent_ball: AbsentBall,
    /// Which pixels the labels refer to: those of the pictures turned upright by their EXIF orientation (`apply`), or as
    /// they are stored (`ignore`).
    #[config(default = ExifOrientation::Apply)]
    pub exif_orientation: ExifOrientation,
    /// What becomes of a frame that cannot be read: `skip` = left out of its batch, named once and counted, `error` = it
    /// ends the run.
    #[config(default = OnBadFrame::Skip)]
    pub on_bad_frame: OnBadFrame,
}

/// How labels and frames are stored on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Words)]
#[word(unavailable = ["frames"])]
pub enum DataFormat {
    /// Found by looking at the root.
    #[default]
    Auto,
    /// Tennis: `<game>/<clip>/Label.csv` beside the frames.
    Tracknet,
    /// Boxes of YOLO: `images/`, `labels/*.txt` and `data.yaml`.
    Yolo,
    /// Boxes of COCO: an annotations JSON and the pictures.
    Coco,
    /// TrackNetV2 and TrackNetV3: `<match>/csv/<rally>_ball.csv` with `<match>/frame/<rally>` or `<match>/video/<rally>.mp4`.
    Badminton,
    /// GridTrackNet: `<match>/Labels.csv` and `<match>/frames`.
    #[word(name = "gridtracknet")]
    GridTrackNet,
    /// Positions as fractions of the frame: `<match>/labels/<rally>.csv` with `<match>/images/<rally>`.
    #[word(aliases = ["normalised"])]
    Normalized,
    /// What `tracknet predict` writes, `<name>.csv`, beside the folder `<name>` or the video that it is of.
    Predictions,
}

/// What a label marks of a ball that moves while the shutter is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Words)]
pub enum LabelPoint {
    /// The centre of the streak.
    #[default]
    #[word(aliases = ["centre"])]
    Center,
    /// The place of the ball when the exposure ends.
    Leading,
}

/// Directory names of the games in each split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct SplitConfig {
    /// Games to train on, as directory names, or as a range of names: `game1..game9`; one that is missing is an error.
    #[config(default = (1..=9).map(|i| format!("game{i}")).collect())]
    pub train_games: Vec<String>,
    /// Games to validate on.
    #[config(default = vec!["game10".to_owned()], null_is_default)]
    pub val_games: Vec<String>,
    /// Without validation games: the share of the labelled frames of the training games that is kept for validation instead,
    /// whole clips of them; of a single clip its end.
    #[config(default = 0.0, range = PROBABILITY)]
    pub val_share: f32,
    /// Games held out for the test.
    #[config(null_is_default)]
    pub test_games: Vec<String>,
}

/// From a decoded frame to the model's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct PreprocessConfig {
    /// Input size `[W, H]` in pixels; multiples of the backbone's patch size.
    #[config(default = [512, 288], range = PIXELS)]
    pub resize: [usize; 2],
    /// Subtract the mean, divide by the deviation (ImageNet's or the checkpoint's).
    #[config(default = true)]
    pub normalize: bool,
    /// Probability of a horizontal flip, in training only.
    #[config(default = 0.0, range = PROBABILITY)]
    pub flip_prob: f32,
}

/// Augmentations of training frames; all off by default.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[config(fieldless = mixup)]
#[serde(default, deny_unknown_fields)]
pub struct AugmentConfig {
    /// Probability of a brightness, contrast, saturation and hue jitter.
    #[config(default = 0.0, range = PROBABILITY)]
    pub color_jitter_prob: f32,
    /// Strength of the jitter.
    #[config(default = 0.3, range = PROBABILITY)]
    pub color_jitter: f32,
    /// Probability of a Gaussian blur.
    #[config(default = 0.0, range = PROBABILITY)]
    pub blur_prob: f32,
    /// Probability of additive Gaussian noise.
    #[config(default = 0.0, range = PROBABILITY)]
    pub noise_prob: f32,
    /// Standard deviation of the noise, in 8-bit grey levels.
    #[config(default = 6.0, range = 0.0..=255.0)]
    pub noise_std: f32,
    /// Probability of a JPEG re-encoding.
    #[config(default = 0.0, range = PROBABILITY)]
    pub jpeg_prob: f32,
    /// JPEG quality, `[low, high]`.
    #[config(default = [40, 90], range = 1..=100)]
    pub jpeg_quality: [u8; 2],
    /// Probability of a random zoom-and-shift crop.
    #[config(default = 0.0, range = PROBABILITY)]
    pub zoom_prob: f32,
    /// Largest zoom factor of the crop.
    #[config(default = 1.5, range = 1.0..=100.0)]
    pub zoom_max: f32,
    /// Probability of a window that stands still, with its last frame in every place: what a model of windows sees of a single
    /// picture, of a repeated frame and at the beginning of a clip.
    #[config(default = 0.0, range = PROBABILITY)]
    pub still_prob: f32,
}

fn mixup() -> Vec<Key> {
    vec![Key::unavailable("mixup")]
}

/// Windows of `length` frames `stride` apart, which end with the frame that is searched for the ball; never across clips.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct SequenceConfig {
    /// Read windows of several frames instead of single ones; `model.temporal` says how the model sees them.
    pub enabled: bool,
    /// Frames in a window; the last one is searched for the ball, or each (`model.heatmap.frames`).
    #[config(default = 1, range = 1..=16)]
    pub length: usize,
    /// Distance of the frames in a window; repeated frames do not count.
    #[config(default = 1, range = 1..=16)]
    pub stride: usize,
}

impl SequenceConfig {
    /// Frames of a window: 1 when windows are off.
    pub fn frames(&self) -> usize {
        if self.enabled { self.length } else { 1 }
    }
}

/// What a visibility-0 frame teaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum AbsentBall {
    /// Nothing: its mask is zero.
    Mask,
    /// An all-zero target.
    Negative,
}

/// What the EXIF orientation of a picture does: the labels of a data set refer either to the upright pictures or to the
/// pixels as they are stored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Words)]
pub enum ExifOrientation {
    /// Pictures are turned upright, as viewers, labelling tools and OpenCV show them.
    #[default]
    Apply,
    /// Pixels are read as they are stored.
    Ignore,
}

/// What becomes of a frame whose picture cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Words)]
pub enum OnBadFrame {
    /// It is left out of its batch, named once and counted.
    #[default]
    Skip,
    /// It ends the run.
    Error,
}

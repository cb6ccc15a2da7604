//! One frame → one training sample: decode (or take from the cache), crop, resize, flip, augment, normalize, target.
//!
//! A sample is a pure function of `(seed, epoch, index)`: every random draw comes from the stream of that key.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::RgbImage;

use super::augment::{Plan, change_pixels};
use super::bad::Met;
use super::heatmap::{Geometry, render_target};
use super::image::{Normalizer, decode_then, resize};
use super::{DatasetError, FrameRef, Label, Visibility};
use crate::config::{AbsentBall, AugmentConfig, Config, ExifOrientation};
use tracknet_random::Stream;

/// What a batch looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchSpec {
    /// Size of the model's input as `[W, H]`.
    pub input_size: [usize; 2],
    /// Size of the heatmap as `[Wh, Hh]`.
    pub heatmap_size: [usize; 2],
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

/// Which frame a sample is, and how it was made.
#[derive(Debug, Clone, PartialEq)]
pub struct SampleInfo {
    /// The frame.
    pub frame: FrameRef,
    /// Its label in native pixels; the position is `None` also when it turned out to be outside the image.
    pub label: Label,
    /// Size of the original image as `[W, H]`.
    pub native_size: [usize; 2],
    /// Whether the sample was mirrored.
    pub flipped: bool,
    /// The way between native and heatmap pixels, through crop, resize and flip.
    pub geometry: Geometry,
}

impl SampleInfo {
    /// The ball on the heatmap, in its pixels.
    pub fn heatmap_xy(&self) -> Option<[f32; 2]> {
        self.label.xy.map(|xy| self.geometry.to_heatmap(xy))
    }
}

/// First part of the key of a sample's stream.
const SAMPLE_STREAM: u64 = 1;

/// One sample, ready to be copied into a batch.
pub(super) struct Sample {
    pub(super) image: Vec<f32>,
    pub(super) target: Vec<f32>,
    pub(super) mask: f32,
    pub(super) info: SampleInfo,
}

/// Everything that is the same for all epochs.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) frames: Vec<FrameRef>,
    pub(super) spec: BatchSpec,
    pub(super) normalizer: Normalizer,
    pub(super) cache: Cache,
    pub(super) seed: u64,
    pub(super) augment: bool,
    pub(super) bad: Met,
}

impl Source {
    /// Makes the sample of a frame in an epoch; errors name frame, label file and line.
    pub(super) fn sample(&self, index: usize, epoch: u64) -> Result<Sample, DatasetError> {
        let frame = &self.frames[index];
        self.make(frame, index, epoch).map_err(|cause| DatasetError::Sample {
            frame: frame.to_string(),
            label_file: frame.label_file.to_path_buf(),
            line: frame.frame.line,
            cause: Box::new(cause),
        })
    }

    fn make(&self, frame: &FrameRef, index: usize, epoch: u64) -> Result<Sample, DatasetError> {
        let spec = &self.spec;
        let failure = |reason| DatasetError::Image { path: frame.frame.path.clone(), reason };
        let mut stream = Stream::keyed(&[SAMPLE_STREAM, self.seed, epoch, index as u64]);
        let plan = self.augment.then(|| Plan::draw(&mut stream, spec.flip_prob, &spec.augment));
        let (mut picture, native_size, crop) = self.picture(frame, index, plan.as_ref())?;
        let mut geometry = Geometry::whole(native_size, spec.input_size, spec.heatmap_size);
        geometry.crop = crop.unwrap_or(geometry.crop);
        if let Some(plan) = plan {
            if plan.flip {
                image::imageops::flip_horizontal_in_place(&mut picture);
                geometry.flipped = true;
            }
            picture = change_pixels(picture, &mut stream, &spec.augment).map_err(failure)?;
        }
        let xy = frame.frame.label.xy.filter(|xy| geometry.contains(*xy));
        let label = Label { xy, ..frame.frame.label };
        let mut target = vec![0.0; spec.heatmap_size[0] * spec.heatmap_size[1]];
        if let Some(xy) = xy {
            render_target(&mut target, spec.heatmap_size, geometry.to_heatmap(xy), spec.sigma);
        }
        let teaches = match label.visibility {
            Visibility::Absent => spec.absent_ball == AbsentBall::Negative,
            // A visible ball at an unknown place teaches nothing, least of all that there is none.
            _ => xy.is_some(),
        };
        let info = SampleInfo { frame: frame.clone(), label, native_size, flipped: geometry.flipped, geometry };
        Ok(Sample { image: self.normalizer.apply(&picture), target, mask: if teaches { 1.0 } else { 0.0 }, info })
    }

    /// The resized frame, its native size, and the window it was cut from. A zoomed sample is cut from the original
    /// image (it keeps its detail), so it goes past the cache.
    #[allow(clippy::type_complexity)]
    fn picture(
        &self,
        frame: &FrameRef,
        index: usize,
        plan: Option<&Plan>,
    ) -> Result<(RgbImage, [usize; 2], Option<[f64; 4]>), DatasetError> {
        let zoomed = plan.is_some_and(|plan| plan.zoom.is_some());
        if let (false, Some((picture, native_size))) = (zoomed, self.cache.get(index)) {
            return Ok((picture, native_size, None));
        }
        let path = &frame.frame.path;
        let (picture, native_size, crop) = decode_then(path, self.spec.exif_orientation, |original| {
            let native_size = [original.width() as usize, original.height() as usize];
            let crop = plan.and_then(|plan| {
                let whole = Geometry::whole(native_size, self.spec.input_size, self.spec.heatmap_size);
                plan.window(native_size, frame.frame.label.xy.filter(|xy| whole.contains(*xy)))
            });
            let picture = resize(&original, crop, self.spec.input_size)
                .map_err(|reason| DatasetError::Image { path: path.clone(), reason })?;
            Ok::<_, DatasetError>((picture, native_size, crop))
        })??;
        if crop.is_none() {
            self.cache.put(index, &picture, native_size);
        }
        Ok((picture, native_size, crop))
    }
}

/// A resized frame and its native size.
type CachedFrame = (RgbImage, [usize; 2]);

/// Resized frames by index, filled until the budget is spent.
#[derive(Debug)]
pub(super) struct Cache {
    slots: Vec<OnceLock<CachedFrame>>,
    budget: usize,
    used: AtomicUsize,
}

impl Cache {
    pub(super) fn new(frames: usize, budget: usize) -> Self {
        let slots = if budget == 0 { Vec::new() } else { (0..frames).map(|_| OnceLock::new()).collect() };
        Self { slots, budget, used: AtomicUsize::new(0) }
    }

    pub(super) fn get(&self, index: usize) -> Option<CachedFrame> {
        self.slots.get(index)?.get().cloned()
    }

    fn put(&self, index: usize, picture: &RgbImage, native_size: [usize; 2]) {
        let Some(slot) = self.slots.get(index) else { return };
        let bytes = picture.as_raw().len();
        let reserved = self.used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if reserved > self.budget || slot.set((picture.clone(), native_size)).is_err() {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

//! One frame, with its window → one training sample: decode (or take from the cache), crop, resize, flip, augment,
//! normalize, target.
//!
//! A sample is a pure function of `(seed, epoch, index)`: every random draw comes from the stream of that key. It is drawn for
//! the last frame of the window and done to all of them; only the noise of a frame is its own.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use image::RgbImage;

use super::augment::{PixelPlan, Plan, change_pixels};
use super::bad::Met;
use super::batcher::LoaderOptions;
use super::cache::Cache;
use super::heatmap::{Geometry, render_target};
use super::image::{Normalizer, decode_then, resize};
use super::window::{self, FrameWindow};
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
    /// The frames that a sample holds.
    pub window: FrameWindow,
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
/// First part of the key of the stream of an earlier frame's noise.
const NOISE_STREAM: u64 = 2;

/// Of how many windows the decoded frames are remembered, whatever the cache has room for: windows of one clip share them.
const RECENT_WINDOWS: usize = 8;
/// The most frames that are remembered for that.
const MOST_RECENT: usize = 64;

/// A file that cannot be read, by its number, and why.
type Unread = (usize, DatasetError);

/// What is done to every frame of a window.
struct Same {
    /// The part that is cut out, and the native size that it refers to.
    crop: Option<([f64; 4], [usize; 2])>,
    flip: bool,
    pixels: PixelPlan,
}

/// One sample, ready to be copied into a batch.
pub(super) struct Sample {
    /// `[3 · frames, H, W]`.
    pub(super) image: Vec<f32>,
    pub(super) target: Vec<f32>,
    pub(super) mask: f32,
    pub(super) info: SampleInfo,
    /// Earlier frames of the window that could not be read.
    pub(super) unread: Vec<Unread>,
}

/// Everything that is the same for all epochs.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) frames: Vec<FrameRef>,
    /// The number of each frame's file, by which it is cached.
    pub(super) files: Vec<usize>,
    /// Whether a file shows what the one after it in its clip shows.
    repeats: Vec<OnceLock<bool>>,
    pub(super) spec: BatchSpec,
    pub(super) normalizer: Normalizer,
    pub(super) cache: Cache,
    pub(super) seed: u64,
    pub(super) augment: bool,
    pub(super) bad: Met,
}

impl Source {
    pub(super) fn new(frames: Vec<FrameRef>, spec: BatchSpec, options: &LoaderOptions) -> Self {
        let (files, count) = match spec.window.length {
            1 => ((0..frames.len()).collect(), frames.len()),
            _ => files_of(&frames),
        };
        let (repeats, most_recent) = match spec.window.length {
            1 => (Vec::new(), 0),
            _ => ((0..count).map(|_| OnceLock::new()).collect(), RECENT_WINDOWS * (1 + spec.window.reach())),
        };
        Self {
            files,
            repeats,
            normalizer: spec.normalizer(),
            cache: Cache::new(count, options.cache_bytes, most_recent.min(MOST_RECENT)),
            seed: options.shuffle_seed.unwrap_or(0),
            augment: options.augment,
            bad: Met::default(),
            frames,
            spec,
        }
    }

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
        let path = &frame.frame.path;
        let failure = |reason| DatasetError::Image { path: path.clone(), reason };
        let key = [SAMPLE_STREAM, self.seed, epoch, index as u64];
        let mut stream = Stream::keyed(&key);
        let plan = self.augment.then(|| Plan::draw(&mut stream, spec.flip_prob, &spec.augment));
        let whole = |native_size| Geometry::whole(native_size, spec.input_size, spec.heatmap_size);
        let zoom = |native_size| {
            let ball = frame.frame.label.xy.filter(|xy| whole(native_size).contains(*xy));
            plan.as_ref().and_then(|plan| plan.window(native_size, ball))
        };
        let zoomed = plan.as_ref().is_some_and(|plan| plan.zoom.is_some());
        let (mut picture, native_size, crop) = self.picture(path, self.files[index], zoomed.then_some(&zoom))?;
        let mut geometry = whole(native_size);
        geometry.crop = crop.unwrap_or(geometry.crop);
        let mut pixels = PixelPlan::default();
        if let Some(plan) = plan {
            if plan.flip {
                image::imageops::flip_horizontal_in_place(&mut picture);
                geometry.flipped = true;
            }
            (picture, pixels) = change_pixels(picture, &mut stream, &spec.augment).map_err(failure)?;
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
        let current = self.normalizer.apply(&picture);
        let same = Same { crop: crop.map(|crop| (crop, native_size)), flip: geometry.flipped, pixels };
        let (image, unread) = match spec.window.length {
            1 => (current, Vec::new()),
            _ => self.window(frame, index, current, &same, key),
        };
        Ok(Sample { image, target, mask: if teaches { 1.0 } else { 0.0 }, info, unread })
    }

    /// The planes of the window that ends with `current`, the planes of its last frame, and the files of it that cannot be
    /// read: for each of those the frame after it stands in.
    fn window(
        &self,
        frame: &FrameRef,
        index: usize,
        current: Vec<f32>,
        same: &Same,
        key: [u64; 4],
    ) -> (Vec<f32>, Vec<Unread>) {
        let first = self.files[index] - frame.place;
        let mut places = self.spec.window.places(frame.place, |place| self.is_repeated(frame, first, place));
        places.reverse();
        let mut unread = Vec::new();
        let mut planes = vec![current];
        for (back, pair) in places.windows(2).enumerate() {
            let [later, place] = [pair[0], pair[1]];
            let mut noise = Stream::keyed(&[NOISE_STREAM, key[1], key[2], key[3], back as u64]);
            let repeated = || planes.last().cloned().unwrap_or_default();
            let plane = match place == later {
                true => repeated(),
                false => self.earlier(&frame.files[place], first + place, same, &mut noise).unwrap_or_else(|error| {
                    unread.push((first + place, error));
                    repeated()
                }),
            };
            planes.push(plane);
        }
        planes.reverse();
        (planes.concat(), unread)
    }

    /// The planes of an earlier frame of a window, changed as its last frame was.
    fn earlier(&self, path: &Path, file: usize, same: &Same, noise: &mut Stream) -> Result<Vec<f32>, DatasetError> {
        let zoom = |size: [usize; 2]| {
            same.crop.map(|(crop, of)| {
                // The same part of the picture, should its size be another one.
                let scale = [0, 1].map(|axis| size[axis] as f64 / of[axis] as f64);
                [0, 1, 2, 3].map(|i| if size == of { crop[i] } else { crop[i] * scale[i % 2] })
            })
        };
        let (mut picture, ..) = self.picture(path, file, same.crop.is_some().then_some(&zoom))?;
        if same.flip {
            image::imageops::flip_horizontal_in_place(&mut picture);
        }
        let changed = same.pixels.apply(picture, noise);
        let picture = changed.map_err(|reason| DatasetError::Image { path: path.to_path_buf(), reason })?;
        Ok(self.normalizer.apply(&picture))
    }

    /// Whether the frame at a place of the clip shows what the one after it shows. Frames that cannot be read do not.
    fn is_repeated(&self, frame: &FrameRef, first: usize, place: usize) -> bool {
        *self.repeats[first + place].get_or_init(|| {
            let read = |place: usize| self.picture(&frame.files[place], first + place, None);
            matches!((read(place), read(place + 1)), (Ok((a, ..)), Ok((b, ..))) if window::is_repeated(&a, &b))
        })
    }

    /// The resized frame, its native size, and the part it was cut from, which `zoom` gives for a native size. A zoomed
    /// sample is cut from the original image (it keeps its detail), so it goes past the cache.
    #[allow(clippy::type_complexity)]
    fn picture(
        &self,
        path: &Path,
        file: usize,
        zoom: Option<&dyn Fn([usize; 2]) -> Option<[f64; 4]>>,
    ) -> Result<(RgbImage, [usize; 2], Option<[f64; 4]>), DatasetError> {
        if let (None, Some((picture, native_size))) = (zoom, self.cache.get(file)) {
            return Ok((picture, native_size, None));
        }
        let (picture, native_size, crop) = decode_then(path, self.spec.exif_orientation, |original| {
            let native_size = [original.width() as usize, original.height() as usize];
            let crop = zoom.and_then(|zoom| zoom(native_size));
            let picture = resize(&original, crop, self.spec.input_size)
                .map_err(|reason| DatasetError::Image { path: path.to_path_buf(), reason })?;
            Ok::<_, DatasetError>((picture, native_size, crop))
        })??;
        if crop.is_none() {
            self.cache.put(file, &picture, native_size);
        }
        Ok((picture, native_size, crop))
    }
}

/// For each frame the number of its file among those of all clips, and how many those are.
fn files_of(frames: &[FrameRef]) -> (Vec<usize>, usize) {
    let mut first_of_clip = HashMap::new();
    let mut count = 0;
    let files = frames.iter().map(|frame| {
        let first = *first_of_clip.entry(Arc::as_ptr(&frame.files)).or_insert(count);
        if first == count {
            count += frame.files.len();
        }
        first + frame.place
    });
    (files.collect(), count)
}

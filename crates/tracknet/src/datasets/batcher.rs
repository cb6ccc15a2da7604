//! Batches for training and evaluation: worker threads decode ahead, in the order of the sampler, in bounded memory.
//!
//! The order of an epoch and every random draw of a sample are functions of `(seed, epoch, index)` alone, so the
//! batches are the same for any number of workers and with or without the frame cache. At most
//! `prefetch` batches beyond the one being assembled are held; dropping the iterator stops the workers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;

use image::RgbImage;

use super::augment::{Plan, change_pixels};
use super::heatmap::{Geometry, render_target};
use super::image::{Normalizer, decode, resize};
use super::random::{Stream, permutation};
use super::{DatasetError, FrameRef, Label, Visibility};
use crate::config::{AbsentBall, AugmentConfig};
use crate::error::Result;

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
    /// Probability of a horizontal flip, when [`LoaderOptions::augment`] is set.
    pub flip_prob: f32,
    /// Further augmentations, when [`LoaderOptions::augment`] is set.
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
            flip_prob: 0.0,
            augment: AugmentConfig::default(),
        }
    }
}

impl BatchSpec {
    /// The normalizer of this specification.
    pub fn normalizer(&self) -> Normalizer {
        Normalizer::new(self.normalize.then_some((self.mean, self.std)))
    }

    /// # Errors
    /// The first value that makes no sense, with its key.
    fn validate(&self) -> Result<(), DatasetError> {
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

/// How batches are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Decode threads; 0 decodes on the caller's thread.
    pub workers: usize,
    /// Batches decoded ahead of the one being assembled.
    pub prefetch: usize,
    /// Leave out a last batch that is not full.
    pub drop_last: bool,
    /// Shuffle with this seed; `None` keeps the order (and augments with seed 0).
    pub shuffle_seed: Option<u64>,
    /// Flip and augment; for training only.
    pub augment: bool,
    /// At most this many batches an epoch; 0 = all.
    pub limit: usize,
    /// Keep decoded and resized frames up to this many bytes (a 512×288 frame is 442 KB), so that epochs after the
    /// first need not decode them again; 0 = none. It is filled until it is full, and nothing is thrown out: in an
    /// order that visits every frame once an epoch, that is the policy with the most hits.
    pub cache_bytes: usize,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            prefetch: 2,
            drop_last: false,
            shuffle_seed: None,
            augment: false,
            limit: 0,
            cache_bytes: 1 << 30,
        }
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

/// Samples that go through the model together; rows are contiguous, the last axis is x.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of samples.
    pub size: usize,
    /// Input `[B, 3, H, W]`, normalized.
    pub images: Vec<f32>,
    /// Target `[B, 1, Hh, Wh]`.
    pub targets: Vec<f32>,
    /// Mask `[B, 1, Hh, Wh]`: 1 where the loss counts.
    pub masks: Vec<f32>,
    /// One entry a sample.
    pub samples: Vec<SampleInfo>,
}

/// Reads batches of a list of frames, epoch by epoch.
#[derive(Debug, Clone)]
pub struct BatchLoader {
    source: Arc<Source>,
    batch_size: usize,
    options: LoaderOptions,
}

impl BatchLoader {
    /// A loader of `frames`; nothing is read yet.
    ///
    /// # Errors
    /// A specification or batch size that makes no sense, with the key.
    pub fn new(frames: Vec<FrameRef>, spec: BatchSpec, batch_size: usize, options: LoaderOptions) -> Result<Self> {
        spec.validate()?;
        if batch_size == 0 {
            let (key, found) = ("training.batch_size", "0".to_owned());
            return Err(DatasetError::Spec { key, found, expected: "at least one frame" }.into());
        }
        let normalizer = spec.normalizer();
        let cache = Cache::new(frames.len(), options.cache_bytes);
        let source = Source {
            frames,
            spec,
            normalizer,
            cache,
            seed: options.shuffle_seed.unwrap_or(0),
            augment: options.augment,
        };
        Ok(Self { source: Arc::new(source), batch_size, options })
    }

    /// The frames, in the order in which they were given.
    pub fn frames(&self) -> &[FrameRef] {
        &self.source.frames
    }

    /// What the batches look like.
    pub fn spec(&self) -> &BatchSpec {
        &self.source.spec
    }

    /// Batches of one epoch, after `drop_last` and `limit`.
    pub fn batches(&self) -> usize {
        let frames = self.source.frames.len();
        let all = if self.options.drop_last { frames / self.batch_size } else { frames.div_ceil(self.batch_size) };
        if self.options.limit == 0 { all } else { all.min(self.options.limit) }
    }

    /// Frames of one epoch, after `drop_last` and `limit`.
    pub fn samples(&self) -> usize {
        self.source.frames.len().min(self.batches() * self.batch_size)
    }

    /// The batches of an epoch. The iterator ends after the first error, which names the frame.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        self.epoch_from(epoch, 0)
    }

    /// The batches of an epoch without the first `skip`, which are not decoded: for a run that resumes.
    pub fn epoch_from(&self, epoch: u64, skip: usize) -> Epoch {
        let mut order: Vec<usize> = match self.options.shuffle_seed {
            Some(seed) => permutation(self.source.frames.len(), &[ORDER_STREAM, seed, epoch]),
            None => (0..self.source.frames.len()).collect(),
        };
        order.truncate(self.samples());
        order.drain(..skip.saturating_mul(self.batch_size).min(order.len()));
        let window = self.batch_size.saturating_mul(self.options.prefetch.saturating_add(1));
        let queue = Arc::new(Queue {
            order,
            epoch,
            window,
            source: Arc::clone(&self.source),
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
        });
        let workers = self.options.workers.min(queue.order.len());
        Epoch { queue, batch_size: self.batch_size, workers, threads: Vec::new(), position: 0, failed: false }
    }
}

/// First part of the key of the stream that shuffles; samples have another, so that the two never share a stream.
const ORDER_STREAM: u64 = 0;
/// First part of the key of a sample's stream.
const SAMPLE_STREAM: u64 = 1;

/// One sample, ready to be copied into a batch.
struct Sample {
    image: Vec<f32>,
    target: Vec<f32>,
    mask: f32,
    info: SampleInfo,
}

/// Everything that is the same for all epochs.
#[derive(Debug)]
struct Source {
    frames: Vec<FrameRef>,
    spec: BatchSpec,
    normalizer: Normalizer,
    cache: Cache,
    seed: u64,
    augment: bool,
}

impl Source {
    /// Makes the sample of a frame in an epoch; errors name frame, label file and line.
    fn sample(&self, index: usize, epoch: u64) -> Result<Sample, DatasetError> {
        let frame = &self.frames[index];
        self.make(frame, index, epoch).map_err(|source| DatasetError::Sample {
            frame: frame.to_string(),
            label_file: frame.label_file.to_path_buf(),
            line: frame.frame.line,
            source: Box::new(source),
        })
    }

    fn make(&self, frame: &FrameRef, index: usize, epoch: u64) -> Result<Sample, DatasetError> {
        let spec = &self.spec;
        let failure = |reason| DatasetError::Image { path: frame.frame.path.clone(), reason };
        let mut stream = Stream::new(&[SAMPLE_STREAM, self.seed, epoch, index as u64]);
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
        let original = decode(path)?;
        let native_size = [original.width() as usize, original.height() as usize];
        let crop = plan.and_then(|plan| {
            let whole = Geometry::whole(native_size, self.spec.input_size, self.spec.heatmap_size);
            plan.window(native_size, frame.frame.label.xy.filter(|xy| whole.contains(*xy)))
        });
        let picture = resize(&original, crop, self.spec.input_size)
            .map_err(|reason| DatasetError::Image { path: path.clone(), reason })?;
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
struct Cache {
    slots: Vec<OnceLock<CachedFrame>>,
    budget: usize,
    used: AtomicUsize,
}

impl Cache {
    fn new(frames: usize, budget: usize) -> Self {
        let slots = if budget == 0 { Vec::new() } else { (0..frames).map(|_| OnceLock::new()).collect() };
        Self { slots, budget, used: AtomicUsize::new(0) }
    }

    fn get(&self, index: usize) -> Option<CachedFrame> {
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

/// What the workers of one epoch share.
struct Queue {
    order: Vec<usize>,
    epoch: u64,
    /// How far beyond the first sample that is still needed a worker may go.
    window: usize,
    source: Arc<Source>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The next position in the order that no worker has taken.
    next: usize,
    /// Positions before this one were handed to the consumer.
    consumed: usize,
    ready: HashMap<usize, Result<Sample, DatasetError>>,
    closed: bool,
}

impl Queue {
    /// The state; a worker that panicked cannot leave it half changed, so a poisoned lock is taken as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn wait<'a>(&self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Takes positions in order and makes their samples until the epoch ends or is closed.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            while !state.closed && state.next < self.order.len() && state.next >= state.consumed + self.window {
                state = self.wait(state);
            }
            if state.closed || state.next >= self.order.len() {
                return;
            }
            let position = state.next;
            state.next += 1;
            drop(state);
            let sample = self.make(position);
            self.lock().ready.insert(position, sample);
            self.changed.notify_all();
        }
    }

    /// The sample at a position; a panic becomes an error, or the consumer would wait for ever.
    fn make(&self, position: usize) -> Result<Sample, DatasetError> {
        let index = self.order[position];
        let make = std::panic::AssertUnwindSafe(|| self.source.sample(index, self.epoch));
        std::panic::catch_unwind(make).unwrap_or_else(|_| {
            let frame = &self.source.frames[index];
            Err(DatasetError::Image { path: frame.frame.path.clone(), reason: "decoding panicked".to_owned() })
        })
    }

    /// Waits for the sample at a position and lets the workers go one further.
    fn take(&self, position: usize) -> Result<Sample, DatasetError> {
        let mut state = self.lock();
        loop {
            if let Some(sample) = state.ready.remove(&position) {
                state.consumed = position + 1;
                drop(state);
                self.changed.notify_all();
                return sample;
            }
            state = self.wait(state);
        }
    }
}

/// The batches of one epoch; made by [`BatchLoader::epoch`].
pub struct Epoch {
    queue: Arc<Queue>,
    batch_size: usize,
    workers: usize,
    threads: Vec<JoinHandle<()>>,
    position: usize,
    failed: bool,
}

impl Epoch {
    /// Starts the workers at the first batch.
    fn start(&mut self) -> Result<(), DatasetError> {
        while self.threads.len() < self.workers {
            let queue = Arc::clone(&self.queue);
            let name = format!("decode-{}", self.threads.len());
            let thread = std::thread::Builder::new().name(name).spawn(move || queue.work());
            self.threads.push(thread.map_err(DatasetError::Worker)?);
        }
        Ok(())
    }

    fn batch(&mut self) -> Result<Batch, DatasetError> {
        self.start()?;
        let size = self.batch_size.min(self.queue.order.len() - self.position);
        let spec = &self.queue.source.spec;
        let plane = spec.heatmap_size[0] * spec.heatmap_size[1];
        let mut batch = Batch {
            size,
            images: Vec::with_capacity(size * 3 * spec.input_size[0] * spec.input_size[1]),
            targets: Vec::with_capacity(size * plane),
            masks: Vec::with_capacity(size * plane),
            samples: Vec::with_capacity(size),
        };
        for position in self.position..self.position + size {
            let sample = if self.workers == 0 { self.queue.make(position)? } else { self.queue.take(position)? };
            batch.images.extend_from_slice(&sample.image);
            batch.targets.extend_from_slice(&sample.target);
            batch.masks.resize(batch.masks.len() + plane, sample.mask);
            batch.samples.push(sample.info);
        }
        self.position += size;
        Ok(batch)
    }

    /// Stops the workers and waits for them: at most one image each is still being decoded.
    fn close(&mut self) {
        self.queue.lock().closed = true;
        self.queue.changed.notify_all();
        for thread in self.threads.drain(..) {
            // A panic in a worker was turned into an error where it happened.
            let _ = thread.join();
        }
        self.queue.lock().ready.clear();
    }
}

impl Iterator for Epoch {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.position >= self.queue.order.len() {
            return None;
        }
        let batch = self.batch();
        if batch.is_err() {
            self.failed = true;
            self.close();
        }
        Some(batch.map_err(Into::into))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.queue.order.len() - self.position).div_ceil(self.batch_size);
        (0, Some(left))
    }
}

impl Drop for Epoch {
    fn drop(&mut self) {
        self.close();
    }
}

#[cfg(test)]
mod tests {
    use super::super::tracknet::tests::Tree;
    use super::*;

    const ROWS: &str = "0000.jpg,1,10.5,20,0\n0001.jpg,0,,,\n0002.jpg,2,63,0,0\n0003.jpg,1,64,3,0\n0004.jpg,3,1,35,0\n";

    fn frames() -> (Tree, Vec<FrameRef>) {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 5, ROWS);
        let frames = tree.open(&["game1"]).unwrap().frames();
        (tree, frames)
    }

    fn small_spec() -> BatchSpec {
        BatchSpec { input_size: [33, 17], heatmap_size: [16, 9], ..BatchSpec::default() }
    }

    fn wild_spec() -> BatchSpec {
        let augment = AugmentConfig {
            color_jitter_prob: 0.5,
            blur_prob: 0.5,
            noise_prob: 0.5,
            jpeg_prob: 0.5,
            zoom_prob: 0.5,
            ..AugmentConfig::default()
        };
        BatchSpec { flip_prob: 0.5, augment, ..small_spec() }
    }

    fn load(frames: &[FrameRef], spec: &BatchSpec, size: usize, options: LoaderOptions, epoch: u64) -> Vec<Batch> {
        let loader = BatchLoader::new(frames.to_vec(), spec.clone(), size, options).unwrap();
        loader.epoch(epoch).collect::<Result<_>>().unwrap()
    }

    #[test]
    fn a_batch_holds_images_targets_masks_and_who_they_are() {
        let (_tree, frames) = frames();
        let batches = load(&frames, &small_spec(), 3, LoaderOptions::default(), 0);
        assert_eq!(batches.iter().map(|b| b.size).collect::<Vec<_>>(), [3, 2]);
        let (first, plane) = (&batches[0], 16 * 9);
        assert_eq!(
            (first.images.len(), first.targets.len(), first.masks.len()),
            (3 * 3 * 33 * 17, 3 * plane, 3 * plane)
        );
        assert_eq!(first.samples[2].frame.to_string(), "game1/Clip1/0002.jpg");
        assert_eq!(first.samples[0].native_size, [64, 36]);
        let center = first.samples[0].heatmap_xy().unwrap();
        assert!((center[0] - 10.5 * 16.0 / 64.0).abs() < 1e-6 && (center[1] - 20.0 * 9.0 / 36.0).abs() < 1e-6);
        let mut target = vec![0.0; plane];
        render_target(&mut target, [16, 9], center, 2.0);
        assert_eq!(first.targets[..plane], target);
    }

    #[test]
    fn an_absent_ball_is_masked_or_a_negative_and_an_impossible_label_is_always_masked() {
        let (_tree, frames) = frames();
        let masks = |absent_ball| {
            let spec = BatchSpec { absent_ball, ..small_spec() };
            let batch = load(&frames, &spec, 5, LoaderOptions::default(), 0).remove(0);
            assert!(batch.targets[16 * 9..2 * 16 * 9].iter().all(|v| *v == 0.0));
            // Row 3 has x = 64 in an image that is 64 wide.
            assert!(batch.samples[3].label.xy.is_none() && !batch.samples[3].label.is_usable());
            batch.masks.chunks(16 * 9).map(|mask| mask[0] as u8).collect::<Vec<_>>()
        };
        assert_eq!(masks(AbsentBall::Mask), [1, 0, 1, 0, 1]);
        assert_eq!(masks(AbsentBall::Negative), [1, 1, 1, 0, 1]);
    }

    #[test]
    fn batches_do_not_depend_on_workers_prefetch_or_cache() {
        let (_tree, frames) = frames();
        let options = |workers, prefetch, cache_bytes| LoaderOptions {
            workers,
            prefetch,
            cache_bytes,
            augment: true,
            shuffle_seed: Some(9),
            ..LoaderOptions::default()
        };
        let spec = wild_spec();
        for epoch in 0..3 {
            let reference = load(&frames, &spec, 2, options(0, 0, 0), epoch);
            for (workers, prefetch, cache) in [(1, 0, 0), (1, 2, 1 << 20), (3, 1, 4000), (3, 5, 1 << 20)] {
                let loader =
                    BatchLoader::new(frames.clone(), spec.clone(), 2, options(workers, prefetch, cache)).unwrap();
                // Fill the cache in another epoch first.
                assert_eq!(loader.epoch(17).count(), 3);
                let batches: Vec<Batch> = loader.epoch(epoch).collect::<Result<_>>().unwrap();
                assert!(batches == reference, "{workers} workers, prefetch {prefetch}, cache {cache}, epoch {epoch}");
            }
        }
    }

    #[test]
    fn the_cache_keeps_to_its_budget_and_saves_decoding() {
        let (tree, frames) = frames();
        let options = LoaderOptions { cache_bytes: 2 * 33 * 17 * 3, workers: 3, ..LoaderOptions::default() };
        let loader = BatchLoader::new(frames.clone(), small_spec(), 5, options).unwrap();
        let first: Vec<Batch> = loader.epoch(0).collect::<Result<_>>().unwrap();
        let kept: Vec<usize> = (0..5).filter(|i| loader.source.cache.get(*i).is_some()).collect();
        assert_eq!(kept.len(), 2);
        let loader = BatchLoader::new(frames, small_spec(), 5, LoaderOptions::default()).unwrap();
        assert_eq!(loader.epoch(0).map(|b| b.unwrap()).collect::<Vec<_>>(), first);
        std::fs::remove_dir_all(tree.path("game1")).unwrap();
        assert_eq!(loader.epoch(1).map(|b| b.unwrap()).collect::<Vec<_>>(), first);
    }

    #[test]
    fn every_epoch_has_its_own_order_and_resuming_keeps_it() {
        let (_tree, frames) = frames();
        let options = LoaderOptions { shuffle_seed: Some(3), ..LoaderOptions::default() };
        let loader = BatchLoader::new(frames, small_spec(), 1, options).unwrap();
        let names = |epoch: Epoch| -> Vec<String> { epoch.map(|b| b.unwrap().samples[0].frame.to_string()).collect() };
        let all: Vec<Vec<String>> = (0..4).map(|e| names(loader.epoch(e))).collect();
        assert!(all.iter().any(|order| *order != all[0]));
        assert_eq!(names(loader.epoch_from(2, 3)), all[2][3..]);
        assert_eq!(loader.epoch_from(2, 9).count(), 0);
    }

    #[test]
    fn drop_last_and_limit_bound_the_epoch() {
        let (_tree, frames) = frames();
        let count = |drop_last, limit| {
            let options = LoaderOptions { drop_last, limit, ..LoaderOptions::default() };
            let loader = BatchLoader::new(frames.clone(), small_spec(), 2, options).unwrap();
            let sizes: Vec<usize> = loader.epoch(0).map(|b| b.unwrap().size).collect();
            assert_eq!((sizes.len(), sizes.iter().sum::<usize>()), (loader.batches(), loader.samples()));
            sizes
        };
        assert_eq!(count(false, 0), [2, 2, 1]);
        assert_eq!(count(true, 0), [2, 2]);
        assert_eq!(count(false, 1), [2]);
    }

    #[test]
    fn a_flipped_sample_is_the_mirror_of_the_plain_one() {
        let (_tree, frames) = frames();
        let options = LoaderOptions { augment: true, ..LoaderOptions::default() };
        let spec = BatchSpec { flip_prob: 1.0, heatmap_size: [33, 17], ..small_spec() };
        let flipped = load(&frames, &spec, 5, options, 0).remove(0);
        let plain = load(&frames, &spec, 5, LoaderOptions::default(), 0).remove(0);
        for (a, b) in flipped.images.chunks(33).zip(plain.images.chunks(33)) {
            assert!(a.iter().eq(b.iter().rev()));
        }
        for (a, b) in flipped.targets.chunks(33).zip(plain.targets.chunks(33)) {
            // The mirrored centre is rounded once more.
            assert!(a.iter().zip(b.iter().rev()).all(|(a, b)| (a - b).abs() < 1e-5));
        }
        assert!(flipped.samples.iter().all(|s| s.flipped) && plain.samples.iter().all(|s| !s.flipped));
    }

    #[test]
    fn the_label_moves_with_the_zoom() {
        let (_tree, frames) = frames();
        let options = LoaderOptions { augment: true, ..LoaderOptions::default() };
        let augment = AugmentConfig { zoom_prob: 1.0, zoom_max: 3.0, ..AugmentConfig::default() };
        let spec = BatchSpec { augment, ..small_spec() };
        let batch = load(&frames, &spec, 5, options, 0).remove(0);
        let info = &batch.samples[0];
        let [left, _, width, _] = info.geometry.crop;
        assert!(width < 64.0, "zoomed: {:?}", info.geometry);
        let expected = (10.5 - left) * 16.0 / width;
        assert!((f64::from(info.heatmap_xy().unwrap()[0]) - expected).abs() < 1e-4);
        assert!(info.heatmap_xy().unwrap()[0] < 16.0);
    }

    #[test]
    fn an_undecodable_image_ends_the_epoch_with_frame_path_and_line() {
        let (tree, frames) = frames();
        std::fs::write(tree.path("game1/Clip1/0002.jpg"), b"broken").unwrap();
        for workers in [0, 2] {
            let options = LoaderOptions { workers, ..LoaderOptions::default() };
            let loader = BatchLoader::new(frames.clone(), small_spec(), 1, options).unwrap();
            let results: Vec<_> = loader.epoch(0).collect();
            assert_eq!(results.len(), 3);
            let message = results[2].as_ref().unwrap_err().to_string();
            assert!(
                message.starts_with("frame game1/Clip1/0002.jpg (") && message.contains("Label.csv line 4): image "),
                "{message}"
            );
            assert!(message.contains("0002.jpg: cannot decode: "), "{message}");
        }
    }

    #[test]
    fn dropping_the_iterator_early_stops_the_workers() {
        let (_tree, frames) = frames();
        let many: Vec<FrameRef> = frames.iter().cycle().take(2000).cloned().collect();
        let options = LoaderOptions { workers: 3, prefetch: 1, cache_bytes: 0, ..LoaderOptions::default() };
        let loader = BatchLoader::new(many, small_spec(), 4, options).unwrap();
        let mut epoch = loader.epoch(0);
        epoch.next().unwrap().unwrap();
        let queue = Arc::clone(&epoch.queue);
        drop(epoch);
        // The window is (prefetch + 1) batches beyond the four samples that were taken.
        assert!(queue.lock().next <= 4 + 8, "{}", queue.lock().next);
        assert_eq!(Arc::strong_count(&queue), 1);
    }

    #[test]
    fn senseless_specifications_are_refused_with_the_key() {
        let message = |spec: BatchSpec, size| {
            BatchLoader::new(Vec::new(), spec, size, LoaderOptions::default()).unwrap_err().to_string()
        };
        let spec = BatchSpec { sigma: 0.0, ..small_spec() };
        assert_eq!(message(spec, 1), "model.heatmap.sigma = 0: a positive number of heatmap pixels");
        let spec = BatchSpec { input_size: [0, 288], ..small_spec() };
        assert!(message(spec, 1).starts_with("data.preprocess.resize = [0, 288]: "));
        let spec = BatchSpec { std: [0.2, 0.0, 0.2], ..small_spec() };
        assert!(message(spec, 1).starts_with("image std = [0.2, 0.0, 0.2]"));
        assert_eq!(message(small_spec(), 0), "training.batch_size = 0: at least one frame");
    }
}

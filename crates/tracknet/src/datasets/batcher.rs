//! Batches for training and evaluation: worker threads decode ahead, in the order of the sampler, in bounded memory.
//!
//! The order of an epoch and every random draw of a sample are functions of `(seed, epoch, index)` alone, so the
//! batches are the same for any number of workers and with or without the frame cache. At most
//! `prefetch` batches beyond the one being assembled are held; dropping the iterator stops the workers.
//!
//! A frame that cannot be read is left out of its batch: the batch is smaller, and loss and gradient are those of a batch
//! without it. It keeps its place in the order, so that number and content of all other batches stay what they are; a batch
//! of such frames alone comes with a size of 0. An earlier frame of a window that cannot be read is counted like them, and
//! the frame after it stands in. In windows that do not overlap another frame stands in for any, and it has no heatmap.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;

use super::sample::{Made, Sample};
use super::source::Source;
use super::{BadFrames, DatasetError, FrameRef};
use crate::config::OnBadFrame;
use crate::error::Result;
use tracknet_random::permutation;

pub use super::batch_spec::BatchSpec;
pub use super::sample::SampleInfo;

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
    /// With a heatmap for each frame of a window: windows in which each frame is once, instead of one that ends with each
    /// frame; they are not augmented. For evaluation.
    pub non_overlapping: bool,
    /// At most this many batches an epoch; 0 = all.
    pub limit: usize,
    /// Keep decoded and resized frames up to this many bytes (a 512×288 frame is 442 KB), so that epochs after the
    /// first need not decode them again; 0 = none. It is filled until it is full, and nothing is thrown out: in an
    /// order that visits every frame once an epoch, that is the policy with the most hits.
    pub cache_bytes: usize,
    /// What becomes of a frame that cannot be read.
    pub on_bad_frame: OnBadFrame,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            workers: 2,
            prefetch: 2,
            drop_last: false,
            shuffle_seed: None,
            augment: false,
            non_overlapping: false,
            limit: 0,
            cache_bytes: 1 << 30,
            on_bad_frame: OnBadFrame::Skip,
        }
    }
}

/// Samples that go through the model together; rows are contiguous, the last axis is x.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Number of samples: those of the batch that could be read.
    pub size: usize,
    /// Input `[B, 3 · frames, H, W]`, normalized: the frames of a window, oldest first.
    pub images: Vec<f32>,
    /// Target `[B, heatmaps, Hh, Wh]`: of the last frame of each window, or of each in the same order.
    pub targets: Vec<f32>,
    /// Mask `[B, heatmaps, Hh, Wh]`: 1 where the loss counts.
    pub masks: Vec<f32>,
    /// The labelled frames and where their heatmaps are: one a sample, or as many as its window has.
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
        let source = Arc::new(Source::new(frames, spec, &options));
        Ok(Self { source, batch_size, options })
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
        let samples = self.source.samples();
        let all = if self.options.drop_last { samples / self.batch_size } else { samples.div_ceil(self.batch_size) };
        if self.options.limit == 0 { all } else { all.min(self.options.limit) }
    }

    /// Samples of one epoch, after `drop_last` and `limit`.
    pub fn samples(&self) -> usize {
        self.source.samples().min(self.batches() * self.batch_size)
    }

    /// The frames that could not be read so far, in any epoch, and were left out.
    pub fn bad_frames(&self) -> BadFrames {
        self.source.bad.all()
    }

    /// Those among the first few of [`BatchLoader::bad_frames`] that this has not returned before: each is told once.
    pub fn new_bad_frames(&self) -> Vec<String> {
        self.source.bad.news()
    }

    /// The batches of an epoch. The iterator ends after the first error, which names the frame; an epoch in which no frame
    /// at all can be read is one.
    pub fn epoch(&self, epoch: u64) -> Epoch {
        self.epoch_from(epoch, 0)
    }

    /// The batches of an epoch without the first `skip`, which are not decoded: for a run that resumes.
    pub fn epoch_from(&self, epoch: u64, skip: usize) -> Epoch {
        let mut order: Vec<usize> = match self.options.shuffle_seed {
            Some(seed) => permutation(self.source.samples(), &[ORDER_STREAM, seed, epoch]),
            None => (0..self.source.samples()).collect(),
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
        Epoch {
            queue,
            batch_size: self.batch_size,
            workers,
            threads: Vec::new(),
            position: 0,
            failed: false,
            on_bad_frame: self.options.on_bad_frame,
            is_whole: skip == 0,
            read: 0,
        }
    }
}

/// First part of the key of the stream that shuffles; samples have another, so that the two never share a stream.
const ORDER_STREAM: u64 = 0;

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
    ready: HashMap<usize, Result<Made, DatasetError>>,
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

    /// The sample at a position; after a panic its frame cannot be read, or the consumer would wait for ever.
    fn make(&self, position: usize) -> Result<Made, DatasetError> {
        let index = self.order[position];
        let make = std::panic::AssertUnwindSafe(|| self.source.sample(index, self.epoch));
        std::panic::catch_unwind(make).unwrap_or_else(|_| {
            let number = self.source.frame_of(index);
            let path = self.source.frames[number].frame.path.clone();
            let error = DatasetError::Image { path, reason: "decoding panicked".to_owned() };
            Ok(Made { sample: None, unread: vec![(self.source.files[number], error)] })
        })
    }

    /// Waits for the sample at a position and lets the workers go one further.
    fn take(&self, position: usize) -> Result<Made, DatasetError> {
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
    on_bad_frame: OnBadFrame,
    /// Whether it began with its first batch.
    is_whole: bool,
    /// Samples that could be read.
    read: usize,
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
        let end = self.queue.order.len().min(self.position + self.batch_size);
        let size = end - self.position;
        let spec = &self.queue.source.spec;
        let (heatmaps, plane) = (spec.heatmaps(), spec.heatmap_size[0] * spec.heatmap_size[1]);
        let mut batch = Batch {
            size: 0,
            images: Vec::with_capacity(size * 3 * spec.window.length * spec.input_size[0] * spec.input_size[1]),
            targets: Vec::with_capacity(size * heatmaps * plane),
            masks: Vec::with_capacity(size * heatmaps * plane),
            samples: Vec::with_capacity(size * heatmaps),
        };
        for position in self.position..end {
            let Some(sample) = self.sample(position)? else { continue };
            batch.images.extend_from_slice(&sample.image);
            batch.targets.extend_from_slice(&sample.targets);
            sample.masks.iter().for_each(|mask| batch.masks.resize(batch.masks.len() + plane, *mask));
            let first = batch.size * heatmaps;
            batch.samples.extend(sample.infos.into_iter().map(|i| SampleInfo { heatmap: first + i.heatmap, ..i }));
            batch.size += 1;
        }
        self.position = end;
        self.read += batch.size;
        let order = &self.queue.order;
        if self.is_whole && self.read == 0 && end == order.len() {
            let first = self.queue.source.bad.all().first.into_iter().next().unwrap_or_default();
            let frames = if self.queue.source.blocks.is_some() { self.queue.source.frames.len() } else { end };
            return Err(DatasetError::NothingReadable { frames, first });
        }
        Ok(batch)
    }

    /// The sample at a position; `None` if nothing of it can be read and it is to be skipped.
    fn sample(&self, position: usize) -> Result<Option<Sample>, DatasetError> {
        let made = if self.workers == 0 { self.queue.make(position) } else { self.queue.take(position) };
        let Made { sample, unread } = made?;
        for (file, error) in unread {
            match self.on_bad_frame {
                OnBadFrame::Skip => self.queue.source.bad.add(file, &error),
                OnBadFrame::Error => return Err(error),
            }
        }
        Ok(sample)
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
    use super::super::heatmap::render_target;
    use super::super::tracknet::tests::Tree;
    use super::*;
    use crate::config::{AbsentBall, AugmentConfig, ExifOrientation};

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
        for (sample, found) in flipped.samples.iter().zip(flipped.targets.chunks(33 * 17)) {
            let Some([x, y]) = sample.label.xy else { continue };
            let mut target = vec![0.0; 33 * 17];
            // The target of the mirrored original.
            render_target(&mut target, [33, 17], [(63.0 - x) * 33.0 / 64.0, y * 17.0 / 36.0], 2.0);
            assert!(found.iter().zip(&target).all(|(a, b)| (a - b).abs() < 1e-5));
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
        // The place on the heatmap, and the shift of the whole frame's target: ½ · (1 − 16 / 64).
        let expected = (10.5 + 0.5 - left) * 16.0 / width - 0.5 + 0.375;
        assert!((f64::from(info.heatmap_xy().unwrap()[0]) - expected).abs() < 1e-4);
        assert!(info.heatmap_xy().unwrap()[0] < 16.0);
    }

    #[test]
    fn an_undecodable_image_ends_the_epoch_with_frame_path_and_line_where_that_is_asked_for() {
        let (tree, frames) = frames();
        std::fs::write(tree.path("game1/Clip1/0002.jpg"), b"broken").unwrap();
        for workers in [0, 2] {
            let options = LoaderOptions { workers, on_bad_frame: OnBadFrame::Error, ..LoaderOptions::default() };
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
    fn a_bad_frame_is_left_out_of_its_batch_and_changes_nothing_else() {
        let (tree, frames) = frames();
        let load_all = |workers| {
            let options = LoaderOptions { workers, augment: true, shuffle_seed: Some(9), ..LoaderOptions::default() };
            let loader = BatchLoader::new(frames.clone(), wild_spec(), 2, options).unwrap();
            let batches: Vec<Vec<Batch>> = (0..3).map(|e| loader.epoch(e).collect::<Result<_>>().unwrap()).collect();
            (batches, loader)
        };
        let (good, loader) = load_all(0);
        assert!(loader.bad_frames().is_empty());
        std::fs::write(tree.path("game1/Clip1/0002.jpg"), b"broken").unwrap();
        for workers in [0, 1, 3] {
            let (batches, loader) = load_all(workers);
            assert_eq!(
                batches,
                good.iter().map(|epoch| epoch.iter().map(without_2).collect()).collect::<Vec<Vec<_>>>()
            );
            let bad = loader.bad_frames();
            assert_eq!((bad.count, bad.first.len()), (1, 1));
            assert!(bad.first[0].contains("game1/Clip1/0002.jpg") && bad.first[0].contains("line 4"), "{bad}");
            assert_eq!((loader.new_bad_frames(), loader.new_bad_frames()), (bad.first, Vec::new()));
            // A resumed epoch goes on with the same batches.
            let rest: Vec<Batch> = loader.epoch_from(1, 1).collect::<Result<_>>().unwrap();
            assert_eq!(rest, batches[1][1..]);
        }
    }

    /// The batch without the samples of frame 0002.
    fn without_2(batch: &Batch) -> Batch {
        let mut left = Batch { size: 0, images: vec![], targets: vec![], masks: vec![], samples: vec![] };
        for (i, sample) in batch.samples.iter().enumerate() {
            if sample.frame.frame.file_name == "0002.jpg" {
                continue;
            }
            left.size += 1;
            let part = |all: &[f32]| {
                let one = all.len() / batch.size;
                all[i * one..(i + 1) * one].to_vec()
            };
            left.images.extend(part(&batch.images));
            left.targets.extend(part(&batch.targets));
            left.masks.extend(part(&batch.masks));
            left.samples.push(SampleInfo { heatmap: left.size - 1, ..sample.clone() });
        }
        left
    }

    #[test]
    fn a_batch_of_bad_frames_is_empty_and_an_epoch_of_them_is_an_error() {
        let (tree, frames) = frames();
        let loader = BatchLoader::new(frames.clone(), small_spec(), 1, LoaderOptions::default()).unwrap();
        std::fs::write(tree.path("game1/Clip1/0004.jpg"), b"broken").unwrap();
        let sizes = |epoch: Epoch| -> Vec<usize> { epoch.map(|b| b.unwrap().size).collect() };
        assert_eq!(sizes(loader.epoch(0)), [1, 1, 1, 1, 0]);
        // A resumed run whose last batches are bad must be able to go on.
        assert_eq!(sizes(loader.epoch_from(1, 4)), [0]);
        let loader = BatchLoader::new(frames, small_spec(), 2, LoaderOptions::default()).unwrap();
        std::fs::remove_dir_all(tree.path("game1")).unwrap();
        let results: Vec<_> = loader.epoch(0).collect();
        assert_eq!(results.len(), 3);
        let error = results[2].as_ref().unwrap_err().to_string();
        assert!(
            error.starts_with("none of 5 frames could be read; the first: frame game1/Clip1/0000.jpg ("),
            "{error}"
        );
    }

    #[test]
    fn labels_of_stored_pixels_go_with_pixels_as_they_are_stored() {
        let (tree, frames) = frames();
        let path = tree.path("game1/Clip1/0000.jpg");
        crate::datasets::image::tests::write_turned(&path, 64, 36, 6);
        let native_size = |exif_orientation| {
            let spec = BatchSpec { exif_orientation, ..small_spec() };
            load(&frames, &spec, 5, LoaderOptions::default(), 0)[0].samples[0].native_size
        };
        assert_eq!(native_size(ExifOrientation::Apply), [36, 64]);
        assert_eq!(native_size(ExifOrientation::Ignore), [64, 36]);
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

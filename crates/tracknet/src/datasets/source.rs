//! Where samples come from: the frames of a loader, their files and labels, and what is known of them across epochs.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use image::RgbImage;

use super::bad::Met;
use super::batch_spec::BatchSpec;
use super::batcher::LoaderOptions;
use super::blocks::{BlockPart, blocks_of};
use super::cache::Cache;
use super::heatmap::Geometry;
use super::image::{Normalizer, decode_then, resize};
use super::{DatasetError, FrameRef, window};
use crate::config::HeatmapFrames;

/// Of how many windows the decoded frames are remembered, whatever the cache has room for: windows of one clip share them.
const RECENT_WINDOWS: usize = 8;
/// The most frames that are remembered for that.
const MOST_RECENT: usize = 64;

/// Everything that is the same for all epochs.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) frames: Vec<FrameRef>,
    /// The number of each frame's file, by which it is cached.
    pub(super) files: Vec<usize>,
    /// With a heatmap for each frame: the number of the frame that labels a file.
    labelled: Vec<Option<usize>>,
    /// With windows that do not overlap: what the samples are. Otherwise there is one for each frame.
    pub(super) blocks: Option<Vec<BlockPart>>,
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
        let reach = match (spec.window.length, spec.heatmap_frames) {
            (1, _) => None,
            (_, HeatmapFrames::Last) => Some(spec.window.reach()),
            (_, HeatmapFrames::All) => Some(spec.window.block_reach()),
        };
        let repeats = reach.map_or_else(Vec::new, |_| (0..count).map(|_| OnceLock::new()).collect());
        let most_recent = reach.map_or(0, |reach| RECENT_WINDOWS * (1 + reach));
        let labelled = match spec.heatmaps() {
            1 => Vec::new(),
            _ => labelled_of(&files, count),
        };
        let blocks = (options.non_overlapping && spec.heatmaps() > 1).then(|| blocks_of(&frames, spec.window));
        Self {
            files,
            labelled,
            blocks,
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

    /// Number of samples.
    pub(super) fn samples(&self) -> usize {
        self.blocks.as_ref().map_or(self.frames.len(), Vec::len)
    }

    /// The frame by which a sample goes: the one that it is of, or one of its clip.
    pub(super) fn frame_of(&self, index: usize) -> usize {
        self.blocks.as_ref().map_or(index, |blocks| blocks[index].frame)
    }

    /// An error with the place of the label of a frame.
    pub(super) fn named(&self, number: usize, cause: DatasetError) -> DatasetError {
        let frame = &self.frames[number];
        DatasetError::Sample {
            frame: frame.to_string(),
            label_file: frame.label_file.to_path_buf(),
            line: frame.frame.line,
            cause: Box::new(cause),
        }
    }

    /// The number of the frame that labels a place in the clip of another frame, with a heatmap for each frame.
    pub(super) fn labelled_at(&self, index: usize, place: usize) -> Option<usize> {
        self.labelled.get(self.file(index, place)).copied().flatten()
    }

    /// The number of the file at a place in the clip of a frame.
    pub(super) fn file(&self, index: usize, place: usize) -> usize {
        self.files[index] + place - self.frames[index].place
    }

    /// A picture of a native size as it is.
    pub(super) fn whole(&self, native_size: [usize; 2]) -> Geometry {
        Geometry::whole(native_size, self.spec.input_size, self.spec.heatmap_size)
    }

    /// Whether the frame at a place in the clip of a frame shows what the one after it shows. Frames that cannot be read do not.
    pub(super) fn is_repeated(&self, index: usize, place: usize) -> bool {
        *self.repeats[self.file(index, place)].get_or_init(|| {
            let read = |place: usize| self.picture(&self.frames[index].files[place], self.file(index, place), None);
            matches!((read(place), read(place + 1)), (Ok((a, ..)), Ok((b, ..))) if window::is_repeated(&a, &b))
        })
    }

    /// The resized frame, its native size, and the part it was cut from, which `zoom` gives for a native size. A zoomed
    /// sample is cut from the original image (it keeps its detail), so it goes past the cache.
    #[allow(clippy::type_complexity)]
    pub(super) fn picture(
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

/// For each of `count` files the number of the frame that labels it.
fn labelled_of(files: &[usize], count: usize) -> Vec<Option<usize>> {
    let mut labelled = vec![None; count];
    for (number, file) in files.iter().enumerate() {
        labelled[*file] = Some(number);
    }
    labelled
}

//! The tracker over the frames of an evaluation, which come in batches of windows.

use std::collections::BTreeMap;

use image::RgbImage;

use crate::datasets::{Batch, BatchSpec, FrameRef, SampleInfo};
use crate::error::Result;
use crate::evaluation::decode::decode_candidates;
use crate::evaluation::track::{CANDIDATES, SceneWatch, TrackFrame, TrackOptions, Tracked, Tracker};
use crate::evaluation::{DecodeOptions, Detection};

/// The ball tracked through the clips of an evaluation.
pub(super) struct Tracks<'a> {
    tracker: Tracker,
    scene: SceneWatch,
    decode: &'a DecodeOptions,
    /// Frames that others may come before, by their numbers.
    waiting: BTreeMap<usize, Waiting>,
    /// The frame before.
    last: Option<FrameRef>,
    /// What is decided, in the order of the frames.
    decided: Vec<Option<Tracked>>,
}

/// A frame that the tracker has not seen yet.
struct Waiting {
    frame: FrameRef,
    picture: RgbImage,
    candidates: Vec<Detection>,
    size: [usize; 2],
}

impl<'a> Tracks<'a> {
    /// A tracker of these options, for heatmaps that are decoded so.
    ///
    /// # Errors
    /// Options that make no sense.
    pub(super) fn new(options: TrackOptions, decode: &'a DecodeOptions) -> Result<Self> {
        let tracker = Tracker::new(options)?;
        let (scene, waiting) = (SceneWatch::default(), BTreeMap::new());
        Ok(Self { tracker, scene, decode, waiting, last: None, decided: Vec::new() })
    }

    /// Takes a frame of a batch, with its activated heatmap. Frames come in the order of their clips, but for those of a block
    /// of windows.
    pub(super) fn push(&mut self, batch: &Batch, info: &SampleInfo, heatmap: &[f32], spec: &BatchSpec) -> Result<()> {
        let [width, height] = spec.input_size;
        let (window, place) = (info.heatmap / spec.heatmaps(), info.heatmap % spec.heatmaps());
        // With one heatmap the frame is the last of its window.
        let frame = window * spec.window.length + spec.window.length - spec.heatmaps() + place;
        let planes = &batch.images[frame * 3 * width * height..][..3 * width * height];
        let found = decode_candidates(heatmap, info.geometry.heatmap_size, self.decode, CANDIDATES)?;
        let waiting = Waiting {
            frame: info.frame.clone(),
            picture: spec.normalizer().undo(planes, spec.input_size),
            candidates: found.into_iter().map(|found| found.detection.to_native(&info.geometry)).collect(),
            size: info.native_size,
        };
        self.waiting.insert(info.number, waiting);
        while let Some(first) =
            self.waiting.first_entry().filter(|first| first.key() + spec.window.block() <= info.number)
        {
            let waiting = first.remove();
            self.track(waiting);
        }
        Ok(())
    }

    /// Gives the tracker a frame, with how much of the scene has changed and how many frames were left out before it.
    fn track(&mut self, Waiting { frame, picture, candidates, size }: Waiting) {
        let place = frame.place;
        let last = self.last.replace(frame.clone());
        let last = last.filter(|last| last.label_file == frame.label_file && last.place < place);
        if last.is_none() {
            self.scene.clear();
        }
        let (change, skipped) = (self.scene.next(&picture), last.map_or(0, |last| place - last.place - 1));
        self.decided.extend(self.tracker.push(TrackFrame { candidates, size, change, skipped }));
    }

    /// What is decided of every frame, in order.
    pub(super) fn finish(mut self) -> Vec<Option<Tracked>> {
        for (_, waiting) in std::mem::take(&mut self.waiting) {
            self.track(waiting);
        }
        self.decided.extend(self.tracker.finish());
        self.decided
    }
}

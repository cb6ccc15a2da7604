//! Samples for prediction with a heatmap for each frame: windows that do not overlap, so that each frame is searched once.
//!
//! Which windows these are is the rule of [`window`](super::window). Nothing is drawn for them.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use super::sample::{Made, Unread};
use super::source::Source;
use super::window::with_stand_ins;
use super::{FrameRef, FrameWindow};

/// The normalized planes of a frame, and its native size.
type Picture = (Arc<Vec<f32>>, [usize; 2]);

/// A window of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BlockPart {
    /// A labelled frame of the block.
    pub(super) frame: usize,
    /// The places of the block in its clip.
    places: Range<usize>,
    /// Which of the block's windows.
    window: usize,
}

/// The windows of all blocks that have a labelled frame, in the order of the frames.
pub(super) fn blocks_of(frames: &[FrameRef], window: FrameWindow) -> Vec<BlockPart> {
    let (mut parts, mut known) = (Vec::new(), HashSet::new());
    for (number, frame) in frames.iter().enumerate() {
        let start = frame.place - frame.place % window.block();
        if !known.insert((Arc::as_ptr(&frame.files), start)) {
            continue;
        }
        let places = start..frame.files.len().min(start + window.block());
        let windows = window.stride.min(places.len());
        parts.extend((0..windows).map(|window| BlockPart { frame: number, places: places.clone(), window }));
    }
    parts
}

impl Source {
    /// The sample of a window, with every labelled frame that has its heatmap from it; there is none if no such frame can be
    /// read.
    pub(super) fn sample_of_block(&self, part: &BlockPart) -> Made {
        let BlockPart { frame, places, window } = part;
        let windows = self.spec.window.block_windows(places.clone(), |place| self.is_repeated(*frame, place));
        // With repeated frames a block may need fewer windows.
        let Some(window) = windows.get(*window) else { return Made::default() };
        let mut unread = Vec::new();
        let read = |place: &usize| self.read(*frame, *place, &mut unread);
        let pictures: Vec<Option<Picture>> = window.places.iter().map(read).collect();
        let mut sample = self.blank();
        for (place, heatmap) in &window.frames {
            let (Some(number), Some((_, native_size))) = (self.labelled_at(*frame, *place), &pictures[*heatmap]) else {
                continue;
            };
            let is_own = window.places[*heatmap] == *place;
            // A repeated frame may be of another size, in a folder.
            let own_size = if is_own { None } else { self.read(*frame, *place, &mut unread) };
            let geometry = self.whole(own_size.map_or(*native_size, |(_, size)| size));
            let info = self.info(number, *heatmap, geometry);
            // Otherwise the heatmap counts for the frame that it was made of.
            if is_own {
                self.teach(&mut sample, &info, true);
            }
            sample.infos.push(info);
        }
        let planes = pictures.into_iter().map(|picture| picture.map(|(planes, _)| planes)).collect();
        let sample = with_stand_ins(planes).filter(|_| !sample.infos.is_empty()).map(|planes| {
            sample.image = planes.iter().flat_map(|planes| planes.iter().copied()).collect();
            sample
        });
        Made { sample, unread }
    }

    /// The planes and the native size of a frame as it is.
    fn read(&self, frame: usize, place: usize, unread: &mut Vec<Unread>) -> Option<Picture> {
        let file = self.file(frame, place);
        match self.picture(&self.frames[frame].files[place], file, None) {
            Ok((picture, native_size, _)) => Some((Arc::new(self.normalizer.apply(&picture)), native_size)),
            Err(error) => {
                let error = match self.labelled_at(frame, place) {
                    Some(number) => self.named(number, error),
                    None => error,
                };
                unread.push((file, error));
                None
            }
        }
    }
}

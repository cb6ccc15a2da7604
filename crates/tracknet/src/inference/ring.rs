//! The last frames of a stream, from which its windows are cut: each frame is decoded, resized and normalized once.

use std::collections::VecDeque;
use std::sync::Arc;

use image::RgbImage;

use crate::config::HeatmapFrames;
use crate::datasets::window::{BlockWindow, is_repeated, with_stand_ins};
use crate::datasets::{BatchSpec, FrameWindow};

use super::frames::WindowShape;

/// Normalized planes `[3, H, W]`.
pub(super) type Planes = Arc<Vec<f32>>;

/// Frames of one clip in order, as far back as a window may reach.
#[derive(Debug)]
pub(super) struct Ring {
    window: FrameWindow,
    heatmaps: HeatmapFrames,
    frames: VecDeque<Kept>,
    /// The last frame in the model's input size, if it could be read.
    last: Option<RgbImage>,
    /// The frames of the block that is not whole yet.
    pending: usize,
}

/// A frame of the stream.
#[derive(Debug)]
struct Kept {
    number: u64,
    /// `None` = it could not be read.
    planes: Option<Planes>,
    /// Whether it shows what the one after it shows.
    is_repeated: bool,
}

/// A window of the stream.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cut {
    /// Its frames, oldest first.
    pub(super) planes: Vec<Planes>,
    /// The numbers of the frames that have their heatmaps from it, and which of its heatmaps.
    pub(super) frames: Vec<(u64, usize)>,
}

impl Ring {
    pub(super) fn new(spec: &BatchSpec) -> Self {
        let heatmaps = if spec.window.length == 1 { HeatmapFrames::Last } else { spec.heatmap_frames };
        Self { window: spec.window, heatmaps, frames: VecDeque::new(), last: None, pending: 0 }
    }

    /// The frames of a block, and how many frames before the first of them its windows may reach.
    pub(super) fn shape(&self) -> WindowShape {
        match self.heatmaps {
            HeatmapFrames::Last => [1, self.window.reach()],
            HeatmapFrames::All => [self.window.block(), self.window.block_reach()],
        }
    }

    /// Takes a frame that cannot be read; returns windows as [`Ring::push`].
    pub(super) fn push_damaged(&mut self, number: u64) -> Vec<Cut> {
        self.last = None;
        self.keep(Kept { number, planes: None, is_repeated: false });
        self.cut()
    }

    /// Takes the next frame, in the model's input size and as normalized planes, and returns the windows that are whole now.
    pub(super) fn push(&mut self, number: u64, picture: RgbImage, planes: Vec<f32>) -> Vec<Cut> {
        let planes = Arc::new(planes);
        if self.window.length == 1 {
            return vec![Cut { planes: vec![planes], frames: vec![(number, 0)] }];
        }
        if let (Some(last), Some(kept)) = (&self.last, self.frames.back_mut()) {
            kept.is_repeated = is_repeated(last, &picture);
        }
        self.last = Some(picture);
        self.keep(Kept { number, planes: Some(planes), is_repeated: false });
        self.cut()
    }

    /// Ends the clip: returns the windows of its last frames, and begins a new one.
    pub(super) fn finish(&mut self) -> Vec<Cut> {
        let cuts = self.cut_block();
        self.frames.clear();
        self.last = None;
        cuts
    }

    /// Whether every frame so far is in a window that was returned, if it could be read.
    pub(super) fn is_settled(&self) -> bool {
        self.pending == 0
    }

    fn keep(&mut self, frame: Kept) {
        let [_, reach] = self.shape();
        if self.frames.len() > reach {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
    }

    /// The windows that the last frame makes whole.
    fn cut(&mut self) -> Vec<Cut> {
        if self.heatmaps == HeatmapFrames::All {
            self.pending += 1;
            return if self.pending == self.window.block() { self.cut_block() } else { Vec::new() };
        }
        let current = self.frames.len() - 1;
        if self.frames[current].planes.is_none() {
            return Vec::new();
        }
        let places = self.window.places(current, |place| self.frames[place].is_repeated);
        self.cut_at(&BlockWindow { places, frames: vec![(current, 0)] }).into_iter().collect()
    }

    /// The windows of the block that ends here.
    fn cut_block(&mut self) -> Vec<Cut> {
        let end = self.frames.len();
        let block = end - std::mem::take(&mut self.pending)..end;
        if block.is_empty() {
            return Vec::new();
        }
        let windows = self.window.block_windows(block, |place| self.frames[place].is_repeated);
        windows.iter().filter_map(|window| self.cut_at(window)).collect()
    }

    /// The frames at the places of a window; `None` if none of them could be read.
    fn cut_at(&self, window: &BlockWindow) -> Option<Cut> {
        let planes = window.places.iter().map(|place| self.frames[*place].planes.clone()).collect();
        let is_read = |(place, _): &&(usize, usize)| self.frames[*place].planes.is_some();
        let numbered = |(place, heatmap): &(usize, usize)| (self.frames[*place].number, *heatmap);
        let frames = window.frames.iter().filter(is_read).map(numbered).collect();
        Some(Cut { planes: with_stand_ins(planes)?, frames })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(value: u8) -> RgbImage {
        RgbImage::from_pixel(4, 4, image::Rgb([value; 3]))
    }

    fn ring(length: usize, stride: usize, heatmap_frames: HeatmapFrames) -> Ring {
        let window = FrameWindow { length, stride };
        Ring::new(&BatchSpec { window, heatmap_frames, ..BatchSpec::default() })
    }

    /// The frames of a window, and the numbers and heatmaps of those that are found on it.
    type Found = (Vec<f32>, Vec<(u64, usize)>);

    /// The windows of some frames, a frame being its value, and the numbers of the frames with a heatmap; `None` = it cannot be
    /// read.
    fn windows(mut ring: Ring, frames: &[Option<u8>]) -> Vec<Found> {
        let mut cuts = Vec::new();
        for (number, frame) in (0..).zip(frames) {
            cuts.extend(match *frame {
                None => ring.push_damaged(number),
                Some(value) => ring.push(number, picture(value), vec![f32::from(value)]),
            });
        }
        cuts.extend(ring.finish());
        assert!(ring.is_settled() && ring.finish().is_empty());
        cuts.into_iter().map(|cut| (cut.planes.iter().map(|planes| planes[0]).collect(), cut.frames)).collect()
    }

    #[test]
    fn windows_begin_with_the_first_frame_and_leave_out_repeated_and_unread_ones() {
        let frames = [Some(20), Some(40), Some(40), Some(60), None, Some(80), Some(100)];
        let found = windows(ring(3, 1, HeatmapFrames::Last), &frames);
        let expected = [
            (vec![20.0, 20.0, 20.0], vec![(0, 0)]),
            (vec![20.0, 20.0, 40.0], vec![(1, 0)]),
            (vec![20.0, 20.0, 40.0], vec![(2, 0)]),
            (vec![20.0, 40.0, 60.0], vec![(3, 0)]),
            (vec![60.0, 80.0, 80.0], vec![(5, 0)]),
            (vec![80.0, 80.0, 100.0], vec![(6, 0)]),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn with_a_heatmap_for_each_frame_each_that_can_be_read_is_in_one_window() {
        let frames = [Some(20), Some(40), Some(40), Some(60), Some(80), None, Some(100), None];
        let found = windows(ring(3, 1, HeatmapFrames::All), &frames);
        let expected = [
            (vec![20.0, 20.0, 40.0], vec![(0, 1), (1, 2), (2, 2)]),
            // The frame before stands in at the end of a window.
            (vec![60.0, 80.0, 80.0], vec![(3, 0), (4, 1)]),
            (vec![100.0, 100.0, 100.0], vec![(6, 1)]),
        ];
        assert_eq!(found, expected);
        assert_eq!(windows(ring(3, 1, HeatmapFrames::All), &[None, None, None, None]), []);
        let strided = windows(ring(2, 2, HeatmapFrames::All), &[Some(20), Some(40), Some(60), Some(80), Some(100)]);
        let expected = [
            (vec![40.0, 80.0], vec![(1, 0), (3, 1)]),
            (vec![20.0, 60.0], vec![(0, 0), (2, 1)]),
            (vec![60.0, 100.0], vec![(4, 1)]),
        ];
        assert_eq!(strided, expected);
    }

    #[test]
    fn it_keeps_no_more_than_a_window_may_reach() {
        let mut last = ring(2, 2, HeatmapFrames::Last);
        let mut all = ring(2, 2, HeatmapFrames::All);
        for value in 0..100u8 {
            last.push(u64::from(value), picture(value), vec![f32::from(value)]);
            all.push(u64::from(value), picture(value), vec![f32::from(value)]);
        }
        assert_eq!(last.frames.len(), last.window.reach() + 1);
        assert_eq!(all.frames.len(), all.window.block_reach() + 1);
        let cuts = last.push(100, picture(100), vec![100.0]);
        // Neighbouring greys differ by less than compression does: the scene stands still and keeps its pace.
        assert_eq!(cuts[0].planes.iter().map(|planes| planes[0]).collect::<Vec<_>>(), [94.0, 100.0]);
    }
}

//! The last frames of a stream, from which its windows are cut: each frame is decoded, resized and normalized once.

use std::collections::VecDeque;
use std::sync::Arc;

use image::RgbImage;

use crate::datasets::FrameWindow;
use crate::datasets::window::is_repeated;

/// Normalized planes `[3, H, W]`.
pub(super) type Planes = Arc<Vec<f32>>;

/// Frames of one clip in order, as far back as a window may reach.
#[derive(Debug)]
pub(super) struct Ring {
    window: FrameWindow,
    frames: VecDeque<Kept>,
    /// The last frame in the model's input size, if it could be read.
    last: Option<RgbImage>,
}

/// A frame of the stream.
#[derive(Debug)]
struct Kept {
    /// `None` = it could not be read.
    planes: Option<Planes>,
    /// Whether it shows what the one after it shows.
    is_repeated: bool,
}

impl Ring {
    pub(super) fn new(window: FrameWindow) -> Self {
        Self { window, frames: VecDeque::new(), last: None }
    }

    /// Begins a new clip.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.last = None;
    }

    /// Takes a frame that cannot be read.
    pub(super) fn push_damaged(&mut self) {
        self.keep(Kept { planes: None, is_repeated: false });
        self.last = None;
    }

    /// Takes the next frame, in the model's input size and as normalized planes, and returns the planes of the window that ends
    /// with it, oldest first.
    pub(super) fn push(&mut self, picture: RgbImage, planes: Vec<f32>) -> Vec<Planes> {
        let planes = Arc::new(planes);
        if self.window.length == 1 {
            return vec![planes];
        }
        if let (Some(last), Some(kept)) = (&self.last, self.frames.back_mut()) {
            kept.is_repeated = is_repeated(last, &picture);
        }
        self.last = Some(picture);
        self.keep(Kept { planes: Some(planes), is_repeated: false });
        self.cut()
    }

    fn keep(&mut self, frame: Kept) {
        if self.frames.len() > self.window.reach() {
            self.frames.pop_front();
        }
        self.frames.push_back(frame);
    }

    /// The window that ends with the last frame. For a frame that could not be read the one after it stands in.
    fn cut(&self) -> Vec<Planes> {
        let current = self.frames.len() - 1;
        let places = self.window.places(current, |place| self.frames[place].is_repeated);
        let mut window: Vec<Planes> = Vec::with_capacity(places.len());
        for place in places.into_iter().rev() {
            let planes = self.frames[place].planes.as_ref().or(window.last());
            window.extend(planes.cloned());
        }
        window.reverse();
        window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(value: u8) -> RgbImage {
        RgbImage::from_pixel(4, 4, image::Rgb([value; 3]))
    }

    /// The windows after each of some frames, a frame being its value; `None` = it cannot be read.
    fn windows(window: FrameWindow, frames: &[Option<u8>]) -> Vec<Vec<f32>> {
        let mut ring = Ring::new(window);
        let push = |frame: &Option<u8>| {
            let Some(value) = *frame else {
                ring.push_damaged();
                return None;
            };
            let planes = ring.push(picture(value), vec![f32::from(value)]);
            Some(planes.iter().map(|planes| planes[0]).collect())
        };
        frames.iter().filter_map(push).collect()
    }

    #[test]
    fn windows_begin_with_the_first_frame_and_leave_out_repeated_and_unread_ones() {
        let window = FrameWindow { length: 3, stride: 1 };
        let found = windows(window, &[Some(20), Some(40), Some(40), Some(60), None, Some(80), Some(100)]);
        let expected = [
            [20.0, 20.0, 20.0],
            [20.0, 20.0, 40.0],
            [20.0, 20.0, 40.0],
            [20.0, 40.0, 60.0],
            [60.0, 80.0, 80.0],
            [80.0, 80.0, 100.0],
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn it_keeps_no_more_than_a_window_may_reach() {
        let window = FrameWindow { length: 2, stride: 2 };
        let mut ring = Ring::new(window);
        for value in 0..100u8 {
            ring.push(picture(value), vec![f32::from(value)]);
        }
        assert_eq!(ring.frames.len(), window.reach() + 1);
        let last = ring.push(picture(100), vec![100.0]);
        // Neighbouring greys differ by less than compression does: the scene stands still and keeps its pace.
        assert_eq!(last.iter().map(|planes| planes[0]).collect::<Vec<_>>(), [94.0, 100.0]);
    }
}

//! A predictor's frames with the ball tracked through them: each is held back until the tracker has decided on it.

use std::collections::VecDeque;

use image::RgbImage;

use super::{FrameResult, Predicted};
use crate::error::Result;
use crate::evaluation::Detection;
use crate::evaluation::track::{Change, TrackFrame, TrackOptions, Tracked, Tracker};

/// Tracks the ball through the frames of a [`Predictor`](super::Predictor) that gives
/// [several candidates](super::Predictor::with_candidates), and passes the frames on in order.
#[derive(Debug)]
pub struct TrackedFrames {
    tracker: Tracker,
    waiting: VecDeque<Predicted>,
    keeps_pictures: bool,
}

impl TrackedFrames {
    /// Frames that wait keep their pixels and heatmaps only with `keeps_pictures`: about a second of the source. Without, those
    /// that are passed on have empty ones.
    ///
    /// # Errors
    /// An option that makes no sense.
    pub fn new(options: TrackOptions, keeps_pictures: bool) -> Result<Self> {
        Ok(Self { tracker: Tracker::new(options)?, waiting: VecDeque::new(), keeps_pictures })
    }

    /// Takes the next frame, and passes on those that are decided by it.
    ///
    /// # Errors
    /// Whatever `each` returns.
    pub fn push(&mut self, predicted: Predicted, each: &mut dyn FnMut(Predicted) -> Result<()>) -> Result<()> {
        let frame = match &predicted {
            Predicted::Frame(FrameResult { candidates, change, frame, .. }) => TrackFrame {
                candidates: candidates.iter().map(|found| found.detection).collect::<Vec<Detection>>(),
                size: [frame.width() as usize, frame.height() as usize],
                change: change.unwrap_or(Change::Next),
                skipped: 0,
            },
            Predicted::Damaged(_) => {
                TrackFrame { candidates: Vec::new(), size: [0, 0], change: Change::Next, skipped: 0 }
            }
        };
        let mut predicted = predicted;
        if let (Predicted::Frame(result), false) = (&mut predicted, self.keeps_pictures) {
            (result.frame, result.heatmap) = (RgbImage::default(), Vec::new());
        }
        self.waiting.push_back(predicted);
        let decided = self.tracker.push(frame);
        self.pass_on(decided, each)
    }

    /// Passes on the frames that still wait: nothing more will come.
    ///
    /// # Errors
    /// Whatever `each` returns.
    pub fn finish(mut self, each: &mut dyn FnMut(Predicted) -> Result<()>) -> Result<()> {
        let decided = self.tracker.finish();
        self.pass_on(decided, each)
    }

    fn pass_on(&mut self, decided: Vec<Option<Tracked>>, each: &mut dyn FnMut(Predicted) -> Result<()>) -> Result<()> {
        let frames = self.waiting.drain(..decided.len().min(self.waiting.len()));
        frames.zip(decided).try_for_each(|(mut predicted, tracked)| {
            let (Predicted::Frame(FrameResult { prediction, .. }) | Predicted::Damaged(prediction)) = &mut predicted;
            *prediction = prediction.clone().tracked(tracked);
            each(predicted)
        })
    }
}

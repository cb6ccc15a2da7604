//! A predictor's frames with the ball tracked through them: each is held back until the tracker has decided on it.

use std::collections::VecDeque;

use super::Predicted;
use crate::error::Result;
use crate::evaluation::Detection;
use crate::evaluation::track::{Change, TrackFrame, TrackOptions, Tracked, Tracker};

/// Tracks the ball through the frames of a [`Predictor`](super::Predictor) that gives
/// [several candidates](super::Predictor::with_candidates), and passes the frames on in order.
#[derive(Debug)]
pub struct TrackedFrames {
    tracker: Tracker,
    waiting: VecDeque<Predicted>,
    /// Of frames that follow one another the numbers differ by this.
    stride: u64,
    last: Option<u64>,
}

impl TrackedFrames {
    /// Frames that wait keep what they hold, about a second of the source: give a predictor whose results hold
    /// [no pictures](super::StreamOptions::pictures) where nobody looks at them. The predictor looks at every `stride`-th frame, and
    /// `options` are those of the frames that it looks at; others that are missing are known by their numbers.
    ///
    /// # Errors
    /// An option that makes no sense.
    pub fn new(options: TrackOptions, stride: u64) -> Result<Self> {
        Ok(Self { tracker: Tracker::new(options)?, waiting: VecDeque::new(), stride: stride.max(1), last: None })
    }

    /// Takes the next frame, and passes on those that are decided by it.
    ///
    /// # Errors
    /// Whatever `each` returns.
    pub fn push(&mut self, predicted: Predicted, each: &mut dyn FnMut(Predicted) -> Result<()>) -> Result<()> {
        let number = predicted.prediction().frame;
        let steps = self.last.map_or(1, |last| number.saturating_sub(last) / self.stride);
        let skipped = usize::try_from(steps.saturating_sub(1)).unwrap_or(usize::MAX);
        self.last = Some(number);
        let frame = match &predicted {
            Predicted::Frame(result) => TrackFrame {
                candidates: result.candidates.iter().map(|found| found.detection).collect::<Vec<Detection>>(),
                size: result.size,
                change: result.change.unwrap_or(Change::Next),
                skipped,
            },
            Predicted::Damaged(_) => TrackFrame { candidates: Vec::new(), size: [0, 0], change: Change::Next, skipped },
        };
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
            let prediction = predicted.prediction_mut();
            *prediction = prediction.clone().tracked(tracked);
            each(predicted)
        })
    }
}

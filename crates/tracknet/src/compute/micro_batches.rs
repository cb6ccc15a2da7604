//! The parts of a batch that go through a model at once.
//!
//! Side by side, a micro-batch is one frame, so that only the frames that are being computed hold memory. Micro-batches
//! are the same for any number of threads, and so are the results.

use std::ops::Range;

use super::Compute;
use super::parallel::{cores, map};

/// Frames per forward pass on a GPU, without gradients: enough to keep the processor busy, few enough for little memory.
const FRAMES_AT_ONCE: usize = 8;

/// How a batch is cut into micro-batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MicroBatches {
    batch: usize,
    frames: usize,
    threads: usize,
    side_by_side: bool,
}

impl MicroBatches {
    /// To train on a batch of `batch` frames, `size` at a time (`None` = all). Side by side, no more frames are under way
    /// than that.
    pub(crate) fn to_train(batch: usize, size: Option<usize>, side_by_side: bool) -> Self {
        let whole = size.unwrap_or(batch).clamp(1, batch.max(1));
        let (frames, threads) = match side_by_side {
            true => (1, cores().min(whole)),
            false => (whole, 1),
        };
        Self { batch, frames, threads, side_by_side }
    }

    /// For forward passes without gradients.
    pub(crate) fn to_predict(batch: usize, compute: &Compute) -> Self {
        let side_by_side = compute.side_by_side();
        let (frames, threads) = if side_by_side { (1, cores()) } else { (FRAMES_AT_ONCE, 1) };
        Self { batch, frames, threads, side_by_side }
    }

    /// Whether each needs an autodiff graph of its own, so that backward passes do not wait for each other.
    pub(crate) fn forks(self) -> bool {
        self.side_by_side && self.count() > 1
    }

    pub(crate) fn count(self) -> usize {
        self.batch.div_ceil(self.frames)
    }

    /// `work(index, frames)` of every micro-batch; results in order.
    ///
    /// # Errors
    /// The first error of a micro-batch.
    pub(crate) fn map<T: Send, E: Send>(
        self,
        work: impl Fn(usize, Range<usize>) -> Result<T, E> + Sync,
    ) -> Result<Vec<T>, E> {
        let part = |index: usize| {
            let from = index * self.frames;
            work(index, from..(from + self.frames).min(self.batch))
        };
        map(self.count(), self.threads, part).into_iter().collect()
    }
}

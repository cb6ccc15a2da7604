//! Independent pieces of a batch on several threads, with results in order.
//!
//! The CPU backend runs many operations on one thread; whole forward and backward passes side by side keep every core
//! busy. A piece is one frame, so that only the frames that are being computed hold memory. The pieces are the same for
//! any number of threads, and so are the results.

use std::ops::Range;

use burn::tensor::Device;
pub(crate) use tracknet_kernels::parallel::map;

use crate::error::Result;
use crate::models::is_cpu;
use crate::training::NamedGradients;

/// Frames per forward pass on a GPU, without gradients: enough to keep the processor busy, few enough for little memory.
const FRAMES_AT_ONCE: usize = 8;

/// The threads of the pool: the cores of this machine, or as many as RAYON_NUM_THREADS says.
pub(crate) fn cores() -> usize {
    rayon::current_num_threads()
}

/// How a batch is cut into pieces.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces {
    batch: usize,
    frames: usize,
    threads: usize,
    side_by_side: bool,
}

impl Pieces {
    /// To train on a batch of `batch` frames, `micro_batch` at a time (`None` = all). Side by side a piece is a frame, and no
    /// more frames are under way than a micro-batch has.
    pub(crate) fn to_train(batch: usize, micro_batch: Option<usize>, side_by_side: bool) -> Self {
        let whole = micro_batch.unwrap_or(batch).clamp(1, batch.max(1));
        let (frames, threads) = match side_by_side {
            true => (1, cores().min(whole)),
            false => (whole, 1),
        };
        Self { batch, frames, threads, side_by_side }
    }

    /// For forward passes without gradients: side by side on the CPU.
    pub(crate) fn to_predict(batch: usize, device: &Device) -> Self {
        let side_by_side = is_cpu(device);
        let (frames, threads) = if side_by_side { (1, cores()) } else { (FRAMES_AT_ONCE, 1) };
        Self { batch, frames, threads, side_by_side }
    }

    /// Whether each piece needs an autodiff graph of its own, so that backward passes do not wait for each other.
    pub(crate) fn forks(self) -> bool {
        self.side_by_side && self.count() > 1
    }

    fn count(self) -> usize {
        self.batch.div_ceil(self.frames)
    }

    /// `work(index, frames)` of every piece; results in order.
    ///
    /// # Errors
    /// The first error of a piece.
    pub(crate) fn map<T: Send>(self, work: impl Fn(usize, Range<usize>) -> Result<T> + Sync) -> Result<Vec<T>> {
        let piece = |index: usize| {
            let from = index * self.frames;
            work(index, from..(from + self.frames).min(self.batch))
        };
        map(self.count(), self.threads, piece).into_iter().collect()
    }

    /// Gradients and losses of all pieces, added up in order.
    ///
    /// # Errors
    /// As [`Pieces::map`].
    pub(crate) fn add_up(
        self,
        work: impl Fn(usize, Range<usize>) -> Result<(NamedGradients, f64)> + Sync,
    ) -> Result<(NamedGradients, f64)> {
        let mut sum = NamedGradients::default();
        let mut loss_sum = 0.0;
        for (gradients, loss) in self.map(work)? {
            sum.add(gradients);
            loss_sum += loss;
        }
        Ok((sum, loss_sum))
    }
}

//! How a batch is cut into pieces, and how what they give is added up.
//!
//! On the CPU the pieces of a batch run side by side, a frame on each core ([`crate::parallel`]); elsewhere they are as large
//! as memory allows, one after the other. Results are in order, and do not depend on the number of threads.

use std::ops::Range;

use burn::tensor::Device;

use crate::error::Result;
use crate::models::is_cpu;
use crate::parallel::{self, cores};

use super::gradients::NamedGradients;

/// Frames per forward pass on a GPU, without gradients: enough to keep the processor busy, few enough for little memory.
const FRAMES_AT_ONCE: usize = 8;

/// A batch, cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pieces {
    batch: usize,
    frames: usize,
    threads: usize,
    side_by_side: bool,
}

impl Pieces {
    /// To train on a batch of `batch` frames, `micro_batch` at a time (`None` = all). Side by side a piece is a frame, and no
    /// more frames are under way than a micro-batch has.
    pub(super) fn to_train(batch: usize, micro_batch: Option<usize>, side_by_side: bool) -> Self {
        let whole = micro_batch.unwrap_or(batch).clamp(1, batch.max(1));
        let (frames, threads) = if side_by_side { (1, cores().min(whole)) } else { (whole, 1) };
        Self { batch, frames, threads, side_by_side }
    }

    /// For forward passes without gradients.
    pub(super) fn to_predict(batch: usize, device: &Device) -> Self {
        let side_by_side = is_cpu(device);
        let (frames, threads) = if side_by_side { (1, cores()) } else { (FRAMES_AT_ONCE, 1) };
        Self { batch, frames, threads, side_by_side }
    }

    /// Whether each piece needs an autodiff graph of its own, so that backward passes do not wait for each other.
    pub(super) fn fork(self) -> bool {
        self.side_by_side && self.count() > 1
    }

    fn count(self) -> usize {
        self.batch.div_ceil(self.frames)
    }

    /// `work(index, frames)` of every piece; results in order.
    ///
    /// # Errors
    /// The first error of a piece.
    pub(super) fn map<T: Send>(self, work: impl Fn(usize, Range<usize>) -> Result<T> + Sync) -> Result<Vec<T>> {
        let piece = |index: usize| {
            let from = index * self.frames;
            work(index, from..(from + self.frames).min(self.batch))
        };
        parallel::map(self.count(), self.threads, piece).into_iter().collect()
    }

    /// Gradients and losses of all pieces, added up in order.
    ///
    /// # Errors
    /// As [`Pieces::map`].
    pub(super) fn add_up(
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_in_one_piece_and_pieces_come_in_order() {
        for (batch, micro_batch, side_by_side) in
            [(7, None, true), (7, Some(3), false), (6, Some(3), false), (1, None, true)]
        {
            let pieces = Pieces::to_train(batch, micro_batch, side_by_side);
            let ranges = pieces.map(|index, frames| Ok((index, frames))).unwrap();
            let indices: Vec<usize> = ranges.iter().map(|(index, _)| *index).collect();
            assert_eq!(indices, (0..ranges.len()).collect::<Vec<_>>());
            let frames: Vec<usize> = ranges.into_iter().flat_map(|(_, frames)| frames).collect();
            assert_eq!(frames, (0..batch).collect::<Vec<_>>());
            assert_eq!(pieces.fork(), side_by_side && batch > 1);
        }
        assert!(Pieces::to_predict(0, &Device::default()).map(|_, _| Ok(())).unwrap().is_empty());
    }
}

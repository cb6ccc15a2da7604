//! Why a training run cannot start or go on.

use std::path::PathBuf;

/// Errors of training. Each names what was found, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainingError {
    /// Nothing would be trained.
    #[error("nothing to train: {reason}")]
    NothingToTrain {
        /// Which part of the configuration leaves the set empty.
        reason: String,
    },
    /// Losses or gradients stayed non-finite.
    #[error(
        "the {what} was not finite in {count} steps in a row (last at step {step}): lower training.optimizer.lr, \
         enable training.grad_clip, or look for broken images or weights"
    )]
    NonFinite {
        /// `loss` or the name of a parameter's gradient.
        what: String,
        /// Steps in a row that were skipped.
        count: usize,
        /// Optimizer step of the run.
        step: u64,
    },
    /// Even the smallest micro-batch needs too much memory.
    #[error(
        "a micro-batch of {micro_batch} needs about {} MiB, but only {} MiB {origin}: lower {to_lower}, \
         data.preprocess.resize or the model's size, or raise the memory limit",
        needed >> 20, available >> 20
    )]
    OutOfMemory {
        /// Smallest micro-batch that was tried.
        micro_batch: usize,
        /// Estimated peak in bytes.
        needed: u64,
        /// What may be used, in bytes.
        available: u64,
        /// Where the bound comes from.
        origin: &'static str,
        /// The key that makes micro-batches smaller.
        to_lower: String,
    },
    /// The device has no memory for a micro-batch, and no smaller one is to be tried.
    #[error(
        "the device has no memory for a micro-batch of {micro_batch} ({problem}), and {limit}: free memory on the device, or lower \
         training.micro_batch_size, training.min_micro_batch_size, data.preprocess.resize or the model's size"
    )]
    OutOfDeviceMemory {
        /// The smallest micro-batch that was tried.
        micro_batch: usize,
        /// What the device said.
        problem: String,
        /// Why no smaller one is tried.
        limit: String,
    },
    /// The model and the batches do not fit together.
    #[error("{0}")]
    Mismatch(String),
    /// A run ended before its time, and nothing of it is lost.
    #[error("{cause}\nthe run is saved at step {step}; once the cause is mended, continue with: tracknet train --resume {}", run.display())]
    Saved {
        /// Why it ended.
        cause: Box<crate::Error>,
        /// Optimizer steps that are in the checkpoint.
        step: u64,
        /// The run's directory.
        run: PathBuf,
    },
    /// A run ended before its time, and its last steps could not be saved.
    #[error("{cause}\nstep {step} could not be saved either: {problem}; the checkpoints written before it are whole: {}", checkpoints.display())]
    NotSaved {
        /// Why it ended.
        cause: Box<crate::Error>,
        /// Optimizer steps that were done.
        step: u64,
        /// Why no checkpoint could be written.
        problem: Box<crate::Error>,
        /// Where the earlier ones are.
        checkpoints: PathBuf,
    },
}

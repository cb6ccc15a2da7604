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
        to_lower: &'static str,
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
    /// A heatmap or an option of the evaluation is wrong.
    #[error(transparent)]
    Evaluation(#[from] crate::evaluation::EvaluationError),
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
    /// A tensor could not be read back from the device.
    #[error("reading `{name}` from the device: {problem}")]
    Device {
        /// Tensor name.
        name: String,
        /// What the backend said.
        problem: String,
    },
}

impl TrainingError {
    /// What the device said when it had no memory left for what was to be read. It is usable, and less at once may fit.
    pub fn out_of_device_memory(&self) -> Option<&str> {
        let Self::Device { problem, .. } = self else { return None };
        problem.lines().map(str::trim).find(|line| line.contains("out of device memory"))
    }

    /// A tensor that could not be read back.
    pub(crate) fn device(name: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::Device { name: name.into(), problem: problem.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::TrainingError;

    #[test]
    fn what_the_device_said_about_its_memory_is_found_among_what_else_failed() {
        let said = "Several failures at once\nCaused by:\n  skipped `ReduceKernel`: it needed memory\nCaused by:\n  \
                    out of device memory allocating 154140672 bytes\nNo backtrace available";
        let error = TrainingError::device("loss", said);
        assert_eq!(error.out_of_device_memory(), Some("out of device memory allocating 154140672 bytes"));
        assert_eq!(TrainingError::device("loss", "the device was lost").out_of_device_memory(), None);
    }
}

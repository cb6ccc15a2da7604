//! The one error type of the library. Every variant carries the file, key or tensor that it speaks of.

use std::path::Path;

use crate::models::ModelError;

pub use tracknet_io::files::IoContext;

/// A result with the library's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, by the part of the library that found it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is wrong; carries every problem of it.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// A dataset, label file or image is wrong.
    #[error(transparent)]
    Dataset(#[from] crate::datasets::DatasetError),
    /// A model cannot be built, loaded, adapted or quantized.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor cannot be read back from its device.
    #[error(transparent)]
    Device(#[from] crate::compute::DeviceError),
    /// A heatmap or an option of the evaluation is wrong.
    #[error(transparent)]
    Evaluation(#[from] crate::evaluation::EvaluationError),
    /// A run or checkpoint cannot be read.
    #[error(transparent)]
    Run(#[from] crate::artifacts::run::RunError),
    /// A training run cannot start or go on.
    #[error(transparent)]
    Training(#[from] crate::training::TrainingError),
    /// A file or directory cannot be read or written, or is not because of what it is.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// A video or an external program failed.
    #[error(transparent)]
    Inference(#[from] crate::inference::InferenceError),
}

impl Error {
    /// Says in which file a tensor is that something is wrong with.
    #[must_use]
    pub(crate) fn in_file(self, path: &Path) -> Self {
        match self {
            Self::Model(ModelError::Tensor { name, message }) => {
                ModelError::file(path, format!("tensor `{name}`: {message}")).into()
            }
            other => other,
        }
    }
}

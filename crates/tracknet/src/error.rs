//! The one error type of the library. Every variant carries the file, key or tensor that it speaks of.

use std::path::{Path, PathBuf};

use crate::models::ModelError;

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
    /// A training run cannot start or go on.
    #[error(transparent)]
    Training(#[from] crate::training::TrainingError),
    /// A file or directory is not read or written, because of what it is.
    #[error(transparent)]
    File(#[from] crate::files::FileError),
    /// A file or directory cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said. Part of the message, so not also its `source`: printed once.
        cause: std::io::Error,
    },
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

/// Adds the path to an I/O result: `std::fs::read(&path).at(&path)?`.
pub trait IoContext<T> {
    /// Names the file or directory that the operation was about.
    fn at(self, path: impl AsRef<Path>) -> Result<T, Error>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T, Error> {
        self.map_err(|cause| Error::Io { path: path.as_ref().to_path_buf(), cause })
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_message_names_the_path_and_the_cause_and_the_chain_does_not_repeat_it() {
        let error = std::fs::read("no-such-file").at("no-such-file").unwrap_err();
        let Error::Io { cause, .. } = &error else { panic!("{error:?}") };
        assert_eq!(error.to_string(), format!("no-such-file: {cause}"));
        assert!(error.source().is_none());
    }
}

//! Why a run or one of its checkpoints cannot be read.

use std::path::{Path, PathBuf};

/// Errors of run and checkpoint directories. Each names what was found, what was expected and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// A checkpoint file is damaged or missing.
    #[error("{}: {problem}; use another checkpoint of the run, or start it again", path.display())]
    DamagedCheckpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No checkpoint where one was asked for.
    #[error("{}: no checkpoint here: {problem}", path.display())]
    NoCheckpoint {
        /// The run or checkpoint directory.
        path: PathBuf,
        /// What was looked for.
        problem: String,
    },
    /// A checkpoint was written by a newer program.
    #[error("{}: checkpoint format version {found}, this program reads up to {supported}; update tracknet", path.display())]
    NewerCheckpoint {
        /// `state.json`.
        path: PathBuf,
        /// Version in the file.
        found: u32,
        /// Newest version this program reads.
        supported: u32,
    },
    /// The frozen base of the model is not the one the checkpoint was trained on.
    #[error(
        "{}: the checkpoint was trained on base `{name}` with hash {expected}, but the base loaded now has {found}; \
         point --base (on resume: model.pretrained_model_name) at the original weights (same quantization settings)",
        path.display()
    )]
    OtherBase {
        /// The checkpoint.
        path: PathBuf,
        /// The base's name.
        name: String,
        /// Hash in the checkpoint.
        expected: String,
        /// Hash of the base that was loaded.
        found: String,
    },
    /// A checkpoint does not fit the model or the configuration of this run.
    #[error("{}: {problem}", path.display())]
    DoesNotFit {
        /// The checkpoint or a file of it.
        path: PathBuf,
        /// What differs.
        problem: String,
    },
}

impl RunError {
    /// A damaged or missing checkpoint file.
    pub(crate) fn damaged(path: impl AsRef<Path>, problem: impl std::fmt::Display) -> Self {
        Self::DamagedCheckpoint { path: path.as_ref().to_path_buf(), problem: problem.to_string() }
    }
}

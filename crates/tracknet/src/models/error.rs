use std::path::PathBuf;

use crate::console::excerpt;

/// Why a model cannot be built, loaded, adapted, quantized or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A key of the configuration, or of a checkpoint's `config.json`, has a value that cannot work.
    #[error("{key}: {message}")]
    Key {
        /// The key, with its section.
        key: String,
        /// What was found, what was expected, what to do.
        message: String,
    },
    /// A file of a checkpoint is missing, damaged or of another format.
    #[error("{}: {message}", path.display())]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong and what to do.
        message: String,
    },
    /// Tensors of a file do not fit the model; one line for each.
    #[error("{}: {} not fit the model:\n  {}", path.display(), tensors(.problems.len()), lines(.problems))]
    Tensors {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with each tensor: its name, what was found, what was expected.
        problems: Vec<String>,
    },
    /// No linear layer matches the target list.
    #[error("lora.target_modules: {requested} matches no linear layer of the model; it has: {existing}")]
    NoTarget {
        /// What was asked for.
        requested: String,
        /// The modules that exist, condensed.
        existing: String,
    },
    /// A tensor cannot be quantized or used.
    #[error("tensor `{name}`: {message}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        message: String,
    },
}

impl ModelError {
    /// A key of the configuration and what is wrong with its value.
    pub fn key(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self::Key { key: key.into(), message: message.into() }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        Self::File { path: path.into(), message: message.into() }
    }
}

/// The first problems, one a line, and how many more there are.
fn lines(problems: &[String]) -> String {
    const MOST: usize = 12;
    let mut lines: Vec<String> = problems.iter().take(MOST).map(|problem| excerpt(problem, 400).into_owned()).collect();
    if problems.len() > MOST {
        lines.push(format!("… and {} more", problems.len() - MOST));
    }
    lines.join("\n  ")
}

fn tensors(count: usize) -> String {
    if count == 1 { "1 tensor does".to_owned() } else { format!("{count} tensors do") }
}

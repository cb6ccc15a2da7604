//! datasets

pub mod synthetic;

/// Errors of this area.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct DatasetError(pub String);

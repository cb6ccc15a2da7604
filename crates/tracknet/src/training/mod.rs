//! training

/// Errors of this area.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TrainingError(pub String);

//! YAML → validated structs. Three groups, each one file: `data`, `model`, `training`. No tensors here.

mod data;
mod model;
mod training;

pub use data::*;
pub use model::*;
pub use training::*;

/// Why a configuration was refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

//! YAML → validated structs. Three groups, each one file: `data`, `model`, `training`. No tensors here.
//!
//! The way of a value: [`sources`] finds the file, [`yaml`] reads it with its lines, [`layers`] puts overrides over
//! files, [`interpolate`] resolves `${…}`, [`check`] holds it against the table of [`keys`], [`validate`] looks at
//! combinations, and only then serde fills the structs, whose defaults are the only defaults.

mod check;
mod data;
mod emit;
mod error;
mod interpolate;
mod keys;
mod layers;
mod load;
mod lora;
mod model;
mod path_pattern;
mod reference;
mod runtime;
mod scalars;
mod schema;
mod sources;
#[cfg(test)]
mod tests;
mod training;
mod validate;
mod yaml;

use serde::{Deserialize, Serialize};

pub use data::*;
pub use error::{ConfigError, Problem};
pub use load::{ConfigSources, Loaded};
pub use lora::*;
pub use model::*;
pub use path_pattern::{PathPattern, PatternError};
pub use reference::{explain, markdown_table};
pub use runtime::{Runtime, check_run_id};
pub use schema::{Key, Kind, Neutral, Range, Status, Word, known_keys};
pub use sources::{CONFIG_DIR_VARIABLE, EMBEDDED, Embedded};
pub use training::*;

/// The merged configuration of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the frames are and how they are prepared.
    pub data: DataConfig,
    /// Backbone, decoder, adapters, quantization.
    pub model: ModelConfig,
    /// Optimizer, schedule, loss, directories.
    pub training: TrainingConfig,
    /// Derived: seed, run id, directories.
    pub runtime: Runtime,
}

impl Config {
    /// A configuration from three sections, with the runtime of a run that starts now.
    pub fn from_sections(data: DataConfig, model: ModelConfig, training: TrainingConfig) -> Self {
        let runtime = Runtime::starting_now(&training);
        Self { data, model, training, runtime }
    }
}

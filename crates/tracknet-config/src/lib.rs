//! YAML → validated structs. Three groups, each one file: `data`, `model`, `training`. No tensors here.
//!
//! The way of a value: [`sources`] finds the file, [`yaml`] reads it with its lines, [`layers`] puts overrides over
//! files, [`interpolate`] resolves `${…}`, [`check`] holds it against its [`key`], [`structs`] fills the structs, and
//! [`validate`] looks at combinations.
//!
//! A key is written once, as the field of a struct: `#[derive(Section)]` takes its documentation, default and bounds from
//! there, `#[derive(Words)]` the spellings of a word from its enum.

mod check;
mod data;
mod decoders;
mod emit;
mod error;
mod games;
mod interpolate;
mod key;
mod kind;
mod layers;
mod load;
mod lora;
mod model;
mod path_pattern;
mod patterns;
mod quantization;
mod reference;
mod runtime;
mod scalars;
mod sources;
mod structs;
#[cfg(test)]
mod tests;
mod training;
mod typo;
mod validate;
mod windows;
mod words;
mod yaml;

use serde::{Deserialize, Serialize};

pub use data::*;
pub use decoders::*;
pub use error::{ConfigError, Problem};
pub use games::games_of;
pub use key::{Key, Section, Status, known_keys};
pub use kind::{Kind, RealRange, Setting, WholeRange};
pub use load::{ConfigSources, Loaded};
pub use lora::*;
pub use model::*;
pub use path_pattern::{PathPattern, PatternError};
pub use patterns::{Pattern, TargetModules};
pub use quantization::*;
pub use reference::{explain, markdown_table};
pub use runtime::{Runtime, check_run_id};
pub use sources::{CONFIG_DIR_VARIABLE, EMBEDDED, Embedded};
pub use training::*;
pub use windows::WindowMismatch;
pub use words::{UnknownWord, Word, Words};

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

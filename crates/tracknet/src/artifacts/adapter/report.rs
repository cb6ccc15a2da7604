//! What an adapter on a model is, and what its directory says.

use std::fmt;

use crate::config::LoraConfig;
use crate::models::backbones::ModulePaths;
use crate::models::lora::plan::summary;
use crate::models::lora::{AdaptedModule, LoraReport};

use super::peft_config::PeftConfig;

/// Adapters that were added to a model, new or read from a directory.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterReport {
    /// The modules that carry one, in the order of the model.
    pub adapted: Vec<AdaptedModule>,
    /// What the user should know; each once.
    pub notes: Vec<String>,
    /// The configuration that their directory is written with.
    pub peft: PeftConfig,
}

impl AdapterReport {
    /// Of new adapters: what [`apply_lora_to_model`](crate::models::apply_lora_to_model) reports of a model with these
    /// spellings of its paths.
    pub fn of_new(report: LoraReport, config: &LoraConfig, paths: ModulePaths) -> Self {
        let peft = PeftConfig::of_report(config, &report, paths);
        Self { adapted: report.adapted, notes: report.notes, peft }
    }
}

impl fmt::Display for AdapterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&summary(&self.adapted, &self.notes))
    }
}

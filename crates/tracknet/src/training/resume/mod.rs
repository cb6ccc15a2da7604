//! What a resumed run takes from its checkpoint, and what must not have changed since.
//!
//! | module | what lives there |
//! |---|---|
//! | `places` | the directories of the run that a checkpoint belongs to |
//! | `changes` | the keys of the configuration that may differ, and what a difference means |

mod changes;
mod places;

use std::collections::BTreeSet;
use std::path::Path;

use crate::artifacts::run::weights::section_of;
use crate::artifacts::run::{CONFIG_FILE, Checkpoint, RunError, RunPaths, find_checkpoint};
use crate::config::{Config, ModelConfig, OptimizerConfig, OptimizerName};
use crate::console::listing;
use crate::error::{Error, Result};
use crate::files::{DirectoryLock, FileError};

use super::optimizer::{NamedOptimizer, Part};
use super::parameters::ParameterTable;

pub(super) use changes::differences;
use places::places;

/// A run that is continued: found, held and opened.
#[derive(Debug)]
pub(super) struct Resumed {
    /// Where it goes on.
    pub(super) checkpoint: Checkpoint,
    /// Where its files are.
    pub(super) paths: RunPaths,
    /// What the user should know about the places.
    pub(super) notes: Vec<String>,
    /// Keep other processes out.
    pub(super) locks: Vec<DirectoryLock>,
}

impl Resumed {
    /// Opens the run at `from`: its directory, the folder of its checkpoints, or one of these. Nothing is written
    /// outside of what belongs to it, whatever its files say.
    ///
    /// # Errors
    /// There is no checkpoint, it is damaged, it is not this run's, or another process has the run.
    pub(super) fn open(config: &Config, from: &Path) -> Result<Self> {
        let found = find_checkpoint(from, NAMES).map_err(|error| in_use(from).map_or(error, Error::from))?;
        let (paths, notes) = places(config, from, &found)?;
        let locks = paths.lock()?;
        // Until now another process may have been at work on it.
        let checkpoint = Checkpoint::open(&found.dir)?;
        Ok(Self { checkpoint, paths, notes, locks })
    }

    /// The `model` section that builds the model of the run. The backbone comes from where `config` says.
    pub(super) fn section(&self, config: &Config) -> ModelConfig {
        let mut section = section_of(config, &self.checkpoint);
        section.pretrained_model_name.clone_from(&config.model.pretrained_model_name);
        section
    }
}

/// The reason why a checkpoint of a run is not whole at this moment, if another process is replacing it.
fn in_use(run: &Path) -> Option<FileError> {
    if !run.join(CONFIG_FILE).is_file() {
        return None;
    }
    DirectoryLock::acquire(run).err().filter(|error| matches!(error, FileError::Locked { .. }))
}

/// The checkpoints that a run can go on from, the first that exists.
const NAMES: &[&str] = &["last", "best"];

/// Checks that the optimizer has a state for every parameter that has trained: one that is missing would begin anew.
///
/// # Errors
/// Names the parameters that have none.
pub(super) fn check_optimizer(
    optimizer: &NamedOptimizer,
    table: &ParameterTable,
    checkpoint: &Checkpoint,
    config: &OptimizerConfig,
) -> Result<()> {
    let known: BTreeSet<&str> = optimizer.names().collect();
    let state = &checkpoint.state;
    // SGD without momentum has no state, and the run may have begun as one.
    let stepped = config.name == OptimizerName::AdamW && state.step > state.skipped_steps;
    let mut missing = Vec::new();
    for part in [Part::Backbone, Part::Adapter, Part::Head] {
        let of_part: Vec<&str> =
            table.sorted().into_iter().filter(|p| p.kind.part == part).map(|p| p.name.as_str()).collect();
        // Parts train as a whole, from some epoch on.
        if stepped && part == Part::Head || of_part.iter().any(|name| known.contains(name)) {
            missing.extend(of_part.into_iter().filter(|name| !known.contains(name)));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let problem = format!("no state of {}, which the run has trained", listing(missing, 5));
    Err(RunError::damaged(checkpoint.optimizer_path(), problem).into())
}

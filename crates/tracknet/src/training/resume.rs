//! What a resumed run takes from its checkpoint, and what must not have changed since.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::artifacts::run::checkpoint::is_file;
use crate::artifacts::run::weights::section_of;
use crate::artifacts::run::{CONFIG_FILE, Checkpoint, RunError, RunPaths, find_checkpoint};
use crate::config::{Config, DataConfig, ModelConfig, OptimizerConfig, OptimizerName};
use crate::console::listing;
use crate::error::{Error, IoContext, Result};
use crate::files::{DirectoryLock, FileError, parent_of};

use super::TrainingError;
use super::evaluate::Evaluation;
use super::gradients::clip_limit;
use super::logging::LOG_FILE;
use super::monitor::STAND_IN;
use super::optimizer::{NamedOptimizer, Part};
use super::parameters::ParameterTable;

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

/// The directories of the run that `checkpoint`, found at `from`, belongs to, and what to say about them.
fn places(config: &Config, from: &Path, checkpoint: &Checkpoint) -> Result<(RunPaths, Vec<String>)> {
    let run_id = &checkpoint.state.run_id;
    let folder = parent_of(&checkpoint.dir);
    let mut notes = Vec::new();
    let root = match root_of(from, checkpoint)? {
        Some(root) => root,
        None => {
            let root = root_elsewhere(config, checkpoint)?;
            notes.push(format!("only a checkpoint was named; the directory of its run is {}", root.display()));
            root
        }
    };
    let mut logs = RunPaths::configured(root.clone(), &config.runtime, run_id).logs;
    if !logs.starts_with(&root) && !is_file(&logs.join(LOG_FILE))? {
        logs = root.join("logs");
        let dir = config.training.log_dir.display();
        notes.push(format!("training.log_dir: {dir} holds no log of this run; it goes on in {}", logs.display()));
    }
    let paths = RunPaths { checkpoints: folder.to_path_buf(), logs, root };
    let elsewhere = paths.elsewhere().into_iter();
    notes.extend(elsewhere.map(|(what, dir)| format!("outside of the run's directory: {what} in {}", dir.display())));
    Ok((paths, notes))
}

/// The directory of the run at `from`, or around it; `None` if only its checkpoints are there.
fn root_of(from: &Path, checkpoint: &Checkpoint) -> Result<Option<PathBuf>> {
    if checkpoint.dir != from && is_file(&from.join(CONFIG_FILE))? {
        return Ok(Some(from.to_path_buf()));
    }
    let dir = std::path::absolute(&checkpoint.dir).at(&checkpoint.dir)?;
    let folder = parent_of(&dir);
    let root = parent_of(folder);
    let is_part = folder.ends_with("checkpoints") && is_file(&root.join(CONFIG_FILE))?;
    Ok(is_part.then(|| root.to_path_buf()))
}

/// The directory of a run of which only a checkpoint was named: where its configuration says, if that is free or holds
/// this very run.
fn root_elsewhere(config: &Config, checkpoint: &Checkpoint) -> Result<PathBuf> {
    let run_id = &checkpoint.state.run_id;
    let root = config.runtime.output_dir.join(run_id);
    if !root.try_exists().at(&root)? {
        return Ok(root);
    }
    let known = if is_file(&root.join(CONFIG_FILE))? { Some(Config::from_run_dir(&root)?) } else { None };
    let belongs = known.is_some_and(|known| {
        let folder = RunPaths::configured(root.clone(), &known.runtime, &known.runtime.run_id).checkpoints;
        known.runtime.run_id == *run_id && is_same(&folder, parent_of(&checkpoint.dir))
    });
    if belongs {
        return Ok(root);
    }
    let problem = format!(
        "only this checkpoint of the run {run_id} was named, and {} holds something else: name the run's directory, or \
         another training.output_dir",
        root.display()
    );
    Err(RunError::DoesNotFit { path: checkpoint.dir.clone(), problem }.into())
}

/// Whether two paths lead to the same directory.
fn is_same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

/// Whether the backbone is named by checkpoints and not held by them: when it never trains.
pub(super) fn names_base(table: &ParameterTable, lora: bool) -> bool {
    lora || !table.trains(Part::Backbone)
}

/// Why a model has no trainable parameter, in terms of the configuration.
pub(super) fn why_nothing_trains(config: &Config) -> String {
    let model = &config.model;
    let backbone = match (model.lora.enabled, model.backbone.freeze) {
        (true, _) => "model.lora added no adapter",
        (false, true) => "model.backbone.freeze is true and model.lora is off",
        (false, false) => "the backbone has no float weights",
    };
    format!("{backbone}, and neither decoder nor head has trainable weights")
}

/// Refuses a watched metric that no run has.
pub(super) fn check_monitor(config: &Config) -> Result<()> {
    let monitor = &config.training.early_stopping.monitor;
    let mut known = Evaluation::metric_names("val/");
    known.push(STAND_IN.to_owned());
    if known.contains(monitor) {
        return Ok(());
    }
    let known = known.join(", ");
    let problem = format!("training.early_stopping.monitor: no metric is called `{monitor}`; there are {known}");
    Err(TrainingError::Mismatch(problem).into())
}

/// Compares the configuration of a checkpoint with the one the run goes on with. Returns what the user should know.
///
/// # Errors
/// If the models differ in more than where their weights are read from, or something that the order of a begun epoch
/// depends on.
pub(super) fn differences(config: &Config, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let label = checkpoint.dir.join(CONFIG_FILE);
    let old = Config::from_yaml(&label.display().to_string(), &checkpoint.config_yaml()?)?;
    let mut model = old.model.clone();
    model.pretrained_model_name.clone_from(&config.model.pretrained_model_name);
    model.decoder.pretrained.clone_from(&config.model.decoder.pretrained);
    model.lora.adapter.clone_from(&config.model.lora.adapter);
    model.backbone.local_files_only = config.model.backbone.local_files_only;
    model.backbone.device_map.clone_from(&config.model.backbone.device_map);
    if model != config.model {
        let problem = "the `model` section differs from the one the run is to go on with: resume with the run's own \
                       configuration, or start a new run"
            .to_owned();
        return Err(RunError::DoesNotFit { path: label, problem }.into());
    }
    let mut notes = Vec::new();
    for change in CHANGES.iter().filter(|change| (change.differs)(&old, config)) {
        let Change { key, means, .. } = change;
        if change.ends_with_epoch && checkpoint.state.batch > 0 {
            let problem = format!(
                "the run was stopped in the middle of epoch {}, whose order of frames depends on {key}: finish that epoch \
                 with the value it began with, or go on from the end of an epoch, as checkpoints/best is",
                checkpoint.state.epoch + 1
            );
            return Err(RunError::DoesNotFit { path: label, problem }.into());
        }
        notes.push(format!("{key} differs from what the run began with: {means}"));
    }
    Ok(notes)
}

/// A key that may differ when a run goes on.
struct Change {
    key: &'static str,
    differs: fn(&Config, &Config) -> bool,
    /// In the middle of an epoch, frames would be repeated or left out.
    ends_with_epoch: bool,
    /// What the new value does.
    means: &'static str,
}

impl Change {
    const fn any_time(key: &'static str, differs: fn(&Config, &Config) -> bool, means: &'static str) -> Self {
        Self { key, differs, ends_with_epoch: false, means }
    }

    const fn between_epochs(key: &'static str, differs: fn(&Config, &Config) -> bool, means: &'static str) -> Self {
        Self { key, differs, ends_with_epoch: true, means }
    }
}

const CHANGES: &[Change] = &[
    Change::between_epochs(
        "data.split.train_games",
        |a, b| a.data.split.train_games != b.data.split.train_games,
        "epochs from here on are of the new games",
    ),
    Change::between_epochs(
        "training.seed",
        |a, b| a.training.seed != b.training.seed,
        "the order of frames, augmentation and dropout follow the new seed from here on",
    ),
    Change::between_epochs(
        "training.batch_size",
        |a, b| a.training.batch_size != b.training.batch_size,
        "steps are of the new size from here on, and an epoch has another number of them",
    ),
    Change::between_epochs(
        "training.data_loader.drop_last",
        |a, b| a.training.data_loader.drop_last != b.training.data_loader.drop_last,
        "epochs from here on end by the new rule",
    ),
    Change::between_epochs(
        "training.limit_train_batches",
        |a, b| a.training.limit_train_batches != b.training.limit_train_batches,
        "epochs from here on have the new number of batches",
    ),
    Change::any_time(
        "data.root",
        |a, b| a.data.root != b.data.root,
        "frames and labels are read from there; the games and frames in it must be the same ones",
    ),
    Change::any_time(
        "data.split.val_games",
        |a, b| a.data.split.val_games != b.data.split.val_games,
        "the best value so far is of the old games, and new ones are compared with it",
    ),
    Change::any_time(
        "training.limit_val_batches",
        |a, b| a.training.limit_val_batches != b.training.limit_val_batches,
        "the best value so far is of the old number of frames, and new ones are compared with it",
    ),
    Change::any_time(
        "data",
        |a, b| rest_of_data(a, b) != b.data,
        "frames are read and prepared the new way from here on",
    ),
    Change::any_time(
        "training.epochs",
        |a, b| a.training.epochs != b.training.epochs,
        "the run ends there, and the learning rate from here on is that of a run of this length",
    ),
    Change::any_time(
        "training.optimizer",
        |a, b| a.training.optimizer != b.training.optimizer,
        "the new values count from here on; the moments go on",
    ),
    Change::any_time(
        "training.scheduler",
        |a, b| a.training.scheduler != b.training.scheduler,
        "the learning rate from here on is that of a run that had this schedule from its start",
    ),
    Change::any_time(
        "training.loss",
        |a, b| a.training.loss != b.training.loss,
        "the mean loss of an epoch that was begun mixes both, and the best value so far is of the old one",
    ),
    Change::any_time(
        "training.grad_clip",
        |a, b| {
            let clip = |config: &Config| clip_limit(config.training.grad_clip, config.training.grad_clip_norm);
            clip(a) != clip(b)
        },
        "gradients are clipped to the new norm from here on",
    ),
    Change::any_time(
        "training.precision",
        |a, b| a.training.precision != b.training.precision,
        "steps are computed in the new precision from here on",
    ),
    Change::any_time(
        "training.backbone_freeze_epochs",
        |a, b| a.training.backbone_freeze_epochs != b.training.backbone_freeze_epochs,
        "it counts from the start of the run, and what trains follows the new value from here on",
    ),
    Change::any_time(
        "training.early_stopping",
        |a, b| a.training.early_stopping != b.training.early_stopping,
        "epochs from here on are judged by the new rule; the best value of another metric is forgotten",
    ),
    Change::any_time(
        "training.micro_batch_size",
        |a, b| a.training.micro_batch_size != b.training.micro_batch_size,
        "sums of gradients and dropout differ in their order from here on",
    ),
    Change::any_time(
        "training.gradient_checkpointing",
        |a, b| a.training.gradient_checkpointing != b.training.gradient_checkpointing,
        "time and memory differ, results do not",
    ),
];

/// The old `data` section with the new values of the keys that have lines of their own.
fn rest_of_data(old: &Config, new: &Config) -> DataConfig {
    let mut data = old.data.clone();
    data.root.clone_from(&new.data.root);
    data.split.train_games.clone_from(&new.data.split.train_games);
    data.split.val_games.clone_from(&new.data.split.val_games);
    // What is held out for the test does not touch the training.
    data.split.test_games.clone_from(&new.data.split.test_games);
    data
}

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

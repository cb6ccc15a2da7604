//! The configuration of a checkpoint beside the one that its run goes on with.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::artifacts::run::{CONFIG_FILE, Checkpoint, RunError};
use crate::config::{Config, DataConfig, ModelConfig, SequenceConfig};
use crate::error::{IoContext, Result};
use crate::training::gradients::clip_limit;

/// Compares the configuration of a checkpoint with the one the run goes on with. Returns what the user should know.
///
/// # Errors
/// If the models or the windows that they see differ in more than where weights are read from, or something that the order of
/// a begun epoch depends on: the first key, and both values.
pub(in crate::training) fn differences(config: &Config, checkpoint: &Checkpoint) -> Result<Vec<String>> {
    let label = checkpoint.dir.join(CONFIG_FILE);
    let old = Config::from_yaml(&label.display().to_string(), &checkpoint.config_yaml()?)?;
    let mut model = old.model.clone();
    model.pretrained_model_name.clone_from(&config.model.pretrained_model_name);
    model.decoder.pretrained.clone_from(&config.model.decoder.pretrained);
    model.lora.adapter.clone_from(&config.model.lora.adapter);
    model.backbone.local_files_only = config.model.backbone.local_files_only;
    model.backbone.device_map.clone_from(&config.model.backbone.device_map);
    if let Some(problem) = of_another_model(config, &model, &old.data.sequence)? {
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

/// The first difference of what decides what the model is, with what to do: its section, and the windows that it sees.
fn of_another_model(config: &Config, model: &ModelConfig, windows: &SequenceConfig) -> Result<Option<String>> {
    let new = &config.data.sequence;
    let (section, old, new) = match (*model == config.model, windows == new) {
        (false, _) => ("model", values(model)?, values(&config.model)?),
        (true, false) => ("data.sequence", values(windows)?, values(new)?),
        (true, true) => return Ok(None),
    };
    // A list of patterns may differ in its order alone.
    let change = first_difference(section, &old, &new).unwrap_or_else(|| section.to_owned());
    Ok(Some(format!(
        "{change}: the `{section}` section differs from the one the run is to go on with, and decides what the model is; resume \
         with the run's own configuration, or start a new run"
    )))
}

/// A section as its keys and values.
fn values(section: &impl Serialize) -> Result<Value> {
    Ok(serde_json::to_value(section).map_err(std::io::Error::from).at("(configuration)")?)
}

/// The first key at which two sections differ, with the old value and the new one.
fn first_difference(key: &str, old: &Value, new: &Value) -> Option<String> {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            let of = |map: &Map<String, Value>, name| map.get(name).cloned().unwrap_or_default();
            names
                .into_iter()
                .find_map(|name| first_difference(&format!("{key}.{name}"), &of(old, name), &of(new, name)))
        }
        _ if old == new => None,
        _ => Some(format!("{key} was {old} and is {new}")),
    }
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

//! What a resumed run takes from its checkpoint, and what must not have changed since.

use std::path::{Path, PathBuf};

use crate::config::{Config, ModelConfig};
use crate::error::{Error, Result};
use crate::models::BuildReport;

use super::TrainingError;
use super::checkpoint::{BaseIdentity, CONFIG_FILE, Checkpoint};
use super::evaluate::Evaluation;
use super::optimizer::Part;
use super::parameters::ParameterTable;
use super::run::RunPaths;
use super::weights;

/// Finds a checkpoint of a run (the first of `names` that exists), or opens `path` if it is a checkpoint itself.
/// A run whose `ckpt_dir` is elsewhere is looked up there.
///
/// # Errors
/// If there is none, or a file of it is damaged.
pub fn find_checkpoint(path: &Path, names: &[&str]) -> Result<Checkpoint> {
    match Checkpoint::find(path, names) {
        Err(Error::Training(TrainingError::NoCheckpoint { .. })) if path.join(CONFIG_FILE).is_file() => {
            let config = Config::from_run_dir(path)?;
            Checkpoint::find(&paths_at(path.to_path_buf(), &config, &config.runtime.run_id).checkpoints, names)
        }
        found => found,
    }
}

/// The directories of a new run.
pub(super) fn new_run_paths(config: &Config) -> RunPaths {
    let runtime = &config.runtime;
    RunPaths::new(&runtime.output_dir, &runtime.log_dir, &runtime.ckpt_dir, &runtime.run_id)
}

/// The directories of the run that `checkpoint`, found at `from`, belongs to.
pub(super) fn resumed_run_paths(config: &Config, from: &Path, checkpoint: &Checkpoint) -> RunPaths {
    let run_id = &checkpoint.state.run_id;
    let folder = checkpoint.dir.parent();
    let root = if checkpoint.dir != *from && from.join(CONFIG_FILE).is_file() {
        from.to_path_buf()
    } else if folder.is_some_and(|f| f.ends_with("checkpoints")) {
        folder.and_then(Path::parent).map_or_else(|| PathBuf::from("."), Path::to_path_buf)
    } else {
        config.runtime.output_dir.join(run_id)
    };
    let mut paths = paths_at(root, config, run_id);
    if let Some(folder) = folder {
        paths.checkpoints = folder.to_path_buf();
    }
    paths
}

fn paths_at(root: PathBuf, config: &Config, run_id: &str) -> RunPaths {
    let runtime = &config.runtime;
    RunPaths::at(root, &runtime.output_dir, &runtime.log_dir, &runtime.ckpt_dir, run_id)
}

/// The base that a checkpoint names instead of holding it; `None` when the backbone itself trains.
pub(super) fn base_identity(config: &Config, build: &BuildReport, table: &ParameterTable) -> Option<BaseIdentity> {
    let backbone_trains = table.sorted().iter().any(|p| p.kind.part == Part::Backbone);
    (config.model.lora.enabled || !backbone_trains).then(|| BaseIdentity {
        name: config.model.pretrained_model_name.clone().unwrap_or_else(|| build.source.clone()),
        sha256: build.base_hash.clone(),
    })
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

/// The `model` section that builds the model of the run at `from`. The backbone comes from where `config` says.
pub(super) fn section_of(config: &Config, from: &Path) -> Result<ModelConfig> {
    let mut section = weights::section_of(config, &find_checkpoint(from, &["last", "best"])?);
    section.pretrained_model_name.clone_from(&config.model.pretrained_model_name);
    Ok(section)
}

/// Refuses a watched metric that no run has.
pub(super) fn check_monitor(config: &Config) -> Result<()> {
    let monitor = &config.training.early_stopping.monitor;
    let mut known = Evaluation::metric_names("val/");
    known.push("train/loss".to_owned());
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
/// If the models differ in more than where their weights are read from.
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
        return Err(TrainingError::DoesNotFit { path: label, problem }.into());
    }
    let (a, b) = (&old.training, &config.training);
    if a.batch_size != b.batch_size && checkpoint.state.batch > 0 {
        let problem = format!(
            "the run was stopped in the middle of an epoch of batches of {}; finish that epoch with this \
             training.batch_size before changing it to {}",
            a.batch_size, b.batch_size
        );
        return Err(TrainingError::DoesNotFit { path: label, problem }.into());
    }
    let changed = [
        ("data", old.data != config.data),
        ("training.seed", a.seed != b.seed),
        ("training.batch_size", a.batch_size != b.batch_size),
        ("training.optimizer", a.optimizer != b.optimizer),
        ("training.scheduler", a.scheduler != b.scheduler),
        ("training.loss", a.loss != b.loss),
        ("training.epochs", a.epochs != b.epochs),
    ];
    let note = |key: &str| format!("{key} differs from what the run began with; from here on the new value counts");
    Ok(changed.iter().filter(|(_, changed)| *changed).map(|(key, _)| note(key)).collect())
}

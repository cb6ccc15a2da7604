//! What of a model goes into a checkpoint, and back: adapters (and the biases that train with them) in PEFT's layout or
//! the backbone in Hugging Face's, and decoder and head. A base that does not train is not written.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, TensorData};

use crate::artifacts::adapter::peft_config::CONFIG_FILE;
use crate::artifacts::adapter::{PeftConfig, peft, write_adapter};
use crate::artifacts::pretrained::save::read_all;
use crate::artifacts::pretrained::{HEAD_FILE, StoredAs, backbone_state, load_head, write_backbone, write_head};
use crate::artifacts::{BuildReport, build_model};
use crate::config::{Config, LoraConfig, ModelConfig};
use crate::console::listing;
use crate::error::{IoContext, Result};
use crate::files::FileError;
use crate::models::state::{Require, load_state};
use crate::models::{HeatmapModel, ModelError, VisitLayers};

use super::TrainingError;
use super::checkpoint::{ADAPTER_DIR, BACKBONE_DIR, Checkpoint, is_file};
use super::identity;
use super::optimizer::Part;
use super::parameters::ParameterTable;
use super::resume::find_checkpoint;

/// Writes everything that `table` says may train into `dir`.
pub(super) fn write(
    model: &HeatmapModel,
    table: &ParameterTable,
    adapter: Option<&PeftConfig>,
    dir: &Path,
) -> Result<()> {
    write_head(dir, model)?;
    if let Some(config) = adapter {
        // Adapters of the decoder alone are part of its file.
        return if config.has_targets() { write_adapter(&dir.join(ADAPTER_DIR), model, config) } else { Ok(()) };
    }
    if table.sorted().iter().any(|p| p.kind.part == Part::Backbone) {
        write_backbone(&dir.join(BACKBONE_DIR), &model.backbone, StoredAs::F32)?;
    }
    Ok(())
}

/// Gives `model`, built by the checkpoint's configuration, the values of the checkpoint. Parameters keep their
/// identity and go on training or not as before. `adapter` is what the build says of the adapters of the backbone.
///
/// # Errors
/// A tensor that is missing, of another shape, not finite, or that the model does not have: by its name.
pub(super) fn load(
    mut model: HeatmapModel,
    adapter: Option<&PeftConfig>,
    checkpoint: &Checkpoint,
) -> Result<HeatmapModel> {
    let missing = |name: &str, why: &str| {
        TrainingError::damaged(checkpoint.dir.join(name), format!("it is missing, although {why}"))
    };
    let adapter = adapter.filter(|config| config.has_targets());
    match (checkpoint.backbone_dir(), &checkpoint.state.base) {
        (Some(dir), _) => {
            let path = dir.join("model.safetensors");
            let state = backbone_state(read_all(&path)?, model.backbone.family());
            model.backbone = fits(&path, load_state(model.backbone, state, Require::All))?;
        }
        (None, None) => return Err(missing(BACKBONE_DIR, "state.json names no base outside of the checkpoint").into()),
        (None, Some(_)) => {}
    }
    match (checkpoint.adapter_dir(), adapter) {
        (Some(dir), Some(config)) => {
            let path = dir.join(peft::WEIGHTS_FILE);
            let state = adapter_state(read_all(&path)?, &model);
            let expected = adapter_state(peft::adapter_tensors(&model, config), &model);
            require(&path, &expected, &state)?;
            model = fits(&path, load_state(model, state, Require::Nothing))?;
        }
        (None, Some(_)) => return Err(missing(ADAPTER_DIR, "the model has adapters").into()),
        (Some(dir), None) => {
            let problem = "the model has no adapters, but the checkpoint does".to_owned();
            return Err(TrainingError::DoesNotFit { path: dir, problem }.into());
        }
        (None, None) => {}
    }
    load_head(&checkpoint.head_path(), model)
}

/// Refuses a file without some of the tensors that are expected in it.
fn require(path: &Path, expected: &BTreeMap<String, TensorData>, found: &BTreeMap<String, TensorData>) -> Result<()> {
    let missing = expected.iter().filter(|(name, _)| !found.contains_key(*name));
    let problems: Vec<String> =
        missing.map(|(name, data)| format!("{name}: missing, expected {:?}", data.shape().to_vec())).collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(ModelError::Tensors { path: path.to_path_buf(), problems }.into()),
    }
}

/// PEFT's names → the model's, without what is only carried along.
fn adapter_state(tensors: BTreeMap<String, TensorData>, model: &HeatmapModel) -> BTreeMap<String, TensorData> {
    let (paths, beside) = (model.module_paths(), peft::Beside::of(model));
    let rename = |(name, data): (String, TensorData)| {
        let path = paths.from_any(name.strip_prefix("base_model.model.").unwrap_or(&name)).replace(".base_layer.", ".");
        (!beside.holds(&path)).then(|| (format!("backbone.{path}"), peft::as_rows(&name, data)))
    };
    tensors.into_iter().filter_map(rename).collect()
}

/// The `model` section that builds the model of a checkpoint. Where the run took its first values from may be gone.
pub(super) fn section_of(config: &Config, checkpoint: &Checkpoint) -> ModelConfig {
    let mut section = config.model.clone();
    section.decoder.pretrained = None;
    if section.lora.adapter.is_some() {
        section.lora.adapter = checkpoint.adapter_dir();
    }
    if let Some(dir) = checkpoint.backbone_dir() {
        section.pretrained_model_name = Some(dir.display().to_string());
    }
    section
}

fn fits<T>(path: &Path, loaded: Result<T, crate::models::ModelError>) -> Result<T> {
    loaded.map_err(|e| TrainingError::DoesNotFit { path: path.to_path_buf(), problem: e.to_string() }.into())
}

/// Said of a checkpoint of format version 1.
pub(super) const UNKNOWN_COMPUTATION: &str = "the checkpoint is of an earlier version and does not say what its backbone \
                                              computes: attention heads, rope_theta, image_mean and the like are taken \
                                              as they are";

/// A trained model, ready to predict.
#[derive(Debug)]
pub struct LoadedModel {
    /// With the weights of the checkpoint, without autodiff.
    pub model: HeatmapModel,
    /// The configuration of its run, with the base where it was found.
    pub config: Config,
    /// How the model was built; knows the normalization of the base.
    pub build: BuildReport,
    /// Where the weights come from.
    pub checkpoint: Checkpoint,
}

/// Which adapter a loaded model has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum AdapterChoice {
    /// The one that was trained in the run, if one was.
    #[default]
    Own,
    /// None: the base as it was before the run.
    None,
    /// The adapter of a directory; a [`HEAD_FILE`] in it replaces decoder and head, too.
    Directory(PathBuf),
}

/// Loads the best checkpoint of a run (the last if there is no best), or a checkpoint itself. `base` says where the
/// frozen backbone is now, if it is no more at the `model.pretrained_model_name` of the run.
///
/// # Errors
/// If there is none, a file of it is damaged, the frozen base is not the one it was trained on, or a `base` is given
/// for a run whose backbone trained.
pub fn load_model_for_inference(path: &Path, base: Option<&str>, device: &Device) -> Result<LoadedModel> {
    load_model_with_adapter(path, base, &AdapterChoice::Own, device)
}

/// [`load_model_for_inference`] with another adapter than the run's own, on the same base.
///
/// # Errors
/// As there; an adapter that does not fit, or a run whose backbone itself trained.
pub fn load_model_with_adapter(
    path: &Path,
    base: Option<&str>,
    adapter: &AdapterChoice,
    device: &Device,
) -> Result<LoadedModel> {
    let checkpoint = find_checkpoint(path, &["best", "last"])?;
    let label = checkpoint.dir.join(super::CONFIG_FILE).display().to_string();
    let mut config = Config::from_yaml(&label, &checkpoint.config_yaml()?)?;
    if checkpoint.backbone_dir().is_some() && (base.is_some() || *adapter != AdapterChoice::Own) {
        let what = if base.is_some() { "base" } else { "adapter" };
        let problem = format!("the backbone trained and is in the checkpoint: there is no other {what} to give it");
        return Err(TrainingError::DoesNotFit { path: checkpoint.dir, problem }.into());
    }
    if let Some(base) = base {
        config.model.pretrained_model_name = Some(base.to_owned());
    }
    let section = section_of(&config, &checkpoint);
    let build =
        |section: &ModelConfig| build_model(section, config.data.preprocess.resize, config.training.seed, device);
    let (model, mut report) = build(&section)?;
    checkpoint.check_base(Some(&identity::base_of(&config, &report)))?;
    if !checkpoint.check_computation(&identity::computation_of(&model, &report))? {
        report.notes.push(UNKNOWN_COMPUTATION.to_owned());
    }
    let mut model = load(model, report.lora.as_ref().map(|lora| &lora.peft), &checkpoint)?;
    // Another backbone below the run's decoder: adapters of the decoder belong to the run.
    let other = match adapter {
        AdapterChoice::Own => None,
        AdapterChoice::None => Some(LoraConfig::default()),
        AdapterChoice::Directory(dir) => {
            Some(LoraConfig { enabled: true, adapter: Some(dir.clone()), ..LoraConfig::default() })
        }
    };
    if let Some(lora) = other {
        let section = ModelConfig { lora, ..section };
        let (other, other_report) = build(&section)?;
        (model.backbone, report) = (other.backbone, other_report);
    }
    if let AdapterChoice::Directory(dir) = adapter
        && is_file(&dir.join(HEAD_FILE))?
    {
        model = load_head(dir, model)?;
    }
    Ok(LoadedModel { model: model.valid(), config, build: report, checkpoint })
}

/// Finds the adapter that `name` means: a directory with an `adapter_config.json`, or the name of one in `adapters/` of
/// the run or beside the run's own adapter.
///
/// # Errors
/// There is none; the names that exist are listed.
pub fn find_adapter(run: &Path, name: &str) -> Result<PathBuf> {
    let direct = PathBuf::from(name);
    if is_file(&direct.join(CONFIG_FILE))? {
        return Ok(direct);
    }
    let known = named_adapters(run)?;
    match known.iter().find(|(known, _)| known == name) {
        Some((_, dir)) => Ok(dir.clone()),
        None => {
            let names = listing(known.iter().map(|(name, _)| name), 12);
            let names = if names.is_empty() { "none".to_owned() } else { names };
            let problem = format!(
                "--adapter {name}: neither a directory with an {CONFIG_FILE} nor the name of an adapter of the run; \
                 names: {names}"
            );
            Err(TrainingError::DoesNotFit { path: run.to_path_buf(), problem }.into())
        }
    }
}

/// The adapters below a directory, by name: of a run its own (`best`, `last`) and those in `adapters/`, elsewhere every
/// sub-directory that holds one.
///
/// # Errors
/// A directory that cannot be looked into.
pub fn named_adapters(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let own = ["best", "last"].map(|name| (name, path.join("checkpoints").join(name).join(ADAPTER_DIR)));
    let mut candidates: Vec<(String, PathBuf)> =
        own.into_iter().chain([(ADAPTER_DIR, path.join(ADAPTER_DIR))]).map(|(n, dir)| (n.to_owned(), dir)).collect();
    for folder in [path.join("adapters"), path.to_path_buf()] {
        let mut entries = entries_of(&folder)?;
        entries.sort();
        let name = |dir: &Path| dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        candidates.extend(entries.into_iter().map(|dir| (name(&dir), dir)));
    }
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for (name, dir) in candidates {
        if is_file(&dir.join(CONFIG_FILE))? && !found.iter().any(|(known, _)| *known == name) {
            found.push((name, dir));
        }
    }
    Ok(found)
}

/// What is in a directory; nothing if there is none.
fn entries_of(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.at(dir)?.path())).collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error).at(dir),
    }
}

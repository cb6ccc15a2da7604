//! What of a model goes into a checkpoint, and back: adapters (and the biases that train with them) in PEFT's layout or
//! the backbone in Hugging Face's, and decoder and head. A base that does not train is not written.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, TensorData};

use crate::config::Config;
use crate::error::Result;
use crate::models::lora::{peft, write_adapter};
use crate::models::pretrained::save::read_all;
use crate::models::pretrained::{StoredAs, load_head, write_backbone, write_head};
use crate::models::state::{Require, load_state};
use crate::models::{BuildReport, HeatmapModel, VisitProjections, build_model};

use super::TrainingError;
use super::checkpoint::{ADAPTER_DIR, BACKBONE_DIR, BaseIdentity, Checkpoint};
use super::optimizer::Part;
use super::parameters::ParameterTable;
use super::resume::find_checkpoint;

/// Writes everything that `table` says may train into `dir`.
pub(super) fn write(model: &HeatmapModel, table: &ParameterTable, config: &Config, dir: &Path) -> Result<()> {
    write_head(dir, model)?;
    if config.model.lora.enabled {
        let name = config.model.pretrained_model_name.as_deref();
        return write_adapter(&dir.join(ADAPTER_DIR), model, &config.model.lora, name);
    }
    if table.sorted().iter().any(|p| p.kind.part == Part::Backbone) {
        write_backbone(&dir.join(BACKBONE_DIR), &model.backbone, StoredAs::F32)?;
    }
    Ok(())
}

/// Gives `model`, built by the checkpoint's configuration, the values of the checkpoint. Parameters keep their
/// identity and go on training or not as before.
pub(super) fn load(mut model: HeatmapModel, checkpoint: &Checkpoint) -> Result<HeatmapModel> {
    if let Some(dir) = checkpoint.backbone_dir() {
        let path = dir.join("model.safetensors");
        model.backbone = fits(&path, load_state(model.backbone, read_all(&path)?, Require::Nothing))?;
    }
    if let Some(dir) = checkpoint.adapter_dir() {
        let path = dir.join(peft::WEIGHTS_FILE);
        let state = adapter_state(read_all(&path)?, model.peft_prefix());
        model = fits(&path, load_state(model, state, Require::Nothing))?;
    }
    load_head(&checkpoint.head_path(), model)
}

/// PEFT's names → the model's.
fn adapter_state(tensors: BTreeMap<String, TensorData>, prefix: &str) -> BTreeMap<String, TensorData> {
    let rename = |name: String| {
        let path = name.strip_prefix("base_model.model.").unwrap_or(&name);
        format!("backbone.{}", path.strip_prefix(prefix).unwrap_or(path).replace(".base_layer.", "."))
    };
    tensors.into_iter().map(|(name, data)| (rename(name), data)).collect()
}

fn fits<T>(path: &Path, loaded: Result<T, crate::models::ModelError>) -> Result<T> {
    loaded.map_err(|e| TrainingError::DoesNotFit { path: path.to_path_buf(), problem: e.to_string() }.into())
}

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

/// Loads the best checkpoint of a run (the last if there is no best), or a checkpoint itself. `base` says where the
/// frozen backbone is now, if it is no more at the `model.pretrained_model_name` of the run.
///
/// # Errors
/// If there is none, a file of it is damaged, the frozen base is not the one it was trained on, or a `base` is given
/// for a run whose backbone trained.
pub fn load_model_for_inference(path: &Path, base: Option<&str>, device: &Device) -> Result<LoadedModel> {
    let checkpoint = find_checkpoint(path, &["best", "last"])?;
    let label = checkpoint.dir.join(super::CONFIG_FILE).display().to_string();
    let mut config = Config::from_yaml(&label, &checkpoint.config_yaml()?)?;
    if let Some(base) = base {
        if checkpoint.backbone_dir().is_some() {
            let problem = "the backbone trained and is in the checkpoint: there is no other base to give it".to_owned();
            return Err(TrainingError::DoesNotFit { path: checkpoint.dir, problem }.into());
        }
        config.model.pretrained_model_name = Some(base.to_owned());
    }
    let mut section = config.model.clone();
    // The head comes from the checkpoint; where the run took its first values from may be gone.
    section.decoder.pretrained = None;
    if let Some(dir) = checkpoint.backbone_dir() {
        section.pretrained_model_name = Some(dir.display().to_string());
    }
    let (model, build) = build_model(&section, config.data.preprocess.resize, config.training.seed, device)?;
    let base = BaseIdentity { name: build.source.clone(), sha256: build.base_hash.clone() };
    checkpoint.check_base(Some(&base))?;
    let model = load(model, &checkpoint)?.valid();
    Ok(LoadedModel { model, config, build, checkpoint })
}

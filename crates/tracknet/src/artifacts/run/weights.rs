//! What of a model goes into a checkpoint, and back: adapters (and the biases that train with them) in PEFT's layout or
//! the backbone in Hugging Face's, and decoder and head. A base that does not train is not written.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::TensorData;

use crate::artifacts::adapter::{PeftConfig, peft, write_adapter};
use crate::artifacts::pretrained::save::read_all;
use crate::artifacts::pretrained::{StoredAs, backbone_state, load_head, write_backbone, write_head};
use crate::config::{Config, ModelConfig};
use crate::error::Result;
use crate::models::state::{Require, load_state};
use crate::models::{HeatmapModel, ModelError, VisitLayers};

use super::{ADAPTER_DIR, BACKBONE_DIR, Checkpoint, RunError};

/// Writes decoder, head and what else of `model` may train into `dir`: the adapters of the backbone, if the model has an
/// `adapter`, or all of it, if `with_backbone`.
pub(crate) fn write_weights(
    model: &HeatmapModel,
    with_backbone: bool,
    adapter: Option<&PeftConfig>,
    dir: &Path,
) -> Result<()> {
    write_head(dir, model, StoredAs::F32)?;
    if let Some(config) = adapter {
        // Adapters of the decoder alone are part of its file.
        return if config.has_targets() { write_adapter(&dir.join(ADAPTER_DIR), model, config) } else { Ok(()) };
    }
    if with_backbone {
        write_backbone(&dir.join(BACKBONE_DIR), &model.backbone, StoredAs::F32)?;
    }
    Ok(())
}

/// Gives `model`, built by the checkpoint's configuration, the values of the checkpoint. Parameters keep their
/// identity and go on training or not as before. `adapter` is what the build says of the adapters of the backbone.
///
/// # Errors
/// A tensor that is missing, of another shape, not finite, or that the model does not have: by its name.
pub(crate) fn load_weights(
    mut model: HeatmapModel,
    adapter: Option<&PeftConfig>,
    checkpoint: &Checkpoint,
) -> Result<HeatmapModel> {
    let missing =
        |name: &str, why: &str| RunError::damaged(checkpoint.dir.join(name), format!("it is missing, although {why}"));
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
            return Err(RunError::DoesNotFit { path: dir, problem }.into());
        }
        (None, None) => {}
    }
    load_head(&checkpoint.head_path(), model)
}

/// [`load_weights`] of a model that predicts, with the scores that the run gave it at its end.
///
/// # Errors
/// As there.
pub(crate) fn load_calibrated(
    model: HeatmapModel,
    adapter: Option<&PeftConfig>,
    checkpoint: &Checkpoint,
) -> Result<HeatmapModel> {
    let mut model = load_weights(model, adapter, checkpoint)?;
    if let Some(shift) = checkpoint.state.score_shift {
        model.head = model.head.shifted(shift);
    }
    Ok(model)
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
pub(crate) fn section_of(config: &Config, checkpoint: &Checkpoint) -> ModelConfig {
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
    loaded.map_err(|e| RunError::DoesNotFit { path: path.to_path_buf(), problem: e.to_string() }.into())
}

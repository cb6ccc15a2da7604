//! How a model comes back from a run or one of its checkpoints.

use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::Device;

use crate::config::{Bias, Config, LoraConfig, ModelConfig};
use crate::error::Result;
use crate::models::{Backbone, HeatmapModel, VisitLayers};

use super::adapter::AdapterFile;
use super::pretrained::{HEAD_FILE, load_head};
use super::run::checkpoint::is_file;
use super::run::weights::{load_calibrated, section_of};
use super::run::{CONFIG_FILE, Checkpoint, RunError, UNKNOWN_COMPUTATION, find_checkpoint, identity};
use super::{BuildReport, build_model};

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
    let label = checkpoint.dir.join(CONFIG_FILE).display().to_string();
    let mut config = Config::from_yaml(&label, &checkpoint.config_yaml()?)?;
    if checkpoint.backbone_dir().is_some() && (base.is_some() || *adapter != AdapterChoice::Own) {
        let what = if base.is_some() { "base" } else { "adapter" };
        let problem = format!("the backbone trained and is in the checkpoint: there is no other {what} to give it");
        return Err(RunError::DoesNotFit { path: checkpoint.dir, problem }.into());
    }
    if let Some(base) = base {
        config.model.pretrained_model_name = Some(base.to_owned());
    }
    let section = section_of(&config, &checkpoint);
    let build = |section: &ModelConfig| build_model(section, &config.data, config.training.seed, device);
    let (model, mut report) = build(&section)?;
    checkpoint.check_base(Some(&identity::base_of(&config, &report)))?;
    if !checkpoint.check_computation(&identity::computation_of(&model, &report))? {
        report.notes.push(UNKNOWN_COMPUTATION.to_owned());
    }
    let mut model = load_calibrated(model, report.lora.as_ref().map(|lora| &lora.peft), &checkpoint)?;
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
    if let AdapterChoice::Directory(dir) = adapter {
        model = with_head_of(dir, model)?;
    }
    Ok(LoadedModel { model: model.valid(), config, build: report, checkpoint })
}

/// The model with the decoder and head that come with an adapter, or its own.
fn with_head_of(dir: &Path, model: HeatmapModel) -> Result<HeatmapModel> {
    if is_file(&dir.join(HEAD_FILE))? { load_head(dir, model) } else { Ok(model) }
}

impl LoadedModel {
    /// The backbone as it was before the run's adapters, if they can be taken off it: it shares its weights with this model.
    /// Adapters that began by changing the base, and biases or modules that trained beside them, cannot.
    pub(crate) fn bare_backbone(&self) -> Option<Backbone> {
        let mut backbone = self.model.backbone.clone();
        if let Some(report) = &self.build.lora {
            let lora = &report.peft.lora;
            let only_adapters = lora.bias == Bias::None && lora.modules_to_save.as_ref().is_none_or(Vec::is_empty);
            if lora.init_lora_weights.reads_weights() || !only_adapters {
                return None;
            }
            backbone.visit_layers_mut(&mut |_, layer| *layer.adapter_mut() = None);
        }
        Some(backbone)
    }

    /// This model with the adapter of a directory on `bare`, the backbone of its run without adapters, whose weights are shared;
    /// `None` for an adapter that changed the base when it began, and needs one of its own.
    ///
    /// # Errors
    /// An adapter that cannot be read or does not fit.
    pub(crate) fn with_adapter(&self, bare: &Backbone, dir: &Path) -> Result<Option<HeatmapModel>> {
        let file = AdapterFile::read(dir, bare.module_paths())?;
        if file.config.lora.init_lora_weights.reads_weights() {
            return Ok(None);
        }
        let (backbone, _) = file.attach(bare.clone())?;
        let model = HeatmapModel { backbone, ..self.model.clone() };
        Ok(Some(with_head_of(dir, model)?.valid()))
    }
}

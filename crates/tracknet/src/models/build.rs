//! From a configuration to a model. The only place that knows every variant.

use std::cell::RefCell;
use std::fmt;

use burn::module::Module;
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::config::{MODEL_NAMES, ModelConfig};
use crate::error::Result;

use super::backbones::VitSpec;
use super::decoders::UpsamplingSpec;
use super::init::{Builder, Fill, RandomSource, Source};
use super::lora::{LoraReport, apply_lora_to_model};
use super::pretrained::checkpoint::WeightSource;
use super::pretrained::{Checkpoint, Preprocessing, hub};
use super::state::{Group, NamedModule, ParameterInfo, named_parameters};
use super::{HeatmapHead, HeatmapModel, ModelError, UpsamplingDecoder, Vit};

/// What was built, for the log and the run directory.
#[derive(Debug, Clone)]
pub struct BuildReport {
    /// Where the backbone comes from.
    pub source: String,
    /// The normalization the checkpoint asks for.
    pub preprocessing: Option<Preprocessing>,
    /// Which modules were adapted.
    pub lora: Option<LoraReport>,
    /// How many parameters train.
    pub trainable: TrainableSummary,
    /// SHA-256 over names, shapes and values of the backbone's weights as they were before quantization.
    pub base_hash: String,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl fmt::Display for BuildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "backbone: {}", self.source)?;
        if let Some(lora) = &self.lora {
            writeln!(f, "{lora}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        write!(f, "{}", self.trainable)
    }
}

/// Parameters that train, of all; sizes are logical, as if nothing were packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrainableSummary {
    /// Parameters that receive gradients.
    pub trainable: usize,
    /// All parameters.
    pub all: usize,
}

impl TrainableSummary {
    /// Counts the parameters of a model.
    pub fn of<M: NamedModule>(model: &M) -> Self {
        let parameters = named_parameters(model);
        let count =
            |filter: fn(&ParameterInfo) -> bool| parameters.iter().filter(|p| filter(p)).map(|p| p.count()).sum();
        Self { trainable: count(|p| p.trainable), all: count(|_| true) }
    }
}

impl fmt::Display for TrainableSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.trainable as f64 / self.all.max(1) as f64;
        let [trainable, all] = [self.trainable, self.all].map(grouped);
        write!(f, "trainable params: {trainable} || all params: {all} || trainable%: {percent:.4}")
    }
}

/// `1234567` as `1,234,567`.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Builds the model that `config` describes for frames of `input_size` (`[W, H]`, pixels) on `device`.
///
/// A device with autodiff gives a model to train. `seed` decides every random first value.
///
/// # Errors
/// A configuration that cannot work, a checkpoint that cannot be found, read or does not fit.
pub fn build_model(
    config: &ModelConfig,
    input_size: [usize; 2],
    seed: u64,
    device: &Device,
) -> Result<(HeatmapModel, BuildReport)> {
    // Assemble, load, freeze, quantize, adapt: adapters come last, so that freezing cannot reach them.
    let plan = Plan::new(config, input_size)?;
    let (mut model, base_hash) = plan.assemble_and_load(seed, device)?;
    if config.backbone.freeze || config.lora.enabled {
        model.backbone = model.backbone.freeze();
    }
    let mut lora = None;
    if config.lora.enabled {
        let (backbone, report) = apply_lora_to_model(model.backbone, &config.lora, None, seed)?;
        model.backbone = backbone;
        lora = Some(report);
    }
    let trainable = TrainableSummary::of(&model);
    let report = BuildReport {
        source: plan.source,
        preprocessing: plan.checkpoint.as_ref().and_then(|c| c.preprocessing),
        lora,
        trainable,
        base_hash,
        notes: plan.notes,
    };
    Ok((model, report))
}

/// A configuration that was found to work, before any tensor is read.
struct Plan {
    source: String,
    checkpoint: Option<Checkpoint>,
    backbone: VitSpec,
    decoder: UpsamplingSpec,
    notes: Vec<String>,
}

impl Plan {
    fn new(config: &ModelConfig, input_size: [usize; 2]) -> Result<Self> {
        if !MODEL_NAMES.contains(&config.model_name.as_str()) {
            let message = format!("`{}` is not known; known models: {}", config.model_name, MODEL_NAMES.join(", "));
            return Err(ModelError::key("model.model_name", message).into());
        }
        let mut notes = Vec::new();
        let (source, checkpoint, backbone) = match &config.pretrained_model_name {
            Some(name) => {
                let dir = hub::resolve(name, config.backbone.local_files_only)?;
                let checkpoint = Checkpoint::open(&dir)?;
                let key = dir.join("config.json").display().to_string();
                let (spec, _) = VitSpec::from_config(&checkpoint.config, &key)?;
                (dir.display().to_string(), Some(checkpoint), spec)
            }
            None => {
                let architecture = inline_architecture(config);
                let (spec, unknown) = VitSpec::from_config(&architecture, "model.backbone.architecture")?;
                notes.extend(unknown.iter().map(|k| format!("model.backbone.architecture.{k}: ignored")));
                (format!("random weights ({})", spec.names.model_type), None, spec)
            }
        };
        if backbone.patch != config.backbone.patch_size {
            let message = format!(
                "is {}, but the backbone has patches of {} pixels: make them equal",
                config.backbone.patch_size, backbone.patch
            );
            return Err(ModelError::key("model.backbone.patch_size", message).into());
        }
        backbone.grid(input_size)?;
        let decoder = UpsamplingSpec::new(&config.decoder, backbone.hidden, backbone.patch, config.heatmap.size)?;
        Ok(Self { source, checkpoint, backbone, decoder, notes })
    }

    fn assemble_and_load(&self, seed: u64, device: &Device) -> Result<(HeatmapModel, String)> {
        let random = RandomSource { seed };
        let (backbone, base_hash) = match &self.checkpoint {
            None => {
                let source = Hashed::new(&random);
                (Vit::new(&self.backbone, &Builder::new(&source, device)), source.finish())
            }
            Some(checkpoint) => {
                let names = self.backbone.names;
                let source = WeightSource::new(&checkpoint.weights, names.optional_prefix);
                let hashed = Hashed::new(&source);
                let backbone = Vit::new(&self.backbone, &Builder::new(&hashed, device));
                let hash = hashed.finish();
                source.finish(|name| names.is_unused(name))?;
                (backbone, hash)
            }
        };
        let builder = Builder::new(&random, device);
        let decoder = UpsamplingDecoder::new(&self.decoder, &builder.at("decoder"));
        let head = HeatmapHead::new(self.decoder.output_channels(), &builder.at("head"));
        Ok((HeatmapModel { backbone, decoder, head }, base_hash))
    }
}

/// The `architecture` section with what it leaves out: DINOv3, and the configured patch size.
fn inline_architecture(config: &ModelConfig) -> Map<String, Value> {
    let mut architecture = config.backbone.architecture.clone().unwrap_or_default();
    architecture.entry("model_type").or_insert_with(|| json!("dinov3_vit"));
    architecture.entry("patch_size").or_insert_with(|| json!(config.backbone.patch_size));
    architecture
}

/// Hashes what a source gives, on its way to the model.
struct Hashed<'a> {
    inner: &'a dyn Source,
    digest: RefCell<Sha256>,
}

impl<'a> Hashed<'a> {
    fn new(inner: &'a dyn Source) -> Self {
        Self { inner, digest: RefCell::new(Sha256::new()) }
    }

    fn finish(&self) -> String {
        self.digest.borrow().clone().finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl Source for Hashed<'_> {
    fn values(&self, name: &str, shape: &[usize], fill: Fill) -> Vec<f32> {
        let values = self.inner.values(name, shape, fill);
        let mut digest = self.digest.borrow_mut();
        digest.update(format!("{name} {shape:?}\n"));
        for chunk in values.chunks(4096) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
            digest.update(bytes);
        }
        values
    }
}

/// Whether a parameter is part of the base whose hash a checkpoint keeps.
pub fn is_base(info: &ParameterInfo) -> bool {
    info.group == Group::Backbone
}

//! From a configuration to a model. The only place that knows every variant.

use std::fmt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use burn::module::Module;
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tracknet_kernels::{Absmax, ComputeDtype};

use crate::config::{DEFAULT_BACKBONE, LoraConfig, ModelConfig, QuantMode, QuantizationConfig};
use crate::error::{Error, Result};
use crate::files::hex;
use crate::models::backbones::{BackboneSpec, ModulePaths};
use crate::models::lora::plan::{self, InitialMatrices, LoraPlan};
use crate::models::nn::{Builder, Fill, LinearWeight, RandomSource, Source};
use crate::models::quantization::{Format, Packer, QuantizationReport, Storage, apply_quantization};
use crate::models::registry::{backbone_row, decoder_of, describe_backbone};
use crate::models::state::NamedModule;
use crate::models::window::WindowSpec;
use crate::models::{
    Backbone, HeatmapHead, HeatmapModel, MemoryReport, ModelError, ModelInput, VisitLayers, Window, words,
};

use super::adapter::{AdapterFile, AdapterReport};
use super::pretrained::bnb::BnbConfig;
use super::pretrained::checkpoint::WeightSource;
use super::pretrained::{Checkpoint, Preprocessing, hub, load_initial_head};

/// What was built, for the log and the run directory.
#[derive(Debug, Clone)]
pub struct BuildReport {
    /// Where the backbone comes from.
    pub source: String,
    /// The normalization the checkpoint asks for; `None` = it has no `preprocessor_config.json`.
    pub preprocessing: Option<Preprocessing>,
    /// Which modules were adapted.
    pub lora: Option<AdapterReport>,
    /// Which linear layers were packed.
    pub quantization: Option<QuantizationReport>,
    /// Parameters and bytes.
    pub memory: MemoryReport,
    /// SHA-256 over names, shapes and values of the backbone's weights as they were read: before quantization, or packed
    /// when the checkpoint is in 4 bits.
    pub base_hash: String,
    /// What the user should know.
    pub notes: Vec<String>,
}

impl BuildReport {
    /// Mean and deviation of each channel that frames are normalized with: the checkpoint's, or ImageNet's.
    pub fn normalization(&self) -> ([f32; 3], [f32; 3]) {
        let Preprocessing { mean, std } = self.preprocessing.unwrap_or(Preprocessing::IMAGENET);
        (mean, std)
    }
}

impl fmt::Display for BuildReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "backbone: {}", self.source)?;
        let (frames, says) = match self.preprocessing {
            Some(of_checkpoint) => (of_checkpoint, "as its preprocessor_config.json says"),
            None => (Preprocessing::IMAGENET, "ImageNet's, because it has no preprocessor_config.json"),
        };
        writeln!(f, "data.preprocess.normalize: {frames}, {says}")?;
        if let Some(quantization) = &self.quantization {
            writeln!(f, "{quantization}")?;
        }
        if let Some(lora) = &self.lora {
            writeln!(f, "{lora}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        write!(f, "{}", self.memory)
    }
}

/// Builds the model that `config` describes for `input` on `device`: the frames of a data section, or single frames of `[W, H]`
/// pixels.
///
/// A device with autodiff gives a model to train. `seed` decides every random initial value.
///
/// # Errors
/// A configuration that cannot work, a checkpoint that cannot be found, read or does not fit.
pub fn build_model(
    config: &ModelConfig,
    input: impl Into<ModelInput>,
    seed: u64,
    device: &Device,
) -> Result<(HeatmapModel, BuildReport)> {
    let decoder = decoder_of(config.model_name)?;
    let input = input.into();
    let window = WindowSpec::new(config, input.frames)?;
    let plan = BackbonePlan::new(config)?.with_stages(&config.backbone.return_stages)?;
    plan.check_patch_size(config.backbone.patch_size)?;
    plan.spec.check_input(input.size)?;
    let decoder = (decoder.plan)(config, &plan.spec.layout(), config.heatmap.size, window)?;
    let (model, mut report) = plan.build(config, seed, device, |backbone| {
        let random = RandomSource { seed };
        let builder = Builder::new(&random, device);
        let (channels, heatmaps, prior) = (decoder.output_channels(), window.heatmaps(), config.heatmap.prior);
        let head = HeatmapHead::with_prior(channels, heatmaps, prior, &builder.at("head"));
        let window = Window::new(window, backbone.spec().embedding(), &builder.at("window"));
        let model = HeatmapModel { backbone, decoder: decoder.build(&builder.at("decoder")), head, window };
        match &config.decoder.pretrained {
            Some(path) => load_initial_head(path, model),
            None => Ok(model),
        }
    })?;
    let model = model.with_trainable(|parameter| parameter.trainable);
    report.notes.extend(adapters_without_say(&model));
    report.memory = MemoryReport::of(&model);
    Ok((model, report))
}

/// What to tell of adapters on layers that no heatmap is computed with. They are there because PEFT has them: the files of an
/// adapter do not depend on what a decoder takes in.
fn adapters_without_say(model: &HeatmapModel) -> Option<String> {
    let spec = model.backbone.spec();
    let mut count = 0;
    model.backbone.visit_layers(&mut |path, layer| {
        count += usize::from(layer.adapter().is_some() && !spec.reaches_features(path));
    });
    (count > 0).then(|| {
        format!(
            "{count} of the adapted modules are in stages after the last one of model.backbone.return_stages: no heatmap is \
             computed with them, and they do not train"
        )
    })
}

/// Builds a backbone alone, from a checkpoint (`name` as in `model.pretrained_model_name`), with the adapters and the
/// storage that the two sections ask for.
///
/// # Errors
/// As [`build_model`].
pub fn build_backbone(
    name: &str,
    lora: &LoraConfig,
    quantization: &QuantizationConfig,
    device: &Device,
) -> Result<(Backbone, BuildReport)> {
    let config = ModelConfig {
        pretrained_model_name: Some(name.to_owned()),
        lora: lora.clone(),
        quantization: quantization.clone(),
        ..ModelConfig::default()
    };
    BackbonePlan::new(&config)?.build(&config, 0, device, Ok)
}

/// Where the adapters come from. Some need the weights before they are quantized; all are added after.
enum Adaptation {
    Off,
    New(LoraPlan, InitialMatrices),
    Read(AdapterFile),
}

impl Adaptation {
    fn prepare<M: VisitLayers>(
        model: &mut M,
        config: &LoraConfig,
        storage: Option<&Storage>,
        seed: u64,
    ) -> Result<Self> {
        if !config.enabled {
            return Ok(Self::Off);
        }
        if let Some(dir) = &config.adapter {
            let file = AdapterFile::read(dir, model.module_paths())?;
            file.prepare_base(model, storage)?;
            return Ok(Self::Read(file));
        }
        let plan = LoraPlan::new(model, config, None, seed)?;
        let initial = plan.init_from_weights(model, storage)?;
        Ok(Self::New(plan, initial))
    }

    fn finish<M: NamedModule + VisitLayers>(self, model: M, config: &LoraConfig) -> Result<(M, Option<AdapterReport>)> {
        let (model, report) = match self {
            Self::Off => return Ok((model, None)),
            Self::New(plan, initial) => {
                let (model, report) = plan.apply(model, initial)?;
                let report = AdapterReport::of_new(report, config, model.module_paths());
                (model, report)
            }
            Self::Read(file) => file.attach(model)?,
        };
        Ok((model, Some(report)))
    }
}

/// A backbone that was found to work, before any tensor is read.
struct BackbonePlan {
    source: String,
    checkpoint: Option<Checkpoint>,
    spec: Arc<dyn BackboneSpec>,
    /// What weights that are in 4 bits already are rounded to when they are dequantized.
    compute: ComputeDtype,
    notes: Vec<String>,
}

impl BackbonePlan {
    fn new(config: &ModelConfig) -> Result<Self> {
        check_adaptation(config)?;
        let mut notes = Vec::new();
        let mut compute = ComputeDtype::F32;
        let (source, checkpoint, spec) = match find_backbone(config)? {
            Some(dir) => {
                let checkpoint = Checkpoint::open(&dir)?;
                let key = dir.join("config.json").display().to_string();
                let (spec, _) = describe_backbone(&checkpoint.config, &key)?;
                checkpoint.check_size(&*spec, &key)?;
                notes.extend(checkpoint.notes.iter().cloned());
                if let Some(bnb) = &checkpoint.quantization {
                    compute = stored_packed(bnb, config, &key, &mut notes)?;
                }
                (dir.display().to_string(), Some(checkpoint), spec)
            }
            None => {
                let architecture = inline_architecture(config);
                let (spec, unknown) = describe_backbone(&architecture, "model.backbone.architecture")?;
                notes.extend(unknown.iter().map(|k| format!("model.backbone.architecture.{k}: ignored")));
                if config.backbone.freeze || config.lora.enabled {
                    notes.push(RANDOM_AND_FROZEN.to_owned());
                }
                (format!("random weights ({})", spec.family().model_type), None, spec)
            }
        };
        Ok(Self { source, checkpoint, spec, compute, notes })
    }

    /// With the features of these stages only, where the backbone has several.
    fn with_stages(self, stages: &[usize]) -> Result<Self, ModelError> {
        let spec = self.spec.with_stages(stages)?.unwrap_or_else(|| self.spec.clone());
        Ok(Self { spec, ..self })
    }

    /// Refuses a configured patch size that is another than the backbone's.
    fn check_patch_size(&self, configured: usize) -> Result<(), ModelError> {
        match self.spec.patch_size().filter(|patch| *patch != configured) {
            None => Ok(()),
            Some(patch) => {
                let message =
                    format!("is {configured}, but the backbone has patches of {patch} pixels: make them equal");
                Err(ModelError::key("model.backbone.patch_size", message))
            }
        }
    }

    /// Loads the backbone, lets `assemble` make a model around it, and gives that its storage and adapters. Adapters come
    /// last, so that freezing cannot reach them.
    fn build<M: NamedModule + VisitLayers>(
        self,
        config: &ModelConfig,
        seed: u64,
        device: &Device,
        assemble: impl FnOnce(Backbone) -> Result<M>,
    ) -> Result<(M, BuildReport)> {
        let stored_packed = self.checkpoint.as_ref().is_some_and(|c| c.quantization.is_some());
        let paths = ModulePaths::Of(self.spec.family());
        let packer = match config.quantization.enabled && !stored_packed && !needs_float_weights(config) {
            true => Some(Packer::new(&config.quantization, paths)?),
            false => None,
        };
        let (mut backbone, base_hash) = self.load(seed, device, packer.as_ref())?;
        if config.backbone.freeze || config.lora.enabled {
            backbone = backbone.freeze();
        }
        let mut model = assemble(backbone)?;
        let storage = match stored_packed {
            true => None,
            false => Storage::new(&config.quantization, paths)?,
        };
        let adaptation = Adaptation::prepare(&mut model, &config.lora, storage.as_ref(), seed)?;
        let (model, quantization) = match packer {
            Some(packer) => (model, Some(packer.finish()?)),
            None if stored_packed => {
                let report = QuantizationReport::of_packed(&model);
                (model, Some(report))
            }
            None if config.quantization.enabled => {
                let (model, report) = apply_quantization(model, &config.quantization)?;
                (model, Some(report))
            }
            None => (model, None),
        };
        let (model, lora) = adaptation.finish(model, &config.lora)?;
        let report = BuildReport {
            source: self.source,
            preprocessing: self.checkpoint.as_ref().and_then(|c| c.preprocessing),
            quantization,
            lora,
            memory: MemoryReport::of(&model),
            base_hash,
            notes: self.notes,
        };
        Ok((model, report))
    }

    /// The backbone with its weights, and their hash.
    fn load(&self, seed: u64, device: &Device, packer: Option<&Packer>) -> Result<(Backbone, String)> {
        let build = |source: &dyn Source| {
            let packing = packer.map(|packer| packer.over(source));
            let source = packing.as_ref().map_or(source, |packing| packing);
            Backbone::new(self.spec.clone(), &Builder::new(source, device))
        };
        match &self.checkpoint {
            None => {
                let random = RandomSource { seed };
                let hashed = Hashed::new(&random);
                Ok((build(&hashed), hashed.finish()))
            }
            Some(checkpoint) => {
                let source =
                    WeightSource::new(&checkpoint.weights, self.spec.family()).with_compute_dtype(self.compute);
                let hashed = Hashed::new(&source);
                let backbone = build(&hashed);
                let hash = hashed.finish();
                Ok((backbone.carrying(checkpoint.carried(source.finish()?)), hash))
            }
        }
    }
}

/// Whether the float weights are needed once the model is built: the initial matrices of the adapters are computed from them,
/// or the base of an adapter that is read may be. Otherwise each weight is packed while it is read.
fn needs_float_weights(config: &ModelConfig) -> bool {
    let lora = &config.lora;
    let reads = lora.adapter.is_some() || lora.init_lora_weights.reads_weights();
    lora.enabled && reads && config.quantization.mode != QuantMode::Hf
}

/// Refuses what cannot train or cannot be packed before anything is read.
fn check_adaptation(config: &ModelConfig) -> Result<(), ModelError> {
    if config.lora.enabled && config.lora.adapter.is_none() {
        plan::validate(&config.lora)?;
        let streamed = config.quantization.enabled && config.quantization.mode == QuantMode::Hf;
        plan::check_init(config.lora.init_lora_weights, config.quantization.enabled, streamed)?;
    }
    if config.quantization.enabled {
        Format::new(&config.quantization)?;
        if !config.lora.enabled && !config.backbone.freeze {
            return Err(ModelError::key("model.quantization.enabled", CANNOT_TRAIN));
        }
    }
    Ok(())
}

const CANNOT_TRAIN: &str = "no gradient can pass into packed weights, so a quantized backbone cannot train by itself: set \
                            model.lora.enabled or model.backbone.freeze to true";

/// A checkpoint that is in 4 bits already keeps its storage, whatever the `quantization` section says of code and blocks;
/// the section decides the compute dtype when it is enabled, the checkpoint when it is not.
fn stored_packed(
    bnb: &BnbConfig,
    config: &ModelConfig,
    key: &str,
    notes: &mut Vec<String>,
) -> Result<ComputeDtype, ModelError> {
    if !config.lora.enabled && !config.backbone.freeze {
        return Err(ModelError::key(
            format!("{key}: quantization_config"),
            format!("the checkpoint is in 4 bits: {CANNOT_TRAIN}"),
        ));
    }
    if !config.quantization.enabled {
        let name = words::dtype_name(bnb.compute_dtype);
        notes.push(format!(
            "the checkpoint is in 4 bits ({}); weights are rounded to {name}, as it says",
            bnb.quant_type
        ));
        return Ok(bnb.compute_dtype);
    }
    let format = Format::new(&config.quantization)?;
    let wanted = format.options();
    notes.push("the checkpoint is in 4 bits: it is used as it is, not quantized again".to_owned());
    if wanted.quant_type != bnb.quant_type {
        let message = format!("is {}, but the checkpoint is in {}", wanted.quant_type, bnb.quant_type);
        notes.push(format!("model.quantization.quant_type {message}, which counts"));
    }
    if wanted.double_quant != bnb.double_quant {
        let stored = if bnb.double_quant { "has" } else { "does not have" };
        notes.push(format!("model.quantization: the checkpoint {stored} double quantization, which counts"));
    }
    Ok(format.compute())
}

const RANDOM_AND_FROZEN: &str = "warning: the backbone has random weights and is frozen, so it has learned nothing and will not: \
                                 name a checkpoint in model.pretrained_model_name, or train the backbone with \
                                 model.backbone.freeze=false and without LoRA";

/// The directory of the checkpoint that `config` names; without a name and an architecture, the default one's. `None` = random
/// weights. Downloads it if it has to be and may be.
///
/// # Errors
/// It is not found, or not downloaded: where it was looked for, what happened and what to do.
pub fn find_backbone(config: &ModelConfig) -> Result<Option<PathBuf>> {
    let only_local = config.backbone.local_files_only;
    match &config.pretrained_model_name {
        Some(name) => hub::resolve(name, only_local).map(Some),
        None if config.backbone.architecture.is_some() => Ok(None),
        None => hub::resolve(DEFAULT_BACKBONE, only_local).map(Some).map_err(|error| match error {
            Error::Model(ModelError::Key { key, message }) => {
                let why = "is not set, nor is model.backbone.architecture, so it has its default";
                ModelError::key(key, format!("{why}: {message}")).into()
            }
            other => other,
        }),
    }
}

/// The family of an `architecture` section that names none.
const DEFAULT_MODEL_TYPE: &str = "dinov3_vit";

/// The `architecture` section with what it leaves out: the family, and the configured patch size where the family has one.
fn inline_architecture(config: &ModelConfig) -> Map<String, Value> {
    let mut architecture = config.backbone.architecture.clone().unwrap_or_default();
    let model_type = architecture.entry("model_type").or_insert_with(|| json!(DEFAULT_MODEL_TYPE)).as_str();
    if model_type.and_then(backbone_row).is_none_or(|row| row.keys.contains(&"patch_size")) {
        architecture.entry("patch_size").or_insert_with(|| json!(config.backbone.patch_size));
    }
    architecture
}

/// Hashes what a source gives, on its way to the model. On a thread of its own, because it takes as long as all the rest
/// of reading a model.
struct Hashed<'a> {
    inner: &'a dyn Source,
    bytes: SyncSender<Vec<u8>>,
    thread: JoinHandle<Sha256>,
}

impl<'a> Hashed<'a> {
    /// Bytes that are handed over at once, and how often before the hash must have caught up.
    const PIECE: usize = 1 << 18;
    const AHEAD: usize = 8;

    fn new(inner: &'a dyn Source) -> Self {
        let (bytes, pieces) = sync_channel::<Vec<u8>>(Self::AHEAD);
        let thread =
            thread::spawn(move || pieces.into_iter().fold(Sha256::new(), |digest, piece| digest.chain_update(piece)));
        Self { inner, bytes, thread }
    }

    fn finish(self) -> String {
        drop(self.bytes);
        let digest = self.thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        hex(&digest.finalize())
    }

    fn update(&self, bytes: Vec<u8>) {
        // The receiver is gone only after a panic, which `finish` passes on.
        let _gone = self.bytes.send(bytes);
    }

    /// The bytes of floats, least significant first.
    fn update_floats(&self, values: &[f32]) {
        for values in values.chunks(Self::PIECE / 4) {
            let mut bytes = vec![0; 4 * values.len()];
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
            self.update(bytes);
        }
    }
}

impl Source for Hashed<'_> {
    fn values(&self, name: &str, shape: &[usize], fill: Fill) -> Vec<f32> {
        let values = self.inner.values(name, shape, fill);
        self.update(format!("{name} {shape:?}\n").into_bytes());
        self.update_floats(&values);
        values
    }

    fn packed(&self, name: &str, shape: [usize; 2], fill: Fill, device: &Device) -> Option<LinearWeight> {
        let packed = self.inner.packed(name, shape, fill, device)?;
        if let LinearWeight::Packed(weight) = &packed
            && let Ok(packed) = weight.to_packed()
        {
            self.update(format!("{name} {shape:?} {} {}\n", packed.quant_type(), packed.blocksize()).into_bytes());
            self.update(packed.packed().to_vec());
            match packed.absmax() {
                Absmax::Plain(scales) => self.update_floats(scales),
                Absmax::Nested { codes, absmax, offset } => {
                    self.update(codes.clone());
                    self.update_floats(absmax);
                    self.update_floats(&[*offset]);
                }
            }
        }
        Some(packed)
    }
}

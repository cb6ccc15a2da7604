//! From a configuration to a model. The only place that knows every variant.

use std::fmt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use burn::module::Module;
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tracknet_kernels::{Absmax, ComputeDtype};

use crate::config::{DEFAULT_BACKBONE, LoraConfig, MODEL_NAMES, ModelConfig, QuantizationConfig};
use crate::error::{Error, Result};
use crate::files::hex;

use super::adapter::{AdapterFile, AdapterReport};
use super::pretrained::bnb::BnbConfig;
use super::pretrained::checkpoint::WeightSource;
use super::pretrained::{Checkpoint, Preprocessing, hub, load_head};
use crate::models::backbones::{ModulePaths, VitSpec};
use crate::models::decoders::UpsamplingSpec;
use crate::models::init::{Builder, Fill, RandomSource, Source};
use crate::models::lora::LoraPlan;
use crate::models::lora::wrapper::{self, FirstValues};
use crate::models::memory::MemoryReport;
use crate::models::projection::Base;
use crate::models::quantization::{Format, Packer, QuantizationReport, Storage, apply_quantization};
use crate::models::{HeatmapHead, HeatmapModel, ModelError, UpsamplingDecoder, VisitProjections, Vit};

/// What was built, for the log and the run directory.
#[derive(Debug, Clone)]
pub struct BuildReport {
    /// Where the backbone comes from.
    pub source: String,
    /// The normalization the checkpoint asks for; `None` = it has no `preprocessor_config.json`.
    pub preprocessing: Option<Preprocessing>,
    /// Which modules were adapted.
    pub lora: Option<AdapterReport>,
    /// Which projections were packed.
    pub quantization: Option<QuantizationReport>,
    /// Parameters and bytes.
    pub memory: MemoryReport,
    /// SHA-256 over names, shapes and values of the backbone's weights as they were read: before quantization, or packed
    /// when the checkpoint is in 4 bits.
    pub base_hash: String,
    /// What the user should know.
    pub notes: Vec<String>,
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
    let stored_packed = plan.checkpoint.as_ref().is_some_and(|c| c.quantization.is_some());
    let packer = match config.quantization.enabled && !stored_packed && !starts_from_floats(config) {
        true => Some(Packer::new(&config.quantization, ModulePaths::Of(plan.backbone.names))?),
        false => None,
    };
    let (mut model, base_hash) = plan.assemble_and_load(seed, device, packer.as_ref())?;
    if config.backbone.freeze || config.lora.enabled {
        model.backbone = model.backbone.freeze();
    }
    let storage = match stored_packed {
        true => None,
        false => Storage::new(&config.quantization, model.module_paths())?,
    };
    let adaptation = Adaptation::prepare(&mut model, config, storage.as_ref(), seed)?;
    let quantization = match packer {
        Some(packer) => Some(packer.finish()?),
        None if stored_packed => Some(QuantizationReport::of_packed(&model.backbone)),
        None if config.quantization.enabled => {
            let (backbone, report) = apply_quantization(model.backbone, &config.quantization)?;
            model.backbone = backbone;
            Some(report)
        }
        None => None,
    };
    let (model, lora) = adaptation.finish(model, &config.lora)?;
    let report = BuildReport {
        source: plan.source,
        preprocessing: plan.checkpoint.as_ref().and_then(|c| c.preprocessing),
        quantization,
        lora,
        memory: MemoryReport::of(&model),
        base_hash,
        notes: plan.notes,
    };
    Ok((model, report))
}

/// Whether the float weights are needed once the model is built: a start of the adapters is computed from them, or one that
/// is read may be. Otherwise each weight is packed while it is read.
fn starts_from_floats(config: &ModelConfig) -> bool {
    let lora = &config.lora;
    let reads = lora.adapter.is_some() || lora.init_lora_weights.reads_weights();
    lora.enabled && reads && config.quantization.mode != "hf"
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
) -> Result<(Vit, BuildReport)> {
    let dir = hub::resolve(name, true)?;
    let checkpoint = Checkpoint::open(&dir)?;
    let (spec, _) = VitSpec::from_config(&checkpoint.config, &dir.join("config.json").display().to_string())?;
    let mut config = ModelConfig {
        pretrained_model_name: Some(name.to_owned()),
        lora: lora.clone(),
        quantization: quantization.clone(),
        ..ModelConfig::default()
    };
    config.backbone.patch_size = spec.patch;
    // The smallest decoder that fits; it is thrown away.
    config.decoder.channels = vec![spec.hidden, 1];
    config.decoder.upsample = vec![1];
    let side = 4 * spec.patch;
    let (model, report) = build_model(&config, [side, side], 0, device)?;
    Ok((model.backbone, report))
}

/// Where the adapters come from. Some need the weights before they are quantized; all are added after.
enum Adaptation {
    Off,
    New(LoraPlan, FirstValues),
    Read(AdapterFile),
}

impl Adaptation {
    fn prepare(model: &mut HeatmapModel, config: &ModelConfig, storage: Option<&Storage>, seed: u64) -> Result<Self> {
        if !config.lora.enabled {
            return Ok(Self::Off);
        }
        if let Some(dir) = &config.lora.adapter {
            let file = AdapterFile::read(dir, model.module_paths())?;
            file.prepare_base(&mut model.backbone, storage)?;
            return Ok(Self::Read(file));
        }
        let plan = LoraPlan::new(model, &config.lora, None, seed)?;
        let first = plan.read_weights(model, storage)?;
        Ok(Self::New(plan, first))
    }

    fn finish(self, model: HeatmapModel, config: &LoraConfig) -> Result<(HeatmapModel, Option<AdapterReport>)> {
        let (model, report) = match self {
            Self::Off => return Ok((model, None)),
            Self::New(plan, first) => {
                let (model, report) = plan.apply(model, first)?;
                let report = AdapterReport::of_new(report, config, model.module_paths());
                (model, report)
            }
            Self::Read(file) => file.attach(model)?,
        };
        Ok((model, Some(report)))
    }
}

/// A configuration that was found to work, before any tensor is read.
struct Plan {
    source: String,
    checkpoint: Option<Checkpoint>,
    backbone: VitSpec,
    decoder: UpsamplingSpec,
    /// Decoder and head weights to start from.
    head: Option<PathBuf>,
    /// What weights that are in 4 bits already are rounded to when they are dequantized.
    compute: ComputeDtype,
    notes: Vec<String>,
}

impl Plan {
    fn new(config: &ModelConfig, input_size: [usize; 2]) -> Result<Self> {
        if !MODEL_NAMES.contains(&config.model_name.as_str()) {
            let message = format!("`{}` is not known; known models: {}", config.model_name, MODEL_NAMES.join(", "));
            return Err(ModelError::key("model.model_name", message).into());
        }
        check_adaptation(config)?;
        let mut notes = Vec::new();
        let mut compute = ComputeDtype::F32;
        let (source, checkpoint, backbone) = match pretrained(config)? {
            Some(dir) => {
                let checkpoint = Checkpoint::open(&dir)?;
                let key = dir.join("config.json").display().to_string();
                let (spec, _) = VitSpec::from_config(&checkpoint.config, &key)?;
                checkpoint.check_size(&spec, &key)?;
                notes.extend(checkpoint.notes.iter().cloned());
                if let Some(bnb) = &checkpoint.quantization {
                    compute = stored_packed(bnb, config, &key, &mut notes)?;
                }
                (dir.display().to_string(), Some(checkpoint), spec)
            }
            None => {
                let architecture = inline_architecture(config);
                let (spec, unknown) = VitSpec::from_config(&architecture, "model.backbone.architecture")?;
                notes.extend(unknown.iter().map(|k| format!("model.backbone.architecture.{k}: ignored")));
                if config.backbone.freeze || config.lora.enabled {
                    notes.push(RANDOM_AND_FROZEN.to_owned());
                }
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
        Ok(Self { source, checkpoint, backbone, decoder, head: config.decoder.pretrained.clone(), compute, notes })
    }

    fn assemble_and_load(&self, seed: u64, device: &Device, packer: Option<&Packer>) -> Result<(HeatmapModel, String)> {
        let random = RandomSource { seed };
        let (backbone, base_hash) = match &self.checkpoint {
            None => {
                let source = Hashed::new(&random);
                (Vit::new(&self.backbone, &Builder::new(&source, device).packing(packer)), source.finish())
            }
            Some(checkpoint) => {
                let names = self.backbone.names;
                let source = WeightSource::new(&checkpoint.weights, names).with_compute_dtype(self.compute);
                let hashed = Hashed::new(&source);
                let backbone = Vit::new(&self.backbone, &Builder::new(&hashed, device).packing(packer));
                let hash = hashed.finish();
                (backbone.carrying(checkpoint.carried(source.finish()?)), hash)
            }
        };
        let builder = Builder::new(&random, device);
        let decoder = UpsamplingDecoder::new(&self.decoder, &builder.at("decoder"));
        let head = HeatmapHead::new(self.decoder.output_channels(), &builder.at("head"));
        let model = HeatmapModel { backbone, decoder, head };
        let model = match &self.head {
            Some(path) => load_head(path, model)?,
            None => model,
        };
        Ok((model, base_hash))
    }
}

/// Refuses what cannot train or cannot be packed before anything is read.
fn check_adaptation(config: &ModelConfig) -> Result<(), ModelError> {
    if config.lora.enabled && config.lora.adapter.is_none() {
        wrapper::validate(&config.lora)?;
        let streamed = config.quantization.enabled && config.quantization.mode == "hf";
        wrapper::check_start(config.lora.init_lora_weights, config.quantization.enabled, streamed)?;
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
        let name = bnb.compute_dtype.name();
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
/// weights.
fn pretrained(config: &ModelConfig) -> Result<Option<PathBuf>> {
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

/// The `architecture` section with what it leaves out: DINOv3, and the configured patch size.
fn inline_architecture(config: &ModelConfig) -> Map<String, Value> {
    let mut architecture = config.backbone.architecture.clone().unwrap_or_default();
    architecture.entry("model_type").or_insert_with(|| json!("dinov3_vit"));
    architecture.entry("patch_size").or_insert_with(|| json!(config.backbone.patch_size));
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

    fn packed(&self, name: &str, shape: [usize; 2], device: &Device) -> Option<Base> {
        let base = self.inner.packed(name, shape, device)?;
        if let Base::Packed(weight) = &base
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
        Some(base)
    }
}

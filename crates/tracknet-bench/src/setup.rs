//! The configuration of each workload, and random batches for it.

use std::io::Write;

use serde_json::{Map, Value, json};
use tracknet::Result;
use tracknet::config::{
    BackboneConfig, Config, ConfigSources, DataConfig, DecoderConfig, DtypeName, HeatmapConfig, LoraConfig,
    ModelConfig, OptimizerConfig, Precision, QuantizationConfig, TrainingConfig,
};
use tracknet::datasets::Batch;
use tracknet::models::nn::{Fill, RandomSource, Source};
use tracknet::models::{HeatmapModel, ModelError};
use tracknet::training::BatchShape;
use tracknet_io::files::IoContext;

use crate::arithmetic::Shapes;
use crate::{Arithmetic, Mode, Size, Weights};

/// Frames as `[W, H]`.
const INPUT: [usize; 2] = [512, 288];
/// Heatmaps as `[W, H]`.
const HEATMAP: [usize; 2] = [256, 144];

/// The configuration of a training workload.
pub(crate) fn training(mode: Mode, size: Size, batch: usize, overrides: &[String]) -> Result<Config> {
    let mut model = model(size);
    model.backbone.freeze = mode != Mode::Full;
    model.lora.enabled = mode != Mode::Full;
    model.quantization.enabled = mode == Mode::Qlora;
    let precision = if mode == Mode::Full { Precision::Fp32 } else { Precision::Bf16 };
    config(model, batch, precision, overrides)
}

/// The configuration of an inference or loading workload.
pub(crate) fn inference(weights: Weights, size: Size, batch: usize, overrides: &[String]) -> Result<Config> {
    let mut model = model(size);
    model.quantization.enabled = weights == Weights::Nf4;
    config(model, batch, Precision::Fp32, overrides)
}

/// A frozen float backbone with the decoder of the workloads.
fn model(size: Size) -> ModelConfig {
    let [hidden, heads, mlp] = match size {
        Size::S => [384, 6, 1536],
        Size::B => [768, 12, 3072],
    };
    ModelConfig {
        backbone: BackboneConfig { architecture: Some(architecture(hidden, heads, mlp)), ..BackboneConfig::default() },
        decoder: DecoderConfig {
            channels: vec![hidden, 256, 128, 64],
            upsample: vec![2, 2, 2],
            ..DecoderConfig::default()
        },
        heatmap: HeatmapConfig { size: HEATMAP, ..HeatmapConfig::default() },
        lora: LoraConfig { r: 16, lora_alpha: 32.0, lora_dropout: 0.05, ..LoraConfig::default() },
        quantization: QuantizationConfig { compute_dtype: DtypeName::Bfloat16, ..QuantizationConfig::default() },
        ..ModelConfig::default()
    }
}

/// The `config.json` of DINOv3's ViT-S/16 and ViT-B/16.
fn architecture(hidden: usize, heads: usize, mlp: usize) -> Map<String, Value> {
    let pairs = [
        ("model_type", json!("dinov3_vit")),
        ("hidden_size", json!(hidden)),
        ("num_hidden_layers", json!(12)),
        ("num_attention_heads", json!(heads)),
        ("intermediate_size", json!(mlp)),
        ("num_register_tokens", json!(4)),
        ("patch_size", json!(16)),
        ("image_size", json!(224)),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value)).into_iter().collect()
}

/// The whole configuration, with overrides applied and checked as for a run.
fn config(model: ModelConfig, batch: usize, precision: Precision, overrides: &[String]) -> Result<Config> {
    let mut data = DataConfig::default();
    data.preprocess.resize = INPUT;
    let training = TrainingConfig {
        batch_size: batch,
        precision,
        backbone_freeze_epochs: 0,
        optimizer: OptimizerConfig { lr: 1e-4, weight_decay: 0.05, ..OptimizerConfig::default() },
        ..TrainingConfig::default()
    };
    let config = Config::from_sections(data, model, training);
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().at("a temporary configuration")?;
    file.as_file().write_all(config.to_yaml()?.as_bytes()).at(file.path())?;
    let sources = ConfigSources {
        run: Some(file.path().to_path_buf()),
        overrides: overrides.to_vec(),
        ..ConfigSources::default()
    };
    Ok(Config::load(&sources)?.config)
}

/// The arithmetic of the products with the backbone's weights.
pub(crate) fn compute(config: &Config) -> Arithmetic {
    let quantization = &config.model.quantization;
    let bf16 = quantization.compute_dtype == DtypeName::Bfloat16;
    if quantization.enabled && bf16 { Arithmetic::Bf16 } else { Arithmetic::F32 }
}

/// The shapes that the operations of a model follow from.
///
/// # Errors
/// A backbone that is no vision transformer.
pub(crate) fn shapes<'a>(config: &'a Config, model: &'a HeatmapModel) -> Result<Shapes<'a>> {
    let only_vit = || ModelError::key("model.backbone", "is no vision transformer, whose operations are counted");
    Ok(Shapes {
        backbone: model.backbone.network.as_vit().ok_or_else(only_vit)?.spec(),
        decoder: &config.model.decoder,
        rank: if config.model.lora.enabled { config.model.lora.r } else { 0 },
        input: config.data.preprocess.resize,
        heatmaps: model.window.spec().heatmaps(),
    })
}

/// Frames of normal noise with uniform targets in 0..1 and masks of one.
pub(crate) fn batch(size: usize, shape: BatchShape) -> Batch {
    let values = |name: &str, channels: usize, [width, height]: [usize; 2], fill| {
        RandomSource { seed: 1 }.values(name, &[size, channels, height, width], fill)
    };
    Batch {
        size,
        images: values("images", 3 * shape.frames, shape.input, Fill::Normal(1.0)),
        targets: values("targets", shape.heatmaps, shape.heatmap, Fill::Uniform(1.0))
            .into_iter()
            .map(f32::abs)
            .collect(),
        masks: values("masks", shape.heatmaps, shape.heatmap, Fill::ONE),
        samples: Vec::new(),
    }
}

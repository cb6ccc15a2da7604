//! The `model` section: backbone, decoder, heatmap, adapters, quantization.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::lora::LoraConfig;

/// The `model` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Which model; see [`MODEL_NAMES`].
    pub model_name: String,
    /// A Hugging Face model directory or hub id; `null` = random weights from `backbone.architecture`, and without that
    /// section [`DEFAULT_BACKBONE`].
    pub pretrained_model_name: Option<String>,
    /// How the backbone is built and frozen.
    pub backbone: BackboneConfig,
    /// The `upsampling` decoder of ViT models.
    pub decoder: DecoderConfig,
    /// Size and spread of the heatmap.
    pub heatmap: HeatmapConfig,
    /// LoRA adapters on the backbone.
    pub lora: LoraConfig,
    /// 4-bit storage of the backbone's linear layers.
    pub quantization: QuantizationConfig,
}

/// Accepted spellings of `model.model_name`. The `lora:` and `quantization:` sections decide, not the name.
pub const MODEL_NAMES: [&str; 3] = ["vit_heatmap", "vit_lora_heatmap", "vit_qlora_heatmap"];

/// The backbone of a configuration that names none and describes none.
pub const DEFAULT_BACKBONE: &str = "facebook/dinov3-vits16-pretrain-lvd1689m";

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            model_name: "vit_heatmap".to_owned(),
            pretrained_model_name: None,
            backbone: BackboneConfig::default(),
            decoder: DecoderConfig::default(),
            heatmap: HeatmapConfig::default(),
            lora: LoraConfig::default(),
            quantization: QuantizationConfig::default(),
        }
    }
}

/// How the backbone is built and frozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneConfig {
    /// Freeze every backbone weight.
    pub freeze: bool,
    /// Accepted and ignored: `--device` chooses the device.
    pub device_map: Option<String>,
    /// Look for hub ids in the local cache only.
    pub local_files_only: bool,
    /// Must equal the checkpoint's patch size.
    pub patch_size: usize,
    /// Stages that a convolutional backbone returns.
    pub return_stages: Vec<usize>,
    /// A backbone without a checkpoint: any keys of a Hugging Face `config.json`, `model_type` included.
    pub architecture: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Default for BackboneConfig {
    fn default() -> Self {
        Self {
            freeze: true,
            device_map: Some("auto".to_owned()),
            local_files_only: true,
            patch_size: 16,
            return_stages: vec![1, 2, 3, 4],
            architecture: None,
        }
    }
}

/// The `upsampling` decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels `[C0, C1, …]`; `C0` is the backbone's hidden size.
    pub channels: Vec<usize>,
    /// Upsampling factor of each stage; missing factors are 1.
    pub upsample: Vec<usize>,
    /// Residual blocks in each stage.
    pub blocks_per_stage: usize,
    /// Normalization of the residual blocks.
    pub norm: Norm,
    /// Activation of the residual blocks.
    pub activation: Activation,
    /// Depthwise 3×3 convolutions instead of dense ones.
    pub use_depthwise: bool,
    /// Squeeze-and-excitation after each residual block's convolutions.
    pub use_se: bool,
    /// Channel reduction of squeeze-and-excitation.
    pub se_reduction: usize,
    /// Channel dropout in the residual blocks.
    pub dropout: f32,
    /// Concatenate a light convolutional stem's stride-2 and stride-4 features: a ball is smaller than a patch.
    pub skip: bool,
    /// Decoder and head weights to start from: a `tracknet_head.safetensors` or a directory that holds one.
    pub pretrained: Option<PathBuf>,
}

impl Default for DecoderConfig {
    fn default() -> Self {
        Self {
            channels: vec![384, 256, 128, 64],
            upsample: vec![2, 2, 2],
            blocks_per_stage: 1,
            norm: Norm::Gn,
            activation: Activation::Gelu,
            use_depthwise: true,
            use_se: false,
            se_reduction: 8,
            dropout: 0.0,
            skip: false,
            pretrained: None,
        }
    }
}

/// Normalization layers of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Norm {
    /// Group normalization: 32 groups, halved until they divide the channels.
    Gn,
    /// Batch normalization.
    Bn,
}

/// Activations of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Activation {
    /// GELU with the exact erf.
    Gelu,
    /// ReLU.
    Relu,
}

/// Size and spread of the heatmap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeatmapConfig {
    /// Heatmap size as `[W, H]` in pixels.
    pub size: [usize; 2],
    /// Standard deviation of the Gaussian target in heatmap pixels.
    pub sigma: f32,
}

impl Default for HeatmapConfig {
    fn default() -> Self {
        Self { size: [256, 144], sigma: 2.0 }
    }
}

/// 4-bit storage (`model.quantization`). Semantics and names are those of bitsandbytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuantizationConfig {
    /// Whether the backbone's linear layers are quantized.
    pub enabled: bool,
    /// Codebook: `nf4` or `fp4`.
    pub quant_type: String,
    /// What dequantized weights are rounded to: `bfloat16`, `float16` or `float32`.
    pub compute_dtype: String,
    /// What stays float: parts of module paths in mode manual, the matching of `transformers` in mode hf.
    pub skip_modules: Option<Vec<String>>,
    /// How `skip_modules` is read. In `hf` each weight is packed while it is read; in `manual`, too, unless adapters start
    /// from the float weights.
    pub mode: String,
    /// Double quantization: the absmax vector is itself quantized to 8 bits.
    pub compress_statistics: bool,
    /// The same in mode hf; null = what `compress_statistics` says.
    pub use_double_quant: Option<bool>,
    /// Weights per absmax.
    pub blocksize: usize,
}

impl Default for QuantizationConfig {
    fn default() -> Self {
        Self {
            enabled: false,
            quant_type: "nf4".to_owned(),
            compute_dtype: "bfloat16".to_owned(),
            skip_modules: None,
            mode: "manual".to_owned(),
            compress_statistics: true,
            use_double_quant: None,
            blocksize: 64,
        }
    }
}

/// What dequantized weights are rounded to (`quantization.compute_dtype`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeDtype {
    /// `bfloat16`, `bf16`.
    Bfloat16,
    /// `float16`, `fp16`.
    Float16,
    /// `float32`, `fp32`.
    Float32,
}

/// The 4-bit codebook (`quantization.quant_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantTypeName {
    /// 4-bit NormalFloat.
    Nf4,
    /// 4-bit float.
    Fp4,
}

impl QuantizationConfig {
    /// `compute_dtype`, typed.
    ///
    /// # Errors
    /// A config that was built in code may hold any text; one that was loaded never fails.
    pub fn compute_dtype_kind(&self) -> Result<ComputeDtype, ConfigError> {
        match self.compute_dtype.as_str() {
            "bfloat16" | "bf16" => Ok(ComputeDtype::Bfloat16),
            "float16" | "fp16" => Ok(ComputeDtype::Float16),
            "float32" | "fp32" => Ok(ComputeDtype::Float32),
            other => Err(unknown_word("compute_dtype", other, "bfloat16, float16, float32")),
        }
    }

    /// `quant_type`, typed.
    ///
    /// # Errors
    /// A config that was built in code may hold any text; one that was loaded never fails.
    pub fn quant_type_kind(&self) -> Result<QuantTypeName, ConfigError> {
        match self.quant_type.as_str() {
            "nf4" => Ok(QuantTypeName::Nf4),
            "fp4" => Ok(QuantTypeName::Fp4),
            other => Err(unknown_word("quant_type", other, "nf4, fp4")),
        }
    }
}

fn unknown_word(key: &str, found: &str, allowed: &str) -> ConfigError {
    let key = format!("model.quantization.{key}");
    let message = format!("{key}: expected one of {allowed}, found `{found}`");
    ConfigError::new("configuration", key, message)
}

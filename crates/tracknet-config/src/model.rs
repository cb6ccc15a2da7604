//! The `model` section: backbone, decoder of ViT models, heatmap.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracknet_config_derive::{Section, Words};

use super::decoders::{DeformableConfig, FpnConfig, HrnetConfig, UnetConfig};
use super::key::Status;
use super::kind::{Kind, PIXELS, POSITIVE};
use super::lora::LoraConfig;
use super::quantization::QuantizationConfig;

/// The `model` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// The model, by its decoder: the three names with `vit` mean the same (`lora` and `quantization` decide). Every decoder
    /// works on every backbone that gives the levels it needs.
    #[config(default = ModelName::VitHeatmap)]
    pub model_name: ModelName,
    /// A Hugging Face model directory or hub id; null = random weights from `backbone.architecture`, and without that
    /// facebook/dinov3-vits16-pretrain-lvd1689m.
    pub pretrained_model_name: Option<String>,
    /// How the backbone is built and frozen.
    #[config(section)]
    pub backbone: BackboneConfig,
    /// The `upsampling` decoder of ViT models.
    #[config(section)]
    pub decoder: DecoderConfig,
    /// The decoder of `convnext_fpn_heatmap`.
    #[config(section)]
    pub fpn: FpnConfig,
    /// The decoder of `convnext_hrnet_heatmap`.
    #[config(section)]
    pub hrnet: HrnetConfig,
    /// The decoder of `convnext_deformable_fpn_heatmap`.
    #[config(section)]
    pub deformable_encoder: DeformableConfig,
    /// The decoder of `vit_unet_heatmap`.
    #[config(section)]
    pub unet: UnetConfig,
    /// What the model sees of a window (`data.sequence`): nothing but its last frame (`none`, for single frames), its frames
    /// side by side (`stack`), or the last frame and its differences to the earlier ones (`difference`).
    #[config(default = Temporal::None, null_is_default)]
    pub temporal: Temporal,
    /// Where the window comes in: in the convolutional stem of the decoder (`stem`, with `decoder.skip`; only the upsampling
    /// decoder has it) or in the convolutions of the U-Net, while the backbone sees its last frame, or in the backbone's patch
    /// embedding (`patches`, with every decoder).
    #[config(default = TemporalInput::Stem)]
    pub temporal_input: TemporalInput,
    /// Size and spread of the heatmap.
    #[config(section)]
    pub heatmap: HeatmapConfig,
    /// LoRA adapters on the backbone.
    #[config(section)]
    pub lora: LoraConfig,
    /// 4-bit storage of the backbone's linear layers.
    #[config(section)]
    pub quantization: QuantizationConfig,
}

/// The backbone of a configuration that names none and describes none.
pub const DEFAULT_BACKBONE: &str = "facebook/dinov3-vits16-pretrain-lvd1689m";

/// `model.model_name`. The `lora` and `quantization` sections decide, not the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum ModelName {
    /// A vision transformer and the upsampling decoder.
    VitHeatmap,
    /// The same; the name of the original's file with LoRA.
    VitLoraHeatmap,
    /// The same; the name of the original's file with LoRA on 4-bit weights.
    VitQloraHeatmap,
    /// The `fpn` decoder.
    ConvnextFpnHeatmap,
    /// The `hrnet` decoder.
    ConvnextHrnetHeatmap,
    /// The `deformable` decoder.
    ConvnextDeformableFpnHeatmap,
    /// The `unet` decoder.
    VitUnetHeatmap,
}

/// What a model sees of a window of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum Temporal {
    /// Single frames.
    None,
    /// The frames of the window, oldest first, as further channels.
    Stack,
    /// The differences of the last frame to each earlier one, oldest first, and the last frame.
    Difference,
}

/// Where a window of frames comes into a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum TemporalInput {
    /// In the convolutional stem of the decoder; the backbone sees the last frame.
    Stem,
    /// In the patch embedding of the backbone, which starts as that of the last frame; the decoder sees the last frame.
    Patches,
}

/// How the backbone is built and frozen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneConfig {
    /// Freeze every backbone weight; without LoRA, for `training.backbone_freeze_epochs` epochs if that is not 0. With
    /// LoRA they are frozen whatever this says.
    #[config(default = true)]
    pub freeze: bool,
    /// Accepted and ignored: `--device` chooses the device.
    #[config(
        default = Some("auto".to_owned()),
        kind = Kind::Anything,
        status = Status::Ignored("the device is chosen by --device")
    )]
    pub device_map: Option<String>,
    /// Look for hub ids in the local cache only; false = what the cache lacks is downloaded.
    #[config(default = true)]
    pub local_files_only: bool,
    /// Side of a patch in pixels; must equal the checkpoint's.
    #[config(default = 16, range = 1..=1024)]
    pub patch_size: usize,
    /// Stages whose features a convolutional backbone returns, in ascending order: 1 to 4 have strides 4, 8, 16, 32. A
    /// vision transformer has one level of features, and no choice.
    #[config(default = vec![1, 2, 3, 4], range = 1..=4, min_len = 1)]
    pub return_stages: Vec<usize>,
    /// A backbone without a checkpoint: keys of a Hugging Face `config.json`, `model_type` included.
    pub architecture: Option<serde_json::Map<String, serde_json::Value>>,
}

/// The `upsampling` decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct DecoderConfig {
    /// Channels `[C0, C1, …]`; `C0` is the backbone's hidden size.
    #[config(default = vec![384, 256, 128, 64], range = POSITIVE, min_len = 2)]
    pub channels: Vec<usize>,
    /// Upsampling factor of each stage; missing factors are 1.
    #[config(default = vec![2, 2, 2], range = 1..=64)]
    pub upsample: Vec<usize>,
    /// Residual blocks in each stage.
    #[config(default = 1, range = 0..=1024)]
    pub blocks_per_stage: usize,
    /// Group or batch normalization.
    #[config(default = Norm::Gn)]
    pub norm: Norm,
    /// Activation of the blocks.
    #[config(default = Activation::Gelu)]
    pub activation: Activation,
    /// Depthwise 3×3 convolutions instead of dense ones.
    #[config(default = true)]
    pub use_depthwise: bool,
    /// Squeeze-and-excitation in the blocks.
    pub use_se: bool,
    /// Channel reduction of squeeze-and-excitation.
    #[config(default = 8, range = POSITIVE)]
    pub se_reduction: usize,
    /// Channel dropout in the blocks.
    #[config(default = 0.0, range = 0.0..1.0)]
    pub dropout: f32,
    /// Concatenate stride-2 and stride-4 features of a light convolutional stem.
    pub skip: bool,
    /// Decoder and head weights to start from: a `tracknet_head.safetensors`, or a directory that holds one.
    pub pretrained: Option<PathBuf>,
}

impl DecoderConfig {
    /// Its weights, at most.
    pub(crate) fn most_weights(&self) -> u128 {
        let stages = self.channels.iter().zip(self.channels.iter().skip(1)).map(|(&from, &to)| {
            let [from, to, blocks] = [from, to, self.blocks_per_stage].map(|count| count as u128);
            9 * to * (from + 2 * to * blocks)
        });
        stages.sum()
    }
}

/// Normalization layers of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum Norm {
    /// Group normalization: 32 groups, halved until they divide the channels.
    Gn,
    /// Batch normalization.
    Bn,
    /// Batch normalization with the statistics of `decoder.pretrained`, which stay what they are: for fine-tuning, where batches
    /// are small.
    FrozenBn,
}

/// Activations of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum Activation {
    /// GELU with the exact erf.
    Gelu,
    /// ReLU.
    Relu,
}

/// Size and spread of the heatmap.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct HeatmapConfig {
    /// Heatmap size `[W, H]` in pixels.
    #[config(default = [256, 144], range = PIXELS)]
    pub size: [usize; 2],
    /// Standard deviation of the Gaussian target, in heatmap pixels.
    #[config(default = 2.0, range = 0.1..=1000.0)]
    pub sigma: f32,
    /// What a new head says everywhere before it has learned anything, for the losses focal and wbce. A ball covers few pixels:
    /// with a small value the first hundreds of steps need not learn that.
    #[config(default = 0.5, range = 0.0001..=0.5)]
    pub prior: f32,
    /// Which frames of a window (`data.sequence`) have a heatmap: the last one, or each (`all`), so that prediction goes from
    /// window to window instead of from frame to frame.
    #[config(default = HeatmapFrames::Last)]
    pub frames: HeatmapFrames,
}

/// Which frames of a window have a heatmap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Words)]
pub enum HeatmapFrames {
    /// The last one.
    #[default]
    Last,
    /// Each, oldest first.
    All,
}

impl HeatmapFrames {
    /// Heatmaps of a window of `frames` frames.
    pub fn of(self, frames: usize) -> usize {
        match self {
            Self::Last => 1,
            Self::All => frames,
        }
    }
}

//! The sections of the other decoders than `upsampling`: `fpn`, `hrnet`, `deformable_encoder`, `unet`.

use serde::{Deserialize, Serialize};
use tracknet_config_derive::{Section, Words};

use super::kind::POSITIVE;
use super::model::{Activation, ModelConfig, ModelName, Norm};

/// How the maps of several levels become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum Fuse {
    /// Added.
    Sum,
    /// Channels beside each other, then a 1×1 convolution.
    Concat,
}

/// The `fpn` decoder: a feature pyramid network (Lin et al., 2017).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct FpnConfig {
    /// Channels of each level of the backbone, finest first; null = whatever it gives.
    #[config(range = POSITIVE, min_len = 1)]
    pub in_channels: Option<Vec<usize>>,
    /// Channels of every level of the pyramid.
    #[config(default = 256, range = POSITIVE)]
    pub lateral_dim: usize,
    /// How the levels become one map: their `sum`, or `concat` and a 1×1 convolution.
    #[config(default = Fuse::Sum)]
    pub fuse: Fuse,
}

/// The `hrnet` decoder: branches of several resolutions that exchange what they see (Sun et al., 2019).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct HrnetConfig {
    /// Channels of each level of the backbone, finest first; null = whatever it gives.
    #[config(range = POSITIVE, min_len = 1)]
    pub in_channels: Option<Vec<usize>>,
    /// Channels of each branch, finest first: one branch for each level.
    #[config(default = vec![64, 128, 256, 512], range = POSITIVE, min_len = 1)]
    pub widths: Vec<usize>,
    /// Exchanges between the branches.
    #[config(default = 2, range = 1..=1024)]
    pub num_units: usize,
    /// Channels that the head receives; null = those of the finest branch.
    #[config(range = POSITIVE)]
    pub out_channels: Option<usize>,
}

/// The `deformable` decoder: an encoder of multi-scale deformable attention (Zhu et al., 2021), then a feature pyramid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct DeformableConfig {
    /// Channels of each level of the backbone, finest first.
    #[config(default = vec![128, 256, 512, 1024], range = POSITIVE, min_len = 1)]
    pub in_channels: Vec<usize>,
    /// Features of a cell in the encoder; a multiple of 4 and of `nhead`.
    #[config(default = 256, range = POSITIVE)]
    pub d_model: usize,
    /// Heads of the attention.
    #[config(default = 8, range = POSITIVE)]
    pub nhead: usize,
    /// Layers of the encoder.
    #[config(default = 3, range = 1..=1024)]
    pub num_encoder_layers: usize,
    /// Levels that the attention looks at: as many as `in_channels` has.
    #[config(default = 4, range = POSITIVE)]
    pub num_feature_levels: usize,
    /// Places that a head looks at in each level.
    #[config(default = 4, range = POSITIVE)]
    pub n_points: usize,
    /// Channels of every level of the pyramid behind the encoder.
    #[config(default = 256, range = POSITIVE)]
    pub lateral_dim: usize,
    /// How the levels become one map: their `sum`, or `concat` and a 1×1 convolution.
    #[config(default = Fuse::Sum)]
    pub fuse: Fuse,
}

/// The `unet` decoder: a slim convolutional path over the frames at fine strides, joined by the backbone's features at its bottom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct UnetConfig {
    /// Channels of each stage, finest first; each stage has twice the stride of the one before it.
    #[config(default = vec![32, 64, 96, 128], range = POSITIVE, min_len = 1)]
    pub channels: Vec<usize>,
    /// Stride of the first stage: with 2 or 4, blocks of as many pixels in each direction come in as channels.
    #[config(default = 2, range = 1..=8)]
    pub stride: usize,
    /// 3×3 convolutions of each stage, on the way down and on the way up.
    #[config(default = 2, range = 1..=16)]
    pub convolutions: usize,
    /// Group or batch normalization.
    #[config(default = Norm::Gn)]
    pub norm: Norm,
    /// Activation behind each convolution.
    #[config(default = Activation::Relu)]
    pub activation: Activation,
}

impl ModelName {
    /// The section of `model` that describes the decoder of this model.
    pub const fn decoder_section(self) -> &'static str {
        match self {
            Self::VitHeatmap | Self::VitLoraHeatmap | Self::VitQloraHeatmap => "decoder",
            Self::ConvnextFpnHeatmap => "fpn",
            Self::ConvnextHrnetHeatmap => "hrnet",
            Self::ConvnextDeformableFpnHeatmap => "deformable_encoder",
            Self::VitUnetHeatmap => "unet",
        }
    }
}

/// Why the frames of a batch cannot be computed apart: batch normalization takes its statistics over all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchNormalized {
    /// The setting that brings batch normalization, for messages.
    pub setting: &'static str,
    /// What has none, for messages.
    pub instead: &'static str,
}

impl ModelConfig {
    /// Whether the decoder normalizes over the batch.
    pub fn batch_normalized(&self) -> Option<BatchNormalized> {
        match self.model_name.decoder_section() {
            "decoder" if self.decoder.norm == Norm::Bn => {
                Some(BatchNormalized { setting: "model.decoder.norm: bn", instead: "norm: gn" })
            }
            "unet" if self.unet.norm == Norm::Bn => {
                Some(BatchNormalized { setting: "model.unet.norm: bn", instead: "norm: gn" })
            }
            "hrnet" => {
                let setting = "model.model_name: convnext_hrnet_heatmap has batch normalization, which";
                Some(BatchNormalized { setting, instead: "another model_name" })
            }
            _ => None,
        }
    }

    /// The weights of the decoder, at most, the keys that decide them, and what to lower. Without `in_channels` they are
    /// those that the backbone's channels do not decide.
    pub(crate) fn decoder_size(&self) -> (u128, &'static [&'static str], &'static str) {
        match self.model_name.decoder_section() {
            "fpn" => (self.fpn.most_weights(), &["model.fpn.lateral_dim", "model.fpn.in_channels"], "its channels"),
            "hrnet" => {
                let keys = &["model.hrnet.widths", "model.hrnet.num_units"];
                (self.hrnet.most_weights(), keys, "model.hrnet.widths or num_units")
            }
            "deformable_encoder" => {
                let keys = &["model.deformable_encoder.d_model", "model.deformable_encoder.lateral_dim"];
                (self.deformable_encoder.most_weights(), keys, "its counts")
            }
            "unet" => {
                let keys = &["model.unet.channels", "model.unet.convolutions"];
                (self.unet.most_weights(), keys, "model.unet.channels or convolutions")
            }
            _ => {
                let keys = &["model.decoder.channels", "model.decoder.blocks_per_stage"];
                (self.decoder.most_weights(), keys, "model.decoder.channels or model.decoder.blocks_per_stage")
            }
        }
    }
}

/// As wide numbers, whose products do not overflow.
fn wide<const N: usize>(counts: [usize; N]) -> [u128; N] {
    counts.map(|count| count as u128)
}

/// A 1×1 convolution from every level and, behind it, a 3×3 one, and those of the fusion.
fn pyramid(in_channels: &[usize], lateral: usize) -> u128 {
    let [lateral] = wide([lateral]);
    in_channels.iter().map(|&channels| lateral * (channels as u128 + 10 * lateral)).sum()
}

impl FpnConfig {
    fn most_weights(&self) -> u128 {
        pyramid(self.in_channels.as_deref().unwrap_or(&[0]), self.lateral_dim)
    }
}

impl HrnetConfig {
    /// Each unit has a 3×3 convolution per branch and chains of them from each branch to every coarser one.
    fn most_weights(&self) -> u128 {
        let widths: Vec<u128> = self.widths.iter().map(|&width| width as u128).collect();
        let all: u128 = widths.iter().sum();
        let branches = widths.len() as u128;
        let [units, output] = wide([self.num_units, self.out_channels.unwrap_or(0)]);
        let inputs = self.in_channels.iter().flatten().zip(&widths).map(|(&channels, width)| channels as u128 * width);
        let unit = 9 * widths.iter().map(|width| width * (width * branches * branches + all)).sum::<u128>();
        inputs.sum::<u128>() + units * unit + 9 * all * output
    }
}

impl DeformableConfig {
    fn most_weights(&self) -> u128 {
        let [model, heads, layers, levels, points] =
            wide([self.d_model, self.nhead, self.num_encoder_layers, self.num_feature_levels, self.n_points]);
        let projections: u128 = self.in_channels.iter().map(|&channels| model * (channels as u128 + model)).sum();
        let layer = model * (10 * model + 3 * heads * levels * points);
        let pyramid = pyramid(&vec![self.d_model; self.in_channels.len()], self.lateral_dim);
        projections + layers * layer + pyramid
    }
}

impl UnetConfig {
    /// Two ways and the bottom, each stage a chain of 3×3 convolutions from channels of a finer or coarser one.
    fn most_weights(&self) -> u128 {
        let [convolutions, blocks] = wide([self.convolutions, self.stride * self.stride]);
        let channels: Vec<u128> = self.channels.iter().map(|&channels| channels as u128).collect();
        let most = channels.iter().copied().max().unwrap_or(0);
        channels.iter().map(|channels| 9 * channels * most * (2 * convolutions + 1)).sum::<u128>() + 27 * blocks * most
    }
}

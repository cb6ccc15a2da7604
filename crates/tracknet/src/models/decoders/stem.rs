//! A light convolutional stem: a ball is smaller than one patch, so the patch embedding alone blurs where it is.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::DecoderConfig;
use crate::models::nn::{Activation, Builder, Conv2d, ConvNorm, ConvSpec};

use super::block::activation;

/// Features of the frame itself at half and quarter resolution.
#[derive(Module, Debug)]
pub struct Stem {
    half: StemLayer,
    quarter: StemLayer,
}

impl Stem {
    /// Channels at stride 2 and at stride 4.
    pub const CHANNELS: [usize; 2] = [16, 32];

    /// Two strided convolutions.
    pub fn new(config: &DecoderConfig, builder: &Builder<'_>) -> Self {
        let [half, quarter] = Self::CHANNELS;
        Self {
            half: StemLayer::new([3, half], config, &builder.at("half")),
            quarter: StemLayer::new([half, quarter], config, &builder.at("quarter")),
        }
    }

    /// Frames `[batch, 3, height, width]` → features at stride 2 and at stride 4.
    pub fn forward(&self, images: Tensor<4>) -> [Tensor<4>; 2] {
        let half = self.half.forward(images);
        let quarter = self.quarter.forward(half.clone());
        [half, quarter]
    }
}

/// Convolution 3×3 with stride 2, norm, activation.
#[derive(Module, Debug)]
pub(super) struct StemLayer {
    conv: Conv2d,
    norm: ConvNorm,
    #[module(skip)]
    activation: Activation,
}

impl StemLayer {
    fn new(channels: [usize; 2], config: &DecoderConfig, builder: &Builder<'_>) -> Self {
        Self {
            conv: ConvSpec::square(channels, 3).stride(2).build(&builder.at("conv")),
            norm: ConvNorm::new(config.norm, channels[1], &builder.at("norm")),
            activation: activation(config.activation),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.norm.forward(self.conv.forward(x), self.activation)
    }
}

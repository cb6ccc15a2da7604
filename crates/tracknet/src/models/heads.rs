//! From decoder features to logits.

use burn::module::Module;
use burn::tensor::Tensor;

use super::nn::{Builder, Conv2d, ConvSpec, Fill};

/// One 1×1 convolution with a bias, to one channel of logits.
#[derive(Module, Debug)]
pub struct HeatmapHead {
    conv: Conv2d,
}

impl HeatmapHead {
    /// A head on `channels` decoder channels. Its weights begin near zero: with Kaiming values as in the decoder (fan-out 1)
    /// the first heatmaps would be an order of magnitude off the targets.
    pub fn new(channels: usize, builder: &Builder<'_>) -> Self {
        let conv = ConvSpec::square([channels, 1], 1).with_bias().with_fill(Fill::Normal(0.01));
        Self { conv: conv.build(&builder.at("conv")) }
    }

    /// `[batch, channels, height, width]` → `[batch, 1, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
    }
}

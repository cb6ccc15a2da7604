use burn::module::Module;
use burn::tensor::Tensor;

use crate::models::init::{Builder, Fill};
use crate::models::layers::{Conv, ConvSpec};

/// One 1×1 convolution with a bias, to one channel of logits.
#[derive(Module, Debug)]
pub struct HeatmapHead {
    conv: Conv,
}

impl HeatmapHead {
    /// A head on `channels` decoder channels. It starts near zero: with the decoder's own Kaiming start (fan-out 1)
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

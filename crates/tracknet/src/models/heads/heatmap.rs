use burn::module::Module;
use burn::tensor::Tensor;

use crate::models::init::Builder;
use crate::models::layers::{Conv, ConvSpec};

/// One 1×1 convolution with a bias, to one channel of logits.
#[derive(Module, Debug)]
pub struct HeatmapHead {
    conv: Conv,
}

impl HeatmapHead {
    /// A head on `channels` decoder channels; the bias starts at 0.
    pub fn new(channels: usize, builder: &Builder<'_>) -> Self {
        Self { conv: ConvSpec::square([channels, 1], 1).with_bias().build(&builder.at("conv")) }
    }

    /// `[batch, channels, height, width]` → `[batch, 1, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
    }
}

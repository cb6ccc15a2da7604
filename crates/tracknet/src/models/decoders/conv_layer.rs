//! What decoders are mostly made of: a convolution, its norm, its activation.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::Norm;
use crate::models::lora::LoraLayer;
use crate::models::nn::{Activation, Builder, Conv2d, ConvNorm, ConvSpec};

/// Convolution without bias, norm, activation.
#[derive(Module, Debug)]
pub(super) struct ConvLayer {
    pub(super) conv: LoraLayer<Conv2d>,
    norm: ConvNorm,
    #[module(skip)]
    activation: Activation,
}

impl ConvLayer {
    /// A convolution that gives `outputs` channels.
    pub(super) fn new(
        conv: ConvSpec,
        outputs: usize,
        (norm, activation): (Norm, Activation),
        builder: &Builder<'_>,
    ) -> Self {
        Self {
            conv: LoraLayer::new(conv.build(&builder.at("conv"))),
            norm: ConvNorm::new(norm, outputs, &builder.at("norm")),
            activation,
        }
    }

    /// `[batch, in, height, width]` → `[batch, out, height / stride, width / stride]`.
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if self.conv.adapter.is_none()
            && let Some(norm) = self.norm.still(&x)
        {
            return self.activation.forward(self.conv.base.forward_scaled(x, norm.scale, norm.shift));
        }
        self.norm.forward(self.conv.forward(x), self.activation)
    }
}

//! The pointwise layers as one operation of the CPU's kernels.

use burn::tensor::Tensor;
use tracknet_kernels::block::{FrozenMlp, FrozenNorm, is_supported};

use crate::models::nn::Activation;

use super::Layer;

impl Layer {
    /// Whether the kernels can compute what follows the depthwise convolution: nothing but plain adapters trains there, its
    /// products are to be in bfloat16, and GELU is between them.
    pub(super) fn is_frozen(&self, activation: Activation) -> bool {
        activation == Activation::Gelu
            && self.linears().iter().all(|(_, layer)| layer.is_frozen())
            && self.layer_norm.is_frozen()
            && !self.gamma.is_require_grad()
    }

    /// What follows the depthwise convolution as the kernels take it, if they can compute it; draws the dropout masks of its
    /// adapters. Of `x`, `[batch, rows · columns, channels]`, only device and shape count.
    pub(super) fn frozen(&self, x: &Tensor<3>, activation: Activation, checkpoint: bool) -> Option<FrozenMlp<'_>> {
        if !is_supported(&x.device().inner()) || !self.is_frozen(activation) {
            return None;
        }
        let (weight, bias, epsilon) = self.layer_norm.parts();
        Some(FrozenMlp {
            norm: FrozenNorm { weight, bias, epsilon },
            up: self.pointwise_conv1.as_frozen(x),
            down: self.pointwise_conv2.as_frozen(x),
            scale: Some(self.gamma.val()),
            checkpoint,
        })
    }
}

//! Blocks as one operation of the CPU's kernels.

use burn::module::Param;
use burn::tensor::Tensor;
use tracknet_kernels::block::{FrozenBlock, FrozenNorm, is_supported};

use crate::models::nn::{Activation, LayerNorm};

use super::block::Block;
use super::spec::{MlpKind, VitSpec};

impl Block {
    /// Whether the kernels can compute the block: nothing but plain adapters trains, its products are to be in bfloat16,
    /// and its MLP is two layers with GELU between them.
    pub(super) fn is_frozen(&self, spec: &VitSpec) -> bool {
        spec.mlp_kind == MlpKind::Plain
            && spec.activation == Activation::Gelu
            && self.layers().iter().all(|(_, layer)| layer.is_frozen())
            && [&self.norm1, &self.norm2].into_iter().all(LayerNorm::is_frozen)
            && [&self.scale1, &self.scale2].into_iter().flatten().all(|scale| !scale.is_require_grad())
    }

    /// The block as the kernels take it, if they can compute it; draws the dropout masks of its adapters.
    pub(super) fn frozen(&self, x: &Tensor<3>, spec: &VitSpec, checkpoint: bool) -> Option<FrozenBlock<'_>> {
        if !is_supported(&x.device().inner()) || !self.is_frozen(spec) {
            return None;
        }
        Some(FrozenBlock {
            norms: [&self.norm1, &self.norm2].map(|norm| {
                let (weight, bias, epsilon) = norm.parts();
                FrozenNorm { weight, bias, epsilon }
            }),
            query: self.query.as_frozen(x),
            key: self.key.as_frozen(x),
            value: self.value.as_frozen(x),
            output: self.output.as_frozen(x),
            up: self.up.as_frozen(x),
            down: self.down.as_frozen(x),
            scales: [&self.scale1, &self.scale2].map(|scale| scale.as_ref().map(Param::val)),
            heads: spec.heads,
            checkpoint,
        })
    }
}

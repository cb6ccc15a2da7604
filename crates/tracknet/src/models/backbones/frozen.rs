//! Which blocks can run as one operation of the kernels.

use tracknet_kernels::ComputeDtype;
use tracknet_kernels::block::{Adapter, FrozenBlock, FrozenLinear, FrozenNorm, FrozenWeight};

use burn::module::Param;
use burn::tensor::Tensor;

use crate::models::layers::{Activation, LayerNorm};
use crate::models::projection::{Base, Projection};

use super::spec::{MlpKind, VitSpec};
use super::transformer::Block;

impl Block {
    /// Whether the kernels can compute the block: nothing but plain adapters trains, its products are to be in bfloat16,
    /// and its MLP is two layers with GELU between them.
    pub(super) fn is_frozen(&self, spec: &VitSpec) -> bool {
        spec.mlp_kind == MlpKind::Plain
            && spec.activation == Activation::Gelu
            && self.projections(spec).iter().all(|(_, projection)| is_frozen(projection))
            && [&self.norm1, &self.norm2].into_iter().all(LayerNorm::is_frozen)
            && [&self.scale1, &self.scale2].into_iter().flatten().all(|scale| !scale.is_require_grad())
    }

    /// The block as the CPU's kernels take it, if they can compute it; draws the dropout masks of its adapters.
    pub(super) fn frozen(&self, x: &Tensor<3>, spec: &VitSpec, checkpoint: bool) -> Option<FrozenBlock<'_>> {
        if !FrozenBlock::is_supported(&x.device().inner()) || !self.is_frozen(spec) {
            return None;
        }
        let projections = self.projections(spec);
        let norms = [&self.norm1, &self.norm2];
        let scales = [&self.scale1, &self.scale2];
        let [query, key, value, output, up, down] = projections[..] else { return None };
        let linear = |(_, projection)| linear(projection, x);
        Some(FrozenBlock {
            norms: norms.map(|norm| {
                let (weight, bias, epsilon) = norm.parts();
                FrozenNorm { weight, bias, epsilon }
            }),
            query: linear(query),
            key: linear(key),
            value: linear(value),
            output: linear(output),
            up: linear(up),
            down: linear(down),
            scales: scales.map(|scale| scale.as_ref().map(Param::val)),
            heads: spec.heads,
            checkpoint,
        })
    }
}

/// Whether the kernels can compute a projection: in bfloat16, with a constant base.
fn is_frozen(projection: &Projection) -> bool {
    projection.compute_dtype() == ComputeDtype::Bf16
        && !matches!(&projection.base, Base::Dense(weight) if weight.is_require_grad())
        && projection.bias.as_ref().is_none_or(|bias| !bias.is_require_grad())
        && projection.adapter.as_ref().is_none_or(|adapter| adapter.dora.is_none() && adapter.keeps_some())
}

fn linear<'a>(projection: &'a Projection, x: &Tensor<3>) -> FrozenLinear<'a> {
    FrozenLinear {
        weight: match &projection.base {
            Base::Packed(weight) => FrozenWeight::Packed(weight),
            Base::Dense(weight) => FrozenWeight::Dense(weight.val()),
        },
        bias: projection.bias.as_ref().map(Param::val),
        adapter: projection.adapter.as_ref().map(|adapter| Adapter {
            a: adapter.a.val(),
            b: adapter.b.val(),
            scale: adapter.scale(),
            dropout: adapter.draw_dropout(x),
        }),
    }
}

//! Gradients through 4-bit products.
//!
//! The weight is constant, so the only gradient is that of the input, `g · W`, and it is computed from the packed weight
//! again. What the graph keeps between forward and backward are handles of the packed tensors: no input, no dense copy.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend};

use super::ops::{FourBitOps, PackedFormat};

#[derive(Debug)]
struct Linear4bitBackward;

impl<B: FourBitOps> Backward<B, 1> for Linear4bitBackward {
    type State = (IntTensor<B>, FloatTensor<B>, IntTensor<B>, PackedFormat, bool);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (packed, scales, scale_codes, format, transposed) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
            B::linear_4bit(gradient, packed, scales, scale_codes, format, !transposed)
        });
    }
}

impl<B: FourBitOps, C: CheckpointStrategy> FourBitOps for Autodiff<B, C> {
    fn linear_4bit(
        x: FloatTensor<Self>,
        packed: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        format: PackedFormat,
        transposed: bool,
    ) -> FloatTensor<Self> {
        let scales = scales.into_primitive();
        let (x, node) = x.into_parts();
        match Linear4bitBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (packed.clone(), scales.clone(), scale_codes.clone(), format, transposed);
                prep.finish(state, B::linear_4bit(x, packed, scales, scale_codes, format, transposed))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::linear_4bit(x, packed, scales, scale_codes, format, transposed)),
        }
    }

    fn dequantize_4bit(
        packed: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        format: PackedFormat,
    ) -> FloatTensor<Self> {
        let weight = B::dequantize_4bit(packed, scales.into_primitive(), scale_codes, format);
        <Self as AutodiffBackend>::from_inner(weight)
    }
}

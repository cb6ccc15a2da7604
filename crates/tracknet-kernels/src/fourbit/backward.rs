//! Gradients through 4-bit products.
//!
//! The weight is constant, so the gradients are that of the input, `g · W`, computed from the packed weight again, and
//! that of the bias, the sum of the rows of g. What the graph keeps between forward and backward are handles of the
//! packed tensors: no input, no dense copy.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, binary};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};
use burn::tensor::Shape;

use super::QuantType;
use super::ops::{FourBitOps, PackedFormat, Product};

#[derive(Debug)]
struct Linear4bitBackward;

impl<B: FourBitOps> Backward<B, 2> for Linear4bitBackward {
    type State = (IntTensor<B>, FloatTensor<B>, IntTensor<B>, PackedFormat, Product);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (packed, scales, scale_codes, format, product) = ops.state;
        let back = match product {
            Product::Forward | Product::ForwardWithBias => Product::Transposed,
            Product::Transposed => Product::Forward,
        };
        binary::<B, _, _>(
            ops.parents,
            ops.node,
            grads,
            |gradient| {
                // Neither way back reads a bias.
                let none = scales.clone();
                B::linear_4bit(gradient, none, packed, scales, scale_codes, format, back)
            },
            |gradient| {
                let columns = gradient.shape()[1];
                B::float_reshape(B::float_sum_dim(gradient, 0), Shape::from([columns]))
            },
        );
    }
}

impl<B: FourBitOps, C: CheckpointStrategy> FourBitOps for Autodiff<B, C> {
    fn linear_4bit(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        packed: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        format: PackedFormat,
        product: Product,
    ) -> FloatTensor<Self> {
        let scales = scales.into_primitive();
        let (x, x_node) = x.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let state = (packed.clone(), scales.clone(), scale_codes.clone(), format, product);
        let y = B::linear_4bit(x, bias, packed, scales, scale_codes, format, product);
        match Linear4bitBackward.prepare::<C>([x_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
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

    fn block_maxima(weight: FloatTensor<Self>, blocksize: usize) -> FloatTensor<Self> {
        <Self as AutodiffBackend>::from_inner(B::block_maxima(weight.into_primitive(), blocksize))
    }

    fn block_codes(
        weight: FloatTensor<Self>,
        reciprocals: FloatTensor<Self>,
        quant_type: QuantType,
        blocksize: usize,
    ) -> IntTensor<Self> {
        B::block_codes(weight.into_primitive(), reciprocals.into_primitive(), quant_type, blocksize)
    }
}

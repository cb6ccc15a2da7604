//! Gradients through adapters and dropout: the graph keeps handles, seeds, and the thin products.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend, TensorMetadata};
use burn::tensor::{FloatDType, Shape};

use super::ops::{AdapterOps, AdapterSpec};
use crate::dropout::KeepMask;

#[derive(Debug)]
struct DroppedBackward;

impl<B: AdapterOps> Backward<B, 1> for DroppedBackward {
    type State = KeepMask;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let mask = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| B::dropout(gradient, mask));
    }
}

#[derive(Debug)]
struct AdapterBackward;

impl<B: AdapterOps> Backward<B, 5> for AdapterBackward {
    /// Input, `A` and `s · B` as they were multiplied, thin product.
    type State = ([FloatTensor<B>; 4], AdapterSpec);

    fn backward(self, ops: Ops<Self::State, 5>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let ([x, a, b, thin], spec) = ops.state;
        let [y_node, x_node, a_node, b_node, bias_node] = ops.parents;
        if let Some(node) = bias_node.filter(|_| spec.bias) {
            let columns = gradient.shape()[1];
            let sum = B::float_sum_dim(B::float_cast(gradient.clone(), FloatDType::F32), 0);
            grads.register::<B>(node.id, B::float_reshape(sum, Shape::from([columns])));
        }
        if x_node.is_some() || a_node.is_some() || b_node.is_some() {
            let (of_x, of_a, of_b) = B::adapter_gradients(gradient.clone(), x, a, b, thin, spec);
            for (node, gradient) in [(x_node, of_x), (a_node, of_a), (b_node, of_b)] {
                if let Some(node) = node {
                    grads.register::<B>(node.id, gradient);
                }
            }
        }
        if let Some(node) = y_node {
            grads.register::<B>(node.id, gradient);
        }
    }
}

impl<B: AdapterOps, C: CheckpointStrategy> AdapterOps for Autodiff<B, C> {
    fn dropout(x: FloatTensor<Self>, mask: KeepMask) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        match DroppedBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(mask, B::dropout(x, mask)),
            OpsKind::UnTracked(prep) => prep.finish(B::dropout(x, mask)),
        }
    }

    fn add_adapter(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        spec: AdapterSpec,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let (y, y_node) = y.into_parts();
        let (x, x_node) = x.into_parts();
        let (a, a_node) = a.into_parts();
        let (b, b_node) = b.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let (sum, thin, a, b) = B::add_adapter(y, x.clone(), a, b, bias, spec);
        let nodes = [y_node, x_node, a_node, b_node, bias_node];
        let sum = match AdapterBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x, a.clone(), b.clone(), thin.clone()], spec), sum),
            OpsKind::UnTracked(prep) => prep.finish(sum),
        };
        // Constants of the graph: nothing is trained through them.
        let [thin, a, b] = [thin, a, b].map(<Self as AutodiffBackend>::from_inner);
        (sum, thin, a, b)
    }
}

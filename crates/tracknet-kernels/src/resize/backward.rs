//! Gradients through a resize: the graph keeps the size of the input, and no tensor.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, TensorMetadata};

use super::ops::ResizeOps;

#[derive(Debug)]
struct ResizeBackward;

impl<B: ResizeOps> Backward<B, 1> for ResizeBackward {
    type State = [usize; 2];

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let size = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |gradient| B::bilinear_gradient(gradient, size));
    }
}

impl<B: ResizeOps, C: CheckpointStrategy> ResizeOps for Autodiff<B, C> {
    fn bilinear(x: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let [_, _, height, width] = x.shape().dims();
        match ResizeBackward.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish([height, width], B::bilinear(x, size)),
            OpsKind::UnTracked(prep) => prep.finish(B::bilinear(x, size)),
        }
    }
}

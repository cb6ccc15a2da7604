//! Gradients through depthwise convolutions: each is computed only if its parent asks for it.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::ops::DepthwiseOps;

#[derive(Debug)]
struct DepthwiseBackward;

impl<B: DepthwiseOps> Backward<B, 2> for DepthwiseBackward {
    /// Input and weight.
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        let [of_x, of_weight] = ops.parents;
        if let Some(node) = of_weight {
            grads.register::<B>(node.id, B::depthwise_conv3x3_weight_gradient(x, gradient.clone()));
        }
        if let Some(node) = of_x {
            grads.register::<B>(node.id, B::depthwise_conv3x3_input_gradient(gradient, weight));
        }
    }
}

impl<B: DepthwiseOps, C: CheckpointStrategy> DepthwiseOps for Autodiff<B, C> {
    fn depthwise_conv3x3(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        match DepthwiseBackward.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (x.clone(), weight.clone());
                prep.finish(state, B::depthwise_conv3x3(x, weight))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::depthwise_conv3x3(x, weight)),
        }
    }
}

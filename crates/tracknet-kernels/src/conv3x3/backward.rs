//! Gradients through dense 3×3 convolutions: each is computed only if its parent asks for it.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::ops::Conv3x3Ops;

#[derive(Debug)]
struct Conv3x3Backward;

impl<B: Conv3x3Ops> Backward<B, 2> for Conv3x3Backward {
    /// Input and weight.
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (x, weight) = ops.state;
        let [of_x, of_weight] = ops.parents;
        if let Some(node) = of_weight {
            grads.register::<B>(node.id, B::conv3x3_weight_gradient(x, weight.clone(), gradient.clone()));
        }
        if let Some(node) = of_x {
            grads.register::<B>(node.id, B::conv3x3_input_gradient(gradient, weight));
        }
    }
}

impl<B: Conv3x3Ops, C: CheckpointStrategy> Conv3x3Ops for Autodiff<B, C> {
    fn conv3x3(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        match Conv3x3Backward.prepare::<C>([x_node, weight_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = (x.clone(), weight.clone());
                prep.finish(state, B::conv3x3(x, weight))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::conv3x3(x, weight)),
        }
    }
}

//! Gradients through residual connections.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::ops::ResidualOps;
use super::reference;

#[derive(Debug)]
struct ResidualBackward;

impl<B: ResidualOps> Backward<B, 3> for ResidualBackward {
    /// The scale, and the branch if the scale trains.
    type State = (FloatTensor<B>, Option<FloatTensor<B>>);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (scale, branch) = ops.state;
        let [x_node, branch_node, scale_node] = ops.parents;
        if let (Some(node), Some(branch)) = (scale_node, branch) {
            grads.register::<B>(node.id, reference::of_scale::<B>(gradient.clone(), branch));
        }
        if let Some(node) = branch_node {
            grads.register::<B>(node.id, B::times_scale(gradient.clone(), scale));
        }
        if let Some(node) = x_node {
            grads.register::<B>(node.id, gradient);
        }
    }
}

impl<B: ResidualOps, C: CheckpointStrategy> ResidualOps for Autodiff<B, C> {
    fn add_scaled(x: FloatTensor<Self>, branch: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (branch, branch_node) = branch.into_parts();
        let scale_trains = scale.is_tracked();
        let (scale, scale_node) = scale.into_parts();
        let kept = scale_trains.then(|| branch.clone());
        let y = B::add_scaled(x, branch, scale.clone());
        match ResidualBackward.prepare::<C>([x_node, branch_node, scale_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((scale, kept), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

//! Gradients through deformable attention: the graph keeps handles of the three inputs.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::ops::{DeformableOps, Pyramid};

#[derive(Debug)]
struct DeformableBackward;

impl<B: DeformableOps> Backward<B, 3> for DeformableBackward {
    /// Value, locations, weights.
    type State = ([FloatTensor<B>; 3], Pyramid);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let ([value, locations, weights], pyramid) = ops.state;
        let (of_value, of_locations, of_weights) =
            B::deformable_attention_gradients(value, locations, weights, gradient, pyramid);
        for (node, gradient) in ops.parents.into_iter().zip([of_value, of_locations, of_weights]) {
            if let Some(node) = node {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: DeformableOps, C: CheckpointStrategy> DeformableOps for Autodiff<B, C> {
    fn deformable_attention(
        value: FloatTensor<Self>,
        locations: FloatTensor<Self>,
        weights: FloatTensor<Self>,
        pyramid: Pyramid,
    ) -> FloatTensor<Self> {
        let (value, value_node) = value.into_parts();
        let (locations, locations_node) = locations.into_parts();
        let (weights, weights_node) = weights.into_parts();
        let y = B::deformable_attention(value.clone(), locations.clone(), weights.clone(), pyramid.clone());
        match DeformableBackward.prepare::<C>([value_node, locations_node, weights_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([value, locations, weights], pyramid), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

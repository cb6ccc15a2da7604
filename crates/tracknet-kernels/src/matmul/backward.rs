//! Gradients through products: each factor gets the product of the gradient with the other, which the graph keeps only for
//! a factor that wants a gradient.

use burn::backend::Autodiff;
use burn::backend::TensorMetadata;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::ops::MatmulOps;

#[derive(Debug)]
struct MatmulBackward;

/// Tensors that the forward pass saves for the backward pass.
#[derive(Debug, Clone)]
struct Saved<T> {
    /// For the gradient of the right factor.
    lhs: Option<T>,
    /// For the gradient of the left factor.
    rhs: Option<T>,
    /// Whether the left factor is one matrix for all.
    shared: bool,
}

impl<B: MatmulOps> Backward<B, 2> for MatmulBackward {
    type State = Saved<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let Saved { lhs, rhs, shared } = ops.state;
        let [lhs_node, rhs_node] = ops.parents;
        if let (Some(node), Some(rhs)) = (lhs_node, rhs) {
            let rhs = B::float_swap_dims(rhs, 1, 2);
            let of_lhs = match shared {
                true => B::summed_matrix_products(gradient.clone(), rhs),
                false => B::matrix_products(gradient.clone(), rhs),
            };
            grads.register::<B>(node.id, of_lhs);
        }
        if let (Some(node), Some(lhs)) = (rhs_node, lhs) {
            grads.register::<B>(node.id, B::matrix_products(B::float_swap_dims(lhs, 1, 2), gradient));
        }
    }
}

impl<B: MatmulOps, C: CheckpointStrategy> MatmulOps for Autodiff<B, C> {
    fn matrix_products(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        let [lhs_trains, rhs_trains] = [&lhs, &rhs].map(|factor| factor.is_tracked());
        let (lhs, lhs_node) = lhs.into_parts();
        let (rhs, rhs_node) = rhs.into_parts();
        let state = Saved {
            lhs: rhs_trains.then(|| lhs.clone()),
            rhs: lhs_trains.then(|| rhs.clone()),
            shared: lhs.shape()[0] != rhs.shape()[0],
        };
        let y = B::matrix_products(lhs, rhs);
        match MatmulBackward.prepare::<C>([lhs_node, rhs_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

//! Gradients through normalization. The graph keeps the input and the statistics; a frozen weight and bias get none.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, AutodiffBackend};

use super::ops::{NormOps, NormSpec};

#[derive(Debug)]
struct NormBackward;

impl<B: NormOps> Backward<B, 3> for NormBackward {
    /// Input, weight, bias, statistics.
    type State = ([FloatTensor<B>; 4], NormSpec);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let ([x, weight, bias, statistics], spec) = ops.state;
        let [x_node, weight_node, bias_node] = ops.parents;
        let parameters = weight_node.is_some() || bias_node.is_some();
        let (of_x, of_weight, of_bias) =
            B::normalize_gradients(x, weight, bias, statistics, gradient, spec, parameters);
        for (node, gradient) in [(x_node, Some(of_x)), (weight_node, of_weight), (bias_node, of_bias)] {
            if let (Some(node), Some(gradient)) = (node, gradient) {
                grads.register::<B>(node.id, gradient);
            }
        }
    }
}

impl<B: NormOps, C: CheckpointStrategy> NormOps for Autodiff<B, C> {
    fn normalize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        spec: NormSpec,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let (y, statistics) = B::normalize(x.clone(), weight.clone(), bias.clone(), spec);
        let y = match NormBackward.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish(([x, weight, bias, statistics.clone()], spec), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        };
        // Constants of the graph: nothing is trained through them.
        (y, <Self as AutodiffBackend>::from_inner(statistics))
    }
}

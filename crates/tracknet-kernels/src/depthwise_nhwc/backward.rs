//! Gradients through depthwise convolutions with channels last: each is computed only if its parent asks for it, and the input
//! is kept only for the weight's.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::ops::DepthwiseNhwcOps;
use super::reference;

#[derive(Debug)]
struct DepthwiseNhwcBackward;

impl<B: DepthwiseNhwcOps> Backward<B, 3> for DepthwiseNhwcBackward {
    /// The input if the weight trains, the weight, and the grid.
    type State = (Option<FloatTensor<B>>, FloatTensor<B>, [usize; 2]);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (x, weight, grid) = ops.state;
        let [of_x, of_weight, of_bias] = ops.parents;
        if let Some(node) = of_bias {
            grads.register::<B>(node.id, reference::bias_gradient::<B>(gradient.clone()));
        }
        if let (Some(node), Some(x)) = (of_weight, x) {
            let of_weight = B::depthwise_conv_nhwc_weight_gradient(x, weight.clone(), gradient.clone(), grid);
            grads.register::<B>(node.id, of_weight);
        }
        if let Some(node) = of_x {
            grads.register::<B>(node.id, B::depthwise_conv_nhwc_input_gradient(gradient, weight, grid));
        }
    }
}

impl<B: DepthwiseNhwcOps, C: CheckpointStrategy> DepthwiseNhwcOps for Autodiff<B, C> {
    fn depthwise_conv_nhwc(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        grid: [usize; 2],
    ) -> FloatTensor<Self> {
        let weight_trains = weight.is_tracked();
        let (x, x_node) = x.into_parts();
        let (weight, weight_node) = weight.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let kept = weight_trains.then(|| x.clone());
        let y = B::depthwise_conv_nhwc(x, weight.clone(), bias, grid);
        match DepthwiseNhwcBackward.prepare::<C>([x_node, weight_node, bias_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => prep.finish((kept, weight, grid), y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}

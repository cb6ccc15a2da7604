//! The nodes of frozen blocks and MLPs in the graph: their parents are the inputs and the adapters.

use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::flex::{HostBlock, HostMlp};
use super::ops::{BlockGradients, BlockOps, Tape};

#[derive(Debug)]
struct BlockBackward;

impl<B: BlockGradients> Backward<B, 2> for BlockBackward {
    type State = (FloatTensor<B>, Arc<HostBlock>, Tape);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (adapters, block, tape) = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        let gradients = B::frozen_block_gradients(gradient, adapters, block, tape);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct MlpBackward;

impl<B: BlockGradients> Backward<B, 3> for MlpBackward {
    type State = (FloatTensor<B>, Arc<HostMlp>, Tape);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let (adapters, mlp, tape) = ops.state;
        let [residual, x, of_adapters] = ops.parents;
        let gradient = grads.consume::<B>(&ops.node);
        // A residual that alone asks for its gradient gets it without the work of the others.
        if x.is_some() || of_adapters.is_some() {
            let gradients = B::frozen_mlp_gradients(gradient.clone(), adapters, mlp, tape);
            for (parent, gradient) in [x, of_adapters].into_iter().zip(gradients) {
                if let Some(parent) = parent {
                    grads.register::<B>(parent.id, gradient);
                }
            }
        }
        if let Some(parent) = residual {
            grads.register::<B>(parent.id, gradient);
        }
    }
}

impl<B: BlockOps + BlockGradients, C: CheckpointStrategy> BlockOps for Autodiff<B, C> {
    fn frozen_block(
        x: FloatTensor<Self>,
        adapters: FloatTensor<Self>,
        block: Arc<HostBlock>,
        _tape: Option<Tape>,
    ) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (adapters, adapters_node) = adapters.into_parts();
        match BlockBackward.prepare::<C>([x_node, adapters_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let tape = Tape::default();
                let y = B::frozen_block(x, adapters.clone(), block.clone(), Some(tape.clone()));
                prep.finish((adapters, block, tape), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::frozen_block(x, adapters, block, None)),
        }
    }

    fn frozen_mlp(
        residual: FloatTensor<Self>,
        x: FloatTensor<Self>,
        adapters: FloatTensor<Self>,
        mlp: Arc<HostMlp>,
        _tape: Option<Tape>,
    ) -> FloatTensor<Self> {
        let (residual, residual_node) = residual.into_parts();
        let (x, x_node) = x.into_parts();
        let (adapters, adapters_node) = adapters.into_parts();
        match MlpBackward.prepare::<C>([residual_node, x_node, adapters_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let tape = Tape::default();
                let y = B::frozen_mlp(residual, x, adapters.clone(), mlp.clone(), Some(tape.clone()));
                prep.finish((adapters, mlp, tape), y)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::frozen_mlp(residual, x, adapters, mlp, None)),
        }
    }
}

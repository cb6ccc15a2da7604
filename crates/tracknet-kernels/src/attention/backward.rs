//! Gradients through attention.
//!
//! The graph keeps the handles of queries, keys, values and output, and the backend's row statistics: no score matrix.

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;

use super::ops::{AttentionFormat, AttentionOps};

#[derive(Debug)]
struct AttentionBackward;

/// Tensors that the forward pass saves for the backward pass.
#[derive(Debug, Clone)]
struct Saved<T> {
    inputs: [T; 3],
    table: T,
    format: AttentionFormat,
    output: T,
    statistics: T,
}

impl<B: AttentionOps> Backward<B, 3> for AttentionBackward {
    type State = Saved<FloatTensor<B>>;

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, _checkpointer: &mut Checkpointer) {
        let Saved { inputs: [query, key, value], table, format, output, statistics } = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        let (d_query, d_key, d_value) =
            B::multi_head_attention_backward(query, key, value, table, format, output, statistics, gradient);
        for (parent, gradient) in ops.parents.into_iter().zip([d_query, d_key, d_value]) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C> {
    fn multi_head_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        table: FloatTensor<Self>,
        format: AttentionFormat,
    ) -> FloatTensor<Self> {
        let table = table.into_primitive();
        let (query, query_node) = query.into_parts();
        let (key, key_node) = key.into_parts();
        let (value, value_node) = value.into_parts();
        match AttentionBackward.prepare::<C>([query_node, key_node, value_node]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let inputs = [query.clone(), key.clone(), value.clone()];
                let (output, statistics) =
                    B::multi_head_attention_with_statistics(query, key, value, table.clone(), format);
                prep.finish(Saved { inputs, table, format, output: output.clone(), statistics }, output)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::multi_head_attention(query, key, value, table, format)),
        }
    }
}

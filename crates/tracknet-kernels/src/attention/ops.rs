//! The operations a backend provides for attention.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;
use crate::ComputeDtype;

/// How queries, keys and values are to be read; travels beside the tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionFormat {
    /// Heads, side by side in the last dimension.
    pub heads: usize,
    /// Factor of the scores.
    pub scale: f32,
    /// Whether queries and keys are rotated by the table; if not, any tensor may stand in its place.
    pub rotary: bool,
    /// With bfloat16 a kernel may round the factors of products to it; sums and the softmax stay f32.
    pub compute: ComputeDtype,
}

/// Softmax attention on a backend.
///
/// Queries, keys, values, outputs and gradients are `[batch, tokens, heads · head_dim]`, as projections give and take
/// them. The rotary table is `[2, tokens, head_dim / 2]`: cosines, then sines.
///
/// The default bodies compose ordinary tensor operations: the backend's fused attention forward, the whole score matrix
/// for a while backward. They compute in the dtype of the tensors, whatever the compute dtype says. A backend with an own
/// kernel overrides all three.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait AttentionOps: Backend {
    /// The output.
    fn multi_head_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        table: FloatTensor<Self>,
        format: AttentionFormat,
    ) -> FloatTensor<Self> {
        reference::forward::<Self>(query, key, value, table, format)
    }

    /// The output, and what the backward pass wants to know again beside it: a kernel's row statistics. The default
    /// needs nothing and repeats the output.
    fn multi_head_attention_with_statistics(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        table: FloatTensor<Self>,
        format: AttentionFormat,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let output = Self::multi_head_attention(query, key, value, table, format);
        (output.clone(), output)
    }

    /// The gradients of query, key and value, from the gradient of the output.
    #[allow(clippy::too_many_arguments, reason = "the extension macro takes tensors one by one")]
    fn multi_head_attention_backward(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        table: FloatTensor<Self>,
        format: AttentionFormat,
        output: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let _ = statistics;
        reference::backward::<Self>([query, key, value], table, format, output, gradient)
    }
}

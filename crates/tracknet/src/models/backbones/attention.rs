//! Softmax attention over all tokens.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;
use burn::tensor::module::attention as fused_attention;
use burn::tensor::ops::AttentionModuleOptions;

/// Multi-head attention of `[batch, tokens, hidden]` queries, keys and values.
///
/// Without gradients the backend's fused attention is used, which does not keep the score matrix.
pub(super) fn attention(query: Tensor<3>, key: Tensor<3>, value: Tensor<3>, heads: usize) -> Tensor<3> {
    let [batch, tokens, hidden] = query.dims();
    let head = hidden / heads;
    let split = |x: Tensor<3>| x.reshape([batch, tokens, heads, head]).swap_dims(1, 2);
    let y = if query.device().is_autodiff() {
        let scale = 1.0 / (head as f64).sqrt();
        let query = split(query.mul_scalar(scale));
        let scores = query.matmul(split(key).swap_dims(2, 3));
        softmax(scores, 3).matmul(split(value))
    } else {
        fused_attention(split(query), split(key), split(value), None, None, AttentionModuleOptions::default())
    };
    y.swap_dims(1, 2).reshape([batch, tokens, hidden])
}

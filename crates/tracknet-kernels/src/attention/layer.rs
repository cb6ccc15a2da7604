//! Attention on tensors.

use burn::backend::Dispatch;
use burn::tensor::{Device, Tensor, TensorData};

use crate::ComputeDtype;

use super::ops::{AttentionFormat, AttentionOps};

/// Rotary position embedding: the angle by which each pair of numbers of queries and keys is rotated at each token
/// (RoFormer, Su et al., 2021). A pair is a number of the first half of a head and the same of the second half; all
/// heads are rotated alike. A token with cosines 1 and sines 0 stays as it is.
#[derive(Debug, Clone)]
pub struct Rotary {
    /// `[2, tokens, head_dim / 2]`: cosines, then sines.
    table: Tensor<3>,
}

impl Rotary {
    /// From the cosines and sines of `tokens` tokens, `[tokens, head_dim / 2]` each.
    ///
    /// # Panics
    /// If the lengths differ or are no multiple of `tokens`, like every Burn operation on shapes that do not fit.
    pub fn new(mut cos: Vec<f32>, sin: &[f32], tokens: usize, device: &Device) -> Self {
        let pairs = cos.len() / tokens.max(1);
        let found = [cos.len(), sin.len()];
        assert!(found == [tokens * pairs; 2], "rotary table: {found:?} cosines and sines for {tokens} tokens");
        cos.extend_from_slice(sin);
        Self { table: Tensor::from_data(TensorData::new(cos, [2, tokens, pairs]), device) }
    }

    /// `[2, tokens, head_dim / 2]`: cosines, then sines.
    #[cfg(feature = "flex")]
    pub(crate) fn table(&self) -> &Tensor<3> {
        &self.table
    }
}

/// Multi-head attention: `softmax(scale · Q·Kᵀ) · V` for each head, without ever keeping the scores.
///
/// * `query`, `key`, `value`: `[batch, tokens, heads · head_dim]`, one float dtype; contiguous ones are not copied.
/// * `rotary`: rotates queries and keys before they meet.
/// * `compute`: [`ComputeDtype::Bf16`] rounds what enters a product to bfloat16, for twice the speed where the processor
///   multiplies it; others round nothing.
/// * returns the same shape and dtype.
///
/// Sums and the softmax are f32: on the CPU in tiles that fit the caches, with the widest instructions the processor has, on
/// CUDA's matrix units in tiles that fit registers, elsewhere on GPUs as matrix products. Backward computes the scores again (FlashAttention-2, Dao, 2023,
/// <https://arxiv.org/abs/2307.08691>). NaN or an infinity gives NaN in every row it takes part in: in a key or value in
/// all rows of its head and frame.
///
/// # Panics
/// If shapes do not fit each other, the heads or the table, like every Burn operation.
pub fn attention(
    query: Tensor<3>,
    key: Tensor<3>,
    value: Tensor<3>,
    heads: usize,
    scale: f32,
    rotary: Option<&Rotary>,
    compute: ComputeDtype,
) -> Tensor<3> {
    let shape @ [_, tokens, hidden] = query.dims();
    let others = [key.dims(), value.dims()];
    assert!(others == [shape; 2], "attention: query {shape:?}, key and value {others:?}");
    assert!(heads > 0 && hidden.is_multiple_of(heads), "attention: {hidden} numbers do not split into {heads} heads");
    if let Some(rotary) = rotary {
        let (found, head_dim) = (rotary.table.dims(), hidden / heads);
        let fits = head_dim.is_multiple_of(2) && found == [2, tokens, head_dim / 2];
        assert!(fits, "attention: rotary table {found:?} for {tokens} tokens and heads of {head_dim}");
    }
    let format = AttentionFormat { heads, scale, rotary: rotary.is_some(), compute };
    // Without a table the operation still takes a tensor; a second handle costs nothing.
    let table = rotary.map_or_else(|| query.clone(), |rotary| rotary.table.clone());
    Tensor::from_dispatch(Dispatch::multi_head_attention(
        query.into_dispatch(),
        key.into_dispatch(),
        value.into_dispatch(),
        table.into_dispatch(),
        format,
    ))
}

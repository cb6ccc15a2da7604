//! The CPU kernel: attention of f32 slices.
//!
//! The lanes of a register are queries. Queries come in panels, transposed; scores are tiles `[keys, queries]` and
//! outputs `[head_dim, queries]`. So every product spreads numbers of keys or values, which lie as they came, over
//! registers of queries; maxima and sums of the softmax need no shuffles; and no query's result depends on which others
//! it was computed with.

mod backward;
mod forward;
mod head;
mod isa;
mod lanes;
mod product;
mod rows;

use rayon::prelude::*;

use backward::Backward;
use forward::Forward;
use head::{Head, Pack};
use rows::SharedRows;

pub(crate) use isa::Isa;
pub(crate) use rows::Angles;

/// Queries that one task takes (rounded to whole panels): enough tasks for many cores, enough work in each.
const QUERIES_PER_TASK: usize = 240;

/// Sizes of queries, keys and values `[batch, tokens, heads · head_dim]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AttentionShape {
    pub(crate) batch: usize,
    pub(crate) tokens: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
}

impl AttentionShape {
    pub(crate) fn hidden(&self) -> usize {
        self.heads * self.head_dim
    }

    fn elements(&self) -> usize {
        self.batch * self.tokens * self.hidden()
    }
}

/// What attention reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub(crate) query: &'a [f32],
    pub(crate) key: &'a [f32],
    pub(crate) value: &'a [f32],
    pub(crate) shape: AttentionShape,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// Turns queries and keys.
    pub(crate) angles: Option<Angles<'a>>,
}

impl Inputs<'_> {
    /// The output `[batch, tokens, heads · head_dim]`, and for each `[batch, heads, tokens]` the base-2 logarithm of
    /// Σ 2^score, which [`Self::backward`] needs.
    ///
    /// The result does not depend on the number of threads.
    pub(crate) fn forward(&self, isa: Isa) -> (Vec<f32>, Vec<f32>) {
        let mut output = vec![0.0; self.shape.elements()];
        let mut lse = vec![0.0; self.shape.batch * self.shape.heads * self.shape.tokens];
        if output.is_empty() {
            return (output, lse);
        }
        let shared = SharedRows::new(&mut output);
        lse.par_chunks_mut(self.shape.tokens).enumerate().for_each(|(index, lse)| {
            let head = Head::new(self, index);
            let packed = isa.run(Pack(&head));
            lse.par_chunks_mut(QUERIES_PER_TASK).enumerate().for_each(|(i, lse)| {
                isa.run(Forward { head: &head, packed: &packed, first: i * QUERIES_PER_TASK, output: &shared, lse });
            });
        });
        (output, lse)
    }

    /// The gradients of query, key and value, from what [`Self::forward`] returned and the gradient of the output.
    ///
    /// The result does not depend on the number of threads.
    pub(crate) fn backward(&self, output: &[f32], lse: &[f32], gradient: &[f32], isa: Isa) -> [Vec<f32>; 3] {
        let mut gradients = [0; 3].map(|_| vec![0.0; self.shape.elements()]);
        if gradient.is_empty() {
            return gradients;
        }
        let [d_query, d_key, d_value] = gradients.each_mut().map(|values| SharedRows::new(values));
        lse.par_chunks(self.shape.tokens).enumerate().for_each(|(index, lse)| {
            let head = &Head::new(self, index);
            isa.run(Backward {
                head,
                output: head.rows(output),
                gradient: head.rows(gradient),
                lse,
                d_query: &d_query,
                d_key: &d_key,
                d_value: &d_value,
            });
        });
        gradients
    }
}

#[cfg(test)]
mod tests;

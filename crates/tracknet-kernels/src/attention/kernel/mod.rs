//! The CPU kernel: attention of slices of f32 or bfloat16.
//!
//! The lanes of a register are queries. Queries come in panels, transposed; scores are tiles `[keys, queries]` and
//! outputs `[head_dim, queries]`. So every product broadcasts numbers of keys or values, which lie as they
//! came, to registers of queries; maxima and sums of the softmax need no shuffles; and no query's result depends on which others
//! it was computed with.

mod backward;
mod element;
mod forward;
mod head;
mod matmul;
mod packed;
mod rows;
mod task;

use crate::ComputeDtype;
use crate::parallel::Threads;
use crate::simd::Level;

use backward::Backward;
use forward::Forward;
use head::{Head, Pack};
use packed::Sums;
use rows::SharedRows;

pub(crate) use element::Element;
pub(crate) use rows::RotaryTable;

/// Queries that one task takes, whole panels of every implementation: enough tasks for many cores, enough work in each.
const QUERIES_PER_TASK: usize = 192;

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
pub(crate) struct Inputs<'a, E = f32> {
    pub(crate) query: &'a [E],
    pub(crate) key: &'a [E],
    pub(crate) value: &'a [E],
    pub(crate) shape: AttentionShape,
    /// Factor of the scores.
    pub(crate) scale: f32,
    /// The rotary embedding of queries and keys.
    pub(crate) rotary: Option<RotaryTable<'a>>,
    /// With bfloat16 the factors of all products are rounded to it; sums and all else are f32.
    pub(crate) compute: ComputeDtype,
}

impl<E: Element> Inputs<'_, E> {
    /// The output `[batch, tokens, heads · head_dim]`, and for each `[batch, heads, tokens]` the base-2 logarithm of
    /// Σ 2^score, which [`Self::backward`] needs.
    ///
    /// The result does not depend on the number of threads.
    pub(crate) fn forward<O: Element>(&self, level: Level) -> (Vec<O>, Vec<f32>) {
        let AttentionShape { batch, tokens, heads, .. } = self.shape;
        let mut lse = vec![0.0; batch * heads * tokens];
        let fill = |[output]: [&SharedRows<'_, O>; 1]| {
            let keys = Sums { by_row: true, by_col: false };
            let values = Sums { by_row: false, by_col: true };
            self.each_head(lse.chunks_mut(tokens), |index, lse, threads| {
                let head = &Head::new(self, index);
                let packed = &task::run(level, self.compute, Pack { head, keys, values });
                threads.for_each_chunk(lse, QUERIES_PER_TASK, |i, lse| {
                    let first = i * QUERIES_PER_TASK;
                    // SAFETY: each head comes once, and each run of its queries.
                    let output = unsafe { head.own(output, [first, lse.len()]) };
                    task::run(level, self.compute, Forward { head, packed, first, output, lse });
                });
            });
        };
        // SAFETY: all queries of all heads are there, and `Forward` writes the row of each of its own.
        let [output] = unsafe { self.filled(fill) };
        (output, lse)
    }

    /// The gradients of query, key and value, from what [`Self::forward`] returned and the gradient of the output. They
    /// are summed in f32 and written as `D`.
    ///
    /// The result does not depend on the number of threads.
    pub(crate) fn backward<O: Element, G: Element, D: Element>(
        &self,
        output: &[O],
        lse: &[f32],
        gradient: &[G],
        level: Level,
    ) -> [Vec<D>; 3] {
        let AttentionShape { batch, tokens, heads, .. } = self.shape;
        let (lengths, len) = ([output.len(), gradient.len()], self.shape.elements());
        assert!(lengths == [len; 2] && lse.len() == batch * heads * tokens, "{lengths:?} numbers of {:?}", self.shape);
        let fill = |gradients: [&SharedRows<'_, D>; 3]| {
            self.each_head(lse.chunks(tokens), |index, lse, _| {
                let head = &Head::new(self, index);
                let (output, gradient) = (head.rows(output), head.rows(gradient));
                // SAFETY: each head comes once.
                let gradients = gradients.map(|result| unsafe { head.own(result, [0, tokens]) });
                task::run(level, self.compute, Backward { head, output, gradient, lse, gradients });
            });
        };
        // SAFETY: all heads are there, and `Backward` writes the rows of all tokens of its own.
        unsafe { self.filled(fill) }
    }

    /// Results in the shape of the queries.
    ///
    /// # Safety
    /// When `fill` returns, it has written the row of each token and head. It is not called where there are none.
    unsafe fn filled<T: Element, const N: usize>(&self, fill: impl FnOnce([&SharedRows<'_, T>; N])) -> [Vec<T>; N] {
        let len = self.shape.elements();
        let mut results = [(); N].map(|()| Vec::with_capacity(len));
        if len > 0 {
            let shared = results.each_mut().map(|values| SharedRows::new(&mut values.spare_capacity_mut()[..len]));
            fill(shared.each_ref());
        }
        for values in &mut results {
            // SAFETY: there is nothing to write, or every row was (the caller's): together they are the whole result.
            unsafe { values.set_len(len) };
        }
        results
    }

    /// Gives each head its number, its part of the statistics, and the threads that its loops may use.
    fn each_head<T: Send>(&self, parts: impl Iterator<Item = T>, task: impl Fn(usize, T, Threads) + Sync) {
        let threads = Threads::of_caller();
        threads.for_each(parts.enumerate().collect::<Vec<_>>(), |(index, part)| task(index, part, threads));
    }
}

#[cfg(test)]
mod tests;

//! The backward pass: probabilities are computed again, tile by tile, from the scores and the kept log-sum-exp.
//!
//! With P the probabilities, O the output and G its gradient (Dao, 2023, algorithm 2):
//! `dV = Pᵀ·G`, `dS = P ∘ (G·Vᵀ − rowsum(G ∘ O))`, `dQ = scale · dS·K`, `dK = scale · dSᵀ·Q`.

use super::forward::TILE_KEYS;
use super::head::{Head, Pack, Packed, Panel};
use super::isa::{MAX_VECTORS, Task};
use super::lanes::{Lanes, exp2};
use super::product::{Left, product};
use super::rows::{Buffer, HeadRows, SharedRows, turn_back};

/// All gradients of one head. One task: sums over the queries of a head are then in the order of the queries.
pub(super) struct Backward<'a> {
    pub(super) head: &'a Head<'a>,
    pub(super) output: HeadRows<'a>,
    pub(super) gradient: HeadRows<'a>,
    pub(super) lse: &'a [f32],
    pub(super) d_query: &'a SharedRows<'a>,
    pub(super) d_key: &'a SharedRows<'a>,
    pub(super) d_value: &'a SharedRows<'a>,
}

impl Task for Backward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes, const ROWS: usize>(self) {
        let head = self.head;
        let (tokens, head_dim) = (head.tokens, head.head_dim());
        let stride = MAX_VECTORS * L::COUNT;
        // SAFETY: the caller's.
        let packed = unsafe { Pack(head).run::<L, ROWS>() };
        let width = packed.width;
        let mut work = Work::new(packed, head_dim.next_multiple_of(ROWS), stride);
        for first in (0..tokens).step_by(stride) {
            let count = stride.min(tokens - first);
            let columns = count.next_multiple_of(L::COUNT);
            work.query.pack(head.query, first, [count, columns], head.angles, head.query_factor());
            work.gradient.pack(self.gradient, first, [count, columns], None, 1.0);
            for q in 0..count {
                let products = self.gradient.row(first + q).iter().zip(self.output.row(first + q));
                work.delta[q] = products.map(|(g, o)| g * o).sum();
            }
            work.lse[..count].copy_from_slice(&self.lse[first..first + count]);
            work.d_query.fill(0.0);
            for tile in (0..tokens).step_by(TILE_KEYS) {
                // SAFETY: the caller's.
                unsafe { work.tile::<L, ROWS>(tile, TILE_KEYS.min(tokens - tile), head_dim, [count, columns]) };
            }
            for q in 0..count {
                // SAFETY: one task writes this head's row of this token, once.
                let row = unsafe { self.d_query.row(head.offset(first + q), head_dim) };
                for (c, out) in row.iter_mut().enumerate() {
                    *out = work.d_query[c * stride + q] * head.scale;
                }
                if let Some(angles) = head.angles {
                    turn_back(row, angles, first + q);
                }
            }
        }
        for token in 0..tokens {
            // SAFETY: one task writes this head's row of this token, once.
            let row = unsafe { self.d_key.row(head.offset(token), head_dim) };
            for (out, x) in row.iter_mut().zip(&work.d_key[token * width..]) {
                // The packed queries carry scale · log₂e.
                *out = x * std::f32::consts::LN_2;
            }
            if let Some(angles) = head.angles {
                turn_back(row, angles, token);
            }
            // SAFETY: as above.
            let row = unsafe { self.d_value.row(head.offset(token), head_dim) };
            row.copy_from_slice(&work.d_value[token * width..][..head_dim]);
        }
    }
}

/// The scratch of one head.
struct Work {
    packed: Packed,
    /// `[tokens, width]`, padded as the keys are.
    d_key: Buffer,
    d_value: Buffer,
    query: Panel,
    gradient: Panel,
    /// `[dims, queries]`.
    d_query: Buffer,
    /// Σ gradient · output of each query of the panel.
    delta: Buffer,
    lse: Buffer,
    /// `[keys, queries]`: scores, then probabilities.
    scores: Buffer,
    /// `[keys, queries]`: gradients of the probabilities, then of the scores.
    d_scores: Buffer,
    dims: usize,
    stride: usize,
}

impl Work {
    #[inline(always)]
    fn new(packed: Packed, dims: usize, stride: usize) -> Self {
        let width = packed.width;
        Self {
            d_key: Buffer::new(packed.keys.len()),
            d_value: Buffer::new(packed.values.len()),
            packed,
            query: Panel::new(width, stride),
            gradient: Panel::new(width, stride),
            d_query: Buffer::new(dims * stride),
            delta: Buffer::new(stride),
            lse: Buffer::new(stride),
            scores: Buffer::new(TILE_KEYS * stride),
            d_scores: Buffer::new(TILE_KEYS * stride),
            dims,
            stride,
        }
    }

    /// Adds what the panel's queries and the `keys` keys from `tile` on have to do with each other.
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, const ROWS: usize>(
        &mut self,
        tile: usize,
        keys: usize,
        head_dim: usize,
        [count, columns]: [usize; 2],
    ) {
        let Self { packed, d_key, d_value, query, gradient, d_query, delta, lse, scores, d_scores, dims, stride } =
            self;
        let (dims, stride, width) = (*dims, *stride, packed.width);
        let padded = keys.next_multiple_of(ROWS);
        let start = tile * width;
        let (key_rows, value_rows) = (&packed.keys[start..], &packed.values[start..]);
        let by_row = |values, row| Left { values, row, step: 1 };
        // SAFETY: the caller's.
        unsafe {
            let sizes = [padded, head_dim, columns];
            product::<L, ROWS>(sizes, by_row(key_rows, width), (&query.transposed, stride), (scores, stride), false);
            let d_probabilities = (&mut **d_scores, stride);
            product::<L, ROWS>(
                sizes,
                by_row(value_rows, width),
                (&gradient.transposed, stride),
                d_probabilities,
                false,
            );
            let rows = scores.chunks_exact_mut(stride).zip(d_scores.chunks_exact_mut(stride)).take(keys);
            rows.for_each(|(scores, d_scores)| score_gradients::<L>(scores, d_scores, lse, delta, columns));

            let sizes = [padded, count, width];
            let d_value = (&mut d_value[start..], width);
            product::<L, ROWS>(sizes, by_row(scores, stride), (&gradient.rows, width), d_value, true);
            let d_key = (&mut d_key[start..], width);
            product::<L, ROWS>(sizes, by_row(d_scores, stride), (&query.rows, width), d_key, true);
            let by_column = Left { values: key_rows, row: 1, step: width };
            product::<L, ROWS>([dims, keys, columns], by_column, (d_scores, stride), (d_query, stride), true);
        }
    }
}

/// For one key and the queries of a panel: scores become probabilities, gradients of probabilities those of scores.
///
/// # Safety
/// The processor has the instructions of `L`.
#[inline(always)]
unsafe fn score_gradients<L: Lanes>(
    scores: &mut [f32],
    d_scores: &mut [f32],
    lse: &[f32],
    delta: &[f32],
    columns: usize,
) {
    let shortest = scores.len().min(d_scores.len()).min(lse.len()).min(delta.len());
    assert!(columns.next_multiple_of(L::COUNT) <= shortest, "lanes beyond the panel");
    for lane in (0..columns).step_by(L::COUNT) {
        // SAFETY: a register at `lane` lies within each slice (asserted).
        unsafe {
            let (score, d_score) = (scores.as_mut_ptr().add(lane), d_scores.as_mut_ptr().add(lane));
            let p = exp2(L::load(score).sub(L::load(lse.as_ptr().add(lane))));
            let d = L::load(d_score).sub(L::load(delta.as_ptr().add(lane)));
            p.store(score);
            p.mul(d).store(d_score);
        }
    }
}

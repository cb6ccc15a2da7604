//! The backward pass: probabilities are computed again, tile by tile, from the scores and the kept log-sum-exp.
//!
//! With P the probabilities, O the output and G its gradient (Dao, 2023, algorithm 2):
//! `dV = Pᵀ·G`, `dS = P ∘ (G·Vᵀ − rowsum(G ∘ O))`, `dQ = scale · dS·K`, `dK = scale · dSᵀ·Q`.

use super::element::Element;
use super::forward::TILE_KEYS;
use super::head::{Head, Pack, Packed};
use super::matmul::{Lhs, matmul};
use super::packed::{Panel, Sums, padded_width};
use super::rows::{Buffer, HeadRows, OwnRows, RotaryTable, columns_as_rows, invert_rotary};
use super::task::Task;
use crate::simd::{DotFormat, MAX_GROUP, Register, Simd, exp2};

/// All gradients of one head. One task: sums over the queries of a head are then in the order of the queries.
pub(super) struct Backward<'a, E, O, G, D> {
    pub(super) head: &'a Head<'a, E>,
    pub(super) output: HeadRows<'a, O>,
    pub(super) gradient: HeadRows<'a, G>,
    pub(super) lse: &'a [f32],
    /// The gradients of query, key and value, a row for each token.
    pub(super) gradients: [OwnRows<'a, D>; 3],
}

impl<E: Element, O: Element, G: Element, D: Element> Task for Backward<'_, E, O, G, D> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, F: DotFormat<S>>(mut self, simd: S) {
        let tokens = self.head.tokens;
        let (keys, values) = (Sums { by_row: true, by_col: true }, Sums { by_row: true, by_col: false });
        let packed = Pack { head: self.head, keys, values }.run::<S, F>(simd);
        let mut scratch = Scratch::new::<S, F>(packed, self.head.head_dim());
        for first in (0..tokens).step_by(scratch.stride) {
            let count = scratch.stride.min(tokens - first);
            // Two registers of queries share one of places.
            let columns = count.next_multiple_of(F::GROUP * S::F32::LANES);
            scratch.begin::<E, O, G, D, S, F>(simd, &self, [first, count, columns]);
            for tile in (0..tokens).step_by(TILE_KEYS) {
                scratch.tile::<S, F>(simd, tile, TILE_KEYS.min(tokens - tile), [count, columns]);
            }
            self.write_d_query(simd, &mut scratch, [first, count]);
        }
        self.write_d_key_and_value(&mut scratch);
    }
}

impl<E: Element, O: Element, G: Element, D: Element> Backward<'_, E, O, G, D> {
    #[inline(always)]
    fn write_d_query<S: Simd>(&mut self, simd: S, scratch: &mut Scratch, [first, count]: [usize; 2]) {
        let head = self.head;
        let width = scratch.width;
        for lane in (0..count).step_by(S::F32::LANES) {
            columns_as_rows(simd, &scratch.d_query[lane..], scratch.stride, &mut scratch.rows, width);
            for q in lane..count.min(lane + S::F32::LANES) {
                let row = &mut scratch.rows[(q - lane) * width..][..head.head_dim()];
                write(&mut self.gradients[0], first + q, row, head.rotary, head.scale);
            }
        }
    }

    #[inline(always)]
    fn write_d_key_and_value(&mut self, scratch: &mut Scratch) {
        let head = self.head;
        let [_, to_key, to_value] = &mut self.gradients;
        let rows = scratch.d_key.chunks_exact_mut(scratch.width).zip(scratch.d_value.chunks_exact_mut(scratch.width));
        for (token, (d_key, d_value)) in rows.take(head.tokens).enumerate() {
            // The packed queries carry scale · log₂e.
            let factor = std::f32::consts::LN_2;
            write(to_key, token, &mut d_key[..head.head_dim()], head.rotary, factor);
            write(to_value, token, &mut d_value[..head.head_dim()], None, 1.0);
        }
    }
}

/// Writes the row of a token, through the inverse of the rotary embedding if `rotary` is given, and times `factor`.
#[inline(always)]
fn write<D: Element>(
    to: &mut OwnRows<'_, D>,
    token: usize,
    row: &mut [f32],
    rotary: Option<RotaryTable<'_>>,
    factor: f32,
) {
    if let Some(table) = rotary {
        invert_rotary(row, table, token);
    }
    let out = to.row(token);
    assert!(out.len() == row.len(), "a row of {} for one of {}", row.len(), out.len());
    for (out, x) in out.iter_mut().zip(row) {
        out.write(D::from_f32(*x * factor));
    }
}

/// The scratch of one head.
struct Scratch {
    packed: Packed,
    /// `[tokens, width]`, padded as the keys are.
    d_key: Buffer,
    d_value: Buffer,
    query: Panel,
    gradient: Panel,
    /// `[width, queries]`.
    d_query: Buffer,
    /// Σ gradient · output of each query of the panel.
    delta: Buffer,
    lse: Buffer,
    /// `[keys, queries]`: scores, then probabilities, packed for sums over the queries.
    scores: Buffer,
    /// `[keys, queries]`: gradients of the probabilities, then of the scores, packed for sums over the queries.
    d_scores: Buffer,
    /// `[keys / group, queries]`: gradients of the scores, packed for sums over the keys; empty where `d_scores` is both.
    d_scores_by_col: Buffer,
    /// Some rows of outputs or gradients as f32.
    rows: Buffer,
    head_dim: usize,
    width: usize,
    stride: usize,
}

impl Scratch {
    #[inline(always)]
    fn new<S: Simd, F: DotFormat<S>>(packed: Packed, head_dim: usize) -> Self {
        let width = padded_width(head_dim);
        let stride = F::PANEL * S::F32::LANES;
        Self {
            d_key: Buffer::new(packed.rows * width),
            d_value: Buffer::new(packed.rows * width),
            packed,
            query: Panel::new::<S, F>(stride, head_dim, true),
            gradient: Panel::new::<S, F>(stride, head_dim, true),
            d_query: Buffer::new(width * stride),
            delta: Buffer::new(stride),
            lse: Buffer::new(stride),
            scores: Buffer::new(TILE_KEYS * stride),
            d_scores: Buffer::new(TILE_KEYS * stride),
            d_scores_by_col: Buffer::new(if F::GROUP > 1 { TILE_KEYS / F::GROUP * stride } else { 0 }),
            rows: Buffer::new(S::F32::LANES.max(2) * width),
            head_dim,
            width,
            stride,
        }
    }

    /// Takes the panel of `count` queries from `first` on.
    #[inline(always)]
    fn begin<E: Element, O: Element, G: Element, D: Element, S: Simd, F: DotFormat<S>>(
        &mut self,
        simd: S,
        task: &Backward<'_, E, O, G, D>,
        panel @ [first, count, _]: [usize; 3],
    ) {
        let head = task.head;
        self.query.pack::<E, S, F>(simd, head.query, panel, head.rotary, head.query_factor());
        self.gradient.pack::<G, S, F>(simd, task.gradient, panel, None, 1.0);
        // Where there is no query, no number may come out that is not finite: zeros are multiplied with it.
        self.delta.fill(0.0);
        self.lse.fill(0.0);
        self.lse[..count].copy_from_slice(&task.lse[first..first + count]);
        self.rows.fill(0.0);
        let (gradient, output) = self.rows.split_at_mut(self.width);
        for q in 0..count {
            task.gradient.read(first + q, None, 1.0, &mut gradient[..self.head_dim]);
            task.output.read(first + q, None, 1.0, &mut output[..self.head_dim]);
            let mut sum = simd.splat(0.0);
            for lane in (0..self.width).step_by(S::F32::LANES) {
                sum = simd.read(&gradient[lane..]).mul_add(simd.read(&output[lane..]), sum);
            }
            self.delta[q] = sum.sum();
        }
        self.d_query.fill(0.0);
    }

    /// Adds what the panel's queries and `keys` keys and values from number `tile` on give to the gradients of each other.
    #[inline(always)]
    fn tile<S: Simd, F: DotFormat<S>>(&mut self, simd: S, tile: usize, keys: usize, [count, columns]: [usize; 2]) {
        let Self { packed, d_key, d_value, query, gradient, d_query, scores, d_scores, .. } = self;
        let (width, stride) = (self.width, self.stride);
        let padded = keys.next_multiple_of(S::BLOCK_ROWS);
        let whole = keys.next_multiple_of(F::GROUP);
        let sizes = [padded, self.head_dim.div_ceil(F::GROUP), columns];
        let (key_rows, value_rows) = (packed.keys.lhs_by_row(tile), packed.values.lhs_by_row(tile));
        matmul::<S, F>(simd, sizes, key_rows, query.rhs_by_row(), (scores, stride), false);
        matmul::<S, F>(simd, sizes, value_rows, gradient.rhs_by_row(), (d_scores, stride), false);
        // Probability 0 for what fills up the last group.
        scores[keys * stride..whole * stride].fill(f32::NEG_INFINITY);
        let by_col = &mut self.d_scores_by_col;
        let sizes = [whole, columns, stride];
        score_gradients::<S, F>(simd, [scores, d_scores, by_col], &self.lse, &self.delta, sizes);

        let sizes = [padded, count.div_ceil(F::GROUP), self.head_dim.next_multiple_of(S::F32::LANES)];
        let start = tile * width;
        let by_key = |values| Lhs { values, row_stride: stride, col_stride: 1 };
        let (queries, gradients) = (query.rows.rhs_by_col(), gradient.rows.rhs_by_col());
        matmul::<S, F>(simd, sizes, by_key(scores), gradients, (&mut d_value[start..], width), true);
        matmul::<S, F>(simd, sizes, by_key(d_scores), queries, (&mut d_key[start..], width), true);
        let sizes = [self.head_dim.next_multiple_of(S::BLOCK_ROWS), whole / F::GROUP, columns];
        let d_scores = if F::GROUP > 1 { by_col } else { d_scores };
        matmul::<S, F>(simd, sizes, packed.keys.lhs_by_col(tile), (d_scores, stride), (d_query, stride), true);
    }
}

/// For the keys of a tile and the queries of a panel: scores become probabilities, gradients of probabilities those of
/// scores. Both are left packed for sums over the queries, the gradients also for sums over the keys (`by_col`).
#[inline(always)]
fn score_gradients<S: Simd, F: DotFormat<S>>(
    simd: S,
    [scores, d_scores, by_col]: [&mut Buffer; 3],
    lse: &[f32],
    delta: &[f32],
    [keys, columns, stride]: [usize; 3],
) {
    let square = F::GROUP * S::F32::LANES;
    assert!(keys.is_multiple_of(F::GROUP) && columns.is_multiple_of(square), "tiles are padded");
    assert!(columns <= stride.min(lse.len()).min(delta.len()), "lanes beyond the panel");
    assert!(keys * stride <= scores.len().min(d_scores.len()), "keys beyond the tile");
    assert!(F::GROUP == 1 || keys / F::GROUP * stride <= by_col.len(), "keys beyond the tile");
    let (scores, d_scores, by_col) = (scores.as_mut_ptr(), d_scores.as_mut_ptr(), by_col.as_mut_ptr());
    for key in (0..keys).step_by(F::GROUP) {
        for lane in (0..columns).step_by(square) {
            // SAFETY: registers at `lane`, as many as a group has numbers, lie within each row (asserted).
            unsafe {
                let zero = simd.splat(0.0);
                let (mut p, mut d) = ([[zero; MAX_GROUP]; MAX_GROUP], [[zero; MAX_GROUP]; MAX_GROUP]);
                for j in 0..F::GROUP {
                    let lane = lane + j * S::F32::LANES;
                    let (lse, delta) = (simd.load(lse.as_ptr().add(lane)), simd.load(delta.as_ptr().add(lane)));
                    for i in 0..F::GROUP {
                        let at = (key + i) * stride + lane;
                        p[i][j] = exp2(simd, simd.load(scores.add(at)).sub(lse));
                        d[i][j] = p[i][j].mul(simd.load(d_scores.add(at)).sub(delta));
                    }
                }
                // No number that is still needed: places take half the room, or all of it.
                for i in 0..F::GROUP {
                    let at = (key + i) * stride + lane / F::GROUP;
                    F::pack_row(simd, p[i]).store(scores.add(at));
                    F::pack_row(simd, d[i]).store(d_scores.add(at));
                }
                if F::GROUP > 1 {
                    for (j, (first, second)) in d[0].into_iter().zip(d[1]).enumerate() {
                        let at = key / F::GROUP * stride + lane + j * S::F32::LANES;
                        F::pack_col(simd, [first, second]).store(by_col.add(at));
                    }
                }
            }
        }
    }
}

//! The backward pass: probabilities are computed again, tile by tile, from the scores and the kept log-sum-exp.
//!
//! With P the probabilities, O the output and G its gradient (Dao, 2023, algorithm 2):
//! `dV = Pᵀ·G`, `dS = P ∘ (G·Vᵀ − rowsum(G ∘ O))`, `dQ = scale · dS·K`, `dK = scale · dSᵀ·Q`.

use super::element::Element;
use super::factors::{Factors, MAX_GROUP};
use super::forward::TILE_KEYS;
use super::head::{Head, Pack, Packed};
use super::isa::Task;
use super::lanes::{Lanes, exp2};
use super::packed::{Panel, Sums, padded_width};
use super::product::{Left, product};
use super::rows::{Angles, Buffer, HeadRows, OwnRows, columns_as_rows, turn_back};

/// All gradients of one head. One task: sums over the queries of a head are then in the order of the queries.
pub(super) struct Backward<'a, E, O, G, D> {
    pub(super) head: &'a Head<'a, E>,
    pub(super) output: HeadRows<'a, O>,
    pub(super) gradient: HeadRows<'a, G>,
    pub(super) lse: &'a [f32],
    /// Those of query, key and value, a row for each token.
    pub(super) gradients: [OwnRows<'a, D>; 3],
}

impl<E: Element, O: Element, G: Element, D: Element> Task for Backward<'_, E, O, G, D> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes, F: Factors<L>, const ROWS: usize>(mut self) {
        let tokens = self.head.tokens;
        let (keys, values) = (Sums { along: true, across: true }, Sums { along: true, across: false });
        // SAFETY: the caller's, here and below.
        unsafe {
            let packed = Pack { head: self.head, keys, values }.run::<L, F, ROWS>();
            let mut work = Work::new::<L, F, ROWS>(packed, self.head.head_dim());
            for first in (0..tokens).step_by(work.stride) {
                let count = work.stride.min(tokens - first);
                // Two registers of queries share one of places.
                let columns = count.next_multiple_of(F::GROUP * L::COUNT);
                work.begin::<E, O, G, D, L, F>(&self, [first, count, columns]);
                for tile in (0..tokens).step_by(TILE_KEYS) {
                    work.tile::<L, F, ROWS>(tile, TILE_KEYS.min(tokens - tile), [count, columns]);
                }
                self.write_d_query::<L>(&mut work, [first, count]);
            }
            self.write_d_key_and_value(&mut work);
        }
    }
}

impl<E: Element, O: Element, G: Element, D: Element> Backward<'_, E, O, G, D> {
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn write_d_query<L: Lanes>(&mut self, work: &mut Work, [first, count]: [usize; 2]) {
        let head = self.head;
        let width = work.width;
        for lane in (0..count).step_by(L::COUNT) {
            // SAFETY: the caller's.
            unsafe { columns_as_rows::<L>(&work.d_query[lane..], work.stride, &mut work.rows, width) };
            for q in lane..count.min(lane + L::COUNT) {
                let row = &mut work.rows[(q - lane) * width..][..head.head_dim()];
                write(&mut self.gradients[0], first + q, row, head.angles, head.scale);
            }
        }
    }

    #[inline(always)]
    fn write_d_key_and_value(&mut self, work: &mut Work) {
        let head = self.head;
        let [_, to_key, to_value] = &mut self.gradients;
        let rows = work.d_key.chunks_exact_mut(work.width).zip(work.d_value.chunks_exact_mut(work.width));
        for (token, (d_key, d_value)) in rows.take(head.tokens).enumerate() {
            // The packed queries carry scale · log₂e.
            let factor = std::f32::consts::LN_2;
            write(to_key, token, &mut d_key[..head.head_dim()], head.angles, factor);
            write(to_value, token, &mut d_value[..head.head_dim()], None, 1.0);
        }
    }
}

/// Writes the row of a token, turned back if `angles` is given, and times `factor`.
#[inline(always)]
fn write<D: Element>(to: &mut OwnRows<'_, D>, token: usize, row: &mut [f32], angles: Option<Angles<'_>>, factor: f32) {
    if let Some(angles) = angles {
        turn_back(row, angles, token);
    }
    let out = to.row(token);
    assert!(out.len() == row.len(), "a row of {} for one of {}", row.len(), out.len());
    for (out, x) in out.iter_mut().zip(row) {
        out.write(D::from_f32(*x * factor));
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
    /// `[width, queries]`.
    d_query: Buffer,
    /// Σ gradient · output of each query of the panel.
    delta: Buffer,
    lse: Buffer,
    /// `[keys, queries]`: scores, then probabilities in places along the queries.
    scores: Buffer,
    /// `[keys, queries]`: gradients of the probabilities, then of the scores in places along the queries.
    d_scores: Buffer,
    /// `[keys / group, queries]`: gradients of the scores in places across the keys; empty where `d_scores` is both.
    d_scores_across: Buffer,
    /// A few rows on their way.
    rows: Buffer,
    head_dim: usize,
    width: usize,
    stride: usize,
}

impl Work {
    #[inline(always)]
    fn new<L: Lanes, F: Factors<L>, const ROWS: usize>(packed: Packed, head_dim: usize) -> Self {
        let width = padded_width(head_dim);
        let stride = F::PANEL * L::COUNT;
        Self {
            d_key: Buffer::new(packed.rows * width),
            d_value: Buffer::new(packed.rows * width),
            packed,
            query: Panel::new::<L, F>(stride, head_dim, true),
            gradient: Panel::new::<L, F>(stride, head_dim, true),
            d_query: Buffer::new(width * stride),
            delta: Buffer::new(stride),
            lse: Buffer::new(stride),
            scores: Buffer::new(TILE_KEYS * stride),
            d_scores: Buffer::new(TILE_KEYS * stride),
            d_scores_across: Buffer::new(if F::GROUP > 1 { TILE_KEYS / F::GROUP * stride } else { 0 }),
            rows: Buffer::new(L::COUNT.max(2) * width),
            head_dim,
            width,
            stride,
        }
    }

    /// Takes the panel of `count` queries from `first` on.
    ///
    /// # Safety
    /// The processor has the instructions of `L` and `F`.
    #[inline(always)]
    unsafe fn begin<E: Element, O: Element, G: Element, D: Element, L: Lanes, F: Factors<L>>(
        &mut self,
        task: &Backward<'_, E, O, G, D>,
        panel @ [first, count, _]: [usize; 3],
    ) {
        let head = task.head;
        // SAFETY: the caller's.
        unsafe {
            self.query.pack::<E, L, F>(head.query, panel, head.angles, head.query_factor());
            self.gradient.pack::<G, L, F>(task.gradient, panel, None, 1.0);
        }
        // Where there is no query, no number may come out that is not finite: zeros are multiplied with it.
        self.delta.fill(0.0);
        self.lse.fill(0.0);
        self.lse[..count].copy_from_slice(&task.lse[first..first + count]);
        self.rows.fill(0.0);
        let (gradient, output) = self.rows.split_at_mut(self.width);
        for q in 0..count {
            task.gradient.read(first + q, None, 1.0, &mut gradient[..self.head_dim]);
            task.output.read(first + q, None, 1.0, &mut output[..self.head_dim]);
            // SAFETY: the caller's.
            unsafe {
                let mut sum = L::splat(0.0);
                for lane in (0..self.width).step_by(L::COUNT) {
                    sum = L::read(&gradient[lane..]).mul_add(L::read(&output[lane..]), sum);
                }
                self.delta[q] = sum.total();
            }
        }
        self.d_query.fill(0.0);
    }

    /// Adds what the panel's queries and the `keys` keys from `tile` on have to do with each other.
    ///
    /// # Safety
    /// The processor has the instructions of `L` and `F`.
    #[inline(always)]
    unsafe fn tile<L: Lanes, F: Factors<L>, const ROWS: usize>(
        &mut self,
        tile: usize,
        keys: usize,
        [count, columns]: [usize; 2],
    ) {
        let Self { packed, d_key, d_value, query, gradient, d_query, scores, d_scores, .. } = self;
        let (width, stride) = (self.width, self.stride);
        let padded = keys.next_multiple_of(ROWS);
        let whole = keys.next_multiple_of(F::GROUP);
        // SAFETY: the caller's.
        unsafe {
            let sizes = [padded, self.head_dim.div_ceil(F::GROUP), columns];
            let (key_rows, value_rows) = (packed.keys.left_along(tile), packed.values.left_along(tile));
            product::<L, F, ROWS>(sizes, key_rows, query.right_along(), (scores, stride), false);
            product::<L, F, ROWS>(sizes, value_rows, gradient.right_along(), (d_scores, stride), false);
            // Probability 0 for what fills up the last group.
            scores[keys * stride..whole * stride].fill(f32::NEG_INFINITY);
            let across = &mut self.d_scores_across;
            score_gradients::<L, F>([scores, d_scores, across], &self.lse, &self.delta, [whole, columns, stride]);

            let sizes = [padded, count.div_ceil(F::GROUP), self.head_dim.next_multiple_of(L::COUNT)];
            let start = tile * width;
            let by_key = |values| Left { values, row: stride, step: 1 };
            product::<L, F, ROWS>(
                sizes,
                by_key(scores),
                gradient.rows.right_across(),
                (&mut d_value[start..], width),
                true,
            );
            product::<L, F, ROWS>(
                sizes,
                by_key(d_scores),
                query.rows.right_across(),
                (&mut d_key[start..], width),
                true,
            );
            let sizes = [self.head_dim.next_multiple_of(ROWS), whole / F::GROUP, columns];
            let d_scores = if F::GROUP > 1 { across } else { d_scores };
            product::<L, F, ROWS>(sizes, packed.keys.left_across(tile), (d_scores, stride), (d_query, stride), true);
        }
    }
}

/// For the keys of a tile and the queries of a panel: scores become probabilities, gradients of probabilities those of
/// scores. Both are left in places along the queries, the gradients also in places across the keys.
///
/// # Safety
/// The processor has the instructions of `L` and `F`.
#[inline(always)]
unsafe fn score_gradients<L: Lanes, F: Factors<L>>(
    [scores, d_scores, across]: [&mut Buffer; 3],
    lse: &[f32],
    delta: &[f32],
    [keys, columns, stride]: [usize; 3],
) {
    let square = F::GROUP * L::COUNT;
    assert!(keys.is_multiple_of(F::GROUP) && columns.is_multiple_of(square), "tiles are padded");
    assert!(columns <= stride.min(lse.len()).min(delta.len()), "lanes beyond the panel");
    assert!(keys * stride <= scores.len().min(d_scores.len()), "keys beyond the tile");
    assert!(F::GROUP == 1 || keys / F::GROUP * stride <= across.len(), "keys beyond the tile");
    let (scores, d_scores, across) = (scores.as_mut_ptr(), d_scores.as_mut_ptr(), across.as_mut_ptr());
    for key in (0..keys).step_by(F::GROUP) {
        for lane in (0..columns).step_by(square) {
            // SAFETY: registers at `lane`, as many as a group has numbers, lie within each row (asserted).
            unsafe {
                let zero = L::splat(0.0);
                let (mut p, mut d) = ([[zero; MAX_GROUP]; MAX_GROUP], [[zero; MAX_GROUP]; MAX_GROUP]);
                for j in 0..F::GROUP {
                    let lane = lane + j * L::COUNT;
                    let (lse, delta) = (L::load(lse.as_ptr().add(lane)), L::load(delta.as_ptr().add(lane)));
                    for i in 0..F::GROUP {
                        let at = (key + i) * stride + lane;
                        p[i][j] = exp2(L::load(scores.add(at)).sub(lse));
                        d[i][j] = p[i][j].mul(L::load(d_scores.add(at)).sub(delta));
                    }
                }
                // No number that is still needed: places take half the room, or all of it.
                for i in 0..F::GROUP {
                    let at = (key + i) * stride + lane / F::GROUP;
                    F::along(p[i]).store(scores.add(at));
                    F::along(d[i]).store(d_scores.add(at));
                }
                if F::GROUP > 1 {
                    for (j, (first, second)) in d[0].into_iter().zip(d[1]).enumerate() {
                        let at = key / F::GROUP * stride + lane + j * L::COUNT;
                        F::across([first, second]).store(across.add(at));
                    }
                }
            }
        }
    }
}

//! The forward pass: softmax over tiles of keys, whose scores live only in a cache-sized tile.

use super::element::Element;
use super::head::{Head, Packed};
use super::matmul::matmul;
use super::packed::{Panel, padded_width};
use super::rows::{Buffer, OwnRows, columns_as_rows};
use super::task::Task;
use crate::simd::{DotFormat, MAX_GROUP, Register, Simd, exp2};

/// Keys whose scores are computed at once: their tile (128 × 64 scores at most, 32 KiB) stays near.
pub(super) const TILE_KEYS: usize = 128;

/// The outputs of the queries from `first` on, as many as `lse` has places.
pub(super) struct Forward<'a, E, O> {
    pub(super) head: &'a Head<'a, E>,
    pub(super) packed: &'a Packed,
    pub(super) first: usize,
    /// A row for each of them.
    pub(super) output: OwnRows<'a, O>,
    /// The base-2 logarithm of the sum of `2^score` of each query.
    pub(super) lse: &'a mut [f32],
}

impl<E: Element, O: Element> Task for Forward<'_, E, O> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd, F: DotFormat<S>>(mut self, simd: S) {
        let stride = F::PANEL * S::F32::LANES;
        let mut scratch = Scratch::new::<S, F>(self.head.head_dim(), stride);
        for start in (0..self.lse.len()).step_by(stride) {
            let count = stride.min(self.lse.len() - start);
            let columns = count.next_multiple_of(S::F32::LANES);
            let (head, query) = (self.head, [self.first + start, count, columns]);
            scratch.panel.pack::<E, S, F>(simd, head.query, query, head.rotary, head.query_factor());
            scratch.begin(self.packed.poisoned);
            for tile in (0..head.tokens).step_by(TILE_KEYS) {
                scratch.tile::<S, F>(simd, self.packed, [tile, TILE_KEYS.min(head.tokens - tile)], columns);
            }
            self.write(simd, &mut scratch, [start, count]);
        }
    }
}

impl<E: Element, O: Element> Forward<'_, E, O> {
    /// Writes `count` outputs and their statistics, from number `start` on.
    #[inline(always)]
    fn write<S: Simd>(&mut self, simd: S, scratch: &mut Scratch, [start, count]: [usize; 2]) {
        let Scratch { sums, rows, online, width, stride, .. } = scratch;
        for lane in (0..count).step_by(S::F32::LANES) {
            columns_as_rows(simd, &sums[lane..], *stride, rows, *width);
            for q in lane..count.min(lane + S::F32::LANES) {
                let total = online.total[q];
                self.lse[start + q] = online.max[q] + total.log2();
                let out = self.output.row(start + q);
                for (out, sum) in out.iter_mut().zip(&rows[(q - lane) * *width..]) {
                    out.write(O::from_f32(sum / total));
                }
            }
        }
    }
}

/// The scratch of a task.
struct Scratch {
    panel: Panel,
    /// `[keys, queries]`: scores, then the powers of them.
    scores: Buffer,
    /// `[width, queries]`: outputs, not yet divided by the totals.
    sums: Buffer,
    /// Some outputs, transposed.
    rows: Buffer,
    online: Online,
    head_dim: usize,
    width: usize,
    stride: usize,
}

impl Scratch {
    #[inline(always)]
    fn new<S: Simd, F: DotFormat<S>>(head_dim: usize, stride: usize) -> Self {
        let width = padded_width(head_dim);
        Self {
            panel: Panel::new::<S, F>(stride, head_dim, false),
            scores: Buffer::new(TILE_KEYS * stride),
            sums: Buffer::new(width * stride),
            rows: Buffer::new(S::F32::LANES * width),
            online: Online { max: Buffer::new(stride), total: Buffer::new(stride) },
            head_dim,
            width,
            stride,
        }
    }

    #[inline(always)]
    fn begin(&mut self, poisoned: bool) {
        self.sums.fill(0.0);
        self.online.max.fill(f32::NEG_INFINITY);
        self.online.total.fill(if poisoned { f32::NAN } else { 0.0 });
    }

    /// Takes in `count` keys and values from number `tile` on, for `columns` queries of the panel.
    #[inline(always)]
    fn tile<S: Simd, F: DotFormat<S>>(&mut self, simd: S, packed: &Packed, [tile, count]: [usize; 2], columns: usize) {
        let Self { panel, scores, sums, online, head_dim, stride, .. } = self;
        let (head_dim, stride) = (*head_dim, *stride);
        let whole = count.next_multiple_of(F::GROUP);
        let sizes = [count.next_multiple_of(S::BLOCK_ROWS), head_dim.div_ceil(F::GROUP), columns];
        matmul::<S, F>(simd, sizes, packed.keys.lhs_by_row(tile), panel.rhs_by_row(), (scores, stride), false);
        // Probability 0 for what fills up the last group.
        scores[count * stride..whole * stride].fill(f32::NEG_INFINITY);
        for lane in (0..columns).step_by(S::F32::LANES) {
            online.advance::<S, F>(simd, lane, &mut scores[..whole * stride], sums, stride);
        }
        let sizes = [head_dim.next_multiple_of(S::BLOCK_ROWS), whole / F::GROUP, columns];
        matmul::<S, F>(simd, sizes, packed.values.lhs_by_col(tile), (scores, stride), (sums, stride), true);
    }
}

/// The largest score of each query so far, and the sum of `2^(score − largest)`.
struct Online {
    max: Buffer,
    total: Buffer,
}

impl Online {
    /// Takes in a tile of scores `[keys, stride]` for the queries of the register at `lane`: scores become
    /// `2^(score − largest)` in places of `F`, and what was summed under a smaller maximum is brought to the new one
    /// (Milakov and Gimelshein, 2018).
    #[inline(always)]
    fn advance<S: Simd, F: DotFormat<S>>(
        &mut self,
        simd: S,
        lane: usize,
        scores: &mut [f32],
        sums: &mut [f32],
        stride: usize,
    ) {
        assert!(
            lane + S::F32::LANES <= stride && stride <= self.max.len().min(self.total.len()),
            "lanes beyond the panel"
        );
        let (max, total) = (self.max[lane..].as_mut_ptr(), self.total[lane..].as_mut_ptr());
        let keys = scores.len() / stride;
        assert!(keys.is_multiple_of(F::GROUP), "{keys} keys in groups of {}", F::GROUP);
        // SAFETY: a register at `lane` lies within a row of each matrix and within the panel (asserted).
        unsafe {
            let old = simd.load(max);
            // Four at a time: one maximum, or sum, would wait for the one before.
            let mut best = [old; 4];
            for (i, row) in scores.chunks_exact(stride).enumerate() {
                best[i % 4] = best[i % 4].max(simd.load(row.as_ptr().add(lane)));
            }
            let new = best[0].max(best[1]).max(best[2].max(best[3]));
            let mut sum = [simd.splat(0.0); 4];
            let at = scores.as_mut_ptr().add(lane);
            for key in (0..keys).step_by(F::GROUP) {
                let mut powers = [new; MAX_GROUP];
                for (i, power) in powers.iter_mut().take(F::GROUP).enumerate() {
                    *power = exp2(simd, simd.load(at.add((key + i) * stride)).sub(new));
                    sum[(key + i) % 4] = sum[(key + i) % 4].add(*power);
                }
                // No score that is still needed: a group is written where its first row, or an earlier one, was.
                F::pack_col(simd, powers).store(at.add(key / F::GROUP * stride));
            }
            let sum = sum[0].add(sum[1]).add(sum[2].add(sum[3]));
            // Once the largest score has been met, which is soon, nothing is left to bring down.
            if new.differs(old) {
                let shrink = exp2(simd, old.sub(new));
                for row in sums.chunks_exact_mut(stride) {
                    let at = row.as_mut_ptr().add(lane);
                    simd.load(at).mul(shrink).store(at);
                }
                simd.load(total).mul(shrink).store(total);
                new.store(max);
            }
            simd.load(total).add(sum).store(total);
        }
    }
}

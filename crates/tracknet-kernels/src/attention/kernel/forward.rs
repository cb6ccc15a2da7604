//! The forward pass: softmax over tiles of keys, whose scores live only in a cache-sized tile.

use super::element::Element;
use super::factors::{Factors, MAX_GROUP};
use super::head::{Head, Packed};
use super::isa::Task;
use super::lanes::{Lanes, exp2};
use super::packed::{Panel, padded_width};
use super::product::product;
use super::rows::{Buffer, OwnRows, columns_as_rows};

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
    unsafe fn run<L: Lanes, F: Factors<L>, const ROWS: usize>(self) {
        let stride = F::PANEL * L::COUNT;
        let Self { head, packed, mut output, .. } = self;
        let head_dim = head.head_dim();
        let width = padded_width(head_dim);
        let dims = head_dim.next_multiple_of(ROWS);
        let mut panel = Panel::new::<L, F>(stride, head_dim, false);
        let mut scores = Buffer::new(TILE_KEYS * stride);
        // Transposed, `[dims, queries]`, like the scores.
        let mut sums = Buffer::new(width * stride);
        let mut rows = Buffer::new(L::COUNT * width);
        let mut online = Online { max: Buffer::new(stride), total: Buffer::new(stride) };
        for (i, lse) in self.lse.chunks_mut(stride).enumerate() {
            let first = self.first + i * stride;
            let columns = lse.len().next_multiple_of(L::COUNT);
            // SAFETY: the caller's.
            unsafe {
                panel.pack::<E, L, F>(head.query, [first, lse.len(), columns], head.angles, head.query_factor());
            }
            sums.fill(0.0);
            online.max.fill(f32::NEG_INFINITY);
            online.total.fill(if packed.poisoned { f32::NAN } else { 0.0 });
            for tile in (0..head.tokens).step_by(TILE_KEYS) {
                let count = TILE_KEYS.min(head.tokens - tile);
                let whole = count.next_multiple_of(F::GROUP);
                // SAFETY: the caller's.
                unsafe {
                    let sizes = [count.next_multiple_of(ROWS), head_dim.div_ceil(F::GROUP), columns];
                    let keys = packed.keys.left_along(tile);
                    product::<L, F, ROWS>(sizes, keys, panel.right_along(), (&mut scores, stride), false);
                    // Probability 0 for what fills up the last group.
                    scores[count * stride..whole * stride].fill(f32::NEG_INFINITY);
                    for lane in (0..columns).step_by(L::COUNT) {
                        online.advance::<L, F>(lane, &mut scores[..whole * stride], &mut sums, stride);
                    }
                    let sizes = [dims, whole / F::GROUP, columns];
                    let values = packed.values.left_across(tile);
                    product::<L, F, ROWS>(sizes, values, (&scores, stride), (&mut sums, stride), true);
                }
            }
            for lane in (0..columns).step_by(L::COUNT) {
                // SAFETY: the caller's.
                unsafe { columns_as_rows::<L>(&sums[lane..], stride, &mut rows, width) };
                for (q, lse) in (lane..).zip(lse[lane..].iter_mut().take(L::COUNT)) {
                    let total = online.total[q];
                    *lse = online.max[q] + total.log2();
                    let out = output.row(i * stride + q);
                    for (out, sum) in out.iter_mut().zip(&rows[(q - lane) * width..]) {
                        out.write(O::from_f32(sum / total));
                    }
                }
            }
        }
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
    ///
    /// # Safety
    /// The processor has the instructions of `L` and `F`.
    #[inline(always)]
    unsafe fn advance<L: Lanes, F: Factors<L>>(
        &mut self,
        lane: usize,
        scores: &mut [f32],
        sums: &mut [f32],
        stride: usize,
    ) {
        assert!(lane + L::COUNT <= stride && stride <= self.max.len().min(self.total.len()), "lanes beyond the panel");
        let (max, total) = (self.max[lane..].as_mut_ptr(), self.total[lane..].as_mut_ptr());
        let keys = scores.len() / stride;
        assert!(keys.is_multiple_of(F::GROUP), "{keys} keys in groups of {}", F::GROUP);
        // SAFETY: a register at `lane` lies within a row of each matrix and within the panel (asserted).
        unsafe {
            let old = L::load(max);
            // Four at a time: one maximum, or sum, would wait for the one before.
            let mut best = [old; 4];
            for (i, row) in scores.chunks_exact(stride).enumerate() {
                best[i % 4] = best[i % 4].max(L::load(row.as_ptr().add(lane)));
            }
            let new = best[0].max(best[1]).max(best[2].max(best[3]));
            let mut sum = [L::splat(0.0); 4];
            let at = scores.as_mut_ptr().add(lane);
            for key in (0..keys).step_by(F::GROUP) {
                let mut powers = [new; MAX_GROUP];
                for (i, power) in powers.iter_mut().take(F::GROUP).enumerate() {
                    *power = exp2(L::load(at.add((key + i) * stride)).sub(new));
                    sum[(key + i) % 4] = sum[(key + i) % 4].add(*power);
                }
                // No score that is still needed: a group is written where its first row, or an earlier one, was.
                F::across(powers).store(at.add(key / F::GROUP * stride));
            }
            let sum = sum[0].add(sum[1]).add(sum[2].add(sum[3]));
            // Once the largest score has been met, which is soon, nothing is left to bring down.
            if new.differs(old) {
                let shrink = exp2(old.sub(new));
                for row in sums.chunks_exact_mut(stride) {
                    let at = row.as_mut_ptr().add(lane);
                    L::load(at).mul(shrink).store(at);
                }
                L::load(total).mul(shrink).store(total);
                new.store(max);
            }
            L::load(total).add(sum).store(total);
        }
    }
}

//! The forward pass: softmax over tiles of keys, whose scores live only in a cache-sized tile.

use super::head::{Head, Packed, Panel};
use super::isa::{MAX_VECTORS, Task};
use super::lanes::{Lanes, exp2};
use super::product::{Left, product};
use super::rows::{Buffer, SharedRows};

/// Keys whose scores are computed at once: their tile (64 × 48 scores, 12 KiB) stays in the first cache.
pub(super) const TILE_KEYS: usize = 64;

/// The outputs of the queries from `first` on, as many as `lse` has places.
pub(super) struct Forward<'a> {
    pub(super) head: &'a Head<'a>,
    pub(super) packed: &'a Packed,
    pub(super) first: usize,
    pub(super) output: &'a SharedRows<'a>,
    /// The base-2 logarithm of the sum of `2^score` of each query.
    pub(super) lse: &'a mut [f32],
}

impl Task for Forward<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<L: Lanes, const ROWS: usize>(self) {
        let stride = MAX_VECTORS * L::COUNT;
        let head = self.head;
        let Packed { keys, values, width, poisoned } = self.packed;
        let dims = head.head_dim().next_multiple_of(ROWS);
        let mut panel = Panel::new(*width, stride);
        let mut scores = Buffer::new(TILE_KEYS * stride);
        // Transposed, `[dims, queries]`, like the scores.
        let mut sums = Buffer::new(dims * stride);
        let mut online = Online { max: Buffer::new(stride), total: Buffer::new(stride) };
        for (i, lse) in self.lse.chunks_mut(stride).enumerate() {
            let first = self.first + i * stride;
            let columns = lse.len().next_multiple_of(L::COUNT);
            panel.pack(head.query, first, [lse.len(), columns], head.angles, head.query_factor());
            sums.fill(0.0);
            online.max.fill(f32::NEG_INFINITY);
            online.total.fill(if *poisoned { f32::NAN } else { 0.0 });
            for tile in (0..head.tokens).step_by(TILE_KEYS) {
                let count = TILE_KEYS.min(head.tokens - tile);
                let key_rows = Left { values: &keys[tile * width..], row: *width, step: 1 };
                let value_columns = Left { values: &values[tile * width..], row: 1, step: *width };
                // SAFETY: the caller's.
                unsafe {
                    let sizes = [count.next_multiple_of(ROWS), head.head_dim(), columns];
                    product::<L, ROWS>(sizes, key_rows, (&panel.transposed, stride), (&mut scores, stride), false);
                    for lane in (0..columns).step_by(L::COUNT) {
                        online.advance::<L>(lane, &mut scores[..count * stride], &mut sums, stride);
                    }
                    let sizes = [dims, count, columns];
                    product::<L, ROWS>(sizes, value_columns, (&scores, stride), (&mut sums, stride), true);
                }
            }
            for (q, lse) in lse.iter_mut().enumerate() {
                let total = online.total[q];
                *lse = online.max[q] + total.log2();
                // SAFETY: one task writes this head's row of this token, once.
                let row = unsafe { self.output.row(head.offset(first + q), head.head_dim()) };
                for (c, out) in row.iter_mut().enumerate() {
                    *out = sums[c * stride + q] / total;
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
    /// `2^(score − largest)`, and what was summed under a smaller maximum is brought to the new one (Milakov and
    /// Gimelshein, 2018).
    ///
    /// # Safety
    /// The processor has the instructions of `L`.
    #[inline(always)]
    unsafe fn advance<L: Lanes>(&mut self, lane: usize, scores: &mut [f32], sums: &mut [f32], stride: usize) {
        assert!(lane + L::COUNT <= stride && stride <= self.max.len().min(self.total.len()), "lanes beyond the panel");
        let (max, total) = (self.max[lane..].as_mut_ptr(), self.total[lane..].as_mut_ptr());
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
            for (i, row) in scores.chunks_exact_mut(stride).enumerate() {
                let at = row.as_mut_ptr().add(lane);
                let power = exp2(L::load(at).sub(new));
                power.store(at);
                sum[i % 4] = sum[i % 4].add(power);
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

//! Dot products of AVX512-BF16.

use std::arch::x86_64::*;

use super::epilogue::BLOCK;
use super::pack::EDGE;
use super::tiled::BlockProduct;

/// Rows whose sums, two registers each, stay in registers together: 16 of 32.
const ROWS: usize = 8;

/// `out = start + left · right` for 32 rows and 32 columns.
///
/// # Safety
/// The pointers of `part` are valid as its fields say.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(part: BlockProduct) {
    #[cfg(test)]
    crate::entered::count(("product", "AVX512-BF16"));
    let BlockProduct { left, depth, start, start_stride, out, .. } = part;
    for row in (0..BLOCK).step_by(ROWS) {
        // SAFETY: rows up to `BLOCK` and tiles up to `depth` are valid, as the caller promises.
        unsafe {
            let left = left.add(row / EDGE * depth).cast::<i32>().add(row % EDGE * EDGE);
            rows(left, part, start.add(row * start_stride), out.add(row * BLOCK));
        }
    }
}

/// `out = start + left · right` for eight rows; `left` is the first pair of values of the first of them.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn rows(left: *const i32, part: BlockProduct, start: *const f32, out: *mut f32) {
    let BlockProduct { right, depth, lines, start_stride, .. } = part;
    // SAFETY: see `multiply`; a pair of rows of a tile is a line of 16 pairs, one for each column.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            let start = start.add(row * start_stride);
            *sums = [_mm512_loadu_ps(start), _mm512_loadu_ps(start.add(EDGE))];
        }
        let [first, second] = [right.cast::<i32>(), right.add(depth).cast::<i32>()];
        for step in 0..lines / EDGE {
            for pair in 0..EDGE {
                line(&mut sums, left.add(step * TILE + pair), [first, second], step * TILE + pair * EDGE);
            }
        }
        let step = lines / EDGE;
        for pair in 0..lines % EDGE {
            line(&mut sums, left.add(step * TILE + pair), [first, second], step * TILE + pair * EDGE);
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_storeu_ps(out.add(row * BLOCK), sums[0]);
            _mm512_storeu_ps(out.add(row * BLOCK + EDGE), sums[1]);
        }
    }
}

/// Pairs of values of a tile.
const TILE: usize = EDGE * EDGE;

/// Adds the products of a pair of values of each row with a line of pairs of each column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn line(sums: &mut [[__m512; 2]; ROWS], left: *const i32, right: [*const i32; 2], at: usize) {
    // SAFETY: the caller's.
    unsafe {
        let columns = right.map(|right| _mm512_loadu_si512(right.add(at).cast()));
        for (row, sums) in sums.iter_mut().enumerate() {
            let values = bf16s(_mm512_set1_epi32(*left.add(row * EDGE)));
            sums[0] = _mm512_dpbf16_ps(sums[0], values, bf16s(columns[0]));
            sums[1] = _mm512_dpbf16_ps(sums[1], values, bf16s(columns[1]));
        }
    }
}

#[target_feature(enable = "avx512f")]
pub(super) fn bf16s(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(bits) }
}

//! Dot products of AVX512-BF16.

use std::arch::x86_64::*;

use super::pack::{EDGE, Tile};
use super::tiled::{Block, SIZE};

/// Rows whose sums, two registers each, stay in registers together: 16 of 32.
const ROWS: usize = 8;

/// Whether the processor has what packing and multiplying take.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bf16")
}

/// `out = bias + left · right` for 32 rows and 32 columns.
///
/// # Safety
/// The pointers of `block` are valid as its fields say.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) unsafe fn multiply(block: Block) {
    let Block { left, right, depth, bias, out, stride } = block;
    for row in (0..SIZE).step_by(ROWS) {
        // SAFETY: rows up to `SIZE` and tiles up to `depth` are valid, as the caller promises.
        unsafe {
            let left = left.add(row / EDGE * depth).cast::<i32>().add(row % EDGE * EDGE);
            rows(left, right, depth, bias, out.add(row * stride), stride);
        }
    }
}

/// Eight rows of it; `left` is the first pair of values of the first row.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn rows(left: *const i32, right: *const Tile, depth: usize, bias: *const f32, out: *mut f32, stride: usize) {
    // A tile as pairs of values.
    const TILE: usize = EDGE * EDGE;
    // SAFETY: see `multiply`; a pair of rows of a tile is a line of 16 pairs, one for each column.
    unsafe {
        let bias = [_mm512_loadu_ps(bias), _mm512_loadu_ps(bias.add(EDGE))];
        let mut sums = [bias; ROWS];
        let [first, second] = [right.cast::<i32>(), right.add(depth).cast::<i32>()];
        for step in 0..depth {
            for pair in 0..EDGE {
                let line = step * TILE + pair * EDGE;
                let columns = [_mm512_loadu_si512(first.add(line).cast()), _mm512_loadu_si512(second.add(line).cast())];
                for (row, sums) in sums.iter_mut().enumerate() {
                    let values = bf16s(_mm512_set1_epi32(*left.add(step * TILE + row * EDGE + pair)));
                    sums[0] = _mm512_dpbf16_ps(sums[0], values, bf16s(columns[0]));
                    sums[1] = _mm512_dpbf16_ps(sums[1], values, bf16s(columns[1]));
                }
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            _mm512_storeu_ps(out.add(row * stride), sums[0]);
            _mm512_storeu_ps(out.add(row * stride + EDGE), sums[1]);
        }
    }
}

#[target_feature(enable = "avx512f")]
fn bf16s(bits: __m512i) -> __m512bh {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(bits) }
}

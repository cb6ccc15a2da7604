//! Small matrix products on packed tiles that lie in the caches.

use crate::bounds::holds;
use crate::simd::{DotFormat, Register, Simd};

/// Registers of columns in a block of a product.
const MAX_VECTORS: usize = 3;

/// The left factor: place `(i, k)` at `i · row_stride + k · col_stride`.
#[derive(Clone, Copy)]
pub(super) struct Lhs<'a> {
    pub(super) values: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

/// `out[rows, columns] (+)= lhs[rows, depth] · rhs[depth, columns]`; rows of `rhs` and `out` lie `stride` apart. The depth
/// of both factors is counted in places of `F`; results are numbers.
///
/// Places of `lhs` are broadcast to all lanes, so any strides will do, also those of a transposed matrix. `rows` is a
/// multiple of [`Simd::BLOCK_ROWS`] and `columns` of the lanes: tiles are padded so.
#[inline(always)]
pub(super) fn matmul<S: Simd, F: DotFormat<S>>(
    simd: S,
    [rows, depth, columns]: [usize; 3],
    lhs: Lhs<'_>,
    (rhs, rhs_stride): (&[f32], usize),
    (out, out_stride): (&mut [f32], usize),
    add: bool,
) {
    let lanes = S::F32::LANES;
    assert!(rows.is_multiple_of(S::BLOCK_ROWS) && columns.is_multiple_of(lanes), "tiles are padded");
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(holds(out.len(), [(rows - 1, out_stride), (columns - 1, 1)]), "the result does not fit");
    if depth > 0 {
        let lhs_holds = holds(lhs.values.len(), [(rows - 1, lhs.row_stride), (depth - 1, lhs.col_stride)]);
        assert!(lhs_holds, "the left factor is too small");
        assert!(holds(rhs.len(), [(depth - 1, rhs_stride), (columns - 1, 1)]), "the right factor is too small");
    }
    let mut column = 0;
    while column < columns {
        // Four registers are two and two: three and one would read `lhs` as often and compute less each time.
        let vectors = match (columns - column) / lanes {
            4 => 2,
            remaining => remaining.min(MAX_VECTORS),
        };
        for row in (0..rows).step_by(S::BLOCK_ROWS) {
            // SAFETY: the assertions bound the last element each factor and the result are accessed at.
            unsafe {
                let lhs = (lhs.values.as_ptr().add(row * lhs.row_stride), lhs.row_stride, lhs.col_stride);
                let rhs = (rhs.as_ptr().add(column), rhs_stride);
                let out = (out.as_mut_ptr().add(row * out_stride + column), out_stride);
                match (S::BLOCK_ROWS, vectors) {
                    (8, 3) => block::<S, F, 8, 3>(simd, lhs, rhs, out, depth, add),
                    (8, 2) => block::<S, F, 8, 2>(simd, lhs, rhs, out, depth, add),
                    (8, _) => block::<S, F, 8, 1>(simd, lhs, rhs, out, depth, add),
                    (4, 3) => block::<S, F, 4, 3>(simd, lhs, rhs, out, depth, add),
                    (4, 2) => block::<S, F, 4, 2>(simd, lhs, rhs, out, depth, add),
                    (4, _) => block::<S, F, 4, 1>(simd, lhs, rhs, out, depth, add),
                    (rows, _) => unreachable!("no block of {rows} rows"),
                }
            }
        }
        column += vectors * lanes;
    }
}

/// One block of the result, which stays in registers over the whole depth.
///
/// # Safety
/// Every element that sizes and strides reach is valid.
#[inline(always)]
unsafe fn block<S: Simd, F: DotFormat<S>, const ROWS: usize, const VECTORS: usize>(
    simd: S,
    (lhs, lhs_row, lhs_col): (*const f32, usize, usize),
    (rhs, rhs_stride): (*const f32, usize),
    (out, out_stride): (*mut f32, usize),
    depth: usize,
    add: bool,
) {
    let lanes = S::F32::LANES;
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[simd.splat(0.0); VECTORS]; ROWS];
        if add {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = simd.load(out.add(i * out_stride + j * lanes));
                }
            }
        }
        for k in 0..depth {
            let mut row = [simd.splat(0.0); VECTORS];
            for (j, register) in row.iter_mut().enumerate() {
                *register = simd.load(rhs.add(k * rhs_stride + j * lanes));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let factor = simd.splat(*lhs.add(i * lhs_row + k * lhs_col));
                for (sum, register) in sums.iter_mut().zip(row) {
                    *sum = F::dot(simd, factor, register, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.store(out.add(i * out_stride + j * lanes));
            }
        }
    }
}

//! Small matrix products on packed tiles that lie in the caches.

use super::factors::Factors;
use super::isa::MAX_VECTORS;
use super::lanes::Lanes;
use crate::bounds::holds;

/// The left factor: place `(i, k)` at `i · row + k · step`.
#[derive(Clone, Copy)]
pub(super) struct Left<'a> {
    pub(super) values: &'a [f32],
    pub(super) row: usize,
    pub(super) step: usize,
}

/// `out[rows, columns] (+)= left[rows, depth] · right[depth, columns]`; rows of `right` and `out` lie `stride` apart.
/// The depth of both factors is counted in places of `F`; results are numbers.
///
/// Places of `left` are spread over the lanes, so any strides will do, also those of a transposed matrix. `rows` is a
/// multiple of `ROWS` and `columns` of the lanes: tiles are padded so.
///
/// # Safety
/// The processor has the instructions of `L` and `F`.
#[inline(always)]
pub(super) unsafe fn product<L: Lanes, F: Factors<L>, const ROWS: usize>(
    [rows, depth, columns]: [usize; 3],
    left: Left<'_>,
    (right, right_stride): (&[f32], usize),
    (out, out_stride): (&mut [f32], usize),
    add: bool,
) {
    assert!(rows.is_multiple_of(ROWS) && columns.is_multiple_of(L::COUNT), "tiles are padded");
    if rows == 0 || columns == 0 {
        return;
    }
    assert!(holds(out.len(), [(rows - 1, out_stride), (columns - 1, 1)]), "the result does not fit");
    if depth > 0 {
        assert!(holds(left.values.len(), [(rows - 1, left.row), (depth - 1, left.step)]), "left is too small");
        assert!(holds(right.len(), [(depth - 1, right_stride), (columns - 1, 1)]), "right is too small");
    }
    let mut column = 0;
    while column < columns {
        // Four registers are two and two: three and one would read `left` as often and compute less each time.
        let vectors = match (columns - column) / L::COUNT {
            4 => 2,
            remaining => remaining.min(MAX_VECTORS),
        };
        for row in (0..rows).step_by(ROWS) {
            // SAFETY: the assertions bound the last element each factor and the result are accessed at.
            unsafe {
                let left = (left.values.as_ptr().add(row * left.row), left.row, left.step);
                let right = (right.as_ptr().add(column), right_stride);
                let out = (out.as_mut_ptr().add(row * out_stride + column), out_stride);
                match vectors {
                    3 => block::<L, F, ROWS, 3>(left, right, out, depth, add),
                    2 => block::<L, F, ROWS, 2>(left, right, out, depth, add),
                    _ => block::<L, F, ROWS, 1>(left, right, out, depth, add),
                }
            }
        }
        column += vectors * L::COUNT;
    }
}

/// One block of the result, which stays in registers over the whole depth.
///
/// # Safety
/// The processor has the instructions of `L` and `F`, and every element that sizes and strides reach is valid.
#[inline(always)]
unsafe fn block<L: Lanes, F: Factors<L>, const ROWS: usize, const VECTORS: usize>(
    (left, left_row, left_step): (*const f32, usize, usize),
    (right, right_stride): (*const f32, usize),
    (out, out_stride): (*mut f32, usize),
    depth: usize,
    add: bool,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[L::splat(0.0); VECTORS]; ROWS];
        if add {
            for (i, sums) in sums.iter_mut().enumerate() {
                for (j, sum) in sums.iter_mut().enumerate() {
                    *sum = L::load(out.add(i * out_stride + j * L::COUNT));
                }
            }
        }
        for k in 0..depth {
            let mut row = [L::splat(0.0); VECTORS];
            for (j, register) in row.iter_mut().enumerate() {
                *register = L::load(right.add(k * right_stride + j * L::COUNT));
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                let factor = L::splat(*left.add(i * left_row + k * left_step));
                for (sum, register) in sums.iter_mut().zip(row) {
                    *sum = F::dot(factor, register, *sum);
                }
            }
        }
        for (i, sums) in sums.iter().enumerate() {
            for (j, sum) in sums.iter().enumerate() {
                sum.store(out.add(i * out_stride + j * L::COUNT));
            }
        }
    }
}

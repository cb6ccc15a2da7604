//! Products in f32.
//!
//! Rows of the weight are dequantized into a bounded f32 scratch, panel after panel, and each panel goes through the
//! matrix product that Burn's CPU backend uses. Threads share out rows of the input in runs of a fixed length, each of
//! them multiplied by one thread.

use std::borrow::Cow;

use super::epilogue::{BLOCK, Block, Epilogue};
use super::{LowRank, Mask, PackedLhs, Product, Side, Weight};
use crate::bounds::holds;
use crate::parallel::Threads;

/// Values of a panel (4 MiB): large enough that packing the other factor for each panel is cheap beside the product.
const PANEL_VALUES: usize = 1 << 20;

/// Values of the weight that one task unpacks.
const VALUES_PER_TASK: usize = 1 << 15;

/// Rows of the input that one task multiplies. Fixed, so that threads share the work but never shape it.
const ROWS_PER_TASK: usize = 128;

/// [`super::run`] in f32.
pub(super) fn run<E: Epilogue>(product: &Product<'_>, epilogue: E) {
    let columns = product.columns();
    let mut y = multiply(product.lhs.floats(), product.weight, product.side, product.bias);
    if let Some(LowRank { lhs, weight, side, mask }) = product.low_rank {
        let update = multiply(lhs.floats(), weight, side, None);
        for (row, (y, update)) in y.chunks_exact_mut(columns).zip(update.chunks_exact(columns)).enumerate() {
            for (column, (y, update)) in y.iter_mut().zip(update).enumerate() {
                if mask.is_none_or(|mask| mask.keeps(row, column)) {
                    *y += update;
                }
            }
        }
    }
    let mut block = Block::ZERO;
    for (number, rows) in y.chunks(BLOCK * columns).enumerate() {
        for column in (0..columns).step_by(BLOCK) {
            let size = [rows.len() / columns, (columns - column).min(BLOCK)];
            for (line, row) in block.0.iter_mut().zip(rows.chunks_exact(columns)) {
                line[..size[1]].copy_from_slice(&row[column..][..size[1]]);
            }
            // SAFETY: the epilogue belongs to this call, whose loops come to each block once.
            unsafe { epilogue.apply(number * BLOCK, column, &block, size) };
        }
    }
}

/// [`super::thin`] in f32.
pub(super) fn thin(lhs: &PackedLhs, mask: Option<&Mask>, (weight, side): (Weight<'_>, Side), factor: f32) -> PackedLhs {
    let mut y = multiply(&masked(lhs, mask), weight, side, None);
    y.iter_mut().for_each(|y| *y *= factor);
    PackedLhs::from_floats([lhs.rows(), weight.sizes(side)[1]], y)
}

/// [`super::outer`] in f32.
pub(super) fn outer(thin: &PackedLhs, lhs: &PackedLhs, mask: Option<&Mask>) -> Vec<f32> {
    let (rank, columns) = (thin.columns(), lhs.columns());
    let mut out = vec![0.0; rank * columns];
    if lhs.rows() > 0 {
        let values = masked(lhs, mask);
        let left = Matrix { values: thin.floats(), row_stride: 1, column_stride: rank };
        let right = Matrix { values: &values, row_stride: columns, column_stride: 1 };
        product([rank, lhs.rows(), columns], left, right, &mut out, columns, false);
    }
    out
}

/// The values as the mask leaves them.
fn masked<'a>(lhs: &'a PackedLhs, mask: Option<&Mask>) -> Cow<'a, [f32]> {
    let values = lhs.floats();
    let Some(mask) = mask else { return Cow::Borrowed(values) };
    let keep = |(at, x): (usize, &f32)| if mask.keeps(at / lhs.columns(), at % lhs.columns()) { *x } else { 0.0 };
    Cow::Owned(values.iter().enumerate().map(keep).collect())
}

/// `x · op(weight) + bias` in f32, on factors as they are.
pub(super) fn multiply(x: &[f32], weight: Weight<'_>, side: Side, bias: Option<&[f32]>) -> Vec<f32> {
    #[cfg(test)]
    crate::entered::count(("product", "f32"));
    let [summed, columns] = weight.sizes(side);
    let mut y = vec![0.0; x.len() / summed * columns];
    if let Some(bias) = bias {
        y.chunks_exact_mut(columns).for_each(|row| row.copy_from_slice(bias));
    }
    let panels = Panels { weight, threads: Threads::of_caller() };
    match side {
        Side::In => panels.times_transposed(x, &mut y, bias.is_some()),
        Side::Out => panels.times(x, &mut y, bias.is_some()),
    }
    y
}

/// A weight that is multiplied panel by panel.
struct Panels<'a> {
    weight: Weight<'a>,
    threads: Threads,
}

impl Panels<'_> {
    /// Calls `work(first row, values of the rows)` for panels of dequantized rows, in order.
    fn for_each_panel(&self, mut work: impl FnMut(usize, &[f32])) {
        let [out_features, in_features] = self.weight.shape;
        let panel_rows = (PANEL_VALUES / in_features).clamp(1, out_features);
        let mut scratch = vec![0.0; panel_rows * in_features];
        for first in (0..out_features).step_by(panel_rows) {
            let rows = panel_rows.min(out_features - first);
            let panel = &mut scratch[..rows * in_features];
            self.threads.for_each_chunk(panel, VALUES_PER_TASK, |task, values| {
                self.weight.read(first * in_features + task * VALUES_PER_TASK, values);
            });
            work(first, panel);
        }
    }

    /// `y (+)= x · Wᵀ`: a panel of rows of W gives the columns of y at its rows' places.
    fn times_transposed(&self, x: &[f32], y: &mut [f32], add: bool) {
        let [out_features, in_features] = self.weight.shape;
        self.for_each_panel(|first, panel| {
            let panel_rows = panel.len() / in_features;
            let panel = Matrix { values: panel, row_stride: 1, column_stride: in_features };
            self.for_each_task((x, in_features), (y, out_features), |rows, x, y| {
                let x = Matrix { values: x, row_stride: in_features, column_stride: 1 };
                product([rows, in_features, panel_rows], x, panel, &mut y[first..], out_features, add);
            });
        });
    }

    /// `y (+)= x · W`: a panel of rows of W meets the columns of x at its rows' places; the parts add up.
    fn times(&self, x: &[f32], y: &mut [f32], add: bool) {
        let [out_features, in_features] = self.weight.shape;
        self.for_each_panel(|first, panel| {
            let panel_rows = panel.len() / in_features;
            let panel = Matrix { values: panel, row_stride: in_features, column_stride: 1 };
            self.for_each_task((x, out_features), (y, in_features), |rows, x, y| {
                let x = Matrix { values: &x[first..], row_stride: out_features, column_stride: 1 };
                product([rows, panel_rows, in_features], x, panel, y, in_features, add || first > 0);
            });
        });
    }

    /// Calls `work(rows, rows of x, rows of y)` for runs of rows; factors come with their columns.
    fn for_each_task(
        &self,
        (x, x_columns): (&[f32], usize),
        (y, y_columns): (&mut [f32], usize),
        work: impl Fn(usize, &[f32], &mut [f32]) + Sync,
    ) {
        self.threads.for_each_chunk(y, ROWS_PER_TASK * y_columns, |task, y| {
            let rows = y.len() / y_columns;
            work(rows, &x[task * ROWS_PER_TASK * x_columns..][..rows * x_columns], y);
        });
    }
}

/// A matrix in a slice.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    values: &'a [f32],
    row_stride: usize,
    column_stride: usize,
}

impl Matrix<'_> {
    fn holds(&self, rows: usize, columns: usize) -> bool {
        holds(self.values.len(), [(rows - 1, self.row_stride), (columns - 1, self.column_stride)])
    }
}

/// `out[m, n] (+)= lhs[m, k] · rhs[k, n]` for `sizes = [m, k, n]`; rows of `out` lie `out_stride` apart. One thread.
fn product(sizes: [usize; 3], lhs: Matrix<'_>, rhs: Matrix<'_>, out: &mut [f32], out_stride: usize, add: bool) {
    let [m, k, n] = sizes;
    assert!(m > 0 && k > 0 && n > 0, "an empty product");
    assert!(lhs.holds(m, k) && rhs.holds(k, n), "a factor is smaller than its sizes say");
    assert!(n <= out_stride && holds(out.len(), [(m - 1, out_stride), (n - 1, 1)]), "the result does not fit");
    // SAFETY: the assertions bound the last element that sizes and strides reach in each slice; `out` is borrowed
    // mutably, so it overlaps neither factor; f32 has no invalid bit patterns.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            add,
            lhs.values.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.values.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

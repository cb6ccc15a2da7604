//! The CPU kernel.
//!
//! Rows of the weight are dequantized into a bounded f32 scratch, panel after panel, and each panel goes through the
//! matrix product that Burn's CPU backend uses. Threads share out rows of the input in runs of a fixed length, each of
//! them multiplied by one thread, so results do not depend on the number of threads.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType, TensorData};
use rayon::prelude::*;

use super::dequantize::{AbsmaxView, PackedView};
use super::ops::{FourBitOps, PackedFormat};

/// Values of a panel (4 MiB): large enough that packing the other factor for each panel is cheap beside the product.
const PANEL_VALUES: usize = 1 << 20;

/// Rows of the input that one task multiplies. Fixed, so that threads share the work but never shape it.
const ROWS_PER_TASK: usize = 128;

impl FourBitOps for Flex {
    fn linear_4bit(
        x: FlexTensor,
        packed: FlexTensor,
        scales: FlexTensor,
        scale_codes: FlexTensor,
        format: PackedFormat,
        transposed: bool,
    ) -> FlexTensor {
        let weight = HostTensors::new(packed, scales, scale_codes);
        let dtype = x.dtype();
        let x = contiguous(cast(x, DType::F32));
        let rows = x.shape()[0];
        let [out_features, in_features] = format.shape;
        let weight = weight.view(format);
        let columns = if transposed { in_features } else { out_features };
        let mut y = vec![0.0; rows * columns];
        let product = if transposed { times_weight } else { times_weight_transposed };
        product(slice(&x), &weight, format, &mut y);
        cast(FlexTensor::from_data(TensorData::new(y, [rows, columns])), dtype)
    }

    fn dequantize_4bit(
        packed: FlexTensor,
        scales: FlexTensor,
        scale_codes: FlexTensor,
        format: PackedFormat,
    ) -> FlexTensor {
        let values = HostTensors::new(packed, scales, scale_codes).view(format).dequantize(format.compute_dtype);
        FlexTensor::from_data(TensorData::new(values, format.shape))
    }
}

/// Keeps the tensors alive and contiguous while a view borrows them.
struct HostTensors {
    packed: FlexTensor,
    scales: FlexTensor,
    scale_codes: FlexTensor,
}

impl HostTensors {
    fn new(packed: FlexTensor, scales: FlexTensor, scale_codes: FlexTensor) -> Self {
        Self { packed: contiguous(packed), scales: contiguous(scales), scale_codes: contiguous(scale_codes) }
    }

    fn view(&self, format: PackedFormat) -> PackedView<'_> {
        let absmax = match format.offset {
            Some(offset) => AbsmaxView::Nested { codes: bytes(&self.scale_codes), absmax: slice(&self.scales), offset },
            None => AbsmaxView::Plain(slice(&self.scales)),
        };
        let elements = format.shape[0] * format.shape[1];
        PackedView::new_checked(bytes(&self.packed), absmax, format.quant_type, format.blocksize, elements)
    }
}

fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

fn cast(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    if tensor.dtype() == dtype {
        tensor
    } else {
        <Flex as FloatTensorOps<Flex>>::float_cast(tensor, FloatDType::from(dtype))
    }
}

/// The values of a contiguous f32 tensor.
fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().unwrap_or_else(|| panic!("expected contiguous f32, found {tensor:?}"))
}

/// The values of a contiguous u8 tensor.
fn bytes(tensor: &FlexTensor) -> &[u8] {
    tensor.as_slice().unwrap_or_else(|| panic!("expected contiguous u8, found {tensor:?}"))
}

/// Calls `work(first row, values of the rows)` for panels of dequantized rows, in order.
fn for_each_panel(weight: &PackedView<'_>, format: PackedFormat, mut work: impl FnMut(usize, &[f32])) {
    let [out_features, in_features] = format.shape;
    let panel_rows = (PANEL_VALUES / in_features).clamp(1, out_features);
    let mut scratch = vec![0.0; panel_rows * in_features];
    for first in (0..out_features).step_by(panel_rows) {
        let rows = panel_rows.min(out_features - first);
        let panel = &mut scratch[..rows * in_features];
        weight.dequantize_into(first * in_features, panel, format.compute_dtype);
        work(first, panel);
    }
}

/// `y = x · Wᵀ`: a panel of rows of W gives the columns of y at its rows' places.
fn times_weight_transposed(x: &[f32], weight: &PackedView<'_>, format: PackedFormat, y: &mut [f32]) {
    let [out_features, in_features] = format.shape;
    for_each_panel(weight, format, |first, panel| {
        let panel_rows = panel.len() / in_features;
        let panel = Matrix { values: panel, row_stride: 1, column_stride: in_features };
        for_each_task(x, in_features, y, out_features, |rows, x, y| {
            let x = Matrix { values: x, row_stride: in_features, column_stride: 1 };
            multiply([rows, in_features, panel_rows], x, panel, &mut y[first..], out_features, false);
        });
    });
}

/// `y = x · W`: a panel of rows of W meets the columns of x at its rows' places; the parts add up.
fn times_weight(x: &[f32], weight: &PackedView<'_>, format: PackedFormat, y: &mut [f32]) {
    let [out_features, in_features] = format.shape;
    for_each_panel(weight, format, |first, panel| {
        let panel_rows = panel.len() / in_features;
        let panel = Matrix { values: panel, row_stride: in_features, column_stride: 1 };
        for_each_task(x, out_features, y, in_features, |rows, x, y| {
            let x = Matrix { values: &x[first..], row_stride: out_features, column_stride: 1 };
            multiply([rows, panel_rows, in_features], x, panel, y, in_features, first > 0);
        });
    });
}

/// Calls `work(rows, rows of x, rows of y)` for runs of rows, on all threads.
fn for_each_task(
    x: &[f32],
    x_columns: usize,
    y: &mut [f32],
    y_columns: usize,
    work: impl Fn(usize, &[f32], &mut [f32]) + Sync,
) {
    x.par_chunks(ROWS_PER_TASK * x_columns)
        .zip(y.par_chunks_mut(ROWS_PER_TASK * y_columns))
        .for_each(|(x, y)| work(y.len() / y_columns, x, y));
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
        (rows - 1) * self.row_stride + (columns - 1) * self.column_stride < self.values.len()
    }
}

/// `out[m, n] (+)= lhs[m, k] · rhs[k, n]` for `sizes = [m, k, n]`; rows of `out` lie `out_stride` apart. One thread.
fn multiply(sizes: [usize; 3], lhs: Matrix<'_>, rhs: Matrix<'_>, out: &mut [f32], out_stride: usize, add: bool) {
    let [m, k, n] = sizes;
    assert!(m > 0 && k > 0 && n > 0, "an empty product");
    assert!(lhs.holds(m, k) && rhs.holds(k, n), "a factor is smaller than its sizes say");
    assert!(n <= out_stride && (m - 1) * out_stride + n <= out.len(), "the result does not fit");
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

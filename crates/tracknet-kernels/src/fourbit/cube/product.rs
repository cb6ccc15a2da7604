//! Products with a weight that is unpacked panel by panel.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use crate::cube::{cast, contiguous, count, grid, has_products_of, launch, product, unwritten, vector_size};
use crate::fourbit::ComputeDtype;
use crate::fourbit::ops::Product;

use super::dequantize::{Unpacker, round};

/// Bytes of an unpacked panel, at most. Every layer of a ViT-L fits in one; a panel that is read by thousands of rows
/// stays in the cache of the device while it is.
const PANEL_BYTES: usize = 32 << 20;
/// Panels begin at a multiple of so many rows, so that their codes begin where wide reads may.
const PANEL_ROWS: usize = 32;

/// `x · Wᵀ (+ bias)` or `x · W`; the result has the dtype of `x`.
pub(super) fn multiply(x: CubeTensor, bias: CubeTensor, weight: &Unpacker, which: Product) -> CubeTensor {
    let dtype = x.dtype;
    let [out_features, in_features] = weight.format.shape;
    let rows = x.shape()[0];
    let columns = if which == Product::Transposed { in_features } else { out_features };
    if rows == 0 {
        return unwritten(&x, [0, columns], dtype);
    }
    let factors = factor_dtype(&x, weight.format.compute_dtype);
    let x = prepare(x, factors, weight.format.compute_dtype);
    let panels = Panels { rows: out_features, height: panel_height(in_features, factors) };
    match which {
        Product::Forward => forward(x, weight, factors, panels, dtype),
        Product::ForwardWithBias => {
            let y = forward(x, weight, factors, panels, DType::F32);
            let bias = CubeBackend::float_reshape(cast(bias, DType::F32), Shape::from([1, out_features]));
            cast(CubeBackend::float_add(y, bias), dtype)
        }
        Product::Transposed => transposed(x, weight, factors, panels, dtype),
    }
}

/// Each panel gives some columns.
fn forward(x: CubeTensor, weight: &Unpacker, factors: DType, panels: Panels, dtype: DType) -> CubeTensor {
    let mut parts: Vec<CubeTensor> = panels
        .map(|rows| {
            let panel = CubeBackend::float_transpose(weight.rows(rows, factors));
            product(x.clone(), panel, dtype)
        })
        .collect();
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => CubeBackend::float_cat(parts, 1),
    }
}

/// Each panel meets some columns of `x`, and the parts add up in f32.
fn transposed(x: CubeTensor, weight: &Unpacker, factors: DType, panels: Panels, dtype: DType) -> CubeTensor {
    if panels.is_one() {
        return product(x, weight.rows(0..panels.rows, factors), dtype);
    }
    let rows = x.shape()[0];
    let sum = panels
        .map(|panel| {
            let columns = [0..rows, panel.clone()].map(Slice::from);
            product(CubeBackend::float_slice(x.clone(), &columns), weight.rows(panel, factors), DType::F32)
        })
        .reduce(CubeBackend::float_add);
    match sum {
        Some(sum) => cast(sum, dtype),
        None => unwritten(&x, [rows, weight.format.shape[1]], dtype),
    }
}

/// The ranges of rows that are unpacked one after the other.
#[derive(Clone, Copy)]
struct Panels {
    rows: usize,
    height: usize,
}

impl Panels {
    fn is_one(self) -> bool {
        self.rows <= self.height
    }

    fn map<T>(self, work: impl Fn(Range<usize>) -> T) -> impl Iterator<Item = T> {
        (0..self.rows).step_by(self.height).map(move |start| work(start..(start + self.height).min(self.rows)))
    }
}

fn panel_height(in_features: usize, factors: DType) -> usize {
    (PANEL_BYTES / (in_features * factors.size()) / PANEL_ROWS).max(1) * PANEL_ROWS
}

/// The type in which the factors are multiplied: the compute dtype, where the device multiplies it and `x` loses nothing
/// that the operation keeps; else f32, which holds the rounded values of both exactly.
fn factor_dtype(x: &CubeTensor, compute_dtype: ComputeDtype) -> DType {
    let half = match compute_dtype {
        ComputeDtype::Bf16 => DType::BF16,
        ComputeDtype::F16 if x.dtype == DType::F16 => DType::F16,
        ComputeDtype::F16 | ComputeDtype::F32 => return DType::F32,
    };
    if has_products_of(&x.client, half) { half } else { DType::F32 }
}

/// `x` in the type of the factors, rounded to bfloat16 if that is the compute dtype.
fn prepare(x: CubeTensor, factors: DType, compute_dtype: ComputeDtype) -> CubeTensor {
    if factors == DType::F32 && compute_dtype == ComputeDtype::Bf16 && x.dtype != DType::BF16 {
        return rounded_to_bf16(contiguous(cast(x, DType::F32)));
    }
    cast(x, factors)
}

/// Contiguous f32, rounded to bfloat16, still as f32: for devices that have no bfloat16.
fn rounded_to_bf16(x: CubeTensor) -> CubeTensor {
    let values = count(&x);
    let width = vector_size(&x, DType::F32, [values]);
    let y = unwritten(&x, x.shape(), DType::F32);
    // SAFETY: a unit reads and writes the vector of its position only if that is below the count that fills both.
    unsafe {
        launch!(round_all, grid(&x, values / width), [width], [x, y], values / width);
    }
    y
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn round_all<N: Size>(x: &[Vector<f32, N>], y: &mut [Vector<f32, N>], units: usize) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let values = x[ABSOLUTE_POS];
    let mut out = Vector::<f32, N>::empty();
    #[unroll]
    for i in 0..N::value() {
        out.insert(i, round(values.extract(i), comptime!(ComputeDtype::Bf16)));
    }
    y[ABSOLUTE_POS] = out;
}

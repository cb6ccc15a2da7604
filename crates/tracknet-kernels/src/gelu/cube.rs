//! GELU on GPUs: one pass over the data, in f32 whatever the dtype.

use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use burn::backend::TensorMetadata;

use super::ops::GeluOps;
use crate::cube::{contiguous, count, elem, expect, grid, launch, unwritten, vector_size};

impl GeluOps for CubeBackend {
    fn exact_gelu(x: CubeTensor) -> CubeTensor {
        let x = contiguous(x);
        let (y, values) = (unwritten(&x, x.shape(), x.dtype), count(&x));
        let width = vector_size(&x, x.dtype, [values]);
        // SAFETY: a unit reads and writes the vector of its position only if that is below the count that fills both.
        unsafe {
            launch!(forward, grid(&x, values / width), [width], [x, y], values / width, elem(y.dtype));
        }
        y
    }

    fn exact_gelu_gradient(x: CubeTensor, gradient: CubeTensor) -> CubeTensor {
        let [x, gradient] = [x, gradient].map(contiguous);
        let (out, values) = (unwritten(&x, x.shape(), x.dtype), count(&x));
        expect([(&gradient, values, x.dtype)]);
        let width = vector_size(&x, x.dtype, [values]);
        // SAFETY: as in forward; the gradient has the length and dtype of `x` (checked).
        unsafe {
            launch!(backward, grid(&x, values / width), [width], [x, gradient, out], values / width, elem(out.dtype));
        }
        out
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn forward<F: Float, N: Size>(x: &[Vector<F, N>], y: &mut [Vector<F, N>], units: usize, #[define(F)] _dtype: ElemType) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    y[ABSOLUTE_POS] = Vector::cast_from(gelu(Vector::<f32, N>::cast_from(x[ABSOLUTE_POS])));
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn backward<F: Float, N: Size>(
    x: &[Vector<F, N>],
    gradient: &[Vector<F, N>],
    out: &mut [Vector<F, N>],
    units: usize,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let slope = gelu_slope(Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]));
    out[ABSOLUTE_POS] = Vector::cast_from(slope * Vector::<f32, N>::cast_from(gradient[ABSOLUTE_POS]));
}

/// `x · Φ(x)`.
#[cube]
pub(crate) fn gelu<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    x * cumulative(x)
}

/// `Φ(x) + x · φ(x)`.
#[cube]
pub(crate) fn gelu_slope<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    // 1 / sqrt(2 pi)
    let density = (x * x * Vector::new(-0.5f32)).exp() * Vector::new(0.398_942_3_f32);
    cumulative(x) + x * density
}

/// `Φ(x)`, the normal distribution's.
#[cube]
fn cumulative<N: Size>(x: Vector<f32, N>) -> Vector<f32, N> {
    // 1 / sqrt(2)
    ((x * Vector::new(0.707_106_77_f32)).erf() + Vector::new(1.0f32)) * Vector::new(0.5f32)
}

//! Residual connections on GPUs.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::ops::ResidualOps;
use crate::cube::{cast, contiguous, count, elem, expect, grid, launch, unwritten, vector_size};

impl ResidualOps for CubeBackend {
    fn add_scaled(x: CubeTensor, branch: CubeTensor, scale: CubeTensor) -> CubeTensor {
        launch(Some(x), branch, scale)
    }

    fn times_scale(gradient: CubeTensor, scale: CubeTensor) -> CubeTensor {
        launch(None, gradient, scale)
    }
}

/// `x + scale ∘ branch`, or without `x`.
fn launch(x: Option<CubeTensor>, branch: CubeTensor, scale: CubeTensor) -> CubeTensor {
    let branch = contiguous(branch);
    let scale = contiguous(cast(scale, DType::F32));
    let with_x = x.is_some();
    let x = x.map_or_else(|| branch.clone(), contiguous);
    let (y, values, channels) = (unwritten(&branch, branch.shape(), branch.dtype), count(&branch), count(&scale));
    expect([(&x, values, branch.dtype)]);
    assert!(values.is_multiple_of(channels), "{values} values of {channels} channels");
    let width = vector_size(&branch, DType::F32, [channels]);
    // SAFETY: a unit reads and writes the vector of its position only if that is below the count that fills all three
    // tensors of one length (checked); the scale has one value for each channel.
    unsafe {
        launch!(
            add_scaled,
            grid(&branch, values / width),
            [width],
            [x, branch, scale, y],
            values / width,
            channels / width,
            with_x,
            elem(branch.dtype)
        );
    }
    y
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn add_scaled<F: Float, N: Size>(
    x: &[Vector<F, N>],
    branch: &[Vector<F, N>],
    scale: &[Vector<f32, N>],
    y: &mut [Vector<F, N>],
    units: usize,
    vectors: usize,
    #[comptime] with_x: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let mut sum = Vector::<f32, N>::cast_from(branch[ABSOLUTE_POS]) * scale[ABSOLUTE_POS % vectors];
    if comptime!(with_x) {
        sum += Vector::<f32, N>::cast_from(x[ABSOLUTE_POS]);
    }
    y[ABSOLUTE_POS] = Vector::cast_from(sum);
}

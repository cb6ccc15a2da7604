//! Bilinear resize on GPUs: a unit for each value of the result, forward and backward.

use burn::backend::TensorMetadata;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::ops::ResizeOps;
use crate::cube::{contiguous, count, elem, grid, launch, unwritten};

impl ResizeOps for CubeBackend {
    fn bilinear(x: CubeTensor, size: [usize; 2]) -> CubeTensor {
        let x = contiguous(x);
        let [batch, channels, height, width] = x.shape().dims();
        let y = unwritten(&x, [batch, channels, size[0], size[1]], x.dtype);
        let units = count(&y);
        // SAFETY: a unit writes the value of its position if that is below their count; neighbours lie within the map.
        unsafe {
            launch!(
                forward,
                grid(&x, units),
                [],
                [x, y],
                units,
                AxisLaunch::new(height, size[0]),
                AxisLaunch::new(width, size[1]),
                elem(y.dtype)
            );
        }
        y
    }

    fn bilinear_gradient(gradient: CubeTensor, size: [usize; 2]) -> CubeTensor {
        let gradient = contiguous(gradient);
        let [batch, channels, height, width] = gradient.shape().dims();
        let out = unwritten(&gradient, [batch, channels, size[0], size[1]], gradient.dtype);
        let units = count(&out);
        // SAFETY: a unit writes the value of its position if that is below their count; the samples that it adds up lie
        // within the map.
        unsafe {
            launch!(
                backward,
                grid(&gradient, units),
                [],
                [gradient, out],
                units,
                AxisLaunch::new(size[0], height),
                AxisLaunch::new(size[1], width),
                elem(out.dtype)
            );
        }
        out
    }
}

/// Samples of the input and of the output along one axis.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Axis {
    from: usize,
    to: usize,
}

#[cube]
impl Axis {
    /// Where sample `at` of the output lies in the input: its lower neighbour, and the weight of the upper one.
    fn sample(&self, at: usize) -> (usize, f32) {
        let scale = f32::cast_from(self.from) / f32::cast_from(self.to);
        let source = max((f32::cast_from(at) + 0.5f32) * scale - 0.5f32, 0.0f32);
        let low = min(usize::cast_from(source.floor()), self.from - 1);
        (low, source - f32::cast_from(low))
    }

    /// The weight of value `at` of the input in sample `sample` of the output.
    fn weight(&self, at: usize, sample: usize) -> f32 {
        let (low, fraction) = self.sample(sample);
        let high = min(low + 1, self.from - 1);
        select(low == at, 1.0f32 - fraction, 0.0f32) + select(high == at, fraction, 0.0f32)
    }

    /// The samples of the output that value `at` of the input can be part of: those less than one value away, and what
    /// rounding may add.
    fn samples(&self, at: usize) -> (usize, usize) {
        let scale = f32::cast_from(self.to) / f32::cast_from(self.from);
        let first = max((f32::cast_from(at) - 0.5f32) * scale - 1.5f32, 0.0f32);
        let last = (f32::cast_from(at) + 1.5f32) * scale + 1.5f32;
        // Beyond the last value of the input, every sample is a part of it.
        let end = select(at + 1 == self.from, self.to, min(usize::cast_from(last.ceil()), self.to));
        (usize::cast_from(first.floor()), end)
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn forward<F: Float>(
    x: &[F],
    y: &mut [F],
    units: usize,
    vertical: Axis,
    horizontal: Axis,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let (left, right_weight) = horizontal.sample(ABSOLUTE_POS % horizontal.to);
    let rest = ABSOLUTE_POS / horizontal.to;
    let (top, bottom_weight) = vertical.sample(rest % vertical.to);
    let right = min(left + 1, horizontal.from - 1);
    let bottom = min(top + 1, vertical.from - 1);
    let map = rest / vertical.to * vertical.from;
    let upper = (map + top) * horizontal.from;
    let lower = (map + bottom) * horizontal.from;

    let left_weight = 1.0f32 - right_weight;
    let above = f32::cast_from(x[upper + left]) * left_weight + f32::cast_from(x[upper + right]) * right_weight;
    let below = f32::cast_from(x[lower + left]) * left_weight + f32::cast_from(x[lower + right]) * right_weight;
    y[ABSOLUTE_POS] = F::cast_from(above * (1.0f32 - bottom_weight) + below * bottom_weight);
}

/// The transposed resize, gathered: what a value of the input gave to samples of the output comes back from them.
#[cube(launch_unchecked, address_type = "dynamic")]
fn backward<F: Float>(
    gradient: &[F],
    out: &mut [F],
    units: usize,
    vertical: Axis,
    horizontal: Axis,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let column = ABSOLUTE_POS % horizontal.from;
    let rest = ABSOLUTE_POS / horizontal.from;
    let row = rest % vertical.from;
    let map = rest / vertical.from * vertical.to;
    let (first_row, end_row) = vertical.samples(row);
    let (first_column, end_column) = horizontal.samples(column);
    let mut sum = 0.0f32;
    for y in first_row..end_row {
        let start = (map + y) * horizontal.to;
        let mut line = 0.0f32;
        for x in first_column..end_column {
            line += f32::cast_from(gradient[start + x]) * horizontal.weight(column, x);
        }
        sum += line * vertical.weight(row, y);
    }
    out[ABSOLUTE_POS] = F::cast_from(sum);
}

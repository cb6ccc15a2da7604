//! Depthwise 3×3 convolutions on GPUs: a unit for each value, and a team of units for each map's gradient of the weight.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::ops::DepthwiseOps;
use crate::cube::{
    Team, cast, contiguous, count, elem, expect, grid, launch, place_in_team, row_of_team, team_sum, teams, unwritten,
};

/// Taps of a filter.
const TAPS: usize = 9;

impl DepthwiseOps for CubeBackend {
    fn depthwise_conv3x3(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
        convolve_with(x, weight, false)
    }

    fn depthwise_conv3x3_input_gradient(gradient: CubeTensor, weight: CubeTensor) -> CubeTensor {
        convolve_with(gradient, weight, true)
    }

    fn depthwise_conv3x3_weight_gradient(x: CubeTensor, gradient: CubeTensor) -> CubeTensor {
        let [x, gradient] = [x, gradient].map(contiguous);
        expect([(&gradient, count(&x), x.dtype)]);
        let [batch, channels, height, width] = x.shape().dims();
        let sums = unwritten(&x, [batch, channels * TAPS], DType::F32);
        let maps = batch * channels;
        let (team, cubes, dim) = teams(&x, maps, height * width);
        // SAFETY: a team works on its map only if there is one, on pixels within it that both tensors have
        // (checked), and writes the nine sums of it.
        unsafe {
            launch!(tap_sums, (cubes, dim), [], [x, gradient, sums], maps, height, width, team, elem(x.dtype));
        }
        let sum = CubeBackend::float_reshape(CubeBackend::float_sum_dim(sums, 0), Shape::from([channels, 1, 3, 3]));
        cast(sum, x.dtype)
    }
}

fn convolve_with(x: CubeTensor, weight: CubeTensor, reversed: bool) -> CubeTensor {
    let x = contiguous(x);
    let weight = contiguous(cast(weight, DType::F32));
    let [_, channels, height, width] = x.shape().dims();
    expect([(&weight, channels * TAPS, DType::F32)]);
    let (y, units) = (unwritten(&x, x.shape(), x.dtype), count(&x));
    // SAFETY: a unit writes the value of its position if that is below their count, and reads only pixels of its map and
    // taps of its channel (checked).
    unsafe {
        launch!(convolve, grid(&x, units), [], [x, weight, y], units, channels, height, width, reversed, elem(y.dtype));
    }
    y
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn convolve<F: Float>(
    x: &[F],
    weight: &[f32],
    y: &mut [F],
    units: usize,
    channels: usize,
    height: usize,
    width: usize,
    #[comptime] reversed: bool,
    #[define(F)] _dtype: ElemType,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let column = ABSOLUTE_POS % width;
    let row = ABSOLUTE_POS / width % height;
    let channel = ABSOLUTE_POS / (width * height) % channels;
    let mut sum = 0.0f32;
    #[unroll]
    for tap in 0..TAPS {
        let tap_weight = weight[channel * TAPS + comptime!(if reversed { TAPS - 1 - tap } else { tap })];
        sum += tap_weight * neighbour::<F>(x, ABSOLUTE_POS, row, column, height, width, tap);
    }
    y[ABSOLUTE_POS] = F::cast_from(sum);
}

/// The sums over each map of the gradient times the input that each tap met.
#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn tap_sums<F: Float>(
    x: &[F],
    gradient: &[F],
    sums: &mut [f32],
    maps: usize,
    height: usize,
    width: usize,
    #[comptime] team: Team,
    #[define(F)] _dtype: ElemType,
) {
    let map = row_of_team(team);
    if map >= maps {
        terminate!();
    }
    let (place, units) = place_in_team(team);
    let start = map * height * width;
    let mut own = Array::<f32>::new(TAPS);
    #[unroll]
    for tap in 0..TAPS {
        own[tap] = 0.0f32;
    }
    let mut pixel = place;
    while pixel < height * width {
        let column = pixel % width;
        let row = pixel / width;
        let g = f32::cast_from(gradient[start + pixel]);
        #[unroll]
        for tap in 0..TAPS {
            own[tap] += g * neighbour::<F>(x, start + pixel, row, column, height, width, tap);
        }
        pixel += units;
    }
    #[unroll]
    for tap in 0..TAPS {
        let sum = team_sum(own[tap], team);
        if place == 0 {
            sums[map * TAPS + tap] = sum;
        }
    }
}

/// The pixel that tap number `tap` of a filter on `at` meets; 0 beyond the edge.
#[cube]
fn neighbour<F: Float>(
    x: &[F],
    at: usize,
    row: usize,
    column: usize,
    height: usize,
    width: usize,
    #[comptime] tap: usize,
) -> f32 {
    let tap_row = row + comptime!(tap / 3);
    let tap_column = column + comptime!(tap % 3);
    // Counted from one row and column before the map, so that nothing is below zero.
    let inside = tap_row >= 1 && tap_row <= height && tap_column >= 1 && tap_column <= width;
    let place = at + width * comptime!(tap / 3) + comptime!(tap % 3);
    let mut value = 0.0f32;
    if inside {
        value = f32::cast_from(x[place - width - 1]);
    }
    value
}

//! Updates on GPUs: one launch for a parameter.

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::ops::{AdamWOps, AdamWStep};
use crate::cube::{
    Team, contiguous, count, expect, grid, launch, place_in_team, team_sum, unwritten, vector_size, vector_sum,
};

/// Units that add up the squares of a tensor together, at most.
const MAX_UNITS: u32 = 1024;

impl AdamWOps for CubeBackend {
    fn adamw_step(
        value: CubeTensor,
        gradient: CubeTensor,
        first: CubeTensor,
        second: CubeTensor,
        step: AdamWStep,
    ) -> (CubeTensor, CubeTensor, CubeTensor) {
        let [value, gradient, first, second] = [value, gradient, first, second].map(contiguous);
        let [new_value, new_first, new_second] = [(); 3].map(|()| unwritten(&value, value.shape(), DType::F32));
        let values = count(&value);
        expect([&value, &gradient, &first, &second].map(|tensor| (tensor, values, DType::F32)));
        let width = vector_size(&value, DType::F32, [values]);
        let [correction_1, correction_2] = step.corrections();
        let constants = StepConstantsLaunch::new(
            step.gradient_factor as f32,
            step.lr as f32,
            (1.0 - step.lr * step.weight_decay) as f32,
            step.betas[0],
            step.betas[1],
            correction_1,
            correction_2,
            step.epsilon,
        );
        // SAFETY: a unit reads and writes the vectors of its position only if that is below the count that fills all
        // seven tensors, which have one length and type (checked).
        unsafe {
            launch!(
                update,
                grid(&value, values / width),
                [width],
                [value, gradient, first, second, new_value, new_first, new_second],
                values / width,
                constants
            );
        }
        (new_value, new_first, new_second)
    }

    /// Writes in place: the sums belong to the caller alone.
    fn sum_of_squares(x: CubeTensor, sums: CubeTensor, slot: usize) -> CubeTensor {
        let x = contiguous(x);
        let values = count(&x);
        expect([(&x, values, DType::F32), (&sums, count(&sums), DType::F32)]);
        assert!(slot < count(&sums), "slot {slot} of {}", count(&sums));
        let width = vector_size(&x, DType::F32, [values]);
        let hardware = &x.client.properties().hardware;
        let wide = hardware.plane_size_max;
        let dim = CubeDim::new_2d(wide, (hardware.max_units_per_cube.min(MAX_UNITS) / wide).max(1));
        // SAFETY: the one cube reads the vectors of `x` and writes one of the sums, which are more (checked).
        unsafe {
            launch!(squares, (CubeCount::new_single(), dim), [width], [x, sums], values / width, slot);
        }
        sums
    }
}

#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct StepConstants {
    gradient_factor: f32,
    lr: f32,
    kept: f32,
    beta_1: f32,
    beta_2: f32,
    correction_1: f32,
    correction_2: f32,
    epsilon: f32,
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn update<N: Size>(
    value: &[Vector<f32, N>],
    gradient: &[Vector<f32, N>],
    first: &[Vector<f32, N>],
    second: &[Vector<f32, N>],
    new_value: &mut [Vector<f32, N>],
    new_first: &mut [Vector<f32, N>],
    new_second: &mut [Vector<f32, N>],
    units: usize,
    constants: StepConstants,
) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let g = gradient[ABSOLUTE_POS] * Vector::new(constants.gradient_factor);
    let one = 1.0f32;
    let m = first[ABSOLUTE_POS] * Vector::new(constants.beta_1) + g * Vector::new(one - constants.beta_1);
    let v = second[ABSOLUTE_POS] * Vector::new(constants.beta_2) + g * g * Vector::new(one - constants.beta_2);
    let root = (v / Vector::new(constants.correction_2)).sqrt() + Vector::new(constants.epsilon);
    let change = m / Vector::new(constants.correction_1) / root;
    new_value[ABSOLUTE_POS] = value[ABSOLUTE_POS] * Vector::new(constants.kept) - change * Vector::new(constants.lr);
    new_first[ABSOLUTE_POS] = m;
    new_second[ABSOLUTE_POS] = v;
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn squares<N: Size>(x: &[Vector<f32, N>], sums: &mut [f32], vectors: usize, slot: usize) {
    let team = comptime!(Team::Cube);
    let (place, units) = place_in_team(team);
    let mut sum = 0.0f32;
    let mut at = place;
    while at < vectors {
        sum += vector_sum(x[at] * x[at]);
        at += units;
    }
    let sum = team_sum(sum, team);
    if place == 0 {
        sums[slot] = sum;
    }
}

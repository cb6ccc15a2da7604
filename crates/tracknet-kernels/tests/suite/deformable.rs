//! Deformable attention against its formula, summed up in f64, and its gradients against finite differences of that.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData};
use tracknet_kernels::deformable::{Pyramid, deformable_attention};

use crate::common::device;

/// Values in −½..½ that look random and are the same everywhere.
fn values(count: usize, seed: u32) -> Vec<f64> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f64::from(state >> 8) / f64::from(1 << 24) - 0.5
    };
    (0..count).map(next).collect()
}

/// The arguments of one call, row-major.
#[derive(Clone)]
struct Case {
    pyramid: Pyramid,
    /// Batch, queries, heads, features.
    sizes: [usize; 4],
    value: Vec<f64>,
    locations: Vec<f64>,
    weights: Vec<f64>,
    /// The gradient that the result gets.
    gradient: Vec<f64>,
}

impl Case {
    fn new(levels: &[[usize; 2]], points: usize, sizes: [usize; 4]) -> Self {
        let pyramid = Pyramid { levels: levels.to_vec(), points };
        let [batch, queries, heads, features] = sizes;
        let places = batch * queries * heads * pyramid.places();
        Self {
            value: values(batch * pyramid.cells() * heads * features, 1),
            // From −0.3 to 1.3: some places lie outside of their level.
            locations: values(2 * places, 2).into_iter().map(|v| 0.5 + 1.6 * v).collect(),
            weights: values(places, 3),
            gradient: values(batch * queries * heads * features, 4),
            pyramid,
            sizes,
        }
    }

    /// The result by the formula: bilinear samples with half-pixel centres, zeros beyond the edge.
    fn attend(&self) -> Vec<f64> {
        let [batch, queries, heads, features] = self.sizes;
        let (cells, places, points) = (self.pyramid.cells(), self.pyramid.places(), self.pyramid.points);
        let mut y = vec![0.0; batch * queries * heads * features];
        for row in 0..batch * queries * heads {
            let (frame, head) = (row / heads / queries, row % heads);
            for place in 0..places {
                let level = place / points;
                let start: usize = self.pyramid.levels[..level].iter().map(|[h, w]| h * w).sum();
                let [height, width] = self.pyramid.levels[level];
                let at = row * places + place;
                let x = self.locations[2 * at] * width as f64 - 0.5;
                let y_of = self.locations[2 * at + 1] * height as f64 - 0.5;
                for r in 0..height {
                    for c in 0..width {
                        let share = (1.0 - (x - c as f64).abs()).max(0.0) * (1.0 - (y_of - r as f64).abs()).max(0.0);
                        let cell = frame * cells + start + r * width + c;
                        for feature in 0..features {
                            let v = self.value[(cell * heads + head) * features + feature];
                            y[row * features + feature] += self.weights[at] * share * v;
                        }
                    }
                }
            }
        }
        y
    }

    /// The result times its gradient, whose derivatives are the gradients of the arguments.
    fn objective(&self) -> f64 {
        self.attend().iter().zip(&self.gradient).map(|(y, g)| y * g).sum()
    }

    /// Central differences in every number of an argument.
    fn differences(&self, argument: impl Fn(&mut Self) -> &mut Vec<f64>, step: f64) -> Vec<f64> {
        let mut case = self.clone();
        let count = argument(&mut case).len();
        let mut shifted = |at: usize, by: f64| {
            argument(&mut case)[at] += by;
            let objective = case.objective();
            argument(&mut case)[at] -= by;
            objective
        };
        (0..count).map(|at| (shifted(at, step) - shifted(at, -step)) / (2.0 * step)).collect()
    }

    /// Result and gradients of value, locations and weights on the device.
    fn run(&self) -> [Vec<f64>; 4] {
        let [batch, queries, heads, features] = self.sizes;
        let places = self.pyramid.places();
        let device = device().autodiff();
        let value = tensor(&self.value, [batch, self.pyramid.cells(), heads, features], &device).require_grad();
        let locations = tensor(&self.locations, [batch, queries, heads, places, 2], &device).require_grad();
        let weights = tensor(&self.weights, [batch, queries, heads, places], &device).require_grad();
        let y = deformable_attention(value.clone(), locations.clone(), weights.clone(), self.pyramid.clone());
        let gradient = tensor(&self.gradient, [batch, queries, heads * features], &device);
        let gradients = (y.clone() * gradient).sum().backward();
        [
            host(y),
            host(value.grad(&gradients).unwrap()),
            host(locations.grad(&gradients).unwrap()),
            host(weights.grad(&gradients).unwrap()),
        ]
    }
}

fn tensor<const D: usize>(values: &[f64], shape: [usize; D], device: &Device) -> Tensor<D> {
    let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor.into_data().iter::<f64>().collect()
}

fn assert_close(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |max, v| max.max(v.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let distance = (found - expected).abs();
        assert!(distance <= tolerance * largest, "{what}: element {at} is {found}, expected {expected}");
    }
}

#[test]
fn outputs_and_gradients_are_those_of_the_formula() {
    for (levels, points, sizes) in [
        (&[[1, 1]][..], 1, [1, 1, 1, 1]),
        (&[[3, 5]][..], 2, [2, 3, 2, 3]),
        (&[[5, 7], [3, 4], [2, 2], [1, 1]][..], 4, [1, 5, 3, 4]),
    ] {
        let case = Case::new(levels, points, sizes);
        let [y, of_value, of_locations, of_weights] = case.run();
        let what = |part: &str| format!("{levels:?} {sizes:?}: {part}");
        // Sums of a few dozen products in f32; the formula is linear in value and weights.
        assert_close(&y, &case.attend(), 1e-5, &what("output"));
        assert_close(&of_value, &case.differences(|case| &mut case.value, 1e-3), 1e-5, &what("value"));
        assert_close(&of_weights, &case.differences(|case| &mut case.weights, 1e-3), 1e-5, &what("weights"));
        // Piecewise linear in each coordinate: exact in f64 where no cell's edge lies within the step, as here; the product
        // with the width of a level rounds in f32.
        assert_close(&of_locations, &case.differences(|case| &mut case.locations, 1e-7), 1e-4, &what("locations"));
    }
}

#[test]
fn a_place_outside_of_its_level_or_nowhere_gives_nothing() {
    let mut case = Case::new(&[[2, 3]], 1, [1, 2, 1, 2]);
    case.locations = vec![-3.0, 0.5, 1e30, f64::NAN];
    // What is nowhere has no cells, on any device; only the processor promises that for NaN.
    if !common::on_host() {
        case.locations = vec![-3.0, 0.5, 7.0, 0.5];
    }
    let [y, of_value, ..] = case.run();
    assert!(y.iter().chain(&of_value).all(|v| *v == 0.0), "{y:?} {of_value:?}");
}

#[test]
#[should_panic(expected = "deformable_attention: 6 cells for the levels [[2, 2]]")]
fn a_value_of_other_levels_is_refused() {
    let device = device();
    let (value, locations) = (Tensor::zeros([1, 6, 1, 2], &device), Tensor::zeros([1, 1, 1, 1, 2], &device));
    let pyramid = Pyramid { levels: vec![[2, 2]], points: 1 };
    deformable_attention(value, locations, Tensor::zeros([1, 1, 1, 1], &device), pyramid);
}

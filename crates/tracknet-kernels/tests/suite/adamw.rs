//! The update of AdamW and sums of squares against their formulas in f64.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Tensor, TensorData};
use tracknet_kernels::adamw::{AdamWStep, adamw_step, sums_of_squares};

use crate::common::device;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 613) % 1009) as f32 / 500.0 - 1.0).collect()
}

fn tensor(values: Vec<f32>) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), &device())
}

fn host(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn several_updates_follow_the_formulas() {
    for (count, weight_decay) in [(1, 0.05), (4096, 0.0), (1001, 0.05)] {
        let mut value = tensor(values(count, 1));
        let mut moments = [(); 2].map(|()| Tensor::zeros([count], &device()));
        let wide = |values: Vec<f32>| values.into_iter().map(f64::from).collect::<Vec<_>>();
        let (mut w, mut m, mut v) = (wide(values(count, 1)), vec![0.0; count], vec![0.0; count]);
        for time in 1..=5 {
            let gradient = values(count, 1 + time as usize);
            // A factor that is exact, so that the expected values know it too.
            let gradient_factor = if time % 2 == 0 { 0.5 } else { 1.0 };
            let step = AdamWStep { lr: 1e-2, betas: [0.9, 0.999], epsilon: 1e-8, weight_decay, gradient_factor, time };
            (value, moments) = adamw_step(value, tensor(gradient.clone()), moments, step);
            for (i, g) in gradient.iter().map(|g| gradient_factor * f64::from(*g)).enumerate() {
                m[i] = 0.9 * m[i] + 0.1 * g;
                v[i] = 0.999 * v[i] + 0.001 * g * g;
                let root = (v[i] / (1.0 - 0.999_f64.powi(time))).sqrt() + 1e-8;
                w[i] = w[i] * (1.0 - 1e-2 * weight_decay) - 1e-2 * (m[i] / (1.0 - 0.9_f64.powi(time))) / root;
            }
        }
        let [first, second] = moments;
        // The betas are f32: 1 − β₂ is 1.7e-5 of itself away from 0.001, and so is the second moment.
        for (found, expected, tolerance) in [(value, w, 2e-6), (first, m, 1e-6), (second, v, 2e-7)] {
            for (found, expected) in host(found).into_iter().zip(expected) {
                assert!((f64::from(found) - expected).abs() <= tolerance, "{count}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn each_tensor_gets_the_sum_of_its_squares() {
    let counts = [1, 7, 1024, 100_003];
    let tensors = counts.map(|count| tensor(values(count, count)));
    let sums = host(sums_of_squares(tensors.into_iter()));
    for (count, sum) in counts.into_iter().zip(sums) {
        let expected: f64 = values(count, count).iter().map(|x| f64::from(*x).powi(2)).sum();
        // Sums of up to 100 003 numbers in f32.
        assert!((f64::from(sum) - expected).abs() <= 1e-5 * expected, "{count}: {sum}, expected {expected}");
    }
}

#[test]
fn a_value_that_is_not_finite_shows_in_the_sum() {
    let mut values = values(300, 1);
    values[299] = f32::NAN;
    assert!(host(sums_of_squares([tensor(values)].into_iter()))[0].is_nan());
}

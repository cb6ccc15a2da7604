//! Residual connections against plain tensor operations and their automatic gradients.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor};
use tracknet_kernels::residual::add_scaled;

use crate::common::{device, host, random};

/// The sum and the gradients of input, branch and scale.
fn run(
    device: Device,
    shape: [usize; 3],
    operation: impl Fn(Tensor<3>, Tensor<3>, Tensor<1>) -> Tensor<3>,
) -> [Vec<f32>; 4] {
    let device = &device.autodiff();
    let [x, branch] = [1, 2].map(|seed| random(shape, seed, device).require_grad());
    let scale = random([shape[2]], 3, device).require_grad();
    let y = operation(x.clone(), branch.clone(), scale.clone());
    let gradients = (y.clone() * random(shape, 4, device)).sum().backward();
    let of = |x: &Tensor<3>| host(x.grad(&gradients).unwrap());
    [host(y), of(&x), of(&branch), host(scale.grad(&gradients).unwrap())]
}

#[test]
fn sum_and_gradients_equal_those_of_plain_operations() {
    for shape in [[1, 1, 1], [2, 3, 5], [3, 7, 64], [2, 33, 20]] {
        let found = run(device(), shape, add_scaled);
        let expected = run(Device::flex(), shape, |x, branch, scale| x + branch * scale.unsqueeze());
        for (found, expected) in found.iter().zip(&expected) {
            let largest = expected.iter().fold(1.0_f32, |max, v| max.max(v.abs()));
            for (found, expected) in found.iter().zip(expected) {
                // A product and a sum; the gradient of the scale adds up to 66 of them.
                assert!((found - expected).abs() <= 2e-6 * largest, "{shape:?}: {found}, expected {expected}");
            }
        }
    }
}

#[test]
fn a_frozen_scale_passes_gradients_on_and_gets_none() {
    let device = device().autodiff();
    let (x, scale) = (random([2, 3, 5], 1, &device).require_grad(), random([5], 3, &device));
    let gradients = add_scaled(x.clone(), x.clone(), scale.clone()).sum().backward();
    assert!(scale.grad(&gradients).is_none());
    let expected: Vec<f32> = (0..6).flat_map(|_| host(scale.clone()).into_iter().map(|s| 1.0 + s)).collect();
    assert_eq!(host(x.grad(&gradients).unwrap()), expected);
}

#[test]
#[should_panic(expected = "add_scaled: branch and scale are ([2, 3, 5], [4]) for x [2, 3, 5]")]
fn a_scale_of_another_width_is_refused() {
    let x = || random::<3>([2, 3, 5], 1, &device());
    add_scaled(x(), x(), random([4], 1, &device()));
}

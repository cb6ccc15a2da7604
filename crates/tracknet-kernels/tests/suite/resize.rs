//! Bilinear resize through the graph against Burn's interpolation and its gradient.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Distribution, Tensor, Tolerance};
use tracknet_kernels::resize_bilinear;

use crate::common::device;

#[test]
fn values_and_gradients_equal_those_of_the_stock_interpolation() {
    let host = Device::flex().autodiff();
    for (from, to) in [([3, 5], [6, 10]), ([4, 7], [9, 5]), ([1, 2], [3, 4]), ([5, 33], [10, 66]), ([6, 1], [3, 2])] {
        let x = Tensor::<4>::random([2, 3, from[0], from[1]], Distribution::Default, &host).into_data();
        let weight = Tensor::<4>::random([2, 3, to[0], to[1]], Distribution::Default, &host).into_data();
        let run = |device: Device, operation: &dyn Fn(Tensor<4>) -> Tensor<4>| {
            let x = Tensor::<4>::from_data(x.clone(), &device).require_grad();
            let y = operation(x.clone());
            let gradients = (y.clone() * Tensor::from_data(weight.clone(), &device)).sum().backward();
            [y.into_data(), x.grad(&gradients).unwrap().into_data()]
        };
        let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false);
        let stock = run(host.clone(), &|x| interpolate(x, options.clone().with_output_size(to)));
        for (found, expected) in run(device().autodiff(), &|x| resize_bilinear(x, to)).iter().zip(&stock) {
            // Two orders of the same few additions: a handful of roundings apart.
            found.assert_approx_eq::<f32>(expected, Tolerance::absolute(1e-5));
        }
    }
}

#[test]
#[should_panic(expected = "resize from [3, 4] to [0, 4]")]
fn a_size_without_samples_is_refused() {
    resize_bilinear(Tensor::zeros([1, 1, 3, 4], &device()), [0, 4]);
}

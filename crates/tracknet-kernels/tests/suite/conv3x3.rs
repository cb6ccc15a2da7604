//! Dense 3×3 convolutions against the backend's own convolution, its gradients, and finite differences.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use tracknet_kernels::conv3x3;
use tracknet_testing::{assert_close, assert_close_above};

use crate::common::{device, host, random};

/// Frames, inputs, outputs, height, width: a single pixel, row and column, and widths on both sides of a vector.
const SHAPES: [[usize; 5]; 8] = [
    [1, 1, 1, 1, 1],
    [2, 3, 2, 1, 5],
    [3, 2, 9, 7, 1],
    [1, 5, 1, 3, 3],
    [2, 3, 8, 4, 17],
    [1, 4, 5, 5, 49],
    [2, 9, 4, 19, 16],
    [1, 2, 3, 9, 131],
];

#[test]
fn outputs_and_gradients_equal_those_of_the_general_convolution() {
    let general = |x, weight| conv2d(x, weight, None, ConvOptions::new([1; 2], [1; 2], [1; 2], 1));
    for shape in SHAPES {
        let [batch, inputs, outputs, height, width] = shape;
        let run = |device: Device, operation: &dyn Fn(Tensor<4>, Tensor<4>) -> Tensor<4>| {
            let device = device.autodiff();
            let x = random([batch, inputs, height, width], 1, &device).require_grad();
            let weight = random([outputs, inputs, 3, 3], 2, &device).require_grad();
            let y = operation(x.clone(), weight.clone());
            let gradients = (y.clone() * random([batch, outputs, height, width], 3, &device)).sum().backward();
            [host(y), host(x.grad(&gradients).unwrap()), host(weight.grad(&gradients).unwrap())]
        };
        let (found, expected) = (run(device(), &conv3x3), run(Device::flex(), &general));
        for (what, (found, expected)) in ["output", "input", "weight"].iter().zip(found.iter().zip(&expected)) {
            // Two orders of at most 1179 additions in f32.
            assert_close(found, expected, 1e-5, &format!("{shape:?} {what}"));
        }
    }
}

/// Frames whose columns a GPU copies one frame after the other, each cut in parts for the sums of the gradient.
#[test]
fn frames_that_are_large_together_are_as_exact_as_small_ones() {
    let [batch, inputs, outputs, height, width] = [2, 40, 2, 288, 480];
    let run = |device: Device| {
        let device = device.autodiff();
        let x = random([batch, inputs, height, width], 1, &device).require_grad();
        let weight = random([outputs, inputs, 3, 3], 2, &device).require_grad();
        let y = conv3x3(x.clone(), weight.clone());
        let gradients = (y.clone() * random([batch, outputs, height, width], 3, &device)).sum().backward();
        [host(y), host(x.grad(&gradients).unwrap()), host(weight.grad(&gradients).unwrap())]
    };
    for (found, expected) in run(device()).iter().zip(&run(Device::flex())) {
        // Two orders of 276480 additions in f32 of values around zero.
        assert_close_above(found, expected, 1e-4, 1.0, "large frames");
    }
}

#[test]
fn a_gradient_nobody_asks_for_is_not_there() {
    let device = device().autodiff();
    let [x, weight] = [random([1, 2, 3, 4], 1, &device), random([5, 2, 3, 3], 2, &device)];
    let trained = weight.clone().require_grad();
    let gradients = conv3x3(x.clone(), trained.clone()).sum().backward();
    assert!(trained.grad(&gradients).is_some() && x.grad(&gradients).is_none());
    let asked = x.require_grad();
    let gradients = conv3x3(asked.clone(), weight.clone()).sum().backward();
    assert!(asked.grad(&gradients).is_some() && weight.grad(&gradients).is_none());
}

#[test]
#[should_panic(expected = "conv3x3: weight is [3, 1, 3, 3], expected [out, 2, 3, 3]")]
fn a_weight_of_another_width_is_refused() {
    conv3x3(random([1, 2, 3, 4], 1, &device()), random([3, 1, 3, 3], 2, &device()));
}

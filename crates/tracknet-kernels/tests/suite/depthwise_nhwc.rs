//! Depthwise convolutions with channels last against the backend's own convolution of maps, and its gradients.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use tracknet_kernels::depthwise_conv_nhwc;
use tracknet_testing::assert_close;

use crate::common::{device, host, random};

/// Frames, rows, columns, channels, kernel.
const SHAPES: [[usize; 5]; 7] = [
    [1, 1, 1, 1, 7],
    [2, 3, 5, 3, 7],
    [1, 9, 16, 32, 7],
    [2, 5, 19, 17, 7],
    [1, 27, 3, 5, 5],
    [1, 4, 33, 18, 3],
    [3, 2, 2, 4, 1],
];

/// On maps, `[batch, rows · columns, channels]` → the same shape.
fn general(x: Tensor<3>, [rows, columns]: [usize; 2], weight: Tensor<4>, bias: Tensor<1>) -> Tensor<3> {
    let [batch, cells, channels] = x.dims();
    let padding = weight.dims()[2] / 2;
    let map = x.swap_dims(1, 2).reshape([batch, channels, rows, columns]);
    let y = conv2d(map, weight, Some(bias), ConvOptions::new([1; 2], [padding; 2], [1; 2], channels));
    y.reshape([batch, channels, cells]).swap_dims(1, 2)
}

#[test]
fn outputs_and_gradients_equal_those_of_the_general_convolution() {
    for shape in SHAPES {
        let [batch, rows, columns, channels, kernel] = shape;
        let cells = [batch, rows * columns, channels];
        type Operation = dyn Fn(Tensor<3>, [usize; 2], Tensor<4>, Tensor<1>) -> Tensor<3>;
        let run = |device: Device, operation: &Operation| {
            let device = device.autodiff();
            let x = random(cells, 1, &device).require_grad();
            let weight = random([channels, 1, kernel, kernel], 2, &device).require_grad();
            let bias = random([channels], 3, &device).require_grad();
            let y = operation(x.clone(), [rows, columns], weight.clone(), bias.clone());
            let gradients = (y.clone() * random(cells, 4, &device)).sum().backward();
            let of_parameters = [host(weight.grad(&gradients).unwrap()), host(bias.grad(&gradients).unwrap())];
            let [of_weight, of_bias] = of_parameters;
            [host(y), host(x.grad(&gradients).unwrap()), of_weight, of_bias]
        };
        let (found, expected) = (run(device(), &depthwise_conv_nhwc), run(Device::flex(), &general));
        for (what, (found, expected)) in ["output", "input", "weight", "bias"].iter().zip(found.iter().zip(&expected)) {
            // Two orders of at most 190 additions in f32.
            assert_close(found, expected, 1e-5, &format!("{shape:?} {what}"));
        }
    }
}

#[test]
fn a_gradient_nobody_asks_for_is_not_there() {
    let device = device().autodiff();
    let [weight, other] = [random([2, 1, 3, 3], 2, &device), random([2, 1, 3, 3], 2, &device)];
    let (x, bias) = (random([1, 12, 2], 1, &device), random([2], 3, &device));
    let trained = weight.require_grad();
    let gradients = depthwise_conv_nhwc(x.clone(), [3, 4], trained.clone(), bias.clone()).sum().backward();
    assert!(trained.grad(&gradients).is_some() && x.grad(&gradients).is_none() && bias.grad(&gradients).is_none());
    let asked = x.require_grad();
    let gradients = depthwise_conv_nhwc(asked.clone(), [3, 4], other.clone(), bias.clone()).sum().backward();
    assert!(asked.grad(&gradients).is_some() && other.grad(&gradients).is_none() && bias.grad(&gradients).is_none());
}

#[test]
#[should_panic(expected = "weight [2, 1, 4, 4] and bias [2], expected [2, 1, k, k] with an odd k and [2]")]
fn a_kernel_without_a_middle_is_refused() {
    let (x, weight) = (random([1, 12, 2], 1, &device()), random([2, 1, 4, 4], 2, &device()));
    depthwise_conv_nhwc(x, [3, 4], weight, random([2], 3, &device()));
}

#[test]
#[should_panic(expected = "12 cells in a grid [3, 5]")]
fn a_grid_of_other_cells_is_refused() {
    let (x, weight) = (random([1, 12, 2], 1, &device()), random([2, 1, 3, 3], 2, &device()));
    depthwise_conv_nhwc(x, [3, 5], weight, random([2], 3, &device()));
}

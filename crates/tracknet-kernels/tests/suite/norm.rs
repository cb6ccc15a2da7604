//! Layer norm, group norm and GELU through the graph, against plain tensor operations and finite differences.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, activation};
use tracknet_kernels::{FusedActivation, NormSpec, batch_norm, gelu, group_norm, layer_norm};
use tracknet_testing::assert_close_above;

use crate::common::{device, host, random};

/// Output and gradients of `[x, weight, bias]` under a loss that depends on every output differently.
fn run<const D: usize>(
    device: Device,
    shape: [usize; D],
    channels: usize,
    operation: impl Fn(Tensor<D>, Tensor<1>, Tensor<1>) -> Tensor<D>,
) -> [Vec<f32>; 4] {
    let device = &device.autodiff();
    let x = random(shape, 1, device).require_grad();
    let [weight, bias] = [2, 3].map(|seed| random([channels], seed, device).require_grad());
    let y = operation(x.clone(), weight.clone(), bias.clone());
    let gradients = (y.clone() * random(shape, 4, device)).sum().backward();
    [
        host(y),
        host(x.grad(&gradients).unwrap()),
        host(weight.grad(&gradients).unwrap()),
        host(bias.grad(&gradients).unwrap()),
    ]
}

#[test]
fn group_norm_with_an_activation_equals_plain_operations_in_value_and_gradients() {
    for (shape, groups) in [([1, 2, 1, 1], 1), ([2, 6, 3, 5], 3), ([3, 4, 17, 1], 4), ([2, 8, 5, 33], 2)] {
        let [batch, channels, height, width] = shape;
        for activation in [FusedActivation::None, FusedActivation::Gelu, FusedActivation::Relu] {
            let spec = NormSpec { groups, epsilon: 1e-5, activation };
            let found = run(device(), shape, channels, |x, weight, bias| group_norm(x, weight, bias, spec));
            let expected = run(Device::flex(), shape, channels, |x, weight, bias| {
                let grouped = x.reshape([batch, groups, channels / groups * height * width]);
                let centred = grouped.clone() - grouped.mean_dim(2);
                let deviation = centred.clone().square().mean_dim(2).add_scalar(1e-5).sqrt();
                let normal = (centred / deviation).reshape(shape);
                let z = normal * weight.reshape([1, channels, 1, 1]) + bias.reshape([1, channels, 1, 1]);
                match activation {
                    FusedActivation::None => z,
                    FusedActivation::Gelu => activation::gelu(z),
                    FusedActivation::Relu => activation::relu(z),
                }
            });
            for (found, expected) in found.iter().zip(&expected) {
                // Two orders of at most 660 additions in f32; Φ within 3e-7 on either side.
                assert_close_above(found, expected, 1e-5, 1.0, &format!("{shape:?} {spec:?}"));
            }
        }
    }
}

#[test]
fn batch_norm_with_an_activation_equals_burns_in_value_gradients_and_statistics() {
    for shape in [[1, 2, 1, 2], [2, 6, 3, 5], [5, 4, 17, 1], [3, 8, 5, 33]] {
        let channels = shape[1];
        for activation in [FusedActivation::None, FusedActivation::Gelu, FusedActivation::Relu] {
            let found =
                run(device(), shape, channels, |x, weight, bias| batch_norm(x, weight, bias, 1e-5, activation).0);
            let expected = run(Device::flex(), shape, channels, |x, weight, bias| {
                let z = burn::tensor::module::batch_norm_train(x, weight, bias, 1e-5).output;
                match activation {
                    FusedActivation::None => z,
                    FusedActivation::Gelu => activation::gelu(z),
                    FusedActivation::Relu => activation::relu(z),
                }
            });
            for (found, expected) in found.iter().zip(&expected) {
                // Two orders of at most 495 additions in f32; Φ within 3e-7 on either side.
                assert_close_above(found, expected, 1e-5, 1.0, &format!("{shape:?} {activation:?}"));
            }
        }
        let statistics = |device: Device, own: bool| {
            let x = random(shape, 1, &device);
            let [weight, bias] = [2, 3].map(|seed| random([channels], seed, &device));
            if own {
                batch_norm(x, weight, bias, 1e-5, FusedActivation::None).1.map(host)
            } else {
                let result = burn::tensor::module::batch_norm_train(x, weight, bias, 1e-5);
                [result.mean, result.variance].map(host)
            }
        };
        for (found, expected) in statistics(device(), true).iter().zip(&statistics(Device::flex(), false)) {
            assert_close_above(found, expected, 1e-5, 1.0, &format!("{shape:?} statistics"));
        }
    }
}

#[test]
fn layer_norm_equals_plain_operations_in_value_and_gradients() {
    for shape in [[1, 1, 3], [2, 3, 17], [3, 5, 64], [2, 37, 33]] {
        let channels = shape[2];
        let found = run(device(), shape, channels, |x, weight, bias| layer_norm(x, weight, bias, 1e-6));
        let expected = run(Device::flex(), shape, channels, |x, weight, bias| {
            let centred = x.clone() - x.mean_dim(2);
            let deviation = centred.clone().square().mean_dim(2).add_scalar(1e-6).sqrt();
            centred / deviation * weight.reshape([1, 1, channels]) + bias.reshape([1, 1, channels])
        });
        for (found, expected) in found.iter().zip(&expected) {
            // Two orders of at most 74 additions in f32.
            assert_close_above(found, expected, 1e-5, 1.0, &format!("{shape:?}"));
        }
    }
}

#[test]
fn a_frozen_norm_passes_the_gradient_on_and_gets_none() {
    let device = &device().autodiff();
    let [weight, bias] = [2, 3].map(|seed| random([5], seed, device));
    let x = random([2, 3, 5], 1, device).require_grad();
    let loss = random([2, 3, 5], 4, device);
    let gradients = (layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-6) * loss.clone()).sum().backward();
    assert!(weight.grad(&gradients).is_none() && bias.grad(&gradients).is_none());
    let trained = [weight, bias].map(Tensor::require_grad);
    let of_x = host(x.grad(&gradients).unwrap());
    let gradients = (layer_norm(x.clone(), trained[0].clone(), trained[1].clone(), 1e-6) * loss).sum().backward();
    assert_eq!(host(x.grad(&gradients).unwrap()), of_x);
    assert!(trained.iter().all(|parameter| parameter.grad(&gradients).is_some()));
}

#[test]
fn gelu_equals_the_stock_operation_in_value_and_gradient() {
    for shape in [[1, 1], [3, 5], [17, 33]] {
        let run = |device: Device, operation: &dyn Fn(Tensor<2>) -> Tensor<2>| {
            let device = &device.autodiff();
            let x = (random(shape, 1, device) * 6.0).detach().require_grad();
            let y = operation(x.clone());
            let gradients = (y.clone() * random(shape, 2, device)).sum().backward();
            [host(y), host(x.grad(&gradients).unwrap())]
        };
        for (found, expected) in run(device(), &gelu).iter().zip(&run(Device::flex(), &activation::gelu)) {
            // Φ within 3e-7 on either side, times an input of at most 6.
            assert_close_above(found, expected, 1e-6, 1.0, &format!("{shape:?}"));
        }
    }
}

#[test]
fn gradients_equal_finite_differences() {
    let (shape, spec) = ([1, 4, 3, 3], NormSpec { groups: 2, epsilon: 1e-5, activation: FusedActivation::Gelu });
    let [_, of_x, of_weight, of_bias] = run(device(), shape, 4, |x, weight, bias| group_norm(x, weight, bias, spec));
    let flex = &Device::flex();
    let inputs = [host(random(shape, 1, flex)), host(random([4], 2, flex)), host(random([4], 3, flex))];
    let loss_weight = host(random(shape, 4, flex));
    let wide = |values: &[f32]| values.iter().map(|v| f64::from(*v)).collect::<Vec<_>>();
    let inputs = inputs.map(|values| wide(&values));
    let loss = |[x, weight, bias]: &[Vec<f64>; 3]| -> f64 {
        (0..2)
            .map(|group| {
                let x = &x[group * 18..][..18];
                let mean = x.iter().sum::<f64>() / 18.0;
                let deviation = (x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 18.0 + 1e-5).sqrt();
                let value = |at: usize| {
                    let channel = group * 2 + at / 9;
                    let z = (x[at] - mean) / deviation * weight[channel] + bias[channel];
                    z * cumulative(z) * f64::from(loss_weight[group * 18 + at])
                };
                (0..18).map(value).sum::<f64>()
            })
            .sum()
    };
    for (which, found) in [of_x, of_weight, of_bias].iter().enumerate() {
        let expected: Vec<f32> = (0..inputs[which].len())
            .map(|at| {
                let moved = |step: f64| {
                    let mut inputs = inputs.clone();
                    inputs[which][at] += step;
                    loss(&inputs)
                };
                ((moved(1e-5) - moved(-1e-5)) / 2e-5) as f32
            })
            .collect();
        // Central differences in f64 err by about 1e-9; the rest is f32.
        assert_close_above(found, &expected, 1e-5, 1.0, &format!("input {which}"));
    }
}

/// Φ from the series of the error function.
fn cumulative(z: f64) -> f64 {
    let (mut term, mut sum) = (z, 0.0);
    for n in 0..200 {
        sum += term;
        term *= z * z / f64::from(2 * n + 3);
    }
    0.5 + (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt() * sum
}

#[test]
#[should_panic(expected = "6 channels cannot be cut in 4 groups")]
fn groups_that_do_not_divide_the_channels_are_refused() {
    let spec = NormSpec { groups: 4, epsilon: 1e-5, activation: FusedActivation::None };
    let flex = &Device::flex();
    group_norm(random([1, 6, 2, 2], 1, flex), random([6], 2, flex), random([6], 3, flex), spec);
}

#[test]
#[should_panic(expected = "normalization of 6 channels: weight and bias are [[5], [6]]")]
fn a_weight_of_another_width_is_refused() {
    let flex = &Device::flex();
    layer_norm(random([2, 6], 1, flex), random([5], 2, flex), random([6], 3, flex), 1e-6);
}

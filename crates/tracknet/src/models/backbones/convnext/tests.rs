//! Frozen layers as one operation against the same layers of ordinary operations.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use burn::module::{Module, Param};
use burn::tensor::{Device, Distribution, Tensor};
use proptest::prelude::*;
use serde_json::json;
use tracknet_kernels::block::frozen_mlp;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, QuantizeOptions};

use crate::models::lora::LoraAdapter;
use crate::models::lora::adapter::Scaling;
use crate::models::nn::{Activation, Builder, LayerNorm, LinearWeight, RandomSource};

use super::{Layer, spec};

/// A layer of any shape whose base is frozen.
#[derive(Debug, Clone, Copy)]
struct Case {
    channels: usize,
    grid: [usize; 2],
    /// Which of the pointwise layers have an adapter.
    adapted: [bool; 2],
    dropout: bool,
    packed: bool,
    checkpoint: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..40, 1usize..12, 1usize..12);
    (sizes, any::<[bool; 5]>()).prop_map(|((channels, rows, columns), [up, down, dropout, packed, checkpoint])| Case {
        channels,
        grid: [rows, columns],
        adapted: [up, down],
        dropout,
        packed,
        checkpoint,
    })
}

impl Case {
    fn layer(self, device: &Device) -> Layer {
        let spec = json!({ "hidden_sizes": [self.channels], "depths": [1], "initializer_range": 0.3,
            "layer_scale_init_value": 0.7 });
        let (spec, _) = spec::read(spec.as_object().unwrap(), "test").unwrap();
        let source = RandomSource { seed: 2 };
        let mut layer = Layer::new(&spec, self.channels, &Builder::new(&source, device)).freeze();
        for ((name, linear), adapted) in layer.linears_mut().into_iter().zip(self.adapted) {
            linear.base.set_dense_dtype(ComputeDtype::Bf16);
            if self.packed {
                let weight = linear.base.weight.dense();
                let weight = Linear4bitWeight::quantize(weight, &QuantizeOptions::default(), ComputeDtype::Bf16);
                linear.base.weight = LinearWeight::Packed(weight.unwrap());
            }
            if adapted {
                let [output, input] = linear.base.shape();
                let [a, b] = [[2, input], [output, 2]].map(|shape| {
                    Param::from_tensor(Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.3), device))
                });
                let dropout = if self.dropout { 0.3 } else { 0.0 };
                linear.adapter = Some(LoraAdapter::new([a, b], Scaling { alpha: 2.0, rslora: false }, dropout, name));
            }
        }
        layer
    }

    /// The output, and the gradients of the input and of every adapter.
    fn run(self, layer: &Layer, x: &Tensor<3>, fused: bool) -> Vec<Vec<f32>> {
        let adapters = || layer.linears().into_iter().filter_map(|(_, linear)| linear.adapter.as_ref());
        adapters().for_each(|adapter| adapter.seed_dropout(4));
        let x = x.clone().require_grad();
        let y = layer.depthwise_conv.forward_cells(x.clone(), self.grid);
        let y = match fused {
            true => frozen_mlp(x.clone(), y.clone(), layer.frozen(&y, Activation::Gelu, self.checkpoint).unwrap()),
            false => layer.pointwise(x.clone(), y, Activation::Gelu),
        };
        let gradients = y.clone().square().mean().backward();
        let host = |data: burn::tensor::TensorData| data.try_to_vec::<f32>().unwrap();
        let mut all = vec![host(y.into_data()), host(x.grad(&gradients).unwrap().into_data())];
        for adapter in adapters() {
            all.extend([&adapter.a, &adapter.b].map(|p| host(p.val().grad(&gradients).unwrap().into_data())));
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_frozen_layer_as_one_operation_gives_the_output_and_the_gradients_of_its_layers(case in cases()) {
        let device = Device::flex().autodiff();
        let layer = case.layer(&device);
        let x = Tensor::<3>::random([2, case.grid[0] * case.grid[1], case.channels], Distribution::Normal(0.0, 1.0), &device);
        let [one, composed] = [true, false].map(|fused| case.run(&layer, &x, fused));
        prop_assert_eq!(one.len(), 2 + 2 * case.adapted.iter().filter(|adapted| **adapted).count());
        for (got, want) in one.iter().zip(&composed) {
            let size = (want.iter().map(|v| v * v).sum::<f32>() / want.len() as f32).sqrt().max(1e-6);
            let apart = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / want.len() as f32;
            // The one rounds to bfloat16 (8 bits) what the other keeps in float32, and gradients are differences of larger
            // numbers: a few percent. Another mask, scale or layer makes them differ by half of their size and more.
            prop_assert!(apart.sqrt() <= 0.15 * size, "{} of {size}", apart.sqrt());
        }
    }
}

#[test]
fn a_layer_of_which_anything_but_an_adapter_trains_or_with_another_activation_is_not_one_operation() {
    let device = Device::flex().autodiff();
    let case =
        Case { channels: 8, grid: [2, 3], adapted: [true, false], dropout: false, packed: false, checkpoint: false };
    let layer = case.layer(&device);
    assert!(layer.is_frozen(Activation::Gelu) && !layer.is_frozen(Activation::Silu));
    let mut float32 = layer.clone();
    float32.pointwise_conv1.base.set_dense_dtype(ComputeDtype::F32);
    let mut gamma = layer.clone();
    gamma.gamma = gamma.gamma.set_require_grad(true);
    let mut bias = layer.clone();
    bias.pointwise_conv2.base.bias = bias.pointwise_conv2.base.bias.map(|bias| bias.set_require_grad(true));
    let source = RandomSource { seed: 2 };
    let norm = Layer { layer_norm: LayerNorm::new(8, 1e-6, &Builder::new(&source, &device)), ..layer.clone() };
    for other in [float32, gamma, bias, norm] {
        assert!(!other.is_frozen(Activation::Gelu));
    }
    // The depthwise convolution is an operation of its own, which may train.
    let mut depthwise = layer;
    depthwise.depthwise_conv.weight = depthwise.depthwise_conv.weight.set_require_grad(true);
    assert!(depthwise.is_frozen(Activation::Gelu));
}

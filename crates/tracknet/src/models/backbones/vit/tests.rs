//! Blocks as one operation against the same blocks of ordinary operations.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use burn::module::{Module, Param};
use burn::tensor::{Device, Distribution, Tensor};
use proptest::prelude::*;
use serde_json::json;
use tracknet_kernels::attention::Rotary;
use tracknet_kernels::block::frozen_block;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, QuantizeOptions};

use crate::models::lora::LoraAdapter;
use crate::models::lora::adapter::Scaling;
use crate::models::nn::{Builder, LinearWeight, RandomSource};

use super::block::Block;
use super::position::rotary;
use super::spec::VitSpec;
use super::{dinov3, original};

/// A block of any shape whose base is frozen.
#[derive(Debug, Clone, Copy)]
struct Case {
    heads: usize,
    mlp: usize,
    grid: [usize; 2],
    rotary: bool,
    dropout: bool,
    bias: bool,
    packed: bool,
    checkpoint: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..4, 1usize..30, 1usize..4, 1usize..5);
    let switches = any::<[bool; 5]>();
    (sizes, switches).prop_map(|((heads, mlp, rows, columns), [rotary, dropout, bias, packed, checkpoint])| Case {
        heads,
        mlp,
        grid: [rows, columns],
        rotary,
        dropout,
        bias,
        packed,
        checkpoint,
    })
}

impl Case {
    fn spec(self) -> VitSpec {
        let Self { heads, mlp, bias, .. } = self;
        let sizes = json!({
            "hidden_size": 8 * heads, "num_attention_heads": heads, "intermediate_size": mlp, "initializer_range": 0.3,
            "query_bias": bias, "value_bias": bias, "proj_bias": bias, "mlp_bias": bias, "qkv_bias": bias
        });
        let sizes = sizes.as_object().unwrap();
        let (spec, _) = if self.rotary { dinov3::spec(sizes, "test") } else { original::spec(sizes, "test") }.unwrap();
        spec
    }

    /// A block with adapters on every second layer.
    fn block(self, spec: &VitSpec, device: &Device) -> Block {
        let source = RandomSource { seed: 2 };
        let mut block = Block::new(spec, &Builder::new(&source, device)).freeze();
        for (i, (name, layer)) in block.layers_mut().into_iter().enumerate() {
            layer.base.set_dense_dtype(ComputeDtype::Bf16);
            if self.packed {
                let weight = layer.base.weight.dense();
                let weight = Linear4bitWeight::quantize(weight, &QuantizeOptions::default(), ComputeDtype::Bf16);
                layer.base.weight = LinearWeight::Packed(weight.unwrap());
            }
            if i % 2 == 0 {
                let [output, input] = layer.base.shape();
                let [a, b] = [[2, input], [output, 2]].map(|shape| {
                    let values = Tensor::<2>::random(shape, Distribution::Normal(0.0, 0.3), device);
                    Param::from_tensor(values)
                });
                let dropout = if self.dropout { 0.3 } else { 0.0 };
                let adapter = LoraAdapter::new([a, b], Scaling { alpha: 2.0, rslora: false }, dropout, name);
                layer.adapter = Some(adapter);
            }
        }
        block
    }

    /// The output, and the gradients of the input and of every adapter.
    fn run(self, block: &Block, spec: &VitSpec, x: &Tensor<3>, rotary: Option<&Rotary>, fused: bool) -> Vec<Vec<f32>> {
        block.layers().iter().filter_map(|(_, layer)| layer.adapter.as_ref()).for_each(|a| a.seed_dropout(4));
        let x = x.clone().require_grad();
        let y = match fused {
            true => frozen_block(x.clone(), rotary, block.frozen(&x, spec, self.checkpoint).unwrap()),
            false => block.forward(x.clone(), rotary, spec),
        };
        let gradients = y.clone().square().mean().backward();
        let host = |data: burn::tensor::TensorData| data.try_to_vec::<f32>().unwrap();
        let mut all = vec![host(y.into_data()), host(x.grad(&gradients).unwrap().into_data())];
        for adapter in block.layers().iter().filter_map(|(_, layer)| layer.adapter.as_ref()) {
            all.extend([&adapter.a, &adapter.b].map(|p| host(p.val().grad(&gradients).unwrap().into_data())));
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_frozen_block_as_one_operation_gives_the_output_and_the_gradients_of_its_layers(case in cases()) {
        let device = Device::flex().autodiff();
        let spec = case.spec();
        let block = case.block(&spec, &device);
        prop_assert!(block.is_frozen(&spec));
        let rotary = case.rotary.then(|| rotary(&spec, 100.0, case.grid, &device));
        let tokens = spec.prefix_tokens() + case.grid[0] * case.grid[1];
        let x = Tensor::<3>::random([2, tokens, spec.hidden], Distribution::Normal(0.0, 1.0), &device);
        let [one, composed] = [true, false].map(|fused| case.run(&block, &spec, &x, rotary.as_ref(), fused));
        for (got, want) in one.iter().zip(&composed) {
            let size = (want.iter().map(|v| v * v).sum::<f32>() / want.len() as f32).sqrt().max(1e-6);
            let apart = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / want.len() as f32;
            // The one rounds to bfloat16 (8 bits) what the other keeps in float32, and gradients are differences of larger
            // numbers: a few percent. Another mask, scale or layer makes them differ by half of their size and more.
            prop_assert!(apart.sqrt() <= 0.15 * size, "{} of {size}", apart.sqrt());
        }
    }
}

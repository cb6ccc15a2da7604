//! The upsampling decoder and the head against PyTorch: output, loss and every gradient.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::collections::BTreeMap;

use burn::tensor::{Device, Tensor, TensorData};
use tracknet::artifacts::build_model;
use tracknet::config::{DecoderConfig, ModelConfig};
use tracknet::models::decoders::{DecoderNetwork, DecoderSpec, UpsamplingSpec};
use tracknet::models::features::{Layout, Level, LevelLayout};
use tracknet::models::nn::{Builder, Fill, Source};
use tracknet::models::state::Group;
use tracknet::models::{Features, HeatmapHead, HeatmapModel, Window};
use tracknet_kernels::matmul::matmul;

use crate::common::{assert_close, assert_data_close, fixture, gradients_of, tensors};

/// f32 sums over at most a few thousand terms in another order.
const TOLERANCE: f32 = 1e-5;

/// The golden's names for ours.
fn golden_name(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    match parts.as_slice() {
        ["decoder", "stages", i, "proj", "weight"] => format!("proj.{i}.weight"),
        ["decoder", "stages", i, "blocks", "0", "norm", what] => format!("blk.{i}.gn.{what}"),
        ["decoder", "stages", i, "blocks", "0", rest @ ..] => format!("blk.{i}.{}", rest.join(".")),
        ["head", "conv", what] => format!("head.{what}"),
        other => panic!("no golden name for {other:?}"),
    }
}

struct Golden(BTreeMap<String, TensorData>);

impl Source for Golden {
    fn values(&self, name: &str, shape: &[usize], _fill: Fill) -> Vec<f32> {
        let data = &self.0[&format!("param.{}", golden_name(name))];
        assert_eq!(data.shape().to_vec(), shape, "{name}");
        data.try_to_vec().unwrap()
    }
}

#[test]
fn output_loss_and_gradients_are_those_of_pytorch() {
    let golden = Golden(tensors(&fixture("decoder.safetensors")));
    let device = crate::common::device().autodiff();
    // The golden's first stage keeps its channels and still has a projection; ours has none there, so the golden's
    // first projection is applied to the input by hand.
    let config = DecoderConfig { channels: vec![64, 64, 32], upsample: vec![2, 2], ..DecoderConfig::default() };
    let layout = Layout { levels: vec![LevelLayout { channels: 64, stride: 16 }] };
    let spec = UpsamplingSpec::new(&config, &layout, [25, 15]).unwrap();
    let builder = Builder::new(&golden, &device);
    let decoder = spec.build(&builder.at("decoder"));
    let head = HeatmapHead::new(32, 1, &builder.at("head"));

    let input = Tensor::<4>::from_data(golden.0["input"].clone(), &device).require_grad();
    let first: Tensor<4> = Tensor::from_data(golden.0["param.proj.0.weight"].clone(), &device).require_grad();
    let map = matmul(first.clone().reshape([1, 64, 64]), input.clone().reshape([2, 64, 24])).reshape([2, 64, 4, 6]);
    let images = Tensor::zeros([2, 3, 64, 96], &device);
    let output = head.forward(decoder.forward(Features { levels: vec![Level { map, stride: 16 }] }, images));
    assert_close("output", output.clone(), &golden.0["output"], TOLERANCE);

    let target = Tensor::<4>::from_data(golden.0["target"].clone(), &device);
    let loss = (output - target).square().mean();
    assert_close("loss", loss.clone(), &golden.0["loss"], TOLERANCE);
    let gradients = loss.backward();
    assert_close("input", input.grad(&gradients).unwrap(), &golden.0["grad_input"], TOLERANCE);
    assert_close("proj.0", first.grad(&gradients).unwrap(), &golden.0["grad.proj.0.weight"], TOLERANCE);

    let model = HeatmapModel { backbone: tiny_backbone(&device), decoder, head, window: Window::single() };
    let mut found = gradients_of(&model, &gradients);
    found.retain(|(info, _)| info.group != Group::Backbone);
    // One projection, two blocks of four tensors, the head's two.
    assert_eq!(found.len(), 11);
    for (info, gradient) in found {
        let name = golden_name(&info.name);
        assert_data_close(&name, &gradient.unwrap(), &golden.0[&format!("grad.{name}")], TOLERANCE);
    }
}

/// Only to make a whole model, whose parameters have names.
fn tiny_backbone(device: &Device) -> tracknet::models::Backbone {
    let mut config = ModelConfig::default();
    config.backbone.architecture = serde_json::from_str(
        r#"{"model_type": "vit", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
            "intermediate_size": 8, "image_size": 32}"#,
    )
    .unwrap();
    config.decoder.channels = vec![8, 8];
    config.decoder.upsample = vec![];
    build_model(&config, [32, 32], 0, device).unwrap().0.backbone
}

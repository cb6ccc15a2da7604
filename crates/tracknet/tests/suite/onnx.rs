//! ONNX files against the models that they were made of: `rten`, which shares nothing with Burn, computes the same heatmaps.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use rten::{Model, Value as RtenValue};
use serde_json::{Value, json};
use tracknet::artifacts::pretrained::StoredAs;
use tracknet::artifacts::run::{Checkpoint, RunState};
use tracknet::artifacts::{LoadedModel, build_model};
use tracknet::config::{Config, DataConfig, TrainingConfig};
use tracknet::evaluation::Activation;
use tracknet::export::{ONNX_FILE, write_onnx};
use tracknet::models::state::{ParameterInfo, ParameterMapper, map_parameters, replace};

use crate::common::{assert_data_close, largest_difference};
use crate::training_support::{convnext, model};

/// Of heatmaps, whose values are 0 to 1: both round to float32, in different orders.
const TOLERANCE: f32 = 1e-4;
/// Frames of `[W, H]`; no decoder brings them to the heatmap by a whole factor.
const FRAME: [usize; 2] = [96, 80];
const HEATMAP: [usize; 2] = [50, 42];

/// Moves every parameter away from its first value, which is often 0 or 1 and would hide what is left out.
struct Shake;

impl ParameterMapper for Shake {
    fn map<const D: usize>(&mut self, info: &ParameterInfo, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let noise = Tensor::<D>::random(parameter.lazy_shape(), Distribution::Uniform(-0.2, 0.2), &Device::flex());
        let moved = parameter.val() + noise;
        // A variance is above 0.
        let moved = if info.name.ends_with("running_var") { moved.abs().add_scalar(0.1) } else { moved };
        replace(parameter, moved.into_data())
    }
}

/// A model of this `model` section for windows of so many frames, with weights like those after a training with `loss`.
fn trained(section: Value, frames: usize, loss: &str) -> LoadedModel {
    let mut base = json!({ "heatmap": { "size": HEATMAP } });
    merge(&mut base, section);
    let mut data = DataConfig::default();
    data.preprocess.resize = FRAME;
    data.sequence.enabled = frames > 1;
    data.sequence.length = frames;
    let training: TrainingConfig = serde_json::from_value(json!({ "loss": { "name": loss } })).unwrap();
    let config = Config::from_sections(data, model(base), training);
    let device = Device::flex();
    device.seed(7);
    let (model, build) = build_model(&config.model, &config.data, 3, &device).unwrap();
    let model = map_parameters(model, &mut Shake);
    let checkpoint = Checkpoint { dir: "run/checkpoints/best".into(), state: RunState::start("run-1", 3, None) };
    LoadedModel { model, config, build, checkpoint }
}

fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            over.into_iter().for_each(|(key, value)| merge(base.entry(key).or_insert(Value::Null), value));
        }
        (base, over) => *base = over,
    }
}

/// What the file in `dir` makes of windows.
fn run(dir: &Path, windows: &Tensor<4>) -> TensorData {
    let onnx = Model::load_file(dir.join(ONNX_FILE)).unwrap();
    let values: Vec<f32> = windows.to_data().try_to_vec().unwrap();
    let input = RtenValue::from_shape(&windows.dims(), values).unwrap();
    let (shape, values) = onnx.run_one(input.into(), None).unwrap().into_shape_vec::<f32, 4>().unwrap();
    TensorData::new(values, shape)
}

/// What a prediction makes of windows.
fn heatmaps(loaded: &LoadedModel, windows: &Tensor<4>) -> TensorData {
    let logits = loaded.model.predict(windows.clone());
    let (shape, mut values) = (logits.dims(), logits.into_data().try_to_vec().unwrap());
    Activation::from(loaded.config.training.loss.name).apply(&mut values);
    TensorData::new(values, shape)
}

/// Two windows of frames, of which the second makes sure that nothing is of the first alone.
fn windows(frames: usize) -> Tensor<4> {
    let shape = [2, 3 * frames, FRAME[1], FRAME[0]];
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
}

fn agrees(what: &str, section: Value, frames: usize) {
    let loaded = trained(section, frames, "focal");
    let dir = tempfile::tempdir().unwrap();
    write_onnx(dir.path(), &loaded, StoredAs::F32).unwrap();
    let windows = windows(frames);
    let (found, expected) = (run(dir.path(), &windows), heatmaps(&loaded, &windows));
    let values: Vec<f32> = expected.try_to_vec().unwrap();
    let (low, high) = values.iter().fold((1f32, 0f32), |(low, high), value| (low.min(*value), high.max(*value)));
    assert!(high - low > 0.05 && low < 0.95 && high > 0.05, "{what}: heatmaps of {low} to {high} tell nothing");
    assert_data_close(what, &found, &expected, TOLERANCE);
}

/// A vision transformer in place of the one of [`model`].
fn vit(architecture: Value) -> Value {
    json!({ "backbone": { "architecture": architecture } })
}

#[test]
fn vision_transformers_of_every_family_agree() {
    agrees("dinov3", vit(json!({ "query_bias": true, "layerscale_value": 0.5, "hidden_act": "gelu_pytorch_tanh" })), 1);
    agrees("dinov3, gated", vit(json!({ "use_gated_mlp": true, "hidden_act": "silu" })), 1);
    agrees("dinov2", vit(json!({ "model_type": "dinov2", "image_size": 64, "num_register_tokens": null })), 1);
    let swiglu = json!({
        "model_type": "dinov2_with_registers", "image_size": 64, "num_register_tokens": 2, "use_swiglu_ffn": true
    });
    agrees("dinov2 with registers and SwiGLU", vit(swiglu), 1);
    let vit =
        vit(json!({ "model_type": "vit", "image_size": 48, "num_register_tokens": null, "hidden_act": "quick_gelu" }));
    agrees("vit", vit, 1);
}

/// Levels of ConvNeXt.
fn levels(decoder: Value) -> Value {
    let mut section = json!({ "backbone": { "return_stages": [1, 2], "architecture": convnext([1, 2]) } });
    merge(&mut section, decoder);
    section
}

#[test]
fn convnext_and_the_decoders_of_several_levels_agree() {
    let fpn =
        |fuse: &str| levels(json!({ "model_name": "convnext_fpn_heatmap", "fpn": { "lateral_dim": 8, "fuse": fuse } }));
    agrees("fpn, sum", fpn("sum"), 1);
    agrees("fpn, concat", fpn("concat"), 1);
    let hrnet = json!({ "widths": [6, 8], "num_units": 2, "out_channels": 5 });
    agrees("hrnet", levels(json!({ "model_name": "convnext_hrnet_heatmap", "hrnet": hrnet })), 1);
    let deformable = json!({
        "in_channels": [8, 16], "d_model": 8, "nhead": 2, "num_encoder_layers": 2, "num_feature_levels": 2, "n_points": 3,
        "lateral_dim": 8
    });
    let section = json!({ "model_name": "convnext_deformable_fpn_heatmap", "deformable_encoder": deformable });
    agrees("deformable", levels(section), 1);
}

#[test]
fn the_upsampling_decoder_agrees_with_every_part() {
    let decoder = |json: Value| json!({ "decoder": json });
    agrees("group norm, squeeze and excite", decoder(json!({ "use_se": true, "blocks_per_stage": 2 })), 1);
    agrees(
        "batch norm, relu, dense",
        decoder(json!({ "norm": "bn", "activation": "relu", "use_depthwise": false })),
        1,
    );
    agrees("stem", decoder(json!({ "channels": [32, 16, 8, 8], "upsample": [2, 2, 2], "skip": true })), 1);
}

#[test]
fn windows_agree_however_they_come_in() {
    let unet = |temporal: &str, norm: &str, stride: usize| {
        json!({
            "model_name": "vit_unet_heatmap", "temporal": temporal,
            "unet": { "channels": [6, 8, 10], "stride": stride, "convolutions": 2, "norm": norm },
            "heatmap": { "frames": "all" }
        })
    };
    agrees("unet, stack", unet("stack", "frozen_bn", 1), 3);
    agrees("unet, difference", unet("difference", "gn", 3), 3);
    let upsampling = |temporal: &str, input: &str| {
        json!({
            "temporal": temporal, "temporal_input": input,
            "decoder": { "channels": [32, 16, 16, 8, 8], "upsample": [2, 2, 2, 2], "skip": true }
        })
    };
    agrees("stem", upsampling("stack", "stem"), 2);
    agrees("patches", upsampling("difference", "patches"), 3);
    let mut patches = levels(json!({ "temporal": "stack", "temporal_input": "patches" }));
    merge(&mut patches, json!({ "model_name": "convnext_fpn_heatmap", "fpn": { "lateral_dim": 8 } }));
    agrees("patches of convnext", patches, 3);
}

#[test]
fn adapters_and_weights_in_4_bits_are_part_of_the_file() {
    let lora = |json: Value| {
        let mut section = json!({
            "lora": { "enabled": true, "r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1 },
            "quantization": { "enabled": true, "quant_type": "nf4", "compute_dtype": "float32" },
            "decoder": { "use_depthwise": false }
        });
        merge(&mut section, json);
        section
    };
    agrees("LoRA on NF4", lora(json!({})), 1);
    agrees("DoRA on NF4", lora(json!({ "lora": { "use_dora": true } })), 1);
    let all =
        json!({ "lora": { "target_modules": ["query", "proj", "dw", "pw"] }, "quantization": { "enabled": false } });
    agrees("adapters on convolutions", lora(all), 1);
}

#[test]
fn half_precision_weights_are_rounded_once() {
    let loaded = trained(json!({}), 1, "mse");
    let dir = tempfile::tempdir().unwrap();
    let size = |stored: StoredAs| {
        write_onnx(dir.path(), &loaded, stored).unwrap();
        std::fs::metadata(dir.path().join(ONNX_FILE)).unwrap().len()
    };
    let [whole, half] = [StoredAs::F32, StoredAs::F16].map(size);
    assert!(half < whole * 6 / 10, "{half} {whole}");
    let windows = windows(1);
    let difference = largest_difference(&run(dir.path(), &windows), &heatmaps(&loaded, &windows));
    assert!(difference > 0.0 && difference < 0.01, "{difference}");
}

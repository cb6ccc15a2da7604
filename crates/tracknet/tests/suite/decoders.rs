//! The decoders for several levels: outputs and every gradient against torchvision, transformers and PyTorch
//! (`fixtures/decoders.safetensors`), whole models on backbones of one level and of several, and what does not fit.
#![allow(clippy::unwrap_used, clippy::expect_used)] // Helpers of tests; in the tests themselves they are allowed anyway.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use tracknet::artifacts::build_model;
use tracknet::artifacts::pretrained::{StoredAs, write_head};
use tracknet::config::{HeatmapFrames, ModelConfig, Temporal, TemporalInput};
use tracknet::models::decoders::{Decoder, DecoderNetwork};
use tracknet::models::features::{Layout, Level, LevelLayout};
use tracknet::models::nn::{Builder, Fill, RandomSource, Source};
use tracknet::models::registry::decoder_of;
use tracknet::models::state::{Group, named_parameters, state_dict};
use tracknet::models::window::{Window, WindowSpec};
use tracknet::models::{Backbone, Features, HeatmapHead, HeatmapModel, VisitLayers};

use crate::common::{assert_data_close, fixture, gradients_of, largest, tensors};
use crate::training_support::{INPUT, config, lora, model, run, training};

/// Of the largest value: sums of a few hundred terms in float32, through up to eight layers.
const TOLERANCE: f32 = 1e-4;
const STRIDES: [usize; 3] = [4, 8, 16];
const CHANNELS: [usize; 3] = [6, 10, 12];
/// `[W, H]`.
const HEATMAP: [usize; 2] = [25, 17];

fn layout() -> Layout {
    let levels = CHANNELS.iter().zip(STRIDES).map(|(&channels, stride)| LevelLayout { channels, stride });
    Layout { levels: levels.collect() }
}

fn section(json: Value) -> ModelConfig {
    serde_json::from_value(json).unwrap()
}

fn fpn(fuse: &str) -> ModelConfig {
    section(json!({ "model_name": "convnext_fpn_heatmap", "fpn": { "lateral_dim": 8, "fuse": fuse } }))
}

fn hrnet() -> ModelConfig {
    section(json!({
        "model_name": "convnext_hrnet_heatmap", "hrnet": { "widths": [4, 6, 8], "num_units": 2, "out_channels": 5 }
    }))
}

fn deformable() -> ModelConfig {
    section(json!({
        "model_name": "convnext_deformable_fpn_heatmap",
        "deformable_encoder": {
            "in_channels": CHANNELS, "d_model": 8, "nhead": 2, "num_encoder_layers": 2, "num_feature_levels": 3,
            "n_points": 2, "lateral_dim": 8
        }
    }))
}

fn unet(channels: &[usize], stride: usize) -> ModelConfig {
    section(json!({
        "model_name": "vit_unet_heatmap", "unet": { "channels": channels, "stride": stride, "convolutions": 1 }
    }))
}

/// The golden of one decoder.
struct Golden {
    kind: &'static str,
    tensors: BTreeMap<String, TensorData>,
}

impl Golden {
    fn get(&self, name: &str) -> &TensorData {
        self.tensors.get(&format!("{}.{name}", self.kind)).unwrap_or_else(|| panic!("{} has no {name}", self.kind))
    }

    fn assert_close(&self, name: &str, found: &TensorData) {
        let expected = self.get(name);
        let scale = largest(expected);
        assert!(scale > 1e-3, "{}: {name} is up to {scale} and tells nothing", self.kind);
        assert_data_close(&format!("{}: {name}", self.kind), found, expected, TOLERANCE * scale);
    }
}

impl Source for Golden {
    fn values(&self, name: &str, shape: &[usize], _fill: Fill) -> Vec<f32> {
        let data = self.get(&format!("param.{name}"));
        assert_eq!(data.shape().to_vec(), shape, "{name}");
        data.try_to_vec().unwrap()
    }
}

/// Only to make a whole model, whose parameters have names.
fn tiny_backbone(device: &Device) -> Backbone {
    build_model(&model(json!({})), INPUT, 0, device).unwrap().0.backbone
}

fn build(config: &ModelConfig, source: &dyn Source, device: &Device) -> Decoder {
    let spec = (decoder_of(config.model_name).unwrap().plan)(config, &layout(), HEATMAP, WindowSpec::SINGLE).unwrap();
    spec.build(&Builder::new(source, device).at("decoder"))
}

fn features(maps: &[Tensor<4>]) -> Features {
    let levels = maps.iter().zip(STRIDES).map(|(map, stride)| Level { map: map.clone(), stride });
    Features { levels: levels.collect() }
}

fn equals_pytorch(kind: &'static str, config: &ModelConfig) {
    let golden = Golden { kind, tensors: tensors(&fixture("decoders.safetensors")) };
    let device = crate::common::device().autodiff();
    let decoder = build(config, &golden, &device);
    let inputs = [0, 1, 2].map(|i| golden.tensors[&format!("input.{i}")].clone());
    let inputs = inputs.map(|data| Tensor::<4>::from_data(data, &device).require_grad());
    // The masks of the golden are those of this seed.
    decoder.seed_dropout(7);
    let output = decoder.forward(features(&inputs), Tensor::zeros([2, 3, 36, 52], &device));
    golden.assert_close("output", &output.to_data());

    let upstream = Tensor::<4>::from_data(golden.get("upstream").clone(), &device);
    let gradients = (output * upstream).sum().backward();
    for (i, input) in inputs.iter().enumerate() {
        golden.assert_close(&format!("grad.input.{i}"), &input.grad(&gradients).unwrap().into_data());
    }
    let head = HeatmapHead::new(1, 1, &Builder::new(&RandomSource { seed: 0 }, &device));
    let model = HeatmapModel { backbone: tiny_backbone(&device), decoder, head, window: Window::single() };
    let mut compared = 0;
    for (info, gradient) in gradients_of(&model, &gradients) {
        if info.group == Group::Decoder && !info.name.contains(".running_") {
            golden.assert_close(
                &format!("grad.{}", info.name),
                &gradient.unwrap_or_else(|| panic!("{} has none", info.name)),
            );
            compared += 1;
        }
    }
    let prefix = format!("{kind}.grad.decoder.");
    assert_eq!(compared, golden.tensors.keys().filter(|name| name.starts_with(&prefix)).count());
}

#[test]
fn the_pyramid_is_that_of_torchvision() {
    equals_pytorch("fpn_sum", &fpn("sum"));
    equals_pytorch("fpn_concat", &fpn("concat"));
}

#[test]
fn branches_exchange_what_they_see_as_in_pytorch() {
    equals_pytorch("hrnet", &hrnet());
}

#[test]
fn the_deformable_encoder_is_that_of_transformers_dropout_included() {
    equals_pytorch("deformable", &deformable());
}

/// Every decoder, on the one level of the tiny vision transformer.
fn on_a_vit() -> [ModelConfig; 5] {
    [
        json!({ "model_name": "vit_unet_heatmap", "unet": { "channels": [8, 12], "convolutions": 2 } }),
        json!({ "model_name": "convnext_fpn_heatmap", "fpn": { "in_channels": [32], "lateral_dim": 8 } }),
        json!({ "model_name": "convnext_fpn_heatmap", "fpn": { "lateral_dim": 8, "fuse": "concat" } }),
        json!({ "model_name": "convnext_hrnet_heatmap", "hrnet": { "widths": [8], "num_units": 1 } }),
        json!({
            "model_name": "convnext_deformable_fpn_heatmap",
            "deformable_encoder": {
                "in_channels": [32], "d_model": 16, "nhead": 2, "num_encoder_layers": 2, "num_feature_levels": 1,
                "lateral_dim": 8
            }
        }),
    ]
    .map(model)
}

#[test]
fn every_decoder_trains_on_a_vision_transformer_and_comes_back_from_its_files() {
    for section in on_a_vit() {
        let dir = tempfile::tempdir().unwrap();
        let name = section.model_name;
        let config = config(dir.path(), section.clone(), training(dir.path(), json!({ "epochs": 1 })));
        let (_, recorder) = run(&config, None, None).unwrap();
        assert!(recorder.losses.len() > 1 && recorder.losses.iter().all(|loss| loss.is_finite()), "{name}");

        let device = Device::flex();
        let (built, _) = build_model(&section, INPUT, 1, &device).unwrap();
        write_head(dir.path(), &built, StoredAs::F32).unwrap();
        let mut again = section.clone();
        again.decoder.pretrained = Some(dir.path().to_path_buf());
        let (loaded, _) = build_model(&again, INPUT, 2, &device).unwrap();
        assert_eq!(
            state_dict(&built, |p| p.group != Group::Backbone),
            state_dict(&loaded, |p| p.group != Group::Backbone)
        );
        let logits = loaded.forward(Tensor::ones([2, 3, INPUT[1], INPUT[0]], &device));
        assert_eq!(logits.dims(), [2, 1, 24, 32], "{name}");
    }
}

/// Fine-tuning as it is begun from a trained decoder: what it says at first is what that says, whoever looks, and only weights move.
#[test]
fn a_frozen_batch_norm_trains_its_weights_on_the_statistics_that_it_came_with() {
    let device = Device::flex().autodiff();
    let unet = |norm: &str| {
        model(
            json!({ "model_name": "vit_unet_heatmap", "unet": { "channels": [8, 12], "convolutions": 2, "norm": norm } }),
        )
    };
    let x = Tensor::random([2, 3, INPUT[1], INPUT[0]], burn::tensor::Distribution::Normal(0.5, 2.0), &device);
    let (pretrained, _) = build_model(&unet("bn"), INPUT, 1, &device).unwrap();
    for _ in 0..3 {
        let _ = pretrained.forward(x.clone());
    }
    let dir = tempfile::tempdir().unwrap();
    write_head(dir.path(), &pretrained, StoredAs::F32).unwrap();

    let mut section = unet("frozen_bn");
    section.decoder.pretrained = Some(dir.path().to_path_buf());
    let (tuned, _) = build_model(&section, INPUT, 1, &device).unwrap();
    let statistics = || state_dict(&tuned, |p| p.name.ends_with("running_mean") || p.name.ends_with("running_var"));
    let before = statistics();
    assert_eq!(before.len(), 2 * 8, "two for each of eight convolutions");
    let logits = tuned.forward(x.clone());
    assert_eq!(statistics(), before);
    let expected = pretrained.valid().forward(x.inner()).into_data();
    assert_data_close("frozen", &logits.clone().into_data(), &expected, 1e-5 * largest(&expected));

    let gradients = gradients_of(&tuned, &logits.square().mean().backward());
    for name in ["decoder.down.0.0.norm.weight", "decoder.up.0.1.norm.bias", "decoder.bottom.0.conv.weight"] {
        let (_, gradient) = gradients.iter().find(|(p, _)| p.name == name).unwrap();
        assert!(gradient.as_ref().is_some_and(|gradient| largest(gradient) > 0.0), "{name}");
    }
}

#[test]
fn a_run_with_dropout_in_the_encoder_goes_on_as_if_it_had_not_been_interrupted() {
    let [.., section] = on_a_vit();
    let dirs = [0, 1].map(|_| tempfile::tempdir().unwrap());
    let [whole, broken] =
        [0, 1].map(|i| config(dirs[i].path(), section.clone(), training(dirs[i].path(), json!({ "epochs": 2 }))));
    let (_, all) = run(&whole, None, None).unwrap();
    let (_, first) = run(&broken, None, Some(3)).unwrap();
    let (_, rest) = run(&broken, Some(&broken.runtime.run_dir()), None).unwrap();
    assert_eq!([first.losses, rest.losses].concat(), all.losses);
}

#[test]
fn sides_that_do_not_halve_evenly_reach_the_heatmap() {
    let device = Device::flex();
    for config in
        [fpn("sum"), fpn("concat"), hrnet(), deformable(), unet(&[4, 6, 8], 1), unet(&[4], 2), unet(&[4, 6], 3)]
    {
        let decoder = build(&config, &RandomSource { seed: 3 }, &device);
        for grids in [[[9, 13], [5, 7], [3, 4]], [[9, 13], [4, 6], [2, 3]], [[3, 3], [1, 1], [1, 1]]] {
            let maps: Vec<_> = grids
                .iter()
                .zip(CHANNELS)
                .map(|([height, width], channels)| Tensor::ones([1, channels, *height, *width], &device))
                .collect();
            let output = decoder.forward(features(&maps), Tensor::zeros([1, 3, 36, 52], &device));
            assert_eq!(output.dims()[2..], [HEATMAP[1], HEATMAP[0]]);
            let values: Vec<f32> = output.into_data().try_to_vec().unwrap();
            assert!(values.iter().all(|value| value.is_finite()), "{}", config.model_name);
        }
        assert!(decoder.activation_elements(&[[9, 13], [5, 7], [3, 4]]) > 9 * 13 * 4);
    }
}

#[test]
fn what_a_backbone_does_not_give_is_said_with_what_it_gives() {
    let refused = |config: &ModelConfig, layout: &Layout| {
        (decoder_of(config.model_name).unwrap().plan)(config, layout, HEATMAP, WindowSpec::SINGLE)
            .unwrap_err()
            .to_string()
    };
    let vit = Layout { levels: vec![LevelLayout { channels: 384, stride: 16 }] };
    let message = refused(&hrnet(), &vit);
    assert_eq!(
        message,
        "model.hrnet.widths: asks for 3 levels, but the backbone gives 1 level of 384 channels at stride 16: make them as \
         many; a vision transformer gives one level, a convolutional backbone those that model.backbone.return_stages names"
    );
    let message = refused(&deformable(), &vit);
    assert!(message.starts_with("model.deformable_encoder.num_feature_levels: asks for 3 levels"), "{message}");

    let mut wrong = fpn("sum");
    wrong.fpn.in_channels = Some(vec![6, 10, 16]);
    assert_eq!(
        refused(&wrong, &layout()),
        "model.fpn.in_channels: is [6, 10, 16], but the backbone gives 3 levels of 6, 10, 12 channels at strides 4, 8, 16: \
         make them equal"
    );
    wrong.fpn.in_channels = Some(vec![6, 10]);
    assert!(refused(&wrong, &layout()).contains("model.backbone.return_stages"));

    let message = refused(&ModelConfig::default(), &layout());
    assert!(message.starts_with("model.backbone.return_stages: the backbone gives 3 levels of 6, 10, 12"), "{message}");
    assert!(message.ends_with("name one stage, such as model.backbone.return_stages: [4]"), "{message}");

    let mut shared = deformable();
    shared.deformable_encoder.nhead = 3;
    assert!(refused(&shared, &layout()).contains("d_model: 8 cannot be shared among"));
    (shared.deformable_encoder.nhead, shared.deformable_encoder.d_model) = (2, 6);
    assert!(refused(&shared, &layout()).contains("d_model: 6 is not a multiple of 4"));
}

#[test]
fn convolutions_of_every_decoder_carry_adapters() {
    let targets = json!([
        "fpn.inner_blocks.0.0",
        "units.0.branch_ops.0.conv",
        "input_proj.0",
        "reduce",
        "query",
        "down.0.1.conv",
        "context"
    ]);
    let expected = [
        vec!["decoder.down.0.1.conv", "decoder.context"],
        vec!["decoder.fpn.inner_blocks.0.0"],
        vec!["decoder.fpn.inner_blocks.0.0", "decoder.reduce"],
        vec!["decoder.units.0.branch_ops.0.conv"],
        vec!["decoder.input_proj.0", "decoder.fpn.inner_blocks.0.0"],
    ];
    for (mut section, expected) in on_a_vit().into_iter().zip(expected) {
        section.lora = model(lora()).lora;
        section.lora.target_modules = Some(serde_json::from_value(targets.clone()).unwrap());
        let (built, _) = build_model(&section, INPUT, 1, &Device::flex()).unwrap();
        let mut adapted = Vec::new();
        built.visit_layers(&mut |path, layer| {
            if path.starts_with("decoder.") && layer.adapter().is_some() {
                adapted.push(path.to_owned());
            }
        });
        assert_eq!(adapted, expected);
        let names = named_parameters(&built);
        assert!(names.iter().any(|p| p.name == format!("{}.lora_A.weight", expected[0])), "{expected:?}");
    }
}

#[test]
fn the_slim_path_sees_every_frame_of_a_window_and_what_the_backbone_knows() {
    let device = Device::flex();
    let config = unet(&[4, 6], 2);
    let (temporal, input, heatmaps) = (Temporal::Stack, TemporalInput::Stem, HeatmapFrames::Last);
    let window = WindowSpec { frames: 2, temporal, input, heatmaps };
    let spec = (decoder_of(config.model_name).unwrap().plan)(&config, &layout(), HEATMAP, window).unwrap();
    let decoder = spec.build(&Builder::new(&RandomSource { seed: 3 }, &device).at("decoder"));
    let run = |context: f32, frames: [u64; 2]| {
        let maps: Vec<_> =
            CHANNELS.iter().map(|&channels| Tensor::full([1, channels, 2, 3], context, &device)).collect();
        let frame = |seed: u64| {
            let values = (0..3 * 32 * 48_u64).map(|i| ((i * 7919 + seed * 613) % 1009) as f32 / 500.0 - 1.0).collect();
            Tensor::<4>::from_data(TensorData::new(values, [1, 3, 32, 48]), &device)
        };
        let window = Tensor::cat(frames.map(frame).to_vec(), 1);
        decoder.forward(features(&maps), window).into_data()
    };
    let both = run(1.0, [1, 2]);
    assert_eq!(both, run(1.0, [1, 2]));
    for (what, other) in [("context", run(2.0, [1, 2])), ("first", run(1.0, [3, 2])), ("last", run(1.0, [1, 3]))] {
        assert!(crate::common::largest_difference(&other, &both) > 1e-2, "{what}");
    }
}

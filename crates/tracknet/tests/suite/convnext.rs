//! DINOv3 ConvNeXt from end to end: against `transformers` and PEFT, in 4 bits, trained and resumed, and what is refused.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::json;
use tracknet::artifacts::adapter::{load_adapter, write_adapter};
use tracknet::artifacts::pretrained::bnb::{QuantizeJob, quantize_checkpoint};
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::artifacts::pretrained::{StoredAs, write_backbone, write_packed_backbone};
use tracknet::artifacts::{build_backbone, build_model, load_model_for_inference};
use tracknet::config::{LoraConfig, ModelConfig, QuantizationConfig, TargetModules};
use tracknet::files::Destination;
use tracknet::inspect::Inspection;
use tracknet::models::backbones::BackboneSpec;
use tracknet::models::lora::{MergeInto, merge_adapters};
use tracknet::models::nn::{Builder, RandomSource};
use tracknet::models::registry::describe_backbone;
use tracknet::models::state::{Group, ParameterInfo, named_parameters};
use tracknet::models::{Backbone, HeatmapModel, VisitLayers, apply_quantization};
use tracknet_kernels::{ComputeDtype, QuantizeOptions};

use crate::common::{assert_close, backbone, fixture, gradients_of, largest, largest_difference, pixels, tensors};
use crate::training_support::{config, resumes_to_the_bit, run, training};

const NAME: &str = "dinov3_convnext_tiny";
/// Of the largest value: f32 sums in another order through a few layers.
const TOLERANCE: f32 = 1e-4;

fn load(device: &Device) -> Backbone {
    backbone(&fixture(NAME), device).unwrap()
}

fn square(device: &Device) -> Tensor<4> {
    pixels(device).slice([0..2, 0..3, 0..64, 0..64])
}

fn tokens(backbone: &Backbone) -> TensorData {
    backbone.tokens(pixels(&Device::flex())).into_data()
}

fn describe(json: serde_json::Value) -> Result<Arc<dyn BackboneSpec>, String> {
    let mut config = json.as_object().unwrap().clone();
    config.insert("model_type".to_owned(), json!("dinov3_convnext"));
    describe_backbone(&config, "config.json").map(|(spec, _)| spec).map_err(|e| e.to_string())
}

fn tiny() -> Arc<dyn BackboneSpec> {
    describe(json!({ "hidden_sizes": [4, 6, 8], "depths": [1, 2, 1] })).unwrap()
}

fn random(spec: Arc<dyn BackboneSpec>, device: &Device) -> Backbone {
    Backbone::new(spec, &Builder::new(&RandomSource { seed: 3 }, device))
}

#[test]
fn every_stage_and_the_tokens_are_those_of_transformers() {
    let expected = tensors(&fixture(NAME).join("io.safetensors"));
    for device in [crate::common::device(), crate::common::device().autodiff()] {
        let convnext = load(&device);
        let features = convnext.forward(pixels(&device), None);
        assert_eq!(features.levels.iter().map(|level| level.stride).collect::<Vec<_>>(), [4, 8, 16, 32]);
        for (i, level) in features.levels.into_iter().enumerate() {
            let want = &expected[&format!("hidden_states.{}", i + 1)];
            assert_close(&format!("stage {}", i + 1), level.map, want, TOLERANCE * largest(want));
        }
        let want = &expected["last_hidden_state"];
        assert_close("tokens", convnext.tokens(pixels(&device)), want, TOLERANCE * largest(want));
    }
}

#[test]
fn chosen_stages_are_returned_alone_and_stages_below_them_get_no_gradient() {
    let device = Device::flex().autodiff();
    let whole = random(tiny(), &device);
    let some = random(tiny().with_stages(&[1, 2]).unwrap().unwrap(), &device);
    let [all, two] = [&whole, &some].map(|backbone| backbone.forward(pixels(&device), None).levels);
    assert_eq!((all.len(), two.len()), (3, 2));
    for (a, b) in all.into_iter().zip(&two) {
        assert!(a.stride == b.stride && a.map.into_data() == b.map.clone().into_data());
    }
    let gradients =
        two.into_iter().map(|level| level.map.square().mean()).fold(Tensor::zeros([1], &device), |a, b| a + b);
    let found = gradients_of(&some, &gradients.backward()).into_iter();
    let without: Vec<String> = found.filter(|(_, gradient)| gradient.is_none()).map(|(info, _)| info.name).collect();
    let beyond = |name: &str| name.starts_with("stages.2.") || name.starts_with("layer_norm.");
    let names = named_parameters(&some).into_iter().map(|p| p.name);
    assert_eq!(without, names.filter(|name| beyond(name)).collect::<Vec<_>>());
}

#[test]
fn sizes_that_are_no_multiples_of_the_strides_are_cut_as_by_the_convolutions() {
    let device = Device::flex();
    let spec = tiny();
    let backbone = random(spec.clone(), &device);
    let [width, height] = [43, 38];
    spec.check_input([width, height]).unwrap();
    let images = pixels(&device).slice([0..2, 0..3, 0..height, 0..width]);
    let levels = backbone.forward(images.clone(), None).levels;
    let grids: Vec<[usize; 2]> = levels.iter().map(|level| [level.map.dims()[2], level.map.dims()[3]]).collect();
    assert_eq!(grids, [[9, 10], [4, 5], [2, 2]]);
    assert_eq!(grids, spec.layout().grids([width, height]));
    let first = images.slice([0..2, 0..3, 0..36, 0..40]);
    assert!(levels[0].map.clone().into_data() == backbone.forward(first, None).levels[0].map.clone().into_data());
    let message = spec.check_input([64, 15]).unwrap_err().to_string();
    assert!(message.contains("data.preprocess.resize: [64, 15]") && message.contains("at least 16"), "{message}");
}

#[test]
fn what_cannot_work_is_refused_by_key() {
    for (json, expected) in [
        (json!({ "hidden_sizes": [8, 16] }), "config.json.depths: has 4 stages, but hidden_sizes has 2"),
        (json!({ "hidden_sizes": [], "depths": [] }), "config.json.hidden_sizes: has 0 stages, expected 1 to 8"),
        (json!({ "hidden_sizes": [8, 0, 8, 8] }), "config.json.hidden_sizes: holds 0, expected whole numbers"),
        (json!({ "depths": [1, 1, 1, 1_u64 << 40] }), "config.json.depths: holds 1099511627776"),
        (json!({ "hidden_sizes": 96 }), "config.json.hidden_sizes: is `96`, expected a list of whole numbers"),
        (json!({ "layer_norm_eps": 0 }), "config.json.layer_norm_eps: is 0"),
        (json!({ "layer_scale_init_value": -1 }), "config.json.layer_scale_init_value: is -1"),
        (json!({ "hidden_act": "mish" }), "config.json.hidden_act: `mish` is not known"),
        (json!({ "num_channels": 4 }), "config.json.num_channels: is `4`, expected 3"),
        (
            json!({ "hidden_sizes": [16384, 16384, 16384, 16384], "depths": [9, 9, 9, 9] }),
            "at most 17179869184 are built",
        ),
    ] {
        let message = describe(json).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
    for stages in [&[][..], &[0, 1], &[2, 1], &[1, 1], &[1, 4]] {
        let message = tiny().with_stages(stages).unwrap_err().to_string();
        assert!(message.starts_with("model.backbone.return_stages: is "), "{message}");
        assert!(message.contains("3 (stride 16, 8 channels)"), "{message}");
    }
}

/// Names in memory, as `state_dict` has them, under the module of a larger program and under none; and those of files below
/// `model.`.
#[test]
fn names_of_files_and_of_memory_are_read_under_any_prefix() {
    let expected = tokens(&load(&Device::flex()));
    let stored = read_all(&fixture(NAME).join("model.safetensors")).unwrap();
    let memory = |name: &str| if name.starts_with("stages") { format!("model.{name}") } else { name.to_owned() };
    for rename in [
        Box::new(memory) as Box<dyn Fn(&str) -> String>,
        Box::new(move |name| format!("backbone.{}", memory(name))),
        Box::new(|name| format!("backbone.{name}")),
        Box::new(|name| format!("model.{name}")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::copy(fixture(NAME).join("config.json"), dir.path().join("config.json")).unwrap();
        let renamed: BTreeMap<_, _> = stored.iter().map(|(name, data)| (rename(name), data.clone())).collect();
        write_tensors(&dir.path().join("model.safetensors"), renamed, StoredAs::F32).unwrap();
        assert!(tokens(&backbone(dir.path(), &Device::flex()).unwrap()) == expected, "{}", rename("stages.0"));
    }
}

#[test]
fn an_adapter_of_peft_gives_its_output_merges_and_comes_back_byte_for_byte() {
    let adapter = fixture("peft_convnext");
    let (convnext, report) = load_adapter(&adapter, load(&Device::flex())).unwrap();
    let expected = tensors(&adapter.join("io.safetensors"));
    let close = |what: &str, backbone: &Backbone, want: &TensorData| {
        assert_close(what, backbone.tokens(square(&Device::flex())), want, TOLERANCE * largest(want));
    };
    close("adapter", &convnext, &expected["last_hidden_state"]);
    close(
        "merged",
        &merge_adapters(convnext.clone(), MergeInto::Float).unwrap(),
        &expected["last_hidden_state_merged"],
    );
    let adapted = report.adapted.iter().map(|layer| layer.path.as_str()).collect::<Vec<_>>();
    assert!(adapted.contains(&"stages.0.layers.0.pointwise_conv1"), "{adapted:?}");
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &convnext, &report.peft).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        assert!(fs::read(dir.path().join(file)).unwrap() == fs::read(adapter.join(file)).unwrap(), "{file}");
    }
}

/// The layers that a list of targets, and numbers of layers, mean.
fn adapted(lora: LoraConfig) -> Vec<String> {
    let lora = LoraConfig { enabled: true, r: 2, ..lora };
    let source = fixture(NAME).display().to_string();
    let (backbone, _) = build_backbone(&source, &lora, &QuantizationConfig::default(), &Device::flex()).unwrap();
    let mut found = Vec::new();
    backbone.visit_layers(&mut |path, layer| found.extend(layer.adapter().map(|_| path.to_owned())));
    found
}

#[test]
fn targets_are_found_by_the_names_of_peft_and_by_the_short_one() {
    let of = |list: &[&str]| {
        let list = list.iter().map(|name| (*name).to_owned()).collect();
        LoraConfig { target_modules: Some(TargetModules::List(list)), ..LoraConfig::default() }
    };
    let every = adapted(LoraConfig::default());
    assert_eq!(every.len(), 8);
    assert_eq!(adapted(of(&["pointwise_conv1", "pointwise_conv2"])), every);
    assert_eq!(adapted(of(&["query", "dense"])), every);
    assert_eq!(adapted(of(&["layers.0.pointwise_conv1"])).len(), 4);
    let one = ["stages.2.layers.0.pointwise_conv2"];
    assert_eq!(adapted(of(&["model.stages.2.layers.0.pointwise_conv2"])), one);
    assert_eq!(adapted(of(&["stages.0.downsample_layers.0"])), ["stages.0.downsample_layers.0"]);
    // As PEFT, which counts the first number of the path in memory: that of the stage.
    let last = LoraConfig { layers_to_transform: Some(vec![3]), ..of(&["pointwise_conv2"]) };
    assert_eq!(adapted(last), ["stages.3.layers.0.pointwise_conv2"]);
}

#[test]
fn four_bits_are_the_same_from_a_checkpoint_and_from_a_model_that_packs_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (path, own) = (dir.path().join("q"), dir.path().join("own"));
    let job =
        QuantizeJob { options: QuantizeOptions::default(), compute_dtype: ComputeDtype::F32, skip_modules: Vec::new() };
    let report = quantize_checkpoint(&fixture(NAME), &Destination::new_directory(&path), &job).unwrap();
    assert_eq!(report.layers.len(), 8);
    let stored = backbone(&path, &Device::flex()).unwrap();
    let section = serde_json::from_value(json!({ "enabled": true, "compute_dtype": "float32" })).unwrap();
    let (packed, _) = apply_quantization(load(&Device::flex()), &section).unwrap();
    assert!(stored.is_quantized() && tokens(&stored) == tokens(&packed));
    let apart = largest_difference(&tokens(&stored), &tokens(&load(&Device::flex())));
    assert!(apart > 1e-3 && apart < 1.0, "{apart}");
    write_packed_backbone(&own, &stored, StoredAs::F32).unwrap();
    for file in ["model.safetensors", "config.json"] {
        assert!(fs::read(own.join(file)).unwrap() == fs::read(path.join(file)).unwrap(), "{file}");
    }
    let text = Inspection::of(&path).unwrap().to_string();
    assert!(text.contains("dinov3_convnext") && text.contains("[16,32,64,128]"), "{text}");
}

#[test]
fn a_backbone_is_written_as_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    write_backbone(dir.path(), &load(&Device::flex()), StoredAs::F32).unwrap();
    let [again, before] = [dir.path(), &fixture(NAME)].map(|dir| read_all(&dir.join("model.safetensors")).unwrap());
    assert!(again == before);
    let read = |dir: &Path| -> serde_json::Value {
        serde_json::from_str(&fs::read_to_string(dir.join("config.json")).unwrap()).unwrap()
    };
    assert_eq!(read(dir.path()), read(&fixture(NAME)));
}

/// LoRA on 4-bit weights, with the decoder of one level on the third stage.
fn qlora() -> ModelConfig {
    crate::training_support::model(json!({
        "backbone": { "architecture": null, "return_stages": [3] },
        "pretrained_model_name": fixture(NAME),
        "decoder": { "channels": [64, 16, 8], "upsample": [2, 2] },
        "lora": { "enabled": true, "r": 2, "lora_alpha": 4.0, "lora_dropout": 0.1 },
        "quantization": { "enabled": true, "compute_dtype": "float32" }
    }))
}

#[test]
fn adapters_of_stages_that_are_not_computed_do_not_train_and_are_not_counted() {
    let built = |stages: [usize; 1], channels: usize| {
        let mut section = qlora();
        section.backbone.return_stages = stages.to_vec();
        section.decoder.channels[0] = channels;
        build_model(&section, [64, 48], 1, &Device::flex().autodiff()).unwrap()
    };
    let (model, report) = built([3], 64);
    let adapters: Vec<_> = named_parameters(&model).into_iter().filter(|p| p.group == Group::Adapter).collect();
    assert_eq!(adapters.len(), 16);
    for p in &adapters {
        assert_eq!(p.trainable, !p.name.starts_with("backbone.stages.3."), "{}", p.name);
    }
    let trained = named_parameters(&model).iter().filter(|p| p.trainable).map(ParameterInfo::count).sum::<usize>();
    assert_eq!(report.memory.trainable, trained);
    assert!(report.to_string().contains("2 of the adapted modules are in stages after the last one"), "{report}");
    let (_, report) = built([4], 128);
    assert!(!report.to_string().contains("of the adapted modules"), "{report}");
}

#[test]
fn lora_on_four_bits_trains_resumes_to_the_bit_merges_and_exports() {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| config(dir.path(), qlora(), training(&dir.path().join(name), json!({ "epochs": 2 })));
    let (whole, recorder) = run(&of("whole"), None, None).unwrap();
    assert!(recorder.losses.len() == 8 && recorder.losses.iter().all(|loss| loss.is_finite()), "{:?}", recorder.losses);
    resumes_to_the_bit(&of("stopped"), 3, &whole);
    let names = read_all(&whole.paths.root.join("checkpoints/last/adapter/adapter_model.safetensors")).unwrap();
    assert!(names.contains_key("base_model.model.model.stages.0.layers.0.pointwise_conv1.lora_A.weight"), "{names:?}");
    // PEFT finds adapters on every linear layer; those of the last stage, which is not computed, stay as they began.
    assert_eq!(names.len(), 16);
    let moved = |stage: usize| {
        largest(&names[&format!("base_model.model.model.stages.{stage}.layers.0.pointwise_conv1.lora_B.weight")])
    };
    assert!(moved(2) > 0.0 && moved(3) == 0.0);

    let model = load_model_for_inference(&whole.paths.root, None, &Device::flex()).unwrap().model;
    let logits = |model: &HeatmapModel| model.forward(pixels(&Device::flex())).into_data();
    let (plain, merged) = (logits(&model), logits(&merge_adapters(model.clone(), MergeInto::Float).unwrap()));
    assert!(largest_difference(&plain, &merged) < TOLERANCE * largest(&plain));
    let merged = merge_adapters(model.backbone.clone(), MergeInto::Float).unwrap();
    let floats = tracknet::models::quantization::dequantize(merged);
    let exported = dir.path().join("exported");
    write_backbone(&exported, &floats, StoredAs::F32).unwrap();
    let apart = largest_difference(&tokens(&backbone(&exported, &Device::flex()).unwrap()), &tokens(&model.backbone));
    assert!(apart < TOLERANCE * largest(&tokens(&floats)), "{apart}");
}

#[test]
fn a_model_from_an_inline_architecture_trains_every_weight_that_is_computed_and_says_what_it_takes() {
    let model = crate::training_support::model(json!({
        "backbone": { "freeze": false, "return_stages": [2], "architecture": crate::training_support::convnext([1, 2]) },
        "decoder": { "channels": [16, 8], "upsample": [2] }
    }));
    let device = Device::flex().autodiff();
    let (built, report) = build_model(&model, [64, 48], 1, &device).unwrap();
    assert!(report.to_string().contains("random weights (dinov3_convnext)"), "{report}");
    for p in named_parameters(&built) {
        assert_eq!(p.trainable, !p.name.starts_with("backbone.layer_norm."), "{}", p.name);
    }
    assert_eq!(built.forward(pixels(&device)).dims(), [2, 1, 24, 32]);
    let valid = built.valid();
    let [frozen, trained] =
        [false, true].map(|trains| valid.backbone.activation_bytes([64, 48], trains, false, &device));
    // Stage 1 has 192 cells of 8 channels in one layer, stage 2 has 48 of 16 in two.
    assert_eq!((frozen, trained), (4 * 192 * 8 * 14, 4 * (192 * 8 + 2 * 48 * 16) * 14));

    let dir = tempfile::tempdir().unwrap();
    let (report, _) =
        run(&config(dir.path(), model, training(dir.path(), json!({ "epochs": 1 }))), None, None).unwrap();
    let checkpoint = load_model_for_inference(&report.paths.root, None, &Device::flex()).unwrap().model;
    let changed = |name: &str| {
        let [before, after] = [&valid, &checkpoint]
            .map(|m| tracknet::models::state::state_dict(m, |p| p.name == name && p.group == Group::Backbone));
        before != after
    };
    assert!(changed("backbone.stages.0.layers.0.depthwise_conv.weight") && changed("backbone.stages.1.layers.1.gamma"));
}

/// Without LoRA, with a backbone that trains from the start and with one that is unfrozen after an epoch.
#[test]
fn a_run_that_trains_the_backbone_goes_on_after_an_interruption_without_the_stages_that_are_not_computed() {
    for (freeze, wait) in [(false, 0), (true, 1)] {
        let model = crate::training_support::model(json!({
            "backbone": { "freeze": freeze, "return_stages": [1], "architecture": crate::training_support::convnext([1, 1]) },
            "decoder": { "channels": [8, 8], "upsample": [1] }
        }));
        let dir = tempfile::tempdir().unwrap();
        let of = |name: &str| {
            let section = json!({ "epochs": 2, "backbone_freeze_epochs": wait });
            config(dir.path(), model.clone(), training(&dir.path().join(name), section))
        };
        let (whole, all) = run(&of("whole"), None, None).unwrap();
        let (stopped, first) = run(&of("stopped"), None, Some(5)).unwrap();
        let (resumed, rest) = run(&of("stopped"), Some(&stopped.paths.root), None).unwrap();
        assert_eq!([first.losses, rest.losses].concat(), all.losses);
        let optimizer = |run: &Path| read_all(&run.join("checkpoints/last/optimizer.safetensors")).unwrap();
        let (of_whole, of_resumed) = (optimizer(&whole.paths.root), optimizer(&resumed.paths.root));
        assert!(of_whole == of_resumed);
        let of_stage = |stage: &str| of_whole.keys().any(|name| name.contains(stage));
        assert!(of_stage("stages.0.") && !of_stage("stages.1."), "{:?}", of_whole.keys());
    }
}

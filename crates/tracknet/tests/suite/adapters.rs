//! Adapters of every variant from end to end: built, trained on, written, read, merged, converted; and hostile files.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use proptest::prelude::*;
use tracknet::artifacts::adapter::{AdapterFile, compare_adapters, convert_adapter, load_adapter, write_adapter};
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::artifacts::pretrained::{StoredAs, write_head};
use tracknet::artifacts::{build_backbone, build_model};
use tracknet::config::{Bias, DtypeName, InitMethod, LoraConfig, ModelConfig, Pattern, QuantMode, TargetModules};
use tracknet::models::lora::{MergeInto, layer_status, merge_adapters, unmerge_adapters};
use tracknet::models::state::{Group, ParameterInfo, named_parameters, state_dict};
use tracknet::models::{HeatmapModel, MemoryReport, VisitLayers};

use crate::common::{fixture, largest_difference};
use crate::training_support::{INPUT, model};

const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// The tiny DINOv3 of the fixtures, with a small decoder.
fn pretrained(lora: LoraConfig) -> ModelConfig {
    let mut config = model(serde_json::json!({}));
    config.pretrained_model_name = Some(fixture("dinov3_tiny").display().to_string());
    config.backbone.architecture = None;
    config.decoder.channels = vec![64, 16, 8];
    ModelConfig { lora, ..config }
}

fn lora() -> LoraConfig {
    LoraConfig { enabled: true, r: 4, lora_alpha: 6.0, lora_dropout: 0.0, ..LoraConfig::default() }
}

fn packed(config: ModelConfig) -> ModelConfig {
    let mut config = config;
    config.quantization.enabled = true;
    config.quantization.compute_dtype = DtypeName::Float32;
    config
}

fn build(config: &ModelConfig, device: &Device) -> HeatmapModel {
    build_model(config, INPUT, 5, device).unwrap().0
}

fn frames(device: &Device) -> Tensor<4> {
    let values: Vec<f32> = (0..2 * 3 * 48 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 40.0).collect();
    Tensor::from_data(TensorData::new(values, [2, 3, 48, 64]), device)
}

fn difference(a: &HeatmapModel, b: &HeatmapModel) -> f32 {
    let device = Device::flex();
    let tokens = |m: &HeatmapModel| m.backbone.tokens(frames(&device)).into_data();
    largest_difference(&tokens(a), &tokens(b))
}

#[test]
fn every_start_leaves_the_model_as_it_was_but_the_one_that_says_so() {
    let device = Device::flex();
    let plain = build(&pretrained(LoraConfig::default()), &device);
    for init_lora_weights in
        [InitMethod::Kaiming, InitMethod::Gaussian, InitMethod::Orthogonal, InitMethod::Olora, InitMethod::Pissa]
    {
        for use_dora in [false, true] {
            let adapted = build(&pretrained(LoraConfig { init_lora_weights, use_dora, ..lora() }), &device);
            // f32 products in another order, and matrices that were rounded.
            let apart = difference(&plain, &adapted);
            assert!(apart < 1e-4, "{init_lora_weights}, dora {use_dora}: {apart}");
        }
    }
    let random = build(&pretrained(LoraConfig { init_lora_weights: InitMethod::Random, ..lora() }), &device);
    assert!(difference(&plain, &random) > 1e-2);
}

#[test]
fn loftq_and_pissa_bring_a_packed_model_nearer_to_the_float_one() {
    let device = Device::flex();
    let float = build(&pretrained(LoraConfig::default()), &device);
    let distance = |init_lora_weights| {
        let config = packed(pretrained(LoraConfig { init_lora_weights, r: 16, ..lora() }));
        difference(&float, &build(&config, &device))
    };
    let plain = distance(InitMethod::Kaiming);
    for method in [InitMethod::Loftq, InitMethod::Pissa] {
        let near = distance(method);
        // Weights of the fixture are random: a quarter of their rank holds little of what was lost.
        assert!(near < 0.95 * plain, "{method}: {near} after {plain}");
    }
}

#[test]
fn starts_that_need_float_weights_are_refused_without_them() {
    let refused = |config: &ModelConfig, parts: &[&str]| {
        let message = build_model(config, INPUT, 5, &Device::flex()).unwrap_err().to_string();
        parts.iter().for_each(|part| assert!(message.contains(part), "{part}: {message}"));
    };
    let mut config = packed(pretrained(LoraConfig { init_lora_weights: InitMethod::Pissa, ..lora() }));
    config.quantization.mode = QuantMode::Hf;
    refused(&config, &["lora.init_lora_weights", "pissa", "manual"]);
    refused(&pretrained(LoraConfig { init_lora_weights: InitMethod::Loftq, ..lora() }), &["loftq", "quantization"]);
    refused(&pretrained(LoraConfig { init_lora_weights: InitMethod::Olora, r: 65, ..lora() }), &["at most 64", "65"]);
    let saved = LoraConfig { modules_to_save: Some(vec!["layer.0.mlp.up_proj".to_owned()]), ..lora() };
    refused(&packed(pretrained(saved)), &["lora.modules_to_save", "layer.0.mlp.up_proj", "skip_modules"]);
}

/// Everything at once: DoRA, rsLoRA, patterns, biases, a whole module, convolutions of the decoder.
fn everything() -> LoraConfig {
    LoraConfig {
        use_dora: true,
        use_rslora: true,
        bias: Bias::LoraOnly,
        target_modules: Some(TargetModules::List(
            ["query", "up_proj", "decoder.stages.0.proj", "stages.1.blocks.0.pw"].map(str::to_owned).to_vec(),
        )),
        rank_pattern: Pattern(vec![("q_proj".to_owned(), 2)]),
        alpha_pattern: Pattern(vec![("layer.1.mlp.up_proj".to_owned(), 3.0)]),
        modules_to_save: Some(vec!["norm".to_owned()]),
        lora_dropout: 0.1,
        ..lora()
    }
}

fn everything_with_dense_convolutions() -> ModelConfig {
    let mut config = pretrained(everything());
    config.decoder.use_depthwise = false;
    if let Some(TargetModules::List(list)) = &mut config.lora.target_modules {
        list.push("stages.0.blocks.0.dw".to_owned());
    }
    config
}

#[test]
fn what_trains_is_named_counted_and_nothing_else() {
    let (model, report) =
        build_model(&everything_with_dense_convolutions(), INPUT, 5, &Device::flex().autodiff()).unwrap();
    let lora = report.lora.unwrap();
    assert_eq!(lora.adapted.len(), 2 + 2 + 3);
    let parameters = named_parameters(&model.valid().train());
    let of = |name: &str| parameters.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("{name}"));
    for (name, shape, group) in [
        ("backbone.layer.0.attention.q_proj.lora_A.weight", vec![2, 64], Group::Adapter),
        ("backbone.layer.1.mlp.up_proj.lora_magnitude_vector", vec![128], Group::Adapter),
        ("backbone.layer.1.mlp.up_proj.bias", vec![128], Group::Backbone),
        ("backbone.norm.weight", vec![64], Group::Backbone),
        ("decoder.stages.0.proj.lora_B.weight", vec![16, 4], Group::Decoder),
        ("decoder.stages.0.blocks.0.dw.lora_A.weight", vec![4, 16 * 9], Group::Decoder),
        ("decoder.stages.0.blocks.0.dw.lora_magnitude_vector", vec![16], Group::Decoder),
        ("decoder.stages.0.blocks.0.pw.weight", vec![16, 16, 1, 1], Group::Decoder),
    ] {
        let found = of(name);
        assert!(found.trainable && found.shape == shape && found.group == group, "{found:?}");
    }
    for name in ["decoder.stages.0.proj.weight", "decoder.stages.0.blocks.0.dw.weight", "backbone.layer.0.norm1.bias"] {
        assert!(!of(name).trainable, "{name}");
    }
    let trainable: usize = parameters.iter().filter(|p| p.trainable).map(ParameterInfo::count).sum();
    assert_eq!(MemoryReport::of(&model).trainable, trainable);
    let adapters = parameters.iter().filter(|p| p.name.contains(".lora_"));
    let counted: usize = lora.adapted.iter().map(|m| m.parameters()).sum();
    assert_eq!(adapters.map(ParameterInfo::count).sum::<usize>(), counted);
}

#[test]
fn a_convolution_merges_to_what_it_computed_with_its_adapter() {
    let device = Device::flex();
    for dora in [false, true] {
        let mut config = everything_with_dense_convolutions();
        (config.lora.use_dora, config.lora.init_lora_weights) = (dora, InitMethod::Random);
        // The skip of the frame's own features reads one adapted convolution in two parts.
        for skip in [false, true] {
            config.decoder.skip = skip;
            config.decoder.upsample = vec![4, 2];
            let model = build(&config, &device);
            let logits = |m: &HeatmapModel| m.forward(frames(&device)).into_data();
            let merged = merge_adapters(model.clone(), MergeInto::Float).unwrap();
            // Sums of a few hundred f32 products in another order.
            assert!(largest_difference(&logits(&model), &logits(&merged)) < 1e-4, "dora {dora}, skip {skip}");
            let status = layer_status(&merged);
            assert!(
                status.iter().any(|l| l.kind == "conv 3x3" && l.adapter.is_some_and(|a| a.merged && a.dora == dora))
            );
            let back = unmerge_adapters(merged).unwrap();
            for (name, want) in state_dict(&model, |p| p.name.ends_with(".weight")) {
                let got = &state_dict(&back, |p| p.name == name)[&name];
                assert!(largest_difference(got, &want) < 1e-5, "{name}");
            }
        }
    }
}

#[test]
fn a_depthwise_convolution_cannot_be_adapted() {
    let targets = Some(TargetModules::List(vec!["stages.0.blocks.0.dw".to_owned()]));
    let config = pretrained(LoraConfig { target_modules: targets, ..lora() });
    let message = build_model(&config, INPUT, 5, &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("stages.0.blocks.0.dw") && message.contains("decoder.stages.*.proj"), "{message}");
}

#[test]
fn a_run_with_every_option_resumes_to_the_weights_of_the_unbroken_one_and_is_read_back() {
    every_option(|model| model);
}

#[test]
fn a_packed_run_with_every_option_does_so_too() {
    every_option(packed);
}

fn every_option(store: fn(ModelConfig) -> ModelConfig) {
    let root = tempfile::tempdir().unwrap();
    let all = |name: &str| {
        let training = crate::training_support::training(&root.path().join(name), serde_json::json!({}));
        crate::training_support::config(root.path(), store(everything_with_dense_convolutions()), training)
    };
    let (unbroken, _) = crate::training_support::run(&all("a"), None, None).unwrap();
    let broken = all("b");
    let (stopped, _) = crate::training_support::run(&broken, None, Some(3)).unwrap();
    let (resumed, _) = crate::training_support::run(&broken, Some(&stopped.paths.root), None).unwrap();
    let state = |model: &HeatmapModel| state_dict(model, |_| true);
    assert!(state(&unbroken.model) == state(&resumed.model), "the resumed run differs");

    let untrained = all("c");
    let seed = untrained.training.seed;
    let start = state(&build_model(&untrained.model, INPUT, seed, &Device::flex()).unwrap().0);
    let trained = state(&unbroken.model);
    for name in [
        "backbone.layer.0.attention.q_proj.lora_magnitude_vector",
        "backbone.layer.0.attention.q_proj.bias",
        "backbone.norm.weight",
        "decoder.stages.0.proj.lora_A.weight",
        "decoder.stages.0.proj.lora_magnitude_vector",
    ] {
        assert!(start[name] != trained[name], "{name} did not train");
    }
    // A packed weight is no parameter.
    let frozen =
        ["backbone.layer.0.attention.q_proj.weight", "decoder.stages.0.proj.weight", "backbone.layer.0.norm1.bias"];
    for name in frozen.into_iter().filter(|name| start.contains_key(*name)) {
        assert!(start[name] == trained[name], "{name} changed");
    }

    let loaded =
        tracknet::artifacts::load_model_for_inference(&unbroken.paths.root, None, &Device::flex()).unwrap().model;
    assert!(state(&loaded) == trained, "what was read is not what was trained");
    // The directory holds all that the backbone needs: the adapter alone gives the same features.
    let adapter = unbroken.paths.best().join("adapter");
    let from = LoraConfig { enabled: true, adapter: Some(adapter), ..LoraConfig::default() };
    assert!(difference(&build(&store(pretrained(from)), &Device::flex()), &loaded) == 0.0);
}

#[test]
fn a_run_with_adapters_on_the_decoder_alone_is_read_back() {
    let root = tempfile::tempdir().unwrap();
    let targets = Some(TargetModules::List(vec!["decoder.stages.0.proj".to_owned()]));
    let section = pretrained(LoraConfig { target_modules: targets, ..lora() });
    let training = crate::training_support::training(&root.path().join("out"), serde_json::json!({ "epochs": 1 }));
    let (report, _) =
        crate::training_support::run(&crate::training_support::config(root.path(), section, training), None, None)
            .unwrap();
    assert!(!report.paths.best().join("adapter").exists(), "nothing of it belongs to the backbone");
    let loaded =
        tracknet::artifacts::load_model_for_inference(&report.paths.root, None, &Device::flex()).unwrap().model;
    assert!(state_dict(&loaded, |_| true) == state_dict(&report.model, |_| true));
}

#[test]
fn an_adapter_is_trained_on_from_a_directory_and_keeps_what_the_file_said() {
    let root = tempfile::tempdir().unwrap();
    let adapter = root.path().join("peft");
    fs::create_dir(&adapter).unwrap();
    FILES.iter().for_each(|file| {
        fs::copy(fixture("peft_pattern").join(file), adapter.join(file)).unwrap();
    });
    let path = adapter.join(FILES[0]);
    let text = fs::read_to_string(&path).unwrap().replacen('{', "{\n  \"of_tomorrow\": 1,", 1);
    fs::write(&path, text).unwrap();
    let section = pretrained(LoraConfig { enabled: true, adapter: Some(adapter.clone()), ..LoraConfig::default() });
    let training = crate::training_support::training(&root.path().join("out"), serde_json::json!({}));
    let config = crate::training_support::config(root.path(), section, training);
    let (stopped, _) = crate::training_support::run(&config, None, Some(3)).unwrap();
    // Neither resuming nor predicting needs the directory the run began with.
    fs::remove_dir_all(&adapter).unwrap();
    let (report, _) = crate::training_support::run(&config, Some(&stopped.paths.root), None).unwrap();
    let written = AdapterFile::read(&report.paths.best().join("adapter"), crate::common::paths("dinov3_tiny")).unwrap();
    assert_eq!(written.config.unknown_keys(), ["of_tomorrow"]);
    assert_eq!(written.config.lora.rank_pattern.0.len(), 2);
    let began = AdapterFile::read(&fixture("peft_pattern"), crate::common::paths("dinov3_tiny")).unwrap();
    assert_eq!(compare_adapters(&began, &written).unwrap().tensors.len(), 12, "every module trained");
    tracknet::artifacts::load_model_for_inference(&report.paths.root, None, &Device::flex()).unwrap();
}

/// A model with the start `method`, trained a little: its matrices are no more those of the start.
fn moved(method: InitMethod, rslora: bool) -> (HeatmapModel, tempfile::TempDir) {
    let config = pretrained(LoraConfig { init_lora_weights: method, use_rslora: rslora, ..lora() });
    let (mut model, report) = build_model(&config, INPUT, 5, &Device::flex()).unwrap();
    model.visit_layers_mut(&mut |_, layer| {
        if let Some(adapter) = layer.adapter_mut() {
            adapter.a = adapter.a.clone().map(|a| a.mul_scalar(1.3));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &model.backbone, &report.lora.unwrap().peft).unwrap();
    (model, dir)
}

#[test]
fn an_adapter_that_changed_its_base_loads_with_that_base_and_converts_to_a_plain_one() {
    let device = Device::flex();
    let name = fixture("dinov3_tiny").display().to_string();
    for (method, rslora) in [(InitMethod::Pissa, false), (InitMethod::Olora, true)] {
        let (trained, dir) = moved(method, rslora);
        let from = |dir: &Path| LoraConfig { enabled: true, adapter: Some(dir.to_path_buf()), ..LoraConfig::default() };
        let loaded = build(&pretrained(from(dir.path())), &device);
        assert!(difference(&trained, &loaded) == 0.0, "{method}: the base is computed again, bit for bit");

        let (base, _) = build_backbone(&name, &LoraConfig::default(), &Default::default(), &device).unwrap();
        let file = AdapterFile::read(dir.path(), crate::common::paths("dinov3_tiny")).unwrap();
        let refused = convert_adapter::<HeatmapModel>(file.clone(), None).unwrap_err().to_string();
        assert!(refused.contains("--base"), "{refused}");
        let plain = convert_adapter(file, Some(&base)).unwrap();
        assert_eq!((plain.config.lora.r, plain.config.lora.use_rslora), (8, false));
        let converted = tempfile::tempdir().unwrap();
        plain.write(converted.path()).unwrap();
        let again = build(&pretrained(from(converted.path())), &device);
        let apart = difference(&trained, &again);
        assert!(apart < 1e-4, "{method}: {apart}");
    }
}

#[test]
fn a_packed_pissa_base_is_computed_again_before_it_is_packed() {
    let device = Device::flex();
    let config = packed(pretrained(LoraConfig { init_lora_weights: InitMethod::Pissa, ..lora() }));
    let (model, report) = build_model(&config, INPUT, 5, &device).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &model.backbone, &report.lora.unwrap().peft).unwrap();
    let from = LoraConfig { enabled: true, adapter: Some(dir.path().to_path_buf()), ..LoraConfig::default() };
    let again = build(&packed(pretrained(from)), &device);
    assert!(difference(&model, &again) == 0.0);
}

#[test]
fn equal_adapters_have_no_difference_and_others_are_told_apart_by_what_they_compute() {
    let read = |name: &str| AdapterFile::read(&fixture(name), crate::common::paths("dinov3_tiny")).unwrap();
    assert!(compare_adapters(&read("peft_lora"), &read("peft_lora")).unwrap().is_empty());
    let plain = convert_adapter::<HeatmapModel>(read("peft_rslora"), None).unwrap();
    let difference = compare_adapters(&read("peft_rslora"), &plain).unwrap();
    // The scale is written as another quotient, rounded once more.
    assert!(difference.tensors.iter().all(|t| t.max < 1e-6 * t.largest.max(1.0)), "{difference}");
    let difference = compare_adapters(&read("peft_regex"), &read("peft_dora")).unwrap();
    assert_eq!((difference.only_first.len(), difference.only_second.len()), (0, 8));
    assert!(difference.to_string().contains("use_dora: false in the first, true in the second"), "{difference}");
}

/// A copy of a fixture, to damage.
fn copy_of(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    FILES.iter().for_each(|file| {
        fs::copy(fixture(name).join(file), dir.path().join(file)).unwrap();
    });
    dir
}

fn refusal(dir: &Path) -> String {
    let name = fixture("dinov3_tiny").display().to_string();
    let (base, _) = build_backbone(&name, &LoraConfig::default(), &Default::default(), &Device::flex()).unwrap();
    load_adapter(dir, base).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn a_hostile_directory_is_refused_with_what_is_wrong_with_it() {
    let edit = |from: &str, to: &str| {
        let dir = copy_of("peft_dora");
        let path = dir.path().join(FILES[0]);
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        refusal(dir.path())
    };
    for (from, to, part) in [
        ("\"r\": 4", "\"r\": 5", "expected [5, 64]"),
        ("\"r\": 4", "\"r\": 1e12", "r is 1000000000000"),
        ("\"r\": 4", "\"r\": 60000", "expected [60000, 64]"),
        ("\"use_dora\": true", "\"use_dora\": false", "has a lora_magnitude_vector, but use_dora is false"),
        ("\"modules_to_save\": null", "\"modules_to_save\": [\"norm\"]", "norm.weight: missing"),
        ("\"bias\": \"none\"", "\"bias\": \"none\", \"bias\": \"all\"", "`bias` is given twice"),
    ] {
        let message = edit(from, to);
        assert!(message.contains(part), "{to}: {message}");
    }

    let tensors = |change: &dyn Fn(&mut std::collections::BTreeMap<String, TensorData>)| {
        let dir = copy_of("peft_dora");
        let path = dir.path().join(FILES[1]);
        let mut tensors = read_all(&path).unwrap();
        change(&mut tensors);
        write_tensors(&path, tensors, StoredAs::F32).unwrap();
        refusal(dir.path())
    };
    let key = |end: &str| format!("base_model.model.model.layer.0.attention.q_proj.{end}");
    let fill = |name: String, value: f32, shape: Vec<usize>| {
        let count = shape.iter().product();
        tensors(&move |t| {
            t.insert(name.clone(), TensorData::new(vec![value; count], shape.clone()));
        })
    };
    for (message, parts) in [
        (fill(key("lora_A.weight"), f32::NAN, vec![4, 64]), ["q_proj.lora_A.weight", "NaN"]),
        (fill(key("lora_magnitude_vector"), 1.0, vec![63]), ["q_proj.lora_magnitude_vector", "expected [64]"]),
        (fill(key("lora_A.weight"), 1.0, vec![256]), ["q_proj: found lora_A [256]", "expected [4, 64]"]),
        (tensors(&|t| t.retain(|name, _| name != &key("lora_B.weight"))), ["q_proj", "needs both"]),
        (tensors(&|t| t.retain(|name, _| name != &key("lora_magnitude_vector"))), ["q_proj", "has no lora_magnitude"]),
        (tensors(&|t| t.clear()), ["adapter_model.safetensors", "no LoRA adapter"]),
        (fill("base_model.model.model.norm.weight".to_owned(), 1.0, vec![64]), ["norm.weight", "modules_to_save"]),
    ] {
        for part in parts {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    // Integers where floats belong.
    let dir = copy_of("peft_dora");
    let path = dir.path().join(FILES[1]);
    let mut bytes = fs::read(&path).unwrap();
    let header = bytes.windows(5).position(|w| w == b"\"F32\"").unwrap();
    bytes[header..header + 5].copy_from_slice(b"\"I32\"");
    fs::write(&path, bytes).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains("I32") && message.contains("expected F32"), "{message}");
    fs::remove_file(&path).unwrap();
    assert!(refusal(dir.path()).contains(FILES[1]));
    fs::remove_file(dir.path().join(FILES[0])).unwrap();
    assert!(refusal(dir.path()).contains(FILES[0]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_cut_or_changed_file_is_an_error_or_an_adapter_and_never_a_panic(
        which in 0usize..2, cut in any::<bool>(), at in 0.0f64..1.0, byte in any::<u8>(),
    ) {
        let dir = copy_of("peft_regex");
        let path = dir.path().join(FILES[which]);
        let mut bytes = fs::read(&path).unwrap();
        // The headers are at the beginning, where changes mean something.
        let place = ((bytes.len() as f64) * at * at) as usize;
        if cut { bytes.truncate(place) } else { bytes[place] = byte }
        fs::write(&path, bytes).unwrap();
        let read = AdapterFile::read(dir.path(), crate::common::paths("dinov3_tiny"));
        prop_assert!(!cut || read.is_err(), "a cut file was read");
    }

    #[test]
    fn an_adapter_that_is_saved_and_loaded_is_saved_as_the_same_bytes(
        r in 1usize..6, alpha in 0.1f32..64.0, dropout in 0.0f32..1.0, rslora in any::<bool>(), dora in any::<bool>(),
        bias in 0usize..3, saved in any::<bool>(), pattern in any::<bool>(), seed in 0u64..100,
    ) {
        let device = Device::flex();
        let config = LoraConfig {
            r,
            lora_alpha: alpha,
            lora_dropout: dropout,
            use_rslora: rslora,
            use_dora: dora,
            init_lora_weights: InitMethod::Random,
            bias: [Bias::None, Bias::All, Bias::LoraOnly][bias],
            modules_to_save: saved.then(|| vec!["norm".to_owned(), "layer.1.norm2".to_owned()]),
            rank_pattern: Pattern(if pattern { vec![("q_proj".to_owned(), 3)] } else { Vec::new() }),
            alpha_pattern: Pattern(if pattern { vec![("up_proj".to_owned(), 0.7), ("mlp".to_owned(), 2.0)] } else { Vec::new() }),
            ..lora()
        };
        let mut section = pretrained(config);
        section.lora.target_modules = Some(TargetModules::List(vec!["q_proj".to_owned(), "up_proj".to_owned()]));
        let (model, report) = build_model(&section, INPUT, seed, &device).unwrap();
        let [first, second] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        write_adapter(first.path(), &model.backbone, &report.lora.unwrap().peft).unwrap();
        let from = LoraConfig { enabled: true, adapter: Some(first.path().to_path_buf()), ..LoraConfig::default() };
        let (again, report) = build_model(&pretrained(from), INPUT, 0, &device).unwrap();
        write_adapter(second.path(), &again.backbone, &report.lora.unwrap().peft).unwrap();
        for file in FILES {
            prop_assert!(fs::read(first.path().join(file)).unwrap() == fs::read(second.path().join(file)).unwrap(), "{}", file);
        }
        prop_assert!(difference(&model, &again) == 0.0);
    }
}

#[test]
fn pieces_of_a_batch_have_dropout_of_their_own_in_backbone_and_decoder() {
    let device = Device::flex().autodiff();
    let mut config = everything_with_dense_convolutions();
    config.lora.lora_dropout = 0.5;
    config.lora.init_lora_weights = InitMethod::Random;
    let model = build(&config, &device);
    let draw = |m: &HeatmapModel| m.forward(frames(&device)).into_data();
    model.seed_dropout(3);
    let first = draw(&model);
    model.seed_dropout(3);
    assert!(draw(&model) == first, "the same seed draws the same masks");
    model.seed_dropout(3);
    let piece = model.fork_for_piece(&device);
    draw(&piece);
    assert!(draw(&model) == first, "a piece took draws from the model it was forked from");
    let dir = tempfile::tempdir().unwrap();
    write_head(dir.path(), &model, StoredAs::F32).unwrap();
    let names = read_all(&dir.path().join("tracknet_head.safetensors")).unwrap();
    assert!(names.contains_key("decoder.stages.0.blocks.0.dw.lora_A.weight"));
}

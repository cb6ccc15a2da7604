//! `build_model` from end to end: what it builds, what it refuses and how it says so.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use tracknet::artifacts::build_model;
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::artifacts::pretrained::{HEAD_FILE, StoredAs, write_backbone, write_head};
use tracknet::config::{Activation, ModelConfig, ModelName, Norm, QuantMode, QuantizationConfig, TargetModules};
use tracknet::models::nn::LinearWeight;
use tracknet::models::state::{Group, Require, load_state, named_parameters, state_dict};
use tracknet::models::{HeatmapModel, VisitLayers, apply_quantization};

use crate::common::{fixture, gradients_of, largest, largest_difference, pixels};

const SIZE: [usize; 2] = [96, 64];

fn tiny() -> ModelConfig {
    let mut config = ModelConfig::default();
    config.backbone.architecture = serde_json::from_str(
        r#"{"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128,
            "num_register_tokens": 4}"#,
    )
    .unwrap();
    config.decoder.channels = vec![64, 32, 16];
    config.decoder.upsample = vec![2, 2];
    config.heatmap.size = [48, 32];
    config
}

fn pretrained(dir: &Path) -> ModelConfig {
    ModelConfig { pretrained_model_name: Some(dir.display().to_string()), ..tiny() }
}

fn refusal(config: &ModelConfig, size: [usize; 2]) -> String {
    build_model(config, size, 1, &Device::flex()).unwrap_err().to_string()
}

fn logits(model: &HeatmapModel, device: &Device) -> Vec<f32> {
    model.forward(pixels(device)).into_data().try_to_vec().unwrap()
}

/// A copy of the tiny DINOv3 checkpoint that a test may damage.
fn checkpoint() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture("dinov3_tiny").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

#[test]
fn every_decoder_variant_gives_heatmaps_of_the_asked_size_in_training_and_evaluation() {
    for (norm, activation, dense, skip) in [
        (Norm::Gn, Activation::Gelu, false, true),
        (Norm::Bn, Activation::Relu, true, false),
        (Norm::Bn, Activation::Gelu, false, true),
    ] {
        let mut config = tiny();
        config.decoder.norm = norm;
        config.decoder.activation = activation;
        config.decoder.use_depthwise = !dense;
        config.decoder.use_se = true;
        config.decoder.dropout = 0.2;
        config.decoder.skip = skip;
        config.decoder.channels = vec![64, 64, 32, 16];
        config.decoder.upsample = vec![2, 2, 2];
        config.heatmap.size = [50, 30];
        let device = Device::flex().autodiff();
        let (model, _) = build_model(&config, SIZE, 7, &device).unwrap();
        let y = model.forward(pixels(&device));
        assert_eq!(y.dims(), [2, 1, 30, 50]);
        let gradients = y.square().mean().backward();
        for (info, gradient) in gradients_of(&model, &gradients) {
            assert_eq!(gradient.is_some(), info.trainable, "{}", info.name);
        }
        let valid = model.valid();
        assert!(logits(&valid, &Device::flex()) == logits(&valid, &Device::flex()), "evaluation is deterministic");
    }
}

#[test]
fn the_same_seed_gives_the_same_model_and_another_seed_another() {
    let device = Device::flex();
    let mut config = tiny();
    config.lora.enabled = true;
    let state = |seed| {
        let (model, report) = build_model(&config, SIZE, seed, &device).unwrap();
        (state_dict(&model, |_| true), report.base_hash)
    };
    assert_eq!(state(1), state(1));
    assert_ne!(state(1), state(2));
    assert_ne!(state(1).1, state(2).1);
}

#[test]
fn a_frozen_backbone_leaves_decoder_and_head_to_train() {
    let (model, report) = build_model(&tiny(), SIZE, 1, &Device::flex().autodiff()).unwrap();
    for p in named_parameters(&model) {
        assert_eq!(p.trainable, matches!(p.group, Group::Decoder | Group::Head), "{}", p.name);
    }
    assert!(report.to_string().contains("trainable params: "), "{report}");
    let mut config = tiny();
    config.backbone.freeze = false;
    let (model, _) = build_model(&config, SIZE, 1, &Device::flex().autodiff()).unwrap();
    assert!(named_parameters(&model).iter().all(|p| p.trainable));
}

#[test]
fn with_adapters_on_packed_weights_only_adapters_decoder_and_head_train() {
    let mut config = tiny();
    config.backbone.freeze = false;
    config.lora.enabled = true;
    config.quantization.enabled = true;
    let (model, report) = build_model(&config, SIZE, 1, &Device::flex().autodiff()).unwrap();
    for p in named_parameters(&model) {
        assert_eq!(p.trainable, p.group != Group::Backbone, "{}", p.name);
    }
    let (float, float_report) = build_model(&tiny(), SIZE, 1, &Device::flex()).unwrap();
    assert_eq!(report.base_hash, float_report.base_hash, "the hash is of the weights before quantization");
    let adapters: usize = report.lora.iter().flat_map(|l| &l.adapted).map(|m| m.rank * (m.shape[0] + m.shape[1])).sum();
    let float: usize = named_parameters(&float).iter().map(|p| p.count()).sum();
    assert_eq!(report.memory.parameters, float + adapters, "packed weights count as what they stand for");
    assert_eq!(report.memory.backbone_f32, float_report.memory.backbone_stored);
    let [before, after] = report.quantization.unwrap().bytes();
    assert_eq!(report.memory.backbone_f32 - report.memory.backbone_stored, before - after);
}

#[test]
fn names_are_those_of_the_checkpoint_under_backbone() {
    let (model, _) = build_model(&pretrained(&fixture("dinov3_tiny")), SIZE, 1, &Device::flex()).unwrap();
    let ours: Vec<String> = state_dict(&model, |p| p.group == Group::Backbone).into_keys().collect();
    let mut theirs: Vec<String> = read_all(&fixture("dinov3_tiny/model.safetensors"))
        .unwrap()
        .into_keys()
        .map(|n| format!("backbone.{n}"))
        .collect();
    theirs.retain(|n| n != "backbone.embeddings.mask_token");
    assert_eq!(ours, theirs);
    let rest: Vec<String> = state_dict(&model, |p| p.group != Group::Backbone).into_keys().collect();
    for name in ["decoder.stages.0.blocks.0.dw.weight", "decoder.stages.0.proj.weight", "head.conv.bias"] {
        assert!(rest.iter().any(|n| n == name), "{name} is not in {rest:?}");
    }
}

#[test]
fn a_written_backbone_and_head_load_to_the_same_model() {
    let device = Device::flex();
    let (model, report) = build_model(&tiny(), SIZE, 5, &device).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write_backbone(dir.path(), &model.backbone, StoredAs::F32).unwrap();
    write_head(dir.path(), &model, StoredAs::F32).unwrap();
    let mut config = pretrained(dir.path());
    config.decoder.pretrained = Some(dir.path().to_path_buf());
    let (loaded, loaded_report) = build_model(&config, SIZE, 6, &device).unwrap();
    assert!(logits(&model, &device) == logits(&loaded, &device));
    assert_eq!(report.base_hash, loaded_report.base_hash);

    // Half precision: each weight is rounded to its 11 bits, and that is all.
    write_backbone(dir.path(), &model.backbone, StoredAs::F16).unwrap();
    let (half, _) = build_model(&config, SIZE, 6, &device).unwrap();
    let mut rounded = 0;
    for (name, data) in state_dict(&half, |p| p.group == Group::Backbone) {
        let exact = &state_dict(&model, |p| p.name == name)[&name];
        for (half, exact) in data.iter::<f32>().zip(exact.iter::<f32>()) {
            assert_eq!(half, half::f16::from_f32(exact).to_f32(), "{name}");
            rounded += usize::from(half != exact);
        }
    }
    assert!(rounded > 10_000, "{rounded} weights were rounded");
}

#[test]
fn a_state_goes_back_into_a_model_and_what_does_not_fit_is_listed() {
    let device = Device::flex();
    let (model, _) = build_model(&tiny(), SIZE, 1, &device).unwrap();
    let (other, _) = build_model(&tiny(), SIZE, 2, &device).unwrap();
    let mut state = state_dict(&model, |_| true);
    let loaded = load_state(other.clone(), state.clone(), Require::All).unwrap();
    assert!(logits(&loaded, &device) == logits(&model, &device));

    state.remove("head.conv.bias");
    let weight = state.remove("head.conv.weight").unwrap();
    state.insert("decoder.nothing".to_owned(), weight.clone());
    let norm = state.get_mut("backbone.norm.weight").unwrap();
    *norm = weight;
    let message = load_state(other, state, Require::All).unwrap_err().to_string();
    for part in [
        "head.conv.bias: missing",
        "head.conv.weight: missing",
        "decoder.nothing: found",
        "backbone.norm.weight: found [1, 16, 1, 1], expected [64]",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn one_error_lists_every_tensor_that_does_not_fit() {
    let dir = checkpoint();
    let path = dir.path().join("model.safetensors");
    let mut tensors = read_all(&path).unwrap();
    tensors.remove("layer.1.norm1.weight");
    let bias = tensors.remove("norm.bias").unwrap();
    tensors.insert("layer.7.norm1.bias".to_owned(), bias);
    let wide = tensors["layer.0.mlp.up_proj.weight"].clone();
    tensors.insert("layer.0.attention.q_proj.weight".to_owned(), wide);
    write_tensors(&path, tensors, StoredAs::F32).unwrap();
    let message = refusal(&pretrained(dir.path()), SIZE);
    for part in [
        "4 tensors do not fit the model",
        "layer.1.norm1.weight: missing, expected [64]",
        "norm.bias: missing",
        "layer.0.attention.q_proj.weight: found [128, 64], expected [64, 64]",
        "layer.7.norm1.bias: found [64], but the model has no such tensor",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_head_file_that_does_not_fit_is_refused_by_tensor() {
    let dir = tempfile::tempdir().unwrap();
    let (model, _) = build_model(&tiny(), SIZE, 5, &Device::flex()).unwrap();
    write_head(dir.path(), &model, StoredAs::F32).unwrap();
    let path = dir.path().join(HEAD_FILE);
    let whole = fs::read(&path).unwrap();
    let mut tensors = read_all(&path).unwrap();
    let bias = tensors.remove("head.conv.bias").unwrap();
    tensors.insert("head.conv.weight".to_owned(), bias.clone());
    tensors.insert("decoder.stages.9.proj.weight".to_owned(), bias);
    write_tensors(&path, tensors, StoredAs::F32).unwrap();
    let mut config = tiny();
    config.decoder.pretrained = Some(dir.path().to_path_buf());
    let message = refusal(&config, SIZE);
    for part in [
        HEAD_FILE,
        "head.conv.bias: missing, expected [1]",
        "head.conv.weight: found [1], expected [1, 16, 1, 1]",
        "decoder.stages.9.proj.weight: found [1], but the model has no such parameter",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    assert!(refusal(&config, SIZE).contains(HEAD_FILE));
}

#[test]
fn the_configuration_of_the_design_adapts_and_packs_every_flavour() {
    let flavours = [
        ("dinov3_tiny", 16, 12),
        ("dinov3_tiny_gated", 16, 14),
        ("dinov2_tiny", 16, 12),
        ("dinov2_reg_tiny", 16, 12),
        ("dinov2_tiny_swiglu", 8, 7),
        ("vit_tiny", 16, 12),
    ];
    for (name, patch, linears) in flavours {
        let mut config = pretrained(&fixture(name));
        config.model_name = ModelName::VitLoraHeatmap;
        config.backbone.patch_size = patch;
        config.lora.enabled = true;
        let targets = ["query", "key", "value", "dense"].map(str::to_owned);
        config.lora.target_modules = Some(TargetModules::List(targets.to_vec()));
        config.quantization.enabled = true;
        config.quantization.skip_modules = Some(vec!["pooler.dense".to_owned()]);
        let device = Device::flex().autodiff();
        let (model, report) = build_model(&config, SIZE, 1, &device).unwrap();
        assert_eq!(report.lora.unwrap().adapted.len(), linears, "{name}");
        assert_eq!(report.quantization.unwrap().layers.len(), linears, "{name}");
        // Adapters start at zero: the features are those of the packed weights, bit for bit.
        let tokens = |model: &HeatmapModel| model.backbone.tokens(pixels(&device)).into_data();
        let found = tokens(&model);
        config.lora.enabled = false;
        let packed = tokens(&build_model(&config, SIZE, 1, &device).unwrap().0);
        config.quantization.enabled = false;
        let float = tokens(&build_model(&config, SIZE, 1, &device).unwrap().0);
        assert!(found == packed, "{name}: {}", largest_difference(&found, &packed));
        // Packing moves the features by some 6 in 100, and it does move them.
        let moved = largest_difference(&packed, &float) / largest(&float);
        assert!((0.01..0.1).contains(&moved), "{name}: {moved}");
    }
}

#[test]
fn names_with_the_prefix_of_newer_releases_load_too() {
    let dir = checkpoint();
    let path = dir.path().join("model.safetensors");
    let tensors = read_all(&path).unwrap().into_iter().map(|(n, d)| (format!("model.{n}"), d)).collect();
    write_tensors(&path, tensors, StoredAs::F32).unwrap();
    let device = Device::flex();
    let (prefixed, _) = build_model(&pretrained(dir.path()), SIZE, 1, &device).unwrap();
    let (plain, _) = build_model(&pretrained(&fixture("dinov3_tiny")), SIZE, 1, &device).unwrap();
    assert!(logits(&prefixed, &device) == logits(&plain, &device));
}

#[test]
fn shards_load_and_an_index_that_leaves_the_directory_is_refused() {
    let dir = checkpoint();
    let path = dir.path().join("model.safetensors");
    let tensors = read_all(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let (first, second): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|(n, _)| n.contains("layer.0"));
    let mut map = serde_json::Map::new();
    for (file, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        map.extend(part.iter().map(|(n, _)| (n.clone(), file.into())));
        write_tensors(&dir.path().join(file), part.into_iter().collect(), StoredAs::F32).unwrap();
    }
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    let device = Device::flex();
    let (sharded, _) = build_model(&pretrained(dir.path()), SIZE, 1, &device).unwrap();
    let (plain, _) = build_model(&pretrained(&fixture("dinov3_tiny")), SIZE, 1, &device).unwrap();
    assert!(logits(&sharded, &device) == logits(&plain, &device));

    map.insert("norm.weight".to_owned(), "../b.safetensors".into());
    fs::write(&index, serde_json::json!({ "weight_map": map }).to_string()).unwrap();
    let message = refusal(&pretrained(dir.path()), SIZE);
    assert!(message.contains("norm.weight") && message.contains("not a plain file name"), "{message}");
}

#[test]
fn damaged_and_foreign_checkpoints_are_refused_by_name() {
    let dir = checkpoint();
    let path = dir.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    let message = refusal(&pretrained(dir.path()), SIZE);
    assert!(message.contains("model.safetensors") && message.contains("header says"), "{message}");
    for length in [0, 4, 20, 3000] {
        fs::write(&path, &bytes[..length]).unwrap();
        let message = refusal(&pretrained(dir.path()), SIZE);
        assert!(message.contains("model.safetensors: is ") && message.contains("download it again"), "{message}");
    }

    let mut tensors = read_all(&fixture("dinov3_tiny/model.safetensors")).unwrap();
    let mut values: Vec<f32> = tensors["layer.1.mlp.up_proj.bias"].clone().try_to_vec().unwrap();
    values[3] = f32::NAN;
    tensors.insert("layer.1.mlp.up_proj.bias".to_owned(), values.as_slice().into());
    write_tensors(&path, tensors, StoredAs::F32).unwrap();
    let message = refusal(&pretrained(dir.path()), SIZE);
    assert!(message.contains("layer.1.mlp.up_proj.bias") && message.contains("NaN at element 3"), "{message}");

    fs::remove_file(&path).unwrap();
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    assert!(refusal(&pretrained(dir.path()), SIZE).contains("convert"));

    let dir = checkpoint();
    let path = dir.path().join("config.json");
    let text =
        fs::read_to_string(&path).unwrap().replacen('{', "{\"quantization_config\": {\"load_in_8bit\": true},", 1);
    fs::write(&path, text).unwrap();
    assert!(refusal(&pretrained(dir.path()), SIZE).contains("8 bits are not read"));
}

#[test]
fn values_that_cannot_work_together_are_refused_before_anything_is_built() {
    let refused = |change: fn(&mut ModelConfig), parts: &[&str]| {
        let mut config = tiny();
        change(&mut config);
        let message = refusal(&config, SIZE);
        assert!(parts.iter().all(|p| message.contains(p)), "{parts:?}: {message}");
    };
    refused(|c| c.decoder.channels[0] = 32, &["decoder.channels", "32", "64"]);
    refused(|c| (c.lora.enabled, c.lora.r) = (true, 0), &["lora.r", "0"]);
    refused(|c| (c.lora.enabled, c.lora.lora_dropout) = (true, 1.5), &["lora.lora_dropout", "1.5"]);
    refused(
        |c| {
            c.lora.enabled = true;
            c.lora.target_modules = Some(TargetModules::List(vec!["conv9".to_owned()]));
        },
        &["conv9", "layer.*.attention.q_proj (2)"],
    );
    refused(
        |c| (c.quantization.enabled, c.backbone.freeze) = (true, false),
        &["quantization.enabled", "no gradient can pass"],
    );
    refused(|c| (c.quantization.enabled, c.quantization.blocksize) = (true, 65), &["blocksize", "65", "64"]);
    refused(
        |c| (c.quantization.enabled, c.quantization.skip_modules) = (true, Some(vec!["layer".to_owned()])),
        &["none of the 12 linear layers"],
    );
    let message = refusal(&tiny(), [100, 64]);
    assert!(message.contains("[100, 64]") && message.contains("96 or 112"), "{message}");
    let mut config = pretrained(&fixture("dinov3_tiny"));
    config.backbone.patch_size = 14;
    assert!(refusal(&config, SIZE).contains("patches of 16 pixels"));
}

#[test]
fn a_skip_entry_that_matches_nothing_and_a_rank_that_is_too_large_are_noted() {
    let mut config = tiny();
    config.quantization.enabled = true;
    config.quantization.skip_modules = Some(vec!["pooler.dense".to_owned(), "q_proj".to_owned()]);
    config.lora.enabled = true;
    config.lora.r = 65;
    let (_, report) = build_model(&config, SIZE, 1, &Device::flex()).unwrap();
    let quantization = report.quantization.unwrap();
    assert_eq!(quantization.layers.len(), 10);
    assert_eq!(quantization.skipped, ["layer.0.attention.q_proj", "layer.1.attention.q_proj"]);
    assert_eq!(quantization.notes, ["quantization.skip_modules: `pooler.dense` matches nothing"]);
    assert!(report.lora.unwrap().notes[0].contains("65 is larger"));
}

#[test]
fn dropout_acts_in_training_only_and_its_draws_follow_the_seed() {
    let mut config = tiny();
    config.lora.enabled = true;
    config.lora.lora_dropout = 0.5;
    let device = Device::flex().autodiff();
    let (model, _) = build_model(&config, SIZE, 1, &device).unwrap();
    // B starts at zero, where dropout has no effect.
    let state = state_dict(&model, |p| p.name.ends_with("lora_B.weight"))
        .into_iter()
        .map(|(n, d)| {
            (n, Tensor::<2>::random([d.shape()[0], d.shape()[1]], Distribution::Default, &Device::flex()).into_data())
        })
        .collect();
    let model = load_state(model, state, Require::Nothing).unwrap();
    let seeded = |seed| {
        model.seed_dropout(seed);
        logits(&model, &device)
    };
    let (first, second) = (seeded(1), seeded(2));
    assert!(first != second);
    assert!(first == seeded(1));
    let plain = Device::flex();
    let valid = model.valid();
    assert!(logits(&valid, &plain) == logits(&valid, &plain));
}

#[test]
fn packing_while_loading_gives_the_same_bytes_as_packing_the_loaded_model() {
    let device = Device::flex();
    let built = |mode: QuantMode| {
        let mut config = pretrained(&fixture("dinov3_tiny"));
        config.quantization.enabled = true;
        config.quantization.mode = mode;
        config.quantization.skip_modules = Some(vec!["o_proj".to_owned(), "pooler".to_owned()]);
        build_model(&config, SIZE, 1, &device).unwrap()
    };
    let packed = |model: &HeatmapModel| {
        let mut all = Vec::new();
        model.visit_linears(&mut |path, p| match &p.weight {
            LinearWeight::Packed(weight) => all.push((path.to_owned(), Some(weight.to_packed().unwrap()))),
            LinearWeight::Dense(_) => all.push((path.to_owned(), None)),
        });
        all
    };
    let [(manual, manual_report), (hf, hf_report)] = [QuantMode::Manual, QuantMode::Hf].map(built);
    assert!(packed(&manual) == packed(&hf));
    assert_eq!(packed(&manual).iter().filter(|(_, w)| w.is_none()).count(), 2);
    assert_eq!(manual_report.quantization, hf_report.quantization);
    assert_eq!(manual_report.base_hash, hf_report.base_hash);
}

#[test]
fn a_weight_that_is_not_finite_is_not_quantized_but_named() {
    let (model, _) = build_model(&tiny(), SIZE, 1, &Device::flex()).unwrap();
    let name = "layer.1.mlp.up_proj.weight";
    let mut state = state_dict(&model.backbone, |p| p.name == name);
    let mut values: Vec<f32> = state[name].clone().try_to_vec().unwrap();
    values[5] = f32::INFINITY;
    state.insert(name.to_owned(), TensorData::new(values, [128, 64]));
    let backbone = load_state(model.backbone, state, Require::Nothing).unwrap();
    let message = apply_quantization(backbone, &QuantizationConfig { enabled: true, ..QuantizationConfig::default() })
        .unwrap_err()
        .to_string();
    assert!(message.contains(name) && message.contains("inf"), "{message}");
}

#[test]
fn a_checkpoint_without_the_base_restores_adapters_decoder_and_running_statistics() {
    let mut config = tiny();
    config.lora.enabled = true;
    config.quantization.enabled = true;
    config.decoder.norm = Norm::Bn;
    let device = Device::flex().autodiff();
    let (model, _) = build_model(&config, SIZE, 1, &device).unwrap();
    // A forward in training moves the running statistics.
    let _ = model.forward(pixels(&device));
    let saved = state_dict(&model, |p| p.is_checkpointed());
    assert!(saved.keys().any(|n| n.ends_with("norm.running_mean")));
    assert!(!saved.contains_key("backbone.norm.weight"));

    let plain = Device::flex();
    let (fresh, _) = build_model(&config, SIZE, 1, &plain).unwrap();
    let expected = logits(&model.valid(), &plain);
    assert!(logits(&fresh, &plain) != expected);
    let restored = load_state(fresh.clone(), saved.clone(), Require::AllButBackbone).unwrap();
    assert!(logits(&restored, &plain) == expected);

    let mut incomplete = saved;
    incomplete.remove("head.conv.bias");
    let message = load_state(fresh, incomplete, Require::AllButBackbone).unwrap_err().to_string();
    assert!(message.contains("head.conv.bias: missing"), "{message}");
}

#[test]
fn a_new_head_says_its_prior_everywhere_and_a_half_by_default() {
    let mut section = crate::training_support::model(serde_json::json!({}));
    let first = |section: &ModelConfig| {
        let (model, _) = build_model(section, crate::training_support::INPUT, 1, &Device::flex()).unwrap();
        let [width, height] = crate::training_support::INPUT;
        let logits: Vec<f32> =
            model.forward(Tensor::zeros([1, 3, height, width], &Device::flex())).into_data().try_to_vec().unwrap();
        logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).sum::<f32>() / logits.len() as f32
    };
    assert!((first(&section) - 0.5).abs() < 0.02, "{}", first(&section));
    section.heatmap.prior = 0.02;
    assert!((first(&section) - 0.02).abs() < 0.002, "{}", first(&section));
}

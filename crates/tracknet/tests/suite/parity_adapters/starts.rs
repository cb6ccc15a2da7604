//! Adapters of PEFT whose start changed the base, that adapt more than linear layers, or that came with a head.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use tempfile::TempDir;
use tracknet::artifacts::adapter::{
    AdapterFile, AdapterReport, compare_adapters, convert_adapter, load_adapter, write_adapter,
};
use tracknet::artifacts::build_backbone;
use tracknet::artifacts::pretrained::StoredAs;
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::config::{DtypeName, InitMethod, LoraConfig, QuantizationConfig, TargetModules};
use tracknet::models::lora::{MergeInto, apply_lora_to_model, layer_status, merge_adapters, unmerge_adapters};
use tracknet::models::{Backbone, VisitLayers, apply_quantization};

use super::{TOLERANCE, WEIGHTS};
use crate::common::{assert_close, backbone, fixture, largest_difference, paths, pixels, tensors};

/// Adapters, their bases, and how many modules they adapt.
const STARTS: [(&str, &str, usize); 9] = [
    ("peft_loftq", "dinov3_tiny", 4),
    ("peft_loftq_turns", "dinov3_tiny", 4),
    ("peft_pissa", "dinov3_tiny", 4),
    ("peft_olora", "dinov3_tiny", 4),
    ("peft_corda_converted", "dinov3_tiny", 4),
    ("peft_eva", "dinov3_tiny", 4),
    ("peft_mica", "dinov3_tiny", 4),
    ("peft_patch", "dinov3_tiny", 3),
    ("peft_patch_dora", "vit_tiny", 1),
];
const CONFIG: &str = "adapter_config.json";

fn base(name: &str) -> Backbone {
    backbone(&fixture(name), &Device::flex()).unwrap()
}

fn square(device: &Device) -> Tensor<4> {
    pixels(device).slice([0..2, 0..3, 0..64, 0..64])
}

fn outputs(vit: &Backbone) -> TensorData {
    vit.tokens(square(&Device::flex())).into_data()
}

fn quantization(quant_type: &str, double_quant: bool) -> QuantizationConfig {
    QuantizationConfig {
        enabled: true,
        quant_type: quant_type.parse().unwrap(),
        compress_statistics: double_quant,
        compute_dtype: DtypeName::Float32,
        ..QuantizationConfig::default()
    }
}

/// The backbone of a directory with the adapter of another.
fn built(base: &str, adapter: &Path, quantization: &QuantizationConfig) -> Result<Backbone, String> {
    let lora = LoraConfig { enabled: true, adapter: Some(adapter.to_path_buf()), ..LoraConfig::default() };
    let name = fixture(base).display().to_string();
    build_backbone(&name, &lora, quantization, &Device::flex()).map(|(vit, _)| vit).map_err(|e| e.to_string())
}

/// A copy of an adapter with other tensors and other settings.
fn changed(
    adapter: &str,
    change: impl FnOnce(BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData>,
    settings: Value,
) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_tensors(&dir.path().join(WEIGHTS), change(read_all(&fixture(adapter).join(WEIGHTS)).unwrap()), StoredAs::F32)
        .unwrap();
    let text = fs::read_to_string(fixture(adapter).join(CONFIG)).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config.as_object_mut().unwrap().extend(settings.as_object().cloned().unwrap());
    fs::write(dir.path().join(CONFIG), config.to_string()).unwrap();
    dir
}

fn renamed(
    rename: impl Fn(String) -> String,
) -> impl FnOnce(BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData> {
    move |tensors| tensors.into_iter().map(|(name, data)| (rename(name), data)).collect()
}

#[test]
fn adapters_of_every_start_give_the_output_of_peft_and_come_back_byte_for_byte() {
    for (name, base_name, modules) in STARTS {
        let (vit, report) = load_adapter(&fixture(name), base(base_name)).unwrap();
        assert_eq!(report.adapted.len(), modules, "{name}");
        assert!(report.notes.is_empty(), "{name}: {:?}", report.notes);
        let expected = tensors(&fixture(name).join("io.safetensors"));
        assert!(largest_difference(&outputs(&base(base_name)), &expected["last_hidden_state"]) > 0.1, "{name}");
        let images = square(&Device::flex());
        assert_close(name, vit.tokens(images.clone()), &expected["last_hidden_state"], TOLERANCE);
        let merged = merge_adapters(vit.clone(), MergeInto::Float).unwrap();
        assert_close(name, merged.tokens(images.clone()), &expected["last_hidden_state_merged"], TOLERANCE);
        let back = unmerge_adapters(merged).unwrap();
        assert_close(name, back.tokens(images), &outputs(&vit), TOLERANCE);
        let dir = tempfile::tempdir().unwrap();
        write_adapter(dir.path(), &vit, &report.peft).unwrap();
        for file in [CONFIG, WEIGHTS] {
            let [ours, theirs] = [dir.path(), &fixture(name)].map(|d| fs::read(d.join(file)).unwrap());
            assert!(ours == theirs, "{name}/{file}");
        }
    }
}

#[test]
fn a_loftq_adapter_of_peft_is_right_on_nf4_with_float_scales_and_refused_on_other_storage() {
    for name in ["peft_loftq", "peft_loftq_turns"] {
        let expected = &tensors(&fixture(name).join("io.safetensors"))["last_hidden_state"];
        // Layers without an adapter stay float in PEFT.
        let skip_modules = ["k_proj", "v_proj", "o_proj", "down_proj"].map(str::to_owned).to_vec();
        let plain = QuantizationConfig { skip_modules: Some(skip_modules), ..quantization("nf4", false) };
        let vit = built("dinov3_tiny", &fixture(name), &plain).unwrap();
        assert!(vit.is_quantized());
        assert_close(name, vit.tokens(square(&Device::flex())), expected, TOLERANCE);
        for other in [quantization("nf4", true), quantization("fp4", false)] {
            let message = built("dinov3_tiny", &fixture(name), &other).unwrap_err();
            assert!(message.contains("began with loftq on nf4 in blocks of 64 with float scales"), "{message}");
        }
    }
    let packed = apply_quantization(base("dinov3_tiny"), &quantization("nf4", true)).unwrap().0;
    let message = load_adapter(&fixture("peft_loftq"), packed).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("is stored as nf4 in blocks of 64 with double quantization"), "{message}");
    let file = AdapterFile::read(&fixture("peft_loftq"), paths("dinov3_tiny")).unwrap();
    let message = convert_adapter(file, Some(&base("dinov3_tiny"))).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("no adapter can make up for"), "{message}");
}

#[test]
fn an_adapter_that_began_with_loftq_here_finds_its_base_on_floats_and_on_the_same_storage_only() {
    for turns in [1, 3] {
        let mut lora = LoraConfig { enabled: true, r: 4, lora_alpha: 8.0, ..LoraConfig::default() };
        (lora.init_lora_weights, lora.loftq_config.loftq_iter) = (InitMethod::Loftq, turns);
        let storage = QuantizationConfig { skip_modules: Some(vec!["o_proj".to_owned()]), ..quantization("nf4", true) };
        let name = fixture("dinov3_tiny").display().to_string();
        let (trained, report) = build_backbone(&name, &lora, &storage, &Device::flex()).unwrap();
        let report = report.lora.unwrap();
        assert!(report.notes.iter().any(|note| note.contains("PEFT cannot compute this base")), "{:?}", report.notes);
        let dir = tempfile::tempdir().unwrap();
        write_adapter(dir.path(), &trained, &report.peft).unwrap();
        let config: Value = serde_json::from_str(&fs::read_to_string(dir.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!((&config["init_lora_weights"], &config["tracknet_loftq"]["turns"]), (&json!(true), &json!(turns)));

        let expected = outputs(&trained);
        let again = built("dinov3_tiny", dir.path(), &storage).unwrap();
        assert!(outputs(&again) == expected, "{turns} turns: the same storage");
        let floats = built("dinov3_tiny", dir.path(), &QuantizationConfig::default()).unwrap();
        assert!(!floats.is_quantized());
        let apart = largest_difference(&outputs(&floats), &expected);
        assert!(apart < TOLERANCE, "{turns} turns: as floats, {apart}");
        let message = built("dinov3_tiny", dir.path(), &quantization("fp4", true)).unwrap_err();
        assert!(message.contains("nf4 in blocks of 64 with double quantization"), "{message}");
    }
}

#[test]
fn an_orthogonal_start_on_a_base_in_four_bits_is_written_as_one_that_peft_can_make() {
    let lora = LoraConfig { enabled: true, r: 4, init_lora_weights: InitMethod::Orthogonal, ..LoraConfig::default() };
    for (storage, written) in [(quantization("nf4", true), json!(true)), (Default::default(), json!("orthogonal"))] {
        let vit = apply_quantization(base("dinov3_tiny"), &storage).unwrap().0;
        let (vit, report) = apply_lora_to_model(vit, &lora, None).unwrap();
        let report = AdapterReport::of_new(report, &lora, vit.module_paths());
        let dir = tempfile::tempdir().unwrap();
        write_adapter(dir.path(), &vit, &report.peft).unwrap();
        let config: Value = serde_json::from_str(&fs::read_to_string(dir.path().join(CONFIG)).unwrap()).unwrap();
        assert_eq!(config["init_lora_weights"], written);
    }
}

#[test]
fn quantization_that_is_not_enabled_leaves_the_model_as_it_is() {
    let (vit, report) = apply_quantization(base("dinov3_tiny"), &QuantizationConfig::default()).unwrap();
    assert!(!vit.is_quantized() && report.layers.is_empty());
    assert!(outputs(&vit) == outputs(&base("dinov3_tiny")));
}

#[test]
fn the_patch_convolution_is_adapted_when_it_is_named_and_written_with_its_kernels() {
    let device = Device::flex();
    for (base_name, entry) in
        [("dinov3_tiny", "patch_embeddings"), ("vit_tiny", "projection"), ("dinov2_tiny", "projection")]
    {
        for use_dora in [false, true] {
            let lora = LoraConfig {
                enabled: true,
                r: 2,
                lora_alpha: 4.0,
                lora_dropout: 0.0,
                use_dora,
                init_lora_weights: InitMethod::Random,
                target_modules: Some(TargetModules::List(vec![entry.to_owned()])),
                ..LoraConfig::default()
            };
            let (vit, report) = apply_lora_to_model(base(base_name), &lora, None).unwrap();
            let report = AdapterReport::of_new(report, &lora, vit.module_paths());
            assert_eq!((report.adapted.len(), report.adapted[0].shape), (1, [64, 3 * 16 * 16]), "{base_name}");
            let merged = merge_adapters(vit.clone(), MergeInto::Float).unwrap();
            assert_close(base_name, merged.tokens(square(&device)), &outputs(&vit), TOLERANCE);
            assert!(largest_difference(&outputs(&vit), &outputs(&base(base_name))) > 1e-2, "{base_name}");
            assert!(layer_status(&vit).iter().any(|layer| layer.kind == "conv 16x16"));
            let dir = tempfile::tempdir().unwrap();
            write_adapter(dir.path(), &vit, &report.peft).unwrap();
            let written = read_all(&dir.path().join(WEIGHTS)).unwrap();
            let shape =
                |end: &str| written.iter().find(|(name, _)| name.ends_with(end)).map(|(_, d)| d.shape().to_vec());
            assert_eq!(shape(".lora_A.weight"), Some(vec![2, 3, 16, 16]));
            assert_eq!(shape(".lora_B.weight"), Some(vec![64, 2, 1, 1]));
            assert_eq!(shape(".lora_magnitude_vector"), use_dora.then(|| vec![1, 64, 1, 1]));
            let (again, _) = load_adapter(dir.path(), base(base_name)).unwrap();
            assert!(outputs(&again) == outputs(&vit), "{base_name}");
        }
    }
    let (vit, _) = load_adapter(&fixture("peft_patch"), base("dinov3_tiny")).unwrap();
    let all = LoraConfig { enabled: true, ..LoraConfig::default() };
    let (all, report) = apply_lora_to_model(base("dinov3_tiny"), &all, None).unwrap();
    assert!(report.adapted.iter().all(|m| !m.path.contains("patch")), "it must be named");
    assert_eq!((layer_status(&vit).len(), layer_status(&all).len()), (13, 12));
}

#[test]
fn an_adapter_of_the_patch_convolution_is_taken_out_of_merged_weights() {
    let file = changed(
        "peft_patch",
        |tensors| tensors.into_iter().filter(|(n, _)| !n.ends_with(".bias")).collect(),
        json!({"bias": "none"}),
    );
    let (vit, _) = load_adapter(file.path(), base("dinov3_tiny")).unwrap();
    let mut merged = merge_adapters(vit, MergeInto::Float).unwrap();
    AdapterFile::read(file.path(), paths("dinov3_tiny")).unwrap().unmerge(&mut merged).unwrap();
    assert_close("base", merged.tokens(square(&Device::flex())), &outputs(&base("dinov3_tiny")), TOLERANCE);
}

/// Heads as models for classification and masked images have them, and one of a user.
#[test]
fn what_belongs_to_a_head_is_left_aside_with_a_note_and_kept() {
    let vit = |name: String| name.replace("base_model.model.layers", "base_model.model.vit.layers");
    let head = |names: &'static [&'static str]| {
        move |tensors: BTreeMap<String, TensorData>| {
            let mut tensors = renamed(vit)(tensors);
            for name in names {
                tensors.insert(format!("base_model.model.{name}"), TensorData::zeros::<f32, _>([4, 64]));
            }
            tensors
        }
    };
    let (expected, _) = load_adapter(&fixture("peft_vit"), base("vit_tiny")).unwrap();
    for (names, settings) in [
        (&["classifier.weight", "classifier.bias"][..], json!({"modules_to_save": ["classifier"]})),
        (&["classifier.lora_A.weight", "classifier.lora_B.weight"][..], json!({})),
        (&["score.weight"][..], json!({"modules_to_save": ["classifier", "score"]})),
        (&["fc_norm.weight", "head.weight"][..], json!({"modules_to_save": ["fc_norm", "head"]})),
        (&["decoder.0.weight"][..], json!({"modules_to_save": ["decoder"]})),
        (&["my_own.layers.0.weight"][..], json!({"modules_to_save": ["my_own"]})),
    ] {
        let dir = changed("peft_vit", head(names), settings);
        let (vit, report) = load_adapter(dir.path(), base("vit_tiny")).unwrap();
        assert!(outputs(&vit) == outputs(&expected), "{names:?}");
        let note = report.notes.iter().find(|note| note.contains("heatmaps do not need them")).unwrap();
        assert!(names.iter().all(|name| note.contains(name)), "{note}");
        let written = tempfile::tempdir().unwrap();
        write_adapter(written.path(), &vit, &report.peft).unwrap();
        let tensors = read_all(&written.path().join(WEIGHTS)).unwrap();
        assert!(names.iter().all(|name| tensors.contains_key(&format!("base_model.model.{name}"))), "{names:?}");
    }
    let only_head = |tensors: BTreeMap<String, TensorData>| {
        let tensors = head(&["classifier.lora_A.weight", "classifier.lora_B.weight"])(tensors);
        tensors.into_iter().filter(|(name, _)| name.contains("classifier")).collect()
    };
    let dir = changed("peft_vit", only_head, json!({}));
    let message = load_adapter(dir.path(), base("vit_tiny")).map(|_| ()).unwrap_err().to_string();
    assert!(message.contains("adapts nothing of the backbone"), "{message}");
}

#[test]
fn keys_with_the_name_of_the_adapter_and_keys_without_prefix_are_those_of_the_file() {
    let expected = |name: &str| outputs(&load_adapter(&fixture(name), base("dinov3_tiny")).unwrap().0);
    let named = |name: String| {
        let name = name.replace(".lora_A.", ".lora_A.tennis.").replace(".lora_B.", ".lora_B.tennis.");
        let saved = name.replace("down_proj.weight", "down_proj.modules_to_save.tennis.weight");
        saved.replace("lora_magnitude_vector", "lora_magnitude_vector.tennis.weight")
    };
    let bare = |name: String| name.trim_start_matches("base_model.model.").to_owned();
    for name in ["peft_dora", "peft_saved"] {
        for dir in [changed(name, renamed(named), json!({})), changed(name, renamed(bare), json!({}))] {
            let (vit, _) = load_adapter(dir.path(), base("dinov3_tiny")).unwrap();
            assert!(outputs(&vit) == expected(name), "{name}");
        }
    }
    let two = |tensors: BTreeMap<String, TensorData>| {
        let other = renamed(|name| name.replace(".lora_A.", ".lora_A.other."))(tensors.clone());
        renamed(named)(tensors).into_iter().chain(other).collect()
    };
    let message =
        load_adapter(changed("peft_dora", two, json!({})).path(), base("dinov3_tiny")).map(|_| ()).unwrap_err();
    assert!(message.to_string().contains("holds several adapters (other, tennis)"), "{message}");
}

/// `embeddings.patch_embeddings` ends with `embeddings`, too: PEFT wraps both and computes with the base's inner module.
#[test]
fn a_saved_module_in_a_saved_module_is_that_of_the_base_as_in_peft() {
    let embeddings = |patches: f32| {
        move |mut tensors: BTreeMap<String, TensorData>| {
            let base = read_all(&fixture("dinov3_tiny/model.safetensors")).unwrap();
            for (name, data) in base.into_iter().filter(|(name, _)| name.starts_with("embeddings.")) {
                let factor = if name.contains("patch_embeddings") { patches } else { 1.5 };
                let values: Vec<f32> = data.iter::<f32>().map(|v| factor * v).collect();
                tensors.insert(format!("base_model.model.{name}"), TensorData::new(values, data.shape().to_vec()));
            }
            tensors
        }
    };
    let settings = json!({"modules_to_save": ["embeddings"]});
    let load =
        |patches| load_adapter(changed("peft_lora", embeddings(patches), settings.clone()).path(), base("dinov3_tiny"));
    let ((same, _), (other, report)) = (load(1.0).unwrap(), load(3.0).unwrap());
    assert!(outputs(&same) == outputs(&other));
    let (plain, _) = load_adapter(&fixture("peft_lora"), base("dinov3_tiny")).unwrap();
    assert!(largest_difference(&outputs(&plain), &outputs(&same)) > 1e-3, "the class token is that of the file");
    assert!(report.notes.iter().any(|note| note.contains("embeddings.patch_embeddings lies in")), "{:?}", report.notes);
    let written = tempfile::tempdir().unwrap();
    write_adapter(written.path(), &other, &report.peft).unwrap();
    let names: Vec<String> = read_all(&written.path().join(WEIGHTS)).unwrap().into_keys().collect();
    assert!(names.contains(&"base_model.model.embeddings.patch_embeddings.weight".to_owned()), "{names:?}");
    let (again, _) = load_adapter(written.path(), base("dinov3_tiny")).unwrap();
    assert!(outputs(&again) == outputs(&other));

    let lora =
        LoraConfig { enabled: true, modules_to_save: Some(vec!["embeddings".to_owned()]), ..LoraConfig::default() };
    let (_, report) = apply_lora_to_model(base("dinov3_tiny"), &lora, None).unwrap();
    assert!(report.notes.iter().any(|note| note.contains("PEFT cannot load")), "{:?}", report.notes);
}

#[test]
fn what_is_no_adapter_is_named_with_what_to_do() {
    let refusal = |dir: &Path| AdapterFile::read(dir, paths("dinov3_tiny")).unwrap_err().to_string();
    let message = refusal(&fixture("dinov3_tiny"));
    assert!(message.contains("is a model, no adapter"), "{message}");
    let message = refusal(&fixture("peft_lora").join(WEIGHTS));
    assert!(message.contains("is a file; an adapter is a directory"), "{message}");
    let dir = tempfile::tempdir().unwrap();
    assert!(refusal(dir.path()).contains("holds no adapter_config.json"));
    fs::write(dir.path().join("adapter_model.bin"), b"PK").unwrap();
    assert!(refusal(dir.path()).contains("holds adapter_model.bin without adapter_config.json"));
    fs::copy(fixture("peft_lora").join(CONFIG), dir.path().join(CONFIG)).unwrap();
    let message = refusal(dir.path());
    assert!(message.contains("a pickle") && message.contains("save_file"), "{message}");
    fs::copy(fixture("dinov3_tiny/model.safetensors"), dir.path().join(WEIGHTS)).unwrap();
    assert!(refusal(dir.path()).contains("this is no LoRA adapter"));
}

#[test]
fn adapters_that_lack_what_their_configuration_promises_are_not_equal() {
    let read = |dir: &Path| AdapterFile::read(dir, paths("dinov3_tiny")).unwrap();
    let compared = |settings: Value| {
        let dir = changed("peft_lora", |tensors| tensors, settings);
        compare_adapters(&read(dir.path()), &read(dir.path()))
    };
    assert!(compared(json!({})).unwrap().is_empty());
    for (settings, part) in [
        (json!({"target_modules": ["q_proj", "gate_proj"]}), "target_modules: `gate_proj` has no tensor (first)"),
        (json!({"modules_to_save": ["norm"]}), "modules_to_save: `norm` has no tensor (second)"),
        (json!({"bias": "lora_only"}), "bias: lora_only has no tensor"),
    ] {
        let difference = compared(settings).unwrap().to_string();
        assert!(difference.contains(part), "{part}: {difference}");
    }
    let message = compared(json!({"r": 5})).unwrap_err().to_string();
    assert!(message.contains("have rank 4, expected 5"), "{message}");
}

#[test]
fn a_note_about_many_layers_is_one() {
    let lora = LoraConfig { enabled: true, r: 65, ..LoraConfig::default() };
    let (_, report) = apply_lora_to_model(base("dinov3_tiny"), &lora, None).unwrap();
    let notes: Vec<&String> = report.notes.iter().filter(|note| note.contains("lora.r: 65")).collect();
    assert_eq!(notes.len(), 3, "one for each shape: {notes:?}");
    assert!(notes[0].contains("layer.*.attention.q_proj (2)"), "{notes:?}");
}

//! Adapters on backbones whose paths in memory are not those of their files, and what is outside of the blocks.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde_json::{Value, json};
use tempfile::TempDir;
use tracknet::artifacts::adapter::{AdapterFile, AdapterReport, compare_adapters, load_adapter, write_adapter};
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::artifacts::pretrained::{StoredAs, write_backbone};
use tracknet::config::{Bias, LoraConfig, Pattern, TargetModules};
use tracknet::models::lora::{MergeInto, apply_lora_to_model, merge_adapters};
use tracknet::models::state::{Group, named_parameters};
use tracknet::models::{Backbone, VisitLayers, lora, quantization};

use super::{TOLERANCE, WEIGHTS};
use crate::common::{assert_close, backbone, fixture, paths, pixels, tensors};

/// Adapters that PEFT wrote with `transformers` 5, and their bases.
const ADAPTERS: [(&str, &str); 6] = [
    ("peft_bias_all", "dinov3_tiny"),
    ("peft_saved", "dinov3_tiny"),
    ("peft_vit", "vit_tiny"),
    ("peft_dinov2", "dinov2_tiny"),
    ("peft_dinov2_reg", "dinov2_reg_tiny"),
    ("peft_dinov2_swiglu", "dinov2_tiny_swiglu"),
];
const CONFIG: &str = "adapter_config.json";

fn base_of(adapter: &str) -> &'static str {
    ADAPTERS.iter().find(|(name, _)| *name == adapter).unwrap().1
}

fn base(adapter: &str) -> Backbone {
    backbone(&fixture(base_of(adapter)), &Device::flex()).unwrap()
}

/// The input of these fixtures.
fn square(device: &Device) -> Tensor<4> {
    pixels(device).slice([0..2, 0..3, 0..64, 0..64])
}

fn outputs(vit: &Backbone) -> TensorData {
    vit.tokens(square(&Device::flex())).into_data()
}

/// A copy of an adapter with other tensors and other settings.
fn changed(
    adapter: &str,
    change_tensors: impl FnOnce(BTreeMap<String, TensorData>) -> BTreeMap<String, TensorData>,
    settings: Value,
) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tensors = change_tensors(read_all(&fixture(adapter).join(WEIGHTS)).unwrap());
    write_tensors(&dir.path().join(WEIGHTS), tensors, StoredAs::F32).unwrap();
    let text = fs::read_to_string(fixture(adapter).join(CONFIG)).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    config.as_object_mut().unwrap().extend(settings.as_object().cloned().unwrap());
    fs::write(dir.path().join(CONFIG), config.to_string()).unwrap();
    dir
}

fn config_in(dir: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(dir.join(CONFIG)).unwrap()).unwrap()
}

fn same_file(file: &str, a: &Path, b: &Path) -> bool {
    fs::read(a.join(file)).unwrap() == fs::read(b.join(file)).unwrap()
}

#[test]
fn adapters_of_peft_on_every_family_give_its_output_and_come_back_byte_for_byte() {
    for (name, _) in ADAPTERS {
        let (vit, report) = load_adapter(&fixture(name), base(name)).unwrap();
        let expected = tensors(&fixture(name).join("io.safetensors"));
        let images = square(&Device::flex());
        assert_close(name, vit.tokens(images.clone()), &expected["last_hidden_state"], TOLERANCE);
        let merged = merge_adapters(vit.clone(), MergeInto::Float).unwrap();
        assert_close(name, merged.tokens(images), &expected["last_hidden_state_merged"], TOLERANCE);
        let dir = tempfile::tempdir().unwrap();
        write_adapter(dir.path(), &vit, &report.peft).unwrap();
        for file in [CONFIG, WEIGHTS] {
            assert!(same_file(file, dir.path(), &fixture(name)), "{name}/{file}");
        }
    }
}

#[test]
fn an_adapter_that_is_read_without_its_base_is_the_same_and_written_as_it_was() {
    for (name, base) in ADAPTERS {
        let of_base = AdapterFile::read(&fixture(name), paths(base)).unwrap();
        let of_any = AdapterFile::read(&fixture(name), tracknet::models::backbones::ModulePaths::AnyFamily).unwrap();
        assert!(compare_adapters(&of_base, &of_any).unwrap().is_empty(), "{name}");
        let as_written =
            AdapterFile::read(&fixture(name), tracknet::models::backbones::ModulePaths::AsWritten).unwrap();
        for file in [of_base, as_written] {
            let dir = tempfile::tempdir().unwrap();
            file.write(dir.path()).unwrap();
            assert!(same_file(WEIGHTS, dir.path(), &fixture(name)), "{name}");
        }
    }
}

/// What tells a user of `transformers` 4 from one of 5: paths in memory were those of the files.
#[test]
fn an_adapter_in_the_names_of_older_releases_is_written_in_those_that_peft_finds_today() {
    for (name, settings) in [
        (
            "peft_vit",
            json!({
                "target_modules": ["query", "value", "attention.output.dense", "intermediate.dense", "output.dense"],
                "rank_pattern": {"intermediate.dense": 2, r"encoder\.layer\.1\.attention\.attention\.query": 8},
                "alpha_pattern": {r"encoder\.layer\.0\..*": 5}
            }),
        ),
        ("peft_dinov2", json!({"target_modules": r"encoder\.layer\.\d+\.attention\.attention\.(query|value)"})),
        (
            "peft_dinov2_reg",
            json!({"target_modules": ["attention.attention.key", "fc2"], "exclude_modules": r".*\.0\.mlp\.fc2"}),
        ),
    ] {
        let spelling = paths(base_of(name));
        let rename = |tensors: BTreeMap<String, TensorData>| {
            let old = |name: String| {
                format!("base_model.model.{}", spelling.from_any(name.strip_prefix("base_model.model.").unwrap()))
            };
            tensors.into_iter().map(|(name, data)| (old(name), data)).collect()
        };
        let old = changed(name, rename, settings);
        assert!(!same_file(WEIGHTS, old.path(), &fixture(name)), "{name}: nothing was renamed");
        let (vit, report) = load_adapter(old.path(), base(name)).unwrap();
        let (expected, _) = load_adapter(&fixture(name), base(name)).unwrap();
        assert!(outputs(&vit) == outputs(&expected), "{name}");

        let written = tempfile::tempdir().unwrap();
        write_adapter(written.path(), &vit, &report.peft).unwrap();
        assert!(same_file(WEIGHTS, written.path(), &fixture(name)), "{name}");
        let config = config_in(written.path()).to_string();
        for old in ["query", "dense", "key\"", "encoder\\\\.layer\\\\.\\\\d"] {
            assert!(!config.contains(old), "{name}: `{old}` means nothing to PEFT in {config}");
        }
        let (again, _) = load_adapter(written.path(), base(name)).unwrap();
        assert!(outputs(&again) == outputs(&vit), "{name}");
    }
}

#[test]
fn an_adapter_of_a_stacked_projection_becomes_one_of_each_half() {
    let name = "peft_dinov2_swiglu";
    let ([gate, up], whole) = (["gate_proj", "up_proj"], "weights_in");
    let key = |module: &str, end: &str| format!("base_model.model.encoder.layer.0.mlp.{module}.{end}");
    let rows = |data: &TensorData| data.clone().convert::<f32>().try_to_vec::<f32>().unwrap();
    // The first matrix of gate counts for both; the others of PEFT are stacked as `transformers` 4 had them.
    let settings = json!({"target_modules": ["weights_in", "weights_out", "query"], "rank_pattern": {}});
    let stack = |mut tensors: BTreeMap<String, TensorData>| {
        let mut take = |module: &str, end: &str| tensors.remove(&key(module, end)).unwrap();
        let first = take(gate, "lora_A.weight");
        take(up, "lora_A.weight");
        let (b, bias) = (take(gate, "lora_B.weight"), take(gate, "base_layer.bias"));
        take(up, "lora_B.weight");
        let other = take(up, "base_layer.bias");
        let [output, rank] = <[usize; 2]>::try_from(b.shape().to_vec()).unwrap();
        let second: Vec<f32> = rows(&b).iter().map(|x| -2.0 * x).collect();
        let both = TensorData::new([rows(&b), second].concat(), [2 * output, rank]);
        tensors.insert(key(whole, "lora_A.weight"), first);
        tensors.insert(key(whole, "lora_B.weight"), both);
        tensors
            .insert(key(whole, "base_layer.bias"), TensorData::new([rows(&bias), rows(&other)].concat(), [2 * output]));
        let old = ["lora_A.weight", "lora_B.weight", "base_layer.bias"];
        for end in old {
            let moved = tensors.remove(&key("down_proj", end)).unwrap();
            tensors.insert(key("weights_out", end), moved);
        }
        tensors
    };
    let old = changed(name, stack, settings);
    let (vit, report) = load_adapter(old.path(), base(name)).unwrap();

    // The same by hand.
    let halves = |mut tensors: BTreeMap<String, TensorData>| {
        let a = tensors[&key(gate, "lora_A.weight")].clone();
        let b = &tensors[&key(gate, "lora_B.weight")];
        let second = TensorData::new(rows(b).iter().map(|x| -2.0 * x).collect::<Vec<f32>>(), b.shape().clone());
        tensors.insert(key(up, "lora_A.weight"), a);
        tensors.insert(key(up, "lora_B.weight"), second);
        tensors
    };
    let expected = changed(name, halves, json!({"rank_pattern": {}}));
    let (by_hand, _) = load_adapter(expected.path(), base(name)).unwrap();
    assert!(outputs(&vit) == outputs(&by_hand));
    let written = tempfile::tempdir().unwrap();
    write_adapter(written.path(), &vit, &report.peft).unwrap();
    assert!(same_file(WEIGHTS, written.path(), expected.path()));
    assert!(!config_in(written.path()).to_string().contains("weights_"), "PEFT finds no such module");

    let odd = |mut tensors: BTreeMap<String, TensorData>| {
        tensors.insert(key(whole, "lora_B.weight"), TensorData::zeros::<f32, _>([3, 4]));
        tensors
    };
    let message = load_adapter(changed(name, odd, json!({})).path(), base(name)).unwrap_err().to_string();
    assert!(message.contains("weights_in.lora_B.weight: has shape [3, 4]") && message.contains("even"), "{message}");
}

#[test]
fn parts_that_heatmaps_do_not_need_are_kept_written_again_and_merged() {
    let (vit, report) = load_adapter(&fixture("peft_vit"), base("peft_vit")).unwrap();
    assert!(report.notes.iter().any(|note| note.contains("pooler.dense.bias")), "{:?}", report.notes);
    let dir = tempfile::tempdir().unwrap();
    write_backbone(dir.path(), &merge_adapters(vit, MergeInto::Float).unwrap(), StoredAs::F32).unwrap();
    let [merged, adapter, before] = [
        dir.path().join("model.safetensors"),
        fixture("peft_vit").join(WEIGHTS),
        fixture("vit_tiny/model.safetensors"),
    ]
    .map(|path| read_all(&path).unwrap());
    assert!(merged.keys().eq(before.keys()), "the merged model has the tensors of its base");
    assert!(merged["pooler.dense.bias"] == adapter["base_model.model.pooler.dense.bias"]);
    assert!(merged["pooler.dense.weight"] == before["pooler.dense.weight"]);

    // An adapter of the pooler itself: `all-linear` of PEFT takes it in.
    let pooler = |end: &str| format!("base_model.model.pooler.dense.{end}");
    let add = |mut tensors: BTreeMap<String, TensorData>| {
        tensors.insert(pooler("lora_A.weight"), TensorData::zeros::<f32, _>([4, 64]));
        tensors.insert(pooler("lora_B.weight"), TensorData::zeros::<f32, _>([64, 4]));
        let bias = tensors.remove(&pooler("bias")).unwrap();
        tensors.insert(pooler("base_layer.bias"), bias);
        tensors
    };
    let with_pooler =
        changed("peft_vit", add, json!({"target_modules": ["q_proj", "v_proj", "o_proj", "fc1", "fc2", "dense"]}));
    let (vit, report) = load_adapter(with_pooler.path(), base("peft_vit")).unwrap();
    assert_eq!(report.adapted.len(), 10);
    let written = tempfile::tempdir().unwrap();
    write_adapter(written.path(), &vit, &report.peft).unwrap();
    assert!(same_file(WEIGHTS, written.path(), with_pooler.path()));
    assert_eq!(config_in(written.path())["target_modules"], config_in(with_pooler.path())["target_modules"]);
}

/// `bias: all` with `modules_to_save`: PEFT 0.21 writes the biases of its wrapper, too.
#[test]
fn what_peft_wraps_around_a_saved_module_is_left_out() {
    let add = |mut tensors: BTreeMap<String, TensorData>| {
        for part in ["original_module", "modules_to_save"] {
            tensors.insert(format!("base_model.model.norm.{part}.bias"), TensorData::zeros::<f32, _>([64]));
        }
        tensors
    };
    let dir = changed("peft_saved", add, json!({"bias": "none"}));
    let (vit, _) = load_adapter(dir.path(), base("peft_saved")).unwrap();
    let (expected, _) = load_adapter(&fixture("peft_saved"), base("peft_saved")).unwrap();
    assert!(outputs(&vit) == outputs(&expected));
}

#[test]
fn names_of_files_and_short_names_are_spelled_out_for_peft() {
    let list = |entries: &[&str]| entries.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>();
    let config = LoraConfig {
        enabled: true,
        r: 4,
        lora_alpha: 8.0,
        target_modules: Some(TargetModules::List(list(&["query", "dense"]))),
        exclude_modules: Some(TargetModules::List(list(&["layers.1.mlp.fc1"]))),
        rank_pattern: Pattern(vec![("intermediate.dense".to_owned(), 2)]),
        alpha_pattern: Pattern(vec![(r"layers\.1\..*".to_owned(), 3.0)]),
        modules_to_save: Some(list(&["layernorm_after", "encoder.layer.1.attention.attention.value"])),
        init_lora_weights: tracknet::config::InitMethod::Random,
        ..LoraConfig::default()
    };
    let (vit, report) = apply_lora_to_model(base("peft_vit"), &config, None).unwrap();
    let report = AdapterReport::of_new(report, &config, vit.module_paths());
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &vit, &report.peft).unwrap();
    let written = config_in(dir.path());
    let expected = json!([
        "layers.0.attention.q_proj",
        "layers.0.attention.o_proj",
        "layers.0.mlp.fc1",
        "layers.0.mlp.fc2",
        "layers.1.attention.q_proj",
        "layers.1.attention.o_proj",
        "layers.1.mlp.fc2"
    ]);
    assert_eq!(written["target_modules"], expected);
    assert_eq!(written["rank_pattern"], json!({r"layers\.0\.mlp\.fc1": 2}));
    assert_eq!(written["alpha_pattern"].as_object().unwrap().len(), 3);
    let saved = json!(["layers.0.layernorm_after", "layers.1.attention.v_proj", "layers.1.layernorm_after"]);
    assert_eq!(written["modules_to_save"], saved);
    let names: Vec<String> = read_all(&dir.path().join(WEIGHTS)).unwrap().into_keys().collect();
    assert!(names.iter().all(|name| !name.contains("encoder")), "{names:?}");
    assert!(names.contains(&"base_model.model.layers.1.attention.v_proj.weight".to_owned()), "{names:?}");
    let (again, _) = load_adapter(dir.path(), base("peft_vit")).unwrap();
    assert!(outputs(&again) == outputs(&vit.valid()));
}

/// The final norm and the embeddings are not one module deeper in memory, as the blocks are.
#[test]
fn parameters_outside_of_the_blocks_are_saved_without_the_prefix_of_the_blocks() {
    let config = LoraConfig {
        enabled: true,
        bias: Bias::All,
        modules_to_save: Some(vec!["norm".to_owned()]),
        ..LoraConfig::default()
    };
    let (vit, report) = apply_lora_to_model(base("peft_saved"), &config, None).unwrap();
    let report = AdapterReport::of_new(report, &config, vit.module_paths());
    let dir = tempfile::tempdir().unwrap();
    write_adapter(dir.path(), &vit, &report.peft).unwrap();
    let names = read_all(&dir.path().join(WEIGHTS)).unwrap();
    for name in ["norm.weight", "norm.bias", "embeddings.patch_embeddings.bias", "model.layer.1.norm2.bias"] {
        assert!(names.contains_key(&format!("base_model.model.{name}")), "{name} is not in {:?}", names.keys());
    }
    // Adapters that were saved with it are read.
    let old = |tensors: BTreeMap<String, TensorData>| {
        tensors.into_iter().map(|(name, data)| (name.replace("model.norm.", "model.model.norm."), data)).collect()
    };
    let (read, _) = load_adapter(changed("peft_saved", old, json!({})).path(), base("peft_saved")).unwrap();
    assert!(outputs(&read) == outputs(&load_adapter(&fixture("peft_saved"), base("peft_saved")).unwrap().0));
}

#[test]
fn gate_and_up_of_a_swiglu_are_two_layers_that_files_have_as_one() {
    let vit = base("peft_dinov2_swiglu");
    let parameters = named_parameters(&vit);
    let of = |name: &str| parameters.iter().find(|p| p.name == format!("encoder.layer.0.mlp.{name}"));
    assert!(of("weights_in.weight").is_none() && of("gate_proj.weight").unwrap().group == Group::Backbone);
    let dir = tempfile::tempdir().unwrap();
    for (_, name) in ADAPTERS {
        write_backbone(dir.path(), &backbone(&fixture(name), &Device::flex()).unwrap(), StoredAs::F32).unwrap();
        assert!(same_file("model.safetensors", dir.path(), &fixture(name)), "{name}");
    }
    let packed = quantization::apply_quantization(vit, &super::nf4()).unwrap().0;
    let layers = lora::layer_status(&packed);
    assert!(layers.iter().any(|l| l.name == "encoder.layer.0.mlp.up_proj" && l.storage == "nf4/64+dq"), "{layers:?}");
    // The same products of the same values, in another order.
    let floats = quantization::dequantize(packed.clone());
    assert!(!floats.is_quantized());
    assert_close("dequantized", floats.tokens(square(&Device::flex())), &outputs(&packed), TOLERANCE);
}

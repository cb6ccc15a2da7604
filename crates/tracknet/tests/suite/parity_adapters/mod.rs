//! LoRA and 4-bit backbones against PEFT and bitsandbytes: adapter files, outputs, gradients.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

mod families;
mod starts;

use std::collections::BTreeMap;
use std::fs;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tracknet::artifacts::adapter::{AdapterFile, AdapterReport, AdapterSet, load_adapter, write_adapter};
use tracknet::artifacts::pretrained::StoredAs;
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::config::{Bias, DtypeName, LoraConfig, QuantizationConfig};
use tracknet::models::lora::{
    MergeInto, layer_status, merge_adapters, merge_and_compare, status_table, unmerge_adapters,
};
use tracknet::models::state::{
    Group, ParameterInfo, ParameterVisitor, Require, load_state, named_parameters, state_dict, visit_parameters,
};
use tracknet::models::{Backbone, VisitLayers, apply_lora_to_model, apply_quantization};
use tracknet_kernels::matmul::matmul;

use crate::common::{assert_close, device, fixture, largest, largest_difference, pixels, tensors};

/// f32 sums in another order, through two blocks.
const TOLERANCE: f32 = 1e-4;
/// The tensors of an adapter.
const WEIGHTS: &str = "adapter_model.safetensors";

fn base(device: &Device) -> Backbone {
    common::backbone(&fixture("dinov3_tiny"), device).unwrap()
}

fn nf4() -> QuantizationConfig {
    QuantizationConfig { enabled: true, compute_dtype: DtypeName::Float32, ..QuantizationConfig::default() }
}

const ADAPTERS: [&str; 6] =
    ["peft_lora", "peft_rslora", "peft_dora", "peft_pattern", "peft_regex", "peft_bias_lora_only"];

fn adapted(name: &str, device: &Device) -> (Backbone, AdapterReport) {
    load_adapter(&fixture(name), base(device)).unwrap()
}

#[test]
fn adapters_that_peft_wrote_give_the_output_of_peft() {
    for name in ADAPTERS {
        for device in [common::device(), common::device().autodiff()] {
            let (vit, report) = adapted(name, &device);
            let expected = tensors(&fixture(name).join("io.safetensors"));
            assert_eq!(report.adapted.len(), if name == "peft_regex" { 4 } else { 12 }, "{name}");
            assert!(report.notes.is_empty(), "{name}: every key is known: {:?}", report.notes);
            for module in &report.adapted {
                let scale = expected[&format!("scaling.model.{}", module.path)].try_to_vec::<f32>().unwrap()[0];
                assert_eq!(module.scale, scale, "{name} {}", module.path);
            }
            // Dropout is 0.05 in the file; a model that trains would draw masks.
            let vit = vit.valid();
            assert_close(name, vit.tokens(pixels(&device)), &expected["last_hidden_state"], TOLERANCE);
        }
    }
}

#[test]
fn merged_adapters_give_the_output_and_the_weights_of_peft() {
    for name in ADAPTERS {
        let device = common::device();
        let (vit, _) = adapted(name, &device);
        let probe = |vit: &Backbone| vit.tokens(pixels(&device));
        let (merged, deviation) = merge_and_compare(&vit, MergeInto::Float, probe).unwrap();
        // Outputs of the size of a few, after two blocks.
        assert!(deviation.max < TOLERANCE && deviation.mean < deviation.max, "{name}: {deviation}");
        let expected = tensors(&fixture(name).join("io.safetensors"));
        assert_close(name, probe(&merged), &expected["last_hidden_state_merged"], TOLERANCE);
        let state = state_dict(&merged, |p| p.name.ends_with(".weight"));
        for (key, want) in &expected {
            let Some(path) = key.strip_prefix("merged.model.") else { continue };
            // Rows of 64 to 128 products; weights below 1.
            assert!(largest_difference(&state[path], want) < 1e-6, "{name} {path}");
        }
        assert!(!named_parameters(&merged).iter().any(|p| p.group == Group::Adapter), "{name}");
    }
}

#[test]
fn merging_and_taking_it_back_returns_base_and_output() {
    let device = common::device();
    let weights = |vit: &Backbone| state_dict(vit, |p| p.group == Group::Backbone && p.name.ends_with("_proj.weight"));
    for name in ADAPTERS {
        let (vit, _) = adapted(name, &device);
        let back = unmerge_adapters(merge_adapters(vit.clone(), MergeInto::Float).unwrap()).unwrap();
        for (path, want) in weights(&vit) {
            // One rounding of a sum of values around 0.1, and with DoRA of a quotient.
            assert!(largest_difference(&weights(&back)[&path], &want) < 1e-6, "{name} {path}");
        }
        let [a, b] = [vit, back].map(|v| v.tokens(pixels(&device)).into_data());
        assert!(largest_difference(&a, &b) < TOLERANCE, "{name}");
    }
}

#[test]
fn a_packed_base_is_merged_into_floats_and_into_four_bits_when_asked() {
    let device = common::device();
    let (vit, _) = apply_quantization(base(&device), &nf4()).unwrap();
    let (vit, _) = load_adapter(&fixture("peft_lora"), vit).unwrap();
    let probe = |vit: &Backbone| vit.tokens(pixels(&device));
    let (float, small) = merge_and_compare(&vit, MergeInto::Float, probe).unwrap();
    assert!(!float.is_quantized() && small.max < TOLERANCE, "{small}");
    let (packed, large) = merge_and_compare(&vit, MergeInto::Requantized, probe).unwrap();
    assert!(packed.is_quantized() && large.max > 100.0 * small.max, "{large}");
    assert!(unmerge_adapters(packed).unwrap_err().to_string().contains("merged into 4 bits"));
    let storage: Vec<String> = layer_status(&float).into_iter().map(|l| l.storage).collect();
    assert!(storage.iter().all(|s| s == "float32"), "{storage:?}");
}

#[test]
fn a_weight_that_would_not_be_finite_is_refused_by_name() {
    let (mut vit, _) = adapted("peft_lora", &device());
    vit.visit_layers_mut(&mut |path, layer| {
        if let (Some(adapter), true) = (layer.adapter_mut(), path == "layer.1.mlp.up_proj") {
            adapter.a = adapter.a.clone().map(|a| a.mul_scalar(f32::INFINITY));
        }
    });
    let message = merge_adapters(vit, MergeInto::Float).unwrap_err().to_string();
    assert!(message.contains("layer.1.mlp.up_proj.weight"), "{message}");
}

#[test]
fn a_directory_that_peft_wrote_comes_back_byte_for_byte() {
    for name in ADAPTERS {
        let (vit, report) = adapted(name, &device());
        let dir = tempfile::tempdir().unwrap();
        write_adapter(dir.path(), &vit, &report.peft).unwrap();
        for file in ["adapter_config.json", "adapter_model.safetensors"] {
            let [ours, theirs] = [dir.path().join(file), fixture(name).join(file)].map(|p| fs::read(p).unwrap());
            assert!(ours == theirs, "{name}/{file}");
        }
        let again = AdapterFile::read(dir.path(), common::paths("dinov3_tiny")).unwrap();
        let other = tempfile::tempdir().unwrap();
        again.write(other.path()).unwrap();
        let file = "adapter_model.safetensors";
        assert!(fs::read(other.path().join(file)).unwrap() == fs::read(dir.path().join(file)).unwrap(), "{name}");
    }
}

#[test]
fn both_spellings_of_a_path_load_and_one_module_in_both_is_refused() {
    let device = common::device();
    let dir = tempfile::tempdir().unwrap();
    fs::copy(fixture("peft_dora").join("adapter_config.json"), dir.path().join("adapter_config.json")).unwrap();
    let path = dir.path().join("adapter_model.safetensors");
    let theirs = tensors(&fixture("peft_dora").join("adapter_model.safetensors"));
    let short = |name: &String| name.replace("base_model.model.model.", "base_model.model.");
    let mut renamed: BTreeMap<String, TensorData> = theirs.iter().map(|(n, d)| (short(n), d.clone())).collect();
    write_tensors(&path, renamed.clone(), StoredAs::F32).unwrap();
    let (vit, _) = load_adapter(dir.path(), base(&device)).unwrap();
    let [a, b] = [vit, adapted("peft_dora", &device).0].map(|v| v.tokens(pixels(&device)).into_data());
    assert!(a == b);

    let (name, data) = theirs.iter().next().unwrap();
    renamed.insert(name.clone(), data.clone());
    write_tensors(&path, renamed, StoredAs::F32).unwrap();
    let message = load_adapter(dir.path(), base(&device)).unwrap_err().to_string();
    assert!(message.contains("is there twice"), "{message}");
}

#[test]
fn named_adapters_are_switched_on_one_base_and_leave_it_as_it_was() {
    let device = common::device();
    let mut set = AdapterSet::new(base(&device));
    for name in ["peft_bias_lora_only", "peft_dora"] {
        set.add(name, &fixture(name)).unwrap();
    }
    assert!(set.add("peft_dora", &fixture("peft_dora")).unwrap_err().to_string().contains("already"));
    assert_eq!(set.names().collect::<Vec<_>>(), ["peft_bias_lora_only", "peft_dora"]);
    for name in ["peft_dora", "peft_bias_lora_only", "peft_dora"] {
        let expected = tensors(&fixture(name).join("io.safetensors"));
        assert_close(name, set.with(name).unwrap().tokens(pixels(&device)), &expected["last_hidden_state"], TOLERANCE);
    }
    assert!(set.without().tokens(pixels(&device)).into_data() == base(&device).tokens(pixels(&device)).into_data());
    assert!(set.with("other").unwrap_err().to_string().contains("peft_bias_lora_only, peft_dora"));
}

#[test]
fn the_status_of_a_layer_tells_its_adapter_and_its_storage() {
    let (vit, _) = adapted("peft_pattern", &device().autodiff());
    let status = layer_status(&vit);
    let of = |name: &str| status.iter().find(|l| l.name == name).unwrap().adapter.unwrap();
    let query = of("layer.0.attention.q_proj");
    assert_eq!(
        (query.rank, query.alpha, query.variant(), query.merged, query.trainable),
        (8, 32.0, "lora", false, true)
    );
    assert_eq!((of("layer.1.mlp.down_proj").rank, of("layer.0.mlp.up_proj").alpha), (2, 5.0));
    let merged = layer_status(&merge_adapters(vit, MergeInto::Float).unwrap());
    assert!(merged.iter().all(|l| l.adapter.is_some_and(|a| a.merged && !a.trainable)));
    let table = status_table(&merged);
    assert_eq!(table.lines().count(), 13);
    assert!(table.lines().next().unwrap().starts_with("layer "), "{table}");
}

#[test]
fn a_backbone_in_nf4_gives_the_output_of_bitsandbytes() {
    let expected = tensors(&fixture("bnb_checkpoint/io.safetensors"));
    for device in [common::device(), common::device().autodiff()] {
        let (vit, report) = apply_quantization(base(&device), &nf4()).unwrap();
        assert_eq!(report.layers.len(), 12);
        // Both multiply the same dequantized weights in f32.
        assert_close("nf4", vit.tokens(pixels(&device)), &expected["last_hidden_state"], TOLERANCE);
        assert_close("nf4, valid", vit.valid().tokens(pixels(&device)), &expected["last_hidden_state"], TOLERANCE);
    }
}

#[test]
fn lora_gradients_on_float_and_packed_backbones_are_those_of_peft() {
    for name in ["lora", "qlora"] {
        let golden = tensors(&fixture(&format!("train_step/{name}.safetensors")));
        let device = common::device().autodiff();
        let vit = base(&device);
        let vit = if name == "qlora" { apply_quantization(vit, &nf4()).unwrap().0 } else { vit };
        let config = LoraConfig { enabled: true, r: 4, lora_alpha: 8.0, lora_dropout: 0.0, ..LoraConfig::default() };
        let (vit, _) = apply_lora_to_model(vit, &config, None).unwrap();
        let start: BTreeMap<String, TensorData> =
            golden.iter().filter_map(|(n, d)| Some((n.strip_prefix("init.model.")?.to_owned(), d.clone()))).collect();
        let vit = load_state(vit, start, Require::Trainable).unwrap();

        let map = vit.forward(pixels(&device)).coarsest().map.clone();
        let weight = Tensor::<4>::from_data(golden["init.head.conv.weight"].clone(), &device).reshape([1, 1, 64]);
        let bias = Tensor::<1>::from_data(golden["init.head.conv.bias"].clone(), &device).reshape([1, 1, 1]);
        let prediction = (matmul(weight, map.reshape([2, 64, 24])) + bias).reshape([2, 1, 4, 6]);
        assert_close(name, prediction.clone(), &golden["pred_step1"], TOLERANCE);
        let target = Tensor::<4>::from_data(golden["target"].clone(), &device);
        let gradients = (prediction - target).square().mean().backward();

        struct Compare<'a>(&'a burn::tensor::Gradients, &'a BTreeMap<String, TensorData>, usize);
        impl ParameterVisitor for Compare<'_> {
            fn visit<const D: usize>(&mut self, info: &ParameterInfo, parameter: &Param<Tensor<D>>) {
                match parameter.val().grad(self.0) {
                    Some(gradient) => {
                        self.2 += 1;
                        let want = &self.1[&format!("grad1.model.{}", info.name)];
                        // Gradients are small: sums of f32 in another order, relative to the largest.
                        assert_close(&info.name, gradient, want, 1e-4 * largest(want));
                    }
                    None => assert!(!info.trainable, "{} trains but has no gradient", info.name),
                }
            }
        }
        let mut compare = Compare(&gradients, &golden, 0);
        visit_parameters(&vit, &mut compare);
        assert_eq!(compare.2, 24, "two matrices of twelve adapters, and nothing else");
    }
}

#[test]
fn only_adapters_train_on_an_adapted_backbone_and_biases_when_asked() {
    let device = common::device().autodiff();
    let adapted = |bias: Bias| {
        let config = LoraConfig { enabled: true, bias, ..LoraConfig::default() };
        let targets = ["q_proj".to_owned(), "up_proj".to_owned()];
        let (vit, _) = apply_lora_to_model(base(&device), &config, Some(&targets)).unwrap();
        // A round trip through evaluation must not change what trains.
        named_parameters(&vit.valid().train())
    };
    let trains = |p: &&ParameterInfo| p.trainable;
    assert!(adapted(Bias::None).iter().all(|p| p.trainable == (p.group == Group::Adapter)));
    assert_eq!(adapted(Bias::None).iter().filter(trains).count(), 8);
    let lora_only = adapted(Bias::LoraOnly);
    let biases: Vec<&str> =
        lora_only.iter().filter(trains).filter(|p| p.group != Group::Adapter).map(|p| p.name.as_str()).collect();
    assert_eq!(
        biases,
        [
            "layer.0.attention.q_proj.bias",
            "layer.0.mlp.up_proj.bias",
            "layer.1.attention.q_proj.bias",
            "layer.1.mlp.up_proj.bias"
        ]
    );
    let all = adapted(Bias::All);
    assert!(all.iter().all(|p| p.trainable == (p.group == Group::Adapter || p.name.ends_with(".bias"))));
}

#[test]
fn a_written_adapter_holds_the_biases_that_train() {
    let device = common::device();
    let names = |bias: Bias| {
        let config = LoraConfig { enabled: true, bias, ..LoraConfig::default() };
        let targets = ["q_proj".to_owned()];
        let (vit, report) = apply_lora_to_model(base(&device), &config, Some(&targets)).unwrap();
        let report = AdapterReport::of_new(report, &config, vit.module_paths());
        let dir = tempfile::tempdir().unwrap();
        write_adapter(dir.path(), &vit, &report.peft).unwrap();
        let names: Vec<String> = tensors(&dir.path().join("adapter_model.safetensors")).into_keys().collect();
        names
    };
    assert_eq!(names(Bias::None).len(), 4);
    let lora_only = names(Bias::LoraOnly);
    assert_eq!(lora_only.len(), 6);
    let adapted = "base_model.model.model.layer.0.attention.q_proj.base_layer.bias".to_owned();
    assert!(lora_only.contains(&adapted), "{lora_only:?}");
    let all = names(Bias::All);
    assert!(all.contains(&adapted));
    assert!(all.contains(&"base_model.model.model.layer.1.norm2.bias".to_owned()), "{all:?}");
    assert!(!all.contains(&"base_model.model.model.layer.0.attention.q_proj.bias".to_owned()));
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_by_tensor() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        fs::copy(fixture("peft_lora").join(file), dir.path().join(file)).unwrap();
    }
    let device = common::device();
    let refusal = || load_adapter(dir.path(), base(&device)).unwrap_err().to_string();

    let path = dir.path().join("adapter_model.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut tensors = read_all(&path).unwrap();
    let name = |end: &str| tensors.keys().find(|k| k.ends_with(end)).unwrap().clone();
    let (missing, misshapen) = (name("0.attention.q_proj.lora_B.weight"), name("1.attention.q_proj.lora_A.weight"));
    let matrix = tensors.remove(&missing).unwrap();
    tensors.insert("base_model.model.layer.9.mlp.up_proj.lora_A.weight".to_owned(), matrix.clone());
    tensors.insert("base_model.model.layer.0.gamma".to_owned(), matrix.clone());
    write_tensors(&path, tensors, StoredAs::F32).unwrap();
    let message = refusal();
    for part in [
        "3 tensors do not fit the model",
        "layer.0.attention.q_proj: needs both lora_A.weight and lora_B.weight",
        "layer.9.mlp.up_proj: needs both",
        "base_model.model.layer.0.gamma: is no part of a LoRA adapter",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }

    let mut tensors = read_all(&fixture("peft_lora").join("adapter_model.safetensors")).unwrap();
    tensors.insert(misshapen, TensorData::new(vec![0f32; 6], [2, 3]));
    for end in ["A", "B"] {
        tensors.insert(format!("base_model.model.layer.9.mlp.up_proj.lora_{end}.weight"), matrix.clone());
    }
    write_tensors(&path, tensors, StoredAs::F32).unwrap();
    let message = refusal();
    for part in [
        "2 tensors do not fit the model",
        "layer.1.attention.q_proj: found lora_A [2, 3]",
        "expected [4, 64] and [64, 4]",
        "layer.9.mlp.up_proj: the model has no such layer",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(refusal().contains("adapter_model.safetensors"));
    fs::write(dir.path().join("adapter_config.json"), r#"{"r": 4, "lora_alpha": 8, "lora_bias": true}"#).unwrap();
    assert!(refusal().contains("lora_bias"));
}

//! LoRA and 4-bit backbones against PEFT and bitsandbytes: adapter files, outputs, gradients.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

mod common;

use std::collections::BTreeMap;
use std::fs;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tracknet::config::{LoraConfig, QuantizationConfig};
use tracknet::models::backbones::VitSpec;
use tracknet::models::init::Builder;
use tracknet::models::lora::{load_adapter, write_adapter};
use tracknet::models::pretrained::checkpoint::WeightSource;
use tracknet::models::pretrained::save::{read_all, write_tensors};
use tracknet::models::pretrained::{Checkpoint, StoredAs};
use tracknet::models::state::{
    Group, ParameterInfo, ParameterVisitor, Require, load_state, named_parameters, visit_parameters,
};
use tracknet::models::{Vit, apply_lora_to_model, apply_quantization};

use common::{assert_close, fixture, pixels, tensors};

/// f32 sums in another order, through two blocks.
const TOLERANCE: f32 = 1e-4;

fn base(device: &Device) -> Vit {
    let checkpoint = Checkpoint::open(&fixture("dinov3_tiny")).unwrap();
    let (spec, _) = VitSpec::from_config(&checkpoint.config, "config.json").unwrap();
    let source = WeightSource::new(&checkpoint.weights, spec.names.optional_prefix);
    let vit = Vit::new(&spec, &Builder::new(&source, device));
    source.finish(|n| spec.names.is_unused(n)).unwrap();
    vit
}

fn nf4() -> QuantizationConfig {
    QuantizationConfig { enabled: true, compute_dtype: "float32".to_owned(), ..QuantizationConfig::default() }
}

#[test]
fn adapters_that_peft_wrote_give_the_output_of_peft() {
    for name in ["peft_lora", "peft_rslora", "peft_pattern"] {
        let device = Device::flex();
        let mut vit = base(&device);
        let report = load_adapter(&fixture(name), &mut vit, &device).unwrap();
        let expected = tensors(&fixture(name).join("io.safetensors"));
        assert_eq!(report.adapted.len(), 12, "{name}");
        for module in &report.adapted {
            let scale = expected[&format!("scaling.model.{}", module.path)].try_to_vec::<f32>().unwrap()[0];
            assert_eq!(module.scale, scale, "{name} {}", module.path);
        }
        assert_close(name, vit.tokens(pixels(&device)), &expected["last_hidden_state"], TOLERANCE);
    }
}

#[test]
fn a_written_adapter_holds_the_tensors_it_was_read_from() {
    let device = Device::flex();
    let mut vit = base(&device);
    load_adapter(&fixture("peft_lora"), &mut vit, &device).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let config = LoraConfig { enabled: true, r: 4, lora_alpha: 8.0, ..LoraConfig::default() };
    write_adapter(dir.path(), &vit, &config, Some("dinov3_tiny")).unwrap();
    let file = "adapter_model.safetensors";
    assert_eq!(tensors(&dir.path().join(file)), tensors(&fixture("peft_lora").join(file)));

    let mut again = base(&device);
    load_adapter(dir.path(), &mut again, &device).unwrap();
    let [a, b] = [vit, again].map(|v| v.tokens(pixels(&device)).into_data());
    assert!(a == b);
}

#[test]
fn a_backbone_in_nf4_gives_the_output_of_bitsandbytes() {
    let expected = tensors(&fixture("bnb_checkpoint/io.safetensors"));
    for device in [Device::flex(), Device::flex().autodiff()] {
        let (vit, report) = apply_quantization(base(&device), &nf4()).unwrap();
        assert_eq!(report.layers.len(), 12);
        // Both multiply the same dequantized weights in f32.
        assert_close("nf4", vit.tokens(pixels(&device)), &expected["last_hidden_state"], TOLERANCE);
        assert_close(
            "nf4, valid",
            vit.valid().tokens(pixels(&Device::flex())),
            &expected["last_hidden_state"],
            TOLERANCE,
        );
    }
}

#[test]
fn lora_gradients_on_float_and_packed_backbones_are_those_of_peft() {
    for name in ["lora", "qlora"] {
        let golden = tensors(&fixture(&format!("train_step/{name}.safetensors")));
        let device = Device::flex().autodiff();
        let vit = base(&device);
        let vit = if name == "qlora" { apply_quantization(vit, &nf4()).unwrap().0 } else { vit };
        let config = LoraConfig { enabled: true, r: 4, lora_alpha: 8.0, lora_dropout: 0.0, ..LoraConfig::default() };
        let (vit, _) = apply_lora_to_model(vit, &config, None, 0).unwrap();
        let start: BTreeMap<String, TensorData> =
            golden.iter().filter_map(|(n, d)| Some((n.strip_prefix("init.model.")?.to_owned(), d.clone()))).collect();
        let vit = load_state(vit, start, Require::Trainable).unwrap();

        let map = vit.forward(pixels(&device)).map;
        let weight = Tensor::<4>::from_data(golden["init.head.conv.weight"].clone(), &device).reshape([1, 1, 64]);
        let bias = Tensor::<1>::from_data(golden["init.head.conv.bias"].clone(), &device).reshape([1, 1, 1]);
        let prediction = (weight.matmul(map.reshape([2, 64, 24])) + bias).reshape([2, 1, 4, 6]);
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
                        assert_close(&info.name, gradient, want, TOLERANCE);
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
    let device = Device::flex().autodiff();
    let adapted = |bias: &str| {
        let config = LoraConfig { enabled: true, bias: bias.to_owned(), ..LoraConfig::default() };
        let targets = ["q_proj".to_owned(), "up_proj".to_owned()];
        let (vit, _) = apply_lora_to_model(base(&device), &config, Some(&targets), 0).unwrap();
        // A round trip through evaluation must not change what trains.
        named_parameters(&vit.valid().train())
    };
    let trains = |p: &&ParameterInfo| p.trainable;
    assert!(adapted("none").iter().all(|p| p.trainable == (p.group == Group::Adapter)));
    assert_eq!(adapted("none").iter().filter(trains).count(), 8);
    let lora_only = adapted("lora_only");
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
    let all = adapted("all");
    assert!(all.iter().all(|p| p.trainable == (p.group == Group::Adapter || p.name.ends_with(".bias"))));
}

#[test]
fn a_written_adapter_holds_the_biases_that_train() {
    let device = Device::flex();
    let names = |bias: &str| {
        let config = LoraConfig { enabled: true, bias: bias.to_owned(), ..LoraConfig::default() };
        let targets = ["q_proj".to_owned()];
        let (vit, _) = apply_lora_to_model(base(&device), &config, Some(&targets), 0).unwrap();
        let dir = tempfile::tempdir().unwrap();
        write_adapter(dir.path(), &vit, &config, None).unwrap();
        let names: Vec<String> = tensors(&dir.path().join("adapter_model.safetensors")).into_keys().collect();
        names
    };
    assert_eq!(names("none").len(), 4);
    let lora_only = names("lora_only");
    assert_eq!(lora_only.len(), 6);
    let adapted = "base_model.model.model.layer.0.attention.q_proj.base_layer.bias".to_owned();
    assert!(lora_only.contains(&adapted), "{lora_only:?}");
    let all = names("all");
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
    let device = Device::flex();
    let refusal = || load_adapter(dir.path(), &mut base(&device), &device).unwrap_err().to_string();

    let path = dir.path().join("adapter_model.safetensors");
    let whole = fs::read(&path).unwrap();
    let mut tensors = read_all(&path).unwrap();
    let name = |end: &str| tensors.keys().find(|k| k.ends_with(end)).unwrap().clone();
    let (missing, misshapen) = (name("0.attention.q_proj.lora_B.weight"), name("1.attention.q_proj.lora_A.weight"));
    let matrix = tensors.remove(&missing).unwrap();
    tensors.insert(misshapen, TensorData::new(vec![0f32; 6], [2, 3]));
    tensors.insert("base_model.model.layer.9.mlp.up_proj.lora_A.weight".to_owned(), matrix.clone());
    tensors.insert("base_model.model.layer.0.gamma".to_owned(), matrix);
    write_tensors(&path, tensors, StoredAs::F32).unwrap();
    let message = refusal();
    for part in [
        "4 tensors do not fit the model",
        "layer.0.attention.q_proj: needs both lora_A.weight and lora_B.weight",
        "layer.1.attention.q_proj: found lora_A [2, 3]",
        "layer.9.mlp.up_proj: the model has no such linear layer",
        "base_model.model.layer.0.gamma: is no part of a LoRA adapter",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }

    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    assert!(refusal().contains("adapter_model.safetensors"));
    fs::write(dir.path().join("adapter_config.json"), r#"{"r": 4, "lora_alpha": 8, "use_dora": true}"#).unwrap();
    assert!(refusal().contains("use_dora"));
}

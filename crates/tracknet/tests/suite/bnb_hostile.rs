//! Files that lie: every one is refused with an error that names what is wrong, by everything that reads it.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use safetensors::Dtype;
use serde_json::{Value, json};
use tracknet::artifacts::build_model;
use tracknet::artifacts::pretrained::bnb::{QuantizeJob, dequantize_checkpoint, quantize_checkpoint};
use tracknet::config::ModelConfig;
use tracknet::files::Destination;
use tracknet::inspect::Inspection;
use tracknet_kernels::{ComputeDtype, QuantizeOptions};

use crate::bnb_support::{RawTensors, change, copy_of, shard};
use crate::common::fixture;

const WEIGHT: &str = "layer.0.mlp.up_proj.weight";
const STATE: &str = "layer.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4";

/// What building a model on the checkpoint says.
fn build(dir: &Path) -> Result<(), String> {
    let mut config = ModelConfig { pretrained_model_name: Some(dir.display().to_string()), ..ModelConfig::default() };
    config.decoder.channels = vec![64, 16];
    config.decoder.upsample = vec![2];
    config.heatmap.size = [48, 32];
    build_model(&config, [96, 64], 1, &Device::flex()).map(|_| ()).map_err(|e| e.to_string())
}

/// What dequantizing the checkpoint says; nothing may be left behind.
fn dequantize(dir: &Path) -> Result<(), String> {
    let target = tempfile::tempdir().unwrap();
    let result = dequantize_checkpoint(dir, &Destination::new_directory(target.path().join("f")), None)
        .map(|_| ())
        .map_err(|e| e.to_string());
    assert!(result.is_ok() || fs::read_dir(target.path()).unwrap().count() == 0);
    result
}

/// Damages a 4-bit checkpoint; both readers must say all `parts`.
fn refused(parts: &[&str], damage: impl FnOnce(&mut RawTensors)) {
    let dir = copy_of(&fixture("bnb_checkpoint"));
    change(dir.path(), damage);
    for message in [build(dir.path()), dequantize(dir.path())] {
        let message = message.unwrap_err();
        assert!(parts.iter().all(|part| message.contains(part)), "{parts:?}:\n{message}");
    }
    // Looking at it may succeed or fail, but ends.
    let _ = Inspection::of(dir.path()).map(|i| i.to_string());
}

/// Replaces a part of the state's JSON.
fn lying(from: &str, to: &str, parts: &[&str]) {
    refused(parts, |tensors| {
        let state = tensors.get_mut(STATE).unwrap();
        let text = String::from_utf8(state.bytes.clone()).unwrap();
        assert!(text.contains(from), "{text}");
        state.bytes = text.replacen(from, to, 1).into_bytes();
        state.shape = vec![state.bytes.len()];
    });
}

#[test]
fn the_untouched_copy_is_fine() {
    let dir = copy_of(&fixture("bnb_checkpoint"));
    change(dir.path(), |_| {});
    assert_eq!((build(dir.path()), dequantize(dir.path())), (Ok(()), Ok(())));
}

#[test]
fn a_state_that_lies_about_shape_or_block_size_is_refused() {
    lying("[128, 64]", "[64, 64]", &[WEIGHT, "holds 4096 bytes", "[64, 64], which takes 2048"]);
    lying("[128, 64]", "[4294967296, 4294967295]", &[STATE, "`shape`"]);
    lying("[128, 64]", "[4294967296, 1]", &[WEIGHT, "holds 4096 bytes"]);
    lying("[128, 64]", "[9223372036854775807, 2]", &[STATE, "`shape`"]);
    lying("[128, 64]", "[18446744073709551615, 18446744073709551615]", &[STATE, "`shape`"]);
    lying("[128, 64]", "[8192]", &[STATE, "`shape` is [8192]"]);
    lying("[128, 64]", "[-128, -64]", &[STATE, "`shape`"]);
    lying("\"blocksize\": 64", "\"blocksize\": 128", &["up_proj.weight.absmax", "[128]", "expected 64 elements"]);
    lying("\"blocksize\": 64", "\"blocksize\": 0", &[STATE, "`blocksize` is 0"]);
    lying("\"blocksize\": 64", "\"blocksize\": 18446744073709551616", &[STATE, "`blocksize`"]);
    lying("\"quant_type\": \"nf4\"", "\"quant_type\": \"fp4\"", &[STATE, "is fp4, but the tensor is named nf4"]);
    lying("\"nested_blocksize\": 256, ", "", &[STATE, "lacks `nested_blocksize`"]);
    lying("\"dtype\"", "\"shape\"", &[STATE, "`shape` is there twice"]);
    lying("{", "", &[STATE, "not the JSON expected"]);
}

#[test]
fn a_weight_of_the_right_size_and_the_wrong_shape_does_not_fit_the_model() {
    let dir = copy_of(&fixture("bnb_checkpoint"));
    change(dir.path(), |tensors| {
        let state = tensors.get_mut(STATE).unwrap();
        state.bytes = String::from_utf8(state.bytes.clone()).unwrap().replace("[128, 64]", "[64, 128]").into_bytes();
    });
    let message = build(dir.path()).unwrap_err();
    assert!(message.contains(WEIGHT) && message.contains("[64, 128], expected [128, 64]"), "{message}");
}

#[test]
fn tensors_that_are_missing_or_of_another_type_are_named() {
    refused(&["up_proj.weight.absmax", "is missing"], |t| drop(t.remove(&format!("{WEIGHT}.absmax"))));
    refused(&["up_proj.weight.quant_map", "is missing"], |t| drop(t.remove(&format!("{WEIGHT}.quant_map"))));
    refused(&["nested_absmax", "is missing"], |t| drop(t.remove(&format!("{WEIGHT}.nested_absmax"))));
    refused(&["nested_quant_map", "is missing"], |t| drop(t.remove(&format!("{WEIGHT}.nested_quant_map"))));
    refused(&["two quant_states"], |t| {
        let state = t[STATE].clone();
        t.insert(STATE.replace("nf4", "fp4"), state);
    });
    refused(&[STATE, "is F32, expected U8"], |t| {
        let state = t.get_mut(STATE).unwrap();
        state.bytes.resize(state.bytes.len().next_multiple_of(4), b' ');
        (state.dtype, state.shape) = (Dtype::F32, vec![state.bytes.len() / 4]);
    });
    refused(&[STATE, "100000 bytes long"], |t| {
        let state = t.get_mut(STATE).unwrap();
        state.bytes.resize(100_000, b' ');
        state.shape = vec![100_000];
    });
    refused(&["up_proj.weight.absmax", "is I8, expected U8"], |t| {
        t.get_mut(&format!("{WEIGHT}.absmax")).unwrap().dtype = Dtype::I8;
    });
    refused(&["nested_absmax", "NaN"], |t| {
        t.get_mut(&format!("{WEIGHT}.nested_absmax")).unwrap().bytes.copy_from_slice(&f32::NAN.to_le_bytes());
    });
    refused(&["quant_map", "by code 3", "another table"], |t| {
        t.get_mut(&format!("{WEIGHT}.quant_map")).unwrap().bytes[12..16].copy_from_slice(&0.5f32.to_le_bytes());
    });
    refused(&[WEIGHT, "holds 4095 bytes"], |t| {
        let weight = t.get_mut(WEIGHT).unwrap();
        weight.bytes.pop();
        weight.shape = vec![4095, 1];
    });
}

#[test]
fn a_weight_without_its_state_or_a_state_without_its_weight_is_named() {
    let message = |name: &str| {
        let dir = copy_of(&fixture("bnb_checkpoint"));
        change(dir.path(), |tensors| drop(tensors.remove(name)));
        build(dir.path()).unwrap_err()
    };
    let text = message(STATE);
    assert!(text.contains(WEIGHT) && text.contains("but no quant_state"), "{text}");
    let text = message(WEIGHT);
    assert!(text.contains(&format!("{WEIGHT}: missing")), "{text}");
}

#[test]
fn truncated_files_are_refused_by_every_reader() {
    let whole = fs::read(fixture("bnb_checkpoint/model.safetensors")).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for length in [0, 4, 8, 100, header - 1, header, header + 1000, whole.len() - 1] {
        let dir = copy_of(&fixture("bnb_checkpoint"));
        fs::write(dir.path().join("model.safetensors"), &whole[..length]).unwrap();
        for message in [
            build(dir.path()).unwrap_err(),
            dequantize(dir.path()).unwrap_err(),
            Inspection::of(dir.path()).unwrap_err().to_string(),
        ] {
            assert!(message.contains("model.safetensors: is ") && message.contains("download it again"), "{message}");
        }
    }
}

#[test]
fn a_configuration_of_an_absurd_size_is_refused_before_anything_is_allocated() {
    for name in ["dinov3_tiny", "bnb_checkpoint", "dinov2_tiny", "dinov2_tiny_swiglu", "vit_tiny"] {
        for (key, value, refusal) in [
            ("hidden_size", json!(1_u64 << 40), "hidden_size: is 1099511627776, expected"),
            ("hidden_size", json!(u64::MAX / 64 * 64), "expected a whole number from 1 to"),
            ("hidden_size", json!(1 << 14), "holds at most"),
            ("intermediate_size", json!(1_u64 << 50), "intermediate_size: is 1125899906842624, expected"),
            ("intermediate_size", json!(1 << 17), "holds at most"),
            ("num_hidden_layers", json!(1_u64 << 60), "num_hidden_layers: is 1152921504606846976, expected"),
            ("num_hidden_layers", json!(1 << 10), "holds at most"),
            ("num_register_tokens", json!(1_u64 << 55), "num_register_tokens: is 36028797018963968, expected"),
            ("patch_size", json!(1_u64 << 31), "patch_size: is 2147483648, expected"),
        ] {
            let dir = copy_of(&fixture(name));
            let path = dir.path().join("config.json");
            let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            // Families derive some sizes from others.
            if !name.starts_with("dinov3")
                && !name.starts_with("bnb")
                && !["hidden_size", "num_hidden_layers"].contains(&key)
            {
                continue;
            }
            config[key] = value;
            fs::write(&path, config.to_string()).unwrap();
            let message = build(dir.path()).unwrap_err();
            assert!(message.contains("config.json") && message.contains(refusal), "{key}: {message}");
        }
    }
}

#[test]
fn quantization_sections_that_lie_are_refused_by_key() {
    for (section, said) in [
        (json!({ "quant_method": "gptq", "bits": 4 }), "quant_method"),
        (json!({ "load_in_8bit": true }), "8 bits"),
        (json!({ "load_in_4bit": true, "bnb_4bit_quant_type": 4 }), "bnb_4bit_quant_type"),
        (json!("4bit"), "load_in_4bit"),
    ] {
        let dir = copy_of(&fixture("bnb_checkpoint"));
        let path = dir.path().join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["quantization_config"] = section;
        fs::write(&path, config.to_string()).unwrap();
        for message in [
            build(dir.path()).unwrap_err(),
            dequantize(dir.path()).unwrap_err(),
            Inspection::of(dir.path()).unwrap_err().to_string(),
        ] {
            assert!(message.contains("config.json: quantization_config") && message.contains(said), "{message}");
        }
    }
}

#[test]
fn an_index_that_lies_is_refused_by_every_reader() {
    let index = |change: &dyn Fn(&mut String)| {
        let dir = copy_of(&fixture("bnb_checkpoint"));
        shard(dir.path());
        let path = dir.path().join("model.safetensors.index.json");
        let mut text = fs::read_to_string(&path).unwrap();
        change(&mut text);
        fs::write(&path, text).unwrap();
        [
            build(dir.path()).unwrap_err(),
            dequantize(dir.path()).unwrap_err(),
            Inspection::of(dir.path()).unwrap_err().to_string(),
        ]
    };
    type Change<'a> = &'a dyn Fn(&mut String);
    let cases: [(Change<'_>, &str); 6] = [
        (&|t| *t = t.replacen("model-0.safetensors", "../secret.safetensors", 1), "not a plain file name"),
        (&|t| *t = t.replacen("model-0.safetensors", "/etc/passwd", 1), "not a plain file name"),
        (&|t| *t = t.replacen("model-0.safetensors", "model-2.safetensors", 1), "but it is not"),
        (&|t| *t = t.replacen("\"weight_map\":{", "\"weight_map\":{\"norm.weight\":\"x\",", 1), "is there twice"),
        (&|t| t.truncate(t.len() / 2), "no index of shards"),
        (&|t| *t = "{\"weight_map\": []}".to_owned(), "no index of shards"),
    ];
    for (change, said) in cases {
        for message in index(change) {
            assert!(message.contains("index.json") && message.contains(said), "{said}: {message}");
        }
    }
    // A shard that is not there.
    for message in index(&|t| *t = t.replace("model-1.safetensors", "model-9.safetensors")) {
        assert!(message.contains("model-9.safetensors"), "{message}");
    }
}

#[test]
fn float_weights_of_another_type_are_not_quantized() {
    let dir = copy_of(&fixture("dinov3_tiny"));
    change(dir.path(), |tensors| {
        let weight = tensors.get_mut(WEIGHT).unwrap();
        weight.dtype = Dtype::I32;
    });
    let target = tempfile::tempdir().unwrap();
    let job =
        QuantizeJob { options: QuantizeOptions::default(), compute_dtype: ComputeDtype::F32, skip_modules: Vec::new() };
    let message = quantize_checkpoint(dir.path(), &Destination::new_directory(target.path().join("q")), &job)
        .unwrap_err()
        .to_string();
    assert!(message.contains(WEIGHT) && message.contains("I32"), "{message}");
    assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0);
}

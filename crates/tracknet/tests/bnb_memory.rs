//! What quantizing holds, measured on the allocator: never the float model.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

#[path = "suite/bnb_support/mod.rs"]
mod bnb_support;

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use safetensors::Dtype;
use serde_json::json;
use tracknet::artifacts::build_model;
use tracknet::artifacts::pretrained::bnb::{QuantizeJob, dequantize_checkpoint, quantize_checkpoint};
use tracknet::config::{ModelConfig, QuantMode};
use tracknet::files::Destination;
use tracknet_kernels::{ComputeDtype, QuantizeOptions};
use tracknet_testing::{CountingAllocator, peak_of};

use bnb_support::{Raw, RawTensors, write_raw};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const HIDDEN: usize = 512;
const MLP: usize = 2048;
const LAYERS: usize = 4;
const MIB: usize = 1 << 20;

/// A DINOv3 of 48 MiB; its largest weight takes 4 MiB.
fn checkpoint(dir: &Path) {
    let mut tensors = RawTensors::new();
    let mut add = |name: String, shape: &[usize]| {
        let values = (0..shape.iter().product::<usize>()).map(|i| (i % 89) as f32 / 44.0 - 1.0);
        let raw = Raw { dtype: Dtype::F32, shape: shape.to_vec(), bytes: values.flat_map(f32::to_le_bytes).collect() };
        tensors.insert(name, raw);
    };
    add("embeddings.cls_token".to_owned(), &[1, 1, HIDDEN]);
    add("embeddings.patch_embeddings.weight".to_owned(), &[HIDDEN, 3, 16, 16]);
    add("embeddings.patch_embeddings.bias".to_owned(), &[HIDDEN]);
    for norm in
        ["norm".to_owned()].into_iter().chain((0..LAYERS).flat_map(|i| [1, 2].map(|n| format!("layer.{i}.norm{n}"))))
    {
        add(format!("{norm}.weight"), &[HIDDEN]);
        add(format!("{norm}.bias"), &[HIDDEN]);
    }
    for i in 0..LAYERS {
        for (name, shape) in [("q", [HIDDEN; 2]), ("k", [HIDDEN; 2]), ("v", [HIDDEN; 2]), ("o", [HIDDEN; 2])] {
            add(format!("layer.{i}.attention.{name}_proj.weight"), &shape);
        }
        add(format!("layer.{i}.mlp.up_proj.weight"), &[MLP, HIDDEN]);
        add(format!("layer.{i}.mlp.down_proj.weight"), &[HIDDEN, MLP]);
        for scale in [1, 2] {
            add(format!("layer.{i}.layer_scale{scale}.lambda1"), &[HIDDEN]);
        }
    }
    write_raw(&dir.join("model.safetensors"), &tensors);
    let config = json!({
        "model_type": "dinov3_vit", "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": LAYERS,
        "num_attention_heads": 8, "query_bias": false, "value_bias": false, "proj_bias": false, "mlp_bias": false
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
}

// One test: the counters are those of the whole program.
#[test]
fn neither_a_file_nor_a_model_is_quantized_through_the_float_model() {
    let dir = tempfile::tempdir().unwrap();
    checkpoint(dir.path());
    let largest = 4 * MLP * HIDDEN;
    let job =
        QuantizeJob { options: QuantizeOptions::default(), compute_dtype: ComputeDtype::F32, skip_modules: Vec::new() };
    let [q, f] = ["q", "f"].map(|name| dir.path().join(name));

    let (peak, report) = peak_of(|| quantize_checkpoint(dir.path(), &Destination::new_directory(&q), &job).unwrap());
    let [float, packed] = report.bytes();
    assert_eq!(float, 48 * MIB);
    // Buffers for reading and writing, and a codes' copy: 3 MiB.
    assert!(peak > packed && peak < packed + largest + 3 * MIB, "quantize: {peak} of {float}, packed {packed}");

    // One packed weight, the same as floats, and buffers.
    let (peak, _) = peak_of(|| dequantize_checkpoint(&q, &Destination::new_directory(&f), None).unwrap());
    assert!(peak > largest && peak < 2 * largest + 2 * MIB, "dequantize: {peak}");

    let mut config = ModelConfig::default();
    config.decoder.channels = vec![HIDDEN, 16];
    config.decoder.upsample = vec![2];
    config.heatmap.size = [48, 32];
    let mut build = |pretrained: &Path, enabled: bool, mode: QuantMode| {
        config.pretrained_model_name = Some(pretrained.display().to_string());
        config.quantization.enabled = enabled;
        config.quantization.mode = mode;
        peak_of(|| build_model(&config, [96, 64], 1, &Device::flex()).unwrap()).0
    };
    // The patch embedding and the decoder are floats of 2 MiB; a packed weight is copied once on its way to the device; the
    // hash is up to 2 MiB behind.
    for mode in [QuantMode::Manual, QuantMode::Hf] {
        let peak = build(dir.path(), true, mode);
        assert!(peak > packed && peak < packed + largest + 10 * MIB, "mode {mode}: {peak} of {float}, packed {packed}");
    }
    let peak = build(&q, false, QuantMode::Manual);
    assert!(peak > packed && peak < packed + 10 * MIB, "loading: {peak} of {float}, packed {packed}");
}

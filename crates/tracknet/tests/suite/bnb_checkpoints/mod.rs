//! 4-bit checkpoints: those of `transformers` and bitsandbytes load, and what is written is what they write.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

mod families;

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, TensorData};
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;
use tracknet::artifacts::build_model;
use tracknet::artifacts::pretrained::bnb::{
    QuantState, QuantizeJob, dequantize_checkpoint, is_packed, quantize_checkpoint, read_packed,
};
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::artifacts::pretrained::{Checkpoint, StoredAs, Weights};
use tracknet::config::{LoraConfig, ModelConfig, QuantMode, QuantTypeName};
use tracknet::files::Destination;
use tracknet::inspect::{Inspection, Kind};
use tracknet::models::nn::LinearWeight;
use tracknet::models::state::named_parameters;
use tracknet::models::{HeatmapModel, VisitLayers};
use tracknet_kernels::{ComputeDtype, PackedWeight, QuantType, QuantizeOptions};

use crate::bnb_support::{Raw, change, copy_of, read_raw, shard};
use crate::common::{assert_close, backbone, fixture, pixels, tensors};

/// f32 sums in another order, through two blocks.
const TOLERANCE: f32 = 1e-4;

/// The checkpoints that transformers wrote, and the options that it was given.
fn goldens() -> [(&'static str, QuantizeOptions); 3] {
    let nf4 = QuantizeOptions::default();
    [
        ("bnb_checkpoint", nf4),
        ("bnb_checkpoint_nf4_plain", QuantizeOptions { double_quant: false, ..nf4 }),
        ("bnb_checkpoint_fp4", QuantizeOptions { quant_type: QuantType::Fp4, ..nf4 }),
    ]
}

fn job(options: QuantizeOptions) -> QuantizeJob {
    QuantizeJob { options, compute_dtype: ComputeDtype::F32, skip_modules: Vec::new() }
}

/// Quantizes a directory into a new one.
fn quantized(source: &Path, job: &QuantizeJob) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    quantize_checkpoint(source, &Destination::new_directory(dir.path().join("q")), job).unwrap();
    dir
}

fn model(dir: &Path) -> ModelConfig {
    let mut config = ModelConfig { pretrained_model_name: Some(dir.display().to_string()), ..ModelConfig::default() };
    config.decoder.channels = vec![64, 16];
    config.decoder.upsample = vec![2];
    config.heatmap.size = [48, 32];
    config
}

fn packed_weights(model: &impl VisitLayers) -> Vec<PackedWeight> {
    let mut all = Vec::new();
    model.visit_linears(&mut |_, linear| {
        if let LinearWeight::Packed(weight) = &linear.weight {
            all.push(weight.to_packed().unwrap());
        }
    });
    all
}

#[test]
fn checkpoints_that_transformers_wrote_give_its_output() {
    for (name, _) in goldens() {
        let device = Device::flex();
        let vit = backbone(&fixture(name), &device).unwrap();
        assert!(vit.is_quantized());
        let expected = tensors(&fixture(name).join("io.safetensors"));
        assert_close(name, vit.tokens(pixels(&device)), &expected["last_hidden_state"], TOLERANCE);
    }
}

#[test]
fn dequantized_weights_equal_those_of_bitsandbytes_bit_for_bit() {
    let weights = Weights::open_file(&fixture("bnb_checkpoint/model.safetensors")).unwrap();
    let expected = tensors(&fixture("bnb_checkpoint/io.safetensors"));
    for layer in ["layer.0.attention.q_proj", "layer.0.mlp.down_proj"] {
        let (weight, state) = read_packed(&weights, &format!("{layer}.weight")).unwrap();
        let values = TensorData::new(weight.dequantize(), state.shape);
        assert_eq!(values, expected[&format!("dequant.model.{layer}.weight")], "{layer}");
    }
}

#[test]
fn a_checkpoint_written_from_the_same_floats_is_the_file_that_transformers_writes() {
    for (name, options) in goldens() {
        let dir = quantized(&fixture("dinov3_tiny"), &job(options));
        for file in ["model.safetensors", "config.json"] {
            let [ours, theirs] = [dir.path().join("q"), fixture(name)].map(|dir| fs::read(dir.join(file)).unwrap());
            assert!(ours == theirs, "{name}/{file} differs");
        }
    }
}

#[test]
fn shards_give_the_same_bytes_as_one_file() {
    let sharded = copy_of(&fixture("dinov3_tiny"));
    shard(sharded.path());
    let ours = quantized(sharded.path(), &job(QuantizeOptions::default()));
    let file = "model.safetensors";
    assert!(
        fs::read(ours.path().join("q").join(file)).unwrap() == fs::read(fixture("bnb_checkpoint").join(file)).unwrap()
    );
    // And shards of a 4-bit checkpoint load.
    let packed = copy_of(&fixture("bnb_checkpoint"));
    shard(packed.path());
    assert!(backbone(packed.path(), &Device::flex()).unwrap().is_quantized());
}

#[test]
fn every_block_size_code_and_kind_of_scales_goes_from_floats_to_a_file_and_back() {
    let source = fixture("dinov3_tiny");
    let floats = read_all(&source.join("model.safetensors")).unwrap();
    for quant_type in [QuantType::Nf4, QuantType::Fp4] {
        for double_quant in [false, true] {
            for blocksize in [32, 64, 128, 4096] {
                let options = QuantizeOptions { quant_type, blocksize, double_quant };
                let what = format!("{options:?}");
                let dir = quantized(&source, &job(options));
                let path = dir.path().join("q");
                let weights = Weights::open_dir(&path).unwrap();
                let names: Vec<&str> = weights.names().filter(|n| is_packed(&weights, n)).collect();
                assert_eq!(names.len(), 12, "{what}");
                let vit = backbone(&path, &Device::flex()).unwrap();
                assert_eq!(packed_weights(&vit).len(), 12);

                let back = dir.path().join("back");
                let report = dequantize_checkpoint(&path, &Destination::new_directory(&back), None).unwrap();
                assert_eq!((report.layers, report.after), (12, 4 * 65536), "{what}");
                let again = read_all(&back.join("model.safetensors")).unwrap();
                assert_eq!(again.keys().collect::<Vec<_>>(), floats.keys().collect::<Vec<_>>());
                for (name, values) in &again {
                    let expected = match names.contains(&name.as_str()) {
                        true => {
                            TensorData::new(read_packed(&weights, name).unwrap().0.dequantize(), values.shape().clone())
                        }
                        false => floats[name].clone(),
                    };
                    assert!(*values == expected, "{what}: {name}");
                }
                assert!(!fs::read_to_string(back.join("config.json")).unwrap().contains("quantization_config"));
                // What was dequantized, quantized again, dequantizes to the same: codes are kept exactly.
                if !double_quant {
                    let twice = quantized(&back, &job(options));
                    dequantize_checkpoint(
                        &twice.path().join("q"),
                        &Destination::new_directory(twice.path().join("back")),
                        None,
                    )
                    .unwrap();
                    let twice = read_all(&twice.path().join("back/model.safetensors")).unwrap();
                    assert!(twice == again, "{what}");
                }
            }
        }
    }
}

#[test]
fn packed_tensors_that_are_viewed_as_another_type_are_read() {
    let original = backbone(&fixture("bnb_checkpoint"), &Device::flex()).unwrap();
    for (dtype, size) in [(Dtype::BF16, 2), (Dtype::F16, 2), (Dtype::F32, 4), (Dtype::I8, 1)] {
        let dir = copy_of(&fixture("bnb_checkpoint"));
        change(dir.path(), |tensors| {
            let states: Vec<String> =
                tensors.keys().filter_map(|n| n.split_once(".quant_state")).map(|n| n.0.to_owned()).collect();
            assert_eq!(states.len(), 12);
            for name in states {
                let raw = tensors.get_mut(&name).unwrap();
                raw.dtype = dtype;
                raw.shape = vec![raw.bytes.len() / size, 1];
            }
        });
        let viewed = backbone(dir.path(), &Device::flex()).unwrap();
        assert!(packed_weights(&viewed) == packed_weights(&original), "{dtype:?}");
        // The numbers that the view happens to spell, NaN among them, are of no concern to anything that reads it.
        Inspection::of(dir.path()).unwrap();
        dequantize_checkpoint(dir.path(), &Destination::new_directory(dir.path().join("floats")), None).unwrap();
    }
}

#[test]
fn the_type_of_the_source_is_kept_in_the_state_and_comes_back() {
    let floats = read_all(&fixture("dinov3_tiny/model.safetensors")).unwrap();
    for (stored, dtype, state) in
        [(StoredAs::Bf16, Dtype::BF16, ComputeDtype::Bf16), (StoredAs::F16, Dtype::F16, ComputeDtype::F16)]
    {
        let source = copy_of(&fixture("dinov3_tiny"));
        write_tensors(&source.path().join("model.safetensors"), floats.clone(), stored).unwrap();
        let dir = quantized(source.path(), &job(QuantizeOptions::default()));
        let packed = read_raw(&dir.path().join("q/model.safetensors"));
        let json = &packed["layer.0.mlp.up_proj.weight.quant_state.bitsandbytes__nf4"].bytes;
        assert_eq!(QuantState::parse(json).unwrap().dtype, state);
        assert_eq!(packed["norm.weight"].dtype, dtype, "what is not packed is copied as it is");

        dequantize_checkpoint(&dir.path().join("q"), &Destination::new_directory(dir.path().join("same")), None)
            .unwrap();
        let same = read_raw(&dir.path().join("same/model.safetensors"));
        assert!(same.values().all(|raw| raw.dtype == dtype));
        dequantize_checkpoint(
            &dir.path().join("q"),
            &Destination::new_directory(dir.path().join("f32")),
            Some(StoredAs::F32),
        )
        .unwrap();
        let wide = read_raw(&dir.path().join("f32/model.safetensors"));
        assert!(wide.values().all(|raw| raw.dtype == Dtype::F32));
        let config: Value = serde_json::from_slice(&fs::read(dir.path().join("f32/config.json")).unwrap()).unwrap();
        assert_eq!(config["dtype"], "float32");
    }
}

#[test]
fn skipped_layers_stay_floats_and_are_named_for_every_release() {
    let source = fixture("dinov3_tiny");
    let skip_modules = vec!["o_proj".to_owned(), "layer.1.mlp".to_owned(), "pooler".to_owned()];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q");
    let report = quantize_checkpoint(
        &source,
        &Destination::new_directory(&path),
        &QuantizeJob { skip_modules, ..job(QuantizeOptions::default()) },
    )
    .unwrap();
    assert_eq!(report.layers.len(), 8);
    let skipped =
        ["layer.0.attention.o_proj", "layer.1.attention.o_proj", "layer.1.mlp.down_proj", "layer.1.mlp.up_proj"];
    assert_eq!(report.skipped, skipped);
    assert_eq!(report.notes, ["skip: `pooler` matches nothing"]);
    let config = Checkpoint::open(&path).unwrap().quantization.unwrap();
    assert_eq!(config.skip_modules.unwrap(), skipped);
    let original = read_raw(&source.join("model.safetensors"));
    let ours = read_raw(&path.join("model.safetensors"));
    assert!(skipped.iter().all(|path| ours[&format!("{path}.weight")] == original[&format!("{path}.weight")]));
    assert_eq!(packed_weights(&backbone(&path, &Device::flex()).unwrap()).len(), 8);
}

#[test]
fn the_pooler_of_a_vit_is_packed_and_a_head_is_left_and_named() {
    let source = copy_of(&fixture("vit_tiny"));
    let skip = |dir: &Path| Checkpoint::open(dir).unwrap().quantization.unwrap().skip_modules;
    let q = quantized(source.path(), &job(QuantizeOptions::default()));
    let path = q.path().join("q");
    assert!(is_packed(&Weights::open_dir(&path).unwrap(), "pooler.dense.weight"));
    // Releases differ in what they take for granted of a pooler; an empty list leaves no doubt.
    assert_eq!(skip(&path), Some(vec![]));
    assert!(backbone(&path, &Device::flex()).unwrap().is_quantized());

    change(source.path(), |tensors| {
        let head = Raw { dtype: Dtype::F32, shape: vec![3, 64], bytes: vec![0; 3 * 64 * 4] };
        tensors.insert("classifier.weight".to_owned(), head);
    });
    let kept = vec!["pooler.dense".to_owned()];
    let q = quantized(source.path(), &QuantizeJob { skip_modules: kept, ..job(QuantizeOptions::default()) });
    let path = q.path().join("q");
    let weights = Weights::open_dir(&path).unwrap();
    assert!(["pooler.dense.weight", "classifier.weight"].iter().all(|name| !is_packed(&weights, name)));
    assert_eq!(skip(&path).unwrap(), ["pooler.dense", "classifier"]);
}

#[test]
fn files_beside_the_weights_come_along() {
    let source = copy_of(&fixture("dinov3_tiny"));
    let normalization = r#"{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}"#;
    fs::write(source.path().join("preprocessor_config.json"), normalization).unwrap();
    let dir = quantized(source.path(), &job(QuantizeOptions::default()));
    assert_eq!(fs::read_to_string(dir.path().join("q/preprocessor_config.json")).unwrap(), normalization);
    dequantize_checkpoint(&dir.path().join("q"), &Destination::new_directory(dir.path().join("f")), None).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("f/preprocessor_config.json")).unwrap(), normalization);
}

#[test]
fn a_backbone_that_is_in_4_bits_already_is_built_and_adapted_as_it_is() {
    let path = fixture("bnb_checkpoint");
    let device = Device::flex().autodiff();
    let mut config = model(&path);
    config.lora = LoraConfig { enabled: true, r: 2, ..LoraConfig::default() };
    let (built, report) = build_model(&config, [96, 64], 1, &device).unwrap();
    assert_eq!(report.quantization.as_ref().unwrap().layers.len(), 12);
    assert!(report.notes.iter().any(|n| n.contains("in 4 bits (nf4)") && n.contains("float32")), "{:?}", report.notes);
    let direct = backbone(&path, &Device::flex()).unwrap();
    assert!(packed_weights(&built) == packed_weights(&direct));
    assert_eq!(named_parameters(&built).iter().filter(|p| p.trainable && p.name.contains("lora_")).count(), 24);
    let expected = tensors(&path.join("io.safetensors"));
    // The second matrix of a fresh adapter is zero.
    let tokens = built.valid().backbone.tokens(pixels(&Device::flex()));
    assert_close("adapted", tokens, &expected["last_hidden_state"], TOLERANCE);

    // A section of its own decides the compute dtype, and nothing else.
    config.quantization.enabled = true;
    config.quantization.quant_type = QuantTypeName::Fp4;
    config.quantization.compress_statistics = false;
    for mode in [QuantMode::Manual, QuantMode::Hf] {
        config.quantization.mode = mode;
        let (again, other) = build_model(&config, [96, 64], 1, &device).unwrap();
        assert!(packed_weights(&again) == packed_weights(&direct));
        assert_eq!(other.base_hash, report.base_hash);
        let notes = other.notes.join("\n");
        for part in ["as it is", "quant_type is fp4, but the checkpoint is in nf4", "has double quantization"] {
            assert!(notes.contains(part), "{notes}");
        }
        again.visit_linears(&mut |_, p| {
            assert!(matches!(&p.weight, LinearWeight::Packed(w) if w.compute_dtype() == ComputeDtype::Bf16));
        });
    }
}

#[test]
fn the_hash_of_a_4_bit_base_depends_on_its_bytes() {
    let hash = |dir: &Path| build_model(&model(dir), [96, 64], 1, &Device::flex()).unwrap().1.base_hash;
    let dir = copy_of(&fixture("bnb_checkpoint"));
    let before = hash(dir.path());
    assert_eq!(before, hash(&fixture("bnb_checkpoint")));
    let scales = "layer.1.mlp.up_proj.weight.nested_absmax";
    change(dir.path(), |tensors| tensors.get_mut(scales).unwrap().bytes[0] ^= 1);
    assert_ne!(before, hash(dir.path()));
}

#[test]
fn a_4_bit_checkpoint_cannot_train_as_a_whole() {
    let mut config = model(&fixture("bnb_checkpoint"));
    config.backbone.freeze = false;
    let message = build_model(&config, [96, 64], 1, &Device::flex()).unwrap_err().to_string();
    assert!(message.contains("quantization_config") && message.contains("no gradient"), "{message}");
}

#[test]
fn packing_while_loading_follows_transformers_where_packing_in_place_follows_substrings() {
    let built = |mode: &str, skip: &str, double: Option<bool>| -> (HeatmapModel, Vec<String>) {
        let mut config = model(&fixture("dinov3_tiny"));
        config.quantization.enabled = true;
        config.quantization.mode = mode.parse().unwrap();
        config.quantization.skip_modules = Some(vec![skip.to_owned()]);
        config.quantization.use_double_quant = double;
        let (model, report) = build_model(&config, [96, 64], 1, &Device::flex()).unwrap();
        (model, report.quantization.unwrap().skipped)
    };
    // A part from the middle of a path, a pattern, an end.
    assert_eq!(built("manual", "attention.q", None).1.len(), 2);
    assert_eq!(built("hf", "attention.q", None).1.len(), 0);
    assert_eq!(built("hf", r"layer\.[01]\.attention\.[qk]_proj", None).1.len(), 4);
    assert_eq!(built("hf", "model.layer.0", None).1.len(), 6);
    assert_eq!(built("hf", "o_proj", None).1.len(), 2);
    let options = |model: &HeatmapModel| packed_weights(model)[0].options();
    assert!(options(&built("hf", "o_proj", None).0).double_quant);
    assert!(!options(&built("hf", "o_proj", Some(false)).0).double_quant);
    assert!(options(&built("manual", "o_proj", Some(false)).0).double_quant);
}

#[test]
fn what_cannot_be_quantized_or_dequantized_is_refused_and_leaves_nothing_behind() {
    let target = tempfile::tempdir().unwrap();
    let path = target.path().join("q");
    let plain = job(QuantizeOptions::default());
    let refusal = |source: &Path, job: &QuantizeJob| {
        let message = quantize_checkpoint(source, &Destination::new_directory(&path), job).unwrap_err().to_string();
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0, "{message}");
        message
    };
    assert!(refusal(&fixture("bnb_checkpoint"), &plain).contains("4-bit checkpoint already"));
    let all = QuantizeJob { skip_modules: vec!["layer".to_owned()], ..plain.clone() };
    assert!(refusal(&fixture("dinov3_tiny"), &all).contains("none of its 12 linear layers"));
    let pattern = QuantizeJob { skip_modules: vec!["(".to_owned()], ..plain.clone() };
    assert!(refusal(&fixture("dinov3_tiny"), &pattern).contains("`(` is not a regular expression"));
    assert!(refusal(target.path(), &plain).contains("config.json"));

    let dir = copy_of(&fixture("dinov3_tiny"));
    let weight = "layer.1.mlp.up_proj.weight";
    change(dir.path(), |t| t.get_mut(weight).unwrap().bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes()));
    let message = refusal(dir.path(), &plain);
    assert!(message.contains(weight) && message.contains("NaN at element 1"), "{message}");
    let config = dir.path().join("config.json");
    fs::write(&config, json!({ "model_type": "llama" }).to_string()).unwrap();
    assert!(refusal(dir.path(), &plain).contains("is `llama`"));

    let dequantized = |source: &Path| {
        let message = dequantize_checkpoint(source, &Destination::new_directory(&path), None).unwrap_err().to_string();
        assert_eq!(fs::read_dir(target.path()).unwrap().count(), 0, "{message}");
        message
    };
    assert!(dequantized(&fixture("dinov3_tiny")).contains("is no 4-bit checkpoint"));
    fs::write(&config, json!({ "quantization_config": { "load_in_4bit": true } }).to_string()).unwrap();
    assert!(dequantized(dir.path()).contains("no packed weight"));

    fs::create_dir(&path).unwrap();
    fs::write(path.join("mine"), "x").unwrap();
    for message in [
        quantize_checkpoint(&fixture("dinov3_tiny"), &Destination::new_directory(&path), &plain)
            .unwrap_err()
            .to_string(),
        dequantize_checkpoint(&fixture("bnb_checkpoint"), &Destination::new_directory(&path), None)
            .unwrap_err()
            .to_string(),
    ] {
        assert!(message.contains("this directory exists"), "{message}");
    }
    assert!(path.join("mine").exists());
}

#[test]
fn values_beyond_float16_are_not_written_as_infinity() {
    let dir = copy_of(&fixture("dinov3_tiny"));
    change(dir.path(), |t| {
        t.get_mut("layer.0.mlp.up_proj.weight").unwrap().bytes[..4].copy_from_slice(&1e6f32.to_le_bytes());
    });
    let q = quantized(dir.path(), &job(QuantizeOptions { double_quant: false, ..QuantizeOptions::default() }));
    let message = dequantize_checkpoint(
        &q.path().join("q"),
        &Destination::new_directory(q.path().join("f")),
        Some(StoredAs::F16),
    )
    .unwrap_err()
    .to_string();
    assert!(message.contains("layer.0.mlp.up_proj.weight") && message.contains("range of float16"), "{message}");
    assert!(!q.path().join("f").exists());
}

#[test]
fn an_inspection_says_what_is_there_and_how_far_it_is_from_its_source() {
    let mut packed = Inspection::of(&fixture("bnb_checkpoint")).unwrap();
    assert_eq!(packed.kind, Kind::PackedBackbone);
    assert_eq!((packed.totals.parameters, packed.totals.packed_parameters), (116_800, 65_536));
    let row = packed.modules.iter().find(|row| row.path == "layer.0.mlp.up_proj").unwrap();
    assert_eq!((row.shape.as_slice(), row.packed), (&[128, 64][..], true));
    // 4 bits, a byte for 64 weights, and 8 bytes for the layer of 8192.
    assert_eq!(row.bits_per_weight, 4.0 + 8.0 / 64.0 + 64.0 / 8192.0);
    packed.measure(&fixture("dinov3_tiny")).unwrap();
    let floats = read_all(&fixture("dinov3_tiny/model.safetensors")).unwrap();
    let values = floats["layer.0.mlp.up_proj.weight"].clone().try_to_vec::<f32>().unwrap();
    let weight = PackedWeight::quantize(&values, [128, 64], &QuantizeOptions::default()).unwrap();
    let expected = weight.error_against(&values).unwrap();
    let row = packed.modules.iter().find(|row| row.path == "layer.0.mlp.up_proj").unwrap();
    let found = row.error.unwrap();
    assert_eq!((found.mean, found.max, found.relative), (expected.mean_abs, expected.max_abs, expected.relative));
    let total = packed.error.clone().unwrap();
    assert_eq!(total.layers, 12);
    assert!(total.error.max >= found.max && (0.08..0.11).contains(&total.error.relative), "{total}");
    let text = packed.to_string();
    for part in ["4-bit backbone", "nf4, blocks of 64, double quantization", "relative", "116800 parameters", "worst: "]
    {
        assert!(text.contains(part), "{part}: {text}");
    }

    let mut float = Inspection::of(&fixture("dinov3_tiny")).unwrap();
    assert_eq!((float.kind, float.totals.bits_per_parameter), (Kind::Backbone, 32.0));
    assert!(float.measure(&fixture("dinov3_tiny")).unwrap_err().to_string().contains("no 4-bit layer"));
    assert!(packed.measure(&fixture("bnb_checkpoint_fp4")).unwrap_err().to_string().contains("compare with floats"));
    assert!(packed.measure(&fixture("dinov2_tiny")).unwrap_err().to_string().contains("is not in"));

    let adapter = Inspection::of(&fixture("peft_lora")).unwrap();
    assert_eq!((adapter.kind, adapter.modules.len()), (Kind::Adapter, 12));
    assert!(adapter.modules.iter().all(|row| row.rank == Some(4)));
    assert_eq!(adapter.about["alpha"], "8");
    let file = Inspection::of(&fixture("decoder.safetensors")).unwrap();
    assert_eq!(file.kind, Kind::Safetensors);
    let nothing = Inspection::of(&fixture("")).unwrap_err().to_string();
    assert!(nothing.contains("none of what is known here"), "{nothing}");
}

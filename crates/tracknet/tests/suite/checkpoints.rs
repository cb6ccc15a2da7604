//! Model directories as people have them: under other names, with other normalizations, and in place of something else.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde_json::{Value, json};
use tempfile::TempDir;
use tracknet::artifacts::pretrained::bnb::{QuantizeJob, quantize_checkpoint};
use tracknet::artifacts::pretrained::{Checkpoint, StoredAs, write_backbone};
use tracknet::artifacts::{BuildReport, build_backbone, build_model};
use tracknet::config::ModelConfig;
use tracknet::files::Destination;
use tracknet::inspect::Inspection;
use tracknet_kernels::{ComputeDtype, QuantizeOptions};

use crate::bnb_support::{Raw, change, copy_of, read_raw, shard};
use crate::common::{fixture, paths};

const FAMILIES: [&str; 5] = ["dinov3_tiny", "dinov2_tiny", "dinov2_reg_tiny", "dinov2_tiny_swiglu", "vit_tiny"];

type Rename = Box<dyn Fn(&str) -> String>;

fn built(dir: &Path) -> Result<BuildReport, String> {
    let built = build_backbone(&dir.display().to_string(), &Default::default(), &Default::default(), &Device::flex());
    built.map(|(_, report)| report).map_err(|e| e.to_string())
}

fn renamed(source: &Path, rename: impl Fn(&str) -> String) -> TempDir {
    let dir = copy_of(source);
    change(dir.path(), |tensors| {
        *tensors = std::mem::take(tensors).into_iter().map(|(name, raw)| (rename(&name), raw)).collect();
    });
    dir
}

fn head() -> Raw {
    Raw { dtype: safetensors::Dtype::F32, shape: vec![3, 64], bytes: vec![0; 3 * 64 * 4] }
}

#[test]
fn the_same_weights_under_other_names_are_the_same_backbone_and_a_note_says_what_was_done() {
    for family in FAMILIES {
        let (source, paths) = (fixture(family), paths(family));
        let expected = built(&source).unwrap();
        assert!(expected.notes.is_empty(), "{:?}", expected.notes);
        let in_memory = move |name: &str| paths.in_memory(name);
        let wrapped = |name: &str| format!("_orig_mod.{}", name.replacen("embeddings.", "embeddings.module.", 1));
        let cases: [(&str, Rename); 5] = [
            ("they are those in memory", Box::new(in_memory)),
            ("`_orig_mod`", Box::new(wrapped)),
            ("`backbone.` before each", Box::new(|name| format!("backbone.{name}"))),
            ("`net.encoder.` before each", Box::new(move |name| format!("net.encoder.{}", in_memory(name)))),
            ("`base_model.model.` before each", Box::new(|name| format!("base_model.model.{name}"))),
        ];
        for (note, rename) in cases {
            let dir = renamed(&source, rename);
            let found = built(dir.path()).unwrap_or_else(|e| panic!("{family} {note}: {e}"));
            assert_eq!(found.base_hash, expected.base_hash, "{family} {note}");
            let nothing_differs = family == "dinov2_tiny_swiglu" && found.notes.is_empty();
            assert!(nothing_differs || found.notes.iter().any(|n| n.contains(note)), "{family}: {:?}", found.notes);
            shard(dir.path());
            assert_eq!(built(dir.path()).unwrap().base_hash, expected.base_hash, "{family} {note}");
        }
    }
}

#[test]
fn four_bit_checkpoints_under_other_names_are_read_and_written_under_the_usual_ones() {
    let expected = built(&fixture("bnb_checkpoint")).unwrap().base_hash;
    let memory = paths("dinov3_tiny");
    let dir = renamed(&fixture("bnb_checkpoint"), |name| format!("module.{}", memory.in_memory(name)));
    assert_eq!(built(dir.path()).unwrap().base_hash, expected);

    let names = |dir: &Path| read_raw(&dir.join("model.safetensors")).into_keys().collect::<Vec<_>>();
    let job = QuantizeJob {
        options: QuantizeOptions::default(),
        compute_dtype: ComputeDtype::F32,
        skip_modules: vec!["layer.1".to_owned()],
    };
    let quantized = |source: &Path| {
        let dir = tempfile::tempdir().unwrap();
        quantize_checkpoint(source, &Destination::new_directory(dir.path().join("q")), &job).unwrap();
        dir
    };
    let other = renamed(&fixture("dinov3_tiny"), |name| format!("model.backbone.{}", memory.in_memory(name)));
    change(other.path(), |tensors| drop(tensors.insert("model.head.weight".to_owned(), head())));
    let (plain, other) = (quantized(&fixture("dinov3_tiny")), quantized(other.path()));
    assert_eq!(names(&plain.path().join("q")), names(&other.path().join("q")));
}

#[test]
fn what_is_beside_the_backbone_is_left_aside_with_a_note_and_what_is_unknown_in_it_is_refused() {
    for (names, prefix) in [
        (&["classifier.weight", "score.weight", "fc_norm.weight", "decoder.0.bias"][..], ""),
        (&["classifier.weight", "anything.at.all"], "vit."),
        (&["ema.decay", "loss.weight"], "student."),
    ] {
        let dir = renamed(&fixture("vit_tiny"), |name| format!("{prefix}{name}"));
        change(dir.path(), |tensors| tensors.extend(names.iter().map(|name| ((*name).to_owned(), head()))));
        let report = built(dir.path()).unwrap();
        let note = report.notes.iter().find(|n| n.starts_with("left aside")).unwrap();
        assert!(names.iter().all(|name| note.contains(name.split('.').next().unwrap())), "{note}");
        change(dir.path(), |tensors| drop(tensors.insert(format!("{prefix}encoder.extra"), head())));
        let message = built(dir.path()).unwrap_err();
        assert!(message.contains("encoder.extra") && message.contains("no such tensor"), "{message}");
    }
}

#[test]
fn names_that_cannot_be_read_are_one_line_and_lists_of_tensors_are_short() {
    let timm = |name: &str| name.replace("attention.q_proj", "attn.qkv");
    let cases: [(&str, Rename); 4] = [
        ("under any prefix, so it is no dinov3_vit", Box::new(|name| name.replace("embeddings", "stem"))),
        ("names of timm or of the original DINO code", Box::new(timm)),
        ("was not merged", Box::new(|name| name.replace("q_proj.weight", "q_proj.lora_A.default.weight"))),
        ("more", Box::new(|name| name.replace("layer.0", "layer.00"))),
    ];
    for (expected, rename) in cases {
        let message = built(renamed(&fixture("dinov3_tiny"), rename).path()).unwrap_err();
        assert!(message.contains(expected) && message.lines().count() <= 14, "{message}");
    }
    let twice = copy_of(&fixture("dinov3_tiny"));
    change(twice.path(), |tensors| {
        let both = std::mem::take(tensors);
        for prefix in ["student.", "teacher."] {
            tensors.extend(both.iter().map(|(name, raw)| (format!("{prefix}{name}"), raw.clone())));
        }
    });
    let message = built(twice.path()).unwrap_err();
    assert!(message.contains("holds 2 backbones") && message.contains("`teacher.`"), "{message}");
}

#[test]
fn a_file_that_is_something_else_is_called_by_its_name() {
    let safetensors = fs::read(fixture("dinov3_tiny/model.safetensors")).unwrap();
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d8b\nsize 86442752\n";
    for (bytes, expected) in [
        (&lfs[..], "is a pointer of Git LFS"),
        (b"<!doctype html>\n<html>You must log in</html>", "is a web page"),
        (b"\xef\xbb\xbf  <?xml version=\"1.0\"?><Error>", "is a web page"),
        (b"Access to model x is restricted", "is text, not weights; it begins with `Access to model"),
        (b"{\"architectures\": []}          ", "is JSON, not weights"),
        (b"PK\x03\x04 archive/data.pkl          ", "is a zip archive, as torch.save writes"),
        (b"\x80\x02}q\0X\x0a\0\0\0state_dict", "is a pickle"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\x03abcdef", "compressed with gzip"),
        (b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0", "is a GGUF file"),
        (b"", "is empty"),
        (&[0; 4096], "holds nothing but zeros"),
        (&safetensors[..100], "copy or download it again"),
        (&safetensors[..safetensors.len() - 1000], "is incomplete"),
    ] {
        let dir = copy_of(&fixture("dinov3_tiny"));
        fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        let inspected = Inspection::of(dir.path()).unwrap_err().to_string();
        for message in [built(dir.path()).unwrap_err(), inspected] {
            assert!(message.contains(expected) && message.contains("model.safetensors: "), "{message}");
            assert_eq!(message.lines().count(), 1, "{message}");
        }
    }
    let dir = copy_of(&fixture("dinov3_tiny"));
    fs::write(dir.path().join("config.json"), lfs).unwrap();
    assert!(built(dir.path()).unwrap_err().contains("config.json: is a pointer of Git LFS"));
}

#[test]
fn a_directory_that_is_something_else_is_called_by_its_name() {
    for (files, expected) in [
        (&["adapter_config.json", "adapter_model.safetensors"][..], "is an adapter, not a model"),
        (&["adapter_model.bin"], "is an adapter, not a model"),
        (&["config.yaml", "checkpoints"], "is a run of tracknet"),
        (&["refs", "snapshots"], "is a model's folder in the hub cache"),
        (&[], "is empty"),
        (&["README.md"], "holds no config.json; it holds README.md"),
        (&["config.json", "pytorch_model.bin"], "holds pytorch_model.bin, a pickle"),
        (&["config.json", "adapter_model.safetensors"], "is an adapter, not a model"),
        (&["config.json", "weights.safetensors"], "but weights.safetensors"),
        (&["config.json", "model.gguf"], "model.gguf, which is not read here"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), r#"{"model_type": "vit"}"#).unwrap();
        }
        let message = built(dir.path()).unwrap_err();
        assert!(message.contains(expected), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn what_may_not_be_read_is_not_called_absent() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let dir = copy_of(&fixture("dinov3_tiny"));
    let weights = dir.path().join("model.safetensors");
    fs::remove_file(&weights).unwrap();
    symlink("../../blobs/gone", &weights).unwrap();
    assert!(built(dir.path()).unwrap_err().contains("is a link to ../../blobs/gone, which is not there"));
    let closed = tempfile::tempdir().unwrap();
    let inner = closed.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let readable = fs::metadata(&inner).is_ok(); // Root reads everything.
    let message = built(&inner).unwrap_err();
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).unwrap();
    assert!(readable || message.contains("ermission denied"), "{message}");
}

#[test]
fn the_normalization_in_use_is_reported_and_written_again_as_it_was() {
    let report = built(&fixture("vit_tiny")).unwrap();
    assert!(report.preprocessing.is_none() && report.to_string().contains("ImageNet's"), "{report}");
    let dir = copy_of(&fixture("vit_tiny"));
    let text = "{\"do_normalize\" : true, \"image_mean\": 0.5,\n\"image_std\": 0.25}";
    fs::write(dir.path().join("preprocessor_config.json"), text).unwrap();
    let report = built(dir.path()).unwrap();
    let line = "mean [0.5, 0.5, 0.5], std [0.25, 0.25, 0.25], as its preprocessor_config.json says";
    assert!(report.to_string().contains(line), "{report}");
    let out = tempfile::tempdir().unwrap();
    let vit = common::backbone(dir.path(), &Device::flex()).unwrap();
    write_backbone(out.path(), &vit, StoredAs::F32).unwrap();
    assert_eq!(fs::read_to_string(out.path().join("preprocessor_config.json")).unwrap(), text);
    fs::write(dir.path().join("preprocessor_config.json"), r#"{"do_normalize": "no"}"#).unwrap();
    assert!(built(dir.path()).unwrap_err().contains("do_normalize: is `\"no\"`, expected true or false"));
}

#[test]
fn a_configuration_without_a_backbone_means_the_default_one_and_random_frozen_weights_are_never_silent() {
    match build_model(&ModelConfig::default(), [512, 288], 1, &Device::flex()) {
        Ok((_, report)) => assert!(report.source.contains("dinov3-vits16-pretrain-lvd1689m"), "{report}"),
        Err(error) => {
            let message = error.to_string();
            assert!(message.contains("nor is model.backbone.architecture"), "{message}");
            assert!(message.contains("`hf download facebook/dinov3-vits16-pretrain-lvd1689m`"), "{message}");
        }
    }
    let architecture = json!({ "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2 });
    let Value::Object(architecture) = architecture else { panic!("no object") };
    for (freeze, expected) in [(true, true), (false, false)] {
        let mut config = ModelConfig::default();
        config.backbone.architecture = Some(architecture.clone());
        config.backbone.freeze = freeze;
        config.decoder.channels = vec![32, 16];
        config.decoder.upsample = vec![2];
        let (_, report) = build_model(&config, [96, 64], 1, &Device::flex()).unwrap();
        assert_eq!(report.to_string().contains("has random weights and is frozen"), expected, "{report}");
    }
}

#[test]
fn a_value_that_is_not_finite_is_named_with_tensor_and_file() {
    let dir = copy_of(&fixture("dinov3_tiny"));
    let name = "layer.1.norm2.weight";
    change(dir.path(), |tensors| {
        tensors.get_mut(name).unwrap().bytes[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let message = built(dir.path()).unwrap_err();
    let file = dir.path().join("model.safetensors").display().to_string();
    assert!(message.contains(name) && message.contains("NaN at element 2") && message.contains(&file), "{message}");
    assert!(Checkpoint::open(dir.path()).is_ok(), "values are read when the model is built");
}

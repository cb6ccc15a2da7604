//! Weights under other names, files that are something else, adapters with heads, and preprocessor files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{SafeTensors, serialize};

use crate::support::{Answer, Place, input};

/// What a training on this model would begin with.
fn dry_run(place: &Place, model: &str) -> Answer {
    place.run([
        "train".to_owned(),
        "--model".to_owned(),
        "vit_lora_heatmap".to_owned(),
        "--dry-run".to_owned(),
        "data.preprocess.resize=[96,64]".to_owned(),
        "model.decoder.channels=[64,16]".to_owned(),
        "model.decoder.upsample=[2]".to_owned(),
        "model.heatmap.size=[24,16]".to_owned(),
        "model.lora.target_modules=null".to_owned(),
        format!("model.pretrained_model_name={model}"),
    ])
}

/// Rewrites the names of a model's tensors.
fn renamed(place: &Place, model: &str, to: &str, rename: impl Fn(&str) -> String) {
    place.copy(&format!("models/{model}/config.json"), &format!("{to}/config.json"));
    let bytes = fs::read(input(&format!("models/{model}/model.safetensors"))).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let tensors: BTreeMap<String, _> =
        tensors.tensors().into_iter().map(|(name, view)| (rename(&name), view)).collect();
    place.write(&format!("{to}/model.safetensors"), serialize(tensors, None).unwrap());
}

#[test]
fn the_right_weights_under_other_names_are_loaded() {
    let place = Place::new();
    place.copy("models/dinov3", "plain");
    dry_run(&place, "plain").is(0, &["trainable params"]);
    renamed(&place, "dinov3", "memory", |name| name.replacen("layer.", "model.layer.", 1));
    let prefixes = ["_orig_mod.", "module.", "backbone.", "model.backbone.", "module._orig_mod."];
    for (number, prefix) in prefixes.iter().enumerate() {
        renamed(&place, "dinov3", &format!("prefix{number}"), |name| format!("{prefix}{name}"));
        dry_run(&place, &format!("prefix{number}")).is(0, &["trainable params", "names of the checkpoint: "]);
    }
    renamed(&place, "dinov2_cls", "dinov2_memory", |name| {
        let name = name.replace("attention.output.dense", "attention.o_proj");
        ["query", "key", "value"].iter().fold(name, |name, part| {
            name.replace(&format!("attention.attention.{part}"), &format!("attention.{}_proj", &part[..1]))
        })
    });
    for model in ["memory", "dinov2_memory"] {
        dry_run(&place, model).is(0, &["trainable params"]);
    }
}

#[test]
fn names_that_nobody_knows_are_a_short_error() {
    let place = Place::new();
    renamed(&place, "dinov3", "strange", |name| name.replace("layer", "stage").replace("proj", "lin"));
    let answer = dry_run(&place, "strange");
    answer.is(1, &["strange"]);
    assert!(answer.text.lines().count() < 40, "{}", answer.text);
}

#[test]
fn a_file_that_is_something_else_is_named_with_what_to_do() {
    let weights = fs::read(input("models/dinov3/model.safetensors")).unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d8b7c1f0e2a9b6c5d3e1f7a8b9c0d1e2f3a4b5c6d7e8f9a0b1c2d3e4f5a6b7c\nsize 86442752\n";
    let page = "<!doctype html>\n<html class=\"\">\n<head><title>Access denied</title></head></html>\n";
    let cases: [(&[u8], &str); 6] = [
        (pointer.as_bytes(), "git lfs pull"),
        (page.as_bytes(), "web page"),
        (&weights[..weights.len() * 2 / 3], "download it again"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", "gzip"),
        (b"PK\x03\x04\x14\x00\x00\x00\x08\x00archive/data.pkl", "torch.save"),
        (b"", "empty"),
    ];
    for (bytes, said) in cases {
        let place = Place::new();
        place.copy("models/dinov3/config.json", "model/config.json");
        place.write("model/model.safetensors", bytes);
        dry_run(&place, "model").is(1, &["model.safetensors", said]);
        let inspected = place.run(["inspect", "model"]);
        assert!(inspected.text.contains(said), "inspect: {}", inspected.text);
    }
}

#[test]
fn adapters_of_the_classification_recipe_leave_their_head_aside() {
    let place = Place::new();
    let merged = |adapter: &str, base: &str, out: &str| {
        let [adapter, base] = [input(&format!("adapters/{adapter}")), input(&format!("models/{base}"))];
        let words = ["adapter", "merge", adapter.to_str().unwrap(), out, "--base", base.to_str().unwrap()];
        place.run(words)
    };
    merged("vit_cls_v5", "vit_cls", "v5").is(0, &["classifier"]);
    merged("vit_cls_old", "vit_cls", "old").is(0, &["classifier"]);
    merged("vit_lora_on_head", "vit_cls", "on_head").is(0, &["classifier"]);
    merged("vit_old_nohead", "vit_cls", "nohead").is(0, &[]);
    merged("dinov2_cls_v5", "dinov2_cls", "dinov2").is(0, &["classifier"]);
    merged("dinov3_v5", "dinov3", "dinov3").is(0, &[]);
    let plain = merged("dinov3_default", "dinov3", "default");
    assert!(plain.code == Some(0) || plain.text.contains("default"), "{}", plain.text);

    let right = tensors(&input("adapters/right_merged.safetensors"));
    let ours = tensors(&place.path("v5/model.safetensors"));
    let projections: Vec<_> = right.iter().filter(|(name, _)| !name.starts_with("classifier")).collect();
    assert_eq!(projections.len(), 4);
    for (name, expected) in projections {
        let short = name.strip_prefix("vit.").unwrap();
        let found = ours.iter().find(|(name, _)| name.ends_with(short)).unwrap().1;
        let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-5 && found.len() == expected.len(), "{name}: {worst}");
    }
}

fn tensors(path: &Path) -> BTreeMap<String, Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = |bytes: &[u8]| bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    file.tensors().into_iter().map(|(name, view)| (name, floats(view.data()))).collect()
}

#[test]
fn the_normalization_in_use_is_that_of_the_preprocessor_file_and_is_said() {
    let place = Place::new();
    for (file, model, said) in [
        (
            "p_255",
            "vit_cls",
            "mean [0.485, 0.456, 0.406], std [0.229, 0.224, 0.225], as its preprocessor_config.json says",
        ),
        ("p_nomean", "vit_cls", "mean [0.5, 0.5, 0.5]"),
        ("p_nonorm", "vit_cls", "mean [0.0, 0.0, 0.0], std [1.0, 1.0, 1.0]"),
        ("p_scalar", "vit_cls", "mean [0.5, 0.5, 0.5]"),
        ("p_sat", "dinov3", "mean [0.43, 0.411, 0.296]"),
    ] {
        place.copy(&format!("models/{model}"), file);
        place.copy(&format!("preprocessors/{file}.json"), &format!("{file}/preprocessor_config.json"));
        dry_run(&place, file).is(0, &[said]);
    }
    for (json, said) in [
        (r#"{"image_mean": "imagenet", "image_std": [0.2, 0.2, 0.2]}"#, "image_mean"),
        (r#"{"do_normalize": "perhaps"}"#, "do_normalize"),
        (r#"{"image_mean": [0.5, 0.5], "image_std": [0.2, 0.2]}"#, "image_mean"),
        (r#"{"image_std": [0.2, 0.0, 0.2], "image_mean": [0.5, 0.5, 0.5]}"#, "image_std"),
    ] {
        place.write("p_scalar/preprocessor_config.json", json);
        dry_run(&place, "p_scalar").is(1, &["preprocessor_config.json", said]);
    }
}

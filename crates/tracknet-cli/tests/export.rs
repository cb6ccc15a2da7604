//! `tracknet export`: what its directories hold, and what it refuses. That an ONNX file computes what the model computes is a
//! test of the library.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;

use common::{contains_all, ends, failure, ok, render_rallies, train};

/// The names of what is in a directory, in order.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_run_with_adapters_on_4_bits_becomes_one_onnx_file_with_its_card() {
    let dir = tempfile::tempdir().unwrap();
    render_rallies(dir.path(), 3);
    let run = train(dir.path(), "vit_qlora_heatmap", &["training.loss.name=focal"]);
    assert_eq!(ok(dir.path(), ["export", &run, "out", "--format", "onnx"]).trim(), "wrote out");
    let out = dir.path().join("out");
    assert_eq!(names(&out), ["README.md", "checksums.json", "model.onnx"]);

    // Texts stand in the file as they are.
    let file = fs::read(out.join("model.onnx")).unwrap();
    let file = String::from_utf8_lossy(&file);
    contains_all(&file, &["LayerNormalization", "backbone.blocks.0.query.weight", "decoder.stages.0.proj.weight"]);
    contains_all(&file, &["\"resize\":[96,64]", "\"mean\":[0.485,0.456,0.406]", "\"activation\":\"sigmoid\""]);
    contains_all(&file, &["\"relative_support\":0.5", "\"threshold\":0.5", "x * frame width / 24"]);

    let card = fs::read_to_string(out.join("README.md")).unwrap();
    let (head, body) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    contains_all(head, &["library_name: tracknet", "pipeline_tag: keypoint-detection", "- onnx"]);
    assert!(!head.contains("license") && !head.contains("base_model"), "{head}");
    let name = Path::new(&run).file_name().unwrap().to_str().unwrap();
    contains_all(
        body,
        &[name, "LoRA of rank", "merged into the weights", "nf4", "| data | rallies |", "game1", "game2"],
    );
    contains_all(body, &["## Measured", "3 frames of the validation games", "import onnxruntime"]);
    assert!(!card.contains(dir.path().to_str().unwrap()), "the card names a directory of this machine:\n{card}");

    let half = ["--format", "onnx", "--dtype", "float16"];
    ok(dir.path(), ["export", &run, "half"].into_iter().chain(half));
    let size = |name: &str| fs::metadata(dir.path().join(name).join("model.onnx")).unwrap().len();
    assert!(size("half") < size("out"), "{} {}", size("half"), size("out"));

    // What somebody else wrote stays.
    fs::create_dir(dir.path().join("theirs")).unwrap();
    fs::write(dir.path().join("theirs/notes.txt"), "mine").unwrap();
    let refused = failure(dir.path(), ["export", &run, "theirs", "--format", "onnx"]);
    contains_all(&refused, &["theirs: this directory exists, and tracknet did not write it"]);
    assert_eq!(names(&dir.path().join("theirs")), ["notes.txt"]);

    // The other layout has no place for adapters, and says which one has.
    let refused = failure(dir.path(), ["export", &run, "backbone"]);
    contains_all(&refused, &["stored in 4 bits"]);
    let [_, message] = ends(2, dir.path(), ["export", &run, "backbone", "--format", "tflite"]);
    contains_all(&message, &["safetensors", "onnx"]);
    fs::write(dir.path().join(&run).join("evaluation.json"), "{").unwrap();
    let refused = failure(dir.path(), ["export", &run, "backbone", "--format", "onnx"]);
    contains_all(&refused, &["evaluation.json"]);
    assert!(!dir.path().join("backbone").exists());
}

#[test]
fn a_hugging_face_directory_has_a_card_too() {
    let dir = tempfile::tempdir().unwrap();
    render_rallies(dir.path(), 3);
    let run = train(dir.path(), "vit_heatmap", &["model.backbone.freeze=false"]);
    ok(dir.path(), ["export", &run, "mine"]);
    let out = dir.path().join("mine");
    let expected = ["README.md", "checksums.json", "config.json", "model.safetensors", "tracknet_head.safetensors"];
    assert_eq!(names(&out), expected);
    let card = fs::read_to_string(out.join("README.md")).unwrap();
    contains_all(&card, &["- safetensors", "trained in this run", "model.decoder.pretrained=THIS_DIRECTORY"]);
    assert!(!card.contains("onnx"), "{card}");
}

#[test]
fn the_guide_shows_the_program_of_the_card_as_it_is() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats.md");
    let guide = fs::read_to_string(guide).unwrap();
    assert!(guide.contains(tracknet::export::ONNX_EXAMPLE), "docs/formats.md has another version of export/example.py");
}

//! `tracknet demo distill`, as a user meets it.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use common::{contains_all, finish, help_with_example, program};

/// Runs a command that must end with this exit code; returns standard output and standard error.
fn ends<S: AsRef<OsStr>>(code: i32, dir: &Path, args: impl IntoIterator<Item = S>) -> [String; 2] {
    finish(code, program(dir).env("TMPDIR", dir.join("tmp")).args(args))
}

fn fixture(name: &str) -> String {
    common::fixture(name).display().to_string()
}

/// A directory with a temporary directory of its own, so that what a demonstration leaves there is seen.
fn place() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("tmp")).unwrap();
    dir
}

fn assert_nothing_is_left(dir: &Path) {
    let left: Vec<PathBuf> = fs::read_dir(dir.join("tmp")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Rendered frames as a folder of pictures.
fn render(dir: &Path) {
    let sizes = ["--games", "1", "--clips", "1", "--frames", "6", "--size", "160x90", "--seed", "3"];
    ends(0, dir, ["data", "generate", "rallies"].into_iter().chain(sizes));
    fs::rename(dir.join("rallies/game1/Clip1"), dir.join("pictures")).unwrap();
}

const TINY: [&str; 15] = [
    "demo",
    "distill",
    "--size",
    "64",
    "--batch-size",
    "4",
    "--crops",
    "8",
    "--validation-crops",
    "6",
    "--rank",
    "4",
    "--lora-alpha",
    "8",
    "--steps",
];

#[test]
fn the_help_has_an_example_and_does_not_show_the_process_of_a_student() {
    let dir = place();
    let help = help_with_example(dir.path(), &["demo"]);
    assert!(help.contains("tracknet demo distill") && !help.contains("distill-student"), "{help}");
    let help = help_with_example(dir.path(), &["demo", "distill"]);
    assert!(help.contains("tracknet demo distill --model"), "{help}");
}

#[test]
fn two_students_learn_the_report_says_so_and_their_adapters_load() {
    let place = place();
    let dir = place.path();
    render(dir);
    let flags = ["20", "--lr", "3e-3", "--image", "pictures", "--out", "first"];
    let [table, progress] = ends(0, dir, TINY.iter().chain(&flags));
    let words = [
        "teacher: first/vit-tiny-tennis (dinov3_vit",
        "8 of 5 pictures to learn from, 6 of another to validate",
        "(A) LoRA",
        "(B) QLoRA",
        "float32",
        "nf4",
        "latency of one crop, ms",
        "samples/s in batches of 4",
        "peak memory of the process",
        "train loss, last 2",
        "validation loss after",
        "wrote first",
    ];
    contains_all(&table, &words);
    assert!(progress.contains("batch 20/20"), "{progress}");
    assert_nothing_is_left(dir);

    let report: Value = serde_json::from_str(&fs::read_to_string(dir.join("first/report.json")).unwrap()).unwrap();
    for student in report["students"].as_array().unwrap() {
        let loss = |name: &str| ["before", "after"].map(|end| student[name][end].as_f64().unwrap());
        let [before, after] = loss("validation_loss");
        assert!(after < 0.9 * before, "{student}");
        if cfg!(target_os = "linux") {
            // Every process holds at least the binary's pages and a model.
            assert!(student["peak_memory"].as_u64().unwrap() > 10 << 20, "{student}");
        }
    }
    let stored = |index: usize| report["students"][index]["backbone_bytes"].as_u64().unwrap();
    assert!(stored(1) * 4 < stored(0), "{report}");

    for name in ["lora", "qlora"] {
        let [status, _] = ends(0, dir, ["adapter", "status", &format!("first/{name}")]);
        assert!(status.contains("layer.0.attention.q_proj") && status.contains("lora"), "{status}");
    }
    let [merged, _] = ends(0, dir, ["adapter", "merge", "first/qlora", "merged"]);
    assert!(merged.contains("output deviation"), "{merged}");

    // The same seed on the same machine: the same losses. As JSON, and nothing but JSON.
    let flags = ["20", "--lr", "3e-3", "--image", "pictures", "--json"];
    let [json, _] = ends(0, dir, TINY.iter().chain(&flags));
    let again: Value = serde_json::from_str(&json).unwrap();
    for index in 0..2 {
        for key in ["losses", "validation_loss", "clean_loss"] {
            assert_eq!(again["students"][index][key], report["students"][index][key], "{key}");
        }
    }
    fs::write(dir.join("first/notes.txt"), "mine").unwrap();
    let [_, error] = ends(1, dir, TINY.iter().chain(&["1", "--image", "pictures", "--out", "first"]));
    assert!(error.contains("holds notes.txt, which tracknet did not write"), "{error}");
}

#[test]
fn rendered_frames_do_where_no_picture_is_given_and_a_pooler_can_be_distilled() {
    let place = place();
    let dir = place.path();
    let model = fixture("vit_tiny");
    let flags = ["2", "--model", &model, "--feature", "pooler", "--loss", "mse", "--quant-type", "fp4"];
    let [table, _] = ends(0, dir, TINY.iter().copied().chain(flags));
    contains_all(&table, &["pooler output, 64 features", "8 of 24 pictures to learn from, 6 of 6 others", "fp4"]);
    assert_nothing_is_left(dir);
}

/// The options of the original demonstration together, on the task of the original.
#[test]
fn the_task_of_the_original_runs_with_its_options_and_fills_its_csv() {
    let place = place();
    let dir = place.path();
    render(dir);
    let without_steps = &TINY[..TINY.len() - 1];
    let flags = [
        "--image",
        "pictures",
        "--views",
        "same",
        "--epochs",
        "2",
        "--amp",
        "fp16",
        "--quant-mode",
        "hf",
        "--skip-list",
        "q_proj, k_proj,",
        "--target",
        "pooler",
        "--csv",
        "results.csv",
    ];
    let [table, notes] = ends(0, dir, without_steps.iter().chain(&flags));
    let words = [
        "pooler output, 256 features",
        "the students see them as the teacher does",
        "  0 of 24      16 of 24\n",
        "(A) LoRA: trainable params: ",
        "(B) QLoRA: trainable params: ",
        " || all params: ",
        "wrote results.csv",
    ];
    contains_all(&table, &words);
    // Two passes over eight crops in batches of four.
    assert!(notes.contains("batch 4/4"), "{notes}");
    // On a processor; both students say so.
    assert_eq!(notes.matches("note: precision fp16: not mixed on this device, using fp32").count(), 2, "{notes}");
    let csv = fs::read_to_string(dir.join("results.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 3, "{csv}");
    assert!(lines[0].starts_with("name,lat_ms,samples_per_s,max_mem_gb,final_train_loss,final_val_loss"), "{csv}");
    assert!(lines[1].starts_with("LoRA_fp32_pooler_cosine,"), "{csv}");
    assert!(lines[2].starts_with("\"INT4+LoRA(nf4,fp32,pooler,cosine)\","), "{csv}");
    assert_nothing_is_left(dir);

    // Its own file is replaced, another's is not, and an input never is.
    let csv = |path: &str, more: &[&str], code| {
        let flags = ["1", "--image", "pictures", "--csv", path];
        ends(code, dir, TINY.iter().chain(&flags).chain(more))[usize::from(code != 0)].clone()
    };
    csv("results.csv", &[], 0);
    fs::write(dir.join("notes.csv"), "mine").unwrap();
    assert!(csv("notes.csv", &[], 1).contains("tracknet did not write it"));
    let picture = fs::read_dir(dir.join("pictures"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.extension().is_some_and(|e| e == "jpg"))
        .unwrap();
    let before = fs::read(&picture).unwrap();
    assert!(csv(&picture.display().to_string(), &["--overwrite"], 1).contains("never written over"));
    assert_eq!(fs::read(&picture).unwrap(), before);
    let model = fixture("vit_tiny");
    let config = format!("{model}/config.json");
    assert!(csv(&config, &["--overwrite", "--model", &model], 1).contains("never written over"));
    assert!(csv("out/a.csv", &["--out", "out"], 1).contains("choose another place"));
    assert!(csv("missing/../pictures", &[], 1).contains("pictures"));
    assert_eq!(fs::read_to_string(dir.join("notes.csv")).unwrap(), "mine");
}

#[test]
fn what_cannot_work_is_named() {
    let place = place();
    let dir = place.path();
    render(dir);
    let refused = |flags: &[&str]| {
        let [_, error] = ends(1, dir, TINY.iter().chain(&["2", "--image", "pictures"]).chain(flags));
        assert_nothing_is_left(dir);
        error
    };
    contains_all(&refused(&["--model", &fixture("bnb_checkpoint")]), &["bnb_checkpoint", "in 4 bits"]);
    contains_all(&refused(&["--model", "nowhere/at/all"]), &["nowhere/at/all", "neither a directory"]);
    let [_, error] = ends(1, dir, ["demo", "distill", "--image", "pictures", "--size", "72"]);
    contains_all(&error, &["size: ", "64 or 80"]);
    contains_all(&refused(&["--lr", "0"]), &["lr: is 0"]);
    let [_, error] = ends(1, dir, ["demo", "distill", "--image", "pictures", "--steps", "18446744073709551615"]);
    contains_all(&error, &["steps: make 18446744073709551615 optimizer steps"]);
    let [_, error] = ends(2, dir, TINY.iter().chain(&["2", "--epochs", "1"]));
    contains_all(&error, &["--epochs", "cannot be used with", "--steps"]);

    fs::create_dir(dir.join("swin")).unwrap();
    fs::write(dir.join("swin/config.json"), r#"{"model_type": "swin"}"#).unwrap();
    let weights = Path::new(&fixture("vit_tiny")).join("model.safetensors");
    fs::copy(weights, dir.join("swin/model.safetensors")).unwrap();
    contains_all(&refused(&["--model", "swin"]), &["swin/config.json", "`swin` is not supported"]);

    let [_, error] = ends(1, dir, TINY.iter().chain(&["2", "--image", "missing.jpg"]));
    contains_all(&error, &["missing.jpg", "cannot read"]);
    fs::create_dir(dir.join("empty")).unwrap();
    let [_, error] = ends(1, dir, TINY.iter().chain(&["2", "--image", "empty"]));
    contains_all(&error, &["empty", "no jpg or png"]);
    let [_, error] = ends(2, dir, TINY.iter().chain(&["0"]));
    contains_all(&error, &["at least 1"]);
    // The process of a student has no job when a user starts it.
    let [_, error] = ends(1, dir, ["demo", "distill-student", "empty", "lora"]);
    contains_all(&error, &["job.json"]);
}

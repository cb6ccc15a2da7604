//! A run that is stopped anywhere and resumed ends with the files of the run that was not.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use serde_json::json;
use tracknet::training::Outcome;

use crate::training_support::{config, lora, model, run, training};

/// The files of `last` that must be equal byte for byte; `state.json` has the run's id in it.
fn weights(run: &Path) -> Vec<(String, Vec<u8>)> {
    let last = run.join("checkpoints/last");
    let names = ["adapter/adapter_model.safetensors", "tracknet_head.safetensors", "optimizer.safetensors"];
    names.iter().map(|name| ((*name).to_owned(), fs::read(last.join(name)).unwrap())).collect()
}

/// The rows of a log as they are written, without the times.
fn rows(run: &Path, name: &str) -> Vec<String> {
    let text = fs::read_to_string(run.join("logs").join(name)).unwrap();
    let header: Vec<&str> = text.lines().next().unwrap().split(',').collect();
    let is_time = |i: usize, cell: &str| {
        let timings = ["frames_per_s", "seconds"];
        timings.contains(header.get(i).unwrap_or(&"")) || timings.iter().any(|t| cell.starts_with(&format!("\"{t}\":")))
    };
    let row = |line: &str| {
        let cells = line.trim_matches(['{', '}']).split(',').enumerate();
        cells.filter(|(i, cell)| !is_time(*i, cell)).map(|(_, cell)| cell).collect::<Vec<_>>().join(",")
    };
    text.lines().map(row).collect()
}

fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("logs/metrics.jsonl")).unwrap();
    let mut rows: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for row in &mut rows {
        for timing in ["frames_per_s", "seconds"] {
            row.as_object_mut().unwrap().remove(timing);
        }
    }
    rows
}

/// 14 frames in batches of 4 are 4 steps an epoch: stops in the middle of an epoch, right at its end (before
/// validation), and at the first step of the next.
#[test]
fn a_run_stopped_anywhere_and_resumed_equals_the_run_that_was_not_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let whole = config(dir.path(), model(lora()), training(&dir.path().join("whole"), json!({ "epochs": 3 })));
    let (expected, _) = run(&whole, None, None).unwrap();
    assert_eq!((expected.outcome, expected.state.step), (Outcome::Finished, 12));
    for stop in [2, 4, 5] {
        let out = dir.path().join(format!("stopped{stop}"));
        let stopped = config(dir.path(), model(lora()), training(&out, json!({ "epochs": 3 })));
        let (first, _) = run(&stopped, None, Some(stop)).unwrap();
        assert_eq!((first.outcome, first.state.step), (Outcome::Interrupted, stop as u64));
        let (second, _) = run(&stopped, Some(&first.paths.root), None).unwrap();
        assert_eq!(second.outcome, Outcome::Finished);
        assert_eq!(second.paths.root, first.paths.root);
        assert_eq!(weights(&second.paths.root), weights(&expected.paths.root), "stopped after {stop} steps");
        assert_eq!(metrics(&second.paths.root), metrics(&expected.paths.root), "stopped after {stop} steps");
        for name in ["metrics.csv", "metrics.jsonl"] {
            assert_eq!(rows(&second.paths.root, name), rows(&expected.paths.root, name), "stopped after {stop} steps");
        }
    }
}

/// Stops before, right at and after the step at which a backbone that is frozen at first begins to train, and a run
/// whose epochs are raised beyond it.
#[test]
fn a_backbone_that_is_unfrozen_is_in_every_checkpoint_and_resumes_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let unfreezing = |out: &str, epochs: usize| {
        let json = json!({ "epochs": epochs, "backbone_freeze_epochs": 1, "scheduler": { "name": "constant" } });
        config(dir.path(), model(json!({})), training(&dir.path().join(out), json))
    };
    let files = |run: &Path| {
        let last = run.join("checkpoints/last");
        ["backbone/model.safetensors", "tracknet_head.safetensors", "optimizer.safetensors"]
            .map(|name| fs::read(last.join(name)).unwrap())
    };
    let (expected, _) = run(&unfreezing("whole", 2), None, None).unwrap();
    assert_eq!(expected.state.base, None);
    for stop in [2, 4, 6] {
        let stopped = unfreezing(&format!("stopped{stop}"), 2);
        let (first, _) = run(&stopped, None, Some(stop)).unwrap();
        assert!(first.paths.last().join("backbone/config.json").is_file());
        let (second, _) = run(&stopped, Some(&first.paths.root), None).unwrap();
        assert!(files(&second.paths.root) == files(&expected.paths.root), "stopped after {stop} steps");
    }
    let (short, _) = run(&unfreezing("raised", 1), None, None).unwrap();
    assert!(short.state.base.is_some() && !short.paths.last().join("backbone").exists());
    let (longer, _) = run(&unfreezing("raised", 2), Some(&short.paths.root), None).unwrap();
    assert!(files(&longer.paths.root) == files(&expected.paths.root));
}

/// Stops before, right at and after the step at which the adapters on a packed base begin to train.
#[test]
fn a_packed_run_whose_adapters_wait_an_epoch_resumes_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let packed = |out: &str| {
        let mut model = model(lora());
        model.quantization.enabled = true;
        config(dir.path(), model, training(&dir.path().join(out), json!({ "epochs": 2, "backbone_freeze_epochs": 1 })))
    };
    let (expected, _) = run(&packed("whole"), None, None).unwrap();
    for stop in [2, 4, 6] {
        let stopped = packed(&format!("stopped{stop}"));
        let (first, _) = run(&stopped, None, Some(stop)).unwrap();
        assert_eq!((first.outcome, first.state.step), (Outcome::Interrupted, stop as u64));
        let (second, _) = run(&stopped, Some(&first.paths.root), None).unwrap();
        assert_eq!(second.outcome, Outcome::Finished);
        assert_eq!(weights(&second.paths.root), weights(&expected.paths.root), "stopped after {stop} steps");
        assert_eq!(metrics(&second.paths.root), metrics(&expected.paths.root), "stopped after {stop} steps");
    }
}

#[test]
fn epochs_can_be_raised_on_resume() {
    let dir = tempfile::tempdir().unwrap();
    let constant = |epochs: usize, out: &str| {
        // A constant rate does not depend on the number of epochs.
        let json = json!({ "epochs": epochs, "scheduler": { "name": "constant" } });
        config(dir.path(), model(lora()), training(&dir.path().join(out), json))
    };
    let (whole, _) = run(&constant(3, "whole"), None, None).unwrap();
    let (short, _) = run(&constant(2, "short"), None, None).unwrap();
    let (longer, recorder) = run(&constant(3, "short"), Some(&short.paths.root), None).unwrap();
    assert_eq!(weights(&longer.paths.root), weights(&whole.paths.root));
    assert!(recorder.notes.iter().any(|n| n.contains("training.epochs")), "{:?}", recorder.notes);
}

#[test]
fn a_run_resumes_when_the_weights_its_head_began_with_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let first = config(dir.path(), model(lora()), training(&dir.path().join("first"), json!({ "epochs": 1 })));
    let (first, _) = run(&first, None, None).unwrap();
    let head = dir.path().join("head.safetensors");
    fs::copy(first.paths.last().join("tracknet_head.safetensors"), &head).unwrap();

    let mut section = model(lora());
    section.decoder.pretrained = Some(head.clone());
    let config = config(dir.path(), section, training(&dir.path().join("second"), json!({ "epochs": 2 })));
    let (stopped, _) = run(&config, None, Some(5)).unwrap();
    fs::remove_file(&head).unwrap();
    let (resumed, _) = run(&config, Some(&stopped.paths.root), None).unwrap();
    assert_eq!((resumed.outcome, resumed.state.step), (Outcome::Finished, 8));
    // A new run still needs it.
    let error = run(&config, None, None).unwrap_err().to_string();
    assert!(error.contains("head.safetensors"), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_refused_with_the_file_that_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), model(lora()), training(dir.path(), json!({ "epochs": 1 })));
    let (report, _) = run(&config, None, None).unwrap();
    let path = report.paths.last().join("adapter/adapter_model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::write(&path, bytes).unwrap();
    let error = run(&config, Some(&report.paths.root), None).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors") && error.contains("changed"), "{error}");
}

#[test]
fn another_base_or_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let first = config(dir.path(), model(lora()), training(dir.path(), json!({ "epochs": 1 })));
    let (report, _) = run(&first, None, None).unwrap();
    // A random base comes from the seed.
    let other_seed = config(dir.path(), model(lora()), training(dir.path(), json!({ "epochs": 2, "seed": 8 })));
    let error = run(&other_seed, Some(&report.paths.root), None).unwrap_err().to_string();
    assert!(error.contains("trained on base") && error.contains("hash"), "{error}");
    let mut other_model = first.clone();
    other_model.model.lora.lora_alpha = 16.0;
    let error = run(&other_model, Some(&report.paths.root), None).unwrap_err().to_string();
    assert!(error.contains("config.yaml") && error.contains("`model` section differs"), "{error}");
}

#[test]
fn what_a_kill_between_two_renames_leaves_can_be_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), model(lora()), training(dir.path(), json!({ "epochs": 2 })));
    let (report, _) = run(&config, None, Some(5)).unwrap();
    fs::rename(report.paths.last(), report.paths.checkpoints.join("last.old")).unwrap();
    let (resumed, _) = run(&config, Some(&report.paths.root), None).unwrap();
    assert_eq!((resumed.outcome, resumed.state.step), (Outcome::Finished, 8));
}

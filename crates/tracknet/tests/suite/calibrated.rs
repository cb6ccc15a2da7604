//! Runs whose scores are moved at their end (`training.calibrate`).

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use burn::tensor::{Device, Distribution, Tensor};
use serde_json::json;
use tracknet::artifacts::load_model_for_inference;
use tracknet::config::Config;
use tracknet::evaluation::Calibration;
use tracknet::training::{Evaluation, FitReport};

use crate::training_support::{INPUT, config, lora, model, run, training};
use crate::windows::logits;

/// A run that learns its training frames by heart, on which it validates.
fn by_heart(root: &Path, out: &str, calibrate: bool, epochs: usize) -> Config {
    let json = json!({
        "epochs": epochs, "calibrate": calibrate, "loss": { "name": "focal" }, "optimizer": { "lr": 1e-2 },
        "scheduler": { "name": "constant" }, "early_stopping": { "monitor": "val/ap", "mode": "max", "patience": 100 }
    });
    // Fine heatmaps, of which the tolerance is a whole pixel.
    let mut section = lora();
    section["heatmap"] = json!({ "size": [128, 96], "sigma": 4.0 });
    let mut config = config(root, model(section), training(&root.join(out), json));
    config.data.split.val_games = vec!["game1".to_owned()];
    config
}

fn head(run: &FitReport, checkpoint: &str) -> Vec<u8> {
    fs::read(run.paths.root.join("checkpoints").join(checkpoint).join("tracknet_head.safetensors")).unwrap()
}

/// By how much the best checkpoint of a run moves its scores.
fn shift_of(run: &FitReport) -> Option<f32> {
    let state = fs::read_to_string(run.paths.root.join("checkpoints/best/state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&state).unwrap();
    state["score_shift"].as_f64().map(|shift| shift as f32)
}

#[test]
fn a_calibrated_run_predicts_with_other_scores_where_that_helps_and_keeps_its_weights() {
    let dir = tempfile::tempdir().unwrap();
    let device = Device::flex();
    let pictures = Tensor::<4>::random([2, 3, INPUT[1], INPUT[0]], Distribution::Normal(0.0, 1.0), &device);
    let predicted = |run: &FitReport, checkpoint: &str| {
        let path = run.paths.root.join("checkpoints").join(checkpoint);
        logits(&load_model_for_inference(&path, None, &device).unwrap().model, &pictures)
    };
    let mut moved_runs = 0;
    for epochs in [10, 15, 20, 25] {
        let [plain, moved] = [("plain", false), ("moved", true)].map(|(out, calibrate)| {
            run(&by_heart(dir.path(), &format!("{out}{epochs}"), calibrate, epochs), None, None).unwrap().0
        });
        for checkpoint in ["best", "last"] {
            assert_eq!(head(&plain, checkpoint), head(&moved, checkpoint), "{epochs} {checkpoint}");
        }
        let [before, after] = [&plain, &moved].map(|run| run.evaluation.as_ref().unwrap());
        let f1 = |evaluation: &Evaluation| evaluation.report.total.detection.f1.unwrap_or(0.0);
        assert!(f1(after) >= f1(before), "{epochs}: {} {}", f1(before), f1(after));
        let shift = shift_of(&moved);
        let found = Calibration::of(&before.outcomes, &before.report.options).map(|found| found.shift);
        assert!(shift.is_none() || shift == found, "{epochs}: {shift:?} {found:?}");
        for (moved, plain) in predicted(&moved, "best").iter().zip(predicted(&plain, "best")) {
            assert!((moved - plain - shift.unwrap_or(0.0)).abs() < 1e-4, "{epochs}: {moved} {plain} {shift:?}");
        }
        assert_eq!(predicted(&moved, "last"), predicted(&plain, "last"), "{epochs}");
        moved_runs += usize::from(shift.is_some());
    }
    assert!(moved_runs > 0);
}

#[test]
fn a_calibrated_run_goes_on_with_its_own_weights_and_is_calibrated_anew() {
    let dir = tempfile::tempdir().unwrap();
    let run_in = |out: &str, calibrate| {
        let (first, _) = run(&by_heart(dir.path(), out, calibrate, 20), None, None).unwrap();
        let best = first.paths.root.join("checkpoints/best");
        let epochs = first.state.epoch + 2;
        run(&by_heart(dir.path(), out, calibrate, epochs), Some(&best), None).unwrap().0
    };
    let (plain, moved) = (run_in("plain", false), run_in("moved", true));
    assert_eq!(head(&plain, "last"), head(&moved, "last"));
    let evaluation = plain.evaluation.as_ref().unwrap();
    let found = Calibration::of(&evaluation.outcomes, &evaluation.report.options).map(|found| found.shift);
    assert!(shift_of(&moved).is_none() || shift_of(&moved) == found);
}

//! A model that cannot learn one batch by heart learns nothing: the loss on one fixed batch must fall far.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use burn::tensor::Device;
use serde_json::json;
use tracknet::artifacts::build_model;
use tracknet::compute::Compute;
use tracknet::datasets::{BatchLoader, BatchSpec, Dataset, LoaderOptions};
use tracknet::training::{Trainer, shape_of};

use crate::training_support::{config, lora, model, training};

/// What may be left of the first loss. The head starts near zero, so that is the loss of an empty heatmap, the answer
/// of a model that has learnt nothing; 200 steps come to about a hundredth of it.
const EMPTY_SHARE: f64 = 0.02;

/// Trains `steps` steps on the first batch and returns the loss before and after.
fn overfit(model_json: serde_json::Value, loss: &str, steps: u64) -> [f64; 2] {
    let dir = tempfile::tempdir().unwrap();
    let json = json!({ "loss": { "name": loss }, "optimizer": { "lr": 1e-2, "weight_decay": 0.0 } });
    let config = config(dir.path(), model(model_json), training(dir.path(), json));
    let compute = Compute::new(&Device::flex());
    let (resize, device) = (config.data.preprocess.resize, compute.training_device());
    let (model, build) = build_model(&config.model, resize, 1, &device).unwrap();
    let data = Dataset::open(&config.data.root, config.data.format, &config.data.split.train_games, true).unwrap();
    let spec = BatchSpec::new(&config, build.normalization());
    let mut trainer = Trainer::of_heatmaps(&config.training, model, &compute);
    let shape = shape_of(&spec);
    let loader = BatchLoader::new(data.frames(), spec, 4, LoaderOptions::default()).unwrap();
    let batch = loader.epoch(0).next().unwrap().unwrap();
    let batch = shape.stage(batch, &compute).unwrap();
    let mut losses = Vec::new();
    for step in 0..steps {
        let report = trainer.step(&batch, step, 1.0).unwrap();
        losses.push(report.loss_sum / report.weight);
    }
    [losses[0], losses[losses.len() - 1]]
}

#[test]
fn lora_on_a_frozen_backbone_overfits_one_batch() {
    let [before, after] = overfit(lora(), "mse", 200);
    assert!(after < EMPTY_SHARE * before, "loss {before} → {after}");
}

#[test]
fn a_backbone_that_trains_overfits_one_batch() {
    let [before, after] = overfit(json!({ "backbone": { "freeze": false } }), "focal", 80);
    assert!(after < 0.2 * before, "loss {before} → {after}");
}

#[test]
fn lora_on_a_packed_backbone_overfits_one_batch() {
    let mut packed = lora();
    packed["quantization"] = json!({ "enabled": true });
    let [before, after] = overfit(packed, "mse", 200);
    assert!(after < EMPTY_SHARE * before, "loss {before} → {after}");
}

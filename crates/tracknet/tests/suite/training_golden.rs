//! Five AdamW steps of LoRA against PyTorch + peft (+ bitsandbytes): losses, first gradients and final weights
//! (`fixtures/train_step/{lora,qlora}.safetensors`: rank 4, alpha 8, no dropout, a 1×1 head, mean squared error).

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use burn::tensor::TensorData;
use safetensors::SafeTensors;
use serde_json::json;
use tracknet::artifacts::build_model;
use tracknet::compute::Compute;
use tracknet::config::{ModelConfig, TrainingConfig};
use tracknet::datasets::Batch;
use tracknet::models::state::{Require, load_state, state_dict};
use tracknet::training::{BatchShape, Trainer};

use crate::common::{fixture, largest_of};

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn read(name: &str) -> Tensors {
    let bytes = std::fs::read(fixture(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let floats = file.iter().map(|(name, view)| {
        let values = view.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        (name.to_owned(), (view.shape().to_vec(), values))
    });
    floats.collect()
}

/// Tensors called `<prefix>.<name>`, by the model's names.
fn part(golden: &Tensors, prefix: &str) -> Tensors {
    let named = golden.iter().filter_map(|(name, tensor)| {
        let name = name.strip_prefix(prefix)?.strip_prefix('.')?;
        Some((name.strip_prefix("model.").map_or(name.to_owned(), |n| format!("backbone.{n}")), tensor.clone()))
    });
    named.collect()
}

/// Largest difference, relative to the largest expected value.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = largest_of(expected.iter().copied());
    assert!(scale > 0.0, "zeros tell nothing");
    largest_of(found.iter().zip(expected).map(|(f, e)| f - e)) / scale
}

/// Largest differences allowed for losses, gradients and final weights.
struct Tolerance {
    loss: f64,
    gradient: f32,
    weight: f32,
}

fn five_steps_equal_pytorch(file: &str, quantization: serde_json::Value, tolerance: &Tolerance) {
    let golden = read(&format!("train_step/{file}.safetensors"));
    let model: ModelConfig = serde_json::from_value(json!({
        "pretrained_model_name": fixture("dinov3_tiny"),
        "decoder": { "channels": [64, 64], "upsample": [], "blocks_per_stage": 0 },
        "heatmap": { "size": [6, 4] },
        "lora": { "enabled": true, "r": 4, "lora_alpha": 8.0, "lora_dropout": 0.0 },
        "quantization": quantization
    }))
    .unwrap();
    let training: TrainingConfig = serde_json::from_value(json!({
        "precision": "fp32", "grad_clip": 0.0, "optimizer": { "lr": 1e-3, "weight_decay": 0.05 }
    }))
    .unwrap();
    let compute = Compute::new(&crate::common::device()).with_precision(training.precision);
    let (model, _) = build_model(&model, [96, 64], 0, &compute.training_device()).unwrap();
    let init = part(&golden, "init").into_iter();
    let init = init.map(|(name, (shape, values))| (name, TensorData::new(values, shape))).collect();
    let model = load_state(model, init, Require::Trainable).unwrap();

    let target = golden["target"].1.clone();
    let masks = vec![1.0; target.len()];
    let images = read("dinov3_tiny/io.safetensors")["pixel_values"].1.clone();
    let batch = Batch { size: 2, images, targets: target, masks, samples: Vec::new() };
    let shape = BatchShape { input: [96, 64], frames: 1, heatmap: [6, 4], heatmaps: 1 };
    let batch = shape.stage(batch, &compute).unwrap();
    let mut trainer = Trainer::of_heatmaps(&training, model, &compute);

    let gradients = trainer.gradients(&batch, 0).unwrap().gradients;
    let expected = part(&golden, "grad1");
    assert_eq!(gradients.0.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, gradient) in gradients.0 {
        let d = difference(&gradient.try_into_vec_as::<f32>().unwrap(), &expected[&name].1);
        assert!(d < tolerance.gradient, "gradient of {name} differs by {d}");
    }
    assert_eq!(golden["losses"].1.len(), 5);
    for (step, expected) in golden["losses"].1.iter().enumerate() {
        let report = trainer.step(&batch, step as u64, 1.0).unwrap();
        let loss = report.loss_sum / report.weight;
        let d = (loss - f64::from(*expected)).abs() / f64::from(*expected);
        assert!(d < tolerance.loss, "loss {step} is {loss}, expected {expected}");
    }
    let trained = state_dict(&trainer.model, |p| p.trainable);
    let last = part(&golden, "final");
    assert_eq!(trained.keys().collect::<Vec<_>>(), last.keys().collect::<Vec<_>>());
    for (name, (_, expected)) in last {
        let d = difference(&trained[&name].clone().try_into_vec::<f32>().unwrap(), &expected);
        assert!(d < tolerance.weight, "{name} differs by {d} after five steps");
    }
}

#[test]
fn five_lora_steps_equal_pytorch_and_peft() {
    // Float32 on both sides; a gradient near zero moves a weight by up to the learning rate times its relative error.
    five_steps_equal_pytorch("lora", json!({}), &Tolerance { loss: 2e-5, gradient: 1e-4, weight: 1e-4 });
}

#[test]
fn five_qlora_steps_equal_pytorch_peft_and_bitsandbytes() {
    // The same packed bytes on both sides, computed in float32; otherwise as above.
    let quantization = json!({
        "enabled": true, "quant_type": "nf4", "compute_dtype": "float32", "compress_statistics": true
    });
    five_steps_equal_pytorch("qlora", quantization, &Tolerance { loss: 2e-5, gradient: 1e-4, weight: 1e-4 });
}

//! Runs of the whole loop on a tiny model: what trains and what stays, micro-batches, workers, files.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Device;
use serde_json::json;
use tracknet::Error;
use tracknet::artifacts::build_model;
use tracknet::artifacts::load_model_for_inference;
use tracknet::artifacts::pretrained::save::read_all;
use tracknet::artifacts::run::{Checkpoint, LossScale};
use tracknet::compute::Compute;
use tracknet::config::{Config, DtypeName, ModelConfig};
use tracknet::datasets::{Batch, BatchLoader, BatchSpec, Dataset, LoaderOptions};
use tracknet::models::nn::LinearWeight;
use tracknet::models::state::{Group, ParameterInfo, state_dict};
use tracknet::models::{HeatmapModel, VisitLayers};
use tracknet::training::{
    BatchGradients, BatchShape, GradientNorm, HeatmapStep, Outcome, StagedBatch, StepReport, Trainer, shape_of,
};

use crate::training_support::{config, lora, model, run, training};

type Values = BTreeMap<String, Vec<f32>>;

fn values(model: &HeatmapModel, filter: impl Fn(&ParameterInfo) -> bool) -> Values {
    state_dict(model, filter).into_iter().map(|(name, data)| (name, data.try_into_vec::<f32>().unwrap())).collect()
}

fn cpu() -> Compute {
    Compute::new(&Device::flex())
}

fn built(config: &Config) -> HeatmapModel {
    let device = cpu().training_device();
    build_model(&config.model, config.data.preprocess.resize, config.training.seed, &device).unwrap().0
}

/// Bits, so that −0 and NaN count too.
fn bits(values: &Values) -> BTreeMap<&String, Vec<u32>> {
    values.iter().map(|(name, v)| (name, v.iter().map(|x| x.to_bits()).collect())).collect()
}

#[test]
fn with_lora_only_adapters_decoder_and_head_change() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), model(lora()), training(dir.path(), json!({ "epochs": 1 })));
    let before = built(&config);
    let (report, _) = run(&config, None, None).unwrap();
    let base = |p: &ParameterInfo| p.group == Group::Backbone;
    assert!(!values(&before, base).is_empty());
    assert_eq!(bits(&values(&before, base)), bits(&values(&report.model, base)));
    let rest = |p: &ParameterInfo| p.group != Group::Backbone;
    let (old, new) = (values(&before, rest), values(&report.model, rest));
    let same: Vec<&String> = old.keys().filter(|name| old[*name] == new[*name]).collect();
    assert!(same.is_empty(), "did not train: {same:?}");
}

/// Names of the groups that changed during `epochs` epochs.
fn changed(model: ModelConfig, freeze_epochs: usize, epochs: usize) -> Vec<Group> {
    let dir = tempfile::tempdir().unwrap();
    let json = json!({ "epochs": epochs, "backbone_freeze_epochs": freeze_epochs });
    let config = config(dir.path(), model, training(dir.path(), json));
    let before = built(&config);
    let (report, _) = run(&config, None, Some(4 * epochs)).unwrap();
    let mut groups = Vec::new();
    for group in [Group::Backbone, Group::Adapter, Group::Decoder, Group::Head] {
        let of = |model: &HeatmapModel| values(model, |p| p.group == group);
        if bits(&of(&before)) != bits(&of(&report.model)) {
            groups.push(group);
        }
    }
    groups
}

#[test]
fn the_freeze_schedule_unfreezes_exactly_what_the_configuration_lets_train() {
    use Group::{Adapter, Backbone, Decoder, Head};
    // LoRA: the adapters wait, the base is never unfrozen, even with `freeze: false`.
    let unfrozen_lora = || {
        let mut config = model(lora());
        config.backbone.freeze = false;
        config
    };
    assert_eq!(changed(unfrozen_lora(), 1, 1), [Decoder, Head]);
    assert_eq!(changed(unfrozen_lora(), 1, 2), [Adapter, Decoder, Head]);
    // Without LoRA the backbone waits, also with `freeze: true`, which without epochs to wait, or with too many, is for good.
    assert_eq!(changed(model(json!({ "backbone": { "freeze": false } })), 1, 1), [Decoder, Head]);
    assert_eq!(changed(model(json!({ "backbone": { "freeze": false } })), 1, 2), [Backbone, Decoder, Head]);
    assert_eq!(changed(model(json!({})), 1, 1), [Decoder, Head]);
    assert_eq!(changed(model(json!({})), 1, 2), [Backbone, Decoder, Head]);
    assert_eq!(changed(model(json!({})), 0, 2), [Decoder, Head]);
    assert_eq!(changed(model(json!({})), 2, 2), [Decoder, Head]);
}

/// LoRA on a base in 4 bits.
fn qlora() -> ModelConfig {
    let quantization = json!({ "enabled": true, "compute_dtype": "float32" });
    let mut config = model(lora());
    config.quantization = serde_json::from_value(quantization).unwrap();
    config
}

#[test]
fn a_quantized_base_is_never_unfrozen_and_never_written() {
    use Group::{Adapter, Decoder, Head};
    assert_eq!(changed(qlora(), 1, 1), [Decoder, Head]);
    assert_eq!(changed(qlora(), 1, 2), [Adapter, Decoder, Head]);
    // Packed without adapters: decoder and head train on a backbone that has nothing to thaw.
    let packed_alone = ModelConfig { quantization: qlora().quantization, ..model(json!({})) };
    assert_eq!(changed(packed_alone, 1, 2), [Decoder, Head]);

    let dir = tempfile::tempdir().unwrap();
    let json = json!({ "epochs": 2, "backbone_freeze_epochs": 1 });
    let config = config(dir.path(), qlora(), training(dir.path(), json));
    let packed = |model: &HeatmapModel| {
        let mut bytes = Vec::new();
        model.visit_linears(&mut |path, linear| {
            if let LinearWeight::Packed(weight) = &linear.weight {
                // Codes and scales.
                bytes.push((path.to_owned(), weight.to_packed().unwrap()));
            }
        });
        bytes
    };
    let before = packed(&built(&config));
    assert_eq!(before.len(), 12);
    let (report, _) = run(&config, None, None).unwrap();
    assert_eq!(before, packed(&report.model));
    assert!(!report.paths.last().join("backbone").exists());
    let state: serde_json::Value =
        serde_json::from_slice(&fs::read(report.paths.last().join("state.json")).unwrap()).unwrap();
    assert_eq!(state["base"]["sha256"].as_str().unwrap().len(), 64);
    let loaded = load_model_for_inference(&report.paths.root, None, &Device::flex()).unwrap();
    assert_eq!(before, packed(&loaded.model));
    let adapters = |model: &HeatmapModel| values(model, |p| p.group == Group::Adapter);
    assert_eq!(adapters(&loaded.model), adapters(&report.model));
}

/// One batch of 5 frames of which two have no ball (their mask is zero), and a model on it.
struct Bench {
    trainer: Trainer<HeatmapStep>,
    batch: Batch,
    shape: BatchShape,
}

impl Bench {
    fn gradients(&self, step: u64) -> BatchGradients {
        self.trainer.gradients(&self.staged(&self.batch), step).unwrap()
    }

    fn step(&mut self, batch: &Batch, step: u64) -> Result<StepReport, Error> {
        let batch = self.staged(batch);
        self.trainer.step(&batch, step, 1.0)
    }

    fn staged(&self, batch: &Batch) -> StagedBatch {
        self.shape.stage(batch.clone(), &self.trainer.compute).unwrap()
    }
}

fn bench(training_json: serde_json::Value) -> Bench {
    bench_with_dropout(training_json, 0.0)
}

fn bench_with_dropout(training_json: serde_json::Value, dropout: f32) -> Bench {
    bench_on(training_json, json!({ "lora": { "enabled": true, "r": 4, "lora_dropout": dropout } }))
}

fn bench_on(training_json: serde_json::Value, model_json: serde_json::Value) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), model(model_json), training(dir.path(), training_json));
    let (resize, device) = (config.data.preprocess.resize, cpu().training_device());
    let (model, build) = build_model(&config.model, resize, 3, &device).unwrap();
    let data = Dataset::open(&config.data.root, config.data.format, &config.data.split.train_games, true).unwrap();
    let spec = BatchSpec::new(&config, build.normalization());
    let shape = shape_of(&spec);
    let options = LoaderOptions { workers: 0, ..LoaderOptions::default() };
    let loader = BatchLoader::new(data.frames().split_off(4), spec, 7, options).unwrap();
    let batch = loader.epoch(0).next().unwrap().unwrap();
    Bench { trainer: Trainer::of_heatmaps(&config.training, model, &cpu()), batch, shape }
}

#[test]
fn micro_batches_give_the_gradient_of_the_whole_batch() {
    for loss in ["mse", "focal", "wbce"] {
        let mut bench = bench(json!({ "loss": { "name": loss } }));
        let masked = bench.batch.masks.iter().filter(|&&m| m == 0.0).count();
        assert!(masked > 0 && masked < bench.batch.masks.len());
        let expected = bench.gradients(0);
        let whole = &expected.gradients;
        let GradientNorm::Finite(norm) = whole.norm(&cpu()).unwrap() else { panic!("not finite") };
        for size in [1, 2, 3, 7] {
            bench.trainer.micro_batch = Some(size);
            let report = bench.gradients(0);
            let sum = &report.gradients;
            assert!((report.loss_sum - expected.loss_sum).abs() < 1e-5 * expected.loss_sum);
            assert_eq!(report.weight, expected.weight);
            assert_eq!(sum.0.len(), whole.0.len());
            for (name, gradient) in &whole.0 {
                let difference = (gradient.clone() - sum.0[name].clone()).abs().max().into_scalar::<f32>();
                // Float32 sums in another order, relative to the norm of all gradients.
                assert!(f64::from(difference) < 1e-5 * norm, "{loss} {size}: {name} differs by {difference}");
            }
        }
    }
}

#[test]
fn frames_side_by_side_give_the_bits_of_one_frame_after_the_other() {
    let gradients = |bench: &Bench, step| {
        let BatchGradients { gradients, loss_sum, .. } = bench.gradients(step);
        let bits = |gradient: burn::tensor::Tensor<1>| {
            gradient.try_into_vec_as::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>()
        };
        let gradients: BTreeMap<_, _> = gradients.0.into_iter().map(|(name, g)| (name, bits(g))).collect();
        (gradients, loss_sum.to_bits())
    };
    let mut bench = bench_with_dropout(json!({}), 0.3);
    // Micro-batches are one frame when they run side by side.
    bench.trainer.micro_batch = Some(1);
    let expected = gradients(&bench, 4);
    assert!(expected != gradients(&bench, 5), "dropout draws the same in every step");
    bench.trainer = bench.trainer.side_by_side(true);
    bench.trainer.micro_batch = None;
    for _ in 0..3 {
        assert!(expected == gradients(&bench, 4));
    }
}

#[test]
fn a_non_finite_batch_is_skipped_and_ten_in_a_row_are_an_error() {
    let mut bench = bench(json!({}));
    let before = values(&bench.trainer.model, |_| true);
    let good = bench.batch.clone();
    bench.batch.images[100] = f32::NAN;
    let bad = bench.batch.clone();
    for step in 0..9 {
        let report = bench.step(&bad, step).unwrap();
        assert_eq!((report.skipped.as_deref(), report.grad_norm), (Some("loss"), None));
    }
    assert_eq!(bits(&before), bits(&values(&bench.trainer.model, |_| true)));
    assert_eq!(bench.trainer.optimizer.names().count(), 0);
    // A good step starts the count again.
    assert!(bench.step(&good, 9).unwrap().grad_norm.is_some());
    let results: Vec<_> = (0..10).map(|_| bench.step(&bad, 9)).collect();
    assert!(results[..9].iter().all(Result::is_ok));
    let error = results[9].as_ref().unwrap_err().to_string();
    assert!(error.contains("10 steps in a row") && error.contains("lr"), "{error}");
}

#[test]
fn a_falling_loss_scale_is_no_reason_to_give_up_until_it_cannot_fall_any_more() {
    let mut bench = bench(json!({}));
    let batch = bench.batch.clone();
    // The gradients of this scale are beyond float32 for many steps, the loss is not.
    bench.trainer.loss_scale = Some(LossScale { scale: 2f64.powi(150), steady_steps: 0 });
    let mut skipped = 0;
    while bench.step(&batch, skipped).unwrap().grad_norm.is_none() {
        skipped += 1;
    }
    assert!(skipped > 10, "{skipped}");
    bench.trainer.loss_scale = Some(LossScale { scale: 1.0, steady_steps: 0 });
    let mut bad = batch;
    bad.images[100] = f32::NAN;
    let results: Vec<_> = (0..10).map(|step| bench.step(&bad, step)).collect();
    assert!(results[8].is_ok() && results[9].is_err());
}

#[test]
fn a_step_that_comes_to_nothing_leaves_the_statistics_of_batch_normalization_as_they_were() {
    let mut bench = bench_on(json!({}), json!({ "decoder": { "norm": "bn" } }));
    let statistics = |bench: &Bench| values(&bench.trainer.model, |p| p.name.contains(".running_"));
    let good = bench.batch.clone();
    bench.step(&good, 0).unwrap();
    let before = statistics(&bench);
    assert!(!before.is_empty());
    let mut bad = good.clone();
    bad.images[100] = f32::NAN;
    assert!(bench.step(&bad, 1).unwrap().skipped.is_some());
    assert_eq!(bits(&before), bits(&statistics(&bench)));
    bench.step(&good, 2).unwrap();
    let after = statistics(&bench);
    assert!(bits(&before) != bits(&after) && after.values().flatten().all(|value| value.is_finite()));
}

#[test]
fn a_batch_that_is_normalized_as_a_whole_is_not_split() {
    let dir = tempfile::tempdir().unwrap();
    let section = model(json!({ "decoder": { "norm": "bn" } }));
    let with = |json| config(dir.path(), section.clone(), training(dir.path(), json));
    let error = run(&with(json!({ "epochs": 1, "micro_batch_size": 2 })), None, None).unwrap_err().to_string();
    assert!(error.contains("training.micro_batch_size") && error.contains("model.decoder.norm: bn"), "{error}");
    assert!(!with(json!({})).runtime.run_dir().exists());
    run(&with(json!({ "epochs": 1, "micro_batch_size": 4 })), None, None).unwrap();
}

#[test]
fn a_batch_without_any_ball_changes_nothing_but_by_decay() {
    let mut bench = bench(json!({ "optimizer": { "weight_decay": 0.0 } }));
    bench.batch.masks.fill(0.0);
    let before = values(&bench.trainer.model, |_| true);
    let empty = bench.batch.clone();
    let report = bench.step(&empty, 0).unwrap();
    assert_eq!((report.loss_sum, report.weight, report.grad_norm), (0.0, 0.0, Some(0.0)));
    assert_eq!(before, values(&bench.trainer.model, |_| true));
}

#[test]
fn the_run_does_not_depend_on_the_number_of_decode_workers() {
    let dir = tempfile::tempdir().unwrap();
    let with = |workers: usize, prefetch: usize| {
        let loader = json!({ "num_workers": workers, "prefetch_factor": prefetch });
        let out = dir.path().join(format!("w{workers}"));
        let config = config(dir.path(), model(lora()), training(&out, json!({ "epochs": 1, "data_loader": loader })));
        values(&run(&config, None, None).unwrap().0.model, |_| true)
    };
    let expected = with(0, 1);
    for (workers, prefetch) in [(1, 2), (3, 1)] {
        assert_eq!(bits(&with(workers, prefetch)), bits(&expected), "{workers} workers");
    }
}

#[test]
fn a_run_leaves_its_configuration_logs_overlays_and_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), model(lora()), training(dir.path(), json!({ "precision": "fp16" })));
    let (report, recorder) = run(&config, None, None).unwrap();
    assert_eq!(report.outcome, Outcome::Finished);
    let root = &report.paths.root;
    assert_eq!(*root, dir.path().join(&config.runtime.run_id));
    for name in [
        "config.yaml",
        "logs/metrics.csv",
        "overlays_pred/epoch001/sample_00.png",
        "overlays_target/epoch001/sample_00.png",
        "checkpoints/best/state.json",
        "checkpoints/last/adapter/adapter_config.json",
        "checkpoints/last/adapter/adapter_model.safetensors",
        "checkpoints/last/tracknet_head.safetensors",
        "checkpoints/last/checksums.json",
    ] {
        assert!(root.join(name).is_file(), "{name} is missing");
    }
    assert!(!root.join("checkpoints/last/backbone").exists());
    let csv = fs::read_to_string(root.join("logs/metrics.csv")).unwrap();
    assert_eq!(csv.lines().filter(|l| l.starts_with("step,")).count(), 8);
    assert_eq!(csv.lines().filter(|l| l.starts_with("epoch,")).count(), 2);
    assert!(csv.lines().next().unwrap().contains("val/loss") && csv.lines().next().unwrap().contains("val/f1"));
    assert_eq!(recorder.notes.iter().filter(|n| n.contains("fp16")).count(), 1);
    assert_eq!(recorder.epochs.len(), 2);
    assert!(report.evaluation.is_some());
    assert_eq!(Config::from_run_dir(root).unwrap(), config);
}

/// Frames are normalized as the base asks for, so a checkpoint that replaces the base must ask for the same.
#[test]
fn a_backbone_that_trained_keeps_the_normalization_and_the_rest_of_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    fs::create_dir(&base).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(common::fixture("vit_tiny").join(file), base.join(file)).unwrap();
    }
    let normalization = r#"{"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 1.0, 2.0]}"#;
    fs::write(base.join("preprocessor_config.json"), normalization).unwrap();
    let mut section = model(json!({ "decoder": { "channels": [64, 16, 8] }, "backbone": { "freeze": false } }));
    section.backbone.architecture = None;
    section.pretrained_model_name = Some(base.display().to_string());
    let config = config(dir.path(), section, training(dir.path(), json!({ "epochs": 1 })));
    let (report, _) = run(&config, None, None).unwrap();

    let loaded = load_model_for_inference(&report.paths.root, None, &Device::flex()).unwrap();
    assert_eq!(BatchSpec::new(&loaded.config, loaded.build.normalization()).mean, [0.5, 0.25, 0.125]);
    let tensors = |dir: &Path| read_all(&dir.join("model.safetensors")).unwrap();
    let [before, after] = [&base, &report.paths.best().join("backbone")].map(|dir| tensors(dir));
    assert!(before.keys().eq(after.keys()), "{:?}", after.keys());
    for (name, data) in &before {
        let carried = name.starts_with("pooler.") || name == "embeddings.mask_token";
        assert_eq!(*data == after[name], carried, "{name}");
    }
}

#[test]
fn a_metric_that_is_not_defined_is_a_dash_in_the_line_of_the_epoch() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), model(lora()), training(dir.path(), json!({ "epochs": 1 })));
    let labels = config.data.root.join("game2/Clip1/Label.csv");
    let absent: String = (0..6).map(|i| format!("{i:04}.png,0,,,\n")).collect();
    fs::write(labels, format!("file name,visibility,x-coordinate,y-coordinate,status\n{absent}")).unwrap();
    let (_, recorder) = run(&config, None, None).unwrap();
    let line = &recorder.epochs[0];
    assert!(line.contains("val/recall –") && !line.contains("NaN"), "{line}");
}

#[test]
fn runs_that_begin_in_the_same_second_get_a_directory_each() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), model(lora()), training(dir.path(), json!({ "epochs": 1 })));
    let (first, _) = run(&config, None, Some(1)).unwrap();
    let (second, _) = run(&config, None, Some(2)).unwrap();
    assert_eq!(second.state.run_id, format!("{}-2", first.state.run_id));
    assert_eq!(second.paths.root, dir.path().join(&second.state.run_id));
    for (report, steps) in [(first, 1), (second, 2)] {
        let found = Checkpoint::find(&report.paths.root, &["last"]).unwrap().state;
        assert_eq!((&found.run_id, found.step), (&report.state.run_id, steps));
        assert_eq!(Config::from_run_dir(&report.paths.root).unwrap().runtime.run_id, report.state.run_id);
    }
}

#[test]
fn an_early_stop_ends_the_run_and_best_is_the_best_epoch() {
    let dir = tempfile::tempdir().unwrap();
    // No epoch improves by this much after the first.
    let stopping = json!({ "enabled": true, "monitor": "val/loss", "patience": 2, "min_delta": 1e9 });
    let json = json!({ "epochs": 20, "early_stopping": stopping });
    let config = config(dir.path(), model(lora()), training(dir.path(), json));
    let (report, _) = run(&config, None, None).unwrap();
    assert_eq!((report.outcome, report.state.epoch), (Outcome::StoppedEarly, 3));
    assert_eq!(report.state.monitor.best_epoch, Some(0));
    let best: serde_json::Value =
        serde_json::from_slice(&fs::read(report.paths.best().join("state.json")).unwrap()).unwrap();
    assert_eq!(best["epoch"], 1);
}

#[test]
fn a_metric_that_does_not_exist_cannot_be_watched() {
    let dir = tempfile::tempdir().unwrap();
    let stopping = json!({ "monitor": "val/f2" });
    let json = json!({ "epochs": 1, "early_stopping": stopping });
    let config = config(dir.path(), model(lora()), training(dir.path(), json));
    let error = run(&config, None, None).unwrap_err().to_string();
    assert!(error.contains("`val/f2`") && error.contains("val/f1"), "{error}");
}

#[test]
fn gradient_checkpointing_trains_the_same_weights_on_float_and_4_bit_backbones() {
    let mut bfloat16 = qlora();
    bfloat16.quantization.compute_dtype = DtypeName::Bfloat16;
    for section in [model(lora()), qlora(), bfloat16] {
        let trained = |checkpointing: bool| {
            let dir = tempfile::tempdir().unwrap();
            let json = json!({ "epochs": 1, "gradient_checkpointing": checkpointing });
            let config = config(dir.path(), section.clone(), training(dir.path(), json));
            let (report, _) = run(&config, None, None).unwrap();
            values(&report.model, |_| true)
        };
        assert_eq!(bits(&trained(true)), bits(&trained(false)));
    }
}

#[test]
fn bfloat16_precision_gives_nearly_the_gradients_of_float32_where_the_processor_multiplies_it() {
    let gradients = |bfloat16: bool| {
        let mut bench = bench(json!({}));
        let used = bfloat16 && bench.trainer.model.use_bfloat16();
        let gradients = bench.gradients(0).gradients;
        let flat = gradients.0.into_values().flat_map(|g| g.try_into_vec_as::<f32>().unwrap());
        (flat.collect::<Vec<f32>>(), used)
    };
    let ((expected, _), (found, used)) = (gradients(false), gradients(true));
    let length = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    let distance = length(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / length(&mut expected.iter().copied());
    // A dozen roundings by up to 1/512 in each of two blocks.
    assert!(distance < 2e-2, "{distance}");
    assert_eq!(used, distance > 0.0);
}

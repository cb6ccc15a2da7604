//! What may go wrong around a run: what ends it and what does not, who else is at it, and files that somebody changed.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, TensorData};
use serde_json::{Value, json};
use tracknet::artifacts::load_model_for_inference;
use tracknet::artifacts::pretrained::StoredAs;
use tracknet::artifacts::pretrained::save::{read_all, write_tensors};
use tracknet::artifacts::run::{Checkpoint, find_checkpoint};
use tracknet::config::Config;
use tracknet::files::{Destination, Existing};
use tracknet::training::{FitOptions, FitReport, Outcome, Reporter, StepProgress, fit};

use crate::training_support::{config, lora, model, run, training};

/// Does something after the first step, and keeps what the run says.
struct Meddler<F> {
    meddle: Option<F>,
    said: Vec<String>,
}

impl<F: FnOnce()> Reporter for Meddler<F> {
    fn report(&mut self, text: &str) {
        self.said.push(text.to_owned());
    }

    fn note(&mut self, text: &str) {
        self.said.push(format!("note: {text}"));
    }

    fn step(&mut self, _progress: &StepProgress) {
        if let Some(meddle) = self.meddle.take() {
            meddle();
        }
    }

    fn epoch(&mut self, text: &str) {
        self.said.push(text.to_owned());
    }
}

/// Trains, with `meddle` after the first step.
fn run_meddled(config: &Config, meddle: impl FnOnce()) -> (tracknet::Result<FitReport>, Vec<String>) {
    let mut reporter = Meddler { meddle: Some(meddle), said: Vec::new() };
    let result = fit(config, FitOptions::new(Device::flex()), &mut reporter);
    (result, reporter.said)
}

fn lora_config(dir: &Path, training_json: Value) -> Config {
    config(dir, model(lora()), training(dir, training_json))
}

fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

/// The message of a run that cannot be continued.
fn refusal(config: &Config, from: &Path) -> String {
    run(config, Some(from), None).unwrap_err().to_string()
}

#[test]
fn pictures_that_cannot_be_written_are_said_once_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora_config(dir.path(), json!({ "epochs": 2 }));
    let (report, said) = run_meddled(&config, || {
        fs::write(config.runtime.run_dir().join("overlays_pred"), "in the way").unwrap();
    });
    assert_eq!(report.unwrap().outcome, Outcome::Finished);
    let said: Vec<_> = said.iter().filter(|text| text.contains("overlays")).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    contains_all(said[0], &["could not be written, and the run goes on", "overlays_pred"]);
}

#[test]
fn a_run_that_must_end_is_saved_where_it_was_and_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    // The first update throws the weights so far that no loss is finite after it.
    let json = json!({ "epochs": 1, "batch_size": 1, "optimizer": { "lr": 1e25 }, "grad_clip": 0.0,
                       "scheduler": { "warmup_epochs": 0 } });
    let config = lora_config(dir.path(), json);
    let error = run(&config, None, None).unwrap_err().to_string();
    let root = config.runtime.run_dir();
    let state = Checkpoint::find(&root, &["last"]).unwrap().state;
    assert!(state.step > 0 && state.epoch == 0 && state.batch == state.step as usize);
    let saved = format!("the run is saved at step {}", state.step);
    contains_all(&error, &["10 steps in a row", &saved, &format!("--resume {}", root.display())]);
    // With the epoch's last steps it is as it was, and so is what is said.
    contains_all(&refusal(&config, &root), &["the run is saved at step 14", "--resume"]);
}

#[test]
fn when_no_checkpoint_can_be_written_both_reasons_and_what_is_left_are_said() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora_config(dir.path(), json!({ "epochs": 1 }));
    let checkpoints = config.runtime.run_dir().join("checkpoints");
    let (result, _) = run_meddled(&config, || fs::write(&checkpoints, "in the way").unwrap());
    let error = result.unwrap_err().to_string();
    contains_all(&error, &["step 4 could not be saved either", "checkpoints"]);
    assert!(!error.contains("--resume"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn an_epoch_whose_best_checkpoint_could_not_be_written_is_closed_again_when_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = |out: &str| lora_config(&dir.path().join(out), json!({ "epochs": 1 }));
    let (whole, _) = run(&config("whole"), None, None).unwrap();
    let broken = config("broken");
    let root = broken.runtime.run_dir();
    let best = root.join("checkpoints/best");
    // Nothing can be written there, and the other checkpoint can.
    let meddle = || {
        fs::create_dir_all(root.join("checkpoints")).unwrap();
        std::os::unix::fs::symlink("/proc/self/task", &best).unwrap();
    };
    let (result, _) = run_meddled(&broken, meddle);
    contains_all(&result.unwrap_err().to_string(), &["/proc/", "the run is saved at step 4"]);
    fs::remove_file(&best).unwrap();
    let (resumed, _) = run(&broken, Some(&root), None).unwrap();
    assert_eq!(resumed.state.monitor, whole.state.monitor);
    assert_eq!(Checkpoint::open(&best).unwrap().state.epoch, 1);
}

#[test]
fn a_run_has_one_holder_and_the_next_gets_it_when_that_one_ended() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora_config(dir.path(), json!({ "epochs": 1 }));
    run(&config, None, Some(1)).unwrap();
    let root = config.runtime.run_dir();
    let (mut second, mut third) = (String::new(), String::new());
    let meddle = || {
        second = refusal(&config, &root);
        // As it is for a moment while it is replaced.
        let state = root.join("checkpoints/last/state.json");
        let text = fs::read(&state).unwrap();
        fs::write(&state, "half").unwrap();
        third = refusal(&config, &root);
        fs::write(&state, text).unwrap();
    };
    let mut reporter = Meddler { meddle: Some(meddle), said: Vec::new() };
    let options = FitOptions { resume: Some(root.clone()), ..FitOptions::new(Device::flex()) };
    fit(&config, options, &mut reporter).unwrap();
    for told in [second, third] {
        contains_all(&told, &["in use by process", "since", &root.display().to_string()]);
    }
    run(&config, Some(&root), None).unwrap();
}

#[test]
fn leftovers_of_a_dead_process_go_when_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora_config(dir.path(), json!({ "epochs": 2 }));
    let (report, _) = run(&config, None, Some(5)).unwrap();
    let paths = report.paths;
    let left = [paths.root.clone(), paths.logs.clone(), paths.checkpoints.clone(), paths.overlays("pred", 0)];
    for dir in &left {
        fs::write(dir.join(".tracknet-x1.tmp"), "half").unwrap();
    }
    run(&config, Some(&paths.root), None).unwrap();
    assert!(left.iter().all(|dir| !dir.join(".tracknet-x1.tmp").exists()));
}

/// Replaces `old` in a run's `config.yaml`.
fn edit_config(root: &Path, old: &str, new: &str) -> Config {
    let path = root.join("config.yaml");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(old), "{text}");
    fs::write(&path, text.replace(old, new)).unwrap();
    Config::from_run_dir(root).unwrap()
}

#[test]
fn files_of_a_run_cannot_make_it_write_somewhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora_config(dir.path(), json!({ "epochs": 1 }));
    let (report, _) = run(&config, None, Some(2)).unwrap();
    let (root, victim) = (report.paths.root, dir.path().join("victim"));
    let logs = format!("log_dir: {}", dir.path().join("logs").display());
    let crafted = edit_config(&root, &logs, &format!("log_dir: {}", victim.display()));
    assert_eq!(crafted.training.log_dir, victim);
    let (report, recorder) = run(&crafted, Some(&root), None).unwrap();
    assert_eq!(report.paths.logs, root.join("logs"));
    assert!(!victim.exists());
    assert!(recorder.notes.iter().any(|note| note.contains("holds no log of this run")), "{:?}", recorder.notes);

    let text = fs::read_to_string(root.join("config.yaml")).unwrap();
    fs::write(root.join("config.yaml"), text.replace(&config.runtime.run_id, "../../victim")).unwrap();
    let error = Config::from_run_dir(&root).unwrap_err().to_string();
    contains_all(&error, &["config.yaml:", "runtime.run_id: expected a name of letters", "found `../../victim`"]);
}

#[test]
fn a_checkpoint_elsewhere_must_belong_to_the_run_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = |out: &str, seed: u64| {
        let json = json!({ "epochs": 2, "seed": seed, "output_dir": dir.path().join(out), "log_dir": dir.path().join("l"),
                           "ckpt_dir": dir.path().join("ckpt") });
        lora_config(dir.path(), json)
    };
    let first = elsewhere("a", 7);
    let (stopped, _) = run(&first, None, Some(2)).unwrap();
    assert!(stopped.paths.last().starts_with(dir.path().join("ckpt")));
    let (resumed, recorder) = run(&first, Some(&stopped.paths.root), Some(1)).unwrap();
    assert_eq!((resumed.paths, resumed.state.step), (stopped.paths.clone(), 3));
    for said in ["outside of the run's directory: checkpoints in", "outside of the run's directory: logs in"] {
        assert!(recorder.notes.iter().any(|note| note.contains(said)), "{:?}", recorder.notes);
    }
    // From the checkpoint itself the run's directory is found, too.
    let (resumed, recorder) = run(&first, Some(&stopped.paths.last()), Some(1)).unwrap();
    assert_eq!((resumed.paths.root, resumed.state.step), (stopped.paths.root.clone(), 4));
    let said = format!("the directory of its run is {}", stopped.paths.root.display());
    assert!(recorder.notes.iter().any(|note| note.contains(&said)), "{:?}", recorder.notes);

    let (other, _) = run(&elsewhere("b", 8), None, Some(1)).unwrap();
    let ids = [&stopped, &other].map(|report| report.state.run_id.clone());
    edit_config(&stopped.paths.root, &ids[0], &ids[1]);
    let error = find_checkpoint(&stopped.paths.root, &["last"]);
    // The other run's checkpoint is whole, and of that run.
    assert_eq!(error.unwrap().state.run_id, ids[1]);
    let error = refusal(&first, &stopped.paths.last());
    contains_all(&error, &["only this checkpoint of the run", "holds something else"]);
}

/// Rewrites a checkpoint with right checksums after `edit` has changed its files.
fn craft(checkpoint: &Path, edit: impl Fn(&Path)) {
    let destination = Destination::directory(checkpoint, Existing::Anything, &[]).unwrap();
    let copy = |temporary: &Path| {
        copy_all(checkpoint, temporary);
        fs::remove_file(temporary.join("checksums.json")).unwrap();
        edit(temporary);
        Ok::<(), tracknet::Error>(())
    };
    destination.write(copy).unwrap();
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// Changes the tensors of a file.
fn edit_tensors(path: &Path, edit: impl Fn(&str, TensorData) -> Option<TensorData>) {
    let tensors = read_all(path).unwrap().into_iter();
    let tensors = tensors.filter_map(|(name, data)| Some((name.clone(), edit(&name, data)?))).collect();
    write_tensors(path, tensors, StoredAs::F32).unwrap();
}

/// Makes checkpoints from `checkpoint` that lack the tensor of `file` which ends in `end`, have it in another shape or
/// with a NaN, and checks that resuming and predicting say so.
fn damages_are_named(config: &Config, root: &Path, file: &str, end: &str) {
    let last = root.join("checkpoints/last");
    let kept = root.join("kept");
    copy_all(&last, &kept);
    let is = |name: &str| name.ends_with(end);
    assert!(read_all(&last.join(file)).unwrap().keys().any(|name| is(name)));
    // The file has another name for the bias of an adapted layer than the model.
    let named = end.split(".base_layer").next().unwrap();
    let empty = || TensorData::new(vec![0.0f32; 3], [3]);
    type Edit<'a> = Box<dyn Fn(&str, TensorData) -> Option<TensorData> + 'a>;
    let missing: Edit<'_> = Box::new(|name, data| (!is(name)).then_some(data));
    let misshaped: Edit<'_> = Box::new(|name, data| Some(if is(name) { empty() } else { data }));
    let broken: Edit<'_> = Box::new(|name, data| {
        let shape = data.shape().to_vec();
        let values = vec![f32::NAN; data.num_elements()];
        Some(if is(name) { TensorData::new(values, shape) } else { data })
    });
    for (what, edit) in [("missing", missing), ("[3]", misshaped), ("holds NaN", broken)] {
        craft(&last, |dir| edit_tensors(&dir.join(file), &edit));
        let messages = [
            refusal(config, root),
            load_model_for_inference(&last, None, &Device::flex()).map(drop).unwrap_err().to_string(),
        ];
        for message in messages {
            contains_all(&message, &[named, what]);
            assert!(message.contains(Path::new(file).file_name().unwrap().to_str().unwrap()), "{message}");
        }
        fs::remove_dir_all(&last).unwrap();
        copy_all(&kept, &last);
    }
    fs::remove_dir_all(&kept).unwrap();
}

#[test]
fn a_tensor_that_is_missing_misshaped_or_broken_is_named_whatever_file_it_is_in() {
    let dir = tempfile::tempdir().unwrap();
    let with_bias = json!({ "lora": { "enabled": true, "r": 4, "bias": "all" } });
    let config = config(dir.path(), model(with_bias), training(dir.path(), json!({ "epochs": 1 })));
    let (report, _) = run(&config, None, None).unwrap();
    let root = report.paths.root;
    for end in ["layer.0.attention.q_proj.lora_B.weight", "layer.1.mlp.up_proj.base_layer.bias", "layer.1.norm1.bias"] {
        damages_are_named(&config, &root, "adapter/adapter_model.safetensors", end);
    }
    damages_are_named(&config, &root, "tracknet_head.safetensors", "head.conv.weight");

    let last = root.join("checkpoints/last");
    craft(&last, |dir| fs::remove_dir_all(dir.join("adapter")).unwrap());
    contains_all(&refusal(&config, &root), &["last/adapter", "it is missing, although the model has adapters"]);
}

#[test]
fn a_parameter_without_its_optimizer_state_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora_config(dir.path(), json!({ "epochs": 1 }));
    let (report, _) = run(&config, None, None).unwrap();
    let last = report.paths.last();
    let kept = dir.path().join("kept");
    copy_all(&last, &kept);
    for name in ["head.conv.weight", "backbone.layer.0.attention.q_proj.lora_A.weight"] {
        craft(&last, |dir| {
            edit_tensors(&dir.join("optimizer.safetensors"), |tensor, data| {
                (!tensor.starts_with(name)).then_some(data)
            });
        });
        contains_all(&refusal(&config, &report.paths.root), &["optimizer.safetensors", "no state of", name]);
        fs::remove_dir_all(&last).unwrap();
        copy_all(&kept, &last);
    }
}

#[test]
fn a_backbone_that_trained_must_be_whole_in_its_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let section = model(json!({ "backbone": { "freeze": false } }));
    let config = config(dir.path(), section, training(dir.path(), json!({ "epochs": 1 })));
    let (report, _) = run(&config, None, None).unwrap();
    let root = report.paths.root;
    damages_are_named(&config, &root, "backbone/model.safetensors", "layer.1.attention.o_proj.weight");
    craft(&root.join("checkpoints/last"), |dir| fs::remove_dir_all(dir.join("backbone")).unwrap());
    contains_all(&refusal(&config, &root), &["last/backbone", "it is missing"]);
}

/// A run on a copy of a small base, whose files a test may change.
fn run_on_base(dir: &Path, freeze: bool) -> (Config, PathBuf, PathBuf) {
    let base = dir.join("base");
    copy_all(&crate::common::fixture("vit_tiny"), &base);
    let mut section = model(json!({ "decoder": { "channels": [64, 16, 8] }, "backbone": { "freeze": freeze } }));
    section.backbone.architecture = None;
    section.pretrained_model_name = Some(base.display().to_string());
    let config = config(dir, section, training(dir, json!({ "epochs": 1 })));
    let (report, _) = run(&config, None, Some(2)).unwrap();
    (config, base, report.paths.root)
}

#[test]
fn a_base_that_computes_something_else_is_refused_with_the_key() {
    for freeze in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (config, base, root) = run_on_base(dir.path(), freeze);
        let text = fs::read_to_string(base.join("config.json")).unwrap();
        let mut changed: Value = serde_json::from_str(&text).unwrap();
        let heads = changed["num_attention_heads"].as_u64().unwrap();
        changed["num_attention_heads"] = (heads * 2).into();
        fs::write(base.join("config.json"), changed.to_string()).unwrap();
        let said = format!("num_attention_heads is {}, was {heads}", heads * 2);
        contains_all(&refusal(&config, &root), &[&said]);
        fs::write(base.join("config.json"), text).unwrap();
        let normalization = r#"{"image_mean": [0.5, 0.25, 0.125], "image_std": [0.5, 1.0, 2.0]}"#;
        fs::write(base.join("preprocessor_config.json"), normalization).unwrap();
        contains_all(&refusal(&config, &root), &["image_mean is [0.5, 0.25, 0.125], was [0.485"]);
        fs::remove_file(base.join("preprocessor_config.json")).unwrap();
        run(&config, Some(&root), None).unwrap();
    }
}

#[test]
fn in_the_middle_of_an_epoch_what_its_order_depends_on_cannot_change_and_at_its_end_it_can() {
    let dir = tempfile::tempdir().unwrap();
    // A base from a file: the seed of a random one is part of its identity.
    let (first, _, root) = run_on_base(dir.path(), true);
    let changed = |key: &str| {
        let mut config = first.clone();
        config.training.epochs = 2;
        match key {
            "data.split.train_games" => config.data.split.train_games.push("game2".to_owned()),
            "training.seed" => config.training.seed = 9,
            "training.batch_size" => config.training.batch_size = 5,
            "training.data_loader.drop_last" => config.training.data_loader.drop_last = true,
            _ => config.training.limit_train_batches = 3,
        }
        config
    };
    let keys = [
        "data.split.train_games",
        "training.seed",
        "training.batch_size",
        "training.data_loader.drop_last",
        "training.limit_train_batches",
    ];
    for key in keys {
        contains_all(&refusal(&changed(key), &root), &["in the middle of epoch 1", key, "checkpoints/best"]);
    }
    let other_lr = |lr: f64| {
        let mut config = first.clone();
        config.training.optimizer.lr = lr;
        config
    };
    let (_, recorder) = run(&other_lr(1e-4), Some(&root), None).unwrap();
    assert!(recorder.notes.iter().any(|note| note.contains("training.optimizer differs")), "{:?}", recorder.notes);
    // The epoch is closed by now.
    for key in keys {
        let copy = dir.path().join("copy");
        copy_all(&root, &copy);
        let (report, recorder) = run(&changed(key), Some(&copy), Some(1)).unwrap();
        assert_eq!((report.state.epoch, report.state.batch), (1, 1));
        assert!(recorder.notes.iter().any(|note| note.starts_with(&format!("{key} differs"))), "{:?}", recorder.notes);
        fs::remove_dir_all(&copy).unwrap();
    }
}

#[test]
fn frames_that_changed_on_disk_end_the_epoch_that_was_begun_without_repeating_any() {
    let dir = tempfile::tempdir().unwrap();
    let config = lora_config(dir.path(), json!({ "epochs": 2 }));
    let (report, _) = run(&config, None, Some(2)).unwrap();
    let labels = config.data.root.join("game1/Clip1/Label.csv");
    let text = fs::read_to_string(&labels).unwrap();
    fs::write(&labels, text.lines().filter(|line| !line.starts_with("0003.png")).collect::<Vec<_>>().join("\n"))
        .unwrap();
    let (resumed, recorder) = run(&config, Some(&report.paths.root), None).unwrap();
    // Two steps of the first epoch and the four of the second.
    assert_eq!((resumed.outcome, resumed.state.step), (Outcome::Finished, 6));
    let said = recorder.notes.iter().find(|note| note.contains("the training frames are not those")).unwrap();
    contains_all(said, &["epoch 1", "14 then, 13 now"]);
}

#[test]
fn without_validation_games_the_smallest_training_loss_is_the_best_whatever_the_mode() {
    let dir = tempfile::tempdir().unwrap();
    let stopping = json!({ "monitor": "val/f1", "mode": "max" });
    let mut config = lora_config(dir.path(), json!({ "epochs": 3, "early_stopping": stopping }));
    config.data.split.val_games.clear();
    let (report, said) = run_meddled(&config, || {});
    let report = report.unwrap();
    let rows = fs::read_to_string(report.paths.logs.join("metrics.jsonl")).unwrap();
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let losses: Vec<f64> =
        rows.filter(|row| row["kind"] == "epoch").map(|row| row["train/loss"].as_f64().unwrap()).collect();
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let monitor = &report.state.monitor;
    assert_eq!((monitor.best, monitor.metric.as_deref()), (Some(least), Some("train/loss")));
    let best = Checkpoint::open(&report.paths.best()).unwrap();
    assert_eq!(best.state.epoch, losses.iter().position(|loss| *loss == least).unwrap() + 1);
    let said = said.join("\n");
    contains_all(&said, &["there are no validation games", "best by train/loss", "stands in for val/f1"]);
    // A resumed run goes on judging by it.
    let mut longer = config.clone();
    longer.training.epochs = 4;
    let (longer, _) = run(&longer, Some(&report.paths.root), None).unwrap();
    assert_eq!(longer.state.monitor.metric.as_deref(), Some("train/loss"));
    assert!(longer.state.monitor.best.unwrap() <= least);
}

#[test]
fn the_evaluation_at_the_end_is_in_the_directory_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (report, _) = run(&lora_config(dir.path(), json!({ "epochs": 1 })), None, None).unwrap();
    let text = fs::read_to_string(report.paths.root.join("evaluation.json")).unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let frames = report.evaluation.unwrap().report.total.detection.counts.tp;
    assert_eq!(json["total"]["detection"]["tp"].as_u64(), Some(frames as u64));
}

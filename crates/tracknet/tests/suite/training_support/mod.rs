//! A tiny dataset and a tiny model: a coloured dot on a dark field, and a random vision transformer of two layers.

#![allow(dead_code, clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use burn::tensor::Device;
use image::{Rgb, RgbImage};
use tracknet::config::{Config, DataConfig, ModelConfig, TrainingConfig};
use tracknet::training::{FitOptions, FitReport, Outcome, Reporter, StepProgress, fit};

/// Input size as `[W, H]`.
pub(crate) const INPUT: [usize; 2] = [64, 48];

/// Writes `<root>/<game>/Clip1` with `frames` pictures of a moving dot; every fifth has none.
pub(crate) fn write_game(root: &Path, game: &str, frames: usize) {
    let clip = root.join(game).join("Clip1");
    fs::create_dir_all(&clip).unwrap();
    let mut labels = String::from("file name,visibility,x-coordinate,y-coordinate,status\n");
    for i in 0..frames {
        let name = format!("{i:04}.png");
        let (x, y) = (6 + (i * 23) % 52, 5 + (i * 17) % 38);
        let ball = i % 5 != 4;
        let mut picture = RgbImage::from_fn(64, 48, |u, v| Rgb([30 + (u / 2) as u8, 60, 40 + (v / 2) as u8]));
        if ball {
            for (u, v, pixel) in picture.enumerate_pixels_mut() {
                let distance = (i64::from(u) - x as i64).pow(2) + (i64::from(v) - y as i64).pow(2);
                if distance <= 9 {
                    *pixel = Rgb([240, 230, 60]);
                }
            }
        }
        picture.save(clip.join(&name)).unwrap();
        labels += &if ball { format!("{name},1,{x},{y},0\n") } else { format!("{name},0,,,\n") };
    }
    fs::write(clip.join("Label.csv"), labels).unwrap();
}

/// A model section from JSON over a tiny random backbone.
pub(crate) fn model(json: serde_json::Value) -> ModelConfig {
    let mut base = serde_json::json!({
        "backbone": { "architecture": {
            "model_type": "dinov3_vit", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "intermediate_size": 64, "num_register_tokens": 1, "patch_size": 16
        } },
        "decoder": { "channels": [32, 16, 8], "upsample": [2, 2] },
        "heatmap": { "size": [32, 24], "sigma": 1.5 }
    });
    merge(&mut base, json);
    serde_json::from_value(base).unwrap()
}

/// An `architecture` for [`model`]: ConvNeXt in two stages of 8 and 16 channels, at strides 4 and 8, with `depths` layers.
pub(crate) fn convnext(depths: [usize; 2]) -> serde_json::Value {
    // `null` takes away what only the vision transformer has.
    serde_json::json!({
        "model_type": "dinov3_convnext", "hidden_sizes": [8, 16], "depths": depths,
        "hidden_size": null, "num_hidden_layers": null, "num_attention_heads": null, "intermediate_size": null,
        "num_register_tokens": null, "patch_size": null
    })
}

/// LoRA on every projection, with dropout.
pub(crate) fn lora() -> serde_json::Value {
    serde_json::json!({ "lora": { "enabled": true, "r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1 } })
}

/// A training section from JSON over one that is small and quick.
pub(crate) fn training(out: &Path, json: serde_json::Value) -> TrainingConfig {
    let mut base = serde_json::json!({
        "seed": 7, "batch_size": 4, "epochs": 2, "precision": "fp32", "backbone_freeze_epochs": 0,
        "data_loader": { "num_workers": 1 },
        "optimizer": { "lr": 3e-3 },
        "output_dir": out, "log_dir": out.join("logs"), "ckpt_dir": out.join("checkpoints")
    });
    merge(&mut base, json);
    serde_json::from_value(base).unwrap()
}

/// Two games of dots below `root`, trained and validated on.
pub(crate) fn config(root: &Path, model: ModelConfig, training: TrainingConfig) -> Config {
    let data_root = root.join("data");
    if !data_root.exists() {
        write_game(&data_root, "game1", 14);
        write_game(&data_root, "game2", 6);
    }
    let mut data = DataConfig { root: data_root, ..DataConfig::default() };
    data.split.train_games = vec!["game1".to_owned()];
    data.split.val_games = vec!["game2".to_owned()];
    data.preprocess.resize = INPUT;
    data.preprocess.flip_prob = 0.5;
    Config::from_sections(data, model, training)
}

fn merge(base: &mut serde_json::Value, over: serde_json::Value) {
    match (base, over) {
        (serde_json::Value::Object(base), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (base, over) => *base = over,
    }
}

/// Keeps what a run says, and sets its stop flag after a number of steps.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    /// Every note.
    pub(crate) notes: Vec<String>,
    /// Mean loss after every step.
    pub(crate) losses: Vec<f64>,
    /// One line an epoch.
    pub(crate) epochs: Vec<String>,
    stop: Option<(usize, Arc<std::sync::atomic::AtomicBool>)>,
}

impl Reporter for Recorder {
    fn report(&mut self, _text: &str) {}

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn step(&mut self, progress: &StepProgress) {
        self.losses.push(progress.loss);
        if let Some((after, flag)) = &self.stop
            && self.losses.len() == *after
        {
            flag.store(true, Ordering::Relaxed);
        }
    }

    fn epoch(&mut self, text: &str) {
        self.epochs.push(text.to_owned());
    }
}

/// Trains, interrupted after `stop_after` steps if given.
pub(crate) fn run(
    config: &Config,
    resume: Option<&Path>,
    stop_after: Option<usize>,
) -> tracknet::Result<(FitReport, Recorder)> {
    let options = FitOptions { resume: resume.map(Path::to_path_buf), ..FitOptions::new(Device::flex()) };
    let stop = stop_after.map(|steps| (steps, Arc::clone(&options.stop)));
    let mut recorder = Recorder { stop, ..Recorder::default() };
    let report = fit(config, options, &mut recorder)?;
    Ok((report, recorder))
}

/// Stops a run of `config` after so many steps, goes on with it, and fails unless adapter, decoder and optimizer are those of
/// the run that was `finished` without a stop, byte for byte. Returns the run that went on.
pub(crate) fn resumes_to_the_bit(config: &Config, stop_after: usize, finished: &FitReport) -> FitReport {
    let (interrupted, _) = run(config, None, Some(stop_after)).unwrap();
    assert_eq!(interrupted.outcome, Outcome::Interrupted);
    let (resumed, _) = run(config, Some(&interrupted.paths.root), None).unwrap();
    for file in ["adapter/adapter_model.safetensors", "tracknet_head.safetensors", "optimizer.safetensors"] {
        let bytes = |run: &Path| fs::read(run.join("checkpoints/last").join(file)).unwrap();
        assert!(bytes(&resumed.paths.root) == bytes(&finished.paths.root), "{file}");
    }
    resumed
}

//! A session: adapters by name on the base of a run, which is loaded once.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use image::RgbImage;
use serde_json::json;
use tracknet::artifacts::{AdapterChoice, load_model_with_adapter};
use tracknet::config::ModelConfig;
use tracknet::inference::{Predictor, Session};

use crate::common::fixture;
use crate::training_support::{config, model, run, training};

/// Two runs from one base, which differ in their seeds; with the directory of their base.
fn two_runs(root: &Path, lora: serde_json::Value) -> ([PathBuf; 2], PathBuf) {
    let base = root.join("base");
    fs::create_dir(&base).unwrap();
    for entry in fs::read_dir(fixture("dinov3_tiny")).unwrap().map(Result::unwrap) {
        fs::copy(entry.path(), base.join(entry.file_name())).unwrap();
    }
    let section = |lora: &serde_json::Value| -> ModelConfig {
        let mut section = model(json!({
            "lora": { "enabled": true, "r": 4, "lora_alpha": 8.0 },
            "quantization": { "enabled": true, "compute_dtype": "float32" },
            "decoder": { "channels": [64, 16, 8] }
        }));
        section.lora = serde_json::from_value(lora.clone()).unwrap();
        section.pretrained_model_name = Some(base.display().to_string());
        section.backbone.architecture = None;
        section
    };
    let plain = json!({ "enabled": true, "r": 4, "lora_alpha": 8.0 });
    let runs = [("a", 7, &plain), ("b", 8, &lora)].map(|(name, seed, lora)| {
        let training = training(&root.join(name), json!({ "seed": seed, "epochs": 1 }));
        run(&config(root, section(lora), training), None, None).unwrap().0.paths.root
    });
    (runs, base)
}

fn picture() -> RgbImage {
    RgbImage::from_fn(64, 48, |x, y| image::Rgb([(x * 4) as u8, (y * 5) as u8, (x * y) as u8]))
}

fn heatmap(predictor: &Predictor) -> Vec<f32> {
    predictor.image(picture()).unwrap().heatmap
}

/// What a model gives that is loaded from the first run with the adapter of the second.
fn expected(runs: &[PathBuf; 2]) -> Vec<f32> {
    let device = Device::flex();
    let choice = AdapterChoice::Directory(runs[1].join("checkpoints/best/adapter"));
    let loaded = load_model_with_adapter(&runs[0], None, &choice, &device).unwrap();
    heatmap(&Predictor::new(&loaded.model, &loaded.build, &loaded.config, &device))
}

#[test]
fn adapters_are_switched_by_name_without_reading_the_base_again() {
    fn works_in_threads<T: Send + Sync>(_: &T) {}
    let root = tempfile::tempdir().unwrap();
    let (runs, base) = two_runs(root.path(), json!({ "enabled": true, "r": 2, "lora_alpha": 8.0 }));
    let expected = expected(&runs);
    let mut session = Session::open(&runs[0], None, &Device::flex()).unwrap();
    let own = heatmap(&session.predictor(None).unwrap());
    works_in_threads(&session);
    fs::remove_dir_all(base).unwrap();

    let dir = runs[1].join("checkpoints/best/adapter");
    session.load_adapter("clay", &dir).unwrap();
    session.load_adapter("grass", &dir).unwrap();
    assert_eq!(session.adapters().collect::<Vec<_>>(), ["clay", "grass"]);
    assert!(own != expected, "the adapters do not differ");
    assert_eq!(heatmap(&session.predictor(Some("clay")).unwrap()), expected);
    assert_eq!(heatmap(&session.predictor(None).unwrap()), own);

    let taken = session.load_adapter("clay", &dir).unwrap_err().to_string();
    assert_eq!(taken, "adapter `clay`: the name is taken already");
    let in_use = session.predictor(Some("clay")).unwrap();
    session.unload_adapter("clay").unwrap();
    assert_eq!(heatmap(&in_use), expected, "who has it keeps it");
    let unknown = session.predictor(Some("clay")).unwrap_err().to_string();
    assert_eq!(unknown, "no adapter is called `clay`; there are: grass");
    assert!(session.unload_adapter("clay").is_err());
    let missing = session.load_adapter("new", Path::new("/nowhere")).unwrap_err().to_string();
    assert!(missing.contains("/nowhere") && session.adapters().count() == 1, "{missing}");
}

#[test]
fn an_adapter_that_began_by_changing_the_base_gets_one_of_its_own() {
    let root = tempfile::tempdir().unwrap();
    let pissa = json!({ "enabled": true, "r": 2, "lora_alpha": 8.0, "init_lora_weights": "pissa" });
    let (runs, _) = two_runs(root.path(), pissa);
    let mut session = Session::open(&runs[0], None, &Device::flex()).unwrap();
    session.load_adapter("other", &runs[1].join("checkpoints/best/adapter")).unwrap();
    assert_eq!(heatmap(&session.predictor(Some("other")).unwrap()), expected(&runs));

    // And the other way round: the base of the run is not what its backbone was before.
    let swapped = [runs[1].clone(), runs[0].clone()];
    let mut session = Session::open(&runs[1], None, &Device::flex()).unwrap();
    session.load_adapter("other", &runs[0].join("checkpoints/best/adapter")).unwrap();
    assert_eq!(heatmap(&session.predictor(Some("other")).unwrap()), expected(&swapped));
}

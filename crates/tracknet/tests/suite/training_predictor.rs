//! A trained run predicts, in native pixels, what its own evaluation found.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use image::RgbImage;
use serde_json::json;
use tracknet::artifacts::load_model_for_inference;
use tracknet::evaluation::track::CANDIDATES;
use tracknet::evaluation::{MetricOptions, TrackOptions};
use tracknet::inference::{FrameResult, Predicted, Predictor, StreamOptions, TrackedFrames};
use tracknet::training::{EvaluateOptions, evaluate};

use crate::training_support::{config, lora, model, run, training};

/// Pictures in common forward passes are what each is alone, and one that cannot be searched costs only its own result.
fn together_as_alone(predictor: &Predictor, frames: Vec<RgbImage>) {
    let mut mixed = frames.clone();
    mixed.insert(2, RgbImage::new(0, 0));
    let mut together = predictor.images(mixed).unwrap();
    assert!(together.remove(2).is_err());
    assert_eq!(together.len(), frames.len());
    for (found, frame) in together.into_iter().map(Result::unwrap).zip(frames) {
        let alone = predictor.image(frame.clone()).unwrap();
        assert_eq!(found.frame, frame);
        let apart = found.heatmap.iter().zip(&alone.heatmap).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(apart < 1e-4, "{apart}");
    }
}

#[test]
fn a_run_directory_is_enough_to_predict_and_to_evaluate() {
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), model(lora()), training(dir.path(), json!({ "epochs": 1 })));
    let (report, _) = run(&config, None, None).unwrap();
    let device = Device::flex();

    let loaded = load_model_for_inference(&report.paths.root, None, &device).unwrap();
    let games = &config.data.split.val_games;
    let options = EvaluateOptions::default();
    let found = evaluate(&loaded.model, &loaded.build, &loaded.config, games, &device, &options).unwrap();
    let at_the_end = report.evaluation.unwrap();
    assert_eq!(found.outcomes, at_the_end.outcomes);
    assert_eq!(found.loss, at_the_end.loss);

    let predictor = Predictor::open(&report.paths.root, &device).unwrap();
    let mut results = Vec::new();
    let clip = config.data.root.join("game2/Clip1");
    let count = predictor
        .path(&clip, &mut |predicted| {
            let Predicted::Frame(result) = predicted else { panic!("{predicted:?}") };
            results.push(*result);
            Ok(())
        })
        .unwrap();
    assert_eq!((count, results.len()), (6, found.outcomes.len()));
    for (result, outcome) in results.iter().zip(&found.outcomes) {
        assert_eq!(result.prediction.file.as_deref(), Some(outcome.file_name.as_str()));
        match (result.prediction.detection, outcome.detection) {
            // Batches of another size add in another order.
            (Some(a), Some(b)) => {
                assert!((a.x - b.x).abs() < 1e-2 && (a.y - b.y).abs() < 1e-2 && (a.score - b.score).abs() < 1e-4);
                assert!(result.prediction.peak >= a.score);
            }
            (a, b) => assert_eq!(a, b),
        }
        assert_eq!(result.overlay(0.5).unwrap().dimensions(), (64, 48));
        assert_eq!(result.heatmap_picture().unwrap().dimensions(), (64, 48));
    }
    assert!(results.iter().any(|result| result.prediction.detection.is_some()), "nothing was compared");
    let single = predictor.image(results[2].frame.clone()).unwrap();
    assert_eq!(single.prediction.frame, 0);
    together_as_alone(&predictor, results.iter().map(|result| result.frame.clone()).collect());

    let options = TrackOptions { threshold: 0.01, ..TrackOptions::default() };
    let metrics = MetricOptions { track: Some(options.clone()), ..MetricOptions::default() };
    let options_of_track = EvaluateOptions { metrics, ..EvaluateOptions::default() };
    let found = evaluate(&loaded.model, &loaded.build, &loaded.config, games, &device, &options_of_track).unwrap();
    let tracked = tracked_frames(Predictor::open(&report.paths.root, &device).unwrap(), &clip, options);
    for (result, outcome) in tracked.iter().zip(&found.outcomes) {
        let (prediction, expected) = (&result.prediction, outcome.detection);
        assert_eq!(prediction.detection.is_some(), expected.is_some(), "{prediction:?} {expected:?}");
        assert_eq!(prediction.visible(1.0), prediction.detection, "the tracker decides, not the score");
        if let (Some(a), Some(b)) = (prediction.detection, expected) {
            assert!((a.x - b.x).abs() < 1e-2 && (a.y - b.y).abs() < 1e-2, "{a:?} {b:?}");
        }
    }
    assert!(tracked.iter().any(|result| result.prediction.source.is_some()), "nothing was tracked");

    damaged_frames_cost_a_row_each(&predictor, dir.path(), &results);
    a_stop_keeps_what_was_found(predictor, &clip);
}

/// The frames of a clip with the ball tracked through them, in order and with nothing but rows.
fn tracked_frames(predictor: Predictor, clip: &Path, options: TrackOptions) -> Vec<FrameResult> {
    let mut results = Vec::new();
    let mut keep = |predicted| {
        let Predicted::Frame(result) = predicted else { panic!("{predicted:?}") };
        results.push(*result);
        Ok(())
    };
    let mut frames = TrackedFrames::new(options, 1).unwrap();
    let options = StreamOptions { pictures: false, ..StreamOptions::default() };
    let predictor = predictor.with_candidates(CANDIDATES).with_options(options);
    predictor.path(clip, &mut |predicted| frames.push(predicted, &mut keep)).unwrap();
    frames.finish(&mut keep).unwrap();
    assert_eq!(results.iter().map(|result| result.prediction.frame).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
    assert!(results.iter().all(|result| result.heatmap.is_empty() && result.heatmap_picture().is_err()));
    results
}

/// Copies of the frames, of which every second is cut.
fn damaged_frames_cost_a_row_each(predictor: &Predictor, dir: &Path, whole: &[FrameResult]) {
    let folder = dir.join("damaged");
    fs::create_dir(&folder).unwrap();
    for (index, result) in whole.iter().enumerate() {
        let path = folder.join(format!("{index}.png"));
        result.frame.save(&path).unwrap();
        if index % 2 == 1 {
            let bytes = fs::read(&path).unwrap();
            fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
    }
    let mut rows = Vec::new();
    let count = predictor
        .path(&folder, &mut |predicted| {
            rows.push(predicted.prediction().clone());
            Ok(())
        })
        .unwrap();
    assert_eq!((count, rows.len()), (6, 6));
    for (index, (row, whole)) in rows.iter().zip(whole).enumerate() {
        assert_eq!((row.frame, row.file.clone()), (index as u64, Some(format!("{index}.png"))));
        assert_eq!(row.damage.is_some(), index % 2 == 1);
        match (row.detection, whole.prediction.detection) {
            (Some(a), Some(b)) => assert!((a.x - b.x).abs() < 1e-2 && (a.y - b.y).abs() < 1e-2),
            (a, b) => assert!(a.is_none() && (b.is_none() || index % 2 == 1)),
        }
    }
    assert!(rows[1].damage.as_ref().unwrap().contains("1.png: cannot decode"), "{:?}", rows[1]);
}

fn a_stop_keeps_what_was_found(predictor: Predictor, clip: &Path) {
    let stop = Arc::new(AtomicBool::new(false));
    let predictor = predictor.stopping_at(stop.clone());
    let mut rows = 0;
    let count = predictor
        .path(clip, &mut |_| {
            rows += 1;
            stop.store(true, Ordering::Relaxed);
            Ok(())
        })
        .unwrap();
    // What was read by then is found, and no more is read.
    assert!(count == rows && (4..=6).contains(&rows), "{count} {rows}");
}

#[test]
fn a_backbone_that_trained_comes_from_the_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let section = model(json!({ "backbone": { "freeze": false } }));
    let config = config(dir.path(), section, training(dir.path(), json!({ "epochs": 1 })));
    let (report, _) = run(&config, None, None).unwrap();
    let best = report.paths.best();
    assert!(best.join("backbone/model.safetensors").is_file() && !best.join("adapter").exists());
    let state: serde_json::Value = serde_json::from_slice(&fs::read(best.join("state.json")).unwrap()).unwrap();
    assert_eq!(state["base"], serde_json::Value::Null);
    let device = Device::flex();
    let loaded = load_model_for_inference(&best, None, &device).unwrap();
    let games = &config.data.split.val_games;
    let options = EvaluateOptions::default();
    let found = evaluate(&loaded.model, &loaded.build, &loaded.config, games, &device, &options).unwrap();
    assert_eq!(found.outcomes, report.evaluation.unwrap().outcomes);
}

//! Frames in time: windows from the files of a clip to the heatmap of their last frame.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Distribution, Tensor};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tracknet::artifacts::pretrained::{StoredAs, write_head};
use tracknet::artifacts::{build_model, load_model_for_inference};
use tracknet::compute::Compute;
use tracknet::config::{AugmentConfig, Config, DataFormat, OnBadFrame};
use tracknet::datasets::image::load_frame;
use tracknet::datasets::{Batch, BatchLoader, BatchSpec, Dataset, FrameWindow, LoaderOptions};
use tracknet::inference::{Prediction, Predictor};
use tracknet::models::state::{named_parameters, state_dict};
use tracknet::models::{HeatmapModel, ModelInput};
use tracknet::training::{EvaluateOptions, evaluate, training_peak};

use crate::common::gradients_of;
use crate::training_support::{config, convnext, model, resumes_to_the_bit, run, training};

/// Size of the pictures and of the input, `[W, H]`.
pub(crate) const SIZE: [u32; 2] = [48, 32];

/// Left and top of the square in a picture.
fn square(number: usize) -> [u32; 2] {
    [4 * (number as u32 % 10), 8 * (number as u32 / 10)]
}

/// A picture with a bright square of 4×4 pixels at a place of its own for each number below 40.
fn picture(number: usize) -> RgbImage {
    let [x, y] = square(number);
    RgbImage::from_fn(SIZE[0], SIZE[1], |u, v| {
        let square = (x..x + 4).contains(&u) && (y..y + 4).contains(&v);
        if square { Rgb([250, 240, 20]) } else { Rgb([40 + u as u8, 90, 60 + v as u8]) }
    })
}

/// A clip of game1 with these numbers as frames `00.png`, `01.png`, …; `labelled` are the frames that have a label, the middle
/// of the square.
pub(crate) fn write_clip(root: &Path, clip: &str, numbers: &[usize], labelled: impl Fn(usize) -> bool) -> PathBuf {
    let dir = root.join("game1").join(clip);
    fs::create_dir_all(&dir).unwrap();
    let mut labels = String::from("file name,visibility,x-coordinate,y-coordinate,status\n");
    for (i, number) in numbers.iter().enumerate() {
        picture(*number).save(dir.join(format!("{i:02}.png"))).unwrap();
        if labelled(i) {
            let [x, y] = square(*number).map(|at| at as f32 + 1.5);
            labels += &format!("{i:02}.png,1,{x},{y},0\n");
        }
    }
    fs::write(dir.join("Label.csv"), labels).unwrap();
    dir
}

pub(crate) fn spec(length: usize, stride: usize) -> BatchSpec {
    let input_size = SIZE.map(|side| side as usize);
    BatchSpec { input_size, heatmap_size: [12, 8], window: FrameWindow { length, stride }, ..BatchSpec::default() }
}

pub(crate) fn loader(root: &Path, spec: &BatchSpec, options: LoaderOptions) -> BatchLoader {
    let data = Dataset::open(root, DataFormat::Tracknet, &["game1".to_owned()], false).unwrap();
    BatchLoader::new(data.frames(), spec.clone(), 2, options).unwrap()
}

pub(crate) fn batches(loader: &BatchLoader, epoch: u64) -> Vec<Batch> {
    loader.epoch(epoch).collect::<tracknet::Result<_>>().unwrap()
}

/// The frames of each window as the names `clip/file`, found by their pixels: those of equal pictures go by the first.
pub(crate) fn frames_of(batches: &[Batch], loader: &BatchLoader) -> Vec<Vec<String>> {
    let spec = loader.spec();
    let mut known = BTreeMap::new();
    for frame in loader.frames() {
        for file in frame.files.iter() {
            if let Ok((planes, _)) = load_frame(file, spec.input_size, &spec.normalizer()) {
                let bits: Vec<u32> = planes.iter().map(|v| v.to_bits()).collect();
                known.entry(bits).or_insert_with(|| name(file));
            }
        }
    }
    let plane = 3 * spec.input_size[0] * spec.input_size[1];
    let mut found = Vec::new();
    for batch in batches {
        assert_eq!(batch.images.len(), batch.size * spec.window.length * plane);
        for window in batch.images.chunks(spec.window.length * plane) {
            let bits = |planes: &[f32]| planes.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            found.push(window.chunks(plane).map(|planes| known[&bits(planes)].clone()).collect());
        }
    }
    found
}

/// The window of each sample, with the name of its last frame.
fn windows(root: &Path, spec: &BatchSpec, options: LoaderOptions) -> Vec<(String, Vec<String>)> {
    let loader = loader(root, spec, options);
    let batches = batches(&loader, 0);
    let names = batches.iter().flat_map(|batch| &batch.samples).map(|info| name(&info.frame.frame.path));
    names.zip(frames_of(&batches, &loader)).collect()
}

pub(crate) fn name(file: &Path) -> String {
    let part = |path: &Path| path.file_stem().unwrap().to_string_lossy().into_owned();
    format!("{}/{}", part(file.parent().unwrap()), part(file))
}

fn expected(windows: &[(&str, &[&str])]) -> Vec<(String, Vec<String>)> {
    let full = |frame: &&str| (*frame).to_owned();
    windows.iter().map(|(last, frames)| ((*last).to_owned(), frames.iter().map(full).collect())).collect()
}

#[test]
fn windows_end_with_their_frame_begin_with_the_first_and_never_cross_clips() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), "Clip1", &[0, 1, 2, 3, 4, 5], |i| i != 2);
    write_clip(dir.path(), "Clip2", &[10, 11], |_| true);
    let found = windows(dir.path(), &spec(3, 1), LoaderOptions::default());
    let all = expected(&[
        ("Clip1/00", &["Clip1/00", "Clip1/00", "Clip1/00"]),
        ("Clip1/01", &["Clip1/00", "Clip1/00", "Clip1/01"]),
        // A frame without a label is in the windows of others.
        ("Clip1/03", &["Clip1/01", "Clip1/02", "Clip1/03"]),
        ("Clip1/04", &["Clip1/02", "Clip1/03", "Clip1/04"]),
        ("Clip1/05", &["Clip1/03", "Clip1/04", "Clip1/05"]),
        // A clip that is shorter than the window.
        ("Clip2/00", &["Clip2/00", "Clip2/00", "Clip2/00"]),
        ("Clip2/01", &["Clip2/00", "Clip2/00", "Clip2/01"]),
    ]);
    assert_eq!(found, all);
    let strided = windows(dir.path(), &spec(3, 2), LoaderOptions::default());
    assert_eq!(strided[4].1, ["Clip1/01", "Clip1/03", "Clip1/05"]);
    assert_eq!(strided[2].1, ["Clip1/00", "Clip1/01", "Clip1/03"]);
}

#[test]
fn frames_that_a_video_repeats_are_left_out_of_windows() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), "Clip1", &[0, 0, 1, 1, 2, 2, 3], |i| i > 3);
    let last = |length, stride| windows(dir.path(), &spec(length, stride), LoaderOptions::default()).pop().unwrap().1;
    // Equal pictures go by the name of the first.
    assert_eq!(last(3, 1), ["Clip1/02", "Clip1/04", "Clip1/06"]);
    assert_eq!(last(2, 2), ["Clip1/02", "Clip1/06"]);
    let (own, window) = windows(dir.path(), &spec(3, 1), LoaderOptions::default()).swap_remove(1);
    assert_eq!((own.as_str(), window), ("Clip1/05", vec!["Clip1/00".into(), "Clip1/02".into(), "Clip1/04".into()]));
}

#[test]
fn the_frame_after_one_that_cannot_be_read_stands_in_and_it_is_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let clip = write_clip(dir.path(), "Clip1", &[0, 1, 2, 3, 4], |i| i != 2);
    fs::write(clip.join("02.png"), b"no picture").unwrap();
    let found = windows(dir.path(), &spec(3, 1), LoaderOptions::default());
    assert_eq!(found[2].1, ["Clip1/01", "Clip1/03", "Clip1/03"]);
    assert_eq!(found[3].1, ["Clip1/03", "Clip1/03", "Clip1/04"]);
    let loader_of =
        |on_bad_frame| loader(dir.path(), &spec(3, 1), LoaderOptions { on_bad_frame, ..LoaderOptions::default() });
    let skipping = loader_of(OnBadFrame::Skip);
    assert_eq!(batches(&skipping, 0).iter().map(|batch| batch.size).sum::<usize>(), 4);
    let bad = skipping.bad_frames();
    assert!(bad.count == 1 && bad.first[0].contains("02.png: cannot decode"), "{bad}");
    let strict = loader_of(OnBadFrame::Error).epoch(0).collect::<tracknet::Result<Vec<_>>>();
    assert!(strict.unwrap_err().to_string().contains("02.png: cannot decode"));
}

/// Pixels of each earlier frame that differ from those of the last one, for each sample.
fn differing(root: &Path, augment: AugmentConfig) -> Vec<usize> {
    let spec = BatchSpec { flip_prob: 0.5, augment, ..spec(3, 1) };
    let options = LoaderOptions { augment: true, shuffle_seed: Some(5), ..LoaderOptions::default() };
    let plane = (SIZE[0] * SIZE[1]) as usize;
    let loader = loader(root, &spec, options);
    let mut counts = Vec::new();
    for window in (0..4)
        .flat_map(|epoch| batches(&loader, epoch))
        .flat_map(|batch| batch.images)
        .collect::<Vec<_>>()
        .chunks(9 * plane)
    {
        let (earlier, last) = window.split_at(6 * plane);
        for frame in earlier.chunks(3 * plane) {
            let differs = |i: &usize| (0..3).any(|c| frame[c * plane + i] != last[c * plane + i]);
            counts.push((0..plane).filter(differs).count());
        }
    }
    counts
}

#[test]
fn augmentation_is_one_draw_for_all_frames_of_a_window() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), "Clip1", &[3, 14, 25, 36], |_| true);
    // But for two squares of 16 pixels, somewhat larger when zoomed, the frames are the same picture: whatever was drawn
    // for one of them was drawn for all.
    let drawn = AugmentConfig { color_jitter_prob: 1.0, zoom_prob: 0.5, ..AugmentConfig::default() };
    let counts = differing(dir.path(), drawn.clone());
    assert!(counts.len() == 32 && counts.iter().all(|count| *count <= 2 * 64), "{counts:?}");
    assert!(counts.iter().any(|count| *count > 0), "{counts:?}");
    // Noise is a frame's own, except for the first frame that stands in at the edge.
    let noisy = differing(dir.path(), AugmentConfig { noise_prob: 1.0, noise_std: 40.0, ..drawn });
    assert!(noisy.iter().any(|count| *count > 700), "{noisy:?}");
}

#[test]
fn some_windows_stand_still_where_that_is_asked_for_and_only_in_training() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), "Clip1", &[3, 14, 25, 36], |_| true);
    let still = |still_prob| differing(dir.path(), AugmentConfig { still_prob, ..AugmentConfig::default() });
    let moving = |counts: &[usize]| counts.iter().filter(|count| **count > 0).count();
    let (none, some, all) = (moving(&still(0.0)), moving(&still(0.5)), moving(&still(1.0)));
    assert!(all == 0 && 0 < some && some < none, "{all} {some} {none}");
    let spec = BatchSpec { augment: AugmentConfig { still_prob: 1.0, ..AugmentConfig::default() }, ..spec(3, 1) };
    let judged = |spec: &BatchSpec| batches(&loader(dir.path(), spec, LoaderOptions::default()), 0)[0].images.clone();
    assert_eq!(judged(&spec), judged(&BatchSpec { augment: AugmentConfig::default(), ..spec.clone() }));
}

#[test]
fn a_flip_mirrors_every_frame() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), "Clip1", &[3, 14, 25], |_| true);
    let options = LoaderOptions { augment: true, ..LoaderOptions::default() };
    let plain = batches(&loader(dir.path(), &spec(3, 1), options.clone()), 0);
    let flipping = BatchSpec { flip_prob: 1.0, ..spec(3, 1) };
    let flipped = batches(&loader(dir.path(), &flipping, options), 0);
    for (plain, flipped) in plain.iter().zip(&flipped) {
        let rows = plain.images.chunks(SIZE[0] as usize).zip(flipped.images.chunks(SIZE[0] as usize));
        for (plain, flipped) in rows {
            assert!(plain.iter().eq(flipped.iter().rev()));
        }
    }
}

#[test]
fn windows_do_not_depend_on_workers_or_cache_and_a_window_of_one_is_a_frame() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), "Clip1", &[0, 0, 1, 12, 23, 23, 34], |i| i != 3);
    let augment = AugmentConfig {
        color_jitter_prob: 0.5,
        blur_prob: 0.5,
        noise_prob: 0.5,
        jpeg_prob: 0.5,
        zoom_prob: 0.5,
        ..AugmentConfig::default()
    };
    let wild = |length| BatchSpec { flip_prob: 0.5, augment: augment.clone(), ..spec(length, 2) };
    let load = |spec: &BatchSpec, workers, cache_bytes, epoch| {
        let shuffle_seed = Some(3);
        let options = LoaderOptions { workers, cache_bytes, augment: true, shuffle_seed, ..LoaderOptions::default() };
        let loader = loader(dir.path(), spec, options);
        batches(&loader, 0);
        batches(&loader, epoch)
    };
    let reference = load(&wild(3), 0, 0, 1);
    for (workers, cache) in [(1, 0), (3, 9000), (3, 1 << 20)] {
        assert!(load(&wild(3), workers, cache, 1) == reference, "{workers} workers, cache {cache}");
    }
    let single = load(&BatchSpec { window: FrameWindow::SINGLE, ..wild(1) }, 2, 0, 1);
    assert!(load(&wild(1), 2, 0, 1) == single);
    // The last frame of a window is the single frame, and so are target and mask.
    let plane = (3 * SIZE[0] * SIZE[1]) as usize;
    for (window, single) in reference.iter().zip(&single) {
        let last: Vec<f32> = window.images.chunks(3 * plane).flat_map(|window| window[2 * plane..].to_vec()).collect();
        assert!(last == single.images && window.targets == single.targets && window.masks == single.masks);
    }
}

/// A model section that sees windows of three frames.
pub(crate) fn seeing(temporal: &str, input: &str) -> Value {
    let skip = input == "stem";
    json!({
        "temporal": temporal, "temporal_input": input,
        "lora": { "enabled": true, "r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1 },
        "decoder": { "channels": [32, 16, 8], "upsample": [4, 2], "skip": skip }
    })
}

pub(crate) fn with_windows(root: &Path, out: &str, section: Value, training_section: Value) -> Config {
    let mut config = config(root, model(section), training(&root.join(out), training_section));
    (config.data.sequence.enabled, config.data.sequence.length) = (true, 3);
    config
}

pub(crate) fn logits(model: &HeatmapModel, windows: &Tensor<4>) -> Vec<f32> {
    model.forward(windows.clone()).into_data().try_to_vec().unwrap()
}

#[test]
fn the_stem_sees_the_window_and_further_patches_start_without_a_say() {
    let (device, size) = (Device::flex(), [64, 48]);
    device.seed(1);
    let windows = Tensor::<4>::random([2, 9, 48, 64], Distribution::Normal(0.0, 1.0), &device);
    let frames = windows.clone().narrow(1, 6, 3);
    let others = Tensor::cat(vec![windows.clone().narrow(1, 0, 6) * 2.0, frames.clone()], 1);
    let built =
        |section: Value, frames| build_model(&model(section), ModelInput { size, frames }, 1, &device).unwrap().0;
    for temporal in ["stack", "difference"] {
        let stem = built(seeing(temporal, "stem"), 3);
        assert_ne!(logits(&stem, &windows), logits(&stem, &others), "{temporal}");
        let patches = built(seeing(temporal, "patches"), 3);
        assert_eq!(logits(&patches, &windows), logits(&patches, &others), "{temporal}");
        let single = built(json!({ "lora": { "enabled": true, "r": 4 }, "decoder": { "upsample": [4, 2] } }), 1);
        assert_eq!(logits(&patches, &windows), logits(&single, &frames), "{temporal}");
    }
    let refused = |section: Value, frames| {
        build_model(&model(section), ModelInput { size, frames }, 1, &device).unwrap_err().to_string()
    };
    assert!(refused(json!({}), 3).contains("model.temporal"));
    assert!(refused(seeing("stack", "stem"), 1).contains("data.sequence"));
    let mut without = seeing("stack", "stem");
    without["decoder"]["skip"] = json!(false);
    assert!(refused(without, 3).contains("model.decoder.skip is false"));
    let mut pyramid = seeing("stack", "stem");
    pyramid["model_name"] = json!("convnext_fpn_heatmap");
    assert!(refused(pyramid, 3).contains("the fpn decoder of convnext_fpn_heatmap has no convolutional stem"));
}

/// [`seeing`] with patches, on a ConvNeXt of two stages, with each decoder. The layers have a say from the start.
fn seeing_on_convnext() -> [Value; 4] {
    let encoder = json!({
        "in_channels": [8, 16], "d_model": 8, "nhead": 2, "num_encoder_layers": 1, "num_feature_levels": 2,
        "n_points": 2, "lateral_dim": 8
    });
    [
        json!({ "backbone": { "return_stages": [2] }, "decoder": { "channels": [16, 8], "upsample": [2] } }),
        json!({ "model_name": "convnext_fpn_heatmap", "fpn": { "lateral_dim": 8 } }),
        json!({ "model_name": "convnext_hrnet_heatmap", "hrnet": { "widths": [4, 6], "num_units": 1 } }),
        json!({ "model_name": "convnext_deformable_fpn_heatmap", "deformable_encoder": encoder }),
    ]
    .map(|mut section| {
        section["temporal"] = json!("difference");
        section["temporal_input"] = json!("patches");
        section["lora"] = json!({ "enabled": true, "r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1 });
        section["backbone"]["architecture"] = convnext([1, 1]);
        section["backbone"]["architecture"]["layer_scale_init_value"] = json!(0.5);
        if section["model_name"].is_string() {
            section["backbone"]["return_stages"] = json!([1, 2]);
        }
        section
    })
}

#[test]
fn patches_of_a_convolutional_backbone_start_without_a_say_and_get_gradients_with_every_decoder() {
    let (device, size) = (Device::flex().autodiff(), [64, 48]);
    device.seed(3);
    let windows = Tensor::<4>::random([2, 9, 48, 64], Distribution::Normal(0.0, 1.0), &device);
    let frames = windows.clone().narrow(1, 6, 3);
    for section in seeing_on_convnext() {
        let name = section["model_name"].to_string();
        let mut single = section.clone();
        single["temporal"] = json!("none");
        let built = |section, frames| build_model(&model(section), ModelInput { size, frames }, 1, &device).unwrap().0;
        let (of_windows, single) = (built(section, 3), built(single, 1));
        of_windows.seed_dropout(5);
        let output = of_windows.forward(windows.clone());
        single.seed_dropout(5);
        let found: Vec<f32> = output.clone().into_data().try_to_vec().unwrap();
        assert_eq!(found, logits(&single, &frames), "{name}");

        let mut gradients = gradients_of(&of_windows, &output.square().mean().backward()).into_iter();
        let (info, gradient) = gradients.find(|(info, _)| info.name == "window.patches.weight").unwrap();
        assert_eq!(info.shape, [8, 6, 4, 4], "{name}");
        let gradient: Vec<f32> = gradient.unwrap().try_to_vec().unwrap();
        // Each of the earlier frames, and each channel of the embedding.
        for part in gradient.chunks(3 * 4 * 4) {
            assert!(part.iter().any(|value| *value != 0.0) && part.iter().all(|value| value.is_finite()), "{name}");
        }
    }
}

#[test]
fn a_run_whose_convolutional_backbone_sees_windows_learns_resumes_and_predicts_what_it_evaluates() {
    let [_, fpn, ..] = seeing_on_convnext();
    a_run_with_windows(fpn, "window.patches.weight");
}

#[test]
fn a_head_of_single_frames_begins_a_model_of_windows_that_finds_the_same() {
    let (dir, device, size) = (tempfile::tempdir().unwrap(), Device::flex(), [64, 48]);
    device.seed(2);
    let windows = Tensor::<4>::random([1, 9, 48, 64], Distribution::Normal(0.0, 1.0), &device);
    let frames = windows.clone().narrow(1, 6, 3);
    for input in ["stem", "patches"] {
        let mut section = seeing("difference", input);
        let single = model(json!({ "lora": section["lora"], "decoder": section["decoder"] }));
        // Another seed for the head than that of the model of windows.
        let (single, _) = build_model(&single, ModelInput { size, frames: 1 }, 7, &device).unwrap();
        write_head(dir.path(), &single, StoredAs::F32).unwrap();
        section["decoder"]["pretrained"] = json!(dir.path());
        let (mut of_windows, _) = build_model(&model(section), ModelInput { size, frames: 3 }, 1, &device).unwrap();
        of_windows.backbone = single.backbone.clone();
        let (found, expected) = (logits(&of_windows, &windows), logits(&single, &frames));
        let largest = expected.iter().fold(0f32, |max, v| max.max(v.abs()));
        let apart = found.iter().zip(&expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        // The stem adds zeros of further channels to its sums, in another order.
        assert!(largest > 0.0 && apart <= 1e-5 * largest, "{input}: {apart} of {largest}");
    }
}

/// The rows of a folder by the names of their files.
pub(crate) fn predicted(predictor: &Predictor, folder: &Path) -> BTreeMap<String, Prediction> {
    let mut rows = BTreeMap::new();
    let mut take = |predicted: tracknet::inference::Predicted| {
        let row = predicted.prediction().clone();
        rows.insert(row.file.clone().unwrap(), row);
        Ok(())
    };
    predictor.path(folder, &mut take).unwrap();
    rows
}

/// Trains, resumes from the middle of an epoch, evaluates and predicts from the run alone.
fn a_run_with_windows(section: Value, checked: &str) {
    let dir = tempfile::tempdir().unwrap();
    let whole = with_windows(dir.path(), "whole", section.clone(), json!({ "epochs": 6 }));
    let clip = whole.data.root.join("game2/Clip1");
    // A repeated frame and one that cannot be read, both without a label.
    fs::copy(clip.join("0002.png"), clip.join("0002b.png")).unwrap();
    fs::write(clip.join("0003b.png"), b"no picture").unwrap();
    let (finished, recorder) = run(&whole, None, None).unwrap();
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    let (first, last) = (mean(&recorder.losses[..4]), mean(&recorder.losses[20..]));
    assert!(last < 0.8 * first, "{first} → {last}");

    let stopped = with_windows(dir.path(), "stopped", section, json!({ "epochs": 6 }));
    resumes_to_the_bit(&stopped, 6, &finished);

    let device = Device::flex();
    let loaded = load_model_for_inference(&finished.paths.root, None, &device).unwrap();
    let kept = named_parameters(&loaded.model).into_iter().find(|p| p.name == checked).unwrap();
    assert!(kept.shape[1] == 9 || kept.shape[1] == 6, "{:?}", kept.shape);
    let games = &whole.data.split.val_games;
    let options = EvaluateOptions::default();
    let found = evaluate(&loaded.model, &loaded.build, &loaded.config, games, &device, &options).unwrap();
    assert_eq!(found.outcomes, finished.evaluation.unwrap().outcomes);
    let rows = predicted(&Predictor::open(&finished.paths.root, &device).unwrap(), &clip);
    assert_eq!(rows.len(), 8);
    for outcome in &found.outcomes {
        match (rows[&outcome.file_name].detection, outcome.detection) {
            // Batches of another size add in another order.
            (Some(a), Some(b)) => {
                assert!((a.x - b.x).abs() < 1e-2 && (a.y - b.y).abs() < 1e-2 && (a.score - b.score).abs() < 1e-4);
            }
            (a, b) => assert_eq!(a, b),
        }
    }
    assert!(found.outcomes.iter().any(|outcome| outcome.detection.is_some()), "nothing was compared");
}

#[test]
fn a_run_whose_stem_sees_windows_learns_resumes_and_predicts_what_it_evaluates() {
    a_run_with_windows(seeing("difference", "stem"), "decoder.stem.half.conv.weight");
}

#[test]
fn a_run_whose_unet_sees_windows_learns_resumes_and_predicts_what_it_evaluates() {
    let section = json!({
        "model_name": "vit_unet_heatmap", "temporal": "stack",
        "lora": { "enabled": true, "r": 4, "lora_alpha": 8.0, "lora_dropout": 0.1 },
        "unet": { "channels": [6, 8], "stride": 1, "convolutions": 1 }
    });
    a_run_with_windows(section, "decoder.down.0.0.conv.weight");
}

#[test]
fn a_run_whose_patches_see_windows_learns_resumes_and_predicts_what_it_evaluates() {
    a_run_with_windows(seeing("stack", "patches"), "window.patches.weight");
}

/// The gradient of the kernels passes through every block of a frozen backbone.
#[test]
fn kernels_of_earlier_frames_train_below_a_frozen_backbone() {
    let dir = tempfile::tempdir().unwrap();
    let mut section = seeing("difference", "patches");
    section["lora"]["enabled"] = json!(false);
    let config = with_windows(dir.path(), "out", section, json!({ "epochs": 1 }));
    let (report, _) = run(&config, None, None).unwrap();
    let kernels = state_dict(&report.model, |p| p.name == "window.patches.weight");
    let values: Vec<f32> = kernels["window.patches.weight"].clone().try_to_vec().unwrap();
    assert_eq!(values.len(), 32 * 6 * 16 * 16);
    assert!(values.iter().any(|value| *value != 0.0) && values.iter().all(|value| value.is_finite()));
    let backbone = state_dict(&report.model, |p| p.name.starts_with("backbone."));
    let (fresh, _) = build_model(&config.model, &config.data, config.training.seed, &Device::flex()).unwrap();
    assert!(backbone == state_dict(&fresh, |p| p.name.starts_with("backbone.")), "the backbone trained");
}

#[test]
fn a_window_takes_memory() {
    let (dir, device) = (tempfile::tempdir().unwrap(), Device::flex().autodiff());
    let mut config = with_windows(dir.path(), "out", seeing("stack", "stem"), json!({}));
    let mut peak = |length: usize| {
        config.data.sequence.length = length;
        let (model, _) = build_model(&config.model, &config.data, 1, &device).unwrap();
        training_peak(&config, &model, &Compute::new(&Device::flex()), 4)
    };
    let frame = 4 * 2 * 3 * 64 * 48;
    assert!(peak(5) >= peak(3) + 2 * frame);
}

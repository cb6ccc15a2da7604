//! A heatmap for each frame of a window: what each is trained towards, and each frame found once.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use serde_json::{Value, json};
use tracknet::artifacts::pretrained::{StoredAs, write_head};
use tracknet::artifacts::{build_model, load_model_for_inference};
use tracknet::compute::Compute;
use tracknet::config::{AbsentBall, AugmentConfig, Config, HeatmapFrames, OnBadFrame};
use tracknet::datasets::image::decode;
use tracknet::datasets::{Batch, BatchLoader, BatchSpec, Dataset, FrameWindow, LoaderOptions, SampleInfo};
use tracknet::inference::Predictor;
use tracknet::models::ModelInput;
use tracknet::training::{EvaluateOptions, Trainer, evaluate, shape_of, training_peak};

use crate::training_support::{model, resumes_to_the_bit, run};
use crate::windows::{
    SIZE, batches, frames_of, loader, logits, name, predicted, seeing, spec, with_windows, write_clip,
};

/// Windows with a heatmap for each frame.
fn all(length: usize, stride: usize) -> BatchSpec {
    BatchSpec { heatmap_frames: HeatmapFrames::All, ..spec(length, stride) }
}

fn non_overlapping() -> LoaderOptions {
    LoaderOptions { non_overlapping: true, ..LoaderOptions::default() }
}

/// Values of the heatmap of a frame.
fn heatmap<'a>(values: &'a [f32], info: &SampleInfo) -> &'a [f32] {
    let pixels = info.geometry.heatmap_size.iter().product::<usize>();
    &values[info.heatmap * pixels..][..pixels]
}

#[test]
fn each_heatmap_is_trained_towards_the_label_of_the_picture_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let clip = write_clip(dir.path(), "Clip1", &[0, 12, 24, 36, 8, 15], |i| i != 2);
    fs::write(clip.join("04.png"), b"no picture").unwrap();
    let single = batches(&loader(dir.path(), &spec(1, 1), LoaderOptions::default()), 0);
    let windows = batches(&loader(dir.path(), &all(3, 1), LoaderOptions::default()), 0);
    let last = batches(&loader(dir.path(), &spec(3, 1), LoaderOptions::default()), 0);
    let (mut masks, mut own) = (Vec::new(), 0);
    for (batch, last) in windows.iter().zip(&last) {
        assert!(batch.images == last.images && batch.size == last.size);
        for (i, mask) in batch.masks.chunks(96).enumerate() {
            assert!(mask.iter().all(|v| *v == mask[0]));
            masks.push(mask[0]);
            if mask[0] == 0.0 {
                assert!(batch.targets[i * 96..][..96].iter().all(|v| *v == 0.0));
                assert!(batch.samples.iter().all(|info| info.heatmap != i));
                continue;
            }
            // The frame whose picture is there: its own or the one after it.
            let info = batch.samples.iter().find(|info| info.heatmap >= i).unwrap();
            own += usize::from(info.heatmap == i);
            let singles = single.iter().flat_map(|batch| batch.samples.iter().map(move |own| (batch, own)));
            let (single, single_info) = singles.into_iter().find(|(_, single)| single.frame == info.frame).unwrap();
            assert!(batch.targets[i * 96..][..96] == *heatmap(&single.targets, single_info), "{}", info.frame);
        }
        // The last frame's are those of a model with one heatmap.
        for (all, one) in batch.targets.chunks(3 * 96).zip(last.targets.chunks(96)) {
            assert!(&all[2 * 96..] == one);
        }
    }
    // Windows 0 0 0, 0 0 1, 1 2 3 and 3 5 5: frame 2 has no label, and three pictures stand in for others.
    assert_eq!(masks, [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
    assert_eq!(own, 7);
}

#[test]
fn a_ball_that_is_absent_in_an_earlier_frame_teaches_what_it_is_to() {
    let dir = tempfile::tempdir().unwrap();
    let clip = write_clip(dir.path(), "Clip1", &[0, 12, 24], |_| true);
    let labels = fs::read_to_string(clip.join("Label.csv")).unwrap();
    let row = labels.lines().find(|line| line.starts_with("01.png")).unwrap();
    fs::write(clip.join("Label.csv"), labels.replace(row, "01.png,0,,,")).unwrap();
    for (absent_ball, mask) in [(AbsentBall::Mask, 0.0), (AbsentBall::Negative, 1.0)] {
        let spec = BatchSpec { absent_ball, ..all(3, 1) };
        let batch = batches(&loader(dir.path(), &spec, LoaderOptions::default()), 0).pop().unwrap();
        assert_eq!(batch.size, 1);
        assert_eq!(batch.masks.chunks(96).map(|mask| mask[0]).collect::<Vec<_>>(), [1.0, mask, 1.0]);
        assert!(batch.targets[96..2 * 96].iter().all(|v| *v == 0.0));
    }
}

/// The middle of the bright square in a frame of a window, if it is there.
fn square_in(batch: &Batch, spec: &BatchSpec, info: &SampleInfo) -> Option<[f32; 2]> {
    let values = 3 * (SIZE[0] * SIZE[1]) as usize;
    let picture = spec.normalizer().undo(&batch.images[info.heatmap * values..][..values], spec.input_size);
    let bright: Vec<_> = picture.enumerate_pixels().filter(|(.., pixel)| pixel[0] > 165).collect();
    let sum = bright.iter().fold([0.0; 2], |[x, y], (u, v, _)| [x + *u as f32, y + *v as f32]);
    (!bright.is_empty()).then(|| sum.map(|sum| sum / bright.len() as f32))
}

#[test]
fn targets_follow_the_balls_through_zoom_and_flip_and_do_not_count_where_they_are_lost() {
    let dir = tempfile::tempdir().unwrap();
    // In the middle of the picture and far apart.
    write_clip(dir.path(), "Clip1", &[12, 17, 21, 28, 12, 26], |_| true);
    let augment = AugmentConfig { zoom_prob: 0.7, zoom_max: 4.0, ..AugmentConfig::default() };
    let spec = BatchSpec { flip_prob: 0.5, augment, ..all(3, 1) };
    let options = LoaderOptions { augment: true, shuffle_seed: Some(5), ..LoaderOptions::default() };
    let loader = loader(dir.path(), &spec, options);
    let (mut lost, mut found) = (0, [0; 2]);
    for batch in (0..8).flat_map(|epoch| batches(&loader, epoch)) {
        for info in &batch.samples {
            let counts = heatmap(&batch.masks, info)[0] == 1.0;
            let xy = info.label.xy.unwrap();
            assert_eq!(counts, info.geometry.sees(xy), "{info:?}");
            // The last frame's ball is never lost.
            assert!(counts || info.heatmap % 3 != 2);
            if !counts {
                lost += 1;
                continue;
            }
            let (expected, at) = (info.geometry.to_input(xy), square_in(&batch, &spec, info).unwrap());
            // A square at the edge is seen in part: its sides are 4 to 16 pixels long.
            let half = 2.0 * SIZE[0] as f32 / info.geometry.crop[2] as f32;
            assert!((0..2).all(|axis| (at[axis] - expected[axis]).abs() < half), "{at:?} {expected:?}");
            found[usize::from(info.flipped)] += 1;
            let target = heatmap(&batch.targets, info);
            let highest = target.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
            let center = info.heatmap_xy().unwrap();
            let off = [(highest % 12) as f32 - center[0], (highest / 12) as f32 - center[1]];
            assert!(off.iter().all(|off| off.abs() <= 1.0), "{off:?}");
        }
    }
    assert!(lost > 0 && found.iter().all(|count| *count > 20), "{lost} {found:?}");
}

/// The frames of a window, and those that are judged by it with their heatmaps.
type Judged = (Vec<String>, Vec<(String, usize)>);

/// The same by the numbers of frames of one clip.
type Numbered<'a> = (&'a [usize], &'a [(usize, usize)]);

/// The windows of an evaluation: their frames, and which frame has which of their heatmaps.
fn judged(root: &Path, spec: &BatchSpec) -> Vec<Judged> {
    let loader = loader(root, spec, non_overlapping());
    let batches = batches(&loader, 0);
    let mut windows: Vec<_> = frames_of(&batches, &loader).into_iter().map(|frames| (frames, Vec::new())).collect();
    let mut first = 0;
    for batch in &batches {
        for info in &batch.samples {
            let window = first + info.heatmap / spec.window.length;
            windows[window].1.push((name(&info.frame.frame.path), info.heatmap % spec.window.length));
        }
        first += batch.size;
    }
    windows
}

/// Windows as `frames` and `frame → heatmap`, all of one clip.
fn expected(clip: &str, windows: &[Numbered<'_>]) -> Vec<Judged> {
    let name = |frame: &usize| format!("{clip}/{frame:02}");
    let window = |(frames, found): &Numbered<'_>| {
        let found = found.iter().map(|(frame, heatmap)| (name(frame), *heatmap));
        (frames.iter().map(name).collect(), found.collect())
    };
    windows.iter().map(window).collect()
}

#[test]
fn an_evaluation_goes_from_window_to_window_and_judges_each_frame_once() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), "Clip1", &[0, 1, 2, 3, 4, 5, 6, 7], |i| i != 1);
    write_clip(dir.path(), "Clip2", &[10, 11], |_| true);
    write_clip(dir.path(), "Clip3", &[20, 21, 22, 23, 24], |i| i > 2);
    let mut windows = expected(
        "Clip1",
        &[
            (&[0, 1, 2], &[(0, 0), (2, 2)]),
            (&[3, 4, 5], &[(3, 0), (4, 1), (5, 2)]),
            // The last one is shifted back until it is full.
            (&[5, 6, 7], &[(6, 1), (7, 2)]),
        ],
    );
    // A clip that is shorter than the window.
    windows.extend(expected("Clip2", &[(&[0, 0, 1], &[(0, 1), (1, 2)])]));
    // Windows without a labelled frame are not read.
    windows.extend(expected("Clip3", &[(&[2, 3, 4], &[(3, 1), (4, 2)])]));
    assert_eq!(judged(dir.path(), &all(3, 1)), windows);

    // Frames that are apart, in blocks of six.
    let strided: Vec<_> = judged(dir.path(), &all(3, 2)).into_iter().take(4).collect();
    let windows = expected(
        "Clip1",
        &[
            (&[1, 3, 5], &[(3, 1), (5, 2)]),
            (&[0, 2, 4], &[(0, 0), (2, 1), (4, 2)]),
            (&[3, 5, 7], &[(7, 2)]),
            (&[2, 4, 6], &[(6, 2)]),
        ],
    );
    assert_eq!(strided, windows);
}

#[test]
fn repeated_and_damaged_frames_cost_no_other_frame_its_heatmap() {
    let dir = tempfile::tempdir().unwrap();
    // 25 pictures a second in a file with 30.
    let clip = write_clip(dir.path(), "Clip1", &[0, 1, 2, 3, 3, 4, 5, 6, 7], |_| true);
    let windows = expected(
        "Clip1",
        &[
            (&[0, 1, 2], &[(0, 0), (1, 1), (2, 2)]),
            // Equal pictures go by the name of the first.
            (&[2, 3, 5], &[(3, 1), (4, 1), (5, 2)]),
            (&[6, 7, 8], &[(6, 0), (7, 1), (8, 2)]),
        ],
    );
    assert_eq!(judged(dir.path(), &all(3, 1)), windows);
    let loader_of = |on_bad_frame| loader(dir.path(), &all(3, 1), LoaderOptions { on_bad_frame, ..non_overlapping() });
    let counted = |batch: &Batch| batch.masks.chunks(96).map(|mask| mask[0]).collect::<Vec<_>>();
    // Frame 3 is judged by the picture of frame 4, whose label its heatmap is compared with.
    let all_batches = batches(&loader_of(OnBadFrame::Skip), 0);
    assert_eq!(counted(&all_batches[0]), [1.0, 1.0, 1.0, 0.0, 1.0, 1.0]);

    fs::write(clip.join("01.png"), b"no picture").unwrap();
    fs::write(clip.join("08.png"), b"no picture").unwrap();
    let windows = expected(
        "Clip1",
        &[(&[0, 2, 2], &[(0, 0), (2, 2)]), (&[2, 3, 5], &[(3, 1), (4, 1), (5, 2)]), (&[6, 7, 7], &[(6, 0), (7, 1)])],
    );
    assert_eq!(judged(dir.path(), &all(3, 1)), windows);
    let skipping = loader_of(OnBadFrame::Skip);
    let masks: Vec<_> = batches(&skipping, 0).iter().map(counted).collect();
    assert_eq!(masks, [vec![1.0, 0.0, 1.0, 0.0, 1.0, 1.0], vec![1.0, 1.0, 0.0]]);
    let bad = skipping.bad_frames();
    assert!(bad.count == 2 && bad.first[0].contains("game1/Clip1/01.png") && bad.first[0].contains("line 3"), "{bad}");
    let strict = loader_of(OnBadFrame::Error).epoch(0).collect::<tracknet::Result<Vec<_>>>();
    assert!(strict.unwrap_err().to_string().contains("01.png: cannot decode"));
}

#[test]
fn windows_of_an_evaluation_do_not_depend_on_workers_or_cache() {
    let dir = tempfile::tempdir().unwrap();
    write_clip(dir.path(), "Clip1", &[0, 0, 1, 12, 23, 23, 34, 5, 9, 9], |i| i != 3);
    // The last block has a window less than it would have with two distinct frames.
    let load = |workers, cache_bytes| {
        let loader = loader(dir.path(), &all(2, 2), LoaderOptions { workers, cache_bytes, ..non_overlapping() });
        assert_eq!(loader.epoch(0).count(), loader.batches());
        batches(&loader, 1)
    };
    let reference = load(0, 0);
    let numbers: BTreeSet<usize> = reference.iter().flat_map(|batch| &batch.samples).map(|info| info.number).collect();
    assert_eq!(numbers, (0..9).collect());
    assert_eq!(reference.iter().map(|batch| batch.samples.len()).sum::<usize>(), 9);
    for (workers, cache) in [(1, 0), (3, 9000), (3, 1 << 20)] {
        assert!(load(workers, cache) == reference, "{workers} workers, cache {cache}");
    }
}

/// A model section with a heatmap for each of three frames.
fn finding_all(temporal: &str, input: &str) -> Value {
    let mut section = seeing(temporal, input);
    section["heatmap"] = json!({ "frames": "all" });
    section
}

#[test]
fn a_model_learns_by_heart_where_the_ball_is_in_each_frame_of_a_window() {
    let dir = tempfile::tempdir().unwrap();
    let section = json!({ "loss": { "name": "mse" }, "optimizer": { "lr": 1e-2, "weight_decay": 0.0 } });
    let mut config = with_windows(dir.path(), "out", finding_all("stack", "stem"), section);
    config.model.lora.lora_dropout = 0.0;
    config.data.preprocess.flip_prob = 0.0;
    let compute = Compute::new(&Device::flex());
    let (model, build) = build_model(&config.model, &config.data, 1, &compute.training_device()).unwrap();
    let data = Dataset::open(&config.data.root, config.data.format, &config.data.split.train_games, true).unwrap();
    let spec = BatchSpec::new(&config, build.normalization());
    let loader = BatchLoader::new(data.frames(), spec.clone(), 4, LoaderOptions::default()).unwrap();
    // Frames 4 to 7 of a dot that jumps; none in frame 4.
    let batch = loader.epoch(0).nth(1).unwrap().unwrap();
    let mut trainer = Trainer::of_heatmaps(&config.training, model, &compute);
    let staged = shape_of(&spec).stage(batch.clone(), &compute).unwrap();
    let losses: Vec<f64> = (0..200)
        .map(|step| trainer.step(&staged, step, 1.0).map(|report| report.loss_sum / report.weight).unwrap())
        .collect();
    assert!(losses[199] < 0.05 * losses[0], "{} → {}", losses[0], losses[199]);
    let images = shape_of(&spec).tensors(&batch, 0..4, &Device::flex()).unwrap().images;
    let found = logits(&trainer.model.valid(), &images);
    let highest = |map: &[f32]| map.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap().0;
    let mut places = BTreeSet::new();
    for info in batch.samples.iter().filter(|info| heatmap(&batch.masks, info)[0] == 1.0) {
        let (found, target) = (highest(heatmap(&found, info)), highest(heatmap(&batch.targets, info)));
        let apart = [found % 32, found / 32].iter().zip([target % 32, target / 32]).map(|(a, b)| a.abs_diff(b)).max();
        assert!(apart <= Some(1), "{}: heatmap {} at {found}, ball at {target}", info.frame, info.heatmap);
        places.insert((info.heatmap / 3, target));
    }
    assert!(places.len() > 6, "the balls of a window are at one place: {places:?}");
}

#[test]
fn a_run_with_a_heatmap_for_each_frame_resumes_evaluates_and_predicts_to_the_bit() {
    let dir = tempfile::tempdir().unwrap();
    let section = finding_all("difference", "stem");
    let whole = with_windows(dir.path(), "whole", section.clone(), json!({ "epochs": 4 }));
    let clip = whole.data.root.join("game2/Clip1");
    // A repeated frame and one that cannot be read, both without a label.
    fs::copy(clip.join("0000.png"), clip.join("0000b.png")).unwrap();
    fs::write(clip.join("0003b.png"), b"no picture").unwrap();
    let (finished, recorder) = run(&whole, None, None).unwrap();
    assert!(recorder.losses.last() < recorder.losses.first(), "{:?}", recorder.losses);

    let stopped = with_windows(dir.path(), "stopped", section, json!({ "epochs": 4 }));
    let resumed = resumes_to_the_bit(&stopped, 6, &finished);

    let device = Device::flex();
    let loaded = load_model_for_inference(&finished.paths.root, None, &device).unwrap();
    let (games, options) = (&whole.data.split.val_games, EvaluateOptions::default());
    let found = evaluate(&loaded.model, &loaded.build, &loaded.config, games, &device, &options).unwrap();
    assert_eq!(found.outcomes, finished.evaluation.unwrap().outcomes);
    // In the order of the frames, each once.
    let names: Vec<&str> = found.outcomes.iter().map(|outcome| outcome.file_name.as_str()).collect();
    assert_eq!(names, ["0000.png", "0001.png", "0002.png", "0003.png", "0004.png", "0005.png"]);
    let predictor = Predictor::open(&finished.paths.root, &device).unwrap();
    let rows = predicted(&predictor, &clip);
    assert_eq!(rows.len(), 8);
    assert!(rows["0003b.png"].damage.is_some() && rows.values().filter(|row| row.damage.is_some()).count() == 1);
    for outcome in &found.outcomes {
        assert_eq!(rows[&outcome.file_name].detection, outcome.detection, "{}", outcome.file_name);
    }
    // The repeated frame has the heatmap of the one that shows the same.
    assert_eq!(rows["0000.png"].detection, rows["0000b.png"].detection);
    assert!(found.outcomes.iter().any(|outcome| outcome.detection.is_some()), "nothing was compared");
    // A single picture is a clip of one frame.
    let picture = predictor.image(decode(&clip.join("0000.png")).unwrap()).unwrap();
    assert_eq!(picture.heatmap.len(), 32 * 24);

    let mut other = loaded.config.clone();
    other.data.sequence.length = 5;
    let error = evaluate(&loaded.model, &loaded.build, &other, games, &device, &options).unwrap_err().to_string();
    assert!(error.contains("data.sequence") && error.contains("5 frames with 5 heatmaps"), "{error}");
    a_run_keeps_its_windows(&stopped, &resumed.paths.root);
}

/// What changes the windows of a run that goes on, or their heatmaps, is refused by its name.
fn a_run_keeps_its_windows(config: &Config, resumed: &Path) {
    let refused = |key: &str, change: &dyn Fn(&mut Config)| {
        let mut config = config.clone();
        config.training.epochs += 1;
        change(&mut config);
        let error = run(&config, Some(resumed), None).unwrap_err().to_string();
        assert!(error.contains("config.yaml") && error.contains(key), "{key}: {error}");
    };
    refused("data.sequence.length was 3 and is 4", &|config| config.data.sequence.length = 4);
    refused("data.sequence.stride was 1 and is 2", &|config| config.data.sequence.stride = 2);
    refused("model.heatmap.frames was \"all\" and is \"last\"", &|config| {
        config.model.heatmap.frames = HeatmapFrames::Last;
    });
    let mut single = config.clone();
    single.data.sequence.enabled = false;
    let error = run(&single, Some(resumed), None).unwrap_err().to_string();
    assert!(error.contains("model.temporal") && error.contains("data.sequence.enabled"), "{error}");
}

#[test]
fn a_head_of_one_heatmap_begins_a_model_of_several_and_no_other_head_does() {
    let (dir, device, size) = (tempfile::tempdir().unwrap(), Device::flex(), [64, 48]);
    device.seed(3);
    let windows = Tensor::<4>::random([1, 9, 48, 64], Distribution::Normal(0.0, 1.0), &device);
    let build = |section: &Value, frames, seed| {
        build_model(&model(section.clone()), ModelInput { size, frames }, seed, &device).map(|(model, _)| model)
    };
    let one = build(&seeing("stack", "stem"), 3, 7).unwrap();
    write_head(dir.path(), &one, StoredAs::F32).unwrap();
    let mut section = finding_all("stack", "stem");
    section["decoder"]["pretrained"] = json!(dir.path());
    let mut several = build(&section, 3, 1).unwrap();
    several.backbone = one.backbone.clone();
    let (found, expected) = (logits(&several, &windows), logits(&one, &windows));
    assert_eq!(found.len(), 3 * expected.len());
    for map in found.chunks(expected.len()) {
        let apart = map.iter().zip(&expected).fold(0f32, |max, (a, b)| max.max((a - b).abs()));
        // The same sums of eight products, in another kernel.
        assert!(apart < 1e-5, "{apart}");
    }

    write_head(dir.path(), &several, StoredAs::F32).unwrap();
    let mut section = seeing("stack", "stem");
    section["decoder"]["pretrained"] = json!(dir.path());
    let error = build(&section, 3, 1).unwrap_err().to_string();
    for part in ["head.conv.bias: found [3], expected [1]", "data.sequence.length", "model.heatmap.frames"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn further_heatmaps_take_memory() {
    let (dir, device) = (tempfile::tempdir().unwrap(), Device::flex().autodiff());
    let peak = |section: Value| {
        let config = with_windows(dir.path(), "out", section, json!({}));
        let (model, _) = build_model(&config.model, &config.data, 1, &device).unwrap();
        training_peak(&config, &model, &Compute::new(&Device::flex()), 4)
    };
    let heatmap = 4 * 32 * 24;
    assert!(peak(finding_all("stack", "stem")) >= peak(seeing("stack", "stem")) + 2 * 10 * heatmap);
}

#[test]
fn a_stream_has_the_heatmaps_of_the_same_windows_in_one_go() {
    let dir = tempfile::tempdir().unwrap();
    let config = with_windows(dir.path(), "out", finding_all("stack", "patches"), json!({}));
    let (model, build) = build_model(&config.model, &config.data, 1, &Device::flex()).unwrap();
    let predictor = Predictor::new(&model, &build, &config, &Device::flex());
    write_clip(dir.path(), "Clip1", &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 19, 18, 17, 16, 15, 14, 13, 12, 11, 10], |_| true);
    let clip = dir.path().join("game1/Clip1");
    let mut files: Vec<_> = fs::read_dir(&clip).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "png"));
    files.sort();
    let heatmaps = |files: &[std::path::PathBuf]| {
        let mut found = Vec::new();
        let mut take = |predicted: tracknet::inference::Predicted| {
            if let tracknet::inference::Predicted::Frame(result) = predicted {
                assert_eq!(result.prediction.frame, found.len() as u64);
                found.push(result.heatmap);
            }
            Ok(())
        };
        assert_eq!(predictor.files(files, &mut take).unwrap(), files.len() as u64);
        found
    };
    let stream = heatmaps(&files);
    assert_eq!(stream.len(), 20);
    // In one go: the windows of the loader through the model.
    let data = Dataset::open(dir.path(), config.data.format, &["game1".to_owned()], true).unwrap();
    let spec = BatchSpec::new(&config, build.normalization());
    let loader = BatchLoader::new(data.frames(), spec.clone(), 7, non_overlapping()).unwrap();
    let batch = loader.epoch(0).next().unwrap().unwrap();
    let shape = shape_of(&spec);
    let images = shape.tensors(&batch, 0..7, &Device::flex()).unwrap().images;
    let mut values: Vec<f32> = model.predict(images).into_data().try_to_vec().unwrap();
    tracknet::evaluation::Activation::from(config.training.loss.name).apply(&mut values);
    assert_eq!(batch.samples.len(), 20);
    for info in &batch.samples {
        assert!(heatmap(&values, info) == stream[info.number], "{}", info.frame);
    }
    // Files of several directories are clips of their own, whole or not.
    write_clip(dir.path(), "Clip2", &[30, 31], |_| true);
    let other = dir.path().join("game1/Clip2");
    let others = ["00.png", "01.png"].map(|file| other.join(file));
    let mixed = [&files[..4], &others[..], &files[..4]].concat();
    let [four, two] = [heatmaps(&files[..4]), heatmaps(&others)];
    assert!(heatmaps(&mixed) == [four.clone(), two, four].concat());
    assert_eq!(spec.window, FrameWindow { length: 3, stride: 1 });
}

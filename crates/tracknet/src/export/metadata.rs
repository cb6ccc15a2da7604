//! What has to be done before and after an ONNX file computes, as its metadata: keys with texts, JSON where there is more to say.

use serde_json::{Value, json};

use crate::artifacts::LoadedModel;
use crate::config::HeatmapFrames;
use crate::datasets::BatchSpec;
use crate::evaluation::{Activation, DecodeOptions, MetricOptions};

/// The version of these keys and their values.
const FORMAT_VERSION: &str = "1";

/// What a file says of itself.
#[derive(Debug)]
pub(super) struct Metadata {
    /// For people.
    pub(super) description: String,
    /// For programs.
    pub(super) entries: Vec<(&'static str, String)>,
}

/// The metadata of the model of a run.
pub(super) fn of(loaded: &LoadedModel) -> Metadata {
    let (config, state) = (&loaded.config, &loaded.checkpoint.state);
    let spec = BatchSpec::new(config, loaded.build.normalization());
    let activation = Activation::from(config.training.loss.name);
    let entries = vec![
        ("format_version", FORMAT_VERSION.to_owned()),
        ("tracknet_version", env!("CARGO_PKG_VERSION").to_owned()),
        ("run", json!({ "id": state.run_id, "epochs": state.epoch, "steps": state.step }).to_string()),
        ("input", input(&spec).to_string()),
        ("preprocess", preprocess(&spec).to_string()),
        ("window", window(&spec).to_string()),
        ("output", output(&spec, activation).to_string()),
        ("postprocess", postprocess(&spec).to_string()),
        ("score_shift", state.score_shift.unwrap_or_default().to_string()),
        ("training", training(loaded).to_string()),
    ];
    Metadata { description: description(&spec), entries }
}

fn description(spec: &BatchSpec) -> String {
    let ([width, height], [columns, rows]) = (spec.input_size, spec.heatmap_size);
    format!(
        "Finds the ball in sports video. `frames` [batch, {}, {height}, {width}] are windows of {} normalized RGB frames, oldest \
         first; `heatmaps` [batch, {}, {rows}, {columns}] hold values from 0 to 1 that are high where the ball is. The metadata \
         says how frames are prepared (preprocess, window) and how heatmaps become positions (postprocess).",
        3 * spec.window.length,
        spec.window.length,
        spec.heatmaps(),
    )
}

fn input(spec: &BatchSpec) -> Value {
    let [width, height] = spec.input_size;
    json!({
        "name": "frames", "dtype": "float32", "layout": "NCHW", "width": width, "height": height,
        "channels": "red, green, blue of each frame, oldest frame first"
    })
}

fn preprocess(spec: &BatchSpec) -> Value {
    let (mean, std) = if spec.normalize { (spec.mean, spec.std) } else { ([0.0; 3], [1.0; 3]) };
    json!({
        "color": "RGB", "orientation": "upright, as EXIF says", "resize": spec.input_size,
        "filter": "bilinear, its support widened by the shrink factor (antialiased): Pillow's BILINEAR",
        "keep_aspect_ratio": false, "scale": "1/255", "mean": mean.map(decimal), "std": std.map(decimal),
        "formula": "(pixel / 255 - mean) / std"
    })
}

fn window(spec: &BatchSpec) -> Value {
    let length = spec.window.length;
    let heatmap_of: Vec<usize> = match spec.heatmap_frames {
        HeatmapFrames::All => (0..length).collect(),
        HeatmapFrames::Last => vec![length - 1],
    };
    json!({
        "length": length, "stride": spec.window.stride, "order": "oldest first",
        "heatmap_of": heatmap_of, "before_the_first_frame": "the first frame again",
        "repeated_frames": "a frame that shows what the one after it shows is left out of windows"
    })
}

fn output(spec: &BatchSpec, activation: Activation) -> Value {
    let [width, height] = spec.heatmap_size;
    json!({
        "name": "heatmaps", "dtype": "float32", "layout": "NCHW", "width": width, "height": height,
        "channels": "one heatmap for each frame in window.heatmap_of", "activation": activation, "range": [0, 1]
    })
}

fn postprocess(spec: &BatchSpec) -> Value {
    let [width, height] = spec.heatmap_size;
    let DecodeOptions { method, threshold: lowest, relative_support, choice } = DecodeOptions::default();
    json!({
        "method": method, "choice": choice, "lowest": decimal(lowest), "relative_support": decimal(relative_support),
        "connectivity": 8, "threshold": decimal(MetricOptions::default().threshold),
        "rule": "pixels of at least max(lowest, relative_support * highest value) form connected components; the ball is the one \
                 with the highest peak, its position the mean of its pixels weighted by their values, its score the peak; it is \
                 there if the score is at least threshold",
        "to_native": { "x": format!("x * frame width / {width}"), "y": format!("y * frame height / {height}") }
    })
}

fn training(loaded: &LoadedModel) -> Value {
    let (config, state) = (&loaded.config, &loaded.checkpoint.state);
    json!({
        "data": super::card::data_name(config),
        "train_games": config.data.split.train_games, "val_games": config.data.split.val_games,
        "frames": state.frames.as_ref().map(|frames| frames.count),
        "loss": config.training.loss.name.name(), "seed": state.seed
    })
}

/// A float with the digits that it was written with: 0.485, not 0.48500001430511475.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

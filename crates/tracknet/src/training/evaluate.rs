//! Frames → heatmaps → outcomes → metrics: validation while training, `tracknet eval`, and the end of a run.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::module::Module;
use burn::tensor::Device;

use crate::artifacts::BuildReport;
use crate::compute::{Compute, DeviceError, MicroBatches};
use crate::config::Config;
use crate::console;
use crate::datasets::{Batch, BatchLoader, BatchSpec, LoaderOptions};
use crate::error::Result;
use crate::evaluation::{Activation, DecodeOptions, EvaluationReport, FrameOutcome, MetricOptions};
use crate::models::HeatmapModel;

use super::TrainingError;
use super::loaders::{loader_options, open_checked, shape_of};
use super::loss::{HeatmapLoss, MIN_MASK_WEIGHT};
use super::staging::mask_weight;
use super::tracks::Tracks;

/// How detections are found and counted.
#[derive(Debug, Clone, Default)]
pub struct EvaluateOptions {
    /// From heatmap to detection.
    pub decode: DecodeOptions,
    /// From detections to metrics, along a trajectory if they say so.
    pub metrics: MetricOptions,
    /// At most this many batches; 0 = all.
    pub limit_batches: usize,
}

/// What an evaluation found.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// Mean loss over the mask.
    pub loss: f64,
    /// Every metric, in total and by game.
    pub report: EvaluationReport,
    /// What became of each frame, in order.
    pub outcomes: Vec<FrameOutcome>,
}

/// Evaluates `model` on games of the configuration's dataset. `build` is the report of the model's build: it knows the
/// normalization of the checkpoint. Frames whose label lies outside the image or whose image has no readable header are
/// left out; a note on standard error lists them, and labels that cannot be true as a whole.
///
/// # Errors
/// If a game is missing, no frame can be read (or one, with `data.on_bad_frame: error`), or the model gives values that are not finite.
pub fn evaluate(
    model: &HeatmapModel,
    build: &BuildReport,
    config: &Config,
    games: &[String],
    device: &Device,
    options: &EvaluateOptions,
) -> Result<Evaluation> {
    let data = open_checked(config, "the evaluation", games)?;
    if !data.report.is_clean() {
        console::note(format_args!("the labels of this evaluation: {}", data.report.findings().trim_end()));
    }
    let loader_options =
        LoaderOptions { limit: options.limit_batches, cache_bytes: 0, non_overlapping: true, ..loader_options(config) };
    let spec = BatchSpec::new(config, build.normalization());
    check_windows(model, &spec)?;
    let loader = BatchLoader::new(data.frames(), spec, config.training.batch_size, loader_options)?;
    let no_stop = AtomicBool::new(false);
    let compute = Compute::new(device);
    let evaluator = Evaluator { model: &model.valid(), config, compute: &compute, options, stop: &no_stop };
    let evaluation = evaluator.over(&loader, |_, _| Ok(()))?;
    evaluation.ok_or_else(|| TrainingError::Mismatch("the evaluation was stopped".to_owned()).into())
}

/// Refuses windows that the model was not built for: they are cut by the configuration.
fn check_windows(model: &HeatmapModel, spec: &BatchSpec) -> Result<()> {
    let window = model.window.spec();
    let (found, expected) = ((spec.window.length, spec.heatmaps()), (window.frames, window.heatmaps()));
    if found == expected {
        return Ok(());
    }
    let problem = format!(
        "data.sequence and model.heatmap.frames make windows of {} frames with {} heatmaps, but the model was built for {} and \
         {}: leave them as they were",
        found.0, found.1, expected.0, expected.1
    );
    Err(TrainingError::Mismatch(problem).into())
}

/// A model with everything that its evaluation on a loader needs.
pub(super) struct Evaluator<'a> {
    /// The model, without autodiff.
    pub(super) model: &'a HeatmapModel,
    pub(super) config: &'a Config,
    pub(super) compute: &'a Compute,
    pub(super) options: &'a EvaluateOptions,
    pub(super) stop: &'a AtomicBool,
}

impl Evaluator<'_> {
    /// Evaluates every batch; `first` sees the first batch and its activated heatmaps. `None` if the stop flag was set.
    pub(super) fn over(
        &self,
        loader: &BatchLoader,
        first: impl FnOnce(&Batch, &[f32]) -> Result<()>,
    ) -> Result<Option<Evaluation>> {
        let mut first = Some(first);
        let mut outcomes = Vec::with_capacity(loader.samples());
        let (mut loss, mut weight) = (0.0, 0.0);
        let track = self.options.metrics.track.clone();
        let mut tracks = track.map(|track| Tracks::new(track, &self.options.decode)).transpose()?;
        for batch in loader.epoch(0) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            let batch = batch?;
            if batch.size == 0 {
                continue;
            }
            let (heatmaps, loss_sum) = self.heatmaps(&batch, loader)?;
            loss += loss_sum;
            weight += mask_weight(&batch);
            let pixels = loader.spec().heatmap_size.iter().product::<usize>();
            for info in &batch.samples {
                let heatmap = &heatmaps[info.heatmap * pixels..][..pixels];
                outcomes.push((info.number, FrameOutcome::from_heatmap(info, heatmap, &self.options.decode)?));
                if let Some(tracks) = &mut tracks {
                    tracks.push(&batch, info, heatmap, loader.spec())?;
                }
            }
            if let Some(first) = first.take() {
                first(&batch, &heatmaps)?;
            }
        }
        // Windows of frames that are apart come one after another.
        outcomes.sort_by_key(|(number, _)| *number);
        let mut outcomes: Vec<FrameOutcome> = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        let tracked = tracks.map_or_else(Vec::new, Tracks::finish);
        for (outcome, tracked) in outcomes.iter_mut().zip(tracked) {
            outcome.detection = tracked.map(|tracked| tracked.detection);
        }
        let report = EvaluationReport::from_outcomes(&outcomes, &self.options.metrics);
        let report = EvaluationReport { bad_frames: loader.bad_frames(), ..report };
        Ok(Some(Evaluation { loss: loss / weight.max(MIN_MASK_WEIGHT), report, outcomes }))
    }

    /// Activated heatmaps `[batch, heatmaps, height, width]` and `Σ(l·m)` of a batch.
    fn heatmaps(&self, batch: &Batch, loader: &BatchLoader) -> Result<(Vec<f32>, f64)> {
        let shape = shape_of(loader.spec());
        let loss = HeatmapLoss::from(&self.config.training.loss);
        let mut heatmaps = Vec::with_capacity(batch.targets.len());
        let mut sum = 0.0;
        let parts = MicroBatches::to_predict(batch.size, self.compute).map(|_, frames| -> Result<_> {
            let chunk = shape.tensors(batch, frames, self.compute.device())?;
            let logits = self.model.forward(chunk.images);
            let sum = loss.sum(logits.clone(), chunk.targets, chunk.masks, 1.0)?.sum;
            let values = logits.try_into_vec_as::<f32>().map_err(|e| DeviceError::new("heatmap", e))?;
            Ok((values, sum))
        })?;
        for (values, part_sum) in parts {
            heatmaps.extend(values);
            sum += part_sum;
        }
        Activation::from(self.config.training.loss.name).apply(&mut heatmaps);
        Ok((heatmaps, sum))
    }
}

impl Evaluation {
    /// The numbers by name, for logs and for the watched metric; NaN where there is none.
    pub fn metrics(&self, prefix: &str) -> BTreeMap<String, f64> {
        let total = &self.report.total;
        let detection = &total.detection;
        let mut values = vec![
            ("loss".to_owned(), Some(self.loss)),
            ("f1".to_owned(), detection.f1),
            ("precision".to_owned(), detection.precision),
            ("recall".to_owned(), detection.recall),
            ("strict_recall".to_owned(), detection.strict_recall),
            ("accuracy".to_owned(), detection.accuracy),
            ("ap".to_owned(), detection.average_precision),
            ("rmse".to_owned(), detection.rmse),
            ("best_f1".to_owned(), total.best.as_ref().and_then(|b| b.f1)),
            ("best_threshold".to_owned(), total.best.as_ref().map(|b| f64::from(b.threshold))),
        ];
        for (kind, points) in [("argmax", &total.heatmap.argmax), ("soft_argmax", &total.heatmap.soft_argmax)] {
            values.push((format!("{kind}_l2"), points.mean_l2));
            for (radius, share) in self.report.options.pck_radii.iter().zip(&points.pck) {
                values.push((format!("{kind}_pck@{radius}"), *share));
            }
        }
        values.into_iter().map(|(name, value)| (format!("{prefix}{name}"), value.unwrap_or(f64::NAN))).collect()
    }

    /// Names of the metrics that a run logs.
    pub fn metric_names(prefix: &str) -> Vec<String> {
        let report = EvaluationReport::from_outcomes(&[], &MetricOptions::default());
        let empty = Self { loss: 0.0, report, outcomes: Vec::new() };
        empty.metrics(prefix).into_keys().collect()
    }
}

//! The end of an epoch: validation, what is best so far, checkpoints.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;

use crate::artifacts::run::weights::write_weights;
use crate::artifacts::run::{HostTensors, RunState, write_checkpoint};
use crate::datasets::{Batch, BatchLoader};
use crate::error::Result;
use crate::evaluation::Diagnosis;
use crate::training::evaluate::{EvaluateOptions, Evaluation, Evaluator};
use crate::training::logging::RowKind;
use crate::training::monitor::{MonitorStatus, STAND_IN};
use crate::training::optimizer::Part;

use super::overlays::write_overlays;
use super::{METRICS, TrainingRun, position};

impl TrainingRun<'_> {
    /// Validates, logs, decides what is best, writes the checkpoints. Returns whether the stop flag ended it before
    /// the epoch was closed.
    pub(super) fn close_epoch(&mut self) -> Result<bool> {
        let clock = Instant::now();
        let Some(mut metrics) = self.validate()? else { return Ok(true) };
        metrics.insert(STAND_IN.to_owned(), self.mean_loss());
        let open = self.state.clone();
        let epoch = open.epoch;
        let status = self.state.monitor.judge(&self.config.training.early_stopping, epoch, &metrics);
        self.reporter.epoch(&self.summary(&metrics, status));
        let mut row: Vec<(&str, f64)> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        row.push(("seconds", clock.elapsed().as_secs_f64()));
        let logged = self.log.write(RowKind::Epoch, epoch, self.state.step, &row);
        self.tolerate(METRICS, logged);
        let finite = |value: f64| value.is_finite().then_some(value);
        self.state = RunState {
            epoch: epoch + 1,
            batch: 0,
            epoch_loss_sum: 0.0,
            epoch_mask_sum: 0.0,
            metrics: metrics.into_iter().map(|(name, value)| (name, finite(value))).collect(),
            ..self.state.clone()
        };
        if let Err(error) = self.save_epoch(status) {
            // The epoch is closed when both checkpoints say so: a run that goes on closes it again.
            self.state = open;
            return Err(error);
        }
        Ok(false)
    }

    fn save_epoch(&mut self, status: MonitorStatus) -> Result<()> {
        if status == MonitorStatus::Best {
            self.save(&self.paths.best())?;
        }
        self.save(&self.paths.last())
    }

    /// Validation metrics, with overlays of the first batch; empty without validation games, `None` when stopped.
    fn validate(&mut self) -> Result<Option<BTreeMap<String, f64>>> {
        let Some(loader) = &self.loaders.validation else { return Ok(Some(BTreeMap::new())) };
        let (epoch, paths) = (self.state.epoch, &self.paths);
        let mut drawn = Ok(());
        let first_batch = |batch: &Batch, heatmaps: &[f32]| {
            let [pred, target] = ["pred", "target"].map(|kind| paths.overlays(kind, epoch));
            drawn = write_overlays(batch, heatmaps, loader.spec(), &pred, &target);
            Ok(())
        };
        let evaluation = self.run_over(loader, first_batch)?;
        self.tolerate("overlays of validation frames", drawn);
        self.note_bad_frames();
        if let Some(found) = evaluation.as_ref().and_then(|e| Diagnosis::of(&e.outcomes, &e.report.options)) {
            self.reporter.note(&format!("after {} steps no ball is found: {found}", self.state.step));
        }
        Ok(evaluation.map(|e| e.metrics("val/")))
    }

    pub(super) fn run_over(
        &self,
        loader: &BatchLoader,
        first: impl FnOnce(&Batch, &[f32]) -> Result<()>,
    ) -> Result<Option<Evaluation>> {
        let model = self.trainer.model.valid();
        let (options, stop) = (EvaluateOptions::default(), &self.stop);
        let compute = &self.trainer.compute;
        Evaluator { model: &model, config: self.config, compute, options: &options, stop }.over(loader, first)
    }

    pub(super) fn save(&mut self, dir: &Path) -> Result<()> {
        let optimizer = self.trainer.optimizer.to_tensors()?;
        let with_backbone = self.trainer.table.trains(Part::Backbone);
        let kept = self.write(dir, with_backbone, &self.config_yaml, &self.state, &optimizer)?;
        self.note_kept(dir, kept);
        if dir == self.paths.last() {
            self.saved = Some(position(&self.state));
        }
        Ok(())
    }

    /// Writes a checkpoint with the weights of the model. Returns where files went that the run did not write.
    pub(super) fn write(
        &self,
        dir: &Path,
        with_backbone: bool,
        config_yaml: &str,
        state: &RunState,
        optimizer: &HostTensors,
    ) -> Result<Option<PathBuf>> {
        write_checkpoint(dir, config_yaml, state, optimizer, |temporary| {
            write_weights(&self.trainer.model, with_backbone, self.adapter.as_ref(), temporary)
        })
    }

    pub(super) fn note_kept(&mut self, dir: &Path, kept: Option<PathBuf>) {
        if let Some(kept) = kept {
            self.reporter.note(&format!(
                "files in {} that the run did not write are now in {}",
                dir.display(),
                kept.display()
            ));
        }
    }

    /// The line of an epoch; a metric that is not defined, such as the recall without any ball, is a dash.
    fn summary(&self, metrics: &BTreeMap<String, f64>, status: MonitorStatus) -> String {
        let number = |v: f64| if v.is_nan() { "–".to_owned() } else { format!("{v:.5}") };
        let value = |name: &str| metrics.get(name).map_or(String::new(), |v| format!("  {name} {}", number(*v)));
        let shown: String = [STAND_IN, "val/loss", "val/f1", "val/precision", "val/recall"].map(value).concat();
        let best = match (status, &self.state.monitor.metric) {
            (MonitorStatus::Best, Some(metric)) if *metric != self.config.training.early_stopping.monitor => {
                format!("  best by {metric}")
            }
            (MonitorStatus::Best, _) => "  best".to_owned(),
            _ => String::new(),
        };
        format!("epoch {}/{}{shown}{best}", self.state.epoch + 1, self.config.training.epochs)
    }
}

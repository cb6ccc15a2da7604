//! The end of a run: the best weights, or what can be saved after an error.

use crate::artifacts::build_model;
use crate::artifacts::run::weights::{load_weights, section_of};
use crate::artifacts::run::{Checkpoint, RunState};
use crate::datasets::BatchLoader;
use crate::error::{Error, IoContext, Result};
use crate::evaluation::Calibration;
use crate::evaluation::report::EVALUATION_FILE;
use crate::models::HeatmapModel;
use crate::models::memory::bytes;
use crate::training::TrainingError;
use crate::training::evaluate::Evaluation;

use super::{Outcome, TrainingRun, position};

impl TrainingRun<'_> {
    /// Saves what was done before an error. A step changes nothing before it is known to be sound, so the model is that of
    /// the last step.
    pub(super) fn rescue(&mut self, cause: Error) -> Error {
        let step = self.state.step;
        if step == 0 {
            return cause;
        }
        if self.saved == Some(position(&self.state)) {
            return self.saved(cause);
        }
        match self.save(&self.paths.last()) {
            Ok(()) => self.saved(cause),
            Err(problem) => {
                let cause = Box::new(cause);
                let (problem, checkpoints) = (Box::new(problem), self.paths.checkpoints.clone());
                TrainingError::NotSaved { cause, step, problem, checkpoints }.into()
            }
        }
    }

    pub(super) fn saved(&self, cause: Error) -> Error {
        let (step, run) = (self.state.step, self.paths.root.clone());
        TrainingError::Saved { cause: Box::new(cause), step, run }.into()
    }

    /// Ends the run: the best weights, evaluated on the validation games. The stop flag ends the evaluation, too; a
    /// resumed run makes up for it.
    pub(super) fn evaluate_best(&mut self, outcome: Outcome) -> Result<(Outcome, Option<Evaluation>)> {
        if let Some(peak) = self.device_memory {
            self.reporter.report(&format!("peak memory on the device: {}", bytes(peak as usize)));
        }
        if outcome == Outcome::Interrupted {
            return Ok((outcome, None));
        }
        let best = self.paths.best();
        let best = best.try_exists().at(&best)?.then(|| Checkpoint::open(&best)).transpose()?;
        if let Some(best) = &best {
            if best.state.base.is_some() && self.state.base.is_none() {
                // It is from before the epochs were raised, when the backbone was not to train.
                self.trainer.model.backbone = self.built(best)?.backbone;
            }
            self.trainer.model = load_weights(self.trainer.model.clone(), self.adapter.as_ref(), best)?;
        }
        if let Some(chosen) = self.chosen() {
            self.reporter.report(&chosen);
        }
        let Some(loader) = self.loaders.validation.clone() else { return Ok((outcome, None)) };
        let evaluation = self.run_over(&loader, |_, _| Ok(()))?;
        let evaluation = match (evaluation, best) {
            (Some(evaluation), Some(best)) if self.config.training.calibrate => {
                self.calibrate(&loader, best, evaluation)?
            }
            (evaluation, _) => evaluation,
        };
        let Some(evaluation) = evaluation else { return Ok((Outcome::Interrupted, None)) };
        let written = evaluation.report.write_json(&self.paths.root.join(EVALUATION_FILE));
        self.tolerate(EVALUATION_FILE, written);
        Ok((outcome, Some(evaluation)))
    }

    /// Moves the scores of the model, which has the weights of the best checkpoint and was found to be like `before`, to where
    /// the validation games ask for them, and writes by how much into that checkpoint. The weights there stay as they were
    /// trained. Higher values in a heatmap make peaks wider, so that positions change a little: the scores stay where that
    /// costs more than it brings. Returns the evaluation of the model as it is then; `None` if the stop flag ended it.
    fn calibrate(&mut self, loader: &BatchLoader, best: Checkpoint, before: Evaluation) -> Result<Option<Evaluation>> {
        let trained = self.trainer.model.head.clone();
        let f1 = |evaluation: &Evaluation| evaluation.report.total.detection.f1.unwrap_or(0.0);
        let (mut kept, mut evaluation) = (None, before);
        if let Some(found) = Calibration::of(&evaluation.outcomes, &evaluation.report.options) {
            self.trainer.model.head = trained.clone().shifted(found.shift);
            let moved = self.run_over(loader, |_, _| Ok(()));
            self.trainer.model.head = trained.clone();
            let Some(moved) = moved? else { return Ok(None) };
            let helps = f1(&moved) >= f1(&evaluation);
            let verdict = if helps { "moved" } else { "not moved" };
            self.reporter.report(&format!(
                "scores: on the validation games 0.5 gives an F1 of {:.3}, and {:.3} after moving logits by {:+.2}: {verdict}",
                f1(&evaluation),
                f1(&moved),
                found.shift
            ));
            if helps {
                (kept, evaluation) = (Some(found.shift), moved);
            }
        }
        if best.state.score_shift != kept {
            let (config_yaml, optimizer, with_backbone) =
                (best.config_yaml()?, best.optimizer()?, best.backbone_dir().is_some());
            let state = RunState { score_shift: kept, ..best.state };
            let kept_files = self.write(&best.dir, with_backbone, &config_yaml, &state, &optimizer)?;
            self.note_kept(&best.dir, kept_files);
        }
        if let Some(shift) = kept {
            self.trainer.model.head = trained.shifted(shift);
        }
        Ok(Some(evaluation))
    }

    /// The model of a checkpoint as it is built, before its weights are loaded.
    fn built(&self, checkpoint: &Checkpoint) -> Result<HeatmapModel> {
        let (section, training) = (section_of(self.config, checkpoint), &self.config.training);
        let data = &self.config.data;
        Ok(build_model(&section, data, training.seed, &self.trainer.compute.training_device())?.0)
    }

    /// Which epoch is the best, and by which metric.
    fn chosen(&self) -> Option<String> {
        let monitor = &self.state.monitor;
        let (epoch, metric, value) = (monitor.best_epoch?, monitor.metric.as_deref()?, monitor.best?);
        let watched = &self.config.training.early_stopping.monitor;
        let why = match metric == watched {
            true => String::new(),
            false => format!(", which stands in for {watched}: it never had a value"),
        };
        Some(format!("best checkpoint: epoch {}, with {metric} {value:.5}{why}", epoch + 1))
    }
}

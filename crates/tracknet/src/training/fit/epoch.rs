//! The steps of an epoch.

use std::time::Instant;

use crate::error::Result;
use crate::models::memory::bytes;
use crate::training::freeze;
use crate::training::logging::RowKind;
use crate::training::reporter::StepProgress;
use crate::training::trainer::StepReport;

use super::{METRICS, MIN_MASK_WEIGHT, TrainingRun, setup};

impl TrainingRun<'_> {
    /// Switches gradients on or off by the freeze schedule, and fits the micro-batch to what then trains.
    pub(super) fn unfreeze(&mut self) -> Result<()> {
        let (epoch, trainer) = (self.state.epoch, &mut self.trainer);
        trainer.model = freeze::activate(self.config, &trainer.table, trainer.model.clone(), epoch);
        if trainer.micro_batch.is_some() && epoch != self.config.training.backbone_freeze_epochs {
            return Ok(());
        }
        let chosen = setup::micro_batch(self.config, trainer)?;
        if let Some(note) = chosen.note {
            self.reporter.note(&note);
        }
        let peak = bytes(setup::training_peak(self.config, &trainer.model, &trainer.compute, chosen.size));
        self.reporter.report(&format!("micro-batches of {} frames, estimated peak memory {peak}", chosen.size));
        trainer.micro_batch = Some(chosen.size);
        Ok(())
    }

    /// Trains on the batches of the epoch that are left. Returns whether the stop flag ended it.
    pub(super) fn train_epoch(&mut self) -> Result<bool> {
        let epoch = self.state.epoch;
        let clock = Instant::now();
        let mut frames = 0;
        let batches = self.loaders.train.epoch_from(epoch as u64, self.state.batch);
        for batch in self.staging.stage(batches) {
            if self.is_stopped() {
                return Ok(true);
            }
            let mut batch = batch?;
            self.note_bad_frames();
            let factor = self.schedule.factor(epoch, self.state.batch);
            let report = self.step(&mut batch, factor)?;
            frames += batch.size;
            self.count(&report);
            self.log_step(&report, factor, frames as f64 / clock.elapsed().as_secs_f64().max(1e-9), batch.size);
        }
        Ok(self.is_stopped())
    }

    /// Moves the position past a step.
    fn count(&mut self, report: &StepReport) {
        let state = &mut self.state;
        state.loss_scale = self.trainer.loss_scale;
        state.step += 1;
        state.batch += 1;
        match report.note(state.step) {
            Some(note) => {
                state.skipped_steps += 1;
                self.reporter.note(&note);
            }
            None => {
                state.epoch_loss_sum += report.loss_sum;
                state.epoch_mask_sum += report.weight;
            }
        }
    }

    fn log_step(&mut self, report: &StepReport, factor: f64, frames_per_s: f64, batch_size: usize) {
        self.device_memory = self.trainer.compute.device_memory().max(self.device_memory);
        let state = &self.state;
        let lr = self.config.training.optimizer.lr * factor;
        let values = [
            ("lr", lr),
            ("train/loss", report.loss_sum / report.weight.max(MIN_MASK_WEIGHT)),
            ("grad_norm", report.grad_norm.unwrap_or(f64::NAN)),
            ("skipped_steps", state.skipped_steps as f64),
            ("frames_per_s", frames_per_s),
        ];
        let logged = self.log.write(RowKind::Step, state.epoch, state.step, &values);
        self.tolerate(METRICS, logged);
        let state = &self.state;
        let batches = self.loaders.train.batches();
        self.reporter.step(&StepProgress {
            epoch: state.epoch,
            epochs: self.config.training.epochs,
            batch: state.batch,
            batches,
            loss: self.mean_loss(),
            lr,
            frames_per_s,
            eta_s: (batches.saturating_sub(state.batch) * batch_size) as f64 / frames_per_s,
            device_memory: self.device_memory,
        });
    }
}

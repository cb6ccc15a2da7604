//! A step on a device whose memory may not be enough: the same step again, with less in it at once.

use crate::config::{BatchNormalized, TrainingConfig};
use crate::error::{Error, Result};
use crate::training::TrainingError;
use crate::training::staging::StagedBatch;
use crate::training::trainer::StepReport;

use super::TrainingRun;

impl TrainingRun<'_> {
    /// One step; if the device has no memory for it, the same step with smaller micro-batches. A step changes nothing
    /// before its gradients are known to be there.
    pub(super) fn step(&mut self, batch: &mut StagedBatch, factor: f64) -> Result<StepReport> {
        if batch.size == 0 {
            // None of its frames could be read: nothing to learn, and nothing to forget by.
            return Ok(StepReport { loss_sum: 0.0, weight: 0.0, grad_norm: None, skipped: None });
        }
        let mut retries = self.config.training.oom_retries;
        loop {
            let result = self.trainer.step(batch, self.state.step, factor);
            let problem = match &result {
                Err(Error::Device(error)) => error.out_of_memory().map(str::to_owned),
                _ => None,
            };
            let Some(problem) = problem else { return result };
            self.trainer.table.abandon_graph(&self.trainer.model);
            let was_uploaded = batch.unload();
            self.trainer.compute.device().memory_cleanup();
            if was_uploaded && self.staging.keeps_on_host() {
                // It was copied, or not quite, before room for whole batches was given up.
                continue;
            }
            self.staging.keep_on_host();
            let size = self.trainer.micro_batch.unwrap_or(batch.size).min(batch.size);
            let smaller = smaller(&self.config.training, size);
            if let Some(limit) = self.limit(size, smaller, retries) {
                return Err(TrainingError::OutOfDeviceMemory { micro_batch: size, problem, limit }.into());
            }
            retries -= 1;
            self.trainer.micro_batch = Some(smaller);
            self.reporter.note(&format!(
                "the device had no memory for a micro-batch of {size}: running micro-batches of {smaller} (the gradient \
                 stays that of the whole batch)"
            ));
        }
    }

    /// Why a micro-batch of `size` frames is not to be made smaller.
    fn limit(&self, size: usize, smaller: usize, retries: usize) -> Option<String> {
        let training = &self.config.training;
        if let Some(BatchNormalized { setting, .. }) = self.config.model.batch_normalized() {
            Some(format!("{setting} takes its statistics over the whole batch"))
        } else if !training.adaptive_micro_batch {
            Some("training.adaptive_micro_batch is off".to_owned())
        } else if smaller >= size {
            Some(format!("training.min_micro_batch_size is {smaller}"))
        } else if retries == 0 {
            Some(format!("training.oom_retries is {}", training.oom_retries))
        } else {
            None
        }
    }
}

/// The micro-batch to try after one of `size` frames.
fn smaller(training: &TrainingConfig, size: usize) -> usize {
    (size / training.mb_backoff_factor.max(2)).max(training.min_micro_batch_size.max(1))
}

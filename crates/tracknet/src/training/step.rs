//! One optimizer step: micro-batches forward and backward, check, clip, update.
//!
//! Dropout is a function of the run's seed and the step's number, so that a resumed run draws what it would have
//! drawn. The gradients of micro-batches add up to the gradient of the whole batch, because every chunk is divided
//! by the mask weight of the whole batch. Logits are brought to float32 before the loss, whatever the frames were in.

use std::collections::BTreeMap;

use burn::module::Module;
use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::artifacts::run::{LossScale, RunState};
use crate::config::TrainingConfig;
use crate::error::Result;
use crate::models::state::{Require, load_state, named_parameters, state_dict};
use crate::models::{HeatmapModel, ModelError};
use crate::parallel::Pieces;
use crate::random;

use super::gradients::{GradientGuard, NamedGradients, clip_limit};
use super::loss::HeatmapLoss;
use super::optimizer::{NamedOptimizer, StepFactors};
use super::parameters::ParameterTable;
use super::precision::compute_dtype;
use super::staging::StagedBatch;

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// `Σ(l·m)` of the batch before the update.
    pub loss_sum: f64,
    /// `Σm` of the batch.
    pub mask_sum: f64,
    /// Global norm of the gradients before clipping; `None` if the step was skipped.
    pub grad_norm: Option<f64>,
    /// Why nothing was updated: the loss, or the gradient of the named parameter, was not finite.
    pub skipped: Option<String>,
}

/// What stays the same from step to step.
#[derive(Debug, Clone)]
pub struct Stepper {
    /// The loss.
    pub loss: HeatmapLoss,
    /// Frames per forward pass; `None` until it was fitted to the memory: the whole batch.
    pub micro_batch: Option<usize>,
    /// Whether pieces of a micro-batch run side by side: on the CPU, where nothing couples the frames of a batch.
    pub parallel: bool,
    /// Where the model trains, with autodiff.
    pub device: Device,
    /// What the model computes in.
    pub dtype: DType,
    /// In float16, what the loss is multiplied by before the backward pass.
    pub loss_scale: Option<LossScale>,
    seed: u64,
    guard: GradientGuard,
}

impl Stepper {
    /// From the `training` section; `device` must be one with autodiff.
    pub fn new(config: &TrainingConfig, device: &Device) -> Self {
        let dtype = compute_dtype(config.precision, device);
        Self {
            loss: HeatmapLoss::from(&config.loss),
            micro_batch: None,
            parallel: false,
            device: device.clone(),
            dtype,
            loss_scale: (dtype == DType::F16).then(LossScale::start),
            seed: config.seed,
            guard: GradientGuard::new(clip_limit(config.grad_clip, config.grad_clip_norm)),
        }
    }

    /// The same with the loss scale of a run that is continued.
    #[must_use]
    pub fn continuing(self, state: &RunState) -> Self {
        let loss_scale = self.loss_scale.map(|start| state.loss_scale.unwrap_or(start));
        Self { loss_scale, ..self }
    }

    /// The same with pieces side by side, or not.
    #[must_use]
    pub fn side_by_side(self, parallel: bool) -> Self {
        Self { parallel, ..self }
    }

    /// Trains on one batch. `step` counts optimizer steps of the run from 0; `factor` is the schedule's.
    ///
    /// A loss or gradient that is not finite leaves model and optimizer as they are, and so does an error.
    ///
    /// # Errors
    /// After [`MAX_NON_FINITE`](super::MAX_NON_FINITE) such steps in a row, not counting those after which the loss scale
    /// could still fall, or if shapes do not fit or the backend fails.
    pub fn step(
        &mut self,
        model: &mut HeatmapModel,
        batch: &StagedBatch,
        table: &ParameterTable,
        optimizer: &mut NamedOptimizer,
        step: u64,
        factor: f64,
    ) -> Result<StepReport> {
        let statistics = running_statistics(model);
        let result = self.update(model, batch, table, optimizer, step, factor);
        if !matches!(&result, Ok(report) if report.skipped.is_none()) {
            put_back(model, statistics)?;
        }
        result
    }

    /// As [`Stepper::step`], but for what the forward pass itself changes.
    fn update(
        &mut self,
        model: &mut HeatmapModel,
        batch: &StagedBatch,
        table: &ParameterTable,
        optimizer: &mut NamedOptimizer,
        step: u64,
        factor: f64,
    ) -> Result<StepReport> {
        let (gradients, mut report) = self.gradients(model, batch, table, step)?;
        let can_fall = self.loss_scale.is_some_and(LossScale::can_fall);
        let admitted = self.guard.admit(&gradients, report.loss_sum, step, can_fall)?;
        self.loss_scale = self.loss_scale.map(|scale| scale.after(admitted.is_ok()));
        match admitted {
            Err(what) => report.skipped = Some(what),
            Ok(admitted) => {
                report.grad_norm = Some(admitted.norm);
                let factors = StepFactors { lr: factor, gradient: admitted.factor };
                *model = table.update(model.clone(), gradients, |parameter, value, gradient| {
                    optimizer.update(&parameter.name, parameter.kind, factors, value, gradient)
                });
            }
        }
        Ok(report)
    }

    /// Loss and gradients of a batch, without an update.
    ///
    /// # Errors
    /// If shapes do not fit or the backend fails.
    pub fn gradients(
        &self,
        model: &HeatmapModel,
        batch: &StagedBatch,
        table: &ParameterTable,
        step: u64,
    ) -> Result<(NamedGradients, StepReport)> {
        let mask_sum = batch.mask_sum;
        let scale = self.loss_scale.map_or(1.0, |scale| scale.scale);
        let pieces = Pieces::to_train(batch.size, self.micro_batch, self.parallel);
        let (mut sum, loss_sum) = pieces.add_up(|index, frames| {
            let model = if pieces.forks() { model.fork_for_piece(&self.device) } else { model.clone() };
            model.seed_dropout(seed_of(seed_of(self.seed, step), index as u64));
            let chunk = batch.tensors(frames)?;
            let logits = in_dtype(model.forward(in_dtype(chunk.images, self.dtype)), DType::F32);
            let loss = self.loss.sum(logits, chunk.targets, chunk.masks, mask_sum)?;
            let scaled = if scale == 1.0 { loss.scaled } else { loss.scaled.mul_scalar(scale) };
            Ok((table.gradients(&model, &mut scaled.backward()), loss.sum))
        })?;
        if scale != 1.0 {
            sum.multiply(1.0 / scale);
        }
        Ok((sum, StepReport { loss_sum, mask_sum, grad_norm: None, skipped: None }))
    }
}

/// The running statistics of batch normalization, which a forward pass moves; empty for other models.
fn running_statistics(model: &HeatmapModel) -> BTreeMap<String, TensorData> {
    let is_statistic = |name: &str| name.ends_with(".running_mean") || name.ends_with(".running_var");
    if !named_parameters(model).iter().any(|p| is_statistic(&p.name)) {
        return BTreeMap::new();
    }
    state_dict(model, |p| is_statistic(&p.name))
}

/// Undoes what a step that came to nothing did to the running statistics.
fn put_back(model: &mut HeatmapModel, statistics: BTreeMap<String, TensorData>) -> Result<(), ModelError> {
    if !statistics.is_empty() {
        // Burn holds back the last update, which would come after this one; `valid` asks for it.
        let _ = model.valid();
        *model = load_state(model.clone(), statistics, Require::Nothing)?;
    }
    Ok(())
}

fn in_dtype(x: Tensor<4>, dtype: DType) -> Tensor<4> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

/// A seed for step `step` of a run; neighbouring steps share nothing.
pub(super) fn seed_of(seed: u64, step: u64) -> u64 {
    random::mix(seed ^ step.wrapping_add(1).wrapping_mul(random::GOLDEN))
}

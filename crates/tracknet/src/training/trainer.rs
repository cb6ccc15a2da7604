//! One optimizer step: micro-batches forward and backward, reduce, check, clip, update.
//!
//! Dropout is a function of the run's seed and the step's number, so that a resumed run draws what it would have
//! drawn. The gradients of micro-batches add up to the gradient of the whole batch, because every one is divided by the
//! weight of the whole batch.

use burn::tensor::DType;

use crate::artifacts::run::LossScale;
use crate::compute::{Compute, MicroBatches};
use crate::config::OptimizerConfig;
use crate::error::Result;

use super::gradients::GradientGuard;
use super::optimizer::{NamedOptimizer, StepFactors};
use super::parameters::ParameterTable;
use super::reduce::{BatchGradients, GradientReducer, SingleProcess};
use super::train_step::TrainStep;

/// What a step did.
#[derive(Debug, Clone, PartialEq)]
pub struct StepReport {
    /// `Σ(l·m)` of the batch before the update.
    pub loss_sum: f64,
    /// What the losses are divided by: `Σm` of the batch.
    pub weight: f64,
    /// Global norm of the gradients before clipping; `None` if the step was skipped.
    pub grad_norm: Option<f64>,
    /// Why nothing was updated: the loss, or the gradient of the named parameter, was not finite.
    pub skipped: Option<String>,
}

impl StepReport {
    /// What to say of step `step` (from 1) if it was skipped.
    pub(super) fn note(&self, step: u64) -> Option<String> {
        self.skipped.as_ref().map(|what| format!("step {step}: the {what} was not finite; nothing was updated"))
    }
}

/// A model in training, with everything that a step reads or changes.
pub struct Trainer<S: TrainStep> {
    /// What gives the loss of a batch.
    pub objective: S,
    /// What trains, on a device with autodiff.
    pub model: S::Model,
    /// The parameters that may train.
    pub table: ParameterTable,
    /// Their update rule and its state.
    pub optimizer: NamedOptimizer,
    /// Where and in what precision.
    pub compute: Compute,
    /// Frames per forward pass; `None` until it was fitted to the memory: the whole batch.
    pub micro_batch: Option<usize>,
    /// In float16, what the loss is multiplied by before the backward pass.
    pub loss_scale: Option<LossScale>,
    side_by_side: bool,
    seed: u64,
    guard: GradientGuard,
    reducer: Box<dyn GradientReducer>,
}

impl<S: TrainStep> Trainer<S> {
    /// Trains `model` as it was built: what requires a gradient may train. Whole batches, no clipping, seed 0.
    pub fn new(objective: S, model: S::Model, optimizer: &OptimizerConfig, compute: &Compute) -> Self {
        Self {
            table: objective.parameters(&model),
            objective,
            model,
            optimizer: NamedOptimizer::new(optimizer, compute),
            compute: compute.clone(),
            micro_batch: None,
            loss_scale: (compute.dtype() == DType::F16).then(LossScale::start),
            side_by_side: false,
            seed: 0,
            guard: GradientGuard::new(None),
            reducer: Box::new(SingleProcess),
        }
    }

    /// This trainer with dropout that follows `seed`.
    #[must_use]
    pub fn seeded(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// This trainer with gradients clipped to the norm `limit`, or not.
    #[must_use]
    pub fn clipping(self, limit: Option<f64>) -> Self {
        Self { guard: GradientGuard::new(limit), ..self }
    }

    /// This trainer with the frames of a micro-batch side by side, or not: only where nothing couples them.
    #[must_use]
    pub fn side_by_side(self, side_by_side: bool) -> Self {
        Self { side_by_side, ..self }
    }

    /// This trainer as one of several processes.
    #[must_use]
    pub fn reducing(self, reducer: Box<dyn GradientReducer>) -> Self {
        Self { reducer, ..self }
    }

    /// Trains on one batch. `step` counts optimizer steps of the run from 0; `factor` is the schedule's.
    ///
    /// A loss or gradient that is not finite leaves model and optimizer as they are, and so does an error.
    ///
    /// # Errors
    /// After [`MAX_NON_FINITE`](super::MAX_NON_FINITE) such steps in a row, not counting those after which the loss scale
    /// could still fall, or if shapes do not fit or the backend fails.
    pub fn step(&mut self, batch: &S::Batch, step: u64, factor: f64) -> Result<StepReport> {
        let statistics = self.objective.running_statistics(&self.model);
        let result = self.gradients(batch, step).and_then(|found| self.update(found, step, factor));
        if !matches!(&result, Ok(report) if report.skipped.is_none()) {
            self.model = self.objective.restore_statistics(self.model.clone(), statistics);
        }
        result
    }

    /// Loss and gradients of a batch, without an update.
    ///
    /// # Errors
    /// If shapes do not fit or the backend fails.
    pub fn gradients(&self, batch: &S::Batch, step: u64) -> Result<BatchGradients> {
        let (objective, model, table) = (&self.objective, &self.model, &self.table);
        let device = self.compute.training_device();
        let scale = self.loss_scale.map_or(1.0, |scale| scale.scale);
        let micro_batches = MicroBatches::to_train(objective.frames(batch), self.micro_batch, self.side_by_side);
        let seed = seed_of(self.seed, step);
        let parts: Result<Vec<_>> = micro_batches.map(|index, frames| {
            let model = if micro_batches.forks() { objective.fork(model, &device) } else { model.clone() };
            objective.seed_dropout(&model, seed_of(seed, index as u64));
            let loss = objective.loss(&model, batch, frames)?;
            let scaled = if scale == 1.0 { loss.scaled } else { loss.scaled.mul_scalar(scale) };
            Ok((table.gradients(&model, &mut scaled.backward()), loss.sum))
        });
        let mut found = BatchGradients { weight: objective.weight(batch), ..BatchGradients::default() };
        for (gradients, loss_sum) in parts? {
            found.gradients.add(gradients);
            found.loss_sum += loss_sum;
        }
        if scale != 1.0 {
            found.gradients.multiply(1.0 / scale);
        }
        found.non_finite = (!found.loss_sum.is_finite()).then(|| "loss".to_owned());
        Ok(found)
    }

    /// Uses the gradients of a batch, unless they are not finite.
    fn update(&mut self, mut found: BatchGradients, step: u64, factor: f64) -> Result<StepReport> {
        self.reducer.reduce(&mut found)?;
        let norm = found.gradients.norm(&self.compute)?;
        let can_fall = self.loss_scale.is_some_and(LossScale::can_fall);
        let admitted = self.guard.admit(found.non_finite, norm, step, can_fall)?;
        self.loss_scale = self.loss_scale.map(|scale| scale.after(admitted.is_ok()));
        let BatchGradients { gradients, loss_sum, weight, .. } = found;
        match admitted {
            Err(what) => Ok(StepReport { loss_sum, weight, grad_norm: None, skipped: Some(what) }),
            Ok(admitted) => {
                let factors = StepFactors { lr: factor, gradient: admitted.factor };
                let optimizer = &mut self.optimizer;
                self.model = self.table.update(self.model.clone(), gradients, |parameter, value, gradient| {
                    optimizer.update(&parameter.name, parameter.kind, factors, value, gradient)
                });
                Ok(StepReport { loss_sum, weight, grad_norm: Some(admitted.norm), skipped: None })
            }
        }
    }
}

/// A seed for step `step` of a run; neighbouring steps share nothing.
fn seed_of(seed: u64, step: u64) -> u64 {
    tracknet_random::mix(seed ^ step.wrapping_add(1).wrapping_mul(tracknet_random::GOLDEN))
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use burn::module::{Module, Param};
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::training::loss::LossSum;
    use crate::training::optimizer::{ParameterKind, Part};

    #[derive(Module, Debug)]
    struct Slope {
        slope: Param<Tensor<1>>,
    }

    /// `slope · x` is to be as small as it can: its gradient is the mean of the batch.
    struct Descent;

    impl TrainStep for Descent {
        type Model = Slope;
        type Batch = Vec<f32>;

        fn parameters(&self, model: &Slope) -> ParameterTable {
            let kind = ParameterKind { part: Part::Head, bias_or_norm: false };
            ParameterTable::from_entries([(model.slope.id, "slope", kind, 1)])
        }

        fn frames(&self, batch: &Vec<f32>) -> usize {
            batch.len()
        }

        fn weight(&self, batch: &Vec<f32>) -> f64 {
            batch.len() as f64
        }

        fn loss(&self, model: &Slope, batch: &Vec<f32>, frames: Range<usize>) -> Result<LossSum> {
            let x = Tensor::<1>::from_data(&batch[frames], &model.slope.val().device());
            let loss = (model.slope.val() * x).sum();
            let sum = f64::from(loss.clone().into_scalar::<f32>());
            Ok(LossSum { scaled: loss / self.weight(batch), sum })
        }

        fn fork(&self, model: &Slope, device: &Device) -> Slope {
            model.clone().fork(device)
        }

        fn seed_dropout(&self, _model: &Slope, _seed: u64) {}
    }

    fn trainer() -> Trainer<Descent> {
        let compute = Compute::new(&Device::flex());
        let slope = Tensor::from_data([1.0], &compute.training_device());
        let optimizer = OptimizerConfig {
            name: crate::config::OptimizerName::Sgd,
            lr: 0.5,
            momentum: 0.0,
            weight_decay: 0.0,
            ..OptimizerConfig::default()
        };
        Trainer::new(Descent, Slope { slope: Param::from_tensor(slope) }, &optimizer, &compute)
    }

    fn slope(trainer: &Trainer<Descent>) -> f32 {
        trainer.model.slope.val().into_scalar()
    }

    #[test]
    fn any_step_trains_whatever_its_micro_batches_are() {
        for (micro_batch, side_by_side) in [(None, false), (Some(1), false), (Some(3), false), (None, true)] {
            let mut trainer = trainer().side_by_side(side_by_side);
            trainer.micro_batch = micro_batch;
            let report = trainer.step(&vec![1.0, 2.0, 3.0, 2.0], 0, 1.0).unwrap();
            assert_eq!((report.loss_sum, report.weight, report.grad_norm), (8.0, 4.0, Some(2.0)));
            assert_eq!(slope(&trainer), 0.0);
        }
    }

    /// As if another process had seen three times as many frames, all of them 6, or a loss that is no number.
    struct Other {
        finite: bool,
    }

    impl GradientReducer for Other {
        fn reduce(&self, found: &mut BatchGradients) -> Result<()> {
            let total = 4.0 * found.weight;
            let gradient = found.gradients.0.remove("slope").unwrap();
            let gradient = (gradient * found.weight + 6.0 * 3.0 * found.weight) / total;
            found.gradients.0.insert("slope".to_owned(), gradient);
            found.weight = total;
            found.non_finite = (!self.finite).then(|| "loss".to_owned());
            Ok(())
        }
    }

    #[test]
    fn gradients_are_reduced_before_they_are_measured_clipped_and_used() {
        let step = |finite| {
            let mut trainer = trainer().clipping(Some(1.0)).reducing(Box::new(Other { finite }));
            (trainer.step(&vec![2.0, 2.0], 0, 1.0).unwrap(), slope(&trainer))
        };
        let (report, slope) = step(true);
        assert_eq!((report.weight, report.grad_norm), (8.0, Some(5.0)));
        // The norm of 5 is clipped to 1.
        assert!((slope - 0.5).abs() < 1e-6, "{slope}");
        let (report, slope) = step(false);
        assert_eq!((report.skipped.as_deref(), report.grad_norm, slope), (Some("loss"), None, 1.0));
    }
}

//! Trainer, precision, gradient checkpointing and micro-batches of a run, for its configuration, model and device.

use crate::compute::Compute;
use crate::config::Config;
use crate::error::Result;
use crate::models::HeatmapModel;
use crate::models::memory::training_estimate;
use crate::training::evaluate::Evaluation;
use crate::training::heatmap_step::HeatmapStep;
use crate::training::micro_batch::{MicroBatchSize, choose_micro_batch};
use crate::training::monitor::STAND_IN;
use crate::training::trainer::Trainer;
use crate::training::{TrainingError, freeze};

use super::FitOptions;

/// Refuses a watched metric that no run has.
pub(super) fn check_monitor(config: &Config) -> Result<()> {
    let monitor = &config.training.early_stopping.monitor;
    let mut known = Evaluation::metric_names("val/");
    known.push(STAND_IN.to_owned());
    if known.contains(monitor) {
        return Ok(());
    }
    let known = known.join(", ");
    let problem = format!("training.early_stopping.monitor: no metric is called `{monitor}`; there are {known}");
    Err(TrainingError::Mismatch(problem).into())
}

/// Where and how a run computes.
pub(super) fn compute(config: &Config, options: &FitOptions) -> Compute {
    Compute::new(&options.device).with_precision(config.training.precision).with_memory_limit(options.memory_limit)
}

/// Switches gradient checkpointing on if the configuration asks for it; whether the model has blocks that do it.
pub fn set_checkpointing(config: &Config, model: &mut HeatmapModel) -> bool {
    config.training.gradient_checkpointing && model.backbone.use_gradient_checkpointing()
}

/// Switches mixed precision on where the device has it for this model; whether it has.
pub fn set_precision(model: &mut HeatmapModel, compute: &Compute) -> bool {
    compute.use_mixed_precision(|| model.use_bfloat16())
}

/// The trainer of a run in which at least something trains. `holds_backbone`: the run goes on from weights of the backbone.
pub(super) fn trainer(
    config: &Config,
    model: HeatmapModel,
    holds_backbone: bool,
    compute: &Compute,
) -> Result<Trainer<HeatmapStep>> {
    let trainer = whole_batches(config, freeze::prepare(config, model, holds_backbone), compute);
    if trainer.table.sorted().is_empty() {
        return Err(TrainingError::NothingToTrain { reason: why_nothing_trains(config) }.into());
    }
    Ok(trainer)
}

/// Why a model has no trainable parameter, in terms of the configuration.
fn why_nothing_trains(config: &Config) -> String {
    let model = &config.model;
    let backbone = match (model.lora.enabled, model.backbone.freeze) {
        (true, _) => "model.lora added no adapter",
        (false, true) => "model.backbone.freeze is true and model.lora is off",
        (false, false) => "the backbone has no float weights",
    };
    format!("{backbone}, and neither decoder nor head has trainable weights")
}

/// A trainer whose micro-batch is the whole batch.
fn whole_batches(config: &Config, model: HeatmapModel, compute: &Compute) -> Trainer<HeatmapStep> {
    let side_by_side = compute.side_by_side() && !couples_frames(config);
    Trainer::of_heatmaps(&config.training, model, compute).side_by_side(side_by_side)
}

/// Whether what the model finds on a frame depends on the other frames of the batch, as with batch normalization.
fn couples_frames(config: &Config) -> bool {
    config.model.batch_normalized().is_some()
}

/// Tensors of the size of the heatmaps that a loss keeps for its backward pass, about: logits, target and mask, both
/// log-sigmoids, their powers and products.
const LOSS_TENSORS: usize = 10;

/// An estimate of a run's peak memory with micro-batches of `frames`, in bytes.
pub fn training_peak(config: &Config, model: &HeatmapModel, compute: &Compute, frames: usize) -> usize {
    let at_once = if couples_frames(config) { frames } else { compute.at_once(frames) };
    let checkpointing = config.training.gradient_checkpointing;
    let estimate = training_estimate(model, at_once, config.data.preprocess.resize, compute.device(), checkpointing);
    // One heatmap is not worth counting.
    let further = (model.window.spec().heatmaps() - 1) * config.model.heatmap.size.iter().product::<usize>();
    estimate + 4 * at_once * LOSS_TENSORS * further
}

/// The trainer of a run in which all of `model`, which is on a device with autodiff, trains, with the micro-batch that then
/// fits into memory.
///
/// # Errors
/// As [`choose_micro_batch`].
pub fn unfrozen_trainer(config: &Config, model: HeatmapModel, compute: &Compute) -> Result<Trainer<HeatmapStep>> {
    let mut trainer = whole_batches(config, model, compute);
    trainer.model = trainer.table.set_active(trainer.model, |_| true);
    trainer.micro_batch = Some(micro_batch(config, &trainer)?.size);
    Ok(trainer)
}

/// The micro-batch that fits what trains of the model into memory.
pub(super) fn micro_batch(config: &Config, trainer: &Trainer<HeatmapStep>) -> Result<MicroBatchSize> {
    let estimate = |frames| training_peak(config, &trainer.model, &trainer.compute, frames) as u64;
    choose_micro_batch(&config.training, config.model.batch_normalized(), estimate, trainer.compute.memory_bound())
}

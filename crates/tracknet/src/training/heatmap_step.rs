//! Training of heatmaps: masked losses of logits, as [`TrainStep`] has it.
//!
//! Frames are given to the model in the dtype of the precision; logits are brought to float32 before the loss.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};

use crate::compute::Compute;
use crate::config::TrainingConfig;
use crate::error::Result;
use crate::models::HeatmapModel;
use crate::models::state::{Held, hold_vectors, named_parameters, put_back};

use super::gradients::clip_limit;
use super::loss::{HeatmapLoss, LossSum};
use super::parameters::ParameterTable;
use super::staging::StagedBatch;
use super::train_step::TrainStep;
use super::trainer::Trainer;

/// The loss between a model's logits and target heatmaps.
#[derive(Debug, Clone)]
pub struct HeatmapStep {
    loss: HeatmapLoss,
    /// What frames are given to the model in.
    dtype: DType,
}

impl Trainer<HeatmapStep> {
    /// A trainer of heatmaps, from the `training` section; its micro-batch is the whole batch.
    pub fn of_heatmaps(config: &TrainingConfig, model: HeatmapModel, compute: &Compute) -> Self {
        let step = HeatmapStep { loss: HeatmapLoss::from(&config.loss), dtype: compute.dtype() };
        let clip = clip_limit(config.grad_clip, config.grad_clip_norm);
        Self::new(step, model, &config.optimizer, compute).seeded(config.seed).clipping(clip)
    }
}

impl TrainStep for HeatmapStep {
    type Model = HeatmapModel;
    type Batch = StagedBatch;

    fn parameters(&self, model: &HeatmapModel) -> ParameterTable {
        ParameterTable::of(model)
    }

    fn frames(&self, batch: &StagedBatch) -> usize {
        batch.size
    }

    fn weight(&self, batch: &StagedBatch) -> f64 {
        batch.mask_sum
    }

    fn loss(&self, model: &HeatmapModel, batch: &StagedBatch, frames: Range<usize>) -> Result<LossSum> {
        let part = batch.tensors(frames)?;
        let logits = in_dtype(model.forward(in_dtype(part.images, self.dtype)), DType::F32);
        self.loss.sum(logits, part.targets, part.masks, batch.mask_sum)
    }

    fn fork(&self, model: &HeatmapModel, device: &Device) -> HeatmapModel {
        model.fork_for_piece(device)
    }

    fn seed_dropout(&self, model: &HeatmapModel, seed: u64) {
        model.seed_dropout(seed);
    }

    /// Those of batch normalization.
    fn running_statistics(&self, model: &HeatmapModel) -> Held {
        let is_statistic = |name: &str| name.ends_with(".running_mean") || name.ends_with(".running_var");
        match named_parameters(model).iter().any(|p| is_statistic(&p.name)) {
            true => hold_vectors(model, |p| is_statistic(&p.name)),
            false => Held::new(),
        }
    }

    fn restore_statistics(&self, model: HeatmapModel, statistics: Held) -> HeatmapModel {
        if statistics.is_empty() { model } else { put_back(model, statistics) }
    }
}

fn in_dtype(x: Tensor<4>, dtype: DType) -> Tensor<4> {
    if x.dtype() == dtype { x } else { x.cast(dtype) }
}

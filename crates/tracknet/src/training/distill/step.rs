//! Training of a student towards its teacher's features, as [`TrainStep`] has it.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;

use crate::compute::Compute;
use crate::config::OptimizerConfig;
use crate::datasets::image::Normalizer;
use crate::error::Result;
use crate::models::VisitLayers;
use crate::training::loss::LossSum;
use crate::training::parameters::ParameterTable;
use crate::training::train_step::TrainStep;
use crate::training::trainer::Trainer;

use super::feature::{FeatureModel, tensor};
use super::{Crops, DistillOptions, Targets};

/// Largest norm of a step's gradients.
const GRADIENT_NORM: f64 = 1.0;

/// The distance of a student's features of views from the teacher's of the clean crops.
pub(super) struct DistillStep<'a> {
    pub(super) options: &'a DistillOptions,
    pub(super) crops: &'a Crops,
    pub(super) targets: &'a Targets,
    pub(super) normalizer: Normalizer,
    /// With autodiff.
    pub(super) device: Device,
}

/// Crops of a step, and what the student sees in their place.
pub(super) struct DistillBatch {
    /// Index of each crop, and what its view is drawn from.
    crops: Vec<(usize, u64)>,
    views: Vec<RgbImage>,
}

impl<'a> DistillStep<'a> {
    /// A trainer of `model` that is made up of adapters alone: no weight decay.
    pub(super) fn trainer(self, model: FeatureModel, compute: &Compute) -> Trainer<Self> {
        let optimizer = OptimizerConfig { lr: self.options.lr, weight_decay: 0.0, ..OptimizerConfig::default() };
        let seed = self.options.seed;
        Trainer::new(self, model, &optimizer, compute)
            .seeded(seed)
            .clipping(Some(GRADIENT_NORM))
            .side_by_side(compute.side_by_side())
    }

    /// What step `step` sees.
    pub(super) fn batch(&self, step: usize) -> Result<DistillBatch> {
        let crops = self.crops.batch(step, self.options.batch_size, self.options.epochs);
        let views = self.crops.views(&crops)?;
        Ok(DistillBatch { crops, views })
    }
}

impl TrainStep for DistillStep<'_> {
    type Model = FeatureModel;
    type Batch = DistillBatch;

    fn parameters(&self, model: &FeatureModel) -> ParameterTable {
        ParameterTable::of(&model.backbone)
    }

    fn frames(&self, batch: &DistillBatch) -> usize {
        batch.crops.len()
    }

    fn weight(&self, batch: &DistillBatch) -> f64 {
        batch.crops.len() as f64
    }

    fn loss(&self, model: &FeatureModel, batch: &DistillBatch, frames: Range<usize>) -> Result<LossSum> {
        let crops = batch.crops[frames.clone()].iter().map(|&(crop, _)| crop);
        let teacher = rows(&self.targets.train, self.targets.features, crops, &self.device);
        let images = tensor(&batch.views[frames], &self.normalizer, &self.device);
        self.options.loss.sum(model.features(images), teacher, self.weight(batch))
    }

    fn fork(&self, model: &FeatureModel, device: &Device) -> FeatureModel {
        model.fork_for_micro_batch(device)
    }

    fn seed_dropout(&self, model: &FeatureModel, seed: u64) {
        model.backbone.seed_adapter_dropout(seed);
    }
}

/// Rows of a matrix with `columns` columns, as `[rows, columns]`.
pub(super) fn rows(values: &[f32], columns: usize, rows: impl Iterator<Item = usize>, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = rows.flat_map(|row| &values[row * columns..(row + 1) * columns]).copied().collect();
    let count = values.len() / columns.max(1);
    Tensor::from_data(TensorData::new(values, [count, columns]), device)
}

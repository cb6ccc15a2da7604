//! What the students learn: the teacher's features of the clean crops.
//!
//! They are computed once, before any student exists, and can go through a file to a process that never holds the teacher.

use std::io::Write;
use std::path::Path;

use burn::tensor::Device;
use image::RgbImage;

use crate::artifacts::run::{HostTensor, HostTensors, RunError, tensors};
use crate::compute::{Compute, DeviceError};
use crate::config::QuantizationConfig;
use crate::datasets::image::Normalizer;
use crate::error::Result;
use crate::files::write_atomic;
use crate::models::MemoryReport;
use crate::training::TrainingError;

use super::feature::{FeatureModel, normalizer};
use super::{Crops, DistillOptions, TeacherReport};

/// The teacher's features, row by row in the order of the crops.
#[derive(Debug, Clone, PartialEq)]
pub struct Targets {
    /// Length of a feature.
    pub features: usize,
    /// `[crops, features]`.
    pub train: Vec<f32>,
    /// `[validation crops, features]`.
    pub validation: Vec<f32>,
}

/// Builds the teacher and lets it look at every crop. `device` is one without autodiff.
///
/// # Errors
/// The model cannot be used as a teacher, or a feature is not finite.
pub fn teach(options: &DistillOptions, crops: &Crops, device: &Device) -> Result<(Targets, TeacherReport)> {
    let compute = Compute::new(device);
    let (teacher, build) = FeatureModel::build(options, &QuantizationConfig::default(), compute.device())?;
    let normalizer = normalizer(&build);
    let look = |pictures: &[RgbImage], split| features(&teacher, pictures, split, &normalizer, &compute);
    let targets = Targets {
        features: teacher.feature_count(),
        train: look(&crops.train, "training")?,
        validation: look(&crops.validation, "validation")?,
    };
    let report = TeacherReport {
        model: options.model.clone(),
        model_type: teacher.backbone.family().model_type.to_owned(),
        parameters: MemoryReport::of(&teacher.backbone).parameters,
        features: targets.features,
        base_hash: build.base_hash,
    };
    Ok((targets, report))
}

fn features(
    teacher: &FeatureModel,
    pictures: &[RgbImage],
    split: &str,
    normalizer: &Normalizer,
    compute: &Compute,
) -> Result<Vec<f32>> {
    let parts = teacher.map_features(pictures, normalizer, compute, |_, features| {
        Ok(features.try_into_vec_as::<f32>().map_err(|e| DeviceError::new("features", e))?)
    })?;
    let values = parts.concat();
    match values.iter().position(|v| !v.is_finite()) {
        None => Ok(values),
        Some(at) => {
            let (crop, value) = (at / teacher.feature_count().max(1), values[at]);
            let text = format!("the teacher's feature of {split} crop {crop} holds {value}: its weights are of no use");
            Err(TrainingError::Mismatch(text).into())
        }
    }
}

impl Targets {
    /// Refuses features of other crops.
    pub(super) fn check(&self, crops: &Crops) -> Result<(), TrainingError> {
        let counts = [crops.train.len(), crops.validation.len()];
        let found = [self.train.len(), self.validation.len()];
        if counts.map(|count| count * self.features) == found {
            return Ok(());
        }
        Err(TrainingError::Mismatch(format!(
            "{counts:?} crops to learn from and to validate need {} values each, found {found:?}",
            self.features
        )))
    }

    /// Writes the features as a safetensors file, whole or not at all.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let tensor = |values: &Vec<f32>| HostTensor {
            shape: vec![values.len() / self.features.max(1), self.features],
            values: values.clone(),
        };
        let all = [("train", &self.train), ("validation", &self.validation)];
        let all: HostTensors = all.into_iter().map(|(name, values)| (name.to_owned(), tensor(values))).collect();
        let bytes = tensors::to_bytes(&all).map_err(|problem| RunError::damaged(path, problem))?;
        Ok(write_atomic(path, |w| w.write_all(&bytes))?)
    }

    /// Reads what [`Targets::write`] wrote.
    ///
    /// # Errors
    /// The file is missing or damaged.
    pub fn read(path: &Path) -> Result<Self> {
        let mut all = tensors::read(path)?;
        let mut take = |name: &str| match all.remove(name) {
            Some(HostTensor { shape, values }) if shape.len() == 2 => Ok((shape[1], values)),
            _ => Err(RunError::damaged(path, format!("has no features called `{name}`"))),
        };
        let ((features, train), (other, validation)) = (take("train")?, take("validation")?);
        if features != other {
            let problem = format!("features to learn have {features} values, those to validate {other}");
            return Err(RunError::damaged(path, problem).into());
        }
        Ok(Self { features, train, validation })
    }
}

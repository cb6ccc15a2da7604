//! Distillation of a vision transformer's features into adapters: the smallest training that shows what LoRA on a float
//! backbone and LoRA on a 4-bit backbone (QLoRA) cost and what they reach.
//!
//! The teacher is the float backbone; its features of the *clean* crops of some pictures are computed once. The students
//! are the same backbone, stored as floats or in 4 bits, with adapters. They see *augmented* views of the crops and learn to
//! give the teacher's features of the clean ones, in the manner of Hinton et al. 2015, <https://arxiv.org/abs/1503.02531>. A
//! student that starts equal to its teacher therefore still has something to learn: that jitter, blur, noise and JPEG
//! artefacts do not matter; and one in 4 bits also makes up for what its storage lost. With [`Views::Same`] the students see
//! the teacher's own crops, as in the original's demonstration: then only the 4-bit student has something to make up for.
//!
//! | module | what lives there |
//! |---|---|
//! | `crops` | crops to learn from, crops that are held out, augmented views |
//! | `feature` | a backbone read as one feature vector per picture |
//! | `loss` | cosine and squared distance |
//! | `teacher` | the features to learn |
//! | `step` | a student's loss on a batch, for the trainer |
//! | `student` | training and measuring one student |
//! | `measure` | validation losses, times, sizes |
//! | `report` | the comparison |
//!
//! Everything random is a function of the seed: the crops, their views, the order, the adapters and their dropout.

mod crops;
mod feature;
mod loss;
mod measure;
mod report;
mod step;
mod student;
mod teacher;

use serde::{Deserialize, Serialize};

use crate::config::{DtypeName, LoraConfig, MAX_RANK, Precision, QuantMode, QuantTypeName, QuantizationConfig};
use crate::models::ModelError;
use crate::models::lora::plan;
use crate::models::quantization::Format;

pub use crops::{Crops, Views};
pub use feature::{FeatureKind, FeatureModel};
pub use loss::DistillLoss;
pub use report::{BeforeAfter, DistillReport, StudentReport, TeacherReport};
pub use student::{Student, StudentKind, train_student};
pub use teacher::{Targets, teach};

/// What is distilled, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistillOptions {
    /// The teacher, and the students' base: a Hugging Face directory of float weights, or a hub id in the local cache.
    pub model: String,
    /// Which feature is distilled.
    pub feature: FeatureKind,
    /// Distance of a student's feature from the teacher's.
    pub loss: DistillLoss,
    /// What the students see in place of a crop.
    pub views: Views,
    /// Optimizer steps, unless `epochs` says how many.
    pub steps: usize,
    /// Passes over the crops to learn from, in place of `steps`.
    pub epochs: Option<usize>,
    /// Crops in a step.
    pub batch_size: usize,
    /// Learning rate of the adapters at the first step; it falls to zero along half a cosine.
    pub lr: f64,
    /// Rank of the adapters.
    pub rank: usize,
    /// Numerator of their scale.
    pub lora_alpha: f32,
    /// What the students compute in, where the device has it.
    pub precision: Precision,
    /// How the 4-bit student is stored.
    pub quant_type: QuantTypeName,
    /// How `skip_modules` is read.
    pub quant_mode: QuantMode,
    /// Linear layers that stay floats in the 4-bit student.
    pub skip_modules: Vec<String>,
    /// Edge of a crop, pixels; a multiple of the patch size.
    pub size: usize,
    /// Crops to learn from.
    pub crops: usize,
    /// Crops that are held out.
    pub validation_crops: usize,
    /// Decides everything that is random.
    pub seed: u64,
}

/// More crops than this would not fit into the memory of the machines that this is for.
const MAX_PIXEL_BYTES: usize = 2 << 30;
/// More steps than this are a typing error: days of the fastest student.
const MAX_STEPS: usize = 100_000_000;

impl DistillOptions {
    /// The options of the demonstration for this model.
    pub fn new(model: impl Into<String>) -> Self {
        let (lora, quantization) = (LoraConfig::default(), QuantizationConfig::default());
        Self {
            model: model.into(),
            feature: FeatureKind::Cls,
            loss: DistillLoss::Cosine,
            views: Views::Different,
            steps: 150,
            epochs: None,
            batch_size: 8,
            lr: 3e-4,
            rank: lora.r,
            lora_alpha: lora.lora_alpha,
            precision: Precision::Fp32,
            quant_type: quantization.quant_type,
            quant_mode: quantization.mode,
            skip_modules: Vec::new(),
            size: 224,
            crops: 128,
            validation_crops: 32,
            seed: 42,
        }
    }

    /// Refuses values that cannot work, before anything is read.
    ///
    /// # Errors
    /// Names the first of them.
    pub fn check(&self) -> Result<(), ModelError> {
        let refuse = |key: &str, message: String| Err(ModelError::key(key, message));
        let counts = [
            ("steps", self.steps),
            ("epochs", self.epochs.unwrap_or(1)),
            ("batch_size", self.batch_size),
            ("size", self.size),
            ("crops", self.crops),
            ("validation_crops", self.validation_crops),
        ];
        if let Some((key, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return refuse(key, "is 0, expected at least 1".to_owned());
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return refuse("lr", format!("is {}, expected a number above 0", self.lr));
        }
        if self.rank > MAX_RANK {
            return refuse("rank", format!("is {}, expected at most {MAX_RANK}", self.rank));
        }
        let crop = self.size.saturating_mul(self.size).saturating_mul(3);
        let bytes = crop.saturating_mul(self.crops.saturating_add(self.validation_crops).max(self.batch_size));
        if bytes > MAX_PIXEL_BYTES {
            let (size, most) = (self.size, MAX_PIXEL_BYTES >> 20);
            let count = self.crops.saturating_add(self.validation_crops).max(self.batch_size);
            return refuse("size", format!("{count} crops of {size}×{size} pixels take more than {most} MiB"));
        }
        let key = if self.epochs.is_some() { "epochs" } else { "steps" };
        if self.total_steps() > MAX_STEPS {
            return refuse(key, format!("make {} optimizer steps, expected at most {MAX_STEPS}", self.total_steps()));
        }
        Format::new(&self.quantization())?;
        plan::validate(&self.lora())
    }

    /// Optimizer steps of each student.
    pub fn total_steps(&self) -> usize {
        match self.epochs {
            Some(epochs) => epochs.saturating_mul(self.crops).div_ceil(self.batch_size.max(1)),
            None => self.steps,
        }
    }

    /// The adapters of both students.
    fn lora(&self) -> LoraConfig {
        LoraConfig { enabled: true, r: self.rank, lora_alpha: self.lora_alpha, ..LoraConfig::default() }
    }

    /// The storage of the 4-bit student. Each weight is packed while it is read, so that the float backbone is never part of
    /// its memory; weights are unpacked to the half precision that the students compute in.
    fn quantization(&self) -> QuantizationConfig {
        let defaults = QuantizationConfig::default();
        QuantizationConfig {
            enabled: true,
            quant_type: self.quant_type,
            compute_dtype: if self.precision == Precision::Fp16 { DtypeName::Float16 } else { defaults.compute_dtype },
            mode: self.quant_mode,
            skip_modules: (!self.skip_modules.is_empty()).then(|| self.skip_modules.clone()),
            ..defaults
        }
    }
}

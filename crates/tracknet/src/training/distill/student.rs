//! One student: built, trained towards the teacher's features, measured.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::artifacts::adapter::{PeftConfig, write_adapter};
use crate::bench::Timing;
use crate::config::{Interval, OptimizerConfig, Precision, QuantizationConfig, SchedulerConfig, SchedulerName};
use crate::datasets::image::Normalizer;
use crate::error::Result;
use crate::models::lora::AdaptedModule;
use crate::models::{MemoryReport, VisitLayers, is_cpu};
use crate::parallel::Pieces;
use crate::training::TrainingError;
use crate::training::gradients::{GradientGuard, NamedGradients};
use crate::training::optimizer::{NamedOptimizer, StepFactors};
use crate::training::parameters::ParameterTable;
use crate::training::precision::LossScale;
use crate::training::reporter::{Reporter, StepProgress};
use crate::training::schedule::Schedule;
use crate::training::step::seed_of;

use super::feature::{FeatureModel, normalizer, tensor};
use super::report::{BeforeAfter, StudentReport};
use super::{Crops, DistillOptions, Targets};

/// Largest norm of a step's gradients.
const GRADIENT_NORM: f64 = 1.0;
/// Forward passes before the clock is read.
const WARM_UP: usize = 3;
/// Timed forward passes of one crop, and of a batch.
const TIMED: [usize; 2] = [25, 9];

/// How the student's base is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StudentKind {
    /// As 32-bit floats.
    Lora,
    /// In 4 bits.
    Qlora,
}

impl StudentKind {
    /// Both, in the order of the comparison.
    pub const ALL: [Self; 2] = [Self::Lora, Self::Qlora];

    /// `lora` or `qlora`: in files and as the name of the adapter.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Qlora => "qlora",
        }
    }
}

impl fmt::Display for StudentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lora => "(A) LoRA",
            Self::Qlora => "(B) QLoRA",
        })
    }
}

/// A student after its training.
#[derive(Debug)]
pub struct Student {
    /// The backbone with its adapters.
    pub model: FeatureModel,
    /// What the adapters' directory says about them.
    pub adapter: PeftConfig,
    /// What was measured; the peak memory is the caller's to fill in, who knows what else the process did.
    pub report: StudentReport,
}

impl Student {
    /// Writes the adapters in the layout of PEFT.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write_adapter(&self, dir: &Path) -> Result<()> {
        write_adapter(dir, &self.model.backbone, &self.adapter)
    }
}

/// Trains a student on the views of the crops, validates before and after, and times the result. `device` is one without
/// autodiff.
///
/// # Errors
/// The model cannot be built, targets and crops do not belong together, or losses stay non-finite.
pub fn train_student(
    options: &DistillOptions,
    kind: StudentKind,
    crops: &Crops,
    targets: &Targets,
    device: &Device,
    reporter: &mut dyn Reporter,
) -> Result<Student> {
    targets.check(crops)?;
    let training_device = device.clone().autodiff();
    let quantization = match kind {
        StudentKind::Lora => QuantizationConfig::default(),
        StudentKind::Qlora => options.quantization(),
    };
    let (model, build) = FeatureModel::build(options, &quantization, &training_device)?;
    let stored = MemoryReport::of(&model.backbone);
    let (mut model, lora) = model.adapt(&options.lora(), options.seed)?;
    let quantized = build.quantization.iter().flat_map(|report| &report.notes);
    for note in build.notes.iter().chain(quantized).chain(&lora.notes) {
        reporter.note(note);
    }
    let mixed = model.use_precision(options.precision, device);
    if !mixed && options.precision != Precision::Fp32 {
        reporter.note(&format!("precision {}: not mixed on this device, using fp32", options.precision.name()));
    }
    let parameters = MemoryReport::of(&model.backbone);
    let table = ParameterTable::of(&model.backbone);
    let lesson = Lesson { options, crops, targets, normalizer: normalizer(&build), device, training_device, table };
    let (linear_layers, packed_layers) = layers(&model);
    let views = crops.validation_views()?;
    let [before_views, before_clean] = lesson.validate(&model, &views)?;
    let trained = lesson.train(model, reporter)?;
    let [after_views, after_clean] = lesson.validate(&trained.model, &views)?;
    let [latency_ms, batch_ms] = lesson.time(&trained.model)?;
    let report = StudentReport {
        student: kind,
        storage: if kind == StudentKind::Lora { "float32" } else { &options.quant_type }.to_owned(),
        linear_layers,
        packed_layers,
        precision: if mixed { options.precision } else { Precision::Fp32 },
        backbone_bytes: stored.backbone_stored,
        adapter_parameters: lora.adapted.iter().map(AdaptedModule::parameters).sum(),
        trainable_parameters: parameters.trainable,
        parameters: parameters.parameters + trained.model.pooler_parameters(),
        latency_ms,
        batch_ms,
        samples_per_s: 1e3 * options.batch_size as f64 / batch_ms,
        train_step_ms: median(trained.step_ms),
        peak_memory: None,
        train_loss: BeforeAfter::of_steps(&trained.losses),
        validation_loss: BeforeAfter { before: before_views, after: after_views },
        clean_loss: BeforeAfter { before: before_clean, after: after_clean },
        skipped_steps: trained.skipped,
        losses: trained.losses,
    };
    Ok(Student { model: trained.model, adapter: lora.peft.with_base(Some(&options.model)), report })
}

/// How many linear layers the backbone has, and how many of them are in 4 bits.
fn layers(model: &FeatureModel) -> (usize, usize) {
    let (mut all, mut packed) = (0, 0);
    model.backbone.visit_linears(&mut |_, linear| {
        all += 1;
        packed += usize::from(linear.is_quantized());
    });
    (all, packed)
}

/// Everything that stays the same from step to step.
struct Lesson<'a> {
    options: &'a DistillOptions,
    crops: &'a Crops,
    targets: &'a Targets,
    normalizer: Normalizer,
    /// Without autodiff.
    device: &'a Device,
    training_device: Device,
    table: ParameterTable,
}

/// A student under way.
struct Apprentice {
    model: FeatureModel,
    optimizer: NamedOptimizer,
    guard: GradientGuard,
    /// In float16, what the loss is multiplied by before the backward pass.
    loss_scale: Option<LossScale>,
    /// Mean loss of each step's batch, before its update; without those that were skipped.
    losses: Vec<f64>,
    /// Milliseconds of each step, without making the views.
    step_ms: Vec<f64>,
    skipped: usize,
}

impl Apprentice {
    fn new(model: FeatureModel, options: &DistillOptions) -> Self {
        let config = OptimizerConfig { lr: options.lr, weight_decay: 0.0, ..OptimizerConfig::default() };
        Self {
            loss_scale: model.needs_loss_scale().then(LossScale::start),
            model,
            optimizer: NamedOptimizer::new(&config),
            guard: GradientGuard::new(Some(GRADIENT_NORM)),
            losses: Vec::new(),
            step_ms: Vec::new(),
            skipped: 0,
        }
    }
}

impl Lesson<'_> {
    fn train(&self, model: FeatureModel, reporter: &mut dyn Reporter) -> Result<Apprentice> {
        let (options, steps) = (self.options, self.options.total_steps());
        let schedule = SchedulerConfig {
            name: SchedulerName::Cosine,
            warmup_epochs: 0,
            interval: Interval::Step,
            ..SchedulerConfig::default()
        };
        let schedule = Schedule::new(&schedule, 1, steps);
        let mut student = Apprentice::new(model, options);
        let clock = Instant::now();
        for step in 0..steps {
            let factor = schedule.factor(0, step);
            if let Some(what) = self.step(&mut student, step, factor)? {
                reporter.note(&format!("step {}: the {what} was not finite; nothing was updated", step + 1));
            }
            let (done, seconds) = (step + 1, clock.elapsed().as_secs_f64().max(1e-9));
            reporter.step(&StepProgress {
                epoch: 0,
                epochs: 1,
                batch: done,
                batches: steps,
                loss: student.losses.last().copied().unwrap_or(f64::NAN),
                lr: options.lr * factor,
                frames_per_s: (done * options.batch_size) as f64 / seconds,
                eta_s: seconds / done as f64 * (steps - done) as f64,
                device_memory: None,
            });
        }
        if student.losses.is_empty() {
            let (what, step) = ("loss or gradient".to_owned(), steps as u64);
            return Err(TrainingError::NonFinite { what, count: student.skipped, step }.into());
        }
        Ok(student)
    }

    /// One optimizer step; returns what was not finite, when that kept it from changing anything.
    fn step(&self, student: &mut Apprentice, step: usize, factor: f64) -> Result<Option<String>> {
        let batch = self.crops.batch(step, self.options.batch_size, self.options.epochs);
        let views = self.crops.views(&batch)?;
        let clock = Instant::now();
        let scale = student.loss_scale.map_or(1.0, |scale| scale.scale);
        let (gradients, loss) = self.gradients(&student.model, &batch, &views, step as u64, scale)?;
        let can_fall = student.loss_scale.is_some_and(LossScale::can_fall);
        let admitted = student.guard.admit(&gradients, loss, step as u64, can_fall)?;
        student.loss_scale = student.loss_scale.map(|scale| scale.after(admitted.is_ok()));
        let refused = match admitted {
            Err(what) => {
                student.skipped += 1;
                Some(what)
            }
            Ok(admitted) => {
                student.losses.push(loss / batch.len() as f64);
                let optimizer = &mut student.optimizer;
                let factors = StepFactors { lr: factor, gradient: admitted.factor };
                student.model = self.table.update(student.model.clone(), gradients, |parameter, value, gradient| {
                    optimizer.update(&parameter.name, parameter.kind, factors, value, gradient)
                });
                None
            }
        };
        student.step_ms.push(clock.elapsed().as_secs_f64() * 1e3);
        Ok(refused)
    }

    /// Gradients of the mean loss of a batch, and the sum of its losses. `scale` multiplies the loss on the way only.
    fn gradients(
        &self,
        model: &FeatureModel,
        batch: &[(usize, u64)],
        views: &[RgbImage],
        step: u64,
        scale: f64,
    ) -> Result<(NamedGradients, f64)> {
        let pieces = Pieces::to_train(batch.len(), None, is_cpu(self.device));
        let seed = seed_of(self.options.seed, step);
        let (mut sum, loss) = pieces.add_up(|index, range| {
            let model = if pieces.forks() { model.fork_for_piece(&self.training_device) } else { model.clone() };
            model.backbone.seed_adapter_dropout(seed_of(seed, index as u64));
            let crops = batch[range.clone()].iter().map(|&(crop, _)| crop);
            let teacher = rows(&self.targets.train, self.targets.features, crops, &self.training_device);
            let images = tensor(&views[range], &self.normalizer, &self.training_device);
            let loss = self.options.loss.sum(model.features(images), teacher, batch.len() as f64)?;
            let scaled = if scale == 1.0 { loss.scaled } else { loss.scaled.mul_scalar(scale) };
            Ok((self.table.gradients(&model, &mut scaled.backward()), loss.sum))
        })?;
        if scale != 1.0 {
            sum.multiply(1.0 / scale);
        }
        Ok((sum, loss))
    }

    /// The mean losses on the held-out crops: on their views, and on the clean crops that the teacher saw.
    fn validate(&self, model: &FeatureModel, views: &[RgbImage]) -> Result<[f64; 2]> {
        let model = model.valid();
        let mean = |pictures: &[RgbImage]| -> Result<f64> {
            let sums = model.map_features(pictures, &self.normalizer, self.device, |range, features| {
                let teacher = rows(&self.targets.validation, self.targets.features, range, self.device);
                Ok(self.options.loss.sum(features, teacher, 1.0)?.sum)
            })?;
            let mean = sums.iter().sum::<f64>() / pictures.len() as f64;
            if mean.is_finite() {
                return Ok(mean);
            }
            Err(TrainingError::Mismatch(format!("the validation loss is {mean}; try a lower learning rate")).into())
        };
        Ok([mean(views)?, mean(&self.crops.validation)?])
    }

    /// Median milliseconds of forward passes without gradients: of one crop, and of a batch of crops.
    fn time(&self, model: &FeatureModel) -> Result<[f64; 2]> {
        let model = model.valid();
        let crops: Vec<RgbImage> = self.crops.train.iter().cycle().take(self.options.batch_size).cloned().collect();
        let pass = |pictures: &[RgbImage]| -> Result<f64> {
            let clock = Instant::now();
            model.map_features(pictures, &self.normalizer, self.device, |_, features| {
                // Reading the values back ends the work on every device.
                Ok(features.try_into_vec_as::<f32>().map_err(|e| TrainingError::device("features", e))?)
            })?;
            Ok(clock.elapsed().as_secs_f64() * 1e3)
        };
        let [one, batch] = TIMED;
        let time = |pictures: &[RgbImage], count: usize| -> Result<f64> {
            let times: Vec<f64> = (0..WARM_UP + count).map(|_| pass(pictures)).collect::<Result<_>>()?;
            Ok(median(times[WARM_UP..].to_vec()))
        };
        Ok([time(&crops[..1], one)?, time(&crops, batch)?])
    }
}

/// Rows of a matrix with `columns` columns, as `[rows, columns]`.
fn rows(values: &[f32], columns: usize, rows: impl Iterator<Item = usize>, device: &Device) -> Tensor<2> {
    let values: Vec<f32> = rows.flat_map(|row| &values[row * columns..(row + 1) * columns]).copied().collect();
    let count = values.len() / columns.max(1);
    Tensor::from_data(TensorData::new(values, [count, columns]), device)
}

/// The middle of some times in ms; 0 of none.
fn median(times: Vec<f64>) -> f64 {
    Timing::of(times).map_or(0.0, |timing| timing.median_ms)
}

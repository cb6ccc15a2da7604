//! One student: built, trained towards the teacher's features, measured.

use std::fmt;
use std::path::Path;
use std::time::Instant;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::artifacts::BuildReport;
use crate::artifacts::adapter::{AdapterReport, PeftConfig, write_adapter};
use crate::compute::Compute;
use crate::config::{DtypeName, Interval, Precision, QuantizationConfig, SchedulerConfig, SchedulerName};
use crate::error::Result;
use crate::models::MemoryReport;
use crate::models::lora::AdaptedModule;
use crate::training::TrainingError;
use crate::training::reporter::{Reporter, StepProgress};
use crate::training::schedule::Schedule;
use crate::training::trainer::Trainer;

use super::feature::{FeatureModel, normalizer};
use super::measure::{layers, median};
use super::report::{BeforeAfter, StudentReport};
use super::step::DistillStep;
use super::{Crops, DistillOptions, Targets};

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
    let compute = Compute::new(device).with_precision(options.precision);
    let device = compute.training_device();
    let Untrained { model, build, lora, stored, precision } = Untrained::new(options, kind, &compute, reporter)?;
    let ((linear_layers, packed_layers), parameters) = (layers(&model), MemoryReport::of(&model.backbone));
    let step = DistillStep { options, crops, targets, normalizer: normalizer(&build), device };
    let mut trainer = step.trainer(model, &compute);
    let views = crops.validation_views()?;
    let [before_views, before_clean] = trainer.objective.validate(&trainer.model, &views, &compute)?;
    let History { losses, step_ms, skipped } = train(&mut trainer, reporter)?;
    let Trainer { objective: step, model, .. } = trainer;
    let [after_views, after_clean] = step.validate(&model, &views, &compute)?;
    let [latency_ms, batch_ms] = step.time(&model, &compute)?;
    let report = StudentReport {
        student: kind,
        storage: if kind == StudentKind::Lora { DtypeName::Float32.name() } else { options.quant_type.name() }
            .to_owned(),
        linear_layers,
        packed_layers,
        precision,
        backbone_bytes: stored.backbone_stored,
        adapter_parameters: lora.adapted.iter().map(AdaptedModule::parameters).sum(),
        trainable_parameters: parameters.trainable,
        parameters: parameters.parameters + model.pooler_parameters(),
        latency_ms,
        batch_ms,
        samples_per_s: 1e3 * options.batch_size as f64 / batch_ms,
        train_step_ms: median(step_ms),
        peak_memory: None,
        train_loss: BeforeAfter::of_steps(&losses),
        validation_loss: BeforeAfter { before: before_views, after: after_views },
        clean_loss: BeforeAfter { before: before_clean, after: after_clean },
        skipped_steps: skipped,
        losses,
    };
    Ok(Student { model, adapter: lora.peft.with_base(Some(&options.model)), report })
}

/// A student before its training.
struct Untrained {
    model: FeatureModel,
    build: BuildReport,
    lora: AdapterReport,
    /// Memory of the backbone before it had adapters.
    stored: MemoryReport,
    /// What it computes in, on this device.
    precision: Precision,
}

impl Untrained {
    fn new(
        options: &DistillOptions,
        kind: StudentKind,
        compute: &Compute,
        reporter: &mut dyn Reporter,
    ) -> Result<Self> {
        let quantization = match kind {
            StudentKind::Lora => QuantizationConfig::default(),
            StudentKind::Qlora => options.quantization(),
        };
        let (model, build) = FeatureModel::build(options, &quantization, &compute.training_device())?;
        let stored = MemoryReport::of(&model.backbone);
        let (mut model, lora) = model.adapt(&options.lora(), options.seed)?;
        let quantized = build.quantization.iter().flat_map(|report| &report.notes);
        for note in build.notes.iter().chain(quantized).chain(&lora.notes) {
            reporter.note(note);
        }
        let mixed = model.use_precision(compute);
        if !mixed && options.precision != Precision::Fp32 {
            reporter.note(&format!("precision {}: not mixed on this device, using fp32", options.precision.name()));
        }
        let precision = if mixed { options.precision } else { Precision::Fp32 };
        Ok(Self { model, build, lora, stored, precision })
    }
}

/// How a training went.
#[derive(Default)]
struct History {
    /// Mean loss of each step's batch, before its update; without those that were skipped.
    losses: Vec<f64>,
    /// Milliseconds of each step, without making the views.
    step_ms: Vec<f64>,
    skipped: usize,
}

/// All steps of a student; the learning rate falls to zero along half a cosine.
fn train(trainer: &mut Trainer<DistillStep<'_>>, reporter: &mut dyn Reporter) -> Result<History> {
    let options = trainer.objective.options;
    let (mut history, steps) = (History::default(), options.total_steps());
    let schedule = SchedulerConfig {
        name: SchedulerName::Cosine,
        warmup_epochs: 0,
        interval: Interval::Step,
        ..SchedulerConfig::default()
    };
    let schedule = Schedule::new(&schedule, 1, steps);
    let clock = Instant::now();
    for step in 0..steps {
        let factor = schedule.factor(0, step);
        history.step(trainer, step, factor, reporter)?;
        let (done, seconds) = (step + 1, clock.elapsed().as_secs_f64().max(1e-9));
        reporter.step(&StepProgress {
            epoch: 0,
            epochs: 1,
            batch: done,
            batches: steps,
            loss: history.losses.last().copied().unwrap_or(f64::NAN),
            lr: options.lr * factor,
            frames_per_s: (done * options.batch_size) as f64 / seconds,
            eta_s: seconds / done as f64 * (steps - done) as f64,
            device_memory: None,
        });
    }
    if history.losses.is_empty() {
        let (what, step) = ("loss or gradient".to_owned(), steps as u64);
        return Err(TrainingError::NonFinite { what, count: history.skipped, step }.into());
    }
    Ok(history)
}

impl History {
    fn step(
        &mut self,
        trainer: &mut Trainer<DistillStep<'_>>,
        step: usize,
        factor: f64,
        reporter: &mut dyn Reporter,
    ) -> Result<()> {
        let batch = trainer.objective.batch(step)?;
        let clock = Instant::now();
        let report = trainer.step(&batch, step as u64, factor)?;
        match report.note(step as u64 + 1) {
            Some(note) => {
                self.skipped += 1;
                reporter.note(&note);
            }
            None => self.losses.push(report.loss_sum / report.weight),
        }
        self.step_ms.push(clock.elapsed().as_secs_f64() * 1e3);
        Ok(())
    }
}

//! The comparison of the two students, for people (`Display`) and for programs (JSON).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::models::memory::bytes;

use super::{DistillOptions, FeatureKind, StudentKind};

/// A loss at the start and at the end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BeforeAfter {
    /// At the start.
    pub before: f64,
    /// At the end.
    pub after: f64,
}

impl BeforeAfter {
    /// Means over the first and the last tenth of the steps: a single batch says little.
    pub(super) fn of_steps(losses: &[f64]) -> Self {
        let tenth = Self::tenth(losses.len());
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
        Self { before: mean(&losses[..tenth]), after: mean(&losses[losses.len() - tenth..]) }
    }

    /// A tenth of the steps, at least one.
    fn tenth(steps: usize) -> usize {
        (steps / 10).max(1).min(steps)
    }
}

/// The model that teaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TeacherReport {
    /// Directory or hub id.
    pub model: String,
    /// Its family.
    pub model_type: String,
    /// Parameters of the backbone.
    pub parameters: usize,
    /// Length of a feature.
    pub features: usize,
    /// SHA-256 over names, shapes and values of its weights.
    pub base_hash: String,
}

/// What one student took and reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StudentReport {
    /// Which one.
    pub student: StudentKind,
    /// Storage of the backbone's linear layers: `float32`, `nf4` or `fp4`.
    pub storage: String,
    /// Bytes of the backbone's base weights as stored.
    pub backbone_bytes: usize,
    /// Parameters of the adapters, all that trained.
    pub adapter_parameters: usize,
    /// Median milliseconds of a forward pass of one crop, without gradients.
    pub latency_ms: f64,
    /// Crops per second in batches of the training's size, without gradients.
    pub samples_per_s: f64,
    /// Median milliseconds of an optimizer step.
    pub train_step_ms: f64,
    /// Peak resident memory of the process that trained and measured this student and nothing else, bytes.
    pub peak_memory: Option<u64>,
    /// Training loss over the first and the last tenth of the steps.
    pub train_loss: BeforeAfter,
    /// Mean loss on the augmented views of the held-out crops.
    pub validation_loss: BeforeAfter,
    /// Mean loss on the held-out crops as they are; at the start of the 4-bit student this is what its storage lost.
    pub clean_loss: BeforeAfter,
    /// Steps that changed nothing because a loss or gradient was not finite.
    pub skipped_steps: usize,
    /// Mean loss of each step's batch, before its update.
    pub losses: Vec<f64>,
}

/// The comparison.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DistillReport {
    /// What was asked for.
    pub options: DistillOptions,
    /// Pictures that crops came from.
    pub pictures: usize,
    /// How many of them are held out; 0 when it is the right quarter of the only one.
    pub held_out_pictures: usize,
    /// The teacher.
    pub teacher: TeacherReport,
    /// The students.
    pub students: Vec<StudentReport>,
}

impl DistillReport {
    /// What the numbers are about: teacher, feature, loss and crops, in two lines.
    pub fn heading(&self) -> String {
        let (o, t) = (&self.options, &self.teacher);
        let feature = match o.feature {
            FeatureKind::Cls => "class token after the final norm",
            FeatureKind::Pooler => "pooler output",
        };
        let held_out = match self.held_out_pictures {
            0 => "its right quarter".to_owned(),
            1 => "another".to_owned(),
            n => format!("{n} others"),
        };
        let learned = self.pictures - self.held_out_pictures;
        let pictures = if self.pictures == 1 { "the picture".to_owned() } else { format!("{learned} pictures") };
        format!(
            "teacher: {} ({}, {} parameters), {feature}, {} features\n\
             crops of {}×{} pixels: {} of {pictures} to learn from, {} of {held_out} to validate",
            t.model, t.model_type, t.parameters, t.features, o.size, o.size, o.crops, o.validation_crops
        )
    }
}

impl fmt::Display for DistillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (batch, steps) = (self.options.batch_size, self.students.first().map_or(0, |s| s.losses.len()));
        let tenth = BeforeAfter::tenth(steps);
        let peak = |s: &StudentReport| s.peak_memory.map_or_else(|| "not known".to_owned(), |b| bytes(b as usize));
        let loss = |value: f64| format!("{value:.5}");
        type Cell<'a> = Box<dyn Fn(&StudentReport) -> String + 'a>;
        let rows: [(String, Cell<'_>); 14] = [
            (String::new(), Box::new(|s| s.student.to_string())),
            ("linear layers of the backbone".into(), Box::new(|s| s.storage.clone())),
            ("backbone as stored".into(), Box::new(|s| bytes(s.backbone_bytes))),
            ("adapter parameters".into(), Box::new(|s| s.adapter_parameters.to_string())),
            ("latency of one crop, ms".into(), Box::new(|s| format!("{:.2}", s.latency_ms))),
            (format!("samples/s in batches of {batch}"), Box::new(|s| format!("{:.1}", s.samples_per_s))),
            (format!("training step of {batch}, ms"), Box::new(|s| format!("{:.1}", s.train_step_ms))),
            ("peak memory of the process".into(), Box::new(peak)),
            (format!("train loss, first {tenth} of {steps} steps"), Box::new(|s| loss(s.train_loss.before))),
            (format!("train loss, last {tenth}"), Box::new(|s| loss(s.train_loss.after))),
            ("validation loss before".into(), Box::new(|s| loss(s.validation_loss.before))),
            ("validation loss after".into(), Box::new(|s| loss(s.validation_loss.after))),
            ("the same on clean crops before".into(), Box::new(|s| loss(s.clean_loss.before))),
            ("the same on clean crops after".into(), Box::new(|s| loss(s.clean_loss.after))),
        ];
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        for (index, (name, cell)) in rows.iter().enumerate() {
            let cells: String = self.students.iter().map(|s| format!("  {:>12}", cell(s))).collect();
            let end = if index + 1 < rows.len() { "\n" } else { "" };
            write!(f, "{name:width$}{cells}{end}")?;
        }
        Ok(())
    }
}

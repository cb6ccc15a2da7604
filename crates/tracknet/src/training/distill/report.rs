//! The comparison of the two students, for people (`Display`) and for programs (JSON, CSV).

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::config::Precision;
use crate::files::{Limit, read_text};
use crate::models::memory::{bytes, trainable_line};

use super::{DistillLoss, DistillOptions, FeatureKind, StudentKind, Views};

/// The columns of the CSV: six with the names and units of the original's `hf_vit_qlora_demo_v3`, then what else there is.
const CSV_COLUMNS: [&str; 14] = [
    "name",
    "lat_ms",
    "samples_per_s",
    "max_mem_gb",
    "final_train_loss",
    "final_val_loss",
    "lat_one_ms",
    "train_step_ms",
    "first_train_loss",
    "first_val_loss",
    "trainable_params",
    "all_params",
    "backbone_bytes",
    "skipped_steps",
];
/// The CSV of a comparison has two rows.
const CSV: Limit = Limit { kind: "a comparison", bytes: 64 << 10 };

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
    /// Linear layers of the backbone.
    pub linear_layers: usize,
    /// How many of them are in 4 bits.
    pub packed_layers: usize,
    /// What it computed in.
    pub precision: Precision,
    /// Bytes of the backbone's base weights as stored.
    pub backbone_bytes: usize,
    /// Parameters of the adapters, all that trained.
    pub adapter_parameters: usize,
    /// Parameters that received gradients.
    pub trainable_parameters: usize,
    /// All parameters with those of the adapters; packed weights count as what they stand for.
    pub parameters: usize,
    /// Median milliseconds of a forward pass of one crop, without gradients.
    pub latency_ms: f64,
    /// The same of a batch of the training's size.
    pub batch_ms: f64,
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

impl StudentReport {
    /// As the original names its runs, with the precision that was computed in: `LoRA_bf16_cls_cosine`,
    /// `INT4+LoRA(nf4,bf16,cls,cosine)`.
    fn run_name(&self, options: &DistillOptions) -> String {
        let feature = match options.feature {
            FeatureKind::Cls => "cls",
            FeatureKind::Pooler => "pooler",
        };
        let loss = match options.loss {
            DistillLoss::Cosine => "cosine",
            DistillLoss::Mse => "mse",
        };
        let precision = self.precision.name();
        match self.student {
            StudentKind::Lora => format!("LoRA_{precision}_{feature}_{loss}"),
            StudentKind::Qlora => format!("INT4+LoRA({},{precision},{feature},{loss})", self.storage),
        }
    }

    /// The values of [`CSV_COLUMNS`]; a memory that is not known is empty.
    fn csv_row(&self, options: &DistillOptions) -> [String; CSV_COLUMNS.len()] {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        [
            self.run_name(options),
            self.batch_ms.to_string(),
            self.samples_per_s.to_string(),
            self.peak_memory.map_or_else(String::new, |bytes| gib(bytes).to_string()),
            self.train_loss.after.to_string(),
            self.validation_loss.after.to_string(),
            self.latency_ms.to_string(),
            self.train_step_ms.to_string(),
            self.train_loss.before.to_string(),
            self.validation_loss.before.to_string(),
            self.trainable_parameters.to_string(),
            self.parameters.to_string(),
            self.backbone_bytes.to_string(),
            self.skipped_steps.to_string(),
        ]
    }
}

impl DistillReport {
    /// Writes a line of names and a row for each student.
    ///
    /// # Errors
    /// What `to` returns.
    pub fn write_csv(&self, to: impl Write) -> io::Result<()> {
        let mut csv = csv::Writer::from_writer(to);
        csv.write_record(CSV_COLUMNS)?;
        for student in &self.students {
            csv.write_record(student.csv_row(&self.options))?;
        }
        csv.flush()
    }

    /// Whether [`DistillReport::write_csv`] wrote this file: it begins with the same names.
    pub fn is_csv(path: &Path) -> bool {
        read_text(path, CSV).is_ok_and(|text| text.lines().next() == Some(CSV_COLUMNS.join(",").as_str()))
    }

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
        let views = match o.views {
            Views::Different => "",
            Views::Same => "; the students see them as the teacher does",
        };
        format!(
            "teacher: {} ({}, {} parameters), {feature}, {} features\n\
             crops of {}×{} pixels: {} of {pictures} to learn from, {} of {held_out} to validate{views}",
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
        let rows: [(String, Cell<'_>); 16] = [
            (String::new(), Box::new(|s| s.student.to_string())),
            ("linear layers of the backbone".into(), Box::new(|s| s.storage.clone())),
            ("of them in 4 bits".into(), Box::new(|s| format!("{} of {}", s.packed_layers, s.linear_layers))),
            ("computed in".into(), Box::new(|s| s.precision.name().to_owned())),
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
        for (name, cell) in &rows {
            let cells: String = self.students.iter().map(|s| format!("  {:>12}", cell(s))).collect();
            writeln!(f, "{name:width$}{cells}")?;
        }
        self.students.iter().try_for_each(|student| {
            let line = trainable_line(student.trainable_parameters, student.parameters);
            write!(f, "\n{}: {line}", student.student)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn student(student: StudentKind) -> StudentReport {
        let loss = BeforeAfter { before: 0.5, after: 0.25 };
        StudentReport {
            student,
            storage: "nf4".to_owned(),
            linear_layers: 6,
            packed_layers: 4,
            precision: Precision::Bf16,
            backbone_bytes: 1000,
            adapter_parameters: 512,
            trainable_parameters: 512,
            parameters: 1_024_000,
            latency_ms: 1.5,
            batch_ms: 8.0,
            samples_per_s: 1000.0,
            train_step_ms: 20.0,
            peak_memory: (student == StudentKind::Qlora).then_some(3 << 29),
            train_loss: loss,
            validation_loss: loss,
            clean_loss: loss,
            skipped_steps: 0,
            losses: vec![0.5, 0.25],
        }
    }

    fn report() -> DistillReport {
        DistillReport {
            options: DistillOptions::new("model"),
            pictures: 1,
            held_out_pictures: 0,
            teacher: TeacherReport {
                model: "model".to_owned(),
                model_type: "vit".to_owned(),
                parameters: 1_023_488,
                features: 64,
                base_hash: String::new(),
            },
            students: StudentKind::ALL.map(student).to_vec(),
        }
    }

    #[test]
    fn the_csv_has_the_columns_of_the_original_first_and_a_row_for_each_student() {
        let mut text = Vec::new();
        report().write_csv(&mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let original = "name,lat_ms,samples_per_s,max_mem_gb,final_train_loss,final_val_loss,";
        assert!(text.starts_with(original), "{text}");
        let mut rows = csv::Reader::from_reader(text.as_bytes());
        let rows: Vec<Vec<String>> =
            rows.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
        assert_eq!(rows[0][..6], ["LoRA_bf16_cls_cosine", "8", "1000", "", "0.25", "0.25"]);
        // A name with commas stays one field; 1.5 GiB.
        assert_eq!(rows[1][..4], ["INT4+LoRA(nf4,bf16,cls,cosine)", "8", "1000", "1.5"]);
        assert_eq!(rows[1][10..12], ["512", "1024000"]);
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn only_a_csv_of_its_own_is_recognized() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        assert!(!DistillReport::is_csv(&path));
        report().write_csv(std::fs::File::create(&path).unwrap()).unwrap();
        assert!(DistillReport::is_csv(&path));
        std::fs::write(&path, "name,lat_ms,samples_per_s,max_mem_gb,final_train_loss,final_val_loss\n").unwrap();
        assert!(!DistillReport::is_csv(&path));
    }

    #[test]
    fn the_report_ends_with_what_trains_of_each_student_in_the_words_of_peft() {
        let text = report().to_string();
        assert!(text.contains("of them in 4 bits"), "{text}");
        let line = "trainable params: 512 || all params: 1,024,000 || trainable%: 0.0500";
        assert!(text.ends_with(&format!("\n\n(A) LoRA: {line}\n(B) QLoRA: {line}")), "{text}");
    }
}

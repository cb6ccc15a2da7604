//! What a run says before its first step.

use crate::artifacts::BuildReport;
use crate::compute::Compute;
use crate::config::{Config, Precision};
use crate::models::HeatmapModel;
use crate::models::memory::MemoryReport;
use crate::training::freeze;
use crate::training::loaders::Loaders;
use crate::training::monitor::STAND_IN;
use crate::training::reporter::Reporter;

use super::setup::{set_checkpointing, set_precision};

/// Says what is to be trained, on what, and when.
pub(super) fn introduce(
    config: &Config,
    model: &HeatmapModel,
    build: &BuildReport,
    loaders: &Loaders,
    reporter: &mut dyn Reporter,
) {
    let build = BuildReport { memory: MemoryReport::of(model), ..build.clone() };
    reporter.report(&build.to_string());
    reporter.report(&loaders.report);
    if let Some(schedule) = freeze::explain(config, model) {
        reporter.report(&schedule);
    }
    if let Some(note) = stands_in(config, loaders) {
        reporter.note(&note);
    }
}

/// What to say when the watched metric will never have a value.
fn stands_in(config: &Config, loaders: &Loaders) -> Option<String> {
    let monitor = &config.training.early_stopping.monitor;
    let missing = loaders.validation.is_none() && monitor.starts_with("val/");
    missing.then(|| {
        format!(
            "training.early_stopping.monitor is {monitor}, but there are no validation games: the smallest {STAND_IN} \
             chooses the best checkpoint"
        )
    })
}

/// Sets the precision, as far as the device has it, and says what became of it.
pub(super) fn precision(
    precision: Precision,
    model: &mut HeatmapModel,
    compute: &Compute,
    reporter: &mut dyn Reporter,
) {
    if precision == Precision::Fp32 {
        return;
    }
    match set_precision(model, compute) {
        true => reporter.report(&format!("mixed precision: {}", compute.mixed_precision())),
        false => {
            let name = precision.name();
            reporter.note(&format!("training.precision {name}: no mixed precision on this device, using fp32"));
        }
    }
}

/// Switches gradient checkpointing on, and says if this model has nothing to gain by it.
pub(super) fn checkpointing(config: &Config, model: &mut HeatmapModel, reporter: &mut dyn Reporter) {
    if config.training.gradient_checkpointing && !set_checkpointing(config, model) {
        reporter.note(
            "training.gradient_checkpointing: true changes nothing for this model: only blocks that the CPU runs as one \
             operation (a frozen base that computes in bfloat16) are computed again",
        );
    }
}

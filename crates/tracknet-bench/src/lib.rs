//! What the speed and memory of this program are measured on.
//!
//! Each workload goes the way of a real run: models are built by [`tracknet::artifacts::build_model`] from a configuration,
//! training steps are those of [`tracknet::training::Trainer`], frames are read by [`tracknet::datasets::image`]. Weights
//! are random, because time does not depend on them.
//!
//! One workload is measured in one process: [`prepare`] writes the files that it reads, [`measure`] runs it, and
//! [`Report`] is the table. `tracknet bench` starts the processes.
//!
//! | module | what lives there |
//! |---|---|
//! | [`workload`] | the workloads and their names |
//! | [`setup`] | the configuration of each, and random batches |
//! | [`train`], [`infer`], [`load`], [`quantize`], [`data`] | one kind of workload each |
//! | [`arithmetic`] | floating-point operations, counted from the shapes |
//! | [`timing`], [`machine`] | repetitions; what the processor is and reaches |
//! | [`report`] | Markdown and JSON |
#![recursion_limit = "256"]

mod arithmetic;
mod data;
mod infer;
mod load;
mod machine;
mod quantize;
mod report;
mod setup;
mod timing;
mod train;
mod workload;

use std::path::Path;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use tracknet::Result;
use tracknet::compute;
use tracknet_io::process;
use tracknet_render::RenderError;

pub use machine::Machine;
pub use report::Report;
pub use timing::{Repeat, Timing};
pub use workload::{Mode, Origin, Size, Weights, Workload};

/// How workloads are run.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to compute, without autodiff.
    pub device: Device,
    /// How often.
    pub repeat: Repeat,
    /// `section.key=value` over the configuration of the workload.
    pub overrides: Vec<String>,
}

/// Time and memory of a workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The workload's name.
    pub name: String,
    /// One repetition.
    pub time: Timing,
    /// Parts of one repetition by name, in ms.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<(String, f64)>,
    /// Frames in one repetition; 0 where there are none.
    pub frames: usize,
    /// Floating-point operations of one repetition, counted from the shapes without what is computed twice.
    pub flop: Option<f64>,
    /// The arithmetic of most of them.
    pub compute: Option<Arithmetic>,
    /// Bytes that one repetition takes in, where that is the figure.
    pub input_bytes: Option<usize>,
    /// Largest resident memory of the process while it ran, in bytes; `None` where the system does not tell.
    pub peak_bytes: Option<u64>,
    /// On a GPU, the bytes that the process held there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device_bytes: Option<u64>,
    /// Bytes of the backbone as it is stored.
    pub backbone_bytes: Option<usize>,
    /// Bytes of the backbone as 32-bit floats.
    pub backbone_f32_bytes: Option<usize>,
}

/// The arithmetic of a workload's products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arithmetic {
    /// 32-bit floats.
    F32,
    /// bfloat16 factors with 32-bit sums.
    Bf16,
}

impl Measurement {
    /// With nothing but a time; [`measure`] adds the name and the memory.
    fn new(time: Timing) -> Self {
        Self {
            name: String::new(),
            time,
            parts: Vec::new(),
            frames: 0,
            flop: None,
            compute: None,
            input_bytes: None,
            peak_bytes: None,
            device_bytes: None,
            backbone_bytes: None,
            backbone_f32_bytes: None,
        }
    }

    /// The measurement of a workload whose repetitions each took a process of their own.
    #[must_use]
    pub fn of_processes(runs: Vec<Self>) -> Option<Self> {
        let time = Timing::of(runs.iter().map(|run| run.time.median_ms).collect())?;
        let cores = runs.iter().map(|run| run.time.cores).sum::<Option<f64>>().map(|sum| sum / runs.len() as f64);
        let peak_bytes = runs.iter().filter_map(|run| run.peak_bytes).max();
        let mut by_time = runs;
        by_time.sort_by(|a, b| a.time.median_ms.total_cmp(&b.time.median_ms));
        let middle = by_time.swap_remove(by_time.len() / 2);
        Some(Self { time: Timing { cores, ..time }, peak_bytes, ..middle })
    }
}

/// Why the files of a workload cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrepareError {
    /// A model cannot be built or written.
    #[error(transparent)]
    Model(#[from] tracknet::Error),
    /// Frames cannot be rendered.
    #[error(transparent)]
    Frames(#[from] RenderError),
}

/// Writes the files that a workload reads into `dir`; most need none.
///
/// # Errors
/// The files cannot be made.
pub fn prepare(workload: &Workload, options: &Options, dir: &Path) -> Result<(), PrepareError> {
    match workload {
        Workload::Load { origin, size } => load::prepare(*origin, *size, options, dir)?,
        Workload::Data => data::prepare(dir)?,
        Workload::Train { .. } | Workload::Infer { .. } | Workload::Quantize => {}
    }
    Ok(())
}

/// Runs a workload whose files [`prepare`] wrote into `dir`.
///
/// # Errors
/// The workload cannot be built with these overrides on this device, or fails.
pub fn measure(workload: &Workload, options: &Options, dir: &Path) -> Result<Measurement> {
    let mut measurement = match workload {
        Workload::Train { mode, size, batch } => train::run(*mode, *size, *batch, options)?,
        Workload::Infer { weights, size, batch } => infer::run(*weights, *size, *batch, options)?,
        Workload::Quantize => quantize::run(options)?,
        Workload::Load { origin, size } => load::run(*origin, *size, options, dir)?,
        Workload::Data => data::run(options, dir)?,
    };
    measurement.name = workload.to_string();
    measurement.peak_bytes = process::peak_bytes();
    measurement.device_bytes = compute::Compute::new(&options.device).device_memory();
    Ok(measurement)
}

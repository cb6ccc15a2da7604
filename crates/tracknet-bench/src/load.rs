//! From a model directory to the first heatmap.
//!
//! The directory was just written, so its files are in the system's cache: what is measured is the work beyond reading
//! the disk.

use std::path::Path;
use std::time::Instant;

use burn::module::Module;
use tracknet::Result;
use tracknet::artifacts::build_model;
use tracknet::artifacts::pretrained::bnb::{QuantizeJob, quantize_checkpoint};
use tracknet::artifacts::pretrained::{StoredAs, write_backbone};
use tracknet_io::files::Destination;
use tracknet_io::process;
use tracknet_kernels::{ComputeDtype, QuantType, QuantizeOptions};

use crate::timing::milliseconds;
use crate::{Measurement, Options, Origin, Size, Timing, Weights, infer, setup};

const FLOATS: &str = "float";
const PACKED: &str = "packed";

/// Writes the directory.
pub(crate) fn prepare(origin: Origin, size: Size, options: &Options, dir: &Path) -> Result<()> {
    let config = setup::inference(Weights::Float, size, 1, &options.overrides)?;
    let (model, _) = build_model(&config.model, &config.data, 1, &options.device)?;
    let floats = dir.join(FLOATS);
    write_backbone(&floats, &model.backbone, StoredAs::F32)?;
    if origin == Origin::Packed {
        let options = QuantizeOptions { quant_type: QuantType::Nf4, blocksize: 64, double_quant: true };
        let job = QuantizeJob { options, compute_dtype: ComputeDtype::Bf16, skip_modules: Vec::new() };
        quantize_checkpoint(&floats, &Destination::new_directory(dir.join(PACKED)), &job)?;
    }
    Ok(())
}

/// Loads it once: the process is cold only once.
pub(crate) fn run(origin: Origin, size: Size, options: &Options, dir: &Path) -> Result<Measurement> {
    let clock = Instant::now();
    let weights = if origin == Origin::Nf4 { Weights::Nf4 } else { Weights::Float };
    let mut config = setup::inference(weights, size, 1, &options.overrides)?;
    let dir = dir.join(if origin == Origin::Packed { PACKED } else { FLOATS });
    config.model.pretrained_model_name = Some(dir.display().to_string());
    config.model.backbone.architecture = None;
    let resize = config.data.preprocess.resize;
    let (model, build) = build_model(&config.model, &config.data, config.training.seed, &options.device)?;
    let model = model.valid();
    let building = milliseconds(clock);
    let frame = vec![0.5; 3 * config.data.sequence.frames() * resize.iter().product::<usize>()];
    infer::heatmaps(&model, &frame, 1, resize, &options.device)?;
    let ms = milliseconds(clock);
    let cores = process::cpu_seconds().map(|busy| 1e3 * busy / ms);
    let time = Timing { median_ms: ms, min_ms: ms, max_ms: ms, repetitions: 1, cores };
    Ok(Measurement {
        parts: vec![("model".to_owned(), building), ("first prediction".to_owned(), ms - building)],
        backbone_bytes: Some(build.memory.backbone_stored),
        backbone_f32_bytes: Some(build.memory.backbone_f32),
        ..Measurement::new(time)
    })
}

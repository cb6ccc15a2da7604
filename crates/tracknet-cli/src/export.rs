//! `tracknet export`: the model of a run for other programs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use tracknet::artifacts::load_model_for_inference;
use tracknet::config::DtypeName;
use tracknet::export::{write_hugging_face, write_onnx};
use tracknet::models::VisitLayers;

use crate::args::{BaseArgs, FLOAT_DTYPES, OverwriteFlag, one_of};
use crate::device;
use crate::out::outln;

/// Write the model of a run for other programs, as a directory with a model card (README.md).
///
/// safetensors is a Hugging Face directory: the backbone, with the decoder and head beside it. It takes runs whose backbone trained
/// as a whole or was frozen without adapters: adapters and 4-bit weights cannot be written in this layout. The directory can be
/// named in model.pretrained_model_name (and model.decoder.pretrained) of another run.
///
/// onnx is the whole model in one file, model.onnx, for onnxruntime and others: adapters merged, 4-bit weights as floats, from
/// normalized frames to heatmaps; its metadata says what to do before and after.
#[derive(Args)]
#[command(after_help = "Examples:\n  tracknet export outputs/run-20260101-120000-s42 my-detector --format onnx\n  \
                        tracknet export outputs/run-20260101-120000-s42 my-backbone --dtype float16")]
pub(crate) struct ExportArgs {
    /// A run directory, or one of its checkpoints.
    run: PathBuf,
    /// The directory to write; only what tracknet wrote is replaced.
    destination: PathBuf,
    /// What the directory holds.
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    format: Format,
    /// How the values are stored.
    #[arg(long, value_parser = one_of(FLOAT_DTYPES), default_value_t = DtypeName::Float32)]
    dtype: DtypeName,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Hugging Face directory
    Safetensors,
    /// One ONNX file
    Onnx,
}

pub(crate) fn run(args: &ExportArgs) -> Result<ExitCode> {
    let destination = args.overwrite.directory(&args.destination, &[&args.run])?;
    let loaded = load_model_for_inference(&args.run, args.base.base.as_deref(), &device::resolve("cpu")?)?;
    // Of a 4-bit backbone `write_hugging_face` says itself that it cannot be exported.
    let has_adapters = loaded.config.model.lora.enabled && !loaded.model.backbone.is_quantized();
    if args.format == Format::Safetensors && has_adapters {
        bail!(
            "{}: the run trained LoRA adapters, and an exported backbone would lack them: with the decoder and head it \
             would not be the model that was trained; this format takes runs whose backbone trained as a whole or was frozen \
             without adapters (--format onnx merges adapters; eval and predict read this run as it is)",
            args.run.display()
        );
    }
    destination.write(|dir| match args.format {
        Format::Safetensors => write_hugging_face(dir, &loaded, args.dtype.into()),
        Format::Onnx => write_onnx(dir, &loaded, args.dtype.into()),
    })?;
    outln!("wrote {}", args.destination.display())?;
    Ok(ExitCode::SUCCESS)
}

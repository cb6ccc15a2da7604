//! `tracknet export`: the backbone of a run as a Hugging Face directory.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use tracknet::artifacts::load_model_for_inference;
use tracknet::artifacts::pretrained::{write_backbone, write_head};
use tracknet::config::DtypeName;
use tracknet::models::VisitLayers;

use crate::args::{BaseArgs, FLOAT_DTYPES, OverwriteFlag, one_of};
use crate::device;
use crate::out::outln;

/// Write the backbone of a run as a Hugging Face directory, with the decoder and head beside it.
///
/// Takes runs whose backbone trained as a whole or was frozen without adapters: adapters and 4-bit weights cannot be
/// written in this layout. The directory can be named in model.pretrained_model_name (and model.decoder.pretrained) of another run.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet export outputs/run-20260101-120000-s42 my-backbone --dtype float16")]
pub(crate) struct ExportArgs {
    /// A run directory, or one of its checkpoints.
    run: PathBuf,
    /// The directory to write; only what tracknet wrote is replaced.
    destination: PathBuf,
    /// How the values are stored.
    #[arg(long, value_parser = one_of(FLOAT_DTYPES), default_value_t = DtypeName::Float32)]
    dtype: DtypeName,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

pub(crate) fn run(args: &ExportArgs) -> Result<ExitCode> {
    let destination = args.overwrite.directory(&args.destination, &[&args.run])?;
    let loaded = load_model_for_inference(&args.run, args.base.base.as_deref(), &device::resolve("cpu")?)?;
    // Of a 4-bit backbone `write_backbone` says itself that it cannot be exported.
    if loaded.config.model.lora.enabled && !loaded.model.backbone.is_quantized() {
        bail!(
            "{}: the run trained LoRA adapters, and an exported backbone would lack them: with the decoder and head it \
             would not be the model that was trained; export takes runs whose backbone trained as a whole or was frozen \
             without adapters (eval and predict read this run as it is)",
            args.run.display()
        );
    }
    destination.write(|dir| {
        write_backbone(dir, &loaded.model.backbone, args.dtype.into())?;
        write_head(dir, &loaded.model, args.dtype.into())
    })?;
    outln!("wrote {}", args.destination.display())?;
    Ok(ExitCode::SUCCESS)
}

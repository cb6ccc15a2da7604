//! `tracknet inspect`: what a file or directory is, and what it holds.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tracknet::inspect::Inspection;

use crate::out::outln;
use crate::quantize::resolve;

/// Say what a file or directory is, and list its modules: shape, storage, bits per weight, adapter rank.
///
/// Knows model directories (floats or 4 bits, one file or shards), PEFT adapters, runs and their checkpoints, and any
/// safetensors file. Weights are read only for --against.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet inspect dinov3-small-nf4
  tracknet inspect dinov3-small-nf4 --against facebook/dinov3-vits16-pretrain-lvd1689m
  tracknet inspect outputs/run-20260101-120000-s42 --json")]
pub(crate) struct InspectArgs {
    /// A directory, a safetensors file, or a hub id in the local cache.
    path: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Measure the quantization error of each 4-bit layer against this float model.
    #[arg(long, value_name = "DIR")]
    against: Option<String>,
}

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode> {
    let path = locate(&args.path)?;
    let mut inspection = Inspection::of(&path)?;
    if let Some(against) = &args.against {
        inspection.measure(&locate(against)?)?;
    }
    if args.json {
        outln!("{}", serde_json::to_string_pretty(&inspection).context("cannot write as JSON")?)?;
    } else {
        outln!("{inspection}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What exists is taken as it is; else it may be a hub id.
fn locate(name: &str) -> Result<PathBuf> {
    if Path::new(name).exists() {
        return Ok(PathBuf::from(name));
    }
    resolve(name)
}

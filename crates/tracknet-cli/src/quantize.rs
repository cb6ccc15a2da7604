//! `tracknet quantize` and `tracknet dequantize`: model directories from floats to 4 bits and back.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use tracknet::artifacts::pretrained::bnb::{QuantizeJob, dequantize_checkpoint, quantize_checkpoint};
use tracknet::artifacts::pretrained::{StoredAs, hub};
use tracknet::config::{DtypeName, QuantTypeName, Words};
use tracknet::models::{ModelError, memory, words};
use tracknet_kernels::QuantizeOptions;
use tracknet_kernels::fourbit::BLOCKSIZES;

use crate::args::{OverwriteFlag, one_of};
use crate::out::outln;

/// Write a float model directory in 4 bits, as bitsandbytes and transformers write and read it.
///
/// Takes a Hugging Face directory (or a hub id in the local cache) with one safetensors file or shards. Every linear layer
/// of the backbone is packed; embeddings, norms, biases and a classification head stay as they are. One weight at a time
/// is read as floats, so that large models need little memory.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet quantize facebook/dinov3-vits16-pretrain-lvd1689m dinov3-small-nf4
  tracknet quantize my-backbone my-backbone-fp4 --quant-type fp4 --blocksize 128 --no-double-quant --skip o_proj

The result can be named in model.pretrained_model_name, and loads with AutoModel.from_pretrained.")]
pub(crate) struct QuantizeArgs {
    /// The float model: a directory, or a hub id in the local cache.
    #[arg(value_name = "SRC")]
    source: String,
    /// The directory to write; only what tracknet wrote is replaced.
    #[arg(value_name = "DST")]
    destination: PathBuf,
    /// The code: normal float or 4-bit float.
    #[arg(long, value_parser = one_of(QuantTypeName::VARIANTS), default_value_t = QuantTypeName::Nf4)]
    quant_type: QuantTypeName,
    /// Weights that share a scale.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = parse_blocksize)]
    blocksize: usize,
    /// Store the scales in 8 bits too (the default).
    #[arg(long, overrides_with = "no_double_quant")]
    double_quant: bool,
    /// Store the scales as 32-bit floats.
    #[arg(long, overrides_with = "double_quant")]
    no_double_quant: bool,
    /// What programs that load the result round unpacked weights to.
    #[arg(long, value_parser = one_of(DTYPES), default_value_t = DtypeName::Bfloat16)]
    compute_dtype: DtypeName,
    /// A layer to leave as floats (may be repeated, or separated by commas): the end of its path, or a pattern for whole
    /// components from the start of it, as in llm_int8_skip_modules of transformers 5.24.
    #[arg(long, value_name = "LAYER", value_delimiter = ',')]
    skip: Vec<String>,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

/// Write a 4-bit model directory as floats.
///
/// Each weight becomes what its codes stand for, in the type it had before it was quantized, or in --dtype.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet dequantize dinov3-small-nf4 dinov3-small --dtype float32")]
pub(crate) struct DequantizeArgs {
    /// The 4-bit model: a directory, or a hub id in the local cache.
    #[arg(value_name = "SRC")]
    source: String,
    /// The directory to write; only what tracknet wrote is replaced.
    #[arg(value_name = "DST")]
    destination: PathBuf,
    /// Store every float tensor in this type.
    #[arg(long, value_parser = one_of(DTYPES))]
    dtype: Option<DtypeName>,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

/// `--dtype`, `--compute-dtype`.
const DTYPES: &[DtypeName] = &[DtypeName::Float32, DtypeName::Float16, DtypeName::Bfloat16];

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<ExitCode> {
    let source = resolve(&args.source)?;
    let destination = args.overwrite.directory(&args.destination, &[&source])?;
    let quant_type = words::quant_type(args.quant_type);
    let double_quant = args.double_quant || !args.no_double_quant;
    let job = QuantizeJob {
        options: QuantizeOptions { quant_type, blocksize: args.blocksize, double_quant },
        compute_dtype: words::compute_dtype(args.compute_dtype),
        skip_modules: args.skip.clone(),
    };
    let report = quantize_checkpoint(&source, &destination, &job)?;
    outln!("{}\n{report}\nwrote {}", report.table(), args.destination.display())?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn dequantize(args: &DequantizeArgs) -> Result<ExitCode> {
    let source = resolve(&args.source)?;
    let destination = args.overwrite.directory(&args.destination, &[&source])?;
    let report = dequantize_checkpoint(&source, &destination, args.dtype.map(StoredAs::from))?;
    let [before, after] = [report.before, report.after].map(memory::bytes);
    outln!("{} layers, {before} → {after}\nwrote {}", report.layers, args.destination.display())?;
    Ok(ExitCode::SUCCESS)
}

/// A directory, or what the local hub cache has under the name. Nothing is downloaded.
pub(crate) fn resolve(name: &str) -> Result<PathBuf> {
    match hub::find(name) {
        Ok(path) => Ok(path),
        // The key of a configuration, where there is none.
        Err(tracknet::Error::Model(ModelError::Key { message, .. })) => bail!("{message}"),
        Err(error) => Err(error.into()),
    }
}

fn parse_blocksize(text: &str) -> Result<usize, String> {
    let size = text.parse::<usize>().ok().filter(|size| BLOCKSIZES.contains(size));
    size.ok_or_else(|| format!("expected one of {}", BLOCKSIZES.map(|n| n.to_string()).join(", ")))
}

//! `tracknet adapter merge | unmerge | list | status | convert | diff`: work on LoRA adapters and their bases.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use clap::{Args, Subcommand};
use tracknet::artifacts::adapter::peft::WEIGHTS_FILE;
use tracknet::artifacts::adapter::peft_config::CONFIG_FILE;
use tracknet::artifacts::adapter::{AdapterFile, PeftConfig, compare_adapters, convert_adapter};
use tracknet::artifacts::build_backbone;
use tracknet::artifacts::load_model_for_inference;
use tracknet::artifacts::pretrained::{write_backbone, write_head, write_packed_backbone};
use tracknet::artifacts::run::named_adapters;
use tracknet::config::{DtypeName, LoraConfig, QuantizationConfig};
use tracknet::console::printable;
use tracknet::files::Destination;
use tracknet::models::backbones::ModulePaths;
use tracknet::models::lora::{Deviation, MergeInto, counted, layer_status, merge_adapters, status_table};
use tracknet::models::quantization::dequantize;
use tracknet::models::{Backbone, HeatmapModel, VisitLayers};

use crate::args::{FLOAT_DTYPES, OverwriteFlag, one_of};
use crate::device;
use crate::out::outln;
use crate::quantize::resolve;

/// Work on LoRA adapters: merge them into their base and back, list, compare and convert them.
///
/// An ADAPTER is a directory in the layout of Hugging Face PEFT (adapter_config.json, adapter_model.safetensors), as
/// training writes one into every checkpoint. Where a SOURCE is asked for, a run or a checkpoint will do as well.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet adapter status outputs/run-20260101-120000-s42
  tracknet adapter merge my-adapter merged --base facebook/dinov3-vits16-pretrain-lvd1689m")]
pub(crate) struct AdapterArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Merge(MergeArgs),
    Unmerge(UnmergeArgs),
    List(ListArgs),
    Status(StatusArgs),
    Convert(ConvertArgs),
    Diff(DiffArgs),
}

/// Merge an adapter into its base, and write the result as a Hugging Face directory.
///
/// A base in 4 bits is merged as the floats that it stands for, and written as floats unless --requantize is given. Says how
/// much the outputs on random frames changed. Of a run, decoder and head are written beside the backbone.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet adapter merge outputs/run-20260101-120000-s42 merged
  tracknet adapter merge my-adapter merged --base models/dinov3-vits16 --dtype float16
  tracknet adapter merge my-adapter merged-nf4 --base dinov3-small-nf4 --requantize")]
struct MergeArgs {
    /// An adapter directory, a run, or a checkpoint.
    source: PathBuf,
    /// The directory to write; only what tracknet wrote is replaced.
    destination: PathBuf,
    #[command(flatten)]
    base: BackboneArgs,
    /// How values are stored that are not in 4 bits.
    #[arg(long, value_parser = one_of(FLOAT_DTYPES), default_value_t = DtypeName::Float32)]
    dtype: DtypeName,
    /// Write the merged weights of a 4-bit base in 4 bits again, in the format they had, and say what that costs beside
    /// the deviation of floats.
    #[arg(long)]
    requantize: bool,
    /// Random frames that outputs are compared on.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = crate::args::parse_count)]
    probe: usize,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

/// Take an adapter out of a merged backbone: the base, within rounding.
///
/// DoRA adapters cannot be taken out: the lengths that the rows of the base had are not in any file.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet adapter unmerge merged my-adapter base-again")]
struct UnmergeArgs {
    /// The merged backbone, a Hugging Face directory of float weights.
    merged: PathBuf,
    /// The adapter directory that was merged.
    adapter: PathBuf,
    /// The directory to write; only what tracknet wrote is replaced.
    destination: PathBuf,
    /// How the values are stored.
    #[arg(long, value_parser = one_of(FLOAT_DTYPES), default_value_t = DtypeName::Float32)]
    dtype: DtypeName,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

/// List the adapters of a run, or below a directory.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet adapter list outputs/run-20260101-120000-s42")]
struct ListArgs {
    /// A run, a checkpoint, an adapter directory, or a directory of some.
    path: PathBuf,
}

/// Show every layer that can carry an adapter: what it carries, and how its base weight is stored.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet adapter status outputs/run-20260101-120000-s42")]
struct StatusArgs {
    /// An adapter directory, a run, or a checkpoint.
    source: PathBuf,
    #[command(flatten)]
    base: BackboneArgs,
}

/// Rewrite an adapter as a plain LoRA adapter that loads on the untouched base.
///
/// The scale of rsLoRA becomes a plain lora_alpha; a start that changed the base (pissa, olora) becomes part of the
/// update, at twice the rank, and needs --base. Tensors are written as float32 under the names that PEFT uses.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet adapter convert pissa-adapter plain-adapter --base models/dinov3-vits16")]
struct ConvertArgs {
    /// An adapter directory.
    adapter: PathBuf,
    /// The directory to write; only what tracknet wrote is replaced.
    destination: PathBuf,
    #[command(flatten)]
    base: BackboneArgs,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

/// Compare two adapters by what they compute. Exit code 0: equal, 1: they differ.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet adapter diff outputs/run-a/checkpoints/best/adapter my-adapter")]
struct DiffArgs {
    /// An adapter directory.
    first: PathBuf,
    /// Another one.
    second: PathBuf,
    /// Differences up to this count as equal.
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = parse_tolerance)]
    tolerance: f32,
}

/// Which backbone an adapter belongs to.
#[derive(Args)]
struct BackboneArgs {
    /// The backbone: a Hugging Face directory or hub id. By default the one that the adapter or run names.
    #[arg(long, value_name = "DIR|ID")]
    base: Option<String>,
}

fn parse_tolerance(text: &str) -> Result<f32, String> {
    let value = text.parse::<f32>().ok().filter(|x| x.is_finite() && *x >= 0.0);
    value.ok_or_else(|| "expected a number of at least 0".to_owned())
}

pub(crate) fn run(args: &AdapterArgs) -> Result<ExitCode> {
    match &args.action {
        Action::Merge(args) => merge(args),
        Action::Unmerge(args) => unmerge(args),
        Action::List(args) => list(args),
        Action::Status(args) => status(args),
        Action::Convert(args) => convert(args),
        Action::Diff(args) => diff(args),
    }
}

/// A backbone with its adapter, alone or as part of a run's model.
enum Adapted {
    Backbone(Box<Backbone>),
    Run(Box<HeatmapModel>),
}

impl Adapted {
    /// From an adapter directory and its base, or from a run.
    fn open(source: &Path, base: Option<&str>, device: &Device) -> Result<Self> {
        if !is_adapter(source) {
            check_source(source)?;
            let loaded = load_model_for_inference(source, base, device)?;
            if loaded.build.lora.is_none() {
                bail!("{}: the run has no adapters", source.display());
            }
            return Ok(Self::Run(Box::new(loaded.model)));
        }
        let base = base_of(source, base)?;
        let lora = LoraConfig { enabled: true, adapter: Some(source.to_path_buf()), ..LoraConfig::default() };
        let (backbone, report) = build_backbone(&base, &lora, &QuantizationConfig::default(), device)?;
        for note in report.lora.iter().flat_map(|lora| counted(&lora.notes)) {
            outln!("{}", printable(&note))?;
        }
        Ok(Self::Backbone(Box::new(backbone)))
    }

    fn backbone(&self) -> &Backbone {
        match self {
            Self::Backbone(backbone) => backbone,
            Self::Run(model) => &model.backbone,
        }
    }

    fn status(&self) -> String {
        status_table(&match self {
            Self::Backbone(backbone) => layer_status(&**backbone),
            // What would train, although the model was loaded to predict.
            Self::Run(model) => layer_status(&(**model).clone().train()),
        })
    }
}

fn is_adapter(path: &Path) -> bool {
    path.join(CONFIG_FILE).is_file()
}

/// Refuses what is neither an adapter nor a run by what it is.
fn check_source(path: &Path) -> Result<()> {
    let is_model = path.join("config.json").is_file() && !path.join("checkpoints").is_dir();
    if path.is_file() || is_model || path.join(WEIGHTS_FILE).is_file() || path.join("adapter_model.bin").is_file() {
        // Says what is there instead.
        PeftConfig::read(path)?;
    }
    Ok(())
}

/// The directory of the backbone that an adapter belongs to.
fn base_of(adapter: &Path, given: Option<&str>) -> Result<String> {
    let directory = match given {
        Some(base) => resolve(base)?,
        None => {
            let named = PeftConfig::read(adapter)?
                .base_model
                .with_context(|| format!("{}: names no base model; say where it is with --base", adapter.display()))?;
            resolve(&named)
                .with_context(|| format!("{} was made for {named}; say where that is with --base", adapter.display()))?
        }
    };
    if is_adapter(&directory) && !directory.join("config.json").is_file() {
        bail!("{}: is an adapter; --base takes the model that it is for", directory.display());
    }
    Ok(directory.display().to_string())
}

/// Checks where a verb writes that reads an adapter, or a run, and its base.
fn destination(overwrite: &OverwriteFlag, path: &Path, source: &Path, base: &BackboneArgs) -> Result<Destination> {
    // A base that cannot be found is an error later, with its reason.
    let base = if is_adapter(source) { base_of(source, base.base.as_deref()).ok() } else { base.base.clone() };
    let base = base.map(PathBuf::from);
    let inputs: Vec<&Path> = [Some(source), base.as_deref()].into_iter().flatten().collect();
    Ok(overwrite.directory(path, &inputs)?)
}

/// Normalized random frames: the same ones every time.
fn probe(backbone: &Backbone, frames: usize, device: &Device) -> Tensor<4> {
    let side = 4 * backbone.spec().layout().coarsest().stride;
    device.seed(0);
    Tensor::random([frames, 3, side, side], Distribution::Normal(0.0, 1.0), device)
}

fn merge(args: &MergeArgs) -> Result<ExitCode> {
    let destination = destination(&args.overwrite, &args.destination, &args.source, &args.base)?;
    let device = device::resolve("cpu")?;
    let adapted = Adapted::open(&args.source, args.base.base.as_deref(), &device)?;
    let backbone = adapted.backbone();
    if args.requantize && !backbone.is_quantized() {
        bail!("--requantize: the base is not stored in 4 bits");
    }
    let frames = probe(backbone, args.probe, &device);
    let before = backbone.tokens(frames.clone());
    let deviation = |merged: &Backbone| Deviation::between(before.clone(), merged.tokens(frames.clone()));
    // Layers of a 4-bit base that have no adapter become floats, too.
    let floats = dequantize(merge_adapters(backbone.clone(), MergeInto::Float)?);
    outln!("{}{}", if args.requantize { "as floats: " } else { "" }, deviation(&floats)?)?;
    let merged = if args.requantize {
        let packed = merge_adapters(backbone.clone(), MergeInto::Requantized)?;
        outln!("in 4 bits again: {}", deviation(&packed)?)?;
        packed
    } else {
        floats
    };
    destination.write(|dir| {
        match args.requantize {
            true => write_packed_backbone(dir, &merged, args.dtype.into())?,
            false => write_backbone(dir, &merged, args.dtype.into())?,
        }
        match &adapted {
            Adapted::Run(model) => write_head(dir, model, args.dtype.into()),
            Adapted::Backbone(_) => Ok(()),
        }
    })?;
    outln!("wrote {}", args.destination.display())?;
    Ok(ExitCode::SUCCESS)
}

fn unmerge(args: &UnmergeArgs) -> Result<ExitCode> {
    let destination = args.overwrite.directory(&args.destination, &[&args.merged, &args.adapter])?;
    let device = device::resolve("cpu")?;
    let merged = args.merged.display().to_string();
    let (mut base, _) = build_backbone(&merged, &LoraConfig::default(), &QuantizationConfig::default(), &device)?;
    if base.is_quantized() {
        bail!("{merged}: is stored in 4 bits, where rounding has swallowed what would be taken out");
    }
    AdapterFile::read(&args.adapter, base.module_paths())?.unmerge(&mut base)?;
    destination.write(|dir| write_backbone(dir, &base, args.dtype.into()))?;
    outln!("wrote {}", args.destination.display())?;
    Ok(ExitCode::SUCCESS)
}

fn list(args: &ListArgs) -> Result<ExitCode> {
    let found = if is_adapter(&args.path) {
        let name = args.path.file_name().map_or_else(|| ".".into(), |name| name.to_string_lossy().into_owned());
        vec![(name, args.path.clone())]
    } else {
        named_adapters(&args.path)?
    };
    if found.is_empty() {
        bail!("{}: no adapter in it: no directory holds an {CONFIG_FILE}", args.path.display());
    }
    let width = found.iter().map(|(name, _)| name.len()).max().unwrap_or_default().max(4);
    outln!("{:width$}  {:>5}  {:>7}  {:>7}  {:11}  base", "name", "r", "alpha", "modules", "variant")?;
    let mut damaged = None;
    let all = found.len();
    for (name, dir) in found {
        let name = printable(&name);
        let file = match AdapterFile::read(&dir, ModulePaths::AsWritten) {
            Ok(file) => file,
            Err(error) => {
                outln!("{name:width$}  cannot be read: {}", printable(&error.to_string()))?;
                let count = damaged.map_or(1, |(_, count)| count + 1);
                damaged = Some((error, count));
                continue;
            }
        };
        let lora = &file.config.lora;
        let variant = match (lora.use_rslora, lora.use_dora) {
            (false, false) => "lora",
            (true, false) => "rslora",
            (false, true) => "dora",
            (true, true) => "rslora+dora",
        };
        let base = printable(file.config.base_model.as_deref().unwrap_or("-")).into_owned();
        let modules = file.module_paths().count();
        outln!("{name:width$}  {:>5}  {:>7}  {modules:>7}  {variant:11}  {base}", lora.r, lora.lora_alpha)?;
    }
    match damaged {
        Some((error, count)) if count == all => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn status(args: &StatusArgs) -> Result<ExitCode> {
    // On a device with gradients, so that the table says what would train.
    let device = device::resolve("cpu")?.autodiff();
    let adapted = Adapted::open(&args.source, args.base.base.as_deref(), &device)?;
    outln!("{}", adapted.status())?;
    Ok(ExitCode::SUCCESS)
}

fn convert(args: &ConvertArgs) -> Result<ExitCode> {
    let destination = destination(&args.overwrite, &args.destination, &args.adapter, &args.base)?;
    let device = device::resolve("cpu")?;
    let needs_base = PeftConfig::read(&args.adapter)?.lora.init_lora_weights.reads_weights();
    let base = match (&args.base.base, needs_base) {
        (None, false) => None,
        (given, _) => {
            let name = base_of(&args.adapter, given.as_deref())?;
            Some(build_backbone(&name, &LoraConfig::default(), &QuantizationConfig::default(), &device)?.0)
        }
    };
    // Without the base the names stay as they are.
    let paths = base.as_ref().map_or(ModulePaths::AsWritten, |base| base.module_paths());
    let plain = convert_adapter(AdapterFile::read(&args.adapter, paths)?, base.as_ref())?;
    destination.write(|dir| plain.write(dir))?;
    let lora = &plain.config.lora;
    outln!("wrote {}: r {}, lora_alpha {}", args.destination.display(), lora.r, lora.lora_alpha)?;
    Ok(ExitCode::SUCCESS)
}

fn diff(args: &DiffArgs) -> Result<ExitCode> {
    // Two spellings of a path are the same module.
    let read = |dir: &Path| AdapterFile::read(dir, ModulePaths::AnyFamily);
    let mut difference = compare_adapters(&read(&args.first)?, &read(&args.second)?)?;
    difference.tensors.retain(|t| t.max > args.tolerance);
    outln!("{difference}")?;
    Ok(if difference.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

//! `tracknet bench`: the workloads of docs/performance.md on this machine, each in a process of its own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use serde::de::DeserializeOwned;
use tracknet::console;
use tracknet::files::write_atomic;
use tracknet_bench::{Machine, Measurement, Options, Repeat, Report, Workload, measure, prepare};

use crate::args::{DeviceArgs, OverwriteFlag, parse_count};
use crate::device;
use crate::out::outln;

/// What the library's thread pool takes its size from.
const THREADS_VARIABLE: &str = "RAYON_NUM_THREADS";
/// Worker of the process that measures the machine.
const MACHINE: &str = "machine";

/// Measure time and memory of training, prediction, quantization, loading and reading frames on this machine.
///
/// Prints a Markdown table. Weights are random and nothing has to be downloaded; backbones are DINOv3's ViT-S and
/// ViT-B, frames 512×288. Each workload runs in a process of its own: two warm-ups, then the median of some repetitions.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet bench train/qlora/S                     # one workload
  tracknet bench infer --threads 2 --json out.json # every workload whose name contains `infer`
  tracknet bench train/lora training.gradient_checkpointing=true")]
pub(crate) struct BenchArgs {
    /// Parts of names of workloads (see --list), and values for their configuration.
    #[arg(value_name = "PATTERN|SECTION.KEY=VALUE")]
    arguments: Vec<String>,
    /// Name the workloads and stop.
    #[arg(long)]
    list: bool,
    /// Also write everything as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    overwrite: OverwriteFlag,
    /// Threads; by default one for each core.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    threads: Option<usize>,
    /// Repetitions after the warm-ups; up to three times as many if they are short.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = parse_count)]
    steps: usize,
    /// Frames in a batch, in place of each workload's own.
    #[arg(long, value_name = "N", value_parser = parse_count)]
    batch: Option<usize>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Run one workload here and print its measurement as JSON.
    #[arg(long, hide = true, value_name = "NAME")]
    worker: Option<String>,
    /// Where the files of the worker's workload are.
    #[arg(long, hide = true, value_name = "DIR", default_value = ".")]
    files: PathBuf,
}

pub(crate) fn run(args: &BenchArgs) -> Result<ExitCode> {
    if let Some(name) = &args.worker {
        return work(args, name);
    }
    let patterns = args.arguments.iter().filter(|argument| !is_override(argument)).cloned().collect::<Vec<_>>();
    let workloads = Workload::select(Workload::all(args.batch), &patterns).map_err(|message| anyhow!(message))?;
    if args.list {
        workloads.iter().try_for_each(|workload| outln!("{workload}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(path) = &args.json {
        args.overwrite.json(path, &["version", "machine", "device", "workloads"], &[])?;
    }
    // Without a choice it is the processor.
    let device = if args.device.device == "auto" { "cpu" } else { args.device.device.as_str() };
    device::resolve(device)?;
    let mut report = Report::new(child::<Machine>(args, MACHINE, Path::new("."))?, device);
    outln!("{}", report.heading())?;
    let mut failed = false;
    for workload in workloads {
        match in_processes(args, &workload) {
            Ok(measurement) => {
                outln!("{}", report.row(&measurement))?;
                report.workloads.push(measurement);
            }
            Err(error) => {
                console::say(format_args!("error: {workload}: {error:#}"));
                failed = true;
            }
        }
    }
    if let Some(path) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        write_atomic(path, |w| w.write_all(&json))?;
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Prepares a workload here and measures it in other processes.
fn in_processes(args: &BenchArgs, workload: &Workload) -> Result<Measurement> {
    let files = tempfile::tempdir().context("a temporary directory")?;
    prepare(workload, &options(args)?, files.path())?;
    let measured = || child::<Measurement>(args, &workload.to_string(), files.path());
    if !workload.is_cold() {
        return measured();
    }
    // The first brings the program and the files into the system's cache.
    measured()?;
    let runs = (0..args.steps).map(|_| measured()).collect::<Result<Vec<_>>>()?;
    Measurement::of_processes(runs).context("no repetition")
}

/// Runs this program as a worker and reads what it prints.
fn child<T: DeserializeOwned>(args: &BenchArgs, worker: &str, files: &Path) -> Result<T> {
    let mut command = Command::new(std::env::current_exe().context("the path of this program")?);
    command.args(["bench", "--worker", worker, "--steps", &args.steps.to_string(), "--device", &args.device.device]);
    command.arg("--files").arg(files);
    if let Some(batch) = args.batch {
        command.args(["--batch", &batch.to_string()]);
    }
    if let Some(threads) = args.threads {
        command.env(THREADS_VARIABLE, threads.to_string());
    }
    command.args(args.arguments.iter().filter(|argument| is_override(argument)));
    let output = command.stderr(Stdio::inherit()).output().context("cannot start this program again")?;
    if !output.status.success() {
        bail!("the process that ran it failed ({})", output.status);
    }
    serde_json::from_slice(&output.stdout).context("the process that ran it printed something else")
}

/// What a worker does.
fn work(args: &BenchArgs, name: &str) -> Result<ExitCode> {
    if name == MACHINE {
        outln!("{}", serde_json::to_string(&Machine::measure())?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let workload = Workload::all(args.batch).into_iter().find(|workload| workload.to_string() == name);
    let workload = workload.with_context(|| format!("no workload is called `{name}`"))?;
    let measurement = measure(&workload, &options(args)?, &args.files)?;
    outln!("{}", serde_json::to_string(&measurement)?)?;
    Ok(ExitCode::SUCCESS)
}

fn options(args: &BenchArgs) -> Result<Options> {
    Ok(Options {
        device: device::resolve(&args.device.device)?,
        repeat: Repeat { steps: args.steps },
        overrides: args.arguments.iter().filter(|argument| is_override(argument)).cloned().collect(),
    })
}

/// Names of workloads have no `=`.
fn is_override(argument: &str) -> bool {
    argument.contains('=')
}

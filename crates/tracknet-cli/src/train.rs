//! `tracknet train`: resolve the configuration, fit, and say where everything is.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use tracknet::artifacts::{BuildReport, build_model, find_backbone};
use tracknet::compute::Compute;
use tracknet::config::{Config, Loaded};
use tracknet::console;
use tracknet::evaluation::report::EVALUATION_FILE;
use tracknet::models::MemoryReport;
use tracknet::models::memory::bytes;
use tracknet::training::{Console, FitOptions, Outcome, fit, training_peak, with_schedule};

use crate::args::{ConfigArgs, DeviceArgs};
use crate::device;
use crate::interrupt::Interrupt;
use crate::out::outln;

/// Train a ball detector: adapters on a frozen (4-bit) backbone, a decoder and a head; or everything.
///
/// Resolves and checks the configuration, reads the labels, builds the model, prints the parameter and memory
/// reports, trains, and evaluates the best checkpoint on the validation games. Ctrl-C finishes the step and writes
/// a checkpoint that --resume continues bit for bit.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet train --data tracknet --model vit_qlora_heatmap --training default data.root=data/tennis
  tracknet train --resume outputs/run-20260101-120000-s42 training.epochs=30
  tracknet train --model vit_qlora_heatmap --dry-run")]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Continue the run of this directory.
    #[arg(long, value_name = "RUN")]
    resume: Option<PathBuf>,
    /// Most memory the run may use, in MB; by default what the system has available.
    #[arg(long, value_name = "MB")]
    memory_limit: Option<u64>,
    /// Resolve, validate, report parameters and memory; write nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(args: &TrainArgs) -> Result<ExitCode> {
    let mut sources = args.config.sources();
    sources.run = args.resume.clone();
    let Loaded { config, notes, .. } = Config::load(&sources).map_err(tracknet::Error::from)?;
    for note in &notes {
        console::note(note);
    }
    let device = device::resolve(&args.device.device)?;
    if args.dry_run {
        return dry_run(&config, &device, args.resume.is_some());
    }
    if !config.model.backbone.local_files_only {
        // A download may end at once and goes on later; what listens to signals lets a first one pass.
        find_backbone(&config.model)?;
    }
    let interrupt = Interrupt::listen()?;
    let options = FitOptions {
        device,
        resume: args.resume.clone(),
        stop: interrupt.stop.clone(),
        memory_limit: args.memory_limit.map(|mb| mb << 20),
    };
    let report = fit(&config, options, &mut Console::new())?;
    let run = report.paths.root.display();
    if report.outcome == Outcome::Interrupted {
        console::say(format_args!("interrupted; continue with: tracknet train --resume {run}"));
        return Ok(interrupt.exit_code());
    }
    if let Some(evaluation) = &report.evaluation {
        // It is in the run's directory, too, whoever reads it here.
        outln!("\nbest checkpoint on the validation games\n{}", evaluation.report)?;
        outln!("evaluation: {}", report.paths.root.join(EVALUATION_FILE).display())?;
    }
    outln!("run: {run}\nnext: tracknet eval {run}\n      tracknet predict {run} VIDEO_OR_FOLDER")?;
    Ok(ExitCode::SUCCESS)
}

/// Builds the model and reports it; writes nothing.
fn dry_run(config: &Config, device: &burn::tensor::Device, resumed: bool) -> Result<ExitCode> {
    let mut section = config.model.clone();
    if resumed {
        // As when it resumes: the head comes from the checkpoint.
        section.decoder.pretrained = None;
    }
    let compute = Compute::new(device);
    let (model, report) = build_model(&section, &config.data, config.training.seed, &compute.training_device())?;
    let model = with_schedule(config, model);
    outln!("{}", BuildReport { memory: MemoryReport::of(&model), ..report })?;
    let batch = config.training.batch_size;
    let peak = bytes(training_peak(config, &model, &compute, batch));
    outln!("estimated training peak at batch {batch}: {peak}")?;
    outln!("the run would be written to {}", config.runtime.run_dir().display())?;
    Ok(ExitCode::SUCCESS)
}

//! `tracknet eval`: the field's metrics of a run on games.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, ValueEnum};
use tracknet::evaluation::{DecodeOptions, MetricOptions, Tolerance, VisibleSet};
use tracknet::training::{EvaluateOptions, evaluate_run};

use crate::args::{ConfigArgs, DeviceArgs};
use crate::device;

/// Measure a trained run on games: precision, recall, F1, AP, RMSE, PCK, in total and by game.
///
/// Starts from the run's own configuration; flags and overrides replace parts of it. Games default to the run's
/// test games, or its validation games when it has none.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet eval outputs/run-20260101-120000-s42
  tracknet eval outputs/run-20260101-120000-s42 --games game11,game12 data.root=data/other --json report.json")]
pub(crate) struct EvalArgs {
    /// A run directory, or one of its checkpoints.
    run: PathBuf,
    /// Games to measure on (comma-separated).
    #[arg(long, value_delimiter = ',')]
    games: Vec<String>,
    /// Score from which a frame counts as having a ball.
    #[arg(long, default_value_t = 0.5)]
    threshold: f32,
    /// Largest distance of a hit, in pixels at 512x288.
    #[arg(long, default_value_t = 4.0)]
    tolerance: f32,
    /// Which labels count as visible: 123 or 12 (occluded balls left out).
    #[arg(long, value_enum, default_value_t = Visible::All)]
    visible: Visible,
    /// Write the full report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// `--visible`.
#[derive(Clone, Copy, ValueEnum)]
enum Visible {
    /// Visible, hard and occluded.
    #[value(name = "123")]
    All,
    /// Visible and hard.
    #[value(name = "12")]
    Seen,
}

pub(crate) fn run(args: &EvalArgs) -> Result<ExitCode> {
    let mut sources = args.config.sources();
    sources.run = Some(args.run.clone());
    let metrics = MetricOptions {
        threshold: args.threshold,
        tolerance: Tolerance::At512(args.tolerance),
        visible: match args.visible {
            Visible::All => VisibleSet::All,
            Visible::Seen => VisibleSet::Seen,
        },
        ..MetricOptions::default()
    };
    let options = EvaluateOptions { decode: DecodeOptions::default(), metrics, limit_batches: 0 };
    let device = device::resolve(&args.device.device)?;
    let evaluation = evaluate_run(&args.run, &sources, &args.games, &device, &options)?;
    println!("{}", evaluation.report);
    if let Some(path) = &args.json {
        evaluation.report.write_json(path)?;
        println!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

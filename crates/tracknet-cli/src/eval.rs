//! `tracknet eval`: the field's metrics of a run on games.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use tracknet::artifacts::load_model_with_adapter;
use tracknet::config::Config;
use tracknet::console;
use tracknet::datasets::split_of;
use tracknet::evaluation::{Diagnosis, MetricOptions, Tolerance, VisibleSet};
use tracknet::training::{EvaluateOptions, evaluate};

use crate::args::{
    AdapterFlags, BaseArgs, ConfigArgs, DeviceArgs, OverwriteFlag, TrackArgs, asked_games, files_of_run,
    parse_distance, parse_score,
};
use crate::device;
use crate::out::outln;

/// Measure a trained run on games: precision, recall, F1, AP, RMSE, PCK, in total and by game.
///
/// Starts from the run's own configuration; flags and overrides replace parts of it. Games default to the run's
/// test games, or its validation games when it has none.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet eval outputs/run-20260101-120000-s42
  tracknet eval outputs/run-20260101-120000-s42 --games game11,game12 data.root=data/other --json report.json
  tracknet eval outputs/run-20260101-120000-s42 --track")]
pub(crate) struct EvalArgs {
    /// A run directory, or one of its checkpoints.
    run: PathBuf,
    /// Games to measure on (comma-separated names and ranges, such as game1..game9).
    #[arg(long, value_delimiter = ',')]
    games: Vec<String>,
    /// Score from which a frame counts as having a ball.
    #[arg(long, default_value_t = 0.5, value_parser = parse_score)]
    threshold: f32,
    /// Largest distance of a hit, in pixels at 512x288.
    #[arg(long, default_value_t = 4.0, value_parser = parse_distance)]
    tolerance: f32,
    /// Which labels count as visible: 1,2,3 or 1,2 (occluded balls left out).
    #[arg(long, default_value_t = VisibleSet::default())]
    visible: VisibleSet,
    #[command(flatten)]
    track: TrackArgs,
    /// Write the full report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    overwrite: OverwriteFlag,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    adapter: AdapterFlags,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &EvalArgs) -> Result<ExitCode> {
    refuse_another_model(&args.config)?;
    if let Some(path) = &args.json {
        args.overwrite.json(path, &["options", "total", "games"], &files_of_run(&args.run))?;
    }
    let device = device::resolve(&args.device.device)?;
    let adapter = args.adapter.choice(&args.run)?;
    let loaded = load_model_with_adapter(&args.run, args.base.base.as_deref(), &adapter, &device)?;
    let mut sources = args.config.sources();
    // The configuration beside the weights, not only that of the run directory: a checkpoint can be moved.
    sources.run = Some(loaded.checkpoint.dir.clone());
    let config = Config::load(&sources).map_err(tracknet::Error::from)?.config;
    let split = split_of(&config.data)?;
    let asked = asked_games(&args.games)?;
    let games = match (asked.is_empty(), split.test_games.is_empty()) {
        (false, _) => &asked,
        (true, false) => &split.test_games,
        (true, true) => &split.val_games,
    };
    let metrics = MetricOptions {
        threshold: args.threshold,
        tolerance: Tolerance::Scaled { px: args.tolerance, width: 512 },
        visible: args.visible,
        track: args.track.options(args.threshold, NonZeroU64::MIN, || None),
        ..MetricOptions::default()
    };
    let options = EvaluateOptions { metrics, ..EvaluateOptions::default() };
    let evaluation = evaluate(&loaded.model, &loaded.build, &config, games, &device, &options)?;
    // The file first: it is written even when nobody reads the table.
    if let Some(path) = &args.json {
        evaluation.report.write_json(path)?;
    }
    outln!("{}", evaluation.report)?;
    if let Some(found) = Diagnosis::of(&evaluation.outcomes, &evaluation.report.options) {
        console::note(format_args!("no ball is found: {found}"));
    }
    if let Some(path) = &args.json {
        outln!("wrote {}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The model is built as the run built it; what would change it must not be ignored.
fn refuse_another_model(config: &ConfigArgs) -> Result<()> {
    let section = |text: &str| text.split(['.', '=']).next() == Some("model");
    let given = match (&config.model, config.overrides.iter().find(|text| section(text))) {
        (Some(name), _) => format!("--model {name}"),
        (None, Some(text)) => text.clone(),
        (None, None) => return Ok(()),
    };
    bail!(
        "{given}: the model is evaluated as it was trained, so the `model` section cannot be replaced; if the frozen \
         backbone was moved, say where it is with --base DIR"
    )
}

//! `tracknet predict`: a picture, a folder of frames or a video → CSV, and pictures with the ball marked.

mod places;
mod sinks;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use tracknet::artifacts::load_model_with_adapter;
use tracknet::console;
use tracknet::evaluation::TrackSource;
use tracknet::evaluation::track::CANDIDATES;
use tracknet::inference::{Predicted, Predictor, Source, TrackedFrames, VideoTools};

use crate::args::{AdapterFlags, BaseArgs, DeviceArgs, OverwriteFlag, TrackArgs, files_of_run, parse_score};
use crate::device;
use crate::interrupt::Interrupt;
use crate::out::outln;

use places::Places;
use sinks::Sinks;

/// Find the ball on a picture, a folder of frames or a video, with a trained run.
///
/// Writes a CSV `Frame,Visibility,X,Y,Score` in the pixels of the source (0,0 when the ball is absent), row by row as
/// frames are found: Ctrl-C ends it, and the rows until then stay. With --track one ball is followed through the frames, and a column
/// Source says where it was detected and where it was filled in. Videos are read through the ffmpeg program.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet predict outputs/run-20260101-120000-s42 rally.mp4 --video
  tracknet predict outputs/run-20260101-120000-s42 rally.mp4 --track --track-max-gap 6
  tracknet predict quickstart/run frames/ --overlays --heatmaps --output found")]
pub(crate) struct PredictArgs {
    /// A run directory, or one of its checkpoints.
    run: PathBuf,
    /// A picture, a folder of jpg/png frames, or a video.
    source: PathBuf,
    /// Where the results go; by default predictions/<name of the source>.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Score from which a frame counts as having a ball.
    #[arg(long, default_value_t = 0.5, value_parser = parse_score)]
    threshold: f32,
    #[command(flatten)]
    track: TrackArgs,
    /// Also write every frame with the ball ringed, as PNG.
    #[arg(long)]
    overlays: bool,
    /// Also write every heatmap, as PNG.
    #[arg(long)]
    heatmaps: bool,
    /// Also write a video with the ball ringed (needs ffmpeg).
    #[arg(long)]
    video: bool,
    /// Also write the predictions as JSON lines.
    #[arg(long)]
    jsonl: bool,
    /// Fail when a frame cannot be read; by default it counts as one without a ball.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    overwrite: OverwriteFlag,
    #[command(flatten)]
    base: BaseArgs,
    #[command(flatten)]
    adapter: AdapterFlags,
    #[command(flatten)]
    device: DeviceArgs,
}

pub(crate) fn run(args: &PredictArgs) -> Result<ExitCode> {
    if !args.source.exists() {
        bail!("{}: no such file or directory", args.source.display());
    }
    let source = Source::find(&args.source)?;
    let places = Places::new(args, &source);
    places.check(args.overwrite.overwrite, &inputs(args, &source))?;
    if places.csv.exists() {
        console::note(format_args!("{}: the rows of an earlier prediction will be replaced", places.csv.display()));
    }
    let interrupt = Interrupt::listen()?;
    let predictor = open(args)?.stopping_at(interrupt.stop.clone());
    let (mut tally, csv) = (Tally::default(), places.csv.clone());
    let mut sinks = Sinks::new(args, places);
    let ended = search(args, &source, predictor, &mut |predicted| {
        sinks.push(&predicted)?;
        tally.count(&predicted, args.threshold);
        Ok(())
    });
    let finished = sinks.finish();
    // The failure is told even when nobody reads standard output.
    let told = if tally.frames > 0 { outln!("{tally}\n{}", csv.display()) } else { Ok(()) };
    ended?;
    if !finished? {
        bail!("not everything was written; the rows are whole");
    }
    if let Some(code) = interrupt.exit_code_if_any() {
        console::say(format_args!("interrupted after {} frames", tally.frames));
        return Ok(code);
    }
    if tally.damaged > 0 && (args.strict || tally.damaged == tally.frames) {
        bail!("{} of {} frames could not be read", tally.damaged, tally.frames);
    }
    told.map(|()| ExitCode::SUCCESS)
}

fn open(args: &PredictArgs) -> Result<Predictor> {
    let device = device::resolve(&args.device.device)?;
    let adapter = args.adapter.choice(&args.run)?;
    let loaded = load_model_with_adapter(&args.run, args.base.base.as_deref(), &adapter, &device)?;
    Ok(Predictor::new(&loaded.model, &loaded.build, &loaded.config, &device))
}

/// Finds the ball on every frame, and with `--track` follows it; `each` takes the frames in order.
fn search(
    args: &PredictArgs,
    source: &Source,
    predictor: Predictor,
    each: &mut dyn FnMut(Predicted) -> tracknet::Result<()>,
) -> tracknet::Result<()> {
    let fps = || match source {
        Source::Video(path) => VideoTools::default().probe(path).ok()?.fps,
        Source::Pictures(_) => None,
    };
    let Some(options) = args.track.options(args.threshold, fps) else {
        return predictor.source(source, each).map(drop);
    };
    let mut frames = TrackedFrames::new(options, args.overlays || args.heatmaps || args.video)?;
    let ended =
        predictor.with_candidates(CANDIDATES).source(source, &mut |predicted| frames.push(predicted, &mut *each));
    // What was read before an interruption or damage counts.
    frames.finish(each).and(ended.map(drop))
}

/// What is read, and never written over.
fn inputs(args: &PredictArgs, source: &Source) -> Vec<PathBuf> {
    let mut inputs = vec![args.source.clone()];
    if let Source::Pictures(files) = source {
        inputs.extend(files.iter().filter(|file| **file != args.source).cloned());
    }
    inputs.extend(files_of_run(&args.run));
    inputs
}

/// How many frames there were, and of what kind.
#[derive(Default)]
struct Tally {
    frames: u64,
    found: u64,
    filled: u64,
    damaged: u64,
}

impl Tally {
    /// Damaged frames that are named one by one.
    const NAMED: u64 = 10;

    fn count(&mut self, predicted: &Predicted, threshold: f32) {
        self.frames += 1;
        let prediction = predicted.prediction();
        self.found += u64::from(prediction.visible(threshold).is_some());
        self.filled += u64::from(prediction.source == Some(TrackSource::Filled));
        let Some(reason) = &prediction.damage else { return };
        self.damaged += 1;
        match self.damaged {
            1..=Self::NAMED => console::say(format_args!("frame {} is damaged: {reason}", prediction.frame)),
            n if n == Self::NAMED + 1 => {
                console::say("more frames are damaged; they are counted, and named with --jsonl")
            }
            _ => {}
        }
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { frames, found, filled, damaged } = self;
        write!(f, "ball found on {found} of {frames} frames")?;
        if *filled > 0 {
            write!(f, ", {filled} of them filled in")?;
        }
        match damaged {
            0 => Ok(()),
            1 => write!(f, "; 1 frame is damaged, and its row says that the ball is absent"),
            n => write!(f, "; {n} frames are damaged, and their rows say that the ball is absent"),
        }
    }
}

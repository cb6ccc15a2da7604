//! `tracknet predict`: pictures, folders of frames, videos and streams → CSV, and pictures with the ball marked.

mod moving;
mod places;
mod recipe;
mod sinks;
mod tally;

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Result, bail};
use clap::Args;
use tracknet::artifacts::{LoadedModel, load_model_with_adapter};
use tracknet::console;
use tracknet::evaluation::track::CANDIDATES;
use tracknet::inference::{
    Position, Predicted, Predictor, Resume, Selection, Source, StageTimes, StreamOptions, TrackedFrames, VideoTools,
};

use crate::args::{
    AdapterFlags, BaseArgs, DeviceArgs, OverwriteFlag, TrackArgs, files_of_run, parse_count, parse_score,
};
use crate::device;
use crate::interrupt::Interrupt;
use crate::out::outln;

use places::{Places, names_of};
use recipe::Recipe;
use sinks::{Sinks, row_format};
use tally::{Progress, Tally};

/// Find the ball on pictures, folders of frames, videos or streams, with a trained run.
///
/// Writes a CSV `Frame,Visibility,X,Y,Score` in the pixels of the source (0,0 when the ball is absent), row by row as
/// frames are found: Ctrl-C ends it, and the rows until then stay; --resume goes on from there. With --track one ball is followed
/// through the frames, and a column Source says where it was detected and where it was filled in. Videos and streams are read
/// through the ffmpeg program.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet predict outputs/run-20260101-120000-s42 rally.mp4 --video
  tracknet predict outputs/run-20260101-120000-s42 match.mp4 --track --start 12:30 --end 13:00
  tracknet predict outputs/run-20260101-120000-s42 'matches/*.mp4' --resume --output found
  tracknet predict quickstart/run frames/ --overlays --heatmaps
  ffmpeg -i match.mkv -f mpegts - | tracknet predict quickstart/run -
  tracknet predict quickstart/run rtsp://camera.local/court --jsonl")]
pub(crate) struct PredictArgs {
    /// A run directory, or one of its checkpoints.
    run: PathBuf,
    /// Pictures, folders of jpg/png frames, videos, folders of videos, patterns ('games/*.mp4'), `-` for a video on standard input,
    /// rtsp://, rtmp://, srt://, udp://, tcp://, http(s):// addresses, /dev/videoN.
    #[arg(required = true, value_name = "SOURCE")]
    sources: Vec<std::ffi::OsString>,
    /// Where the results go; by default predictions/<name of the source>. Several sources get a folder each in it.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Score from which a frame counts as having a ball.
    #[arg(long, default_value_t = 0.5, value_parser = parse_score)]
    threshold: f32,
    /// The first frame to look at: its number, or a time such as 90s, 1:30 or 0:01:30.5.
    #[arg(long, value_name = "FRAME|TIME")]
    start: Option<Position>,
    /// The frame to stop before, likewise.
    #[arg(long, value_name = "FRAME|TIME")]
    end: Option<Position>,
    /// Look at every N-th frame: 2 makes 30 frames a second of 60.
    #[arg(long, value_name = "N", default_value = "1")]
    stride: NonZeroU64,
    /// Windows of frames in one forward pass.
    #[arg(long, value_name = "N", default_value_t = StreamOptions::default().batch, value_parser = parse_count)]
    batch: usize,
    /// Go on after the last row of an earlier prediction with the same run and options; what is complete is left as it is.
    #[arg(long, conflicts_with_all = ["video", "overwrite"])]
    resume: bool,
    /// Leave out frames that come while others are looked at, so that rows are never late. Of itself for cameras and for
    /// rtsp, rtmp, srt, udp and tcp streams.
    #[arg(long, conflicts_with = "no_live")]
    live: bool,
    /// Look at every frame, also of cameras and streams.
    #[arg(long)]
    no_live: bool,
    #[command(flatten)]
    track: TrackArgs,
    /// Also write every frame with the ball ringed, as PNG.
    #[arg(long)]
    overlays: bool,
    /// Also write every heatmap, as PNG.
    #[arg(long)]
    heatmaps: bool,
    /// Also write a video with the ball ringed and its way behind it, with the sound of the source (needs ffmpeg).
    #[arg(long)]
    video: bool,
    /// Frames of the ball's way in the video; 0 for none.
    #[arg(long, value_name = "N", requires = "video", default_value_t = 12)]
    trail: usize,
    /// Show the ball enlarged in a corner of the video.
    #[arg(long, requires = "video")]
    zoom: bool,
    /// Also write the predictions as JSON lines.
    #[arg(long)]
    jsonl: bool,
    /// Stop at a frame that cannot be read; by default it counts as one without a ball.
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

/// A source and where its results go.
struct Job {
    source: Source,
    places: Arc<Places>,
}

/// How the prediction of a source ended.
enum Ended {
    /// With all that was asked for.
    Whole,
    /// Its rows were all there already.
    Before,
    /// By a signal, after so many frames.
    Interrupted(u64),
}

pub(crate) fn run(args: &PredictArgs) -> Result<ExitCode> {
    let sources = Source::find_all(&args.sources)?;
    if sources.contains(&Source::StandardInput) && std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        bail!("-: standard input is a terminal; expected a video from a pipe or a file");
    }
    if let Some(stream) = sources.iter().find(|source| matches!(source, Source::Stream(_))).filter(|_| args.resume) {
        bail!("{stream}: a stream cannot go on where it was; --resume is for files and folders");
    }
    let (names, several) = (names_of(&sources), sources.len() > 1);
    let place = |(source, name): (Source, String)| {
        let places = Places::new(args, &source, &name, several);
        places.check(args.overwrite.overwrite, &inputs(args, &source))?;
        if places.csv.exists() && !args.resume {
            console::note(format_args!("{}: the rows of an earlier prediction will be replaced", places.csv.display()));
        }
        Ok(Job { source, places: Arc::new(places) })
    };
    let jobs: Vec<Job> = sources.into_iter().zip(names).map(place).collect::<Result<_>>()?;
    let interrupt = Interrupt::listen()?;
    let device = device::resolve(&args.device.device)?;
    let choice = args.adapter.choice(&args.run)?;
    let loaded = load_model_with_adapter(&args.run, args.base.base.as_deref(), &choice, &device)?;
    let predictor = || {
        let predictor = Predictor::new(&loaded.model, &loaded.build, &loaded.config, &device);
        predictor.stopping_at(Arc::clone(&interrupt.stop))
    };
    let mut failed = 0;
    for job in &jobs {
        match predict(args, job, &loaded, predictor()) {
            Ok(Ended::Interrupted(frames)) => {
                console::say(format_args!("interrupted after {frames} frames"));
                return Ok(interrupt.exit_code());
            }
            Ok(Ended::Before) => outln!("complete already: {}", job.places.csv.display())?,
            Ok(Ended::Whole) => {}
            // One of several costs only its own results.
            Err(error) if several && !error.is::<crate::out::Closed>() => {
                console::say(format_args!("error: {error:#}"));
                failed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    if failed > 0 {
        bail!("{failed} of {} sources failed", jobs.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// Finds the ball in one source.
fn predict(args: &PredictArgs, job: &Job, loaded: &LoadedModel, predictor: Predictor) -> Result<Ended> {
    let Job { source, places } = job;
    let recipe = Recipe::new(args, loaded, source);
    let after = match earlier(args, &recipe, places)? {
        Earlier::Complete => return Ok(Ended::Before),
        Earlier::UpTo(frame) => frame,
    };
    let stop = predictor.stop_flag();
    let times = Arc::new(StageTimes::default());
    let (mut tally, progress) = (Tally::default(), Progress::new(Arc::clone(&times)));
    let mut sinks = Sinks::new(args, Arc::clone(places), recipe, source, after);
    let stride = args.stride.get();
    let ended = search(args, source, after, predictor.timed_by(times), &mut |predicted| {
        if after.is_some_and(|after| predicted.prediction().frame <= after) {
            return Ok(());
        }
        sinks.push(&predicted)?;
        tally.count(&predicted, args.threshold, stride, &progress);
        progress.advance();
        match predicted.prediction().damage.as_ref().filter(|_| args.strict) {
            Some(reason) => Err(tracknet::inference::InferenceError::Strict {
                frame: predicted.prediction().frame,
                reason: reason.clone(),
            }
            .into()),
            None => Ok(()),
        }
    });
    progress.finish(tally.frames);
    let is_stopped = stop.load(std::sync::atomic::Ordering::SeqCst);
    let finished = sinks.finish(ended.is_ok() && !is_stopped);
    // The failure is told even when nobody reads standard output.
    let told = if tally.frames > 0 { outln!("{tally}\n{}", places.csv.display()) } else { Ok(()) };
    ended?;
    if !finished? {
        bail!("not everything was written; the rows are whole");
    }
    if is_stopped {
        return Ok(Ended::Interrupted(tally.frames));
    }
    if tally.damaged > 0 && tally.damaged == tally.frames {
        bail!("{} of {} frames could not be read", tally.damaged, tally.frames);
    }
    if tally.frames == 0 && after.is_none() {
        bail!("{source}: no frame is selected; it has fewer frames than --start says");
    }
    told.map(|()| Ended::Whole)
}

/// What an earlier prediction left.
enum Earlier {
    Complete,
    /// The last frame that has all its rows; `None` = begin anew.
    UpTo(Option<u64>),
}

fn earlier(args: &PredictArgs, recipe: &Recipe, places: &Places) -> Result<Earlier> {
    if !args.resume {
        return Ok(Earlier::UpTo(None));
    }
    let Some(before) = Recipe::read(&places.recipe)? else { return Ok(Earlier::UpTo(None)) };
    recipe.check(&before, &places.csv)?;
    let mut last = Some(u64::MAX);
    for (path, format) in places.rows(row_format(args)) {
        last = last.min(format.last_frame(path)?);
    }
    Ok(if before.is_complete() && last.is_some() { Earlier::Complete } else { Earlier::UpTo(last) })
}

/// Seconds of a source that a tracker looks at again where a prediction goes on.
const TRACKED_AGAIN: f64 = 4.0;

/// Finds the ball on every frame, and with `--track` follows it; `each` takes the frames in order.
fn search(
    args: &PredictArgs,
    source: &Source,
    after: Option<u64>,
    predictor: Predictor,
    each: &mut (dyn FnMut(Predicted) -> tracknet::Result<()> + Send),
) -> tracknet::Result<()> {
    let fps = || match source {
        Source::Video(path) => VideoTools::default().probe(path).ok()?.fps,
        _ => None,
    };
    let track = args.track.options(args.threshold, args.stride, fps);
    let history = track.as_ref().map_or(0, |track| (track.fps * TRACKED_AGAIN).ceil() as u64);
    let resume = after.map(|after| Resume { after, history });
    let options = StreamOptions {
        selection: Selection { start: args.start, end: args.end, stride: args.stride, resume },
        batch: args.batch,
        live: (args.live || args.no_live).then_some(args.live),
        pictures: args.overlays || args.heatmaps || args.video,
    };
    let predictor = predictor.with_options(options);
    let Some(track) = track else { return predictor.source(source, each).map(drop) };
    let mut frames = TrackedFrames::new(track, args.stride.get())?;
    let ended =
        predictor.with_candidates(CANDIDATES).source(source, &mut |predicted| frames.push(predicted, &mut *each));
    // What was read before an interruption or damage counts.
    frames.finish(each).and(ended.map(drop))
}

/// What is read, and never written over.
fn inputs(args: &PredictArgs, source: &Source) -> Vec<PathBuf> {
    let mut inputs: Vec<PathBuf> = args.sources.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    match source {
        Source::Pictures(files) => {
            inputs.extend(files.iter().filter(|file| !args.sources.contains(&file.into())).cloned())
        }
        Source::Video(path) => inputs.push(path.clone()),
        Source::StandardInput | Source::Stream(_) => {}
    }
    inputs.extend(files_of_run(&args.run));
    inputs
}

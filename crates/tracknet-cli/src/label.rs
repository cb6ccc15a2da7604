//! `tracknet label`: labels by hand in the browser, proposed by a run.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, bail};
use clap::Args;
use indicatif::ProgressBar;
use tracknet::artifacts::run::find_checkpoint;
use tracknet::config::Config;
use tracknet::console;
use tracknet::datasets::labelling::LabelBook;
use tracknet::files::{Destination, Existing};
use tracknet::inference::{Position, Predictor, Selection};
use tracknet_label::{ExtractOptions, TrainingPlan, Work, extract, serve};

use crate::args::DeviceArgs;
use crate::device;
use crate::interrupt::Interrupt;
use crate::out::outln;

/// Label the ball by hand, in a page of the browser.
///
/// A run proposes where the ball is and which frame is worth a look next; a click or a key confirms or corrects. Every label is in the
/// Label.csv of its clip at once, in the tennis format. A video is first written as frames; the same command goes on where it was.
/// The page is for this machine only. Ctrl-C ends it.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet label rally.mp4 --run quickstart/run
  tracknet label match.mp4 --run quickstart/run --start 12:30 --end 13:00 --stride 2 --output data/mymatch
  tracknet label data/mymatch --run outputs/run-20260101-120000-s42 --train 30
  tracknet label data/mymatch/game1/Clip1")]
pub(crate) struct LabelArgs {
    /// A video, a data set in the tennis layout (game/clip), or a clip: a folder of jpg/png frames.
    source: PathBuf,
    /// A run that proposes, and that training begins with.
    #[arg(long, value_name = "RUN")]
    run: Option<PathBuf>,
    /// Where the frames of a video go; by default data/<name of the video>.
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    /// The first frame of a video: its number, or a time such as 90s or 1:30.
    #[arg(long, value_name = "FRAME|TIME")]
    start: Option<Position>,
    /// The frame to stop before, likewise.
    #[arg(long, value_name = "FRAME|TIME")]
    end: Option<Position>,
    /// Take every N-th frame of a video.
    #[arg(long, value_name = "N", default_value = "1")]
    stride: NonZeroU64,
    /// Train after every N new labels; the new run then proposes. Without, when the page's button is pressed.
    #[arg(long, value_name = "N", default_value_t = 0, requires = "run")]
    train: usize,
    /// The port of 127.0.0.1; 0 takes any that is free.
    #[arg(long, default_value_t = 8765)]
    port: u16,
    #[command(flatten)]
    device: DeviceArgs,
    /// Values for the training, as `tracknet train` takes them: training.epochs=8
    #[arg(value_name = "SECTION.KEY=VALUE", requires = "run")]
    overrides: Vec<String>,
}

pub(crate) fn run(args: &LabelArgs) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let Some(place) = frames(args, &interrupt)? else {
        console::say("interrupted; nothing was written");
        return Ok(interrupt.exit_code());
    };
    let book = LabelBook::open(&place)?;
    let device = device::resolve(&args.device.device)?;
    let plan = args.run.as_ref().map(|run| plan(args, run, &place, &book)).transpose()?.flatten();
    let open = move |run: &Path| Predictor::open(run, &device);
    let work = Arc::new(Work::new(book, Box::new(open), plan));
    args.run.iter().for_each(|run| work.propose_by(run));
    let stop = Arc::clone(&interrupt.stop);
    let told = std::sync::Mutex::new(Ok(()));
    serve(
        work,
        args.port,
        move || stop.load(Ordering::SeqCst),
        |address| {
            let text = outln!("labels go to {}\nopen http://{address}/ in a browser; Ctrl-C ends it", place.display());
            *told.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = text;
        },
    )?;
    told.into_inner().unwrap_or(Ok(()))?;
    Ok(interrupt.exit_code())
}

/// The directory with the frames: that of the source, or where the frames of a video are; `None` = it was interrupted.
fn frames(args: &LabelArgs, interrupt: &Interrupt) -> Result<Option<PathBuf>> {
    let source = &args.source;
    if source.is_dir() {
        let of_videos = [args.output.is_some(), args.start.is_some(), args.end.is_some(), args.stride.get() > 1];
        if of_videos.contains(&true) {
            bail!(
                "{}: --output, --start, --end and --stride are for videos; a folder is labelled where it is",
                source.display()
            );
        }
        return Ok(Some(source.clone()));
    }
    if !source.exists() {
        bail!("{}: no such file or directory", source.display());
    }
    let name = source.file_stem().context("the video has no name")?;
    let place = args.output.clone().unwrap_or_else(|| Path::new("data").join(name));
    if place.exists() {
        console::note(format_args!("{}: goes on with the frames that are there", place.display()));
        return Ok(Some(place));
    }
    let selection = Selection { start: args.start, end: args.end, stride: args.stride, ..Selection::default() };
    let destination = Destination::directory(&place, Existing::Nothing, &[source])?;
    let bar = ProgressBar::new_spinner();
    let options = ExtractOptions { selection, ..ExtractOptions::default() };
    let written = extract(source, &destination, &options, &interrupt.stop, &mut |frames| {
        bar.set_message(format!("{frames} frames written"));
        bar.tick();
    });
    bar.finish_and_clear();
    Ok(written?.map(|frames| {
        console::say(format_args!("{frames} frames written to {}", place.display()));
        place
    }))
}

/// A training on the labels that begins with the model of `run`; `None` for frames that are not a whole data set.
fn plan(args: &LabelArgs, run: &Path, place: &Path, book: &LabelBook) -> Result<Option<TrainingPlan>> {
    let Some(root) = book.root() else {
        console::note(format_args!(
            "{}: is one clip, and training wants a data set of several (game/clip): its button is off",
            place.display()
        ));
        return Ok(None);
    };
    let checkpoint = find_checkpoint(run, &["best", "last"])?;
    let label = checkpoint.dir.join("config.yaml").display().to_string();
    let config = Config::from_yaml(&label, &checkpoint.config_yaml()?)?;
    let mut games: Vec<String> = book
        .clips()
        .iter()
        .filter_map(|clip| clip.dir.parent()?.file_name().map(|name| name.to_string_lossy().into_owned()))
        .collect();
    games.dedup();
    let name = root.canonicalize().ok().and_then(|root| Some(root.file_name()?.to_string_lossy().into_owned()));
    let runs = Path::new("outputs").join(format!("label-{}", name.unwrap_or_default()));
    let mut arguments: Vec<OsString> =
        ["train", "--data", "finetune", "--model", "finetune", "--training", "finetune"].map(OsString::from).to_vec();
    arguments.extend([
        "--device".into(),
        args.device.device.clone().into(),
        "--output-dir".into(),
        runs.clone().into(),
    ]);
    let mut set = |key: &str, value: &str| arguments.push(format!("{key}={value}").into());
    set("data.root", &root.display().to_string());
    set("data.split.train_games", &format!("[{}]", games.join(",")));
    if let Some(base) = &config.model.pretrained_model_name {
        set("model.pretrained_model_name", base);
    }
    set("model.decoder.pretrained", &checkpoint.dir.display().to_string());
    if let Some(adapter) = checkpoint.adapter_dir() {
        set("model.lora.adapter", &adapter.display().to_string());
    }
    arguments.extend(args.overrides.iter().map(OsString::from));
    let program = std::env::current_exe().context("cannot find this program to train with")?;
    Ok(Some(TrainingPlan { program, arguments, runs, after: args.train }))
}

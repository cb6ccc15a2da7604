//! `tracknet data generate | import | check | preview`: make a dataset, bring one along, look it through, look at it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tracknet::config::{DataConfig, DataFormat, ExifOrientation, LabelPoint};
use tracknet::console;
use tracknet::datasets::import::{ImportOptions, VideoFrames, import};
use tracknet::datasets::{Dataset, Reading, preview};
use tracknet::evaluation::overlay;
use tracknet::files::destination::check_file;
use tracknet::files::{Destination, Existing};
use tracknet::inference::{InferenceError, VideoTools};
use tracknet_render::{GenerateOptions, GenerateReport, LookSet, generate};

use crate::args::{OverwriteFlag, asked_games, parse_count, parse_score};
use crate::interrupt::Interrupt;
use crate::out::{out, outln};

/// Make, check and look at datasets.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet data generate data/rallies --games 12
  tracknet data import downloads/tennis-ball.v6i.yolov8 data/mine
  tracknet data check data/rallies --strict
  tracknet data preview data/rallies")]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Generate(GenerateArgs),
    Import(ImportArgs),
    Check(CheckArgs),
    Preview(PreviewArgs),
}

/// Render synthetic tennis rallies with exact labels, in the tennis format (game/Clip/NNNN.jpg + Label.csv).
///
/// The same seed gives the same files on any machine and thread count; every game has its own court, camera and
/// players, so that games can be split without leaking.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet data generate data/rallies --games 12 --clips 2 --frames 24 --seed 7")]
struct GenerateArgs {
    /// The dataset root to write; games that exist are never overwritten.
    root: PathBuf,
    /// Games to render; each has a look of its own.
    #[arg(long, default_value_t = 10)]
    games: usize,
    /// Number of the first game.
    #[arg(long, default_value_t = 1)]
    first_game: usize,
    /// Clips in a game.
    #[arg(long, default_value_t = 4)]
    clips: usize,
    /// Frames in a clip.
    #[arg(long, default_value_t = 24)]
    frames: usize,
    /// Frame size in pixels.
    #[arg(long, value_name = "WxH", default_value = "1280x720", value_parser = parse_size)]
    size: [usize; 2],
    /// Which looks to draw from.
    #[arg(long, value_enum, default_value_t = Look::Broadcast)]
    look: Look,
    /// The same seed gives the same files.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Rendering threads; 0 = one per core. The files do not depend on it.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

/// `--look`.
#[derive(Clone, Copy, ValueEnum)]
enum Look {
    /// Hard and clay courts in stadiums, seen by a broadcast camera.
    Broadcast,
    /// Worn grass in low sun, at a club: another surface, camera and ball size.
    Grass,
    /// Public courts by day, in hard shade and under floodlights, from a phone at body height behind the baseline.
    Club,
    /// Any of these courts from beside it.
    Side,
    /// Halls, seen from behind, high or at body height.
    Indoor,
    /// All of these, half stadium broadcasts, through the codecs, converters and cuts of real footage.
    Mixed,
    /// Beach tennis, which `mixed` leaves out: sand, a high net, a small camera on a pole, orange balls.
    Beach,
}

impl From<Look> for LookSet {
    fn from(look: Look) -> Self {
        match look {
            Look::Broadcast => Self::Broadcast,
            Look::Grass => Self::Grass,
            Look::Club => Self::Club,
            Look::Side => Self::Side,
            Look::Indoor => Self::Indoor,
            Look::Mixed => Self::Mixed,
            Look::Beach => Self::Beach,
        }
    }
}

/// Write a dataset of another program in the tennis format (game/Clip/NNNN.jpg + Label.csv), and say what it holds and
/// what was left out.
///
/// Boxes become their centres, fractions become pixels, pictures are linked or copied, and the frames of videos taken out
/// (needs ffmpeg). The destination appears whole or not at all.
#[derive(Args)]
#[command(after_help = "Layouts:
  yolo          data.yaml, images/, labels/*.txt (Roboflow, CVAT, Label Studio)
  coco          <split>/_annotations.coco.json beside its pictures, or annotations/*.json and images/
  badminton     <match>/csv/<rally>_ball.csv with frame/<rally>/ or video/<rally>.mp4 (TrackNetV2, TrackNetV3)
  gridtracknet  <match>/Labels.csv and <match>/frames/
  normalized    <match>/labels/<rally>.csv with images/<rally>/ or videos/<rally>.mp4, positions in 0..1
  predictions   <name>.csv of `tracknet predict` beside <name>/ or <name>.mp4
  tracknet      the tennis format itself, to convert its label point

Examples:
  tracknet data import downloads/tennis-ball.v6i.yolov8 data/mine
  tracknet data import downloads/boxes data/mine --format coco --ball-class \"yellow ball\"
  tracknet data import downloads/TrackNetV2 data/badminton")]
struct ImportArgs {
    /// The dataset to read.
    source: PathBuf,
    /// The dataset root to write; it must not exist, or be empty.
    destination: PathBuf,
    #[command(flatten)]
    reading: ReadingFlags,
}

/// Read every label and decode every image of a dataset, and list what is wrong by file and line: rows, images, and
/// labels that cannot be true as a whole (fractions taken as pixels, swapped columns, another resolution, …).
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet data check data/tracknet --strict")]
struct CheckArgs {
    /// The dataset root: <root>/<game>/<clip>/Label.csv, or another layout (--format).
    root: PathBuf,
    /// Only these games (comma-separated names and ranges); all of the root by default.
    #[arg(long, value_delimiter = ',')]
    games: Vec<String>,
    /// Read labels only.
    #[arg(long)]
    skip_images: bool,
    /// Fail when anything is wrong.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    reading: ReadingFlags,
}

/// How labels are read; the keys of the same names in the `data` section.
#[derive(Args)]
struct ReadingFlags {
    /// The layout: auto, tracknet, yolo, coco, badminton, gridtracknet, normalized or predictions.
    #[arg(long, default_value_t = DataFormat::Auto)]
    format: DataFormat,
    /// Name or number of the class that is the ball, where labels are boxes of several classes.
    #[arg(long, value_name = "CLASS")]
    ball_class: Option<String>,
    /// What labels mark of a moving ball: the center of its streak, or its leading end, which is converted.
    #[arg(long, default_value_t = LabelPoint::Center)]
    label_point: LabelPoint,
    /// Share of a frame's time in which the shutter is open, for leading labels.
    #[arg(long, default_value_t = DataConfig::default().shutter, value_parser = parse_score)]
    shutter: f32,
    /// Whether labels refer to pictures that their EXIF orientation has turned upright, or to pixels as they are stored.
    #[arg(long, value_enum, default_value_t = Turned::Apply)]
    exif_orientation: Turned,
}

impl From<&ReadingFlags> for Reading {
    fn from(flags: &ReadingFlags) -> Self {
        let &ReadingFlags { format, label_point, shutter, exif_orientation, .. } = flags;
        Self {
            format,
            ball_class: flags.ball_class.clone(),
            exif_orientation: exif_orientation.into(),
            label_point,
            shutter,
        }
    }
}

/// `--exif-orientation`.
#[derive(Clone, Copy, ValueEnum)]
enum Turned {
    /// Upright, as viewers and labelling tools show them.
    Apply,
    /// As they are stored.
    Ignore,
}

impl From<Turned> for ExifOrientation {
    fn from(turned: Turned) -> Self {
        match turned {
            Turned::Apply => Self::Apply,
            Turned::Ignore => Self::Ignore,
        }
    }
}

/// Draw a contact sheet of labelled frames, to see at a glance whether the labels are right.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet data preview data/tracknet --output sheet.png --count 12")]
struct PreviewArgs {
    /// The dataset root.
    root: PathBuf,
    /// Only these games (comma-separated names and ranges); all of the root by default.
    #[arg(long, value_delimiter = ',')]
    games: Vec<String>,
    /// The PNG to write.
    #[arg(long, short, default_value = "preview.png")]
    output: PathBuf,
    /// Frames on the sheet, evenly spread over the dataset.
    #[arg(long, default_value_t = 12, value_parser = parse_count)]
    count: usize,
    #[command(flatten)]
    reading: ReadingFlags,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

pub(crate) fn run(args: &DataArgs) -> Result<ExitCode> {
    match &args.action {
        Action::Generate(args) => run_generate(args),
        Action::Import(args) => run_import(args),
        Action::Check(args) => run_check(args),
        Action::Preview(args) => run_preview(args),
    }
}

fn run_generate(args: &GenerateArgs) -> Result<ExitCode> {
    let options = GenerateOptions {
        seed: args.seed,
        games: args.games,
        first_game: args.first_game,
        clips_per_game: args.clips,
        frames_per_clip: args.frames,
        size: args.size,
        look: args.look.into(),
        threads: args.threads,
        ..GenerateOptions::default()
    };
    let interrupt = Interrupt::listen()?;
    let Some(report) = generate_with_bar(&args.root, &options, &interrupt.stop)? else {
        return Ok(interrupt.exit_code());
    };
    let [absent, visible, hard, occluded] = report.visibility;
    outln!(
        "wrote {} frames in {} clips of {} games to {}\nvisible {visible}, hard {hard}, occluded {occluded}, absent {absent}",
        report.frames,
        report.clips,
        report.games.len(),
        args.root.display(),
    )?;
    outln!("look at them: tracknet data preview {}", args.root.display())?;
    Ok(ExitCode::SUCCESS)
}

/// Renders with a progress bar on standard error; `None` when the user has interrupted it, who is told what is left.
pub(crate) fn generate_with_bar(
    root: &Path,
    options: &GenerateOptions,
    stop: &AtomicBool,
) -> Result<Option<GenerateReport>> {
    let style = ProgressStyle::with_template("rendering {wide_bar} {pos}/{len} frames, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style);
    let report = generate(root, options, stop, &mut |done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let report = report?;
    if report.is_none() {
        console::say(format_args!("interrupted; clips that were complete are in {}", root.display()));
    }
    Ok(report)
}

fn run_import(args: &ImportArgs) -> Result<ExitCode> {
    let destination = Destination::directory(&args.destination, Existing::Nothing, &[&args.source])?;
    let interrupt = Interrupt::listen()?;
    let style = ProgressStyle::with_template("importing {wide_bar} {pos}/{len} clips, {eta} left")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style);
    let options = ImportOptions {
        reading: (&args.reading).into(),
        open_video: &open_video,
        stop: &interrupt.stop,
        progress: &mut |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        },
    };
    let imported = import(&args.source, &destination, options);
    bar.finish_and_clear();
    let Some(imported) = imported? else {
        console::say(format_args!("interrupted; nothing was written to {}", args.destination.display()));
        return Ok(interrupt.exit_code());
    };
    let root = args.destination.display();
    out!("{}", imported.report)?;
    outln!(
        "wrote {} frames to {root}: {} linked, {} copied, {} out of videos; {} of them without a label",
        imported.frames(),
        imported.linked,
        imported.copied,
        imported.extracted,
        imported.unlabelled
    )?;
    if let Some(split) = &imported.split {
        let games = |names: &[String]| format!("[{}]", names.join(","));
        let [train, val, test] = [&split.train_games, &split.val_games, &split.test_games].map(|names| games(names));
        outln!("its split: data.split.train_games={train} data.split.val_games={val} data.split.test_games={test}")?;
    }
    outln!("check them: tracknet data check {root}\nlook at them: tracknet data preview {root}")?;
    Ok(ExitCode::SUCCESS)
}

/// Opens a video that is to be taken apart.
fn open_video(path: &Path) -> tracknet::Result<VideoFrames> {
    let tools = VideoTools::default();
    if tools.is_ours(path) {
        return Err(InferenceError::Video {
            path: path.to_path_buf(),
            reason:
                "`tracknet predict --video` wrote it, with the ball ringed; put the video it was made from in its place"
                    .to_owned(),
        }
        .into());
    }
    Ok(Box::new(tools.open(path)?))
}

fn run_check(args: &CheckArgs) -> Result<ExitCode> {
    let mut dataset = open(&args.root, &args.games, &args.reading)?;
    if args.skip_images {
        dataset.check_labels();
    } else {
        dataset.check_images();
    }
    out!("{}", dataset.report)?;
    if args.strict && !dataset.report.is_clean() {
        bail!("{} has problems; they are listed above", args.root.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn run_preview(args: &PreviewArgs) -> Result<ExitCode> {
    let dataset = open(&args.root, &args.games, &args.reading)?;
    let frames = dataset.frames();
    let files = frames.iter().flat_map(|frame| [frame.frame.path.as_path(), &frame.label_file]);
    let inputs: Vec<&Path> = files.chain([args.root.as_path()]).collect();
    check_file(&args.output, args.overwrite.overwrite, overlay::is_ours, &inputs)?;
    let options = preview::PreviewOptions {
        exif_orientation: args.reading.exif_orientation.into(),
        ..preview::PreviewOptions::default()
    };
    let chosen = preview::spread(&frames, args.count);
    let sheet = preview::contact_sheet(&chosen, &options).map_err(tracknet::Error::from)?;
    let mut problems: String = sheet.problems.iter().take(20).map(|problem| format!("\n  {problem}")).collect();
    if sheet.problems.len() > 20 {
        problems.push_str(&format!("\n  … and {} more", sheet.problems.len() - 20));
    }
    if sheet.problems.len() == chosen.len() {
        bail!("none of {} frames can be drawn:{problems}", chosen.len());
    }
    if !sheet.problems.is_empty() {
        console::note(format_args!("{} of {} frames cannot be drawn:{problems}", sheet.problems.len(), chosen.len()));
    }
    overlay::write_png(&args.output, &sheet.picture)?;
    outln!("wrote {} ({}x{})", args.output.display(), sheet.picture.width(), sheet.picture.height())?;
    Ok(ExitCode::SUCCESS)
}

fn open(root: &Path, games: &[String], reading: &ReadingFlags) -> Result<Dataset> {
    Ok(match asked_games(games)?.as_slice() {
        [] => Dataset::open_all(root, reading)?,
        games => Dataset::open_split("--games", root, reading, games, false)?,
    })
}

fn parse_size(text: &str) -> Result<[usize; 2]> {
    let (width, height) = text.split_once('x').context("write WxH, for example 1280x720")?;
    let number =
        |digits: &str| digits.parse::<usize>().with_context(|| format!("`{digits}` is not a number of pixels"));
    Ok([number(width)?, number(height)?])
}

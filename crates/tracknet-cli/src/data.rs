//! `tracknet data generate | check | preview`: make a dataset, look it through, look at it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use tracknet::config::{DataFormat, ExifOrientation};
use tracknet::console;
use tracknet::datasets::{Dataset, preview};
use tracknet::evaluation::overlay;
use tracknet::files::destination::check_file;
use tracknet_render::{GenerateOptions, GenerateReport, LookSet, generate};

use crate::args::{OverwriteFlag, parse_count};
use crate::interrupt::Interrupt;
use crate::out::{out, outln};

/// Make, check and look at datasets.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet data generate data/rallies --games 12
  tracknet data check data/rallies --strict
  tracknet data preview data/rallies")]
pub(crate) struct DataArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Generate(GenerateArgs),
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
    /// All of them, half stadium broadcasts, through the codecs, converters and cuts of real footage.
    Mixed,
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
        }
    }
}

/// Read every label and decode every image of a dataset, and list what is wrong by file and line: rows, images, and
/// labels that cannot be true as a whole (fractions taken as pixels, swapped columns, another resolution, …).
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet data check data/tracknet --strict")]
struct CheckArgs {
    /// The dataset root: <root>/<game>/<clip>/Label.csv.
    root: PathBuf,
    /// Only these games (comma-separated); all of the root by default.
    #[arg(long, value_delimiter = ',')]
    games: Vec<String>,
    /// Read labels only.
    #[arg(long)]
    skip_images: bool,
    /// Fail when anything is wrong.
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    orientation: OrientationFlag,
}

/// Which pixels labels refer to; `data.exif_orientation` of a configuration.
#[derive(Args)]
struct OrientationFlag {
    /// Whether labels refer to pictures that their EXIF orientation has turned upright, or to pixels as they are stored.
    #[arg(long, value_enum, default_value_t = Turned::Apply)]
    exif_orientation: Turned,
}

/// `--exif-orientation`.
#[derive(Clone, Copy, ValueEnum)]
enum Turned {
    /// Upright, as viewers and labelling tools show them.
    Apply,
    /// As they are stored.
    Ignore,
}

impl From<&OrientationFlag> for ExifOrientation {
    fn from(flag: &OrientationFlag) -> Self {
        match flag.exif_orientation {
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
    /// Only these games (comma-separated); all of the root by default.
    #[arg(long, value_delimiter = ',')]
    games: Vec<String>,
    /// The PNG to write.
    #[arg(long, short, default_value = "preview.png")]
    output: PathBuf,
    /// Frames on the sheet, evenly spread over the dataset.
    #[arg(long, default_value_t = 12, value_parser = parse_count)]
    count: usize,
    #[command(flatten)]
    orientation: OrientationFlag,
    #[command(flatten)]
    overwrite: OverwriteFlag,
}

pub(crate) fn run(args: &DataArgs) -> Result<ExitCode> {
    match &args.action {
        Action::Generate(args) => run_generate(args),
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

fn run_check(args: &CheckArgs) -> Result<ExitCode> {
    let mut dataset = open(&args.root, &args.games)?.labelled_with((&args.orientation).into());
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
    let dataset = open(&args.root, &args.games)?;
    let frames = dataset.frames();
    let files = frames.iter().flat_map(|frame| [frame.frame.path.as_path(), &frame.label_file]);
    let inputs: Vec<&Path> = files.chain([args.root.as_path()]).collect();
    check_file(&args.output, args.overwrite.overwrite, overlay::is_ours, &inputs)?;
    let options =
        preview::PreviewOptions { exif_orientation: (&args.orientation).into(), ..preview::PreviewOptions::default() };
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

fn open(root: &Path, games: &[String]) -> Result<Dataset> {
    Ok(match games {
        [] => Dataset::open_all(root, DataFormat::Auto)?,
        games => Dataset::open_split("--games", root, DataFormat::Auto, games, false)?,
    })
}

fn parse_size(text: &str) -> Result<[usize; 2]> {
    let (width, height) = text.split_once('x').context("write WxH, for example 1280x720")?;
    let number =
        |digits: &str| digits.parse::<usize>().with_context(|| format!("`{digits}` is not a number of pixels"));
    Ok([number(width)?, number(height)?])
}

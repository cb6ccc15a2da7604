//! `tracknet quickstart`: the whole story on one screen, without any download.
//!
//! Renders rallies of a look that the shipped detector has never seen, measures it there, fine-tunes adapters on its
//! 4-bit backbone, and measures again on games that neither has seen.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use burn::tensor::Device;
use clap::{Args, ValueEnum};
use tracknet::artifacts::{BuildReport, build_model};
use tracknet::compute::Compute;
use tracknet::config::{Config, ConfigSources};
use tracknet::console;
use tracknet::datasets::Dataset;
use tracknet::evaluation::FrameOutcome;
use tracknet::evaluation::metrics::DetectionMetrics;
use tracknet::evaluation::overlay;
use tracknet::inference::predictions::{Prediction, write_csv};
use tracknet::inference::{Predicted, Predictor};
use tracknet::models::HeatmapModel;
use tracknet::models::memory::bytes;
use tracknet::process::peak_bytes;
use tracknet::training::{Console, EvaluateOptions, Evaluation, FitOptions, Outcome, TrainingRun, evaluate};
use tracknet_render::{GenerateOptions, LookSet};

use crate::args::DeviceArgs;
use crate::data::generate_with_bar;
use crate::interrupt::Interrupt;
use crate::out::outln;
use crate::{device, shipped};

/// Clips in a rendered game.
const CLIPS: usize = 1;
/// Frames in a rendered clip.
const FRAMES: usize = 15;
/// Seed of the rendered rallies; another than the one the shipped model was trained on.
const RALLY_SEED: u64 = 7;
/// Frames of the test games that are drawn with the ball marked.
const PICTURES: usize = 12;
/// Score from which a frame counts as having a ball.
const THRESHOLD: f32 = 0.5;

/// See the whole thing work, in minutes and without any download.
///
/// Renders rallies of a look that the shipped detector has never seen (beach tennis: sand, tape for lines, an orange ball),
/// measures the detector there, fine-tunes LoRA adapters on its 4-bit backbone together with its convolutions, and measures
/// again on games that were never seen. Everything is written to one directory.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet quickstart
  tracknet quickstart --output-dir first-look --backbone float")]
pub(crate) struct QuickstartArgs {
    /// Where everything goes; must not hold an earlier quick start.
    #[arg(long, value_name = "DIR", default_value = "quickstart")]
    output_dir: PathBuf,
    /// How the frozen backbone is stored.
    #[arg(long, value_enum, default_value_t = Backbone::Nf4)]
    backbone: Backbone,
    /// Seed of the fine-tuning run.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Values that replace those of the quick start's configuration: training.epochs=2
    #[arg(value_name = "SECTION.KEY=VALUE")]
    overrides: Vec<String>,
}

/// `--backbone`.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Backbone {
    /// 4-bit NF4 with double quantization.
    Nf4,
    /// 32-bit floats, for comparison.
    Float,
}

pub(crate) fn run(args: &QuickstartArgs) -> Result<ExitCode> {
    let clock = Instant::now();
    let places = Places::new(&args.output_dir)?;
    let interrupt = Interrupt::listen()?;
    let device = device::resolve(&args.device.device)?;
    shipped::unpack(&places.backbone)?;
    let config = configure(args, &places)?;

    step(1, "render beach tennis, a look the shipped detector has never seen")?;
    if !render(&config, &places, &interrupt)? {
        return Ok(interrupt.exit_code());
    }

    // Only a training has something to save.
    interrupt.end_at_once(true);
    step(2, "measure the shipped detector on the test games")?;
    let (model, build) = build(&config, &device)?;
    let before = measure(&model, &build, &config, &device)?;
    outln!("{}", summary(&before))?;

    step(3, "fine-tune LoRA adapters and the convolutions")?;
    interrupt.end_at_once(false);
    let options = FitOptions { stop: interrupt.stop.clone(), ..FitOptions::new(device.clone()) };
    let report = TrainingRun::new(&config, model, &build, options, &mut Console::new())?.fit()?;
    if report.outcome == Outcome::Interrupted {
        let root = report.paths.root.display();
        console::say(format_args!("interrupted; continue with: tracknet train --resume {root}"));
        return Ok(interrupt.exit_code());
    }
    interrupt.end_at_once(true);

    step(4, "measure again on the same test games")?;
    let after = measure(&report.model, &build, &config, &device)?;
    write_csv(&places.csv, &predictions(&after), THRESHOLD)?;
    draw(&report.model, &build, &config, &places, &device)?;
    after.report.write_json(&places.root.join("test.json"))?;

    print_result(&before, &after)?;
    outln!("memory\n{}\npeak of this process: {}\n", build.memory, peak_memory())?;
    print_places(&places, &report.paths.root, &report.paths.best())?;
    outln!("done in {:.0} s", clock.elapsed().as_secs_f64())?;
    Ok(ExitCode::SUCCESS)
}

/// What goes where.
struct Places {
    root: PathBuf,
    data: PathBuf,
    backbone: PathBuf,
    pictures: PathBuf,
    csv: PathBuf,
}

impl Places {
    fn new(root: &Path) -> Result<Self> {
        let found = match std::fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_some(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => bail!("{}: {error}", root.display()),
        };
        if found {
            bail!("{} is not empty; remove it, or choose another directory with --output-dir", root.display());
        }
        Ok(Self {
            root: root.to_path_buf(),
            data: root.join("data"),
            backbone: root.join(shipped::NAME),
            pictures: root.join("pictures"),
            csv: root.join("test.csv"),
        })
    }
}

fn step(number: usize, text: &str) -> Result<()> {
    outln!("\n[{number}/4] {text}")
}

/// The shipped quick-start configuration, in the chosen directory.
fn configure(args: &QuickstartArgs, places: &Places) -> Result<Config> {
    let named = |name: &str| Some(name.to_owned());
    let path = |key: &str, path: &Path| format!("{key}={}", serde_json::Value::from(path.display().to_string()));
    let mut overrides = vec![
        path("data.root", &places.data),
        path("model.pretrained_model_name", &std::path::absolute(&places.backbone)?),
        path("model.decoder.pretrained", &std::path::absolute(&places.backbone)?),
        format!("model.quantization.enabled={}", args.backbone == Backbone::Nf4),
        // The same gradient in half the memory.
        "training.micro_batch_size=1".to_owned(),
    ];
    overrides.extend(args.overrides.iter().cloned());
    let sources = ConfigSources {
        data: named("quickstart"),
        model: named("finetune"),
        training: named("quickstart"),
        overrides,
        seed: Some(args.seed),
        output_dir: Some(args.output_dir.clone()),
        ..ConfigSources::default()
    };
    Ok(Config::load(&sources).map_err(tracknet::Error::from)?.config)
}

/// Renders one game for every game that the configuration names; `false` when the user has interrupted it.
fn render(config: &Config, places: &Places, interrupt: &Interrupt) -> Result<bool> {
    let split = &config.data.split;
    let games = split.train_games.len() + split.val_games.len() + split.test_games.len();
    let options = GenerateOptions {
        seed: RALLY_SEED,
        games,
        clips_per_game: CLIPS,
        frames_per_clip: FRAMES,
        look: LookSet::Beach,
        ..GenerateOptions::default()
    };
    let clock = Instant::now();
    let Some(report) = generate_with_bar(&places.data, &options, &interrupt.stop)? else { return Ok(false) };
    outln!(
        "{} frames of {games} games in {:.0} s: {}",
        report.frames,
        clock.elapsed().as_secs_f64(),
        places.data.display()
    )?;
    Ok(true)
}

fn build(config: &Config, device: &Device) -> Result<(HeatmapModel, BuildReport)> {
    let device = Compute::new(device).training_device();
    Ok(build_model(&config.model, &config.data, config.training.seed, &device)?)
}

fn measure(model: &HeatmapModel, build: &BuildReport, config: &Config, device: &Device) -> Result<Evaluation> {
    Ok(evaluate(model, build, config, &config.data.split.test_games, device, &EvaluateOptions::default())?)
}

fn summary(evaluation: &Evaluation) -> String {
    let found = &evaluation.report.total.detection;
    format!("F1 {} (precision {}, recall {})", number(found.f1), number(found.precision), number(found.recall))
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.3}"))
}

/// What the evaluation found on each frame of the test games, in their order.
fn predictions(evaluation: &Evaluation) -> Vec<Prediction> {
    let prediction = |(index, outcome): (usize, &FrameOutcome)| Prediction {
        frame: index as u64,
        file: Some(format!("{}/{}/{}", outcome.game, outcome.clip, outcome.file_name)),
        detection: outcome.detection,
        source: None,
        peak: 0.0,
        damage: None,
    };
    evaluation.outcomes.iter().enumerate().map(prediction).collect()
}

/// Draws the ball and its label on some frames of the test games, spread evenly.
fn draw(model: &HeatmapModel, build: &BuildReport, config: &Config, places: &Places, device: &Device) -> Result<()> {
    let predictor = Predictor::new(model, build, config, device);
    let data = Dataset::open(&config.data.root, &config.data, &config.data.split.test_games, false)?;
    let frames = data.frames();
    let every = (frames.len() / PICTURES).max(1);
    // The model sees a frame among its neighbours: all of them are searched, and some are drawn.
    let files: Vec<PathBuf> = frames.iter().map(|frame| frame.frame.path.clone()).collect();
    let mut numbered = frames.iter().enumerate();
    predictor.files(&files, &mut |predicted| {
        let (Some((number, frame)), Predicted::Frame(result)) = (numbered.next(), predicted) else { return Ok(()) };
        if number % every != every / 2 {
            return Ok(());
        }
        let name = frame.to_string().replace(['/', '.'], "_");
        let marked = overlay::overlay(&result.frame, result.prediction.visible(THRESHOLD), frame.frame.label.xy)?;
        overlay::write_png(&places.pictures.join(format!("{name}.png")), &marked)?;
        Ok(overlay::write_png(&places.pictures.join(format!("{name}_heatmap.png")), &result.heatmap_picture()?)?)
    })?;
    Ok(())
}

fn print_result(before: &Evaluation, after: &Evaluation) -> Result<()> {
    let [before, after] = [before, after].map(|e| &e.report.total.detection);
    type Column = fn(&DetectionMetrics) -> Option<f64>;
    let rows: [(&str, Column); 6] = [
        ("F1", |m| m.f1),
        ("precision", |m| m.precision),
        ("recall", |m| m.recall),
        ("accuracy", |m| m.accuracy),
        ("average precision", |m| m.average_precision),
        ("RMSE of hits, px", |m| m.rmse),
    ];
    outln!("\ntest games, never seen in training; a hit is within {}", after.tolerance)?;
    outln!("{:<20} {:>8} {:>8}", "", "before", "after")?;
    for (name, column) in rows {
        outln!("{name:<20} {:>8} {:>8}", number(column(before)), number(column(after)))?;
    }
    outln!("")
}

fn peak_memory() -> String {
    peak_bytes().map_or_else(|| "not known on this system".to_owned(), |peak| bytes(peak as usize))
}

fn print_places(places: &Places, run: &Path, best: &Path) -> Result<()> {
    let [root, data, run] = [&places.root, &places.data, &run.to_path_buf()].map(|path| path.display().to_string());
    outln!("pictures     {}", places.pictures.display())?;
    outln!("predictions  {}", places.csv.display())?;
    outln!("checkpoint   {}", best.display())?;
    outln!("metrics      {root}/test.json")?;
    outln!(
        "\nnext
  look at the frames           tracknet data preview {data}
  find the ball in your video  tracknet predict {run} YOUR_VIDEO.mp4 --video
  train on your own labels     tracknet data check YOUR_DATA
                               tracknet train --data finetune --model finetune --training finetune data.root=YOUR_DATA \\
                                 data.split.train_games=[game1,game2] \\
                                 model.pretrained_model_name={backbone} model.decoder.pretrained={backbone}\n",
        backbone = places.backbone.display()
    )
}

//! `tracknet demo distill`: what LoRA on a float and on a 4-bit backbone cost and reach, side by side.
//!
//! Each student trains in a process of its own, this program started again, so that their peaks of memory do not mix and
//! neither contains the teacher. The three share a temporary directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use tracknet::bench::peak_bytes;
use tracknet::console::say;
use tracknet::datasets::image::pictures_in;
use tracknet::datasets::synthetic::{GenerateOptions, LookSet};
use tracknet::error::IoContext;
use tracknet::files::{Destination, write_atomic};
use tracknet::models::lora::PeftConfig;
use tracknet::models::lora::peft::WEIGHTS_FILE;
use tracknet::training::Console;
use tracknet::training::distill::{
    Crops, DistillLoss, DistillOptions, DistillReport, FeatureKind, StudentKind, StudentReport, Targets, teach,
    train_student,
};

use crate::args::{DeviceArgs, OverwriteFlag, parse_count};
use crate::data::generate_with_bar;
use crate::interrupt::Interrupt;
use crate::out::outln;
use crate::quantize::{Code, resolve};
use crate::{device, shipped};

/// Games, and frames of each, that are rendered when no picture is given.
const GAMES: usize = 10;
const FRAMES: usize = 3;
/// Size of a rendered frame, pixels.
const FRAME_SIZE: [usize; 2] = [640, 360];

/// Demonstrations on the shipped model or one of yours.
#[derive(Args)]
#[command(after_help = "Example:\n  tracknet demo distill")]
pub(crate) struct DemoArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Distill(Box<DistillArgs>),
    #[command(hide = true)]
    DistillStudent(StudentArgs),
}

/// Distil a vision transformer's features into LoRA and QLoRA adapters, and compare the two.
///
/// The float backbone is the teacher. Two students learn to give the features that it has of clean crops when they see the
/// crops with jitter, blur, noise and JPEG artefacts: (A) LoRA adapters on the float backbone, (B) the same on the backbone
/// in 4 bits. Prints latency, samples per second, peak memory and the losses of both, on crops that are held out. The same
/// seed gives the same losses. Each student runs in a process of its own, so that the peaks of memory do not mix.
#[derive(Args)]
#[command(after_help = "Examples:
  tracknet demo distill
  tracknet demo distill --model facebook/dinov3-vits16-pretrain-lvd1689m --image court.jpg --out distilled
  tracknet demo distill --model google/vit-base-patch16-224 --feature pooler --loss mse --steps 300

With --out, DIR/lora and DIR/qlora are adapters in the layout of PEFT; see them with: tracknet adapter status DIR/qlora")]
struct DistillArgs {
    /// The teacher: a Hugging Face directory of float weights, or a hub id in the local cache. By default the small model
    /// that this program carries.
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    /// A picture, or a folder of jpg and png pictures, to cut the crops from. By default rendered tennis frames.
    #[arg(long, value_name = "FILE|DIR")]
    image: Option<PathBuf>,
    /// Optimizer steps of each student.
    #[arg(long, value_name = "N", default_value_t = defaults().steps, value_parser = parse_count)]
    steps: usize,
    /// Crops in a step.
    #[arg(long, value_name = "N", default_value_t = defaults().batch_size, value_parser = parse_count)]
    batch_size: usize,
    /// Learning rate at the first step; it falls to zero along half a cosine.
    #[arg(long, value_name = "X", default_value_t = defaults().lr)]
    lr: f64,
    /// Rank of the adapters.
    #[arg(long, value_name = "N", default_value_t = defaults().rank, value_parser = parse_count)]
    rank: usize,
    /// Numerator of the adapters' scale, lora_alpha / rank.
    #[arg(long, value_name = "X", default_value_t = defaults().lora_alpha)]
    lora_alpha: f32,
    /// How the backbone of (B) is stored.
    #[arg(long, value_enum, default_value_t = Code::Nf4)]
    quant_type: Code,
    /// What is distilled.
    #[arg(long, value_enum, default_value_t = Feature::Cls)]
    feature: Feature,
    /// Distance of a student's feature from the teacher's.
    #[arg(long, value_enum, default_value_t = Loss::Cosine)]
    loss: Loss,
    /// Edge of a crop in pixels; a multiple of the model's patch size.
    #[arg(long, value_name = "PIXELS", default_value_t = defaults().size, value_parser = parse_count)]
    size: usize,
    /// Crops to learn from; each is seen in another view in every pass.
    #[arg(long, value_name = "N", default_value_t = defaults().crops, value_parser = parse_count)]
    crops: usize,
    /// Crops that are held out.
    #[arg(long, value_name = "N", default_value_t = defaults().validation_crops, value_parser = parse_count)]
    validation_crops: usize,
    /// Seed of crops, views, order and adapters.
    #[arg(long, default_value_t = defaults().seed)]
    seed: u64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write report.json and both adapters to this directory; only what tracknet wrote is replaced.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    overwrite: OverwriteFlag,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

/// One student of `tracknet demo distill`, in a process of its own.
#[derive(Args)]
struct StudentArgs {
    /// The directory that the demonstration made.
    job: PathBuf,
    /// Which student.
    #[arg(value_enum)]
    student: StudentName,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Where no flag says otherwise.
fn defaults() -> DistillOptions {
    DistillOptions::new("")
}

/// `--feature`.
#[derive(Clone, Copy, ValueEnum)]
enum Feature {
    /// The class token after the final norm.
    Cls,
    /// The pooler's output, of checkpoints that have one.
    Pooler,
}

/// `--loss`.
#[derive(Clone, Copy, ValueEnum)]
enum Loss {
    /// 1 − cosine of the angle between the features.
    Cosine,
    /// Mean squared difference.
    Mse,
}

#[derive(Clone, Copy, ValueEnum)]
enum StudentName {
    Lora,
    Qlora,
}

/// What the processes of a demonstration share, as `job.json`.
#[derive(Serialize, Deserialize)]
struct Job {
    options: DistillOptions,
    pictures: Vec<PathBuf>,
}

const JOB_FILE: &str = "job.json";
const TARGETS_FILE: &str = "targets.safetensors";
const REPORT_FILE: &str = "report.json";

pub(crate) fn run(args: &DemoArgs) -> Result<ExitCode> {
    match &args.action {
        Action::Distill(args) => distill(args),
        Action::DistillStudent(args) => student(args),
    }
}

fn distill(args: &DistillArgs) -> Result<ExitCode> {
    let out = args.out.as_ref().map(|out| args.overwrite.directory(out, &args.inputs())).transpose()?;
    let device = device::resolve(&args.device.device)?;
    let interrupt = Interrupt::listen()?;
    let place = tempfile::tempdir().context("cannot make a temporary directory")?;
    let place = place.path();
    let model = match &args.model {
        Some(model) => {
            // Here the name is the user's; below it is a key of a configuration that the user never wrote.
            resolve(model)?;
            model.clone()
        }
        None => {
            let dir = place.join(shipped::NAME);
            shipped::unpack(&dir)?;
            dir.display().to_string()
        }
    };
    let options = args.options(model);
    options.check().map_err(tracknet::Error::from)?;
    let Some(pictures) = pictures(args, place, &interrupt)? else { return Ok(interrupt.exit_code()) };
    let job = Job { options, pictures };
    let crops = Crops::cut(&job.pictures, &job.options)?;
    let (targets, teacher) = teach(&job.options, &crops, &device)?;
    drop(crops);
    targets.write(&place.join(TARGETS_FILE))?;
    write_json(&place.join(JOB_FILE), &job)?;
    let mut report = DistillReport {
        options: job.options,
        pictures: job.pictures.len(),
        held_out_pictures: Crops::held_out(job.pictures.len()),
        teacher,
        students: Vec::new(),
    };
    if args.model.is_none() {
        args.name_shipped(&mut report);
    }
    if !args.json {
        outln!("{}\n", report.heading())?;
    }
    for kind in StudentKind::ALL {
        match run_student(place, kind, &args.device.device, &interrupt)? {
            Some(student) => report.students.push(student),
            None => return Ok(interrupt.exit_code()),
        }
    }
    if let Some(out) = &out {
        write_results(out, place, &report, args.model.is_none())?;
    }
    args.print(&report)?;
    Ok(ExitCode::SUCCESS)
}

impl DistillArgs {
    /// What is read and must not be written over.
    fn inputs(&self) -> Vec<&Path> {
        [self.image.as_deref(), self.model.as_deref().map(Path::new)].into_iter().flatten().collect()
    }

    fn options(&self, model: String) -> DistillOptions {
        DistillOptions {
            model,
            feature: match self.feature {
                Feature::Cls => FeatureKind::Cls,
                Feature::Pooler => FeatureKind::Pooler,
            },
            loss: match self.loss {
                Loss::Cosine => DistillLoss::Cosine,
                Loss::Mse => DistillLoss::Mse,
            },
            steps: self.steps,
            batch_size: self.batch_size,
            lr: self.lr,
            rank: self.rank,
            lora_alpha: self.lora_alpha,
            quant_type: self.quant_type.quant_type().name().to_owned(),
            size: self.size,
            crops: self.crops,
            validation_crops: self.validation_crops,
            seed: self.seed,
        }
    }

    /// The shipped model by a name that lasts longer than the temporary directory: where `--out` keeps it.
    fn name_shipped(&self, report: &mut DistillReport) {
        let lasting = self.out.as_ref().map_or_else(|| shipped::NAME.into(), |out| out.join(shipped::NAME));
        report.teacher.model = lasting.display().to_string();
        report.options.model.clone_from(&report.teacher.model);
    }

    fn print(&self, report: &DistillReport) -> Result<()> {
        if self.json {
            return outln!("{}", serde_json::to_string_pretty(report).context("cannot write as JSON")?);
        }
        outln!("{report}")?;
        match &self.out {
            Some(out) => outln!("\nwrote {}", out.display()),
            None => Ok(()),
        }
    }
}

/// The pictures that were given, or freshly rendered ones; `None` when the user has interrupted the rendering.
fn pictures(args: &DistillArgs, place: &Path, interrupt: &Interrupt) -> Result<Option<Vec<PathBuf>>> {
    match &args.image {
        Some(dir) if dir.is_dir() => Ok(Some(pictures_in(dir).map_err(tracknet::Error::from)?)),
        Some(file) => Ok(Some(vec![file.clone()])),
        None => {
            let options = GenerateOptions {
                seed: args.seed,
                games: GAMES,
                clips_per_game: 1,
                frames_per_clip: FRAMES,
                size: FRAME_SIZE,
                look: LookSet::Mixed,
                ..GenerateOptions::default()
            };
            let Some(report) = generate_with_bar(&place.join("rallies"), &options, &interrupt.stop)? else {
                return Ok(None);
            };
            let clips = report.games.iter().map(|game| pictures_in(&game.join("Clip1")));
            Ok(Some(clips.collect::<Result<Vec<_>, _>>().map_err(tracknet::Error::from)?.concat()))
        }
    }
}

/// Lets a process train a student; `None` when the user has interrupted it.
fn run_student(place: &Path, kind: StudentKind, device: &str, interrupt: &Interrupt) -> Result<Option<StudentReport>> {
    say(kind);
    let program = std::env::current_exe().context("cannot find this program to start it again")?;
    let child = Command::new(program)
        .args(["demo", "distill-student"])
        .arg(place)
        .args([kind.name(), "--device", device])
        .spawn()
        .context("cannot start the process of a student")?;
    let mut child = Running(child);
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if interrupt.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if interrupt.stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    if !status.success() {
        bail!("student {kind} failed ({status}); its message is above");
    }
    read_json(&place.join(kind.name()).with_extension("json")).map(Some)
}

/// A process that does not outlive the wait for it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only for a process that has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process of one student: `<job>/<name>` becomes its adapter, `<job>/<name>.json` what was measured.
fn student(args: &StudentArgs) -> Result<ExitCode> {
    let kind = match args.student {
        StudentName::Lora => StudentKind::Lora,
        StudentName::Qlora => StudentKind::Qlora,
    };
    let job: Job = read_json(&args.job.join(JOB_FILE))?;
    let targets = Targets::read(&args.job.join(TARGETS_FILE))?;
    let device = device::resolve(&args.device.device)?;
    let crops = Crops::cut(&job.pictures, &job.options)?;
    let mut student = train_student(&job.options, kind, &crops, &targets, &device, &mut Console::new())?;
    let place = args.job.join(kind.name());
    student.write_adapter(&place)?;
    student.report.peak_memory = peak_bytes();
    write_json(&place.with_extension("json"), &student.report)?;
    Ok(ExitCode::SUCCESS)
}

/// The report, both adapters, and the shipped model where it is their base.
fn write_results(out: &Destination, place: &Path, report: &DistillReport, with_base: bool) -> Result<()> {
    out.write(|temporary| {
        for kind in StudentKind::ALL {
            let (from, to) = (place.join(kind.name()), temporary.join(kind.name()));
            fs::create_dir(&to).at(&to)?;
            fs::copy(from.join(WEIGHTS_FILE), to.join(WEIGHTS_FILE)).at(from.join(WEIGHTS_FILE))?;
            PeftConfig::read(&from)?.with_base(Some(&report.teacher.model)).write(&to)?;
        }
        if with_base {
            shipped::unpack(&temporary.join(shipped::NAME))?;
        }
        let path = temporary.join(REPORT_FILE);
        write_atomic(&path, |w| serde_json::to_writer_pretty(w, report).map_err(std::io::Error::from))
    })?;
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    Ok(write_atomic(path, |w| serde_json::to_writer_pretty(w, value).map_err(std::io::Error::from))?)
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}

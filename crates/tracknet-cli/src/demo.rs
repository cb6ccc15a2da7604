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
use burn::tensor::Device;
use clap::{Args, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use tracknet::artifacts::adapter::PeftConfig;
use tracknet::artifacts::adapter::peft::WEIGHTS_FILE;
use tracknet::config::{Precision, QuantMode, QuantTypeName, Words};
use tracknet::console::say;
use tracknet::datasets::image::pictures_in;
use tracknet::error::IoContext;
use tracknet::files::destination::check_file;
use tracknet::files::read::JSON;
use tracknet::files::{Destination, read_text, write_atomic};
use tracknet::process::peak_bytes;
use tracknet::training::Console;
use tracknet::training::distill::{
    Crops, DistillLoss, DistillOptions, DistillReport, FeatureKind, StudentKind, StudentReport, Targets, Views, teach,
    train_student,
};
use tracknet_render::{GenerateOptions, LookSet};

use crate::args::{DeviceArgs, OverwriteFlag, one_of, parse_count};
use crate::data::generate_with_bar;
use crate::interrupt::Interrupt;
use crate::out::outln;
use crate::quantize::resolve;
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
  tracknet demo distill --views same --epochs 1 --amp bf16 --quant-mode hf --csv results.csv

With --out, DIR/lora and DIR/qlora are adapters in the layout of PEFT; see them with: tracknet adapter status DIR/qlora")]
struct DistillArgs {
    /// The teacher: a Hugging Face directory of float weights, or a hub id in the local cache. By default the small model
    /// that this program carries.
    #[arg(long, value_name = "DIR|ID")]
    model: Option<String>,
    /// A picture, or a folder of jpg and png pictures, to cut the crops from. By default rendered tennis frames.
    #[arg(long, value_name = "FILE|DIR")]
    image: Option<PathBuf>,
    /// What the students see in place of a crop.
    #[arg(long, value_enum, default_value_t = View::Different)]
    views: View,
    /// Optimizer steps of each student.
    #[arg(long, value_name = "N", default_value_t = defaults().steps, value_parser = parse_count)]
    steps: usize,
    /// Passes over the crops to learn from, in place of --steps; the last batch is what is left of them.
    #[arg(long, value_name = "N", value_parser = parse_count, conflicts_with = "steps")]
    epochs: Option<usize>,
    /// Crops in a step.
    #[arg(long, value_name = "N", default_value_t = defaults().batch_size, value_parser = parse_count)]
    batch_size: usize,
    /// Learning rate at the first step; it falls to zero along half a cosine.
    #[arg(long, value_name = "X", default_value_t = defaults().lr)]
    lr: f64,
    /// What the students compute in, where the device has it; else fp32, with a note. On the CPU bf16 rounds the factors of
    /// products with frozen weights. The teacher and all losses are in fp32.
    #[arg(long, value_enum, default_value_t = Amp::Fp32)]
    amp: Amp,
    /// Rank of the adapters.
    #[arg(long, alias = "r", value_name = "N", default_value_t = defaults().rank, value_parser = parse_count)]
    rank: usize,
    /// Numerator of the adapters' scale, lora_alpha / rank.
    #[arg(long, value_name = "X", default_value_t = defaults().lora_alpha)]
    lora_alpha: f32,
    /// How the backbone of (B) is stored.
    #[arg(long, value_parser = one_of(QuantTypeName::VARIANTS), default_value_t = QuantTypeName::Nf4)]
    quant_type: QuantTypeName,
    /// How --skip-list is read.
    #[arg(long, value_enum, default_value_t = SkipMode::Manual)]
    quant_mode: SkipMode,
    /// Linear layers that stay floats in (B), separated by commas. A pooler always does.
    #[arg(long, value_name = "A,B", value_delimiter = ',')]
    skip_list: Vec<String>,
    /// What is distilled.
    #[arg(long, alias = "target", value_enum, default_value_t = Feature::Cls)]
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
    /// Write a row for each student to this file, with the columns of the original demonstration first; only a file that
    /// this verb wrote is replaced.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
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
    /// What transformers calls pooler_output: the class token through the pooler of a plain ViT; the same as cls of
    /// DINOv2 and DINOv3.
    Pooler,
}

/// `--views`.
#[derive(Clone, Copy, ValueEnum)]
enum View {
    /// Another view in every pass: colour jitter, blur, noise, JPEG artefacts.
    Different,
    /// The crop as the teacher sees it.
    Same,
}

/// `--amp`.
#[derive(Clone, Copy, ValueEnum)]
enum Amp {
    /// 32-bit floats.
    Fp32,
    /// Mixed precision in bfloat16.
    Bf16,
    /// Mixed precision in float16, with a loss scale.
    Fp16,
}

/// `--quant-mode`.
#[derive(Clone, Copy, ValueEnum)]
enum SkipMode {
    /// An entry is a part of a layer's path.
    Manual,
    /// An entry is what transformers matches: the end of a path, or a pattern from the start of it.
    Hf,
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
    let given = args.given_pictures()?;
    let out = args.check_destinations(given.as_deref().unwrap_or_default())?;
    let device = device::resolve(&args.device.device)?;
    let interrupt = Interrupt::listen()?;
    let place = tempfile::tempdir().context("cannot make a temporary directory")?;
    let place = place.path();
    let options = args.options(args.teacher(place)?);
    options.check().map_err(tracknet::Error::from)?;
    let pictures = match given {
        Some(pictures) => Some(pictures),
        None => render(args.seed, place, &interrupt)?,
    };
    let Some(pictures) = pictures else { return Ok(interrupt.exit_code()) };
    let mut report = prepare_students(Job { options, pictures }, place, &device)?;
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
    if let Some(path) = &args.csv {
        write_atomic(path, |w| report.write_csv(w))?;
    }
    args.print(&report)?;
    Ok(ExitCode::SUCCESS)
}

/// Runs the teacher, and leaves the job and its targets in `place` for the processes of the students. The report without them.
fn prepare_students(job: Job, place: &Path, device: &Device) -> Result<DistillReport> {
    let crops = Crops::cut(&job.pictures, &job.options)?;
    let (targets, teacher) = teach(&job.options, &crops, device)?;
    targets.write(&place.join(TARGETS_FILE))?;
    write_json(&place.join(JOB_FILE), &job)?;
    Ok(DistillReport {
        options: job.options,
        pictures: job.pictures.len(),
        held_out_pictures: Crops::held_out(job.pictures.len()),
        teacher,
        students: Vec::new(),
    })
}

impl DistillArgs {
    /// The model of `--model`, or the directory below `place` into which the one that this program carries is unpacked.
    fn teacher(&self, place: &Path) -> Result<String> {
        if let Some(model) = &self.model {
            // Here the name is the user's; below it is a key of a configuration that the user never wrote.
            resolve(model)?;
            return Ok(model.clone());
        }
        let dir = place.join(shipped::NAME);
        shipped::unpack(&dir)?;
        Ok(dir.display().to_string())
    }

    /// The pictures of `--image`.
    fn given_pictures(&self) -> Result<Option<Vec<PathBuf>>> {
        Ok(match &self.image {
            Some(dir) if dir.is_dir() => Some(pictures_in(dir).map_err(tracknet::Error::from)?),
            Some(file) => Some(vec![file.clone()]),
            None => None,
        })
    }

    /// Checks where the results go, before any work is done: nothing that is read may be written over.
    fn check_destinations(&self, pictures: &[PathBuf]) -> Result<Option<Destination>> {
        let mut inputs = self.model_files()?;
        inputs.extend(self.image.iter().chain(pictures).cloned());
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let out = self.out.as_ref().map(|out| self.overwrite.directory(out, &inputs)).transpose()?;
        if let Some(csv) = &self.csv {
            if let Some(out) = &self.out
                && absolute(csv)?.starts_with(absolute(out)?)
            {
                bail!(
                    "--csv {} lies in the directory of --out, which holds report.json; choose another place",
                    csv.display()
                );
            }
            check_file(csv, self.overwrite.overwrite, DistillReport::is_csv, &inputs)?;
        }
        Ok(out)
    }

    /// The directory of `--model` and what lies in it; nothing for the model that this program carries, and for one that
    /// is not found, which is reported where it is read.
    fn model_files(&self) -> Result<Vec<PathBuf>> {
        let Some(dir) = self.model.as_ref().and_then(|model| resolve(model).ok()) else { return Ok(Vec::new()) };
        let mut files = vec![dir.clone()];
        if !dir.is_dir() {
            return Ok(files);
        }
        for entry in fs::read_dir(&dir).at(&dir)? {
            files.push(entry.at(&dir)?.path());
        }
        Ok(files)
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
            views: match self.views {
                View::Different => Views::Different,
                View::Same => Views::Same,
            },
            steps: self.steps,
            epochs: self.epochs,
            batch_size: self.batch_size,
            lr: self.lr,
            rank: self.rank,
            lora_alpha: self.lora_alpha,
            precision: match self.amp {
                Amp::Fp32 => Precision::Fp32,
                Amp::Bf16 => Precision::Bf16,
                Amp::Fp16 => Precision::Fp16,
            },
            quant_type: self.quant_type,
            quant_mode: match self.quant_mode {
                SkipMode::Manual => QuantMode::Manual,
                SkipMode::Hf => QuantMode::Hf,
            },
            // An empty entry would be a part of every path.
            skip_modules: self
                .skip_list
                .iter()
                .map(|s| s.trim())
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
                .collect(),
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
        let written: Vec<_> = self.out.iter().chain(&self.csv).map(|path| path.display().to_string()).collect();
        if written.is_empty() { Ok(()) } else { outln!("\nwrote {}", written.join(" and ")) }
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot resolve {}", path.display()))
}

/// Rendered tennis frames; `None` when the user has interrupted the rendering.
fn render(seed: u64, place: &Path, interrupt: &Interrupt) -> Result<Option<Vec<PathBuf>>> {
    let options = GenerateOptions {
        seed,
        games: GAMES,
        clips_per_game: 1,
        frames_per_clip: FRAMES,
        size: FRAME_SIZE,
        look: LookSet::Mixed,
        ..GenerateOptions::default()
    };
    let Some(report) = generate_with_bar(&place.join("rallies"), &options, &interrupt.stop)? else { return Ok(None) };
    let clips = report.games.iter().map(|game| pictures_in(&game.join("Clip1")));
    Ok(Some(clips.collect::<Result<Vec<_>, _>>().map_err(tracknet::Error::from)?.concat()))
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
    out.write(|temporary| -> tracknet::Result<()> {
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
        Ok(write_atomic(&path, |w| serde_json::to_writer_pretty(w, report).map_err(std::io::Error::from))?)
    })?;
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    Ok(write_atomic(path, |w| serde_json::to_writer_pretty(w, value).map_err(std::io::Error::from))?)
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = read_text(path, JSON)?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}

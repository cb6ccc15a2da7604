//! The training of a run: epochs of steps, validation, checkpoints, logs.
//!
//! Everything random is a function of the seed and of the position in the run, and the position is in every
//! checkpoint: a run that was stopped anywhere and resumed ends with the weights of the run that was not.
//!
//! | module | what lives there |
//! |---|---|
//! | `begin` | the state that a run begins or goes on with, and its directories |
//! | `setup` | trainer, precision and micro-batches for the configuration, model and device at hand |
//! | `introduce` | what is said before the first step |
//! | `epoch` | the steps of an epoch |
//! | `out_of_memory` | a step on a device whose memory may not be enough |
//! | `close` | the end of an epoch: validation, checkpoints |
//! | `finish` | the end of a run, as planned or by an error |
//! | `overlays` | pictures of validation frames |

mod begin;
mod close;
mod epoch;
mod finish;
mod introduce;
mod out_of_memory;
mod overlays;
mod setup;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;

use crate::artifacts::adapter::PeftConfig;
use crate::artifacts::run::{CONFIG_FILE, RunPaths, RunState};
use crate::artifacts::{BuildReport, build_model};
use crate::compute::Compute;
use crate::config::{Config, Runtime};
use crate::datasets::BatchLoader;
use crate::error::Result;
use crate::files::{DirectoryLock, write_atomic};
use crate::models::HeatmapModel;

use super::evaluate::Evaluation;
use super::freeze;
use super::heatmap_step::HeatmapStep;
use super::loaders::Loaders;
use super::logging::{KeepRows, MetricLog};
use super::loss::MIN_MASK_WEIGHT;
use super::reporter::Reporter;
use super::resume::Resumed;
use super::schedule::Schedule;
use super::staging::Staging;
use super::trainer::Trainer;

use begin::{Beginning, Place};
pub use setup::{set_checkpointing, set_precision, training_peak, unfrozen_trainer};

/// How a run is started.
#[derive(Debug, Clone)]
pub struct FitOptions {
    /// Where to train, without autodiff.
    pub device: Device,
    /// A run or checkpoint directory to continue.
    pub resume: Option<PathBuf>,
    /// Set by a signal handler: finish the step, write a checkpoint, return.
    pub stop: Arc<AtomicBool>,
    /// Bytes that the run may use; `None` = what the system has available.
    pub memory_limit: Option<u64>,
}

impl FitOptions {
    /// A new run on `device` that nothing stops.
    pub fn new(device: Device) -> Self {
        Self { device, resume: None, stop: Arc::default(), memory_limit: None }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All epochs are done.
    Finished,
    /// The watched metric did not improve any more.
    StoppedEarly,
    /// The stop flag was set; the run can be resumed.
    Interrupted,
}

/// What a run leaves besides its files.
#[derive(Debug)]
pub struct FitReport {
    /// How it ended.
    pub outcome: Outcome,
    /// Where its files are.
    pub paths: RunPaths,
    /// Where the run is: epochs, steps, best value, metrics of the last epoch.
    pub state: RunState,
    /// The model: with the weights of the best epoch after a run that ended by itself, as the last step left it
    /// after an interrupt before that.
    pub model: HeatmapModel,
    /// The best checkpoint on the validation games; `None` after an interrupt or without validation games.
    pub evaluation: Option<Evaluation>,
}

/// Builds the model of `config` and trains it.
///
/// # Errors
/// Anything that keeps the run from starting or going on; files already written stay whole.
pub fn fit(config: &Config, options: FitOptions, reporter: &mut dyn Reporter) -> Result<FitReport> {
    let resumed = open_resumed(config, &options)?;
    let section = resumed.as_ref().map_or_else(|| config.model.clone(), |resumed| resumed.section(config));
    let device = Compute::new(&options.device).training_device();
    let (model, build) = build_model(&section, &config.data, config.training.seed, &device)?;
    TrainingRun::begin(config, model, &build, options, resumed, reporter)?.fit()
}

fn open_resumed(config: &Config, options: &FitOptions) -> Result<Option<Resumed>> {
    options.resume.as_deref().map(|from| Resumed::open(config, from)).transpose()
}

/// A run in progress.
pub struct TrainingRun<'a> {
    config: &'a Config,
    config_yaml: String,
    stop: Arc<AtomicBool>,
    reporter: &'a mut dyn Reporter,
    paths: RunPaths,
    loaders: Loaders,
    trainer: Trainer<HeatmapStep>,
    /// What the directory of the adapters says about them.
    adapter: Option<PeftConfig>,
    staging: Staging,
    schedule: Schedule,
    log: MetricLog,
    state: RunState,
    /// The position of the newest checkpoint: epoch, batch, step.
    saved: Option<(usize, usize, u64)>,
    /// What has gone wrong without harm to the run, each said once.
    tolerated: BTreeSet<&'static str>,
    /// The most that the run has held on a GPU, in bytes.
    device_memory: Option<u64>,
    /// Keep other processes out of the run's directories.
    _locks: Vec<DirectoryLock>,
}

impl<'a> TrainingRun<'a> {
    /// Opens the data, takes `model` as [`build_model`] made it on a [`Compute::training_device`], and continues where a
    /// resumed run was.
    ///
    /// # Errors
    /// If the data cannot be opened, nothing would train, the checkpoint does not fit, or another process has the run.
    pub fn new(
        config: &'a Config,
        model: HeatmapModel,
        build: &BuildReport,
        options: FitOptions,
        reporter: &'a mut dyn Reporter,
    ) -> Result<Self> {
        let resumed = open_resumed(config, &options)?;
        Self::begin(config, model, build, options, resumed, reporter)
    }

    fn begin(
        config: &'a Config,
        model: HeatmapModel,
        build: &BuildReport,
        options: FitOptions,
        resumed: Option<Resumed>,
        reporter: &'a mut dyn Reporter,
    ) -> Result<Self> {
        setup::check_monitor(config)?;
        let compute = setup::compute(config, &options);
        let loaders = Loaders::open(config, build, &compute)?;
        let holds_backbone = resumed.as_ref().is_some_and(|resumed| resumed.checkpoint.backbone_dir().is_some());
        let trainer = setup::trainer(config, model, holds_backbone, &compute)?;
        introduce::introduce(config, &trainer.model, build, &loaders, reporter);
        let beginning = Beginning::of(config, build, resumed, trainer, &loaders, reporter)?;
        let Beginning { mut trainer, mut state, place } = beginning;
        trainer.model = freeze::activate(config, &trainer.table, trainer.model, state.epoch);
        introduce::precision(config.training.precision, &mut trainer.model, &compute, reporter);
        introduce::checkpointing(config, &mut trainer.model, reporter);
        // Before the first file: a run that does not fit into memory leaves no directory.
        setup::micro_batch(config, &trainer)?;
        let keep = place.as_ref().map(|_| KeepRows { step: state.step, epoch: state.epoch });
        let Place { paths, locks, is_last } = place.map_or_else(|| Place::new(config, &mut state), Ok)?;
        let config_yaml = yaml_of(config, &state)?;
        write_atomic(paths.root.join(CONFIG_FILE), |w| w.write_all(config_yaml.as_bytes()))?;
        let training = &config.training;
        Ok(Self {
            staging: Staging::new(loaders.shape(), &compute),
            schedule: Schedule::new(&training.scheduler, training.epochs, loaders.train.batches()),
            log: MetricLog::open(&paths.logs, &Evaluation::metric_names("val/"), keep)?,
            saved: is_last.then(|| position(&state)),
            config,
            config_yaml,
            stop: options.stop,
            reporter,
            paths,
            loaders,
            trainer,
            adapter: adapter_config(config, build),
            state,
            tolerated: BTreeSet::new(),
            device_memory: None,
            _locks: locks,
        })
    }

    /// Trains until the last epoch, an early stop or the stop flag. Whatever ends it, the steps that were done are saved.
    ///
    /// # Errors
    /// If a batch cannot be read, losses stay non-finite, or a checkpoint cannot be written: what it was, and where the
    /// run can go on.
    pub fn fit(mut self) -> Result<FitReport> {
        let outcome = self.train().map_err(|cause| self.rescue(cause))?;
        let (outcome, evaluation) = self.evaluate_best(outcome).map_err(|cause| self.saved(cause))?;
        self.report_bad_frames();
        Ok(FitReport { outcome, paths: self.paths, state: self.state, model: self.trainer.model, evaluation })
    }

    fn train(&mut self) -> Result<Outcome> {
        while self.state.epoch < self.config.training.epochs {
            if self.state.monitor.is_exhausted(&self.config.training.early_stopping) {
                return Ok(Outcome::StoppedEarly);
            }
            self.unfreeze()?;
            let interrupted = self.train_epoch()? || self.close_epoch()?;
            if interrupted {
                self.save(&self.paths.last())?;
                return Ok(Outcome::Interrupted);
            }
        }
        Ok(Outcome::Finished)
    }

    /// Says once that something went wrong that is no reason to end a run.
    fn tolerate(&mut self, what: &'static str, result: Result<()>) {
        if let Err(error) = result
            && self.tolerated.insert(what)
        {
            self.reporter.note(&format!("{what} could not be written, and the run goes on: {error}"));
        }
    }

    /// Names the frames that could not be read, each once.
    fn note_bad_frames(&mut self) {
        for loader in [Some(&self.loaders.train), self.loaders.validation.as_ref()].into_iter().flatten() {
            for frame in loader.new_bad_frames() {
                self.reporter.note(&format!("{frame}; it is left out"));
            }
        }
    }

    /// Says at the end of a run how many frames were left out.
    fn report_bad_frames(&mut self) {
        let loaders = [("training", Some(&self.loaders.train)), ("validation", self.loaders.validation.as_ref())];
        for (split, loader) in loaders {
            let bad = loader.map(BatchLoader::bad_frames).unwrap_or_default();
            if !bad.is_empty() {
                self.reporter.report(&format!("{split}: {bad}"));
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Mean training loss of the epoch so far, over the mask.
    fn mean_loss(&self) -> f64 {
        self.state.epoch_loss_sum / self.state.epoch_mask_sum.max(MIN_MASK_WEIGHT)
    }
}

/// What is said once when a log line cannot be written.
const METRICS: &str = "metrics";

/// Epoch, batch and step.
fn position(state: &RunState) -> (usize, usize, u64) {
    (state.epoch, state.batch, state.step)
}

/// The merged configuration under the id that the run has.
fn yaml_of(config: &Config, state: &RunState) -> Result<String> {
    let runtime = Runtime { run_id: state.run_id.clone(), ..config.runtime.clone() };
    Ok(Config { runtime, ..config.clone() }.to_yaml()?)
}

/// The configuration of the adapters that the build made or read, for the base in use.
fn adapter_config(config: &Config, build: &BuildReport) -> Option<PeftConfig> {
    let adapter = build.lora.as_ref()?.peft.clone();
    Some(match config.model.pretrained_model_name.as_deref() {
        Some(base) => adapter.with_base(Some(base)),
        None => adapter,
    })
}

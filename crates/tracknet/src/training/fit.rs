//! The training loop: epochs of steps, validation, checkpoints, logs.
//!
//! Everything random is a function of the seed and of the position in the run, and the position is in every
//! checkpoint: a run that was stopped anywhere and resumed ends with the weights of the run that was not.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::{DType, Device};

use crate::artifacts::adapter::PeftConfig;
use crate::artifacts::run::weights::{load_weights, section_of, write_weights};
use crate::artifacts::run::{CONFIG_FILE, Checkpoint, RunPaths, RunState, write_checkpoint};
use crate::artifacts::{BuildReport, build_model};
use crate::config::{Config, Norm, Precision, Runtime};
use crate::datasets::{Batch, BatchLoader};
use crate::error::{Error, IoContext, Result};
use crate::files::{DirectoryLock, write_atomic};
use crate::models::memory::{MemoryReport, bytes, training_estimate};
use crate::models::{HeatmapModel, is_cpu};
use crate::parallel::cores;

use super::TrainingError;
use super::evaluate::{EvaluateOptions, Evaluation, Run};
use super::freeze;
use super::loaders::Loaders;
use super::logging::{KeepRows, MetricLog, RowKind};
use super::memory::{MemoryBound, MicroBatch, choose_micro_batch};
use super::monitor::{STAND_IN, Verdict};
use super::optimizer::{NamedOptimizer, Part};
use super::overlays::write_overlays;
use super::parameters::ParameterTable;
use super::precision::compute_dtype;
use super::reporter::{Reporter, StepProgress};
use super::resume::{self, Resumed};
use super::schedule::Schedule;
use super::staging::{StagedBatch, Staging};
use super::start::{Place, Start};
use super::step::{StepReport, Stepper};

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

/// The evaluation of the best checkpoint, in a run's directory.
pub const EVALUATION_FILE: &str = "evaluation.json";

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
    let device = training_device(&options.device);
    let resumed = open_resumed(config, &options)?;
    let section = resumed.as_ref().map_or_else(|| config.model.clone(), |resumed| resumed.section(config));
    let (model, build) = build_model(&section, config.data.preprocess.resize, config.training.seed, &device)?;
    Trainer::begin(config, model, &build, options, resumed, reporter)?.fit()
}

fn open_resumed(config: &Config, options: &FitOptions) -> Result<Option<Resumed>> {
    options.resume.as_deref().map(|from| Resumed::open(config, from)).transpose()
}

/// The device with autodiff.
pub fn training_device(device: &Device) -> Device {
    device.clone().autodiff()
}

/// A run in progress.
pub struct Trainer<'a> {
    config: &'a Config,
    config_yaml: String,
    options: FitOptions,
    reporter: &'a mut dyn Reporter,
    paths: RunPaths,
    loaders: Loaders,
    model: HeatmapModel,
    table: ParameterTable,
    /// What the directory of the adapters says about them.
    adapter: Option<PeftConfig>,
    stepper: Stepper,
    staging: Staging,
    optimizer: NamedOptimizer,
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

impl<'a> Trainer<'a> {
    /// Opens the data, takes `model` as [`build_model`] made it on a [`training_device`], and continues where a
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
        resume::check_monitor(config)?;
        let device = training_device(&options.device);
        let loaders = Loaders::open(config, build, options.memory_limit)?;
        let holds_backbone = resumed.as_ref().is_some_and(|resumed| resumed.checkpoint.backbone_dir().is_some());
        let model = freeze::prepare(config, model, holds_backbone);
        let table = ParameterTable::of(&model);
        if table.sorted().is_empty() {
            return Err(TrainingError::NothingToTrain { reason: resume::why_nothing_trains(config) }.into());
        }
        introduce(config, &model, build, &loaders, reporter);
        let mut start = Start::new(config, model, build, &table, &loaders);
        if let Some(resumed) = resumed {
            start = start.resumed(config, build, resumed, &table, &options.device, reporter)?;
        }
        let Start { model, optimizer, mut state, place, .. } = start;
        let mut model = freeze::activate(config, &table, model, state.epoch);
        note_precision(config.training.precision, &mut model, &options.device, reporter);
        note_checkpointing(config, &mut model, reporter);
        // Before the first file: a run that does not fit into memory leaves no directory.
        micro_batch(config, &model, &device, options.memory_limit)?;
        let keep = place.as_ref().map(|_| KeepRows { step: state.step, epoch: state.epoch });
        let Place { paths, locks, is_last } = place.map_or_else(|| Place::new(config, &mut state), Ok)?;
        let config_yaml = yaml_of(config, &state)?;
        write_atomic(paths.root.join(CONFIG_FILE), |w| w.write_all(config_yaml.as_bytes()))?;
        let training = &config.training;
        Ok(Self {
            stepper: stepper(config, &device).continuing(&state),
            staging: Staging::new(loaders.shape(), &device),
            schedule: Schedule::new(&training.scheduler, training.epochs, loaders.train.batches()),
            log: MetricLog::open(&paths.logs, &Evaluation::metric_names("val/"), keep)?,
            saved: is_last.then(|| position(&state)),
            config,
            config_yaml,
            options,
            reporter,
            paths,
            loaders,
            model,
            table,
            adapter: adapter_config(config, build),
            optimizer,
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
        Ok(FitReport { outcome, paths: self.paths, state: self.state, model: self.model, evaluation })
    }

    /// Saves what was done before an error. A step changes nothing before it is known to be sound, so the model is that of
    /// the last step.
    fn rescue(&mut self, cause: Error) -> Error {
        let step = self.state.step;
        if step == 0 {
            return cause;
        }
        if self.saved == Some(position(&self.state)) {
            return self.saved(cause);
        }
        match self.save(&self.paths.last()) {
            Ok(()) => self.saved(cause),
            Err(problem) => {
                let cause = Box::new(cause);
                let (problem, checkpoints) = (Box::new(problem), self.paths.checkpoints.clone());
                TrainingError::NotSaved { cause, step, problem, checkpoints }.into()
            }
        }
    }

    fn saved(&self, cause: Error) -> Error {
        let (step, run) = (self.state.step, self.paths.root.clone());
        TrainingError::Saved { cause: Box::new(cause), step, run }.into()
    }

    fn train(&mut self) -> Result<Outcome> {
        while self.state.epoch < self.config.training.epochs {
            if self.state.monitor.is_exhausted(&self.config.training.early_stopping) {
                return Ok(Outcome::StoppedEarly);
            }
            self.thaw()?;
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

    /// Switches gradients on or off by the freeze schedule, and fits the micro-batch to what then trains.
    fn thaw(&mut self) -> Result<()> {
        let epoch = self.state.epoch;
        self.model = freeze::activate(self.config, &self.table, self.model.clone(), epoch);
        if self.stepper.micro_batch.is_some() && epoch != self.config.training.backbone_freeze_epochs {
            return Ok(());
        }
        let chosen = micro_batch(self.config, &self.model, &self.stepper.device, self.options.memory_limit)?;
        if let Some(note) = chosen.note {
            self.reporter.note(&note);
        }
        let peak = bytes(training_peak(self.config, &self.model, &self.stepper.device, chosen.size));
        self.reporter.report(&format!("micro-batches of {} frames, estimated peak memory {peak}", chosen.size));
        self.stepper.micro_batch = Some(chosen.size);
        Ok(())
    }

    /// Trains on the batches of the epoch that are left. Returns whether the stop flag ended it.
    fn train_epoch(&mut self) -> Result<bool> {
        let epoch = self.state.epoch;
        let clock = Instant::now();
        let mut frames = 0;
        let batches = self.loaders.train.epoch_from(epoch as u64, self.state.batch);
        for batch in self.staging.stage(batches) {
            if self.is_stopped() {
                return Ok(true);
            }
            let mut batch = batch?;
            self.note_bad_frames();
            let factor = self.schedule.factor(epoch, self.state.batch);
            let report = self.step(&mut batch, factor)?;
            frames += batch.size;
            self.count(&report);
            self.log_step(&report, factor, frames as f64 / clock.elapsed().as_secs_f64().max(1e-9), batch.size);
        }
        Ok(self.is_stopped())
    }

    /// One step; if the device has no memory for it, the same step with smaller micro-batches. A step changes nothing
    /// before its gradients are known to be there.
    fn step(&mut self, batch: &mut StagedBatch, factor: f64) -> Result<StepReport> {
        if batch.size == 0 {
            // None of its frames could be read: nothing to learn, and nothing to forget by.
            return Ok(StepReport { loss_sum: 0.0, mask_sum: 0.0, grad_norm: None, skipped: None });
        }
        let training = &self.config.training;
        let mut retries = training.oom_retries;
        loop {
            let step = self.state.step;
            let result = self.stepper.step(&mut self.model, batch, &self.table, &mut self.optimizer, step, factor);
            let problem = match &result {
                Err(Error::Device(error)) => error.out_of_memory().map(str::to_owned),
                _ => None,
            };
            let Some(problem) = problem else { return result };
            self.table.abandon_graph(&self.model);
            let was_uploaded = batch.unload();
            self.options.device.memory_cleanup();
            if was_uploaded && self.staging.keeps_on_host() {
                // It was copied, or not quite, before room for whole batches was given up.
                continue;
            }
            self.staging.keep_on_host();
            let size = self.stepper.micro_batch.unwrap_or(batch.size).min(batch.size);
            let smaller = (size / training.mb_backoff_factor.max(2)).max(training.min_micro_batch_size.max(1));
            let limit = if self.config.model.decoder.norm == Norm::Bn {
                Some("model.decoder.norm: bn takes its statistics over the whole batch".to_owned())
            } else if !training.adaptive_micro_batch {
                Some("training.adaptive_micro_batch is off".to_owned())
            } else if smaller >= size {
                Some(format!("training.min_micro_batch_size is {smaller}"))
            } else if retries == 0 {
                Some(format!("training.oom_retries is {}", training.oom_retries))
            } else {
                None
            };
            if let Some(limit) = limit {
                return Err(TrainingError::OutOfDeviceMemory { micro_batch: size, problem, limit }.into());
            }
            retries -= 1;
            self.stepper.micro_batch = Some(smaller);
            self.reporter.note(&format!(
                "the device had no memory for a micro-batch of {size}: running micro-batches of {smaller} (the gradient \
                 stays that of the whole batch)"
            ));
        }
    }

    /// Moves the position past a step.
    fn count(&mut self, report: &StepReport) {
        let state = &mut self.state;
        state.loss_scale = self.stepper.loss_scale;
        state.step += 1;
        state.batch += 1;
        match &report.skipped {
            Some(what) => {
                state.skipped_steps += 1;
                let text = format!("step {}: the {what} was not finite; nothing was updated", state.step);
                self.reporter.note(&text);
            }
            None => {
                state.epoch_loss_sum += report.loss_sum;
                state.epoch_mask_sum += report.mask_sum;
            }
        }
    }

    fn log_step(&mut self, report: &StepReport, factor: f64, frames_per_s: f64, batch_size: usize) {
        self.device_memory = device_memory(&self.options.device).max(self.device_memory);
        let state = &self.state;
        let lr = self.config.training.optimizer.lr * factor;
        let values = [
            ("lr", lr),
            ("train/loss", report.loss_sum / report.mask_sum.max(super::MIN_MASK_WEIGHT)),
            ("grad_norm", report.grad_norm.unwrap_or(f64::NAN)),
            ("skipped_steps", state.skipped_steps as f64),
            ("frames_per_s", frames_per_s),
        ];
        let logged = self.log.write(RowKind::Step, state.epoch, state.step, &values);
        self.tolerate(METRICS, logged);
        let state = &self.state;
        let batches = self.loaders.train.batches();
        self.reporter.step(&StepProgress {
            epoch: state.epoch,
            epochs: self.config.training.epochs,
            batch: state.batch,
            batches,
            loss: self.mean_loss(),
            lr,
            frames_per_s,
            eta_s: (batches.saturating_sub(state.batch) * batch_size) as f64 / frames_per_s,
            device_memory: self.device_memory,
        });
    }

    /// Validates, logs, decides what is best, writes the checkpoints. Returns whether the stop flag ended it before
    /// the epoch was closed.
    fn close_epoch(&mut self) -> Result<bool> {
        let clock = Instant::now();
        let Some(mut metrics) = self.validate()? else { return Ok(true) };
        metrics.insert(STAND_IN.to_owned(), self.mean_loss());
        let open = self.state.clone();
        let epoch = open.epoch;
        let verdict = self.state.monitor.judge(&self.config.training.early_stopping, epoch, &metrics);
        self.reporter.epoch(&self.summary(&metrics, verdict));
        let mut row: Vec<(&str, f64)> = metrics.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        row.push(("seconds", clock.elapsed().as_secs_f64()));
        let logged = self.log.write(RowKind::Epoch, epoch, self.state.step, &row);
        self.tolerate(METRICS, logged);
        let finite = |value: f64| value.is_finite().then_some(value);
        self.state = RunState {
            epoch: epoch + 1,
            batch: 0,
            epoch_loss_sum: 0.0,
            epoch_mask_sum: 0.0,
            metrics: metrics.into_iter().map(|(name, value)| (name, finite(value))).collect(),
            ..self.state.clone()
        };
        if let Err(error) = self.save_epoch(verdict) {
            // The epoch is closed when both checkpoints say so: a run that goes on closes it again.
            self.state = open;
            return Err(error);
        }
        Ok(false)
    }

    fn save_epoch(&mut self, verdict: Verdict) -> Result<()> {
        if verdict == Verdict::Best {
            self.save(&self.paths.best())?;
        }
        self.save(&self.paths.last())
    }

    /// Validation metrics, with overlays of the first batch; empty without validation games, `None` when stopped.
    fn validate(&mut self) -> Result<Option<BTreeMap<String, f64>>> {
        let Some(loader) = &self.loaders.validation else { return Ok(Some(BTreeMap::new())) };
        let (epoch, paths) = (self.state.epoch, &self.paths);
        let mut drawn = Ok(());
        let first_batch = |batch: &Batch, heatmaps: &[f32]| {
            let [pred, target] = ["pred", "target"].map(|kind| paths.overlays(kind, epoch));
            drawn = write_overlays(batch, heatmaps, loader.spec(), &pred, &target);
            Ok(())
        };
        let evaluation = self.run_over(loader, first_batch)?;
        self.tolerate("overlays of validation frames", drawn);
        self.note_bad_frames();
        Ok(evaluation.map(|e| e.metrics("val/")))
    }

    fn run_over(
        &self,
        loader: &BatchLoader,
        first: impl FnOnce(&Batch, &[f32]) -> Result<()>,
    ) -> Result<Option<Evaluation>> {
        let model = self.model.valid();
        let (options, stop) = (EvaluateOptions::default(), &self.options.stop);
        Run { model: &model, config: self.config, device: &self.options.device, options: &options, stop }
            .over(loader, first)
    }

    fn save(&mut self, dir: &Path) -> Result<()> {
        let with_backbone = self.table.trains(Part::Backbone);
        let kept = write_checkpoint(dir, &self.config_yaml, &self.state, &self.optimizer.to_tensors()?, |temporary| {
            write_weights(&self.model, with_backbone, self.adapter.as_ref(), temporary)
        })?;
        if let Some(kept) = kept {
            self.reporter.note(&format!(
                "files in {} that the run did not write are now in {}",
                dir.display(),
                kept.display()
            ));
        }
        if dir == self.paths.last() {
            self.saved = Some(position(&self.state));
        }
        Ok(())
    }

    /// Ends the run: the best weights, evaluated on the validation games. The stop flag ends the evaluation, too; a
    /// resumed run makes up for it.
    fn evaluate_best(&mut self, outcome: Outcome) -> Result<(Outcome, Option<Evaluation>)> {
        if let Some(peak) = self.device_memory {
            self.reporter.report(&format!("peak memory on the device: {}", bytes(peak as usize)));
        }
        if outcome == Outcome::Interrupted {
            return Ok((outcome, None));
        }
        let best = self.paths.best();
        if best.try_exists().at(&best)? {
            let best = Checkpoint::open(&best)?;
            if best.state.base.is_some() && self.state.base.is_none() {
                // It is from before the epochs were raised, when the backbone was not to train.
                self.model.backbone = self.built(&best)?.backbone;
            }
            self.model = load_weights(self.model.clone(), self.adapter.as_ref(), &best)?;
        }
        if let Some(chosen) = self.chosen() {
            self.reporter.report(&chosen);
        }
        let Some(loader) = &self.loaders.validation else { return Ok((outcome, None)) };
        let Some(evaluation) = self.run_over(loader, |_, _| Ok(()))? else { return Ok((Outcome::Interrupted, None)) };
        let written = evaluation.report.write_json(&self.paths.root.join(EVALUATION_FILE));
        self.tolerate(EVALUATION_FILE, written);
        Ok((outcome, Some(evaluation)))
    }

    /// The model of a checkpoint as it is built, before its weights are loaded.
    fn built(&self, checkpoint: &Checkpoint) -> Result<HeatmapModel> {
        let (section, training) = (section_of(self.config, checkpoint), &self.config.training);
        let resize = self.config.data.preprocess.resize;
        Ok(build_model(&section, resize, training.seed, &self.stepper.device)?.0)
    }

    /// Which epoch is the best, and by which metric.
    fn chosen(&self) -> Option<String> {
        let monitor = &self.state.monitor;
        let (epoch, metric, value) = (monitor.best_epoch?, monitor.metric.as_deref()?, monitor.best?);
        let watched = &self.config.training.early_stopping.monitor;
        let why = match metric == watched {
            true => String::new(),
            false => format!(", which stands in for {watched}: it never had a value"),
        };
        Some(format!("best checkpoint: epoch {}, with {metric} {value:.5}{why}", epoch + 1))
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
        self.options.stop.load(Ordering::Relaxed)
    }

    /// Mean training loss of the epoch so far, over the mask.
    fn mean_loss(&self) -> f64 {
        self.state.epoch_loss_sum / self.state.epoch_mask_sum.max(super::MIN_MASK_WEIGHT)
    }

    /// The line of an epoch; a metric that is not defined, such as the recall without any ball, is a dash.
    fn summary(&self, metrics: &BTreeMap<String, f64>, verdict: Verdict) -> String {
        let number = |v: f64| if v.is_nan() { "–".to_owned() } else { format!("{v:.5}") };
        let value = |name: &str| metrics.get(name).map_or(String::new(), |v| format!("  {name} {}", number(*v)));
        let shown: String = [STAND_IN, "val/loss", "val/f1", "val/precision", "val/recall"].map(value).concat();
        let best = match (verdict, &self.state.monitor.metric) {
            (Verdict::Best, Some(metric)) if *metric != self.config.training.early_stopping.monitor => {
                format!("  best by {metric}")
            }
            (Verdict::Best, _) => "  best".to_owned(),
            _ => String::new(),
        };
        format!("epoch {}/{}{shown}{best}", self.state.epoch + 1, self.config.training.epochs)
    }
}

/// What is said once when a log line cannot be written.
const METRICS: &str = "metrics";

/// Epoch, batch and step.
fn position(state: &RunState) -> (usize, usize, u64) {
    (state.epoch, state.batch, state.step)
}

/// Says what is to be trained, on what, and when.
fn introduce(
    config: &Config,
    model: &HeatmapModel,
    build: &BuildReport,
    loaders: &Loaders,
    reporter: &mut dyn Reporter,
) {
    let build = BuildReport { memory: MemoryReport::of(model), ..build.clone() };
    reporter.report(&build.to_string());
    reporter.report(&loaders.report);
    if let Some(schedule) = freeze::explain(config, model) {
        reporter.report(&schedule);
    }
    if let Some(note) = stands_in(config, loaders) {
        reporter.note(&note);
    }
}

/// The merged configuration under the id that the run has.
fn yaml_of(config: &Config, state: &RunState) -> Result<String> {
    let runtime = Runtime { run_id: state.run_id.clone(), ..config.runtime.clone() };
    Ok(Config { runtime, ..config.clone() }.to_yaml()?)
}

/// What to say when the watched metric will never have a value.
fn stands_in(config: &Config, loaders: &Loaders) -> Option<String> {
    let monitor = &config.training.early_stopping.monitor;
    let missing = loaders.validation.is_none() && monitor.starts_with("val/");
    missing.then(|| {
        format!(
            "training.early_stopping.monitor is {monitor}, but there are no validation games: the smallest {STAND_IN} \
             chooses the best checkpoint"
        )
    })
}

/// Sets the precision, as far as the device has it, and says what became of it.
fn note_precision(precision: Precision, model: &mut HeatmapModel, device: &Device, reporter: &mut dyn Reporter) {
    if precision == Precision::Fp32 {
        return;
    }
    let name = precision.name();
    match set_precision(precision, model, device) {
        true if is_cpu(device) => reporter.report("mixed precision: products with frozen weights in bfloat16"),
        true => reporter.report(&format!("mixed precision: {name}")),
        false => {
            reporter.note(&format!("training.precision {name}: no mixed precision on this device, using fp32"));
        }
    }
}

/// Switches gradient checkpointing on, and says if this model has nothing to gain by it.
fn note_checkpointing(config: &Config, model: &mut HeatmapModel, reporter: &mut dyn Reporter) {
    if config.training.gradient_checkpointing && !set_checkpointing(config, model) {
        reporter.note(
            "training.gradient_checkpointing: true changes nothing for this model: only blocks that the CPU runs as one \
             operation (a frozen base that computes in bfloat16) are computed again",
        );
    }
}

/// Switches gradient checkpointing on if the configuration asks for it; whether the model has blocks that do it.
pub fn set_checkpointing(config: &Config, model: &mut HeatmapModel) -> bool {
    config.training.gradient_checkpointing && model.backbone.use_gradient_checkpointing()
}

/// Switches mixed precision on where the device has it for this model.
pub fn set_precision(precision: Precision, model: &mut HeatmapModel, device: &Device) -> bool {
    match is_cpu(device) {
        true => precision == Precision::Bf16 && model.use_bfloat16(),
        false => compute_dtype(precision, device) != DType::F32,
    }
}

/// The configuration of the adapters that the build made or read, for the base in use.
fn adapter_config(config: &Config, build: &BuildReport) -> Option<PeftConfig> {
    let adapter = build.lora.as_ref()?.peft.clone();
    Some(match config.model.pretrained_model_name.as_deref() {
        Some(base) => adapter.with_base(Some(base)),
        None => adapter,
    })
}

/// Bytes that the run holds on a GPU.
pub(crate) fn device_memory(device: &Device) -> Option<u64> {
    if is_cpu(device) { None } else { device.memory_pool_usage().map(|usage| usage.bytes_reserved) }
}

/// What takes the steps of a run on a [`training_device`]; its micro-batch is the whole batch.
fn stepper(config: &Config, device: &Device) -> Stepper {
    Stepper::new(&config.training, device).side_by_side(is_frame_by_frame(config, device))
}

/// Whether every frame of a batch is computed by itself, one on each core. Batch normalization couples the frames of a
/// batch; a GPU wants them all at once.
fn is_frame_by_frame(config: &Config, device: &Device) -> bool {
    is_cpu(device) && config.model.decoder.norm != Norm::Bn
}

/// An estimate of a run's peak memory with micro-batches of `frames`, in bytes.
pub fn training_peak(config: &Config, model: &HeatmapModel, device: &Device, frames: usize) -> usize {
    let at_once = if is_frame_by_frame(config, device) { frames.min(cores()) } else { frames };
    let training = &config.training;
    training_estimate(model, at_once, config.data.preprocess.resize, device, training.gradient_checkpointing)
}

/// What takes the steps of a run when all of `model` trains, with the micro-batch that then fits into memory.
pub(crate) fn thawed_stepper(config: &Config, model: &HeatmapModel, device: &Device) -> Result<Stepper> {
    let mut stepper = stepper(config, device);
    stepper.micro_batch = Some(micro_batch(config, model, device, None)?.size);
    Ok(stepper)
}

/// The micro-batch that fits what trains of `model` into memory. A GPU says itself when it has none left, and better than
/// an estimate.
fn micro_batch(
    config: &Config,
    model: &HeatmapModel,
    device: &Device,
    memory_limit: Option<u64>,
) -> Result<MicroBatch> {
    let estimate = |frames| training_peak(config, model, device, frames) as u64;
    let bound = if is_cpu(device) { MemoryBound::find(memory_limit) } else { MemoryBound::of_limit(memory_limit) };
    choose_micro_batch(&config.training, config.model.decoder.norm, estimate, bound)
}

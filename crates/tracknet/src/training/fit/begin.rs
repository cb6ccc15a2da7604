//! What a run begins with: nothing but its model, or what a checkpoint left.

use crate::artifacts::BuildReport;
use crate::artifacts::run::weights::load_weights;
use crate::artifacts::run::{Checkpoint, FORMAT_VERSION, RunError, RunPaths, RunState, UNKNOWN_COMPUTATION, identity};
use crate::config::Config;
use crate::error::Result;
use crate::files::DirectoryLock;
use crate::training::heatmap_step::HeatmapStep;
use crate::training::loaders::Loaders;
use crate::training::monitor::STAND_IN;
use crate::training::optimizer::Part;
use crate::training::parameters::ParameterTable;
use crate::training::reporter::Reporter;
use crate::training::resume::{self, Resumed};
use crate::training::trainer::Trainer;

/// The directories of a run, and what keeps others out of them.
pub(super) struct Place {
    pub(super) paths: RunPaths,
    pub(super) locks: Vec<DirectoryLock>,
    /// Whether `last` is what the run goes on from.
    pub(super) is_last: bool,
}

impl Place {
    /// Makes those of a new run; the state takes the id that they have.
    pub(super) fn new(config: &Config, state: &mut RunState) -> Result<Self> {
        let (paths, run_id) = RunPaths::claim(&config.runtime)?;
        state.run_id = run_id;
        let locks = paths.lock()?;
        Ok(Self { paths, locks, is_last: false })
    }
}

/// The state of a run before its first step.
fn new_state(config: &Config, build: &BuildReport, trainer: &Trainer<HeatmapStep>, loaders: &Loaders) -> RunState {
    let named = names_base(&trainer.table, config.model.lora.enabled);
    let base = named.then(|| identity::base_of(config, build));
    RunState {
        computation: Some(identity::computation_of(&trainer.model, build)),
        frames: Some(loaders.frame_list()),
        ..RunState::start(&config.runtime.run_id, config.training.seed, base)
    }
}

/// Whether the backbone is named by checkpoints and not held by them: when it never trains.
fn names_base(table: &ParameterTable, lora: bool) -> bool {
    lora || !table.trains(Part::Backbone)
}

/// What a run begins with.
pub(super) struct Beginning {
    /// With the weights and the optimizer's state of the checkpoint, if the run is continued.
    pub(super) trainer: Trainer<HeatmapStep>,
    /// The position.
    pub(super) state: RunState,
    /// The directories of a run that is continued.
    pub(super) place: Option<Place>,
}

impl Beginning {
    /// Of a new run, or of one that goes on where a checkpoint was written.
    pub(super) fn of(
        config: &Config,
        build: &BuildReport,
        resumed: Option<Resumed>,
        trainer: Trainer<HeatmapStep>,
        loaders: &Loaders,
        reporter: &mut dyn Reporter,
    ) -> Result<Self> {
        let new = Self { state: new_state(config, build, &trainer, loaders), trainer, place: None };
        let Some(Resumed { checkpoint, paths, mut notes, locks }) = resumed else { return Ok(new) };
        // First: it names the keys that the other checks would find the traces of.
        let changes = resume::differences(config, &checkpoint)?;
        checkpoint.check_base(Some(&identity::base_of(config, build)))?;
        if !checkpoint.check_computation(&identity::computation_of(&new.trainer.model, build))? {
            notes.push(UNKNOWN_COMPUTATION.to_owned());
        }
        notes.extend(changes);
        let mut trainer = load(build, &checkpoint, new.trainer)?;
        resume::check_optimizer(&trainer.optimizer, &trainer.table, &checkpoint, &config.training.optimizer)?;
        let (state, left_out) = continued(config, &checkpoint, new.state, loaders.train.batches());
        trainer.loss_scale = trainer.loss_scale.map(|start| state.loss_scale.unwrap_or(start));
        notes.extend(left_out);
        let (epoch, batch, step) = (state.epoch + 1, state.batch, state.step);
        notes.push(format!("continuing {} at epoch {epoch}, batch {batch}, step {step}", state.run_id));
        notes.iter().for_each(|note| reporter.note(note));
        let is_last = checkpoint.dir == paths.last();
        Ok(Self { trainer, state, place: Some(Place { paths, locks, is_last }) })
    }
}

/// Weights and optimizer of a checkpoint.
fn load(
    build: &BuildReport,
    checkpoint: &Checkpoint,
    mut trainer: Trainer<HeatmapStep>,
) -> Result<Trainer<HeatmapStep>> {
    let adapter = build.lora.as_ref().map(|lora| &lora.peft);
    trainer.model = load_weights(trainer.model, adapter, checkpoint)?;
    let (lengths, device) = (trainer.table.lengths(), trainer.compute.device());
    let loaded = trainer.optimizer.load_tensors(&checkpoint.optimizer()?, &lengths, device);
    loaded.map_err(|problem| RunError::DoesNotFit { path: checkpoint.optimizer_path(), problem })?;
    Ok(trainer)
}

/// The state of a checkpoint in a run that is otherwise like `new`, and what is left out of an epoch that cannot be
/// finished as it began.
fn continued(config: &Config, checkpoint: &Checkpoint, new: RunState, batches: usize) -> (RunState, Option<String>) {
    let mut state = checkpoint.state.clone();
    let watched = &config.training.early_stopping.monitor;
    if state.monitor.best.is_some() && state.monitor.metric.is_none() {
        // Version 1 did not say; the stand-in was used where the watched metric was not there at all.
        let metric = if state.metrics.contains_key(watched) { watched.as_str() } else { STAND_IN };
        state.monitor.metric = Some(metric.to_owned());
    }
    let mut left_out = None;
    if let (Some(old), Some(found)) = (&state.frames, &new.frames)
        && old != found
        && state.batch > 0
    {
        left_out = Some(format!(
            "the training frames are not those that epoch {} began with ({} then, {} now): what is left of it is left \
             out, so that no frame is repeated, and the next epoch is of the new frames",
            state.epoch + 1,
            old.count,
            found.count
        ));
        state.batch = batches;
    }
    let RunState { seed, base, computation, frames, .. } = new;
    // The weights are those without the shift.
    let score_shift = None;
    (RunState { format_version: FORMAT_VERSION, score_shift, seed, base, computation, frames, ..state }, left_out)
}

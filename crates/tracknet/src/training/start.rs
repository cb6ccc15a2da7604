//! What a run begins with: nothing but its model, or what a checkpoint left.

use burn::tensor::Device;

use crate::artifacts::BuildReport;
use crate::artifacts::run::weights::load_weights;
use crate::artifacts::run::{Checkpoint, FORMAT_VERSION, RunError, RunPaths, RunState, UNKNOWN_COMPUTATION, identity};
use crate::config::Config;
use crate::error::Result;
use crate::files::DirectoryLock;
use crate::models::HeatmapModel;

use super::loaders::Loaders;
use super::monitor::STAND_IN;
use super::optimizer::NamedOptimizer;
use super::parameters::ParameterTable;
use super::reporter::Reporter;
use super::resume::{self, Resumed};

/// Weights, optimizer and position of a run.
pub(super) struct Start {
    pub(super) model: HeatmapModel,
    pub(super) optimizer: NamedOptimizer,
    pub(super) state: RunState,
    /// The directories of a run that is continued.
    pub(super) place: Option<Place>,
    /// Batches of an epoch.
    batches: usize,
}

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

impl Start {
    /// Before the first step.
    pub(super) fn new(
        config: &Config,
        model: HeatmapModel,
        build: &BuildReport,
        table: &ParameterTable,
        loaders: &Loaders,
    ) -> Self {
        let base = resume::names_base(table, config.model.lora.enabled).then(|| identity::base_of(config, build));
        let state = RunState {
            computation: Some(identity::computation_of(&model, build)),
            frames: Some(loaders.frame_list()),
            ..RunState::start(&config.runtime.run_id, config.training.seed, base)
        };
        let optimizer = NamedOptimizer::new(&config.training.optimizer);
        Self { model, optimizer, state, place: None, batches: loaders.train.batches() }
    }

    /// The same, as the checkpoint of a run left it.
    pub(super) fn resumed(
        mut self,
        config: &Config,
        build: &BuildReport,
        resumed: Resumed,
        table: &ParameterTable,
        device: &Device,
        reporter: &mut dyn Reporter,
    ) -> Result<Self> {
        let Resumed { checkpoint, paths, mut notes, locks } = resumed;
        checkpoint.check_base(Some(&identity::base_of(config, build)))?;
        if !checkpoint.check_computation(&identity::computation_of(&self.model, build))? {
            notes.push(UNKNOWN_COMPUTATION.to_owned());
        }
        notes.extend(resume::differences(config, &checkpoint)?);
        self.model = load_weights(self.model, build.lora.as_ref().map(|lora| &lora.peft), &checkpoint)?;
        self.optimizer
            .load_tensors(&checkpoint.optimizer()?, &table.lengths(), device)
            .map_err(|problem| RunError::DoesNotFit { path: checkpoint.optimizer_path(), problem })?;
        resume::check_optimizer(&self.optimizer, table, &checkpoint, &config.training.optimizer)?;
        let (state, left_out) = goes_on(config, &checkpoint, self.state, self.batches);
        notes.extend(left_out);
        notes.push(format!(
            "continuing {} at epoch {}, batch {}, step {}",
            state.run_id,
            state.epoch + 1,
            state.batch,
            state.step
        ));
        notes.iter().for_each(|note| reporter.note(note));
        let is_last = checkpoint.dir == paths.last();
        Ok(Self { state, place: Some(Place { paths, locks, is_last }), ..self })
    }
}

/// The state of a checkpoint in a run that is otherwise like `new`, and what is left out of an epoch that cannot be
/// finished as it began.
fn goes_on(config: &Config, checkpoint: &Checkpoint, new: RunState, batches: usize) -> (RunState, Option<String>) {
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
    (RunState { format_version: FORMAT_VERSION, seed, base, computation, frames, ..state }, left_out)
}

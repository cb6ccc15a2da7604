//! What all pages share: labels and proposals with a revision that grows with every change, and the training.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::SystemTime;

use tracknet::datasets::Label;
use tracknet::datasets::labelling::LabelBook;
use tracknet::inference::Predictor;

use crate::LabelError;
use crate::doubt::{doubt, next};
use crate::proposals::{Proposal, propose};
use crate::training::{TrainingPlan, follow};

/// Makes a predictor of a run.
pub type OpenRun = dyn Fn(&Path) -> tracknet::Result<Predictor> + Send + Sync;

/// A labelling that goes on.
pub struct Work {
    state: Mutex<State>,
    open: Box<OpenRun>,
    plan: Option<TrainingPlan>,
}

struct State {
    book: LabelBook,
    clips: Vec<usize>,
    /// Grows with every change of a label; which frames changed, by revision.
    journal: Vec<usize>,
    proposals: Vec<Option<Proposal>>,
    /// Stops the thread that proposes.
    stop: Arc<AtomicBool>,
    /// Whose proposals they are, or why there are none.
    model: Option<Result<PathBuf, String>>,
    training: Training,
    /// Labels when the last training began.
    trained_on: usize,
}

/// What is known of the training.
#[derive(Debug, Default)]
pub(crate) struct Training {
    child: Option<u32>,
    /// Whether one is going on.
    pub(crate) running: bool,
    /// What it said last, or how it ended.
    pub(crate) said: String,
}

/// The outcome of a change.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// It is in the file; the revision after it.
    Written(usize),
    /// Somebody else labelled the frame meanwhile.
    Conflict(Option<Label>),
}

impl Work {
    /// A labelling of these frames; `open` makes a predictor of a run, `plan` says how to train.
    pub fn new(book: LabelBook, open: Box<OpenRun>, plan: Option<TrainingPlan>) -> Self {
        let clips = (0..book.len()).filter_map(|frame| book.clip_of(frame)).collect();
        let (proposals, trained_on) = (vec![None; book.len()], book.labelled());
        let (stop, training) = (Arc::default(), Training::default());
        let state = State { book, clips, journal: Vec::new(), proposals, stop, model: None, training, trained_on };
        Self { state: Mutex::new(state), open, plan }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the labels.
    pub(crate) fn book<T>(&self, look: impl FnOnce(&LabelBook) -> T) -> T {
        look(&self.state().book)
    }

    /// The revision, and the frames whose label changed since an earlier one, each once.
    pub(crate) fn changes(&self, since: usize) -> (usize, Vec<(usize, Option<Label>)>) {
        let state = self.state();
        let mut frames: Vec<usize> = state.journal.get(since..).unwrap_or(&state.journal).to_vec();
        frames.sort_unstable();
        frames.dedup();
        let labels = frames.into_iter().map(|frame| (frame, state.book.label(frame))).collect();
        (state.journal.len(), labels)
    }

    /// How many frames have proposals, and of which run; or why there are none.
    pub(crate) fn proposed(&self) -> (usize, Option<Result<PathBuf, String>>) {
        let state = self.state();
        (state.proposals.iter().flatten().count(), state.model.clone())
    }

    pub(crate) fn proposal(&self, frame: usize) -> Option<Proposal> {
        self.state().proposals.get(frame).copied().flatten()
    }

    /// The frame that is worth labelling next; not `besides` if there is another.
    pub(crate) fn next(&self, besides: Option<usize>) -> Option<usize> {
        let state = self.state();
        let labelled: Vec<bool> = (0..state.book.len()).map(|frame| state.book.label(frame).is_some()).collect();
        let doubts: Vec<Option<f32>> = state.proposals.iter().map(|found| found.as_ref().map(doubt)).collect();
        next(&state.clips, &labelled, &doubts, besides)
    }

    /// Gives a frame a label, or takes it away, if it still has the label `was`. When this returns, the change is in the file.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn label(
        self: &Arc<Self>,
        frame: usize,
        was: Option<Label>,
        label: Option<Label>,
    ) -> Result<Change, LabelError> {
        let mut state = self.state();
        if state.book.label(frame) != was {
            return Ok(Change::Conflict(state.book.label(frame)));
        }
        state.book.set(frame, label)?;
        state.journal.push(frame);
        let (revision, new) = (state.journal.len(), state.book.labelled().saturating_sub(state.trained_on));
        let due = self.plan.as_ref().is_some_and(|plan| plan.after > 0 && new >= plan.after) && !state.training.running;
        drop(state);
        if due {
            // Why it did not begin is shown where its progress is.
            let _ = self.train();
        }
        Ok(Change::Written(revision))
    }

    /// Lets a run propose, on a thread; proposals of an earlier one are dropped as new ones come.
    pub fn propose_by(self: &Arc<Self>, run: &Path) {
        let (work, run) = (Arc::clone(self), run.to_path_buf());
        thread::spawn(move || {
            let stop = Arc::new(AtomicBool::new(false));
            let files = {
                let mut state = work.state();
                std::mem::replace(&mut state.stop, Arc::clone(&stop)).store(true, Ordering::Relaxed);
                state.book.paths()
            };
            let mut take = |frame: usize, proposal: Proposal| {
                if let Some(place) = work.state().proposals.get_mut(frame) {
                    *place = Some(proposal);
                }
            };
            let predictor = (work.open)(&run);
            if predictor.is_ok() {
                let mut state = work.state();
                state.model = Some(Ok(run));
                state.proposals.fill(None);
            }
            let ended = predictor.and_then(|predictor| propose(predictor, &files, &stop, &mut take));
            if let Err(error) = ended {
                work.state().model = Some(Err(error.to_string()));
            }
        });
    }

    /// Whether a training was set up.
    pub(crate) fn can_train(&self) -> bool {
        self.plan.is_some()
    }

    /// Whether a training is going on, and what it said last.
    pub(crate) fn training(&self) -> (bool, String) {
        let state = self.state();
        (state.training.running, state.training.said.clone())
    }

    /// Begins a training on the labels, whose run then proposes.
    ///
    /// # Errors
    /// One that goes on already, none that was set up, or a program that cannot be started.
    pub fn train(self: &Arc<Self>) -> Result<(), LabelError> {
        let plan = self.plan.clone().ok_or(LabelError::Training("there is nothing to train from: give --run"))?;
        let mut state = self.state();
        if state.training.running {
            return Err(LabelError::Training("a training is going on already"));
        }
        let began = SystemTime::now();
        let child = plan.start().map_err(|error| {
            state.training.said = format!("cannot start: {error}");
            LabelError::Training("the training cannot be started")
        })?;
        state.training = Training { child: Some(child.id()), running: true, said: "starts".to_owned() };
        state.trained_on = state.book.labelled();
        drop(state);
        let work = Arc::clone(self);
        thread::spawn(move || work.attend(child, &plan, began));
        Ok(())
    }

    fn attend(self: &Arc<Self>, mut child: Child, plan: &TrainingPlan, began: SystemTime) {
        let succeeded = follow(&mut child, &mut |line| self.state().training.said = line);
        let run = plan.newest_run(began).filter(|_| succeeded);
        let mut state = self.state();
        let said = match &run {
            Some(run) => format!("trained: {}", run.display()),
            None => format!("failed: {}", state.training.said),
        };
        state.training = Training { child: None, running: false, said };
        drop(state);
        run.iter().for_each(|run| self.propose_by(run));
    }

    /// Ends what goes on beside the page: proposals at once, and a training as Ctrl-C does, which leaves a checkpoint.
    pub(crate) fn end(&self) {
        let state = self.state();
        state.stop.store(true, Ordering::Relaxed);
        if let Some(child) = state.training.child {
            // The program that it is may be gone already.
            let _ = std::process::Command::new("kill").arg(child.to_string()).status();
        }
    }
}

//! Frames that cannot be read: left out, named once, counted.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard};

use serde::Serialize;

use super::DatasetError;

/// The most frames that are named; the others are only counted.
const NAMED: usize = 20;

/// Frames that could not be read and were left out of their batches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BadFrames {
    /// How many; each counts once, however often it was tried.
    pub count: usize,
    /// The first of them in the order in which they were met, each with its label's place and the reason.
    pub first: Vec<String>,
}

impl BadFrames {
    /// Whether every frame could be read.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl fmt::Display for BadFrames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} could not be read and {} left out", super::count(self.count, "frame"), was(self.count))?;
        self.first.iter().try_for_each(|frame| write!(f, "\n  {frame}"))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
        }
    }
}

fn was(count: usize) -> &'static str {
    if count == 1 { "was" } else { "were" }
}

/// What a loader has met so far.
#[derive(Debug, Default)]
pub(super) struct Met(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    indices: HashSet<usize>,
    first: Vec<String>,
    told: usize,
}

impl Met {
    /// Counts the frame of this index, unless it was met before.
    pub(super) fn add(&self, index: usize, error: &DatasetError) {
        let mut state = self.lock();
        if state.indices.insert(index) && state.first.len() < NAMED {
            state.first.push(error.to_string());
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> BadFrames {
        let state = self.lock();
        BadFrames { count: state.indices.len(), first: state.first.clone() }
    }

    /// Those among the first few that this has not returned before.
    pub(super) fn news(&self) -> Vec<String> {
        let mut state = self.lock();
        let news = state.first[state.told..].to_vec();
        state.told = state.first.len();
        news
    }

    /// Nobody can panic while holding the lock, so a poisoned one is taken as it is.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_frame_counts_once_and_only_the_first_few_are_named() {
        let met = Met::default();
        assert!(met.all().is_empty() && met.news().is_empty());
        let error = |i: usize| DatasetError::Image { path: format!("{i}.jpg").into(), reason: "cut off".to_owned() };
        met.add(7, &error(7));
        met.add(7, &error(7));
        assert_eq!(met.all().to_string(), "1 frame could not be read and was left out\n  image 7.jpg: cut off");
        assert_eq!(met.news(), ["image 7.jpg: cut off"]);
        (0..50).for_each(|i| met.add(i, &error(i)));
        assert_eq!(met.news().len(), NAMED - 1);
        assert!(met.news().is_empty());
        let text = met.all().to_string();
        assert!(text.starts_with("50 frames could not be read and were left out\n  image 7.jpg"), "{text}");
        assert!(text.ends_with("\n  image 19.jpg: cut off\n  … and 30 more"), "{text}");
    }
}

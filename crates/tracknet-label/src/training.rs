//! A training on the labels: the program itself, as a process of its own, whose last line is shown and whose run then proposes.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

/// How a training is started.
#[derive(Debug, Clone)]
pub struct TrainingPlan {
    /// The program.
    pub program: PathBuf,
    /// What it is given.
    pub arguments: Vec<OsString>,
    /// Where it writes its runs.
    pub runs: PathBuf,
    /// Begins of itself after so many new labels; 0 = only when it is asked for.
    pub after: usize,
}

impl TrainingPlan {
    /// Starts it. What it says comes line by line from the child's standard error.
    ///
    /// # Errors
    /// A program that cannot be started.
    pub(crate) fn start(&self) -> std::io::Result<Child> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
    }

    /// The newest run that ended with an evaluation since `began`.
    pub(crate) fn newest_run(&self, began: SystemTime) -> Option<PathBuf> {
        let ended = |run: &Path| run.join("evaluation.json").metadata().and_then(|file| file.modified()).ok();
        let runs = std::fs::read_dir(&self.runs).ok()?.flatten().map(|entry| entry.path());
        let runs = runs.filter_map(|run| Some((ended(&run)?, run))).filter(|(time, _)| *time >= began);
        runs.max_by_key(|(time, _)| *time).map(|(_, run)| run)
    }
}

/// Gives each line that a training says to `line`, and waits for its end; whether it succeeded.
pub(crate) fn follow(child: &mut Child, line: &mut dyn FnMut(String)) -> bool {
    if let Some(said) = child.stderr.take() {
        for text in BufReader::new(said).split(b'\n').map_while(std::io::Result::ok) {
            let text = String::from_utf8_lossy(&text).trim().to_owned();
            if !text.is_empty() {
                line(tracknet::console::shown(&text));
            }
        }
    }
    child.wait().is_ok_and(|status| status.success())
}

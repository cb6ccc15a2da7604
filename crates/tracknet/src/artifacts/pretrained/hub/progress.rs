//! How far a download is: a bar on a terminal, else a line every ten seconds; on standard error.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::console::{printable, say};
use crate::models::memory::bytes;

/// How often a plain line is written.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The progress of one file.
pub(super) struct Progress {
    file: String,
    size: u64,
    /// Plain lines and no bar.
    bar: Option<ProgressBar>,
    /// Where and when this run began, and when it last said something.
    begun: (u64, Instant),
    said: Instant,
    shown: bool,
}

impl Progress {
    /// For a file of `size` bytes; says nothing unless `shown`.
    pub(super) fn new(file: &str, size: u64, shown: bool) -> Self {
        let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = (shown && stderr().is_terminal())
            .then(|| ProgressBar::new(size).with_style(style).with_message(printable(file).into_owned()));
        let now = Instant::now();
        Self { file: file.to_owned(), size, bar, begun: (0, now), said: now, shown }
    }

    /// The file goes on from `done` bytes.
    pub(super) fn begin(&mut self, done: u64) {
        self.begun = (done, Instant::now());
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    /// `done` bytes are there.
    pub(super) fn advance(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.shown && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            say(self.line(done));
        }
    }

    fn line(&self, done: u64) -> String {
        let (from, since) = self.begun;
        let speed = done.saturating_sub(from) as f64 / since.elapsed().as_secs_f64().max(1e-3);
        let percent = 100 * done / self.size.max(1);
        let [size, speed] = [self.size as usize, speed as usize].map(bytes);
        format!("{}: {percent} % of {size}, {speed}/s", self.file)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

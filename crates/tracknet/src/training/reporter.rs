//! What a run tells its user, apart from how it is shown.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::console::{printable, say};
use indicatif::{ProgressBar, ProgressStyle};

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepProgress {
    /// Epoch, from 0.
    pub epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
    /// Batches done in this epoch.
    pub batch: usize,
    /// Batches in an epoch.
    pub batches: usize,
    /// Mean training loss of the epoch so far.
    pub loss: f64,
    /// Learning rate of decoder and head.
    pub lr: f64,
    /// Frames trained per second in this epoch.
    pub frames_per_s: f64,
    /// Estimated seconds until the end of the epoch.
    pub eta_s: f64,
    /// On a GPU, the most bytes that the run has held there.
    pub device_memory: Option<u64>,
}

/// Receives what a run has to say.
pub trait Reporter {
    /// A table or paragraph, such as the parameter report.
    fn report(&mut self, text: &str);
    /// One line that the user should know, such as a fallback.
    fn note(&mut self, text: &str);
    /// After every optimizer step.
    fn step(&mut self, progress: &StepProgress);
    /// After every epoch, with its summary.
    fn epoch(&mut self, text: &str);
}

/// Says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Reporter for Silent {
    fn report(&mut self, _text: &str) {}
    fn note(&mut self, _text: &str) {}
    fn step(&mut self, _progress: &StepProgress) {}
    fn epoch(&mut self, _text: &str) {}
}

/// Writes to standard error: a progress bar on a terminal, else a plain line every ten seconds.
#[derive(Debug, Default)]
pub struct Console {
    bar: Option<ProgressBar>,
    last_line: Option<Instant>,
}

/// How often a plain progress line is written.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl Console {
    /// A reporter on standard error.
    pub fn new() -> Self {
        Self::default()
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(printable(text)),
            None => say(text),
        }
    }

    fn draw(&mut self, p: &StepProgress) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {msg}");
            ProgressBar::new(p.batches as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_prefix(format!("epoch {}/{}", p.epoch + 1, p.epochs));
        bar.set_position(p.batch as u64);
        bar.set_message(figures(p));
    }
}

impl Reporter for Console {
    fn report(&mut self, text: &str) {
        self.line(text);
    }

    fn note(&mut self, text: &str) {
        self.line(&format!("note: {text}"));
    }

    fn step(&mut self, progress: &StepProgress) {
        if std::io::stderr().is_terminal() {
            return self.draw(progress);
        }
        if self.last_line.is_none_or(|at| at.elapsed() >= LINE_EVERY) || progress.batch == progress.batches {
            self.last_line = Some(Instant::now());
            say(plain(progress));
        }
    }

    fn epoch(&mut self, text: &str) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        say(text);
    }
}

fn plain(p: &StepProgress) -> String {
    format!("epoch {}/{} batch {}/{}  {}", p.epoch + 1, p.epochs, p.batch, p.batches, figures(p))
}

fn figures(p: &StepProgress) -> String {
    let memory = p.device_memory.map_or(String::new(), |bytes| format!("  {} MiB", bytes >> 20));
    format!("loss {:.5}  lr {:.2e}  {:.1} frames/s{memory}  eta {:.0} s", p.loss, p.lr, p.frames_per_s, p.eta_s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_where_the_run_is() {
        let p = StepProgress {
            epoch: 1,
            epochs: 20,
            batch: 3,
            batches: 9,
            loss: 0.5,
            lr: 1e-4,
            frames_per_s: 8.25,
            eta_s: 3.0,
            device_memory: None,
        };
        let line = plain(&p);
        assert!(line.starts_with("epoch 2/20 batch 3/9  loss 0.50000  lr 1.00e-4  8.2 frames/s  eta 3 s"), "{line}");
        let line = plain(&StepProgress { device_memory: Some(5 << 30), ..p });
        assert!(line.ends_with("8.2 frames/s  5120 MiB  eta 3 s"), "{line}");
    }
}

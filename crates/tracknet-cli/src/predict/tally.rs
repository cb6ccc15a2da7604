//! What a prediction tells while it goes on and at its end.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tracknet::console;
use tracknet::evaluation::TrackSource;
use tracknet::inference::{Predicted, StageTimes};

/// How many frames there were, and of what kind.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) frames: u64,
    found: u64,
    filled: u64,
    pub(super) damaged: u64,
    /// Frames that a live source gave and nobody looked at.
    dropped: u64,
    last: Option<u64>,
}

impl Tally {
    /// Damaged frames that are named one by one.
    const NAMED: u64 = 10;

    /// Counts a frame of a source of which every `stride`-th one is looked at; names it on `bar` if it is damaged.
    pub(super) fn count(&mut self, predicted: &Predicted, threshold: f32, stride: u64, bar: &Progress) {
        self.frames += 1;
        let prediction = predicted.prediction();
        self.found += u64::from(prediction.visible(threshold).is_some());
        self.filled += u64::from(prediction.source == Some(TrackSource::Filled));
        let steps = self.last.map_or(1, |last| prediction.frame.saturating_sub(last) / stride);
        self.dropped += steps.saturating_sub(1);
        self.last = Some(prediction.frame);
        let Some(reason) = &prediction.damage else { return };
        self.damaged += 1;
        match self.damaged {
            1..=Self::NAMED => bar.say(format_args!("frame {} is damaged: {reason}", prediction.frame)),
            n if n == Self::NAMED + 1 => {
                bar.say(format_args!("more frames are damaged; they are counted, and named with --jsonl"));
            }
            _ => {}
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, found, filled, damaged, dropped, .. } = self;
        write!(f, "ball found on {found} of {frames} frames")?;
        if *filled > 0 {
            write!(f, ", {filled} of them filled in")?;
        }
        match damaged {
            0 => {}
            1 => write!(f, "; 1 frame is damaged, and its row says that the ball is absent")?,
            n => write!(f, "; {n} frames are damaged, and their rows say that the ball is absent")?,
        }
        match dropped {
            0 => Ok(()),
            1 => write!(f, "; 1 frame came too fast and was not looked at"),
            n => write!(f, "; {n} frames came too fast and were not looked at"),
        }
    }
}

/// The bar on a terminal, and the pace.
pub(super) struct Progress {
    bar: ProgressBar,
    times: Arc<StageTimes>,
    began: Instant,
}

impl Progress {
    pub(super) fn new(times: Arc<StageTimes>) -> Self {
        Self { bar: ProgressBar::no_length(), times, began: Instant::now() }
    }

    /// One more frame is written.
    pub(super) fn advance(&self) {
        if self.bar.position() == 0 {
            let (length, template) = match self.times.expected() {
                Some(frames) => (Some(frames), "{wide_bar} {pos}/{len} frames, {per_sec:.1}, {eta} left"),
                None => (None, "{spinner} {pos} frames, {per_sec:.1}, {elapsed}"),
            };
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let style = style.with_key("per_sec", |state: &indicatif::ProgressState, out: &mut dyn fmt::Write| {
                let _ = write!(out, "{:.1} frames/s", state.per_sec());
            });
            self.bar.set_style(style);
            length.iter().for_each(|length| self.bar.set_length(*length));
        }
        self.bar.inc(1);
    }

    /// Says something without tearing the bar.
    pub(super) fn say(&self, text: fmt::Arguments<'_>) {
        self.bar.suspend(|| console::say(text));
    }

    /// Ends the bar; says the pace of `frames`, and how busy each stage was.
    pub(super) fn finish(self, frames: u64) {
        self.bar.finish_and_clear();
        let wall = self.began.elapsed();
        if frames == 0 || wall < Duration::from_millis(1) {
            return;
        }
        let share =
            |(name, time): (&str, Duration)| format!("{name} {:.0} %", 100.0 * time.as_secs_f64() / wall.as_secs_f64());
        let shares: Vec<String> = self.times.stages().into_iter().map(share).collect();
        let pace = frames as f64 / wall.as_secs_f64();
        console::say(format_args!(
            "{frames} frames in {:.1} s, {pace:.1} a second; of this time, side by side: {}",
            wall.as_secs_f64(),
            shares.join(", ")
        ));
    }
}

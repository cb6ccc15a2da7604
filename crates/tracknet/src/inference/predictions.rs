//! Predictions of a clip as the field's tools read them: CSV with native pixels, 0,0 when the ball is absent.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::{IoContext, Result};
use crate::evaluation::{Detection, TrackSource, Tracked};
use crate::files::{FileError, write_atomic};

/// First line of the CSV.
pub(super) const HEADER: &str = "Frame,Visibility,X,Y,Score";
/// First line of the CSV of a tracked ball.
pub(super) const TRACKED_HEADER: &str = "Frame,Visibility,X,Y,Score,Source";

/// What was found on one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Number of the frame in its clip, from 0.
    pub frame: u64,
    /// Name of the image file, when the frame came from one.
    pub file: Option<String>,
    /// The best candidate in native pixels, also when its score is low; of a tracked ball the position that was decided.
    pub detection: Option<Detection>,
    /// Where the position of a tracked ball comes from; `None` = not tracked, or no ball.
    pub source: Option<TrackSource>,
    /// The heatmap's highest value, in 0..1: the score where nothing was high enough for a candidate.
    pub peak: f32,
    /// Why the frame could not be read; its row is that of an absent ball.
    pub damage: Option<String>,
}

impl Prediction {
    /// The row of a frame that could not be read.
    pub fn damaged(frame: u64, file: Option<String>, reason: String) -> Self {
        Self { frame, file, detection: None, source: None, peak: 0.0, damage: Some(reason) }
    }

    /// The same frame as the tracker decided on it. Its score stays what the model saw.
    #[must_use]
    pub fn tracked(self, tracked: Option<Tracked>) -> Self {
        let score = self.score();
        let detection = tracked.map(|tracked| match tracked.source {
            TrackSource::Detected => tracked.detection,
            TrackSource::Filled => Detection { score, ..tracked.detection },
        });
        Self { detection, source: tracked.map(|tracked| tracked.source), peak: score, ..self }
    }

    /// The detection if its score is at least `threshold`, or if the tracker decided for it.
    pub fn visible(&self, threshold: f32) -> Option<Detection> {
        self.detection.filter(|found| self.source.is_some() || found.score >= threshold)
    }

    /// The score of the best candidate, or the peak without one; written also for absent balls, so that a user can see
    /// how near the threshold a frame was.
    fn score(&self) -> f32 {
        self.detection.map_or(self.peak, |found| found.score)
    }

    pub(super) fn csv_row(&self, threshold: f32) -> String {
        let (frame, score) = (self.frame, self.score());
        match self.visible(threshold) {
            Some(Detection { x, y, .. }) => format!("{frame},1,{x:.2},{y:.2},{score:.4}\n"),
            None => format!("{frame},0,0,0,{score:.4}\n"),
        }
    }

    pub(super) fn tracked_csv_row(&self, threshold: f32) -> String {
        let source = self.source.map_or("", TrackSource::name);
        format!("{},{source}\n", self.csv_row(threshold).trim_end())
    }

    pub(super) fn json_line(&self, threshold: f32) -> Result<String> {
        let json = serde_json::to_string(&self.line(threshold)).map_err(std::io::Error::from).at("(JSON line)")?;
        Ok(json + "\n")
    }

    /// The object that is one of [`RowFormat::JsonLines`](super::RowFormat::JsonLines).
    pub fn line(&self, threshold: f32) -> impl Serialize + '_ {
        let found = self.visible(threshold);
        Line {
            frame: self.frame,
            file: self.file.as_deref(),
            visible: found.is_some(),
            x: found.map(|d| d.x),
            y: found.map(|d| d.y),
            score: self.score(),
            source: self.source,
            error: self.damage.as_deref(),
        }
    }
}

/// One line of the JSON output.
#[derive(Serialize)]
struct Line<'a> {
    frame: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    visible: bool,
    x: Option<f32>,
    y: Option<f32>,
    score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<TrackSource>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

/// Writes all rows of a clip as CSV, see [`RowFormat::Csv`](super::RowFormat::Csv).
///
/// # Errors
/// A file that cannot be written; an old file then stays as it was.
pub fn write_csv(path: &Path, predictions: &[Prediction], threshold: f32) -> Result<(), FileError> {
    write_atomic(path, |out| {
        writeln!(out, "{HEADER}")?;
        predictions.iter().try_for_each(|prediction| out.write_all(prediction.csv_row(threshold).as_bytes()))
    })
}

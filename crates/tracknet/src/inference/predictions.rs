//! Predictions of a clip as the field's tools read them: CSV with native pixels, 0,0 when the ball is absent.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::error::Result;
use crate::evaluation::Detection;
use crate::files::write_atomic;

/// What was found on one frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// Number of the frame in its clip, from 0.
    pub frame: u64,
    /// Name of the image file, when the frame came from one.
    pub file: Option<String>,
    /// The best candidate in native pixels, also when its score is low.
    pub detection: Option<Detection>,
}

impl Prediction {
    /// The detection if its score is at least `threshold`.
    pub fn visible(&self, threshold: f32) -> Option<Detection> {
        self.detection.filter(|found| found.score >= threshold)
    }

    /// The score of the best candidate, 0 without one; written also for absent balls, so that a user can see how near
    /// the threshold a frame was.
    fn score(&self) -> f32 {
        self.detection.map_or(0.0, |found| found.score)
    }
}

/// Writes `Frame,Visibility,X,Y,Score`: native pixels; visibility, x and y are 0 below `threshold`.
///
/// # Errors
/// A file that cannot be written; an old file then stays as it was.
pub fn write_csv(path: &Path, predictions: &[Prediction], threshold: f32) -> Result<()> {
    write_atomic(path, |out| {
        writeln!(out, "Frame,Visibility,X,Y,Score")?;
        for prediction in predictions {
            let (frame, score) = (prediction.frame, prediction.score());
            match prediction.visible(threshold) {
                Some(Detection { x, y, .. }) => writeln!(out, "{frame},1,{x:.2},{y:.2},{score:.4}")?,
                None => writeln!(out, "{frame},0,0,0,{score:.4}")?,
            }
        }
        Ok(())
    })
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
}

/// Writes one JSON object a line: `frame`, `file` (if any), `visible`, `x`, `y` (`null` when absent), `score`.
///
/// # Errors
/// A file that cannot be written; an old file then stays as it was.
pub fn write_jsonl(path: &Path, predictions: &[Prediction], threshold: f32) -> Result<()> {
    write_atomic(path, |out| {
        for prediction in predictions {
            let found = prediction.visible(threshold);
            let line = Line {
                frame: prediction.frame,
                file: prediction.file.as_deref(),
                visible: found.is_some(),
                x: found.map(|d| d.x),
                y: found.map(|d| d.y),
                score: prediction.score(),
            };
            serde_json::to_writer(&mut *out, &line)?;
            writeln!(out)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions() -> Vec<Prediction> {
        let found = |x, y, score| Some(Detection { x, y, score });
        vec![
            Prediction { frame: 0, file: Some("0000.jpg".into()), detection: found(640.125, 12.0, 0.93456) },
            Prediction { frame: 1, file: None, detection: found(3.0, 4.0, 0.25) },
            Prediction { frame: 7, file: None, detection: None },
        ]
    }

    #[test]
    fn the_csv_has_native_pixels_and_zeros_for_an_absent_ball() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/clip.csv");
        write_csv(&path, &predictions(), 0.5).unwrap();
        let expected = "Frame,Visibility,X,Y,Score\n0,1,640.12,12.00,0.9346\n1,0,0,0,0.2500\n7,0,0,0,0.0000\n";
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    }

    #[test]
    fn json_lines_hold_null_for_an_absent_ball() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.jsonl");
        write_jsonl(&path, &predictions(), 0.2).unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["file"], "0000.jpg");
        assert_eq!((&lines[1]["visible"], &lines[1]["x"]), (&true.into(), &3.0.into()));
        assert!(lines[2]["x"].is_null() && lines[2]["visible"] == false && lines[2].get("file").is_none());
    }
}

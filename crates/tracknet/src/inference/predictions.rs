//! Predictions of a clip as the field's tools read them: CSV with native pixels, 0,0 when the ball is absent.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::error::{IoContext, Result};
use crate::evaluation::{Detection, TrackSource, Tracked};
use crate::files::{FileError, open_regular, write_atomic};

/// First line of the CSV.
const HEADER: &str = "Frame,Visibility,X,Y,Score";
/// First line of the CSV of a tracked ball.
const TRACKED_HEADER: &str = "Frame,Visibility,X,Y,Score,Source";

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

    fn csv_row(&self, threshold: f32) -> String {
        let (frame, score) = (self.frame, self.score());
        match self.visible(threshold) {
            Some(Detection { x, y, .. }) => format!("{frame},1,{x:.2},{y:.2},{score:.4}\n"),
            None => format!("{frame},0,0,0,{score:.4}\n"),
        }
    }

    fn tracked_csv_row(&self, threshold: f32) -> String {
        let source = self.source.map_or("", TrackSource::name);
        format!("{},{source}\n", self.csv_row(threshold).trim_end())
    }

    fn json_line(&self, threshold: f32) -> Result<String> {
        let json = serde_json::to_string(&self.line(threshold)).map_err(std::io::Error::from).at("(JSON line)")?;
        Ok(json + "\n")
    }

    /// The object that is one of [`RowFormat::JsonLines`].
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

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowFormat {
    /// `Frame,Visibility,X,Y,Score`: native pixels; visibility, x and y are 0 below the threshold.
    Csv,
    /// The same with a column `Source`: `detected`, `filled`, or empty without a ball.
    TrackedCsv,
    /// One JSON object a line: `frame`, `file` (if any), `visible`, `x`, `y` (`null` when absent), `score`, `source` of a tracked
    /// ball, and `error` for a frame that could not be read.
    JsonLines,
}

impl RowFormat {
    /// The first line, where there is one that is no row.
    fn header(self) -> Option<&'static str> {
        match self {
            Self::Csv => Some(HEADER),
            Self::TrackedCsv => Some(TRACKED_HEADER),
            Self::JsonLines => None,
        }
    }

    /// Whether a file was written in this format, or is empty; a CSV may be of a tracked ball or not.
    pub fn recognizes(self, path: &Path) -> bool {
        let mut start = Vec::new();
        // No line of this program is longer.
        let read = open_regular(path).map(|file| file.take(8 << 10).read_to_end(&mut start));
        let start = String::from_utf8_lossy(&start);
        let first = start.split_inclusive('\n').next().unwrap_or_default().trim_end();
        let keys =
            |json: serde_json::Value| ["frame", "visible", "x", "y", "score"].iter().all(|k| json.get(k).is_some());
        matches!(read, Ok(Ok(_)))
            && match self {
                _ if start.is_empty() => true,
                Self::Csv | Self::TrackedCsv => first == HEADER || first == TRACKED_HEADER,
                Self::JsonLines => serde_json::from_str(first).is_ok_and(keys),
            }
    }
}

/// Writes rows as they are found, each at once and as a whole: whatever ends the program, the file holds the rows until
/// then.
///
/// The file grows under its own name. An old one is replaced; two writers of one file exclude each other.
#[derive(Debug)]
pub struct RowWriter {
    path: PathBuf,
    file: File,
    format: RowFormat,
    threshold: f32,
    /// Bytes of whole rows.
    length: u64,
}

impl RowWriter {
    /// Starts a file; balls with a score below `threshold` are absent.
    ///
    /// # Errors
    /// A file that cannot be written, that is no regular file, or that another process writes.
    pub fn create(path: &Path, format: RowFormat, threshold: f32) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).at(parent)?;
        }
        if fs::metadata(path).is_ok_and(|old| !old.is_file()) {
            return Err(FileError::NotRegular { path: path.to_path_buf(), found: "something else" }.into());
        }
        let file = File::options().write(true).create(true).truncate(false).open(path).at(path)?;
        if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
            let holder = "another process that writes it".to_owned();
            return Err(FileError::Locked { path: path.to_path_buf(), holder }.into());
        }
        file.set_len(0).at(path)?;
        let mut writer = Self { path: path.to_path_buf(), file, format, threshold, length: 0 };
        if let Some(header) = format.header() {
            writer.append(&format!("{header}\n"))?;
        }
        Ok(writer)
    }

    /// Where it writes.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a row.
    ///
    /// # Errors
    /// A file that cannot be written; it then ends with the row before.
    pub fn push(&mut self, prediction: &Prediction) -> Result<()> {
        let row = match self.format {
            RowFormat::Csv => prediction.csv_row(self.threshold),
            RowFormat::TrackedCsv => prediction.tracked_csv_row(self.threshold),
            RowFormat::JsonLines => prediction.json_line(self.threshold)?,
        };
        Ok(self.append(&row)?)
    }

    /// Makes the rows last through a loss of power.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(self) -> Result<(), FileError> {
        self.file.sync_all().at(&self.path)
    }

    fn append(&mut self, row: &str) -> Result<(), FileError> {
        if let Err(cause) = self.file.write_all(row.as_bytes()) {
            // A full disk takes a part of a row; what cannot be cut off stays.
            let _ = self.file.set_len(self.length).and_then(|()| self.file.seek(SeekFrom::Start(self.length)));
            return Err(cause).at(&self.path);
        }
        self.length += row.len() as u64;
        Ok(())
    }
}

/// Writes all rows of a clip as CSV, see [`RowFormat::Csv`].
///
/// # Errors
/// A file that cannot be written; an old file then stays as it was.
pub fn write_csv(path: &Path, predictions: &[Prediction], threshold: f32) -> Result<(), FileError> {
    write_atomic(path, |out| {
        writeln!(out, "{HEADER}")?;
        predictions.iter().try_for_each(|prediction| out.write_all(prediction.csv_row(threshold).as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions() -> Vec<Prediction> {
        let found = |x, y, score| Some(Detection { x, y, score });
        let prediction =
            |frame, detection, peak| Prediction { frame, file: None, detection, source: None, peak, damage: None };
        vec![
            Prediction { file: Some("0000.jpg".into()), ..prediction(0, found(640.125, 12.0, 0.93456), 0.93456) },
            // The largest component is not always the highest.
            prediction(1, found(3.0, 4.0, 0.25), 0.4),
            prediction(7, None, 0.0071),
            Prediction::damaged(8, Some("0008.jpg".into()), "cut off".into()),
        ]
    }

    fn written(path: &Path, format: RowFormat, threshold: f32) -> String {
        let mut writer = RowWriter::create(path, format, threshold).unwrap();
        for prediction in predictions() {
            writer.push(&prediction).unwrap();
        }
        writer.finish().unwrap();
        assert!(format.recognizes(path));
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_csv_has_native_pixels_zeros_for_an_absent_ball_and_always_the_score() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out/clip.csv");
        let expected =
            "Frame,Visibility,X,Y,Score\n0,1,640.12,12.00,0.9346\n1,0,0,0,0.2500\n7,0,0,0,0.0071\n8,0,0,0,0.0000\n";
        assert_eq!(written(&path, RowFormat::Csv, 0.5), expected);
        write_csv(&path, &predictions(), 0.5).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), expected);
    }

    #[test]
    fn json_lines_hold_null_for_an_absent_ball_and_the_reason_for_a_damaged_frame() {
        let dir = tempfile::tempdir().unwrap();
        let text = written(&dir.path().join("clip.jsonl"), RowFormat::JsonLines, 0.2);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["file"], "0000.jpg");
        assert_eq!((&lines[1]["visible"], &lines[1]["x"]), (&true.into(), &3.0.into()));
        assert!(lines[2]["x"].is_null() && lines[2]["visible"] == false && lines[2].get("file").is_none());
        assert!(lines[..3].iter().all(|line| line.get("error").is_none()));
        assert_eq!((&lines[3]["error"], &lines[3]["visible"]), (&"cut off".into(), &false.into()));
    }

    #[test]
    fn a_tracked_ball_has_its_source_in_every_format_and_the_score_that_the_model_gave() {
        let dir = tempfile::tempdir().unwrap();
        let at = |x, score, source| Some(Tracked { detection: Detection { x, y: 5.0, score }, source });
        let decided = [at(640.0, 0.3, TrackSource::Detected), at(600.0, 0.0, TrackSource::Filled), None, None];
        let [csv, json] =
            [(RowFormat::TrackedCsv, "a.csv"), (RowFormat::JsonLines, "a.jsonl")].map(|(format, name)| {
                let path = dir.path().join(name);
                let mut writer = RowWriter::create(&path, format, 0.5).unwrap();
                for (prediction, decided) in predictions().into_iter().zip(decided) {
                    writer.push(&prediction.tracked(decided)).unwrap();
                }
                writer.finish().unwrap();
                assert!(
                    format.recognizes(&path) && RowFormat::Csv.recognizes(&path) == (format != RowFormat::JsonLines)
                );
                fs::read_to_string(path).unwrap()
            });
        let expected = "Frame,Visibility,X,Y,Score,Source\n0,1,640.00,5.00,0.3000,detected\n1,1,600.00,5.00,0.2500,filled\n\
                        7,0,0,0,0.0071,\n8,0,0,0,0.0000,\n";
        assert_eq!(csv, expected);
        let lines: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[1]["source"], &lines[1]["visible"]), (&"filled".into(), &true.into()));
        assert!(lines[2].get("source").is_none() && lines[3]["error"] == "cut off");
    }

    #[test]
    fn every_row_is_in_the_file_before_the_next_and_an_old_file_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.csv");
        fs::write(&path, "old\n".repeat(100)).unwrap();
        let mut writer = RowWriter::create(&path, RowFormat::Csv, 0.5).unwrap();
        for (index, prediction) in predictions().iter().enumerate() {
            writer.push(prediction).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), index + 2);
        }
        let second = RowWriter::create(&path, RowFormat::Csv, 0.5).unwrap_err().to_string();
        assert!(second.contains("clip.csv: in use by another process"), "{second}");
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 5);
    }

    #[test]
    fn only_files_of_this_format_are_recognized() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for (text, csv, jsonl) in [
            ("", true, true),
            ("Frame,Visibility,X,Y,Score", true, false),
            ("Frame,Visibility,X,Y,Score\r\n0,1,2,3,0.5\r\n", true, false),
            ("Frame,Visibility,X,Y\n0,1,2,3\n", false, false),
            ("Frame,Visibility,X,Y,Score,Comment\n", false, false),
            ("{\"frame\":0,\"visible\":false,\"x\":null,\"y\":null,\"score\":0.1}\n", false, true),
            ("{\"frame\":0}\n", false, false),
        ] {
            fs::write(&path, text).unwrap();
            let found = [RowFormat::Csv, RowFormat::JsonLines].map(|format| format.recognizes(&path));
            assert_eq!(found, [csv, jsonl], "{text}");
        }
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(!RowFormat::Csv.recognizes(&path) && !RowFormat::Csv.recognizes(dir.path()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let full = Path::new("/dev/full");
        let file = File::options().write(true).open(full).unwrap();
        let mut writer = RowWriter { path: full.into(), file, format: RowFormat::Csv, threshold: 0.5, length: 0 };
        let error = writer.push(&predictions()[0]).unwrap_err().to_string();
        assert!(error.starts_with("/dev/full: No space left"), "{error}");
        let error = RowWriter::create(full, RowFormat::Csv, 0.5).unwrap_err().to_string();
        assert!(error.contains("expected a regular file"), "{error}");
    }
}

//! `metrics.csv` and `metrics.jsonl`: one row per optimizer step and one per epoch, appended as they happen.
//!
//! A resumed run continues these files: rows of steps that the checkpoint does not know are dropped first, and the others
//! stay as they were written, so that the files read as if the run had never stopped.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{IoContext, Result};
use crate::files::read::LOG;
use crate::files::{FileError, read_bytes, write_atomic};

/// The log that a resumed run continues.
pub(super) const LOG_FILE: &str = "metrics.jsonl";

/// Columns that every row may have; validation metrics follow.
const COLUMNS: [&str; 9] =
    ["kind", "epoch", "step", "lr", "train/loss", "grad_norm", "skipped_steps", "frames_per_s", "seconds"];

/// The two log files of a run.
#[derive(Debug)]
pub struct MetricLog {
    csv: LogFile,
    jsonl: LogFile,
    columns: Vec<String>,
}

/// A file that lines are appended to.
#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    /// The last line may have been written in part.
    torn: bool,
}

/// What a checkpoint knows: rows of later steps, and of epochs it had not closed, are written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepRows {
    /// Optimizer steps done.
    pub step: u64,
    /// Epoch to continue with, from 0.
    pub epoch: usize,
}

/// Whether a row is about one step or a whole epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowKind {
    /// One optimizer step.
    Step,
    /// One epoch: mean training loss and validation metrics.
    Epoch,
}

impl MetricLog {
    /// Opens `metrics.csv` and `metrics.jsonl` in `dir`, with a CSV column for each of `metrics`.
    /// Of existing files, the rows up to `keep` stay; `None` starts empty files.
    ///
    /// # Errors
    /// If the files cannot be read or written.
    pub fn open(dir: &Path, metrics: &[String], keep: Option<KeepRows>) -> Result<Self> {
        let columns: Vec<String> = COLUMNS.iter().map(|c| (*c).to_owned()).chain(metrics.iter().cloned()).collect();
        let (csv, jsonl) = (dir.join("metrics.csv"), dir.join(LOG_FILE));
        let (mut csv_rows, mut json_rows) = (Vec::new(), Vec::new());
        if let Some(keep) = keep {
            csv_rows = kept_csv(&read_log(&csv)?, &columns, keep);
            json_rows = kept_json(&read_log(&jsonl)?, keep);
        }
        write_atomic(&csv, |w| {
            writeln!(w, "{}", columns.join(","))?;
            csv_rows.iter().try_for_each(|row| writeln!(w, "{row}"))
        })?;
        write_atomic(&jsonl, |w| json_rows.iter().try_for_each(|row| writeln!(w, "{row}")))?;
        Ok(Self { csv: LogFile::open(csv)?, jsonl: LogFile::open(jsonl)?, columns })
    }

    /// Appends a row. Values that are not finite are left out of the CSV and are `null` in the JSON.
    ///
    /// # Errors
    /// If a file cannot be written; later rows are tried all the same.
    pub fn write(&mut self, kind: RowKind, epoch: usize, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut row = Map::new();
        let kind = if kind == RowKind::Step { "step" } else { "epoch" };
        row.insert("kind".to_owned(), kind.into());
        row.insert("epoch".to_owned(), epoch.into());
        row.insert("step".to_owned(), step.into());
        for (name, value) in values {
            row.insert((*name).to_owned(), Value::from(*value));
        }
        let line = csv_line(&self.columns, &row);
        let (csv, jsonl) = (self.csv.append(&line), self.jsonl.append(&Value::Object(row).to_string()));
        Ok(csv.and(jsonl)?)
    }
}

impl LogFile {
    fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().append(true).open(&path).at(&path)?;
        Ok(Self { path, file, torn: false })
    }

    /// One `write` call per line: a killed run leaves at most one cut line, which the next opening drops.
    fn append(&mut self, line: &str) -> Result<(), FileError> {
        let start = if self.torn { "\n" } else { "" };
        let written = self.file.write_all(format!("{start}{line}\n").as_bytes());
        self.torn = written.is_err();
        written.at(&self.path)
    }
}

impl KeepRows {
    fn knows(self, kind: &str, epoch: u64, step: u64) -> bool {
        step <= self.step && (kind == "step" || epoch < self.epoch as u64)
    }
}

/// The text of a log; nothing if there is none. What is no text in it is a damaged line: it costs itself, not the run.
fn read_log(path: &Path) -> Result<String> {
    match path.try_exists().at(path)? {
        true => Ok(String::from_utf8_lossy(&read_bytes(path, LOG)?).into_owned()),
        false => Ok(String::new()),
    }
}

/// Lines that were written to their end.
fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

/// Rows of the CSV that stay, digit for digit, in the columns of this version.
fn kept_csv(text: &str, columns: &[String], keep: KeepRows) -> Vec<String> {
    let mut lines = whole_lines(text);
    let header: Vec<&str> = lines.next().unwrap_or_default().split(',').collect();
    let row = |line: &str| {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |name: &str| header.iter().position(|h| *h == name).and_then(|i| cells.get(i)).copied();
        let known = keep.knows(cell("kind")?, cell("epoch")?.parse().ok()?, cell("step")?.parse().ok()?);
        let row = || columns.iter().map(|column| cell(column).unwrap_or_default()).collect::<Vec<_>>().join(",");
        (known && cells.len() == header.len()).then(row)
    };
    lines.filter_map(row).collect()
}

/// Rows of the JSON lines that stay, as they were written.
fn kept_json(text: &str, keep: KeepRows) -> Vec<String> {
    let known = |line: &&str| {
        let row: Option<Map<String, Value>> = serde_json::from_str(line).ok();
        let number = |key: &str| row.as_ref()?.get(key)?.as_u64();
        let kind = row.as_ref().and_then(|row| row.get("kind")).and_then(Value::as_str);
        let known = || Some(keep.knows(kind?, number("epoch")?, number("step")?));
        known().unwrap_or(false)
    };
    whole_lines(text).filter(known).map(str::to_owned).collect()
}

fn csv_line(columns: &[String], row: &Map<String, Value>) -> String {
    let cell = |column: &String| match row.get(column) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(value) => value.to_string(),
    };
    columns.iter().map(cell).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_steps(log: &mut MetricLog, steps: std::ops::RangeInclusive<u64>) {
        for step in steps {
            // Among many of these are some whose last digit only an exact reader gets right.
            let loss = 0.25 + (step as f64).ln();
            log.write(RowKind::Step, 0, step, &[("lr", 1e-3), ("train/loss", loss)]).unwrap();
        }
    }

    #[test]
    fn rows_have_the_columns_of_the_header() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricLog::open(dir.path(), &["val/f1".to_owned()], None).unwrap();
        write_steps(&mut log, 1..=1);
        log.write(RowKind::Epoch, 0, 1, &[("val/f1", 0.5), ("train/loss", f64::NAN)]).unwrap();
        let csv = std::fs::read_to_string(dir.path().join("metrics.csv")).unwrap();
        let lines: Vec<&str> = csv.lines().collect();
        assert_eq!(lines[0], "kind,epoch,step,lr,train/loss,grad_norm,skipped_steps,frames_per_s,seconds,val/f1");
        assert_eq!(lines[1], "step,0,1,0.001,0.25,,,,,");
        assert_eq!(lines[2], "epoch,0,1,,,,,,,0.5");
        let json = std::fs::read_to_string(dir.path().join("metrics.jsonl")).unwrap();
        assert!(json.lines().nth(1).unwrap().contains("\"train/loss\":null"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_line_that_could_not_be_written_costs_itself_and_not_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricLog::open(dir.path(), &[], None).unwrap();
        let whole = std::mem::replace(&mut log.csv.file, OpenOptions::new().append(true).open("/dev/full").unwrap());
        let row = |log: &mut MetricLog, step| log.write(RowKind::Step, 0, step, &[("lr", 1e-3)]);
        assert!(row(&mut log, 1).unwrap_err().to_string().contains("metrics.csv"));
        // As far as the disk went.
        log.csv.file = whole;
        log.csv.file.write_all(b"step,0,1,0.0").unwrap();
        row(&mut log, 2).unwrap();
        row(&mut log, 3).unwrap();
        let keep = Some(KeepRows { step: 3, epoch: 0 });
        MetricLog::open(dir.path(), &[], keep).unwrap();
        let lines = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap().lines().count();
        assert_eq!((lines("metrics.csv"), lines("metrics.jsonl")), (1 + 2, 3));
    }

    #[test]
    fn a_resumed_log_reads_as_if_it_had_never_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let whole = tempfile::tempdir().unwrap();
        write_steps(&mut MetricLog::open(whole.path(), &[], None).unwrap(), 1..=200);
        let mut log = MetricLog::open(dir.path(), &[], None).unwrap();
        write_steps(&mut log, 1..=190);
        // Written before the checkpoint that would have closed the epoch.
        log.write(RowKind::Epoch, 0, 190, &[("train/loss", 1.0)]).unwrap();
        write_steps(&mut log, 191..=192);
        // Killed while writing a line.
        let mut jsonl = OpenOptions::new().append(true).open(dir.path().join("metrics.jsonl")).unwrap();
        jsonl.write_all(b"\xff\n{\"kind\":\"st").unwrap();
        let keep = KeepRows { step: 190, epoch: 0 };
        write_steps(&mut MetricLog::open(dir.path(), &[], Some(keep)).unwrap(), 191..=200);
        for name in ["metrics.csv", "metrics.jsonl"] {
            let read = |dir: &tempfile::TempDir| std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert_eq!(read(&dir), read(&whole), "{name}");
        }
    }
}

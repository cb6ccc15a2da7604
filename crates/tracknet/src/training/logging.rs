//! `metrics.csv` and `metrics.jsonl`: one row per optimizer step and one per epoch, appended as they happen.
//!
//! A resumed run continues these files: rows of steps that the checkpoint does not know are dropped first, so
//! that the files read as if the run had never stopped.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::error::{Error, IoContext, Result};
use crate::files::write_atomic;

/// Columns that every row may have; validation metrics follow.
const COLUMNS: [&str; 9] =
    ["kind", "epoch", "step", "lr", "train/loss", "grad_norm", "skipped_steps", "frames_per_s", "seconds"];

/// The two log files of a run.
#[derive(Debug)]
pub struct MetricLog {
    csv: (PathBuf, File),
    jsonl: (PathBuf, File),
    columns: Vec<String>,
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
        let (csv, jsonl) = (dir.join("metrics.csv"), dir.join("metrics.jsonl"));
        let rows = match keep {
            Some(keep) if jsonl.exists() => kept_rows(&jsonl, keep)?,
            _ => Vec::new(),
        };
        write_atomic(&csv, |w| {
            writeln!(w, "{}", columns.join(","))?;
            rows.iter().try_for_each(|row| writeln!(w, "{}", csv_line(&columns, row)))
        })?;
        write_atomic(&jsonl, |w| rows.iter().try_for_each(|row| writeln!(w, "{}", Value::Object(row.clone()))))?;
        let append = |path: PathBuf| -> Result<(PathBuf, File)> {
            let file = OpenOptions::new().append(true).open(&path).at(&path)?;
            Ok((path, file))
        };
        Ok(Self { csv: append(csv)?, jsonl: append(jsonl)?, columns })
    }

    /// Appends a row. Values that are not finite are left out of the CSV and are `null` in the JSON.
    ///
    /// # Errors
    /// If a file cannot be written.
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
        append_line(&mut self.csv, &line)?;
        append_line(&mut self.jsonl, &Value::Object(row).to_string())
    }
}

/// One `write` call per line: a killed run leaves at most one cut line, which the next opening drops.
fn append_line((path, file): &mut (PathBuf, File), line: &str) -> Result<()> {
    file.write_all(format!("{line}\n").as_bytes()).map_err(|cause| Error::Io { path: path.clone(), cause })
}

fn kept_rows(jsonl: &Path, keep: KeepRows) -> Result<Vec<Map<String, Value>>> {
    let text = std::fs::read_to_string(jsonl).at(jsonl)?;
    let rows = text.lines().filter_map(|line| serde_json::from_str::<Map<String, Value>>(line).ok());
    let number = |row: &Map<String, Value>, key: &str| row.get(key).and_then(Value::as_u64).unwrap_or(u64::MAX);
    let known = |row: &Map<String, Value>| {
        let closed = row.get("kind").is_some_and(|kind| kind == "step") || number(row, "epoch") < keep.epoch as u64;
        number(row, "step") <= keep.step && closed
    };
    Ok(rows.filter(known).collect())
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
            log.write(RowKind::Step, 0, step, &[("lr", 1e-3), ("train/loss", step as f64 / 4.0)]).unwrap();
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

    #[test]
    fn a_resumed_log_reads_as_if_it_had_never_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let whole = tempfile::tempdir().unwrap();
        write_steps(&mut MetricLog::open(whole.path(), &[], None).unwrap(), 1..=5);
        let mut log = MetricLog::open(dir.path(), &[], None).unwrap();
        write_steps(&mut log, 1..=2);
        // Written before the checkpoint that would have closed the epoch.
        log.write(RowKind::Epoch, 0, 2, &[("train/loss", 1.0)]).unwrap();
        write_steps(&mut log, 3..=4);
        // Killed while writing a line.
        let mut jsonl = OpenOptions::new().append(true).open(dir.path().join("metrics.jsonl")).unwrap();
        jsonl.write_all(b"{\"kind\":\"st").unwrap();
        let keep = KeepRows { step: 2, epoch: 0 };
        write_steps(&mut MetricLog::open(dir.path(), &[], Some(keep)).unwrap(), 3..=5);
        for name in ["metrics.csv", "metrics.jsonl"] {
            let read = |dir: &tempfile::TempDir| std::fs::read_to_string(dir.path().join(name)).unwrap();
            assert_eq!(read(&dir), read(&whole), "{name}");
        }
    }
}

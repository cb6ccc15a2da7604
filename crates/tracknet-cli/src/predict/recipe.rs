//! What rows were made with, in a file beside them: a prediction goes on only with the same.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};
use tracknet::artifacts::LoadedModel;
use tracknet::files::{self, read_text, write_atomic};
use tracknet::inference::Source;

use super::PredictArgs;

/// What decides on the rows of a source, and whether all of them were written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Recipe {
    entries: Map<String, Value>,
    is_complete: bool,
}

/// The entry that says whether all rows are there.
const COMPLETE: &str = "complete";
/// The entry by which the file is known.
const PROGRAM: &str = "made_by";

impl Recipe {
    /// What the rows of a source would be made with.
    pub(super) fn new(args: &PredictArgs, loaded: &LoadedModel, source: &Source) -> Self {
        let position = |position: Option<tracknet::inference::Position>| position.map(|position| position.to_string());
        let entries = json!({
            PROGRAM: "tracknet predict",
            "source": source.to_string(),
            "run": loaded.checkpoint.state.run_id,
            "epoch": loaded.checkpoint.state.epoch,
            "step": loaded.checkpoint.state.step,
            "adapter": args.adapter.name(),
            "threshold": args.threshold.to_string(),
            "start": position(args.start),
            "end": position(args.end),
            "stride": args.stride,
            "track": args.track.words(),
        });
        let entries = if let Value::Object(entries) = entries { entries } else { Map::new() };
        Self { entries, is_complete: false }
    }

    /// Whether a file is of this program.
    pub(super) fn recognizes(path: &Path) -> bool {
        read_text(path, files::read::JSON).is_ok_and(|text| Self::parse(&text).is_some())
    }

    /// The recipe of a file; `None` = there is none.
    ///
    /// # Errors
    /// A file that cannot be read or is something else.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(path, files::read::JSON)?;
        let recipe = Self::parse(&text);
        recipe.map(Some).with_context(|| format!("{}: is not what `tracknet predict` writes there", path.display()))
    }

    fn parse(text: &str) -> Option<Self> {
        let Ok(Value::Object(mut entries)) = serde_json::from_str(text) else { return None };
        let is_complete = entries.remove(COMPLETE)?.as_bool()?;
        entries.contains_key(PROGRAM).then_some(Self { entries, is_complete })
    }

    /// Writes it, for rows that begin or that are all there.
    pub(super) fn write(&self, path: &Path, is_complete: bool) -> tracknet::Result<()> {
        let mut entries = self.entries.clone();
        entries.insert(COMPLETE.to_owned(), is_complete.into());
        Ok(write_atomic(path, |out| writeln!(out, "{:#}", Value::Object(entries)))?)
    }

    /// Whether all rows of this recipe were written.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Refuses rows that were made with something else than `self`.
    ///
    /// # Errors
    /// Names the first entry that differs.
    pub(super) fn check(&self, earlier: &Self, path: &Path) -> Result<()> {
        for (key, now) in &self.entries {
            let before = earlier.entries.get(key).unwrap_or(&Value::Null);
            if before != now {
                bail!(
                    "{}: the rows there were made with {key} = {before}, and now it is {now}; ask for the same as then, or \
                     leave out --resume to begin anew",
                    path.display()
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_and_what_is_not_ours_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.prediction.json");
        let recipe = |threshold: &str| {
            let Value::Object(entries) = json!({ PROGRAM: "tracknet predict", "threshold": threshold }) else {
                panic!()
            };
            Recipe { entries, is_complete: false }
        };
        assert_eq!(Recipe::read(&path).unwrap(), None);
        recipe("0.3").write(&path, true).unwrap();
        let read = Recipe::read(&path).unwrap().unwrap();
        assert!(read.is_complete() && Recipe::recognizes(&path));
        recipe("0.3").check(&read, &path).unwrap();
        let error = recipe("0.5").check(&read, &path).unwrap_err().to_string();
        assert!(error.contains("a.prediction.json: the rows there were made with threshold = \"0.3\""), "{error}");
        std::fs::write(&path, "{}").unwrap();
        assert!(!Recipe::recognizes(&path) && Recipe::read(&path).is_err());
    }
}

//! What a run measured of the weights of a checkpoint, on its validation games.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;

use crate::artifacts::run::{Checkpoint, RunError};
use crate::error::Result;
use crate::evaluation::report::EVALUATION_FILE;
use crate::files::read::JSON;
use crate::files::read_text;

/// The metrics that are told: what they are called, in checkpoints and in the totals of an evaluation.
const METRICS: [(&str, &str, &str); 6] = [
    ("F1", "val/f1", "f1"),
    ("precision", "val/precision", "precision"),
    ("recall", "val/recall", "recall"),
    ("average precision", "val/ap", "average_precision"),
    ("accuracy", "val/accuracy", "accuracy"),
    ("RMSE of hits, px", "val/rmse", "rmse"),
];

/// Metrics on the validation games.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    /// By name; those that have no value are left out.
    pub(super) metrics: Vec<(&'static str, f64)>,
    /// Frames, lowest score of a detection, and how far from the label it may be; as far as the run tells.
    pub(super) how: Option<(u64, f64, String)>,
}

impl Measured {
    /// What the run of a checkpoint says of its weights: the evaluation at the end of the run where it is of them, else what the
    /// checkpoint itself knows.
    ///
    /// # Errors
    /// An evaluation that cannot be read.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let evaluation = match checkpoint.dir.ends_with("best") {
            true => evaluation_of(&checkpoint.dir)?,
            false => None,
        };
        let state = &checkpoint.state;
        let known = |name: &str| state.metrics.get(name).copied().flatten();
        let of_checkpoint =
            || METRICS.into_iter().filter_map(|(name, key, _)| Some((name, known(key)?))).collect::<Vec<_>>();
        let Some(evaluation) = evaluation else { return Ok(Self { metrics: of_checkpoint(), how: None }) };
        let detection = &evaluation["total"]["detection"];
        // A run that went on and was interrupted has a better checkpoint than the one that was evaluated; its scores are not
        // calibrated yet.
        if state.score_shift.is_none() && detection["f1"].as_f64() != known("val/f1") {
            return Ok(Self { metrics: of_checkpoint(), how: None });
        }
        let total = |(name, _, key): (&'static str, &str, &str)| Some((name, detection[key].as_f64()?));
        let (frames, options) = (evaluation["total"]["frames"].as_u64(), &evaluation["options"]);
        let tolerance = options["tolerance"].as_str().map(str::to_owned);
        Ok(Self {
            metrics: METRICS.into_iter().filter_map(total).collect(),
            how: frames
                .zip(options["threshold"].as_f64())
                .zip(tolerance)
                .map(|((frames, at), within)| (frames, at, within)),
        })
    }
}

/// The evaluation at the end of the run that `dir` is the best checkpoint of; `None` if there is none.
fn evaluation_of(dir: &Path) -> Result<Option<Value>> {
    let Some(run) = dir.parent().and_then(Path::parent) else { return Ok(None) };
    let path = run.join(EVALUATION_FILE);
    if let Err(error) = std::fs::symlink_metadata(&path)
        && error.kind() == ErrorKind::NotFound
    {
        return Ok(None);
    }
    let text = read_text(&path, JSON)?;
    Ok(Some(serde_json::from_str(&text).map_err(|error| RunError::damaged(&path, error))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifacts::run::RunState;

    #[test]
    fn an_evaluation_counts_for_the_weights_that_it_is_of() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = RunState::start("run-1", 1, None);
        state.metrics.insert("val/f1".to_owned(), Some(0.75));
        state.metrics.insert("val/ap".to_owned(), None);
        let checkpoint = |name: &str, state: &RunState| Checkpoint {
            dir: dir.path().join("checkpoints").join(name),
            state: state.clone(),
        };
        let measured = |name: &str, state: &RunState| Measured::of(&checkpoint(name, state));
        let of_checkpoint = Measured { metrics: vec![("F1", 0.75)], how: None };
        assert_eq!(measured("best", &state).unwrap(), of_checkpoint);

        let write = |f1: f64| {
            let evaluation = format!(
                r#"{{"options": {{"threshold": 0.5, "tolerance": "4 px"}},
                     "total": {{"frames": 6, "detection": {{"f1": {f1}, "precision": 1.0, "recall": null}}}}}}"#
            );
            std::fs::write(dir.path().join(EVALUATION_FILE), evaluation).unwrap();
        };
        write(0.75);
        let whole = measured("best", &state).unwrap();
        assert_eq!(whole.metrics, [("F1", 0.75), ("precision", 1.0)]);
        assert_eq!(whole.how, Some((6, 0.5, "4 px".to_owned())));
        assert_eq!(measured("last", &state).unwrap(), of_checkpoint);
        // Of another checkpoint, or of this one with its scores moved.
        write(0.5);
        assert_eq!(measured("best", &state).unwrap(), of_checkpoint);
        state.score_shift = Some(0.3);
        assert_eq!(measured("best", &state).unwrap().metrics[0], ("F1", 0.5));
        std::fs::write(dir.path().join(EVALUATION_FILE), "{").unwrap();
        let message = measured("best", &state).unwrap_err().to_string();
        assert!(message.contains("evaluation.json"), "{message}");
    }
}

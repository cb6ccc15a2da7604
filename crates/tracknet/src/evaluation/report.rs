//! Metrics by game and in total, for people (`Display`) and for programs (JSON).

use std::fmt;
use std::path::Path;

use serde::Serialize;

use super::FrameOutcome;
use super::metrics::{ClassRecall, MetricOptions, Metrics, PointMetrics};
use crate::datasets::BadFrames;
use crate::error::Result;
use crate::files::write_atomic;

/// The evaluation of the best checkpoint, in a run's directory.
pub const EVALUATION_FILE: &str = "evaluation.json";

/// The metrics of one game.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GameMetrics {
    /// Name of the game.
    pub game: String,
    /// Its metrics.
    #[serde(flatten)]
    pub metrics: Metrics,
}

/// What an evaluation found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EvaluationReport {
    /// How it was measured.
    pub options: MetricOptions,
    /// Over all frames.
    pub total: Metrics,
    /// By game, in the order in which the games first occur.
    pub games: Vec<GameMetrics>,
    /// Frames that could not be read; they are in none of the numbers.
    #[serde(skip_serializing_if = "BadFrames::is_empty")]
    pub bad_frames: BadFrames,
}

impl EvaluationReport {
    /// Measures frames, in total and by game.
    pub fn from_outcomes(outcomes: &[FrameOutcome], options: &MetricOptions) -> Self {
        let mut games: Vec<(&str, Vec<&FrameOutcome>)> = Vec::new();
        for outcome in outcomes {
            match games.iter_mut().find(|(game, _)| *game == &*outcome.game) {
                Some((_, frames)) => frames.push(outcome),
                None => games.push((&*outcome.game, vec![outcome])),
            }
        }
        let game = |(game, frames): (&str, Vec<&FrameOutcome>)| GameMetrics {
            game: game.to_owned(),
            metrics: Metrics::of(&frames, options),
        };
        Self {
            options: options.clone(),
            total: Metrics::from_outcomes(outcomes, options),
            games: games.into_iter().map(game).collect(),
            bad_frames: BadFrames::default(),
        }
    }

    /// Writes the report as indented JSON, whole or not at all.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        Ok(write_atomic(path, |writer| serde_json::to_writer_pretty(writer, self).map_err(std::io::Error::from))?)
    }
}

/// A ratio with three digits, or a dash.
struct Ratio(Option<f64>);

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => f.pad(&format!("{value:.3}")),
            None => f.pad("–"),
        }
    }
}

impl fmt::Display for EvaluationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MetricOptions { threshold, tolerance, visible, .. } = &self.options;
        let tracked = if self.options.track.is_some() { "tracked from " } else { "" };
        writeln!(f, "within {tolerance}, {tracked}score ≥ {threshold}, visible = {{{visible}}}")?;
        let width = self.games.iter().map(|g| g.game.chars().count()).max().unwrap_or(0).max("total".len());
        writeln!(
            f,
            "{:width$} {:>7} {:>6} {:>5} {:>5} {:>6} {:>6} {:>9} {:>6} {:>6} {:>6} {:>8} {:>6} {:>6}",
            "game",
            "frames",
            "TP",
            "FP1",
            "FP2",
            "FN",
            "TN",
            "precision",
            "recall",
            "strict",
            "F1",
            "accuracy",
            "AP",
            "RMSE"
        )?;
        for game in &self.games {
            write_row(f, &game.game, &game.metrics, width)?;
        }
        write_row(f, "total", &self.total, width)?;
        write_details(f, &self.total, &self.options)?;
        if self.bad_frames.is_empty() { Ok(()) } else { writeln!(f, "{}", self.bad_frames) }
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, name: &str, metrics: &Metrics, width: usize) -> fmt::Result {
    let (d, c) = (&metrics.detection, &metrics.detection.counts);
    writeln!(
        f,
        "{name:width$} {:>7} {:>6} {:>5} {:>5} {:>6} {:>6} {:>9} {:>6} {:>6} {:>6} {:>8} {:>6} {:>6}",
        metrics.frames,
        c.tp,
        c.fp1,
        c.fp2,
        c.fn_,
        c.tn,
        Ratio(d.precision),
        Ratio(d.recall),
        Ratio(d.strict_recall),
        Ratio(d.f1),
        Ratio(d.accuracy),
        Ratio(d.average_precision),
        Ratio(d.rmse),
    )
}

fn write_details(f: &mut fmt::Formatter<'_>, total: &Metrics, options: &MetricOptions) -> fmt::Result {
    for d in &total.also {
        let (precision, recall) = (Ratio(d.precision), Ratio(d.recall));
        let (f1, ap, rmse) = (Ratio(d.f1), Ratio(d.average_precision), Ratio(d.rmse));
        let tolerance = d.tolerance;
        writeln!(f, "within {tolerance}: precision {precision}, recall {recall}, F1 {f1}, AP {ap}, RMSE {rmse}")?;
    }
    let class = |c: &ClassRecall| format!("{} {} of {}", c.class, Ratio(c.strict_recall), c.frames);
    writeln!(f, "found by visibility: {}", total.by_visibility.iter().map(class).collect::<Vec<_>>().join(", "))?;
    if let Some(best) = &total.best {
        writeln!(f, "best F1 {} at score ≥ {:.3}", Ratio(best.f1), best.threshold)?;
    }
    let points = |p: &PointMetrics| {
        let radii = options.pck_radii.iter().zip(&p.pck).map(|(r, share)| format!("PCK@{r} {}", Ratio(*share)));
        format!("mean L2 {}, {}", Ratio(p.mean_l2), radii.collect::<Vec<_>>().join(", "))
    };
    let heatmap = &total.heatmap;
    writeln!(f, "heatmap pixels, argmax:      {}", points(&heatmap.argmax))?;
    writeln!(f, "heatmap pixels, soft-argmax: {}", points(&heatmap.soft_argmax))?;
    if total.skipped > 0 {
        writeln!(f, "{} left out: the label is outside the image", crate::datasets::count(total.skipped, "frame"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::metrics::tests::outcome;
    use super::*;
    use crate::datasets::Visibility::{Absent, Visible};
    use crate::evaluation::TrackOptions;

    fn report() -> EvaluationReport {
        let mut outcomes = vec![outcome(Visible, Some((0.0, 0.9))), outcome(Visible, None), outcome(Absent, None)];
        outcomes[2].game = "game10".into();
        EvaluationReport::from_outcomes(&outcomes, &MetricOptions::default())
    }

    #[test]
    fn the_table_has_a_row_a_game_and_a_total() {
        let text = report().to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "within 4 px at 512×288, score ≥ 0.5, visible = {1,2,3}");
        let fields = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(fields(lines[2]), "game1 2 1 0 0 1 0 1.000 0.500 0.500 0.667 0.500 0.500 0.000");
        assert_eq!(fields(lines[3]), "game10 1 0 0 0 0 1 – – – – 1.000 – –");
        assert_eq!(fields(lines[4]), "total 3 1 0 0 1 1 1.000 0.500 0.500 0.667 0.667 0.500 0.000");
        assert!(lines[1..5].iter().all(|line| line.chars().count() == lines[1].chars().count()), "{text}");
        assert!(text.contains("found by visibility: visible 0.500 of 2, hard – of 0, occluded – of 0"), "{text}");
        assert!(text.contains("best F1 0.667 at score ≥ 0.900"), "{text}");
        assert!(!text.contains("NaN"), "{text}");
    }

    #[test]
    fn every_position_of_a_trajectory_counts_whatever_its_score() {
        let outcomes = [outcome(Visible, Some((0.0, 0.2))), outcome(Absent, Some((0.0, 0.1))), outcome(Visible, None)];
        let options = MetricOptions { track: Some(TrackOptions::default()), ..MetricOptions::default() };
        let report = EvaluationReport::from_outcomes(&outcomes, &options);
        let counts = report.total.detection.counts;
        assert_eq!((counts.tp, counts.fp2, counts.fn_), (1, 1, 1));
        assert_eq!(report.total.by_visibility[0].strict_recall, Some(0.5));
        let text = report.to_string();
        assert!(text.starts_with("within 4 px at 512×288, tracked from score ≥ 0.5, visible = {1,2,3}\n"), "{text}");
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["options"]["track"]["max_gap"], 4);
    }

    #[test]
    fn the_json_has_the_same_numbers_and_null_for_what_is_undefined() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.json");
        report().write_json(&path).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(json["total"]["detection"]["tp"], 1);
        assert_eq!(json["total"]["detection"]["fn"], 1);
        assert_eq!(json["total"]["detection"]["tolerance"], "4 px at 512×288");
        assert_eq!(json["games"][1]["game"], "game10");
        assert!(json["games"][1]["detection"]["f1"].is_null());
        assert_eq!(json["options"]["visible"], "1,2,3");
    }
}

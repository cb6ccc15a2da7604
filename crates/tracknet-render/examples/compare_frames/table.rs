//! Samples of measures, and their distributions side by side.

use std::collections::BTreeMap;
use std::fmt::Write;

/// Values by the name of their measure.
#[derive(Default)]
pub(crate) struct Samples(BTreeMap<&'static str, Vec<f32>>);

impl Samples {
    pub(crate) fn push(&mut self, measure: &'static str, value: f32) {
        if value.is_finite() {
            self.0.entry(measure).or_default().push(value);
        }
    }

    pub(crate) fn append(&mut self, other: Self) {
        for (measure, values) in other.0 {
            self.0.entry(measure).or_default().extend(values);
        }
    }
}

/// One block of rows for each measure, one row for each dataset.
pub(crate) fn render(datasets: &[(String, Samples)]) -> String {
    let mut measures: Vec<&str> = datasets.iter().flat_map(|(_, samples)| samples.0.keys().copied()).collect();
    measures.sort_unstable();
    measures.dedup();
    let mut text = String::from("| measure | dataset | values | 5 % | 25 % | 50 % | 75 % | 95 % | KS |\n");
    text.push_str("|---|---|---|---|---|---|---|---|---|\n");
    for measure in measures {
        let mut first: Option<Vec<f32>> = None;
        for (name, samples) in datasets {
            let Some(values) = samples.0.get(measure) else { continue };
            let mut sorted = values.clone();
            sorted.sort_by(f32::total_cmp);
            let quantiles: Vec<String> =
                [0.05, 0.25, 0.5, 0.75, 0.95].iter().map(|&q| format!("{:.2}", quantile(&sorted, q))).collect();
            let distance = first.as_deref().map_or(String::new(), |first| format!("{:.2}", distance(first, &sorted)));
            // Writing to a string cannot fail.
            let _ =
                writeln!(text, "| {measure} | {name} | {} | {} | {distance} |", sorted.len(), quantiles.join(" | "));
            first.get_or_insert(sorted);
        }
    }
    text
}

fn quantile(sorted: &[f32], share: f32) -> f32 {
    let index = (share * sorted.len().saturating_sub(1) as f32).round() as usize;
    sorted.get(index).copied().unwrap_or(f32::NAN)
}

/// The Kolmogorov–Smirnov distance: the largest difference of the two distribution functions.
fn distance(a: &[f32], b: &[f32]) -> f32 {
    let below = |values: &[f32], v: f32| values.partition_point(|x| *x <= v) as f32 / values.len().max(1) as f32;
    a.iter().chain(b).map(|&v| (below(a, v) - below(b, v)).abs()).fold(0.0, f32::max)
}

//! What is counted, in the text format of Prometheus (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tracknet::process;

/// Bounds of the times of answers, in seconds.
const SECONDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds of the pictures of one turn.
const PICTURES: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// How often what was seen.
#[derive(Debug)]
struct Histogram<const N: usize> {
    bounds: [f64; N],
    /// Values up to each bound and above the one before; the last are those above all.
    counts: Vec<u64>,
    sum: f64,
}

impl<const N: usize> Histogram<N> {
    fn new(bounds: [f64; N]) -> Self {
        Self { bounds, counts: vec![0; N + 1], sum: 0.0 }
    }

    fn observe(&mut self, value: f64) {
        let place = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(N);
        self.counts[place] += 1;
        self.sum += value;
    }

    /// Lines of `name`, whose other labels are `labels` (`route="/",` or nothing).
    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let mut below = 0;
        let bounds = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(&self.counts) {
            below += count;
            line(text, format_args!("{name}_bucket{{{labels}le=\"{bound}\"}} {below}"));
        }
        let braced = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.trim_end_matches(',')) };
        line(text, format_args!("{name}_sum{braced} {}", self.sum));
        line(text, format_args!("{name}_count{braced} {below}"));
    }
}

/// A request: its path as it stands in the document, its method, the status of its answer.
type Answer = (String, &'static str, u16);

/// Everything that is counted while a server runs.
#[derive(Debug)]
pub(crate) struct Metrics {
    answers: Mutex<BTreeMap<Answer, u64>>,
    seconds: Mutex<BTreeMap<String, Histogram<12>>>,
    turns: Mutex<Histogram<7>>,
    pub(crate) pictures: AtomicU64,
    pub(crate) video_frames: AtomicU64,
    pub(crate) panics: AtomicU64,
}

/// What is measured when somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Pictures that wait or are being searched.
    pub(crate) queue: usize,
    /// Videos that are received or searched.
    pub(crate) videos: usize,
    pub(crate) connections: usize,
    /// Names of the runs, and how many adapters each has.
    pub(crate) models: Vec<(String, usize)>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        Self {
            answers: Mutex::default(),
            seconds: Mutex::default(),
            turns: Mutex::new(Histogram::new(PICTURES)),
            pictures: AtomicU64::new(0),
            video_frames: AtomicU64::new(0),
            panics: AtomicU64::new(0),
        }
    }

    /// Counts an answer, `seconds` after its request.
    pub(crate) fn answered(&self, route: &str, method: &str, status: u16, took: Duration) {
        // Whoever asks chooses the method; its names must not fill the memory.
        const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];
        let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("other");
        *lock(&self.answers).entry((route.to_owned(), method, status)).or_default() += 1;
        let mut seconds = lock(&self.seconds);
        seconds.entry(route.to_owned()).or_insert_with(|| Histogram::new(SECONDS)).observe(took.as_secs_f64());
    }

    /// Counts a turn of the model.
    pub(crate) fn turn(&self, pictures: usize) {
        self.pictures.fetch_add(pictures as u64, Ordering::Relaxed);
        lock(&self.turns).observe(pictures as f64);
    }

    /// The text.
    pub(crate) fn text(&self, gauges: &Gauges) -> String {
        let mut text = String::new();
        head(&mut text, "tracknet_requests_total", "counter", "Requests by path, method and status.");
        for ((route, method, status), count) in lock(&self.answers).iter() {
            let labels = format_args!("route=\"{route}\",method=\"{method}\",status=\"{status}\"");
            line(&mut text, format_args!("tracknet_requests_total{{{labels}}} {count}"));
        }
        let name = "tracknet_request_duration_seconds";
        head(&mut text, name, "histogram", "From the head of a request to the head of its answer.");
        for (route, histogram) in lock(&self.seconds).iter() {
            histogram.write(&mut text, name, &format!("route=\"{route}\","));
        }
        head(&mut text, "tracknet_batch_size", "histogram", "Pictures in one turn of the model.");
        lock(&self.turns).write(&mut text, "tracknet_batch_size", "");
        for (name, help, value) in [
            ("tracknet_pictures_total", "Pictures searched.", &self.pictures),
            ("tracknet_video_frames_total", "Frames of videos searched.", &self.video_frames),
            ("tracknet_panics_total", "Requests that ended in an error of this program.", &self.panics),
        ] {
            head(&mut text, name, "counter", help);
            line(&mut text, format_args!("{name} {}", value.load(Ordering::Relaxed)));
        }
        for (name, help, value) in [
            ("tracknet_queue_length", "Pictures that wait or are being searched.", gauges.queue),
            ("tracknet_videos", "Videos that are received or searched.", gauges.videos),
            ("tracknet_connections", "Open connections.", gauges.connections),
        ] {
            head(&mut text, name, "gauge", help);
            line(&mut text, format_args!("{name} {value}"));
        }
        head(&mut text, "tracknet_model_loaded", "gauge", "The runs that are served.");
        for (model, _) in &gauges.models {
            line(&mut text, format_args!("tracknet_model_loaded{{model=\"{model}\"}} 1"));
        }
        head(&mut text, "tracknet_adapters_loaded", "gauge", "Adapters beside a run's own.");
        for (model, adapters) in &gauges.models {
            line(&mut text, format_args!("tracknet_adapters_loaded{{model=\"{model}\"}} {adapters}"));
        }
        if let Some(bytes) = process::resident_bytes() {
            head(&mut text, "process_resident_memory_bytes", "gauge", "Resident memory.");
            line(&mut text, format_args!("process_resident_memory_bytes {bytes}"));
        }
        if let Some(seconds) = process::cpu_seconds() {
            head(&mut text, "process_cpu_seconds_total", "counter", "Processor time of all threads.");
            line(&mut text, format_args!("process_cpu_seconds_total {seconds}"));
        }
        text
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    line(text, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}"));
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

/// Counters are whole after every step; a poisoned lock is taken as it is.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_and_turns_are_counted_in_the_words_of_prometheus() {
        let metrics = Metrics::new();
        metrics.answered("/v1/predict", "POST", 200, Duration::from_millis(7));
        metrics.answered("/v1/predict", "POST", 200, Duration::from_secs(60));
        metrics.answered("/v1/predict", "BREW", 405, Duration::from_millis(1));
        metrics.turn(3);
        let text = metrics.text(&Gauges { queue: 5, models: vec![("run".to_owned(), 2)], ..Gauges::default() });
        for line in [
            "tracknet_requests_total{route=\"/v1/predict\",method=\"POST\",status=\"200\"} 2",
            "tracknet_requests_total{route=\"/v1/predict\",method=\"other\",status=\"405\"} 1",
            "tracknet_request_duration_seconds_bucket{route=\"/v1/predict\",le=\"0.005\"} 1",
            "tracknet_request_duration_seconds_bucket{route=\"/v1/predict\",le=\"0.01\"} 2",
            "tracknet_request_duration_seconds_bucket{route=\"/v1/predict\",le=\"30\"} 2",
            "tracknet_request_duration_seconds_bucket{route=\"/v1/predict\",le=\"+Inf\"} 3",
            "tracknet_request_duration_seconds_count{route=\"/v1/predict\"} 3",
            "tracknet_batch_size_bucket{le=\"2\"} 0",
            "tracknet_batch_size_bucket{le=\"4\"} 1",
            "tracknet_batch_size_sum 3",
            "tracknet_pictures_total 3",
            "tracknet_queue_length 5",
            "tracknet_adapters_loaded{model=\"run\"} 2",
        ] {
            assert!(text.lines().any(|found| found == line), "no `{line}` in\n{text}");
        }
    }
}

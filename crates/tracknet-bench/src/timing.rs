//! Repetitions.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use tracknet_io::process;

/// Repetitions that are not counted: they fill caches and reach the steady state of the allocator.
const WARM_UPS: usize = 2;
/// Short workloads are repeated for this long, because one of them says little on a machine with other work.
const AT_LEAST: Duration = Duration::from_secs(5);
/// But not more often than this many times the repetitions that are asked for.
const AT_MOST: usize = 3;

/// How often a workload is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeat {
    /// Counted repetitions; up to three times as many when they take less than five seconds together.
    pub steps: usize,
}

/// How long one repetition took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// The middle of all repetitions.
    pub median_ms: f64,
    /// The shortest.
    pub min_ms: f64,
    /// The longest.
    pub max_ms: f64,
    /// How many there were.
    pub repetitions: usize,
    /// Cores that this process kept busy meanwhile; less than its threads when others had them. `None` where the system
    /// does not tell.
    pub cores: Option<f64>,
}

impl Repeat {
    /// Runs `work` twice to warm up, then as often as this says; ends at the first error.
    pub(crate) fn time<E>(self, mut work: impl FnMut() -> Result<(), E>) -> Result<Timing, E> {
        for _ in 0..WARM_UPS {
            work()?;
        }
        let steps = self.steps.max(1);
        let (start, busy) = (Instant::now(), process::cpu_seconds());
        let mut times = Vec::new();
        while times.len() < steps || (start.elapsed() < AT_LEAST && times.len() < AT_MOST * steps) {
            let clock = Instant::now();
            work()?;
            times.push(milliseconds(clock));
        }
        let busy = busy.zip(process::cpu_seconds()).map(|(before, after)| after - before);
        Ok(Timing { cores: busy.map(|busy| busy / start.elapsed().as_secs_f64()), ..Timing::sorted(times) })
    }
}

impl Timing {
    /// Of times in ms; `None` without any.
    pub(crate) fn of(times: Vec<f64>) -> Option<Self> {
        (!times.is_empty()).then(|| Self::sorted(times))
    }

    fn sorted(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        let [low, high] = [(times.len() - 1) / 2, times.len() / 2].map(|i| times[i]);
        let (min_ms, max_ms) = (times[0], times[times.len() - 1]);
        Self { median_ms: f64::midpoint(low, high), min_ms, max_ms, repetitions: times.len(), cores: None }
    }

    /// The time of one of `parts` equal parts of a repetition.
    #[must_use]
    pub(crate) fn divided(self, parts: usize) -> Self {
        let [median_ms, min_ms, max_ms] = [self.median_ms, self.min_ms, self.max_ms].map(|ms| ms / parts as f64);
        Self { median_ms, min_ms, max_ms, ..self }
    }
}

/// Milliseconds since `clock` was started.
pub(crate) fn milliseconds(clock: Instant) -> f64 {
    clock.elapsed().as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        let timing = Timing::of(vec![5.0, 1.0, 3.0]).unwrap();
        assert_eq!((timing.median_ms, timing.min_ms, timing.max_ms, timing.repetitions), (3.0, 1.0, 5.0, 3));
        assert_eq!(Timing::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap().median_ms, 2.5);
        assert_eq!(Timing::of(Vec::new()), None);
        assert_eq!(timing.divided(2).median_ms, 1.5);
    }

    #[test]
    fn warm_ups_are_not_counted_and_an_error_ends_it() {
        let mut calls = 0;
        let count = || -> Result<(), ()> {
            calls += 1;
            Ok(())
        };
        let timing = Repeat { steps: 4 }.time(count).unwrap();
        // Short work is repeated more often, as long as five seconds have not passed.
        assert!((4..=12).contains(&timing.repetitions));
        assert_eq!(calls, timing.repetitions + 2);
        assert!(timing.cores.is_none_or(|cores| cores >= 0.0));
        assert_eq!(Repeat { steps: 4 }.time(|| Err("failed")), Err("failed"));
    }
}

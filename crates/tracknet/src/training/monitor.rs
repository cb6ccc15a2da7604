//! The watched metric: decides which checkpoint is `best` and when a run stops early.

use std::collections::BTreeMap;

use crate::artifacts::run::Monitor;
use crate::config::{EarlyStoppingConfig, MonitorMode};

/// Stands in for a watched metric that has had no value yet (nothing is validated, or it is not defined on these
/// frames); the smallest is the best, whatever is asked of the watched one.
pub const STAND_IN: &str = "train/loss";

/// How the watched metric stands after an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonitorStatus {
    /// Better than everything before by more than `min_delta`.
    Best,
    /// Not better.
    Stale,
    /// Not better, and patience is used up.
    Stop,
}

impl Monitor {
    /// Judges the metrics of `epoch`. The first value of the watched metric is the best, whatever the stand-in was
    /// before it. A value that is missing or not finite is never an improvement.
    pub fn judge(
        &mut self,
        config: &EarlyStoppingConfig,
        epoch: usize,
        metrics: &BTreeMap<String, f64>,
    ) -> MonitorStatus {
        let value = |name: &str| metrics.get(name).copied().filter(|v| v.is_finite());
        let watched = config.monitor.as_str();
        let name = if value(watched).is_some() || self.is_of(watched) { watched } else { STAND_IN };
        let Some(value) = value(name).filter(|v| self.is_better(config, name, *v)) else {
            self.stale_epochs += 1;
            return if self.is_exhausted(config) { MonitorStatus::Stop } else { MonitorStatus::Stale };
        };
        *self = Self { metric: Some(name.to_owned()), best: Some(value), best_epoch: Some(epoch), stale_epochs: 0 };
        MonitorStatus::Best
    }

    fn is_of(&self, name: &str) -> bool {
        self.metric.as_deref() == Some(name)
    }

    fn is_better(&self, config: &EarlyStoppingConfig, name: &str, value: f64) -> bool {
        let Some(best) = self.best.filter(|_| self.is_of(name)) else { return true };
        // `min_delta` is in units of the watched metric.
        let (mode, delta) =
            if name == config.monitor { (config.mode, config.min_delta) } else { (MonitorMode::Min, 0.0) };
        match mode {
            MonitorMode::Min => value < best - delta,
            MonitorMode::Max => value > best + delta,
        }
    }

    /// Whether the run should already have stopped.
    pub fn is_exhausted(&self, config: &EarlyStoppingConfig) -> bool {
        config.enabled && self.stale_epochs >= config.patience.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: MonitorMode, min_delta: f64) -> EarlyStoppingConfig {
        EarlyStoppingConfig { enabled: true, mode, patience: 2, min_delta, ..EarlyStoppingConfig::default() }
    }

    fn metrics(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    fn judge(config: &EarlyStoppingConfig, values: &[f64]) -> Vec<MonitorStatus> {
        // The stand-in has nothing to say once the watched metric has had a value.
        let mut monitor = Monitor { metric: Some(config.monitor.clone()), ..Monitor::new() };
        let judge = |(epoch, &value)| monitor.judge(config, epoch, &metrics(&[("val/loss", value), (STAND_IN, 0.0)]));
        values.iter().enumerate().map(judge).collect()
    }

    #[test]
    fn a_run_stops_after_patience_epochs_without_improvement() {
        use MonitorStatus::{Best, Stale, Stop};
        assert_eq!(judge(&config(MonitorMode::Min, 0.0), &[1.0, 0.5, 0.5, 0.6]), [Best, Best, Stale, Stop]);
        assert_eq!(judge(&config(MonitorMode::Max, 0.1), &[0.5, 0.55, 0.7, 0.6]), [Best, Stale, Best, Stale]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_no_improvement() {
        use MonitorStatus::{Best, Stale, Stop};
        let values = [f64::NAN, 2.0, f64::NEG_INFINITY, f64::NAN];
        assert_eq!(judge(&config(MonitorMode::Min, 0.0), &values), [Stale, Best, Stale, Stop]);
    }

    #[test]
    fn a_stand_in_brings_its_own_mode_and_gives_way_to_the_first_value_of_the_watched_metric() {
        use MonitorStatus::{Best, Stale};
        let config = EarlyStoppingConfig { monitor: "val/f1".to_owned(), ..config(MonitorMode::Max, 0.3) };
        let mut monitor = Monitor::new();
        let mut judge = |epoch, f1: f64, loss: f64| {
            let change = monitor.judge(&config, epoch, &metrics(&[("val/f1", f1), (STAND_IN, loss)]));
            // As a run that is stopped and resumed after every epoch.
            monitor = serde_json::from_str(&serde_json::to_string(&monitor).unwrap()).unwrap();
            (change, monitor.metric.clone().unwrap(), monitor.best.unwrap())
        };
        let loss = |best: f64| (STAND_IN.to_owned(), best);
        let f1 = |best: f64| ("val/f1".to_owned(), best);
        let flat = |(change, metric, best)| (change, (metric, best));
        assert_eq!(flat(judge(0, f64::NAN, 2.0)), (Best, loss(2.0)));
        assert_eq!(flat(judge(1, f64::NAN, 1.9)), (Best, loss(1.9)));
        assert_eq!(flat(judge(2, f64::NAN, 2.5)), (Stale, loss(1.9)));
        assert_eq!(flat(judge(3, 0.1, 9.0)), (Best, f1(0.1)));
        assert_eq!(flat(judge(4, f64::NAN, 0.1)), (Stale, f1(0.1)));
        assert_eq!(flat(judge(5, 0.5, 9.0)), (Best, f1(0.5)));
        // Without validation games there is no such metric at all.
        let mut monitor = Monitor::new();
        let changes = [3.0, 2.0, 2.5].map(|loss| monitor.judge(&config, 0, &metrics(&[(STAND_IN, loss)])));
        assert_eq!((changes, monitor.best), ([Best, Best, Stale], Some(2.0)));
    }

    #[test]
    fn a_disabled_monitor_still_finds_the_best_but_never_stops() {
        let config = EarlyStoppingConfig { enabled: false, ..config(MonitorMode::Min, 0.0) };
        assert!(judge(&config, &[1.0, 2.0, 3.0, 4.0, 0.5]).iter().all(|v| *v != MonitorStatus::Stop));
    }
}

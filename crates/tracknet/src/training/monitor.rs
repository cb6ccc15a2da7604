//! The watched metric: decides which checkpoint is `best` and when a run stops early.

use serde::{Deserialize, Serialize};

use crate::config::{EarlyStoppingConfig, MonitorMode};

/// What a new value of the watched metric means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Better than everything before by more than `min_delta`.
    Best,
    /// Not better.
    Stale,
    /// Not better, and patience is used up.
    Stop,
}

/// Best value so far and how long ago it was; saved in checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// Best value; `None` before the first finite one.
    #[serde(with = "exact_option")]
    pub best: Option<f64>,
    /// Epoch (from 0) of the best value.
    pub best_epoch: Option<usize>,
    /// Epochs since then.
    pub stale_epochs: usize,
}

impl Monitor {
    /// Nothing seen yet.
    pub fn new() -> Self {
        Self { best: None, best_epoch: None, stale_epochs: 0 }
    }

    /// Judges `value`, reached in `epoch`. A value that is missing or not finite is never an improvement.
    pub fn judge(&mut self, config: &EarlyStoppingConfig, epoch: usize, value: Option<f64>) -> Verdict {
        let value = value.filter(|v| v.is_finite());
        let better = match (value, self.best) {
            (Some(_), None) => true,
            (Some(value), Some(best)) => match config.mode {
                MonitorMode::Min => value < best - config.min_delta,
                MonitorMode::Max => value > best + config.min_delta,
            },
            (None, _) => false,
        };
        if better {
            *self = Self { best: value, best_epoch: Some(epoch), stale_epochs: 0 };
            return Verdict::Best;
        }
        self.stale_epochs += 1;
        if self.is_exhausted(config) { Verdict::Stop } else { Verdict::Stale }
    }

    /// Whether the run should already have stopped.
    pub fn is_exhausted(&self, config: &EarlyStoppingConfig) -> bool {
        config.enabled && self.stale_epochs >= config.patience.max(1)
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

/// Floats as strings: JSON readers may round a number in its last bit, and JSON has no infinities.
pub(crate) mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(value: &f64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&value.to_string())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<f64, D::Error> {
        String::deserialize(d)?.parse().map_err(D::Error::custom)
    }
}

mod exact_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &Option<f64>, s: S) -> Result<S::Ok, S::Error> {
        value.map(|v| v.to_string()).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<f64>, D::Error> {
        Option::<String>::deserialize(d)?.map(|s| s.parse().map_err(D::Error::custom)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(mode: MonitorMode, min_delta: f64) -> EarlyStoppingConfig {
        EarlyStoppingConfig { enabled: true, mode, patience: 2, min_delta, ..EarlyStoppingConfig::default() }
    }

    fn judge(config: &EarlyStoppingConfig, values: &[f64]) -> Vec<Verdict> {
        let mut monitor = Monitor::new();
        values.iter().enumerate().map(|(epoch, &v)| monitor.judge(config, epoch, Some(v))).collect()
    }

    #[test]
    fn a_run_stops_after_patience_epochs_without_improvement() {
        use Verdict::{Best, Stale, Stop};
        assert_eq!(judge(&config(MonitorMode::Min, 0.0), &[1.0, 0.5, 0.5, 0.6]), [Best, Best, Stale, Stop]);
        assert_eq!(judge(&config(MonitorMode::Max, 0.1), &[0.5, 0.55, 0.7, 0.6]), [Best, Stale, Best, Stale]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_no_improvement() {
        use Verdict::{Best, Stale, Stop};
        let values = [f64::NAN, 2.0, f64::NEG_INFINITY, f64::NAN];
        assert_eq!(judge(&config(MonitorMode::Min, 0.0), &values), [Stale, Best, Stale, Stop]);
    }

    #[test]
    fn a_disabled_monitor_still_finds_the_best_but_never_stops() {
        let config = EarlyStoppingConfig { enabled: false, ..config(MonitorMode::Min, 0.0) };
        assert!(judge(&config, &[1.0, 2.0, 3.0, 4.0, 0.5]).iter().all(|v| *v != Verdict::Stop));
    }

    #[test]
    fn the_best_value_survives_json_bit_for_bit() {
        for value in [0.1 + 0.2, 1.0 / 3.0, 5e-324, 123_456.789_012_345_67] {
            let monitor = Monitor { best: Some(value), best_epoch: Some(3), stale_epochs: 1 };
            let json = serde_json::to_string(&monitor).unwrap();
            assert_eq!(serde_json::from_str::<Monitor>(&json).unwrap(), monitor);
        }
    }
}

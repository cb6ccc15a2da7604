//! Learning-rate schedules: linear warm-up, then half a cosine to zero, as a pure function of the position in
//! the run. No state means nothing to save, and a resumed run has the rate it would have had.

use std::f64::consts::PI;

use crate::config::{Interval, SchedulerConfig, SchedulerName};

/// A schedule over a run of known length.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    config: SchedulerConfig,
    epochs: usize,
    steps_per_epoch: usize,
}

impl Schedule {
    /// A schedule over `epochs` epochs of `steps_per_epoch` optimizer steps.
    pub fn new(config: &SchedulerConfig, epochs: usize, steps_per_epoch: usize) -> Self {
        Self { config: config.clone(), epochs, steps_per_epoch: steps_per_epoch.max(1) }
    }

    /// The factor on the learning rate at step `step_in_epoch` (from 0) of epoch `epoch` (from 0).
    ///
    /// With `W` warm-up epochs, start factor `s`, `E` epochs and position `x` (the epoch, or the step with
    /// `W` and `E` counted in steps when `interval: step`):
    ///
    /// * `x < W`: `s + (1 − s) · x / W`;
    /// * `cosine`, `x ≥ W`: `½ · (1 + cos(π · (x − W) / (E − W)))`;
    /// * `constant`, `x ≥ W`: 1.
    ///
    /// These are the closed forms of PyTorch's `SequentialLR(LinearLR(start_factor=s, total_iters=W),
    /// CosineAnnealingLR(T_max=E − W), milestones=[W])`.
    pub fn factor(&self, epoch: usize, step_in_epoch: usize) -> f64 {
        let unit = match self.config.interval {
            Interval::Epoch => 1,
            Interval::Step => self.steps_per_epoch,
        };
        let position = match self.config.interval {
            Interval::Epoch => epoch,
            Interval::Step => epoch * self.steps_per_epoch + step_in_epoch,
        } as f64;
        let warmup = (self.config.warmup_epochs * unit) as f64;
        let total = (self.epochs * unit) as f64;
        if position < warmup {
            let start = self.config.warmup_start_factor;
            return start + (1.0 - start) * position / warmup;
        }
        match self.config.name {
            SchedulerName::Constant => 1.0,
            SchedulerName::Cosine => {
                let progress = (position - warmup) / (total - warmup).max(1.0);
                0.5 * (1.0 + (PI * progress.min(1.0)).cos())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(name: SchedulerName, interval: Interval) -> SchedulerConfig {
        SchedulerConfig { name, warmup_epochs: 3, warmup_start_factor: 0.1, interval }
    }

    #[test]
    fn epochs_follow_pytorchs_sequential_linear_and_cosine() {
        // torch 2: SGD(lr=1), SequentialLR([LinearLR(0.1, total_iters=3), CosineAnnealingLR(T_max=7)], [3]), 10 epochs.
        let expected = [0.1, 0.4, 0.7, 1.0, 0.950484, 0.811745, 0.611260, 0.388740, 0.188255, 0.049516];
        let schedule = Schedule::new(&config(SchedulerName::Cosine, Interval::Epoch), 10, 5);
        for (epoch, &value) in expected.iter().enumerate() {
            // Six decimals are written above.
            assert!((schedule.factor(epoch, 4) - value).abs() < 5e-7, "epoch {epoch}");
        }
    }

    #[test]
    fn steps_move_between_the_epochs() {
        let schedule = Schedule::new(&config(SchedulerName::Cosine, Interval::Step), 10, 4);
        assert_eq!(schedule.factor(0, 0), 0.1);
        assert!((schedule.factor(1, 2) - 0.55).abs() < 1e-12);
        assert_eq!(schedule.factor(3, 0), 1.0);
        let steps: Vec<f64> =
            (3..10).flat_map(|e| (0..4).map(move |s| (e, s))).map(|(e, s)| schedule.factor(e, s)).collect();
        assert!(steps.windows(2).all(|w| w[1] < w[0]) && steps[27] > 0.0);
    }

    #[test]
    fn a_constant_schedule_still_warms_up() {
        let schedule = Schedule::new(&config(SchedulerName::Constant, Interval::Epoch), 10, 4);
        assert_eq!([0, 3, 9].map(|e| schedule.factor(e, 0)), [0.1, 1.0, 1.0]);
    }

    #[test]
    fn a_run_no_longer_than_its_warm_up_has_a_finite_rate_everywhere() {
        let schedule = Schedule::new(&config(SchedulerName::Cosine, Interval::Epoch), 2, 0);
        assert!((0..5).all(|e| (0.0..=1.0).contains(&schedule.factor(e, 0))));
        let none = SchedulerConfig { warmup_epochs: 0, ..config(SchedulerName::Cosine, Interval::Step) };
        assert_eq!(Schedule::new(&none, 1, 1).factor(0, 0), 1.0);
    }
}

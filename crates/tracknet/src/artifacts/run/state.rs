//! `state.json`: where a run is, and what its weights belong to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Version of the directory's layout and of `state.json`. Version 1 did not say what the base computes, which metric the
/// best value is of, and in what order the frames of the epoch came.
pub const FORMAT_VERSION: u32 = 2;

/// Where a run is: everything needed to continue it besides weights and optimizer state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunState {
    /// Version of this file.
    pub format_version: u32,
    /// The run's id.
    pub run_id: String,
    /// Seed of the run.
    pub seed: u64,
    /// Epoch to continue with, from 0.
    pub epoch: usize,
    /// Batches of that epoch already trained on.
    pub batch: usize,
    /// Optimizer steps so far, skipped ones included.
    pub step: u64,
    /// Steps skipped because a loss or gradient was not finite.
    pub skipped_steps: u64,
    /// Training loss of the epoch so far, `Σ(l·m)`.
    #[serde(with = "exact")]
    pub epoch_loss_sum: f64,
    /// Mask weight of the epoch so far, `Σm`.
    #[serde(with = "exact")]
    pub epoch_mask_sum: f64,
    /// Best value of the watched metric.
    pub monitor: Monitor,
    /// Metrics of the last complete epoch; `null` where one was not finite.
    pub metrics: BTreeMap<String, Option<f64>>,
    /// The loss scale of a run in float16.
    #[serde(default)]
    pub loss_scale: Option<LossScale>,
    /// What predictions add to the logits of the weights here, so that 0.5 is the threshold that the validation games ask for
    /// (`training.calibrate`).
    #[serde(default)]
    pub score_shift: Option<f32>,
    /// The frozen base that the weights here belong to; `null` when the whole model is in the checkpoint.
    pub base: Option<BaseIdentity>,
    /// What besides its tensors decides the outputs of the backbone; `null` in version 1.
    #[serde(default)]
    pub computation: Option<Computation>,
    /// The training frames that the order of an epoch was drawn from; `null` in version 1.
    #[serde(default)]
    pub frames: Option<FrameList>,
}

/// What besides its tensors decides the outputs of a backbone, by the keys of `config.json` and
/// `preprocessor_config.json`.
pub type Computation = BTreeMap<String, String>;

/// A list of frames, known by what it holds and in what order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameList {
    /// Number of frames.
    pub count: usize,
    /// SHA-256 over game, clip and file name of each.
    pub sha256: String,
}

/// A base that is named instead of copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseIdentity {
    /// `model.pretrained_model_name`, or what stands for it.
    pub name: String,
    /// SHA-256 over the names, shapes and bytes of its tensors as the model holds them.
    pub sha256: String,
}

impl RunState {
    /// The state before the first step.
    pub fn start(run_id: impl Into<String>, seed: u64, base: Option<BaseIdentity>) -> Self {
        Self {
            format_version: FORMAT_VERSION,
            run_id: run_id.into(),
            seed,
            epoch: 0,
            batch: 0,
            step: 0,
            skipped_steps: 0,
            epoch_loss_sum: 0.0,
            epoch_mask_sum: 0.0,
            monitor: Monitor::new(),
            metrics: BTreeMap::new(),
            loss_scale: None,
            score_shift: None,
            base,
            computation: None,
            frames: None,
        }
    }
}

/// Best value so far and how long ago it was; saved in checkpoints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// The metric that the best value is of: the watched one or the one that stands in for it. `None` before the first, and in
    /// checkpoints of format version 1.
    #[serde(default)]
    pub metric: Option<String>,
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
        Self { metric: None, best: None, best_epoch: None, stale_epochs: 0 }
    }
}

impl Default for Monitor {
    fn default() -> Self {
        Self::new()
    }
}

/// What the loss is multiplied by before a backward pass in float16: a power of two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LossScale {
    /// The factor.
    pub scale: f64,
    /// Steps since it last changed.
    pub steady_steps: u32,
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

    #[test]
    fn the_best_value_survives_json_bit_for_bit() {
        for value in [0.1 + 0.2, 1.0 / 3.0, 5e-324, 123_456.789_012_345_67] {
            let metric = Some("val/f1".to_owned());
            let monitor = Monitor { metric, best: Some(value), best_epoch: Some(3), stale_epochs: 1 };
            let json = serde_json::to_string(&monitor).unwrap();
            assert_eq!(serde_json::from_str::<Monitor>(&json).unwrap(), monitor);
        }
    }
}

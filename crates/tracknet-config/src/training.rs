//! The `training` section: optimizer, schedule, loss, stopping, where the run is written.

use std::ops::Bound;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tracknet_config_derive::{Section, Words};

use super::key::{Key, Status};
use super::kind::{ABOVE_ZERO, COUNT, POSITIVE, Setting};

/// The `training` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[config(fieldless = keys_of_older_files)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Seeds everything: same seed, same machine → same run. `--seed` sets it.
    #[config(default = 42, range = 0..=u64::MAX)]
    pub seed: u64,
    /// Frames per optimizer step.
    #[config(default = 32, range = POSITIVE)]
    pub batch_size: usize,
    /// Passes over the training games.
    #[config(default = 20, range = POSITIVE)]
    pub epochs: usize,
    /// Mixed precision where the device has it, else fp32 with a note; the CPU has bf16 for frozen backbones. Old
    /// spelling: `amp: true` = `fp16`, `amp: false` = `fp32`.
    #[config(default = Precision::Fp16)]
    pub precision: Precision,
    /// Largest global norm of the gradients; 0 = off.
    #[config(default = 1.0, range = 0.0..)]
    pub grad_clip: f32,
    /// Second spelling of `grad_clip`; the smaller of the two counts.
    #[config(default = 1.0, range = 0.0..)]
    pub grad_clip_norm: f32,
    /// Epochs before the backbone (with LoRA: the adapters) starts to train.
    #[config(default = 10, range = COUNT)]
    pub backbone_freeze_epochs: usize,
    /// Split a batch that does not fit in memory.
    #[config(default = true)]
    pub adaptive_micro_batch: bool,
    /// Smallest micro-batch that is tried.
    #[config(default = 4, range = POSITIVE)]
    pub min_micro_batch_size: usize,
    /// Factor by which a micro-batch that does not fit shrinks.
    #[config(default = 2, range = 2..=1024)]
    pub mb_backoff_factor: usize,
    /// How often a micro-batch shrinks before the run gives up.
    #[config(default = 3, range = COUNT)]
    pub oom_retries: usize,
    /// Frames per forward pass; 0 = the whole batch.
    #[config(default = 0, range = COUNT)]
    pub micro_batch_size: usize,
    /// Keep only the input of each frozen transformer block or ConvNeXt MLP for the backward pass, and compute the rest
    /// again.
    pub gradient_checkpointing: bool,
    /// Decode workers and how far they run ahead.
    #[config(section)]
    pub data_loader: DataLoaderConfig,
    /// The optimizer.
    #[config(section)]
    pub optimizer: OptimizerConfig,
    /// The learning-rate schedule.
    #[config(section)]
    pub scheduler: SchedulerConfig,
    /// The loss.
    #[config(section)]
    pub loss: LossConfig,
    /// Move the scores of the best checkpoint so that 0.5 is the threshold with the best F1 on the validation games; for the
    /// losses focal and wbce.
    pub calibrate: bool,
    /// When to stop early.
    #[config(section)]
    pub early_stopping: EarlyStoppingConfig,
    /// Train on at most this many batches an epoch; 0 = all.
    #[config(default = 0, range = COUNT)]
    pub limit_train_batches: usize,
    /// Validate on at most this many batches; 0 = all.
    #[config(default = 0, range = COUNT)]
    pub limit_val_batches: usize,
    /// Where runs are written. `--output-dir` moves this and the next two.
    #[config(default = "outputs")]
    pub output_dir: PathBuf,
    /// Where logs are written.
    #[config(default = "outputs/logs")]
    pub log_dir: PathBuf,
    /// Where checkpoints are written.
    #[config(default = "outputs/checkpoints")]
    pub ckpt_dir: PathBuf,
}

/// Keys without a field: the older spelling of `precision`, and a feature that this version does not have.
fn keys_of_older_files() -> Vec<Key> {
    let amp = Key {
        path: "amp".to_owned(),
        kind: Option::<bool>::kind(()),
        status: Status::Working,
        doc: "Old spelling of `precision`: `true` = `fp16`, `false` = `fp32`.",
    };
    vec![amp, Key::unavailable("ema.decay")]
}

/// Numeric precision of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum Precision {
    /// 32-bit floats.
    #[word(aliases = ["32", "float32", "32-true"])]
    Fp32,
    /// Mixed precision with a dynamic loss scale.
    #[word(aliases = ["16", "float16", "16-mixed"])]
    Fp16,
    /// Mixed precision in bfloat16.
    #[word(aliases = ["bfloat16", "bf16-mixed"])]
    Bf16,
}

/// Decode workers and how far they run ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct DataLoaderConfig {
    /// Decode threads.
    #[config(default = 4, range = 0..=4096)]
    pub num_workers: usize,
    /// Accepted; memory is never pinned.
    #[config(default = true)]
    pub pin_memory: bool,
    /// Accepted; workers always persist.
    #[config(default = true)]
    pub persistent_workers: bool,
    /// Batches decoded ahead of the training step.
    #[config(default = 2, range = 0..=4096, null_is_default)]
    pub prefetch_factor: usize,
    /// Drop the last, smaller batch of a training epoch.
    pub drop_last: bool,
}

/// The optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The optimizer.
    #[config(default = OptimizerName::AdamW)]
    pub name: OptimizerName,
    /// Learning rate.
    #[config(default = 5e-4, range = ABOVE_ZERO)]
    pub lr: f64,
    /// Decoupled weight decay.
    #[config(default = 0.05, range = 0.0..)]
    pub weight_decay: f64,
    /// Momentum of `sgd`.
    #[config(default = 0.9, range = 0.0..1.0)]
    pub momentum: f64,
    /// Learning rate of the backbone's weights and adapters; null = `lr`.
    #[config(range = ABOVE_ZERO)]
    pub backbone_lr: Option<f64>,
    /// Leave biases and normalization weights out of the decay.
    pub exclude_bias_and_norm: bool,
    /// Leave adapters out of the decay.
    pub exclude_adapters: bool,
}

/// Known optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum OptimizerName {
    /// Adam with decoupled weight decay.
    #[word(name = "adamw")]
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// Linear warm-up, then the named schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// The learning rate after the warm-up.
    #[config(default = SchedulerName::Cosine)]
    pub name: SchedulerName,
    /// Epochs of linear warm-up.
    #[config(default = 3, range = COUNT)]
    pub warmup_epochs: usize,
    /// Factor of the learning rate at the start of the warm-up.
    #[config(default = 0.1, range = (Bound::Excluded(0.0), Bound::Included(1.0)))]
    pub warmup_start_factor: f64,
    /// When the learning rate moves.
    #[config(default = Interval::Epoch)]
    pub interval: Interval,
}

/// Known schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum SchedulerName {
    /// Half a cosine from the full rate to zero.
    Cosine,
    /// The full rate.
    Constant,
}

/// When a schedule moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum Interval {
    /// Once an epoch.
    Epoch,
    /// Once an optimizer step.
    Step,
}

/// The loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// The loss.
    #[config(default = LossName::Mse)]
    pub name: LossName,
    /// Focusing exponent of `focal`.
    #[config(default = 2.0, range = 0.0..)]
    pub alpha: f32,
    /// Exponent of `focal` that spares pixels near the peak.
    #[config(default = 4.0, range = 0.0..)]
    pub beta: f32,
    /// For `focal`: pixels whose target is at least this are positives and all others negatives, as in CornerNet; null = every
    /// pixel is both, by its target.
    #[config(range = ABOVE_ZERO)]
    pub positive_from: Option<f32>,
}

/// Known losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum LossName {
    /// Mean squared error on raw outputs.
    Mse,
    /// CenterNet's focal loss on sigmoid outputs.
    Focal,
    /// Focally weighted binary cross entropy.
    Wbce,
}

/// When to stop early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Section)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStoppingConfig {
    /// Stop early. A file that has the section without this key switches it on.
    pub enabled: bool,
    /// Watched metric; it also decides which checkpoint is `best`.
    #[config(default = "val/loss")]
    pub monitor: String,
    /// Whether smaller or larger is better.
    #[config(default = MonitorMode::Min)]
    pub mode: MonitorMode,
    /// Epochs without improvement before the run stops.
    #[config(default = 10, range = COUNT)]
    pub patience: usize,
    /// Smallest change that counts as an improvement.
    #[config(default = 0.0, range = 0.0..)]
    pub min_delta: f64,
}

/// Direction of the watched metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Words)]
pub enum MonitorMode {
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

//! The `training` section: optimizer, schedule, loss, stopping, where the run is written.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The `training` section.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingConfig {
    /// Seeds everything: same seed, same machine → same run.
    pub seed: u64,
    /// Frames per optimizer step.
    pub batch_size: usize,
    /// Passes over the training games.
    pub epochs: usize,
    /// Numeric precision; falls back to fp32 with a note where the device has no mixed precision.
    pub precision: Precision,
    /// Largest global norm of the gradients; 0 = off.
    pub grad_clip: f32,
    /// Same as `grad_clip`, in the original's second spelling; the smaller of the two counts.
    pub grad_clip_norm: f32,
    /// Epochs before the backbone (or, with LoRA, the adapters) start to train.
    pub backbone_freeze_epochs: usize,
    /// Choose a micro-batch that fits in memory.
    pub adaptive_micro_batch: bool,
    /// Smallest micro-batch that is tried.
    pub min_micro_batch_size: usize,
    /// Factor by which a micro-batch that does not fit shrinks.
    pub mb_backoff_factor: usize,
    /// How often a micro-batch shrinks before the run gives up.
    pub oom_retries: usize,
    /// Frames per forward pass; 0 = the whole batch.
    pub micro_batch_size: usize,
    /// Recompute block activations in the backward pass.
    pub gradient_checkpointing: bool,
    /// Decode workers and how far they run ahead.
    pub data_loader: DataLoaderConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// The learning-rate schedule.
    pub scheduler: SchedulerConfig,
    /// The loss.
    pub loss: LossConfig,
    /// When to stop early.
    pub early_stopping: EarlyStoppingConfig,
    /// Train on at most this many batches an epoch; 0 = all.
    pub limit_train_batches: usize,
    /// Validate on at most this many batches; 0 = all.
    pub limit_val_batches: usize,
    /// Where runs are written.
    pub output_dir: PathBuf,
    /// Where logs are written.
    pub log_dir: PathBuf,
    /// Where checkpoints are written.
    pub ckpt_dir: PathBuf,
}

impl Default for TrainingConfig {
    fn default() -> Self {
        Self {
            seed: 42,
            batch_size: 32,
            epochs: 20,
            precision: Precision::Fp16,
            grad_clip: 1.0,
            grad_clip_norm: 1.0,
            backbone_freeze_epochs: 10,
            adaptive_micro_batch: true,
            min_micro_batch_size: 4,
            mb_backoff_factor: 2,
            oom_retries: 3,
            micro_batch_size: 0,
            gradient_checkpointing: false,
            data_loader: DataLoaderConfig::default(),
            optimizer: OptimizerConfig::default(),
            scheduler: SchedulerConfig::default(),
            loss: LossConfig::default(),
            early_stopping: EarlyStoppingConfig::default(),
            limit_train_batches: 0,
            limit_val_batches: 0,
            output_dir: PathBuf::from("outputs"),
            log_dir: PathBuf::from("outputs/logs"),
            ckpt_dir: PathBuf::from("outputs/checkpoints"),
        }
    }
}

/// Numeric precision of a training run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    Fp32,
    /// Mixed precision with a dynamic loss scale.
    Fp16,
    /// Mixed precision in bfloat16.
    Bf16,
}

impl Precision {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }
}

/// Decode workers and how far they run ahead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataLoaderConfig {
    /// Decode threads.
    pub num_workers: usize,
    /// Accepted; memory is never pinned.
    pub pin_memory: bool,
    /// Accepted; workers always persist.
    pub persistent_workers: bool,
    /// Batches decoded ahead of the training step.
    pub prefetch_factor: usize,
    /// Drop the last, smaller batch of a training epoch.
    pub drop_last: bool,
}

impl Default for DataLoaderConfig {
    fn default() -> Self {
        Self { num_workers: 4, pin_memory: true, persistent_workers: true, prefetch_factor: 2, drop_last: false }
    }
}

/// The optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// `adamw` or `sgd`.
    pub name: OptimizerName,
    /// Learning rate of everything that has no rate of its own.
    pub lr: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Learning rate of the backbone's weights and adapters; `null` = `lr`.
    pub backbone_lr: Option<f64>,
    /// Leave biases and normalization weights out of the decay.
    pub exclude_bias_and_norm: bool,
    /// Leave adapters out of the decay.
    pub exclude_adapters: bool,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            name: OptimizerName::AdamW,
            lr: 5e-4,
            weight_decay: 0.05,
            momentum: 0.9,
            backbone_lr: None,
            exclude_bias_and_norm: false,
            exclude_adapters: false,
        }
    }
}

/// Known optimizers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Stochastic gradient descent with momentum.
    Sgd,
}

/// Linear warm-up, then the named schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SchedulerConfig {
    /// `cosine` or `constant`.
    pub name: SchedulerName,
    /// Epochs of linear warm-up.
    pub warmup_epochs: usize,
    /// Factor of the learning rate at the start of the warm-up.
    pub warmup_start_factor: f64,
    /// Whether the rate changes per epoch or per step.
    pub interval: Interval,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { name: SchedulerName::Cosine, warmup_epochs: 3, warmup_start_factor: 0.1, interval: Interval::Epoch }
    }
}

/// Known schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SchedulerName {
    /// Half a cosine from the full rate to zero.
    Cosine,
    /// The full rate.
    Constant,
}

/// When a schedule moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interval {
    /// Once an epoch.
    Epoch,
    /// Once an optimizer step.
    Step,
}

/// The loss.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// `mse`, `focal` or `wbce`.
    pub name: LossName,
    /// Focusing exponent of `focal`.
    pub alpha: f32,
    /// Exponent that spares pixels near the peak in `focal`.
    pub beta: f32,
}

impl Default for LossConfig {
    fn default() -> Self {
        Self { name: LossName::Mse, alpha: 2.0, beta: 4.0 }
    }
}

/// Known losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LossName {
    /// Mean squared error on raw outputs.
    Mse,
    /// CenterNet's focal loss on sigmoid outputs.
    Focal,
    /// Focally weighted binary cross entropy.
    Wbce,
}

/// When to stop early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EarlyStoppingConfig {
    /// Whether the run may stop early.
    pub enabled: bool,
    /// The watched metric, such as `val/loss` or `val/f1`; also decides which checkpoint is `best`.
    pub monitor: String,
    /// Whether smaller or larger is better.
    pub mode: MonitorMode,
    /// Epochs without improvement before the run stops.
    pub patience: usize,
    /// Smallest change that counts as an improvement.
    pub min_delta: f64,
}

impl Default for EarlyStoppingConfig {
    fn default() -> Self {
        Self { enabled: false, monitor: "val/loss".to_owned(), mode: MonitorMode::Min, patience: 10, min_delta: 0.0 }
    }
}

/// Direction of the watched metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MonitorMode {
    /// Smaller is better.
    Min,
    /// Larger is better.
    Max,
}

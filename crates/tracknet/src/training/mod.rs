//! Losses, optimizer, schedule, the training of a run and its logs; [`distill`], a training of its own.
//!
//! A kind of training is a [`TrainStep`]: how a model gives a loss for a batch. The [`Trainer`] makes an optimizer step of
//! it, and knows of no heatmaps:
//!
//! ```text
//! micro-batches → loss, gradients → sum → GradientReducer → finite? → clip → update → loss scale
//! ```
//!
//! [`TrainingRun`] takes the steps of the epochs of a heatmap model, with validation, checkpoints and logs.

pub mod distill;
mod error;
mod evaluate;
mod fit;
mod freeze;
mod gradients;
mod heatmap_step;
mod held_out;
mod loaders;
mod logging;
mod loss;
mod micro_batch;
mod monitor;
mod optimizer;
mod parameters;
mod precision;
mod reduce;
mod reporter;
mod resume;
mod schedule;
mod staging;
mod tracks;
mod train_step;
mod trainer;

pub use error::TrainingError;
pub use evaluate::{EvaluateOptions, Evaluation, evaluate};
pub use fit::{
    FitOptions, FitReport, Outcome, TrainingRun, fit, set_checkpointing, set_precision, training_peak, unfrozen_trainer,
};
pub use freeze::with_schedule;
pub use gradients::{GradientNorm, MAX_NON_FINITE, NamedGradients, clip_limit};
pub use heatmap_step::HeatmapStep;
pub use loaders::{Loaders, shape_of};
pub use logging::{KeepRows, MetricLog, RowKind};
pub use loss::{HeatmapLoss, LossSum, MIN_MASK_WEIGHT};
pub use micro_batch::{MicroBatchSize, choose_micro_batch};
pub use monitor::{MonitorStatus, STAND_IN};
pub use optimizer::{NamedOptimizer, ParameterKind, Part, StepFactors};
pub use parameters::{ParameterTable, TrainableParameter};
pub use reduce::{BatchGradients, GradientReducer, SingleProcess};
pub use reporter::{Console, Reporter, Silent, StepProgress};
pub use schedule::Schedule;
pub use staging::{BatchShape, BatchTensors, StagedBatch, Staging, mask_weight};
pub use train_step::TrainStep;
pub use trainer::{StepReport, Trainer};

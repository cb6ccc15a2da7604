//! Losses, optimizer, schedule, the fit loop and its logs; [`distill`], a training of its own.

pub mod distill;
mod error;
mod evaluate;
mod fit;
mod freeze;
mod gradients;
mod loaders;
mod logging;
mod loss;
mod memory;
mod monitor;
mod optimizer;
mod overlays;
mod parameters;
mod precision;
mod reporter;
mod resume;
mod schedule;
mod staging;
mod start;
mod step;

pub use error::TrainingError;
pub use evaluate::{EvaluateOptions, Evaluation, evaluate};
pub use fit::{
    EVALUATION_FILE, FitOptions, FitReport, Outcome, Trainer, fit, set_checkpointing, set_precision, training_device,
    training_peak,
};
pub(crate) use fit::{device_memory, thawed_stepper};
pub use freeze::with_schedule;
pub use gradients::{GradientNorm, MAX_NON_FINITE, NamedGradients, clip_limit};
pub use loaders::{Loaders, shape_of};
pub use logging::{KeepRows, MetricLog, RowKind};
pub use loss::{HeatmapLoss, LossSum, MIN_MASK_WEIGHT};
pub use memory::{MemoryBound, MicroBatch, choose_micro_batch};
pub use monitor::{STAND_IN, Verdict};
pub use optimizer::{NamedOptimizer, ParameterKind, Part, StepFactors};
pub use parameters::{ParameterTable, TrainableParameter};
pub use precision::compute_dtype;
pub use reporter::{Console, Reporter, Silent, StepProgress};
pub use schedule::Schedule;
pub(crate) use staging::Staging;
pub use staging::{BatchShape, BatchTensors, StagedBatch, mask_weight};
pub use step::{StepReport, Stepper};

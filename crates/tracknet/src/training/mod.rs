//! Losses, optimizer, schedule, the fit loop, checkpoints and logs; [`distill`], a training of its own.

mod checkpoint;
pub mod distill;
mod error;
mod evaluate;
mod fit;
mod freeze;
mod gradients;
mod identity;
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
mod run;
mod schedule;
mod staging;
mod start;
mod step;
mod tensors;
mod weights;

pub use checkpoint::{
    ADAPTER_DIR, BACKBONE_DIR, BaseIdentity, CONFIG_FILE, Checkpoint, Computation, FORMAT_VERSION, FrameList,
    HEAD_FILE, RunState, write_checkpoint,
};
pub use error::TrainingError;
pub use evaluate::{EvaluateOptions, Evaluation, activation_of, evaluate};
pub use fit::{
    EVALUATION_FILE, FitOptions, FitReport, Outcome, Trainer, device_memory, fit, set_checkpointing, set_precision,
    thawed_stepper, training_device, training_peak,
};
pub use freeze::with_schedule;
pub use gradients::{GradientNorm, MAX_NON_FINITE, NamedGradients, clip_limit};
pub use loaders::{Loaders, batch_spec, shape_of};
pub use logging::{KeepRows, MetricLog, RowKind};
pub use loss::{HeatmapLoss, LossSum, MIN_MASK_WEIGHT};
pub use memory::{MemoryBound, MicroBatch, choose_micro_batch};
pub use monitor::{Monitor, STAND_IN, Verdict};
pub use optimizer::{NamedOptimizer, ParameterKind, Part, StepFactors};
pub use parameters::{ParameterTable, TrainableParameter};
pub use precision::{LossScale, compute_dtype};
pub use reporter::{Console, Reporter, Silent, StepProgress};
pub use resume::find_checkpoint;
pub use run::RunPaths;
pub use schedule::Schedule;
pub use staging::{BatchShape, BatchTensors, StagedBatch, Staging, mask_weight};
pub use step::{StepReport, Stepper};
pub use tensors::{HostTensor, HostTensors};
pub use weights::{
    AdapterChoice, LoadedModel, find_adapter, load_model_for_inference, load_model_with_adapter, named_adapters,
};

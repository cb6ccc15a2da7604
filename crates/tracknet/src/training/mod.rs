//! Losses, optimizer, schedule, the fit loop, checkpoints and logs.

mod checkpoint;
mod error;
mod logging;
mod loss;
mod memory;
mod monitor;
mod optimizer;
mod reporter;
mod schedule;
mod tensors;

pub use checkpoint::{
    ADAPTER_DIR, BACKBONE_DIR, BaseIdentity, CONFIG_FILE, Checkpoint, FORMAT_VERSION, HEAD_FILE, RunState,
    write_checkpoint,
};
pub use error::TrainingError;
pub use logging::{MetricLog, RowKind};
pub use loss::{HeatmapLoss, LossSum, MIN_MASK_WEIGHT};
pub use memory::{MemoryBound, MicroBatch, choose_micro_batch};
pub use monitor::{Monitor, Verdict};
pub use optimizer::{NamedOptimizer, ParameterKind, Part};
pub use reporter::{Console, Reporter, Silent, StepProgress};
pub use schedule::Schedule;
pub use tensors::{HostTensor, HostTensors};

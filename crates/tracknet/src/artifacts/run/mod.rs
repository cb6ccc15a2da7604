//! Runs and their checkpoints on disk.
//!
//! | module | what lives there |
//! |---|---|
//! | `paths` | the directories of a run |
//! | `checkpoint`, `state`, `tensors` | a checkpoint directory, its `state.json`, its optimizer state |
//! | `identity` | the backbone that a checkpoint belongs to |
//! | `weights` | what of a model goes into a checkpoint, and back |
//! | `find` | checkpoints and adapters by path or name |

pub(crate) mod checkpoint;
mod error;
mod find;
pub(crate) mod identity;
mod paths;
mod state;
pub(crate) mod tensors;
pub(crate) mod weights;

pub use super::pretrained::HEAD_FILE;
pub use checkpoint::{Checkpoint, write_checkpoint};
pub use error::RunError;
pub use find::{find_adapter, find_checkpoint, named_adapters};
pub use paths::RunPaths;
pub use state::{BaseIdentity, Computation, FORMAT_VERSION, FrameList, LossScale, Monitor, RunState};
pub use tensors::{HostTensor, HostTensors};

/// Directory of adapters in a checkpoint.
pub const ADAPTER_DIR: &str = "adapter";
/// Directory of a trained backbone in a checkpoint.
pub const BACKBONE_DIR: &str = "backbone";
/// The merged configuration in a run or checkpoint.
pub const CONFIG_FILE: &str = "config.yaml";

/// Said of a checkpoint of format version 1.
pub(crate) const UNKNOWN_COMPUTATION: &str = "the checkpoint is of an earlier version and does not say what its backbone \
                                              computes: attention heads, rope_theta, image_mean and the like are taken \
                                              as they are";

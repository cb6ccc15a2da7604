//! Checkpoints in Hugging Face's layout, from a directory or the local hub cache.
//!
//! | module | what lives there |
//! |---|---|
//! | [`hub`] | from `pretrained_model_name` to a directory |
//! | [`weights`] | safetensors files, read tensor by tensor |
//! | [`checkpoint`] | a directory as a source of parameters |
//! | [`save`] | the same layouts, written |

pub mod checkpoint;
pub mod hub;
pub mod save;
pub mod weights;

pub use checkpoint::{Checkpoint, Preprocessing};
pub use save::{HEAD_FILE, StoredAs, load_head, write_backbone, write_head};
pub use weights::Weights;

//! Checkpoints in Hugging Face's layout, from a directory or the local hub cache.
//!
//! | module | what lives there |
//! |---|---|
//! | [`hub`] | from `pretrained_model_name` to a directory |
//! | [`header`], [`index`] | what safetensors files and sharded checkpoints say they hold |
//! | [`weights`] | safetensors files, read tensor by tensor |
//! | [`checkpoint`] | a directory as a source of parameters |
//! | `spelling` | the right tensors under other names |
//! | [`preprocessing`] | how frames become what the backbone was trained on |
//! | [`foreign`] | files and directories that are something else |
//! | [`carried`] | tensors that are only written again |
//! | [`save`] | the same layouts, written |
//! | [`bnb`] | 4-bit checkpoints of bitsandbytes |

pub mod bnb;
pub mod carried;
pub mod checkpoint;
pub mod foreign;
pub mod header;
pub mod hub;
pub mod index;
pub(crate) mod json;
pub mod preprocessing;
pub mod save;
mod spelling;
mod stream;
pub mod weights;

pub use checkpoint::Checkpoint;
pub use preprocessing::Preprocessing;
pub(crate) use save::backbone_state;
pub use save::{HEAD_FILE, StoredAs, load_head, load_initial_head, write_backbone, write_head, write_packed_backbone};
pub use weights::Weights;

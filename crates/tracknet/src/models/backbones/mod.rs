//! Vision transformers from Hugging Face checkpoints.
//!
//! DINOv3, DINOv2 (with and without registers) and ViT are one module, [`Vit`]: what differs between them is data,
//! a [`VitSpec`] that each family's file reads from `config.json`.

mod dinov2;
mod dinov3;
#[cfg(feature = "flex")]
mod frozen;
mod heads;
mod names;
mod paths;
mod position;
mod spec;
mod transformer;
mod vit;

pub use heads::{HEADS, is_head};
pub(crate) use names::halve_rows;
pub use names::{LinearNames, VitNames};
pub use paths::ModulePaths;
pub(crate) use spec::names_of;
pub use spec::{Biases, MODEL_TYPES, MlpKind, Position, Resampling, VitSpec};
pub use transformer::{Block, Vit};

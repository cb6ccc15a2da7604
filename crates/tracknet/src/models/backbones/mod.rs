//! Vision transformers from Hugging Face checkpoints.
//!
//! DINOv3, DINOv2 (with and without registers) and ViT are one module, [`Vit`]: what differs between them is data,
//! a [`VitSpec`] that each family's file reads from `config.json`.

mod dinov2;
mod dinov3;
#[cfg(feature = "flex")]
mod frozen;
mod position;
mod spec;
mod transformer;
mod vit;

pub use spec::{Biases, MODEL_TYPES, MlpKind, Position, Resampling, VitNames, VitSpec};
pub use transformer::{Block, Vit};

//! Finds the ball in sports video: heatmap detectors on pretrained vision transformers, fine-tuned with
//! LoRA adapters on a frozen backbone that can be quantized to 4 bits.
//!
//! | module | what lives there |
//! |---|---|
//! | [`compute`] | where and how things are computed |
//! | [`config`] | YAML → validated structs; no tensors |
//! | [`models`] | backbone → decoder → head, LoRA, quantization |
//! | [`artifacts`] | model, adapter and run directories, and how a model comes back from them |
//! | [`datasets`] | label readers, the batch loader |
//! | [`training`] | losses, optimizer, the fit loop, distillation |
//! | [`evaluation`] | heatmap decoding, metrics, reports, pictures of detections |
//! | [`inference`] | prediction on images, folders and clips |
//! | [`export`] | models for other programs: ONNX files, Hugging Face directories, model cards |
//! | [`inspect`] | what a file or directory is and holds |
//! | [`files`] | reading and writing: whole or absent, nothing of the user's lost |
//! | [`console`], [`process`] | what is said to people; what this process takes |
#![recursion_limit = "256"]

pub mod artifacts;
pub mod compute;
pub mod datasets;
pub mod error;
pub mod evaluation;
pub mod export;
pub mod inference;
pub mod inspect;
pub mod models;
pub mod training;

pub use error::{Error, Result};
pub use tracknet_config as config;
pub use tracknet_io::{console, files, process};

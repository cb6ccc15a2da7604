//! Adapters and 4-bit storage for any model that names its projections.
//!
//! | module | what lives there |
//! |---|---|
//! | [`adapter`] | the two thin matrices and their forward |
//! | [`peft`] | adapter directories |
//! | [`quantization`] | [`apply_quantization`] |
//! | [`targets`] | which projections `target_modules` means |
//! | [`wrapper`] | [`apply_lora_to_model`] |

pub mod adapter;
pub mod peft;
pub mod quantization;
pub mod targets;
pub mod wrapper;

pub use adapter::LoraAdapter;
pub use peft::{PeftConfig, load_adapter, write_adapter};
pub use quantization::{QuantizationReport, apply_quantization, plan_quantization};
pub use wrapper::{AdaptedModule, LoraReport, apply_lora_to_model};

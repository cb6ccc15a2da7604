//! Adapters and 4-bit storage for any model that names its projections.
//!
//! | module | what lives there |
//! |---|---|
//! | [`adapter`] | the two thin matrices and their forward, with every variant |
//! | [`targets`], `ranks` | which modules `target_modules` means, and the rank and scale of each |
//! | `first`, `loftq`, `linalg` | first values, random or from the weight, and the decompositions they need |
//! | [`wrapper`] | [`apply_lora_to_model`] |
//! | [`peft`], [`peft_config`], `peft_names` | adapter directories: tensors, `adapter_config.json`, names that PEFT finds |
//! | [`merge`], [`set`], [`status`], [`compare`] | operations on adapters: merging, switching, tables, comparing and converting |
//! | [`quantization`] | [`apply_quantization`] |

pub mod adapter;
pub(crate) mod first;
mod linalg;
pub(crate) mod loftq;
pub mod merge;
pub(crate) mod ranks;
pub mod status;
pub mod targets;
pub mod wrapper;

pub use adapter::LoraAdapter;
pub use merge::{Deviation, MergeInto, merge_adapters, merge_and_compare, unmerge_adapters};
pub use status::{AdapterStatus, LayerStatus, layer_status, status_table};
pub use wrapper::{AdaptedModule, LoraPlan, LoraReport, apply_lora_to_model, counted};

//! Adapter directories as Hugging Face PEFT writes and reads them.
//!
//! | module | what lives there |
//! |---|---|
//! | [`peft`] | the tensors of a directory: written, read, put on a model |
//! | [`peft_config`] | `adapter_config.json` |
//! | `peft_names` | names of modules that PEFT finds |
//! | [`compare`] | comparing directories, and rewriting one as a plain LoRA adapter |
//! | [`set`] | several adapters on one base |

pub mod compare;
pub mod peft;
pub mod peft_config;
mod peft_names;
pub mod set;

pub use compare::{AdapterDifference, compare_adapters, convert_adapter};
pub use peft::{AdapterFile, load_adapter, write_adapter};
pub use peft_config::PeftConfig;
pub use set::AdapterSet;

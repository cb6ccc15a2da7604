//! Adapter directories as Hugging Face PEFT writes and reads them.
//!
//! | module | what lives there |
//! |---|---|
//! | [`peft`] | the tensors of a directory: written, read, put on a model |
//! | [`peft_config`] | `adapter_config.json` |
//! | `peft_names`, `peft_rule` | names of modules that PEFT finds, and which it would adapt |
//! | [`compare`] | comparing directories, and rewriting one as a plain LoRA adapter |
//! | `unmerge` | taking an adapter out of merged weights |
//! | `loftq` | the base that `loftq` initialized an adapter for |
//! | [`set`] | several adapters on one base |

pub mod compare;
mod loftq;
pub mod peft;
pub mod peft_config;
mod peft_names;
mod peft_rule;
mod report;
pub mod set;
mod unmerge;

pub use compare::{AdapterDifference, compare_adapters, convert_adapter};
pub use peft::{AdapterFile, load_adapter, write_adapter};
pub use peft_config::PeftConfig;
pub use report::AdapterReport;
pub use set::AdapterSet;

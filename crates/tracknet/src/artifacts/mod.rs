//! What is on disk, and how a model comes back from it.
//!
//! | module | what lives there |
//! |---|---|
//! | [`pretrained`] | model directories of Hugging Face, as floats or in 4 bits |
//! | [`adapter`] | adapter directories of PEFT |
//! | [`run`] | runs and their checkpoints |
//! | [`build`] | from a configuration to a model with the weights that it names |
//! | [`load`] | from a run to the model that it trained |

pub mod adapter;
pub mod build;
pub mod load;
pub mod pretrained;
pub mod run;

pub use build::{BuildReport, build_backbone, build_model, find_backbone};
pub use load::{AdapterChoice, LoadedModel, load_model_for_inference, load_model_with_adapter};

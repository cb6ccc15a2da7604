//! What is on disk, and how a model comes back from it.
//!
//! | module | what lives there |
//! |---|---|
//! | [`pretrained`] | model directories of Hugging Face, as floats or in 4 bits |
//! | [`adapter`] | adapter directories of PEFT |
//! | [`build`] | from a configuration to a model with the weights that it names |

pub mod adapter;
pub mod build;
pub mod pretrained;

pub use build::{BuildReport, build_backbone, build_model};

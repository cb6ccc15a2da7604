//! Adapters for any model that names its layers.
//!
//! | module | what lives there |
//! |---|---|
//! | [`layer`] | a layer with an adapter: forward, merge, unmerge, written once for linear layers and convolutions |
//! | [`adapter`], [`dora`] | the matrices and their scale, and the variant with magnitudes |
//! | [`base`] | what adapters ask of the layers that they are added to |
//! | `fused` | where kernels compute an adapted layer in fewer passes |
//! | [`visit`] | the layers of a model by name |
//! | [`targets`], `ranks` | which modules `target_modules` means, and the rank and scale of each |
//! | `init`, `loftq`, `linalg` | initial matrices, random or from the weight, and the decompositions they need |
//! | [`plan`] | [`apply_lora_to_model`] |
//! | [`merge`], [`status`] | the adapters of a whole model: merging, unmerging, a table |

pub mod adapter;
pub mod base;
pub mod dora;
mod fused;
pub(crate) mod init;
pub mod layer;
mod linalg;
pub(crate) mod loftq;
pub mod merge;
pub mod plan;
pub(crate) mod ranks;
pub mod status;
pub mod targets;
#[cfg(test)]
mod tests;
pub mod visit;

pub use adapter::LoraAdapter;
pub use base::BaseLayer;
pub use layer::{AdaptableLayer, LoraLayer, MergeInto};
pub use merge::{Deviation, merge_adapters, merge_and_compare, unmerge_adapters};
pub use plan::{AdaptedModule, LoraPlan, LoraReport, apply_lora_to_model, counted};
pub use status::{AdapterStatus, LayerStatus, layer_status, status_table};
pub use visit::VisitLayers;

//! From backbone features to heatmap resolution.

mod block;
mod norm;
mod resize;
mod stem;
mod upsampling;

pub use block::ResidualBlock;
pub use norm::NormLayer;
pub use resize::resize_bilinear;
pub use stem::Stem;
pub use upsampling::{Stage, UpsamplingDecoder, UpsamplingSpec};

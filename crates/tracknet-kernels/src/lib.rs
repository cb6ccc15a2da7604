//! Numeric kernels of tracknet on plain Burn tensors; nothing here knows of balls, models or YAML.
//!
//! * [`mod@conv3x3`]: dense 3×3 convolutions of large feature maps;
//! * [`deformable`]: attention to a few places of every level of a feature pyramid;
//! * [`depthwise`]: 3×3 convolutions with one filter for each channel, and [`depthwise_nhwc`] with kernels of any odd size on
//!   maps whose channels lie last.
//! * [`mod@gelu`]: the activation, with a vectorized error function.
//! * [`norm`]: layer and group normalization, with the activation behind them.
//! * [`resize`]: bilinear resize.
//! * [`fourbit`]: 4-bit weights (NF4 and FP4, byte-compatible with bitsandbytes) and the linear layer that multiplies
//!   with them without ever keeping a dense copy;
//! * [`attention`]: softmax attention without the score matrix, forward and backward;
//! * [`matmul`]: dense products, by a routine that is chosen for the GPU;
//! * [`adapter`], [`adamw`]: low-rank adapters and the update of their parameters, for GPUs;
//! * [`parallel`]: pieces of work side by side;
//! * [`peak`]: what the processor can reach at most, to hold the kernels against.

pub mod adamw;
pub mod adapter;
pub mod allocator;
pub mod attention;
#[cfg(feature = "flex")]
pub mod block;
#[cfg(feature = "flex")]
mod bounds;
#[cfg(feature = "flex")]
mod chunks;
pub mod conv3x3;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod deformable;
pub mod depthwise;
pub mod depthwise_nhwc;
pub mod dropout;
#[cfg(all(test, feature = "flex"))]
mod entered;
pub mod fourbit;
pub mod gelu;
#[cfg(feature = "flex")]
mod host;
pub mod matmul;
pub mod norm;
pub mod parallel;
pub mod peak;
#[cfg(feature = "flex")]
mod product;
pub mod residual;
pub mod resize;
// Without the CPU backend only the codec is left to use it.
#[cfg_attr(not(feature = "flex"), allow(dead_code, unused_imports, unused_macros))]
mod simd;

pub use conv3x3::conv3x3;
pub use depthwise::depthwise_conv3x3;
pub use depthwise_nhwc::depthwise_conv_nhwc;
pub use fourbit::{
    Absmax, ComputeDtype, Linear4bitWeight, PackedWeight, QuantType, QuantizationError, QuantizeError, QuantizeOptions,
    linear_4bit,
};
pub use gelu::gelu;
pub use norm::{FusedActivation, NormSpec, batch_norm, group_norm, layer_norm};
pub use resize::resize_bilinear;

/// The device for values that come from files and go into files: the CPU where it is compiled in. Burn's default is whatever a build
/// prefers, and one of its GPUs would round.
pub fn host_device() -> burn::tensor::Device {
    #[cfg(feature = "flex")]
    return burn::tensor::Device::flex();
    #[cfg(not(feature = "flex"))]
    burn::tensor::Device::default()
}

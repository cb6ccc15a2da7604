//! Layers with PyTorch's parameter names and shapes, so that files need no translation.
//!
//! Parameters are 32-bit floats. A layer computes in the dtype of its input and rounds its parameters to it, so that a model
//! given half-precision frames computes in half precision and its gradients arrive in full. Layers know nothing of adapters:
//! [`LoraLayer`](super::lora::LoraLayer) wraps them.

pub mod activation;
pub mod conv;
pub mod dropout;
pub mod init;
pub mod linear;
pub mod norm;

pub use activation::Activation;
pub use conv::{Conv2d, ConvSpec};
pub use dropout::Dropout;
pub use init::{Builder, Fill, RandomSource, Source};
pub use linear::{Linear, LinearWeight};
pub use norm::{ConvNorm, GroupNorm, LayerNorm};

use burn::tensor::Tensor;

/// `parameter` rounded to the dtype of the activations `x`.
pub(crate) fn cast_to_dtype_of<const D: usize, const E: usize>(parameter: Tensor<D>, x: &Tensor<E>) -> Tensor<D> {
    if parameter.dtype() == x.dtype() { parameter } else { parameter.cast(x.dtype()) }
}

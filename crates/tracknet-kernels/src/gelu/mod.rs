//! GELU with the exact error function: `x · Φ(x)` with Φ the normal distribution (Hendrycks and Gimpel 2016,
//! <https://arxiv.org/abs/1606.08415>).

mod backward;
#[cfg(feature = "cube")]
pub(crate) mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
pub(crate) mod kernel;
mod ops;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::GeluOps;

/// GELU, element by element; backward computes Φ again from `x`.
///
/// The CPU kernel's Φ is within 3e-7 of the exact one.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::exact_gelu(x.into_dispatch()))
}

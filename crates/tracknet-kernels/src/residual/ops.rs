//! The operations a backend provides for residual connections.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;

/// Residual connections on a backend; shapes as for [`super::add_scaled`]. The default bodies compose ordinary tensor
/// operations; a backend with an own kernel overrides them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait ResidualOps: Backend {
    /// `x + scale ∘ branch`.
    fn add_scaled(x: FloatTensor<Self>, branch: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::add_scaled::<Self>(x, branch, scale)
    }

    /// `scale ∘ gradient`: the gradient of the branch.
    fn times_scale(gradient: FloatTensor<Self>, scale: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::times_scale::<Self>(gradient, scale)
    }
}

#[cfg(feature = "flex")]
impl ResidualOps for burn::backend::Flex {}

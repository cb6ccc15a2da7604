//! The operations a backend provides for resizing.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;

/// Bilinear resize on a backend. The default bodies compose ordinary tensor operations; a backend with an own kernel
/// overrides them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait ResizeOps: Backend {
    /// `[batch, channels, height, width]` to `size`.
    fn bilinear(x: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self> {
        reference::resize::<Self>(x, size)
    }

    /// The gradient of an input of `size`.
    fn bilinear_gradient(gradient: FloatTensor<Self>, size: [usize; 2]) -> FloatTensor<Self> {
        reference::gradient::<Self>(gradient, size)
    }
}

//! The operations a backend provides for GELU.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

/// GELU on a backend; all tensors have one shape. The default bodies are Burn's own operations.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait GeluOps: Backend {
    /// `x · Φ(x)`.
    fn exact_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu(x)
    }

    /// The gradient of `x`: `gradient · (Φ(x) + x · φ(x))`.
    fn exact_gelu_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::gelu_backward(x, gradient)
    }
}

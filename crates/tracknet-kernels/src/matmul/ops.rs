//! The operations a backend provides for products.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;

/// Products of `[batch, m, k]`, or `[1, m, k]` for all, and `[batch, k, n]`. The default bodies are Burn's; a backend with
/// routines of its own choice overrides them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait MatmulOps: Backend {
    /// `[batch, m, n]`.
    fn matrix_products(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::float_matmul(lhs, rhs)
    }

    /// The sum of the products of all matrices, `[1, m, n]`.
    fn summed_matrix_products(lhs: FloatTensor<Self>, rhs: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::summed::<Self>(lhs, rhs)
    }
}

#[cfg(feature = "flex")]
impl MatmulOps for burn::backend::Flex {}

//! The operations a backend provides for adapters.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;
use crate::dropout::KeepMask;

/// What an adapter does beside its matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdapterSpec {
    /// The factor in front of its products.
    pub scale: f32,
    /// Dropout of its input.
    pub dropout: Option<KeepMask>,
    /// Whether a bias is added; if not, any tensor may stand in its place.
    pub bias: bool,
}

/// Adapters on a backend. `y`, `x` and their gradients have one dtype; `a` `[rank, in]`, `b` `[out, rank]`, `bias` `[out]`
/// and their gradients are f32. The default bodies compose ordinary tensor operations; a backend with own kernels overrides
/// them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait AdapterOps: Backend {
    /// Each value times the gain of the mask, or 0.
    fn dropout(x: FloatTensor<Self>, mask: KeepMask) -> FloatTensor<Self> {
        reference::mask_values::<Self>(x, mask)
    }

    /// The sum, `[rows, out]`, and what backward wants to know again: the thin product, `[rows, rank]`, and the factors that
    /// it and the second product had, `a` and `scale · b` in the dtype of `x`.
    fn add_adapter(
        y: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        spec: AdapterSpec,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::add_adapter::<Self>(y, x, [a, b], bias, spec)
    }

    /// The gradients of `x`, `a` and `b`, from that of the sum and the factors of the products.
    fn adapter_gradients(
        gradient: FloatTensor<Self>,
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        scaled_b: FloatTensor<Self>,
        thin: FloatTensor<Self>,
        spec: AdapterSpec,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        reference::gradients::<Self>(gradient, x, [a, scaled_b], thin, spec)
    }
}

#[cfg(feature = "flex")]
impl AdapterOps for burn::backend::Flex {}

//! The operations a backend provides for dense 3×3 convolutions.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;

/// Dense 3×3 convolution, stride 1, padding 1, on a backend.
///
/// `x` and its gradient are `[batch, in, height, width]`, the gradient of the output is `[batch, out, height, width]`, `weight`
/// and its gradient `[out, in, 3, 3]`. The default bodies compose ordinary tensor operations; a backend with an own kernel
/// overrides them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait Conv3x3Ops: Backend {
    /// The convolution.
    fn conv3x3(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::forward::<Self>(x, weight)
    }

    /// The gradient of `x`: the convolution of the output's gradient with taps reversed, and inputs and outputs exchanged.
    fn conv3x3_input_gradient(gradient: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::conv3x3(gradient, Self::float_swap_dims(Self::float_flip(weight, &[2, 3]), 0, 1))
    }

    /// The gradient of `weight`.
    fn conv3x3_weight_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        reference::weight_gradient::<Self>(x, weight, gradient)
    }
}

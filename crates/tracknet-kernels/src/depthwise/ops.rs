//! The operations a backend provides for depthwise convolutions.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;

/// Depthwise 3×3 convolution, stride 1, padding 1, on a backend.
///
/// `x` and the gradients of `x` and of the output are `[batch, channels, height, width]`, `weight` and its gradient
/// `[channels, 1, 3, 3]`. The default bodies compose ordinary tensor operations; a backend with an own kernel overrides
/// them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait DepthwiseOps: Backend {
    /// The convolution.
    fn depthwise_conv3x3(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::forward::<Self>(x, weight)
    }

    /// The gradient of `x`: the same convolution of the output's gradient with the taps reversed.
    fn depthwise_conv3x3_input_gradient(gradient: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        Self::depthwise_conv3x3(gradient, Self::float_flip(weight, &[2, 3]))
    }

    /// The gradient of `weight`.
    fn depthwise_conv3x3_weight_gradient(x: FloatTensor<Self>, gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        reference::weight_gradient::<Self>(x, gradient)
    }
}

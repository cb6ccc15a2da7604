//! The operations a backend provides for depthwise convolutions with channels last.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata, backend_extension};
use burn::tensor::Shape;

use super::reference;

/// Depthwise convolution of cells as rows on a backend: stride 1, padded by half of an odd kernel.
///
/// `x`, the output and their gradients are `[batch, rows · columns, channels]`, `grid` is rows and columns, `weight` and its
/// gradient `[channels, 1, kernel, kernel]`, `bias` `[channels]`. The default bodies compose ordinary tensor operations; a
/// backend with an own kernel overrides them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait DepthwiseNhwcOps: Backend {
    /// The convolution.
    fn depthwise_conv_nhwc(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        grid: [usize; 2],
    ) -> FloatTensor<Self> {
        reference::forward::<Self>(x, weight, bias, grid)
    }

    /// The gradient of `x`: the same convolution of the output's gradient with the taps reversed.
    fn depthwise_conv_nhwc_input_gradient(
        gradient: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        grid: [usize; 2],
    ) -> FloatTensor<Self> {
        let channels = Shape::from([weight.shape()[0]]);
        let none = Self::float_zeros(channels, &weight.device(), weight.dtype().into());
        Self::depthwise_conv_nhwc(gradient, Self::float_flip(weight, &[2, 3]), none, grid)
    }

    /// The gradient of `weight`, of which only the shape counts.
    fn depthwise_conv_nhwc_weight_gradient(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        grid: [usize; 2],
    ) -> FloatTensor<Self> {
        reference::weight_gradient::<Self>(x, weight, gradient, grid)
    }
}

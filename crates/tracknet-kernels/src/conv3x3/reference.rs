//! The operations written with the backend's own convolution: what every backend without an own kernel runs, and the oracle
//! that kernels are tested against.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::ops::ConvOptions;

fn options() -> ConvOptions<2> {
    ConvOptions::new([1; 2], [1; 2], [1; 2], 1)
}

/// The convolution.
pub(super) fn forward<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::conv2d(x, weight, None, options())
}

/// The gradient of the weight; of `weight` only the shape counts.
pub(super) fn weight_gradient<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
) -> FloatTensor<B> {
    B::conv2d_weight_backward(x, weight, gradient, options())
}

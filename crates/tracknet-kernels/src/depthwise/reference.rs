//! The operations written with ordinary tensor operations: what every backend without an own kernel runs, and the oracle
//! that kernels are tested against.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::ops::{ConvOptions, PadMode};
use burn::tensor::{Shape, Slice};

/// The backend's own convolution with one group for each channel.
pub(super) fn forward<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    let channels = x.shape()[1];
    B::conv2d(x, weight, None, ConvOptions::new([1; 2], [1; 2], [1; 2], channels))
}

/// Tap `(i, j)` met the input shifted by it, so its gradient is the sum of that input times the output's gradient: nine
/// products and sums over whole feature maps, whatever the number of channels.
pub(super) fn weight_gradient<B: Backend>(x: FloatTensor<B>, gradient: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, channels, height, width] = x.shape().dims();
    let padded = B::float_pad(x, &[(0, 0), (0, 0), (1, 1), (1, 1)], PadMode::Constant(0.0));
    let taps = (0..9)
        .map(|tap| {
            let (row, col) = (tap / 3, tap % 3);
            let window = [0..batch, 0..channels, row..row + height, col..col + width];
            let shifted = B::float_slice(padded.clone(), &window.map(Slice::from));
            let products = B::float_mul(shifted, gradient.clone());
            let sums = B::float_sum_dim(B::float_reshape(products, Shape::from([batch, channels, height * width])), 2);
            B::float_reshape(B::float_sum_dim(sums, 0), Shape::from([channels, 1]))
        })
        .collect();
    B::float_reshape(B::float_cat(taps, 1), Shape::from([channels, 1, 3, 3]))
}

//! The operations written with the backend's own convolution, on maps: what every backend without an own kernel runs, and the
//! oracle that kernels are tested against.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Shape;
use burn::tensor::ops::ConvOptions;

/// The convolution.
pub(super) fn forward<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    grid: [usize; 2],
) -> FloatTensor<B> {
    let shape = x.shape();
    let options = options(&weight.shape());
    let y = B::conv2d(to_map::<B>(x, grid), weight, Some(bias), options);
    let [batch, cells, channels] = shape.dims();
    B::float_swap_dims(B::float_reshape(y, Shape::from([batch, channels, cells])), 1, 2)
}

/// The gradient of the weight; of `weight` only the shape counts.
pub(super) fn weight_gradient<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    gradient: FloatTensor<B>,
    grid: [usize; 2],
) -> FloatTensor<B> {
    let options = options(&weight.shape());
    B::conv2d_weight_backward(to_map::<B>(x, grid), weight, to_map::<B>(gradient, grid), options)
}

/// The gradient of the bias `[channels]`: the sum over all cells.
pub(super) fn bias_gradient<B: Backend>(gradient: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, cells, channels] = gradient.shape().dims();
    let rows = B::float_reshape(gradient, Shape::from([batch * cells, channels]));
    B::float_reshape(B::float_sum_dim(rows, 0), Shape::from([channels]))
}

/// One group for each channel, padded to keep the size.
fn options(weight: &Shape) -> ConvOptions<2> {
    ConvOptions::new([1; 2], [weight[3] / 2; 2], [1; 2], weight[0])
}

/// `[batch, rows · columns, channels]` → `[batch, channels, rows, columns]`.
fn to_map<B: Backend>(x: FloatTensor<B>, [rows, columns]: [usize; 2]) -> FloatTensor<B> {
    let [batch, _, channels] = x.shape().dims();
    B::float_reshape(B::float_swap_dims(x, 1, 2), Shape::from([batch, channels, rows, columns]))
}

//! The operations written with ordinary tensor operations: what every backend without an own kernel runs, and the oracle
//! that kernels are tested against.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Shape};

pub(super) fn add_scaled<B: Backend>(
    x: FloatTensor<B>,
    branch: FloatTensor<B>,
    scale: FloatTensor<B>,
) -> FloatTensor<B> {
    B::float_add(x, times_scale::<B>(branch, scale))
}

pub(super) fn times_scale<B: Backend>(x: FloatTensor<B>, scale: FloatTensor<B>) -> FloatTensor<B> {
    let channels = scale.shape()[0];
    let scale = B::float_cast(scale, FloatDType::from(x.dtype()));
    B::float_mul(x, B::float_reshape(scale, Shape::from([1, 1, channels])))
}

/// The sum over all tokens of `gradient ∘ branch`, `[channels]`, f32.
pub(super) fn of_scale<B: Backend>(gradient: FloatTensor<B>, branch: FloatTensor<B>) -> FloatTensor<B> {
    let [batch, tokens, channels] = gradient.shape().dims();
    let [gradient, branch] = [gradient, branch].map(|x| B::float_cast(x, FloatDType::F32));
    let products = B::float_reshape(B::float_mul(gradient, branch), Shape::from([batch * tokens, channels]));
    B::float_reshape(B::float_sum_dim(products, 0), Shape::from([channels]))
}

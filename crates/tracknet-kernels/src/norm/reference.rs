//! The operations written with ordinary tensor operations: what every backend without an own kernel runs, and the oracle
//! that kernels are tested against.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{Scalar, Shape, Slice};

use super::ops::{FusedActivation, NormSpec};

pub(super) fn normalize<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    spec: NormSpec,
) -> (FloatTensor<B>, FloatTensor<B>) {
    let [batch, channels, space] = x.shape().dims();
    let rows = batch * spec.groups;
    let grouped = B::float_reshape(x, Shape::from([rows, channels * space / spec.groups]));
    let mean = B::float_mean_dim(grouped.clone(), 1);
    let centred = B::float_sub(grouped, mean.clone());
    let variance = B::float_mean_dim(B::float_mul(centred.clone(), centred.clone()), 1);
    let inverse = B::float_recip(B::float_sqrt(B::float_add_scalar(variance, Scalar::from(spec.epsilon))));
    let normal = B::float_reshape(B::float_mul(centred, inverse.clone()), Shape::from([batch, channels, space]));
    let y = affine::<B>(normal, weight, bias);
    let y = match spec.activation {
        FusedActivation::None => y,
        FusedActivation::Gelu => B::gelu(y),
        FusedActivation::Relu => B::relu(y),
    };
    (y, B::float_cat(vec![mean, inverse], 1))
}

/// With `n` the normalized values, `z = n w + b`, `y = f(z)` and `g` the gradient of `z`: the gradient of `b` is the sum
/// of `g` over all of a channel, that of `w` the sum of `g n`, and that of `x` is
/// `(g w − mean(g w) − n · mean(g w n)) / deviation` with means over the group.
pub(super) fn gradients<B: Backend>(
    [x, weight, bias, statistics, gradient]: [FloatTensor<B>; 5],
    spec: NormSpec,
    parameters: bool,
) -> (FloatTensor<B>, Option<FloatTensor<B>>, Option<FloatTensor<B>>) {
    let [batch, channels, space] = x.shape().dims();
    let rows = batch * spec.groups;
    let grouped = Shape::from([rows, channels * space / spec.groups]);
    let mapped = Shape::from([batch, channels, space]);
    let column = |at: usize| B::float_slice(statistics.clone(), &[0..rows, at..at + 1].map(Slice::from));
    let (mean, inverse) = (column(0), column(1));
    let normal = B::float_mul(B::float_sub(B::float_reshape(x, grouped.clone()), mean), inverse.clone());

    let wide = B::float_reshape(normal.clone(), mapped.clone());
    let gradient = match spec.activation {
        FusedActivation::None => gradient,
        FusedActivation::Gelu => B::gelu_backward(affine::<B>(wide.clone(), weight.clone(), bias), gradient),
        FusedActivation::Relu => B::relu_backward(B::relu(affine::<B>(wide.clone(), weight.clone(), bias)), gradient),
    };
    let per_channel = |products| {
        let over_space = B::float_reshape(B::float_sum_dim(products, 2), Shape::from([batch, channels]));
        B::float_reshape(B::float_sum_dim(over_space, 0), Shape::from([channels]))
    };
    let of_weight = parameters.then(|| per_channel(B::float_mul(gradient.clone(), wide)));
    let of_bias = parameters.then(|| per_channel(gradient.clone()));

    let scaled = B::float_mul(gradient, B::float_reshape(weight, Shape::from([1, channels, 1])));
    let scaled = B::float_reshape(scaled, grouped);
    let first = B::float_mean_dim(scaled.clone(), 1);
    let second = B::float_mean_dim(B::float_mul(scaled.clone(), normal.clone()), 1);
    let of_x = B::float_sub(B::float_sub(scaled, first), B::float_mul(normal, second));
    (B::float_reshape(B::float_mul(of_x, inverse), mapped), of_weight, of_bias)
}

fn affine<B: Backend>(normal: FloatTensor<B>, weight: FloatTensor<B>, bias: FloatTensor<B>) -> FloatTensor<B> {
    let channels = Shape::from([1, normal.shape()[1], 1]);
    B::float_add(B::float_mul(normal, B::float_reshape(weight, channels.clone())), B::float_reshape(bias, channels))
}

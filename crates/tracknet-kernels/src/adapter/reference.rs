//! The operations written with ordinary tensor operations: what every backend without own kernels runs, and the oracle
//! that kernels are tested against.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{FloatDType, Scalar, Shape, TensorData};

use super::ops::{AdapterOps, AdapterSpec};
use crate::dropout::KeepMask;

pub(super) fn mask_values<B: Backend>(x: FloatTensor<B>, mask: KeepMask) -> FloatTensor<B> {
    let shape = x.shape();
    let factors = TensorData::new(mask.factors(shape.num_elements()), shape);
    let factors = B::float_from_data(factors, &x.device());
    let factors = B::float_cast(factors, FloatDType::from(x.dtype()));
    B::float_mul(x, factors)
}

pub(super) fn add_adapter<B: AdapterOps>(
    y: FloatTensor<B>,
    x: FloatTensor<B>,
    [a, b]: [FloatTensor<B>; 2],
    bias: FloatTensor<B>,
    spec: AdapterSpec,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let dtype = FloatDType::from(x.dtype());
    let a = B::float_cast(a, dtype);
    let thin = B::float_matmul(dropout::<B>(x, spec), B::float_transpose(a.clone()));
    let b = B::float_cast(B::float_mul_scalar(b, Scalar::from(spec.scale)), dtype);
    let sum = B::float_add(y, B::float_matmul(thin.clone(), B::float_transpose(b.clone())));
    if !spec.bias {
        return (sum, thin, a, b);
    }
    let width = bias.shape()[0];
    let bias = B::float_reshape(B::float_cast(bias, FloatDType::from(sum.dtype())), Shape::from([1, width]));
    (B::float_add(sum, bias), thin, a, b)
}

/// With `g` the gradient of the sum, `d` the dropped input and `t = d·Aᵀ`: the gradient of `B` is `s·gᵀ·t`, that of `t`
/// is `s·g·B`, from which `A` gets its product with `d` and the input what goes back through `A` and the dropout.
pub(super) fn gradients<B: AdapterOps>(
    gradient: FloatTensor<B>,
    x: FloatTensor<B>,
    [a, scaled_b]: [FloatTensor<B>; 2],
    thin: FloatTensor<B>,
    spec: AdapterSpec,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let scale = Scalar::from(spec.scale);
    let of_b = B::float_matmul(B::float_transpose(gradient.clone()), thin);
    let of_b = B::float_mul_scalar(B::float_cast(of_b, FloatDType::F32), scale);
    let of_thin = B::float_matmul(gradient, scaled_b);
    let of_a = B::float_matmul(B::float_transpose(of_thin.clone()), dropout::<B>(x, spec));
    let of_x = dropout::<B>(B::float_matmul(of_thin, a), spec);
    (of_x, B::float_cast(of_a, FloatDType::F32), of_b)
}

fn dropout<B: AdapterOps>(x: FloatTensor<B>, spec: AdapterSpec) -> FloatTensor<B> {
    match spec.dropout {
        Some(mask) => B::dropout(x, mask),
        None => x,
    }
}

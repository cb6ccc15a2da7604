//! The operations written with ordinary tensor operations: what every backend without an own kernel runs, and the oracle
//! that kernels are tested against.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{FloatDType, Shape, TensorData};

use super::axis::Axis;

/// The backend's own interpolation, which all of them have in this direction.
pub(super) fn resize<B: Backend>(x: FloatTensor<B>, size: [usize; 2]) -> FloatTensor<B> {
    B::interpolate(x, size, InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false))
}

/// Two products with the matrices of the axes: GPU backends have no gradient of their interpolation.
pub(super) fn gradient<B: Backend>(gradient: FloatTensor<B>, [height, width]: [usize; 2]) -> FloatTensor<B> {
    let [batch, channels, out_height, out_width] = gradient.shape().dims();
    let (device, dtype) = (gradient.device(), FloatDType::from(gradient.dtype()));
    let matrix = |axis: Axis, shape: [usize; 2]| {
        B::float_cast(B::float_from_data(TensorData::new(axis.matrix(), shape), &device), dtype)
    };
    let horizontal = B::float_transpose(matrix(Axis::new(width, out_width), [width, out_width]));
    let vertical = matrix(Axis::new(height, out_height), [height, out_height]);
    let rows = B::float_reshape(gradient, Shape::from([batch * channels * out_height, out_width]));
    let rows = B::float_reshape(B::float_matmul(rows, horizontal), Shape::from([batch * channels, out_height, width]));
    let maps = B::float_matmul(B::float_reshape(vertical, Shape::from([1, height, out_height])), rows);
    B::float_reshape(maps, Shape::from([batch, channels, height, width]))
}

//! The linear layer.

use burn::tensor::Tensor;

use super::Linear4bitWeight;

/// `y = x · Wᵀ + b` with a 4-bit weight.
///
/// * `x`: `[.., in_features]`, any float dtype; a contiguous one is not copied.
/// * `bias`: `[out_features]`, dtype of `x`.
/// * returns `[.., out_features]`, dtype of `x`.
///
/// The weights are rounded to the compute dtype, the activations are not; products accumulate in f32. Gradients reach `x`
/// and `bias`, never the weight; backward reads the packed weight again and keeps no dense copy.
///
/// # Panics
/// If the last dimension of `x` is not `in_features` or `bias` is not `[out_features]`, like every Burn operation.
pub fn linear_4bit<const D: usize>(x: Tensor<D>, weight: &Linear4bitWeight, bias: Option<Tensor<1>>) -> Tensor<D> {
    let [out_features, in_features] = weight.shape();
    let mut shape = x.dims();
    let found = shape.last().copied();
    assert!(found == Some(in_features), "linear_4bit: x is {shape:?}, the weight [{out_features}, {in_features}]");
    if let Some(bias) = &bias {
        assert!(bias.dims() == [out_features], "linear_4bit: bias is {:?}, expected [{out_features}]", bias.dims());
    }

    let rows = shape[..D - 1].iter().product();
    let mut y = weight.multiply(x.reshape::<2, _>([rows, in_features]));
    if let Some(bias) = bias {
        y = y + bias.reshape([1, out_features]);
    }
    shape[D - 1] = out_features;
    y.reshape(shape)
}

//! The linear layer.

use burn::tensor::Tensor;

use super::Linear4bitWeight;

/// `y = x · Wᵀ + b` with a 4-bit weight.
///
/// * `x`: `[.., in_features]`, any float dtype; a contiguous one is not copied.
/// * `bias`: `[out_features]`, any float dtype.
/// * returns `[.., out_features]`, dtype of `x`.
///
/// With compute dtype bfloat16 both factors are rounded to it (to nearest, once for each product), which is what
/// processors multiply fastest and what bitsandbytes does too; so are the incoming gradients on the way back. A value
/// beyond its range becomes infinite, as it does in every cast. With float16 and float32 only the weights are rounded.
/// Products and the bias accumulate in f32, whatever the compute dtype. Gradients reach `x` and `bias`, never the
/// weight; backward reads the packed weight again and keeps no dense copy.
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
    let y = weight.multiply(x.reshape::<2, _>([rows, in_features]), bias);
    shape[D - 1] = out_features;
    y.reshape(shape)
}

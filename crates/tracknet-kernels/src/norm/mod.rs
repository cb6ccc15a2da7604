//! Layer and group normalization, and the activation behind it, in one pass over the data.
//!
//! Both are one operation. Channels of a sample are cut in groups; the values of a group are shifted and scaled to mean
//! 0 and variance 1, then each channel gets its own scale and offset. Group normalization (Wu and He 2018,
//! <https://arxiv.org/abs/1803.08494>) does this to the channels of a feature map; layer normalization (Ba et al. 2016,
//! <https://arxiv.org/abs/1607.06450>) is the case of one group and no space.
//!
//! Between forward and backward the graph keeps the input and two numbers a group, and nothing that was computed from
//! them: backward normalizes again.

mod backward;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
pub(crate) mod kernel;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::{FusedActivation, NormOps, NormSpec};

/// Normalization over the last dimension.
///
/// * `x`: `[.., channels]`
/// * `weight`, `bias`: `[channels]`
/// * `epsilon`: added to the variance
/// * returns the shape of `x`.
///
/// # Panics
/// If `weight` or `bias` is not `[channels]`, like every Burn operation.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<D> {
    let shape = x.dims();
    let channels = shape[D - 1];
    let rows = shape[..D - 1].iter().product();
    let spec = NormSpec { groups: 1, epsilon: epsilon as f32, activation: FusedActivation::None };
    normalize(x.reshape([rows, channels, 1]), weight, bias, spec).reshape(shape)
}

/// Normalization of groups of channels, each over its channels and the whole frame, and an activation.
///
/// * `x`: `[batch, channels, height, width]`
/// * `weight`, `bias`: `[channels]`
/// * returns the shape of `x`.
///
/// # Panics
/// If `weight` or `bias` is not `[channels]` or the groups do not divide the channels, like every Burn operation.
pub fn group_norm(x: Tensor<4>, weight: Tensor<1>, bias: Tensor<1>, spec: NormSpec) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    normalize(x.reshape([batch, channels, height * width]), weight, bias, spec)
        .reshape([batch, channels, height, width])
}

/// Normalization of each channel over the batch and the whole frame (Ioffe and Szegedy 2015,
/// <https://arxiv.org/abs/1502.03167>), and an activation, as training does it.
///
/// * `x`: `[batch, channels, height, width]`
/// * `weight`, `bias`: `[channels]`
/// * returns the shape of `x`, and each channel's mean and (biased) variance, `[channels]`, through which nothing is trained.
///
/// # Panics
/// If `weight` or `bias` is not `[channels]`, like every Burn operation.
pub fn batch_norm(
    x: Tensor<4>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    epsilon: f64,
    activation: FusedActivation,
) -> (Tensor<4>, [Tensor<1>; 2]) {
    let [batch, channels, height, width] = x.dims();
    // The maps of a channel in all frames, one behind the other, are a group of their own.
    let maps = x.swap_dims(0, 1).reshape([1, channels, batch * height * width]);
    let spec = NormSpec { groups: channels, epsilon: epsilon as f32, activation };
    let (y, statistics) = normalize_with_statistics(maps, weight, bias, spec);
    let statistic = |at: usize| statistics.clone().slice([0..channels, at..at + 1]).reshape([channels]);
    let (mean, inverse) = (statistic(0), statistic(1));
    let variance = inverse.square().recip().sub_scalar(epsilon);
    (y.reshape([channels, batch, height, width]).swap_dims(0, 1), [mean, variance])
}

fn normalize(x: Tensor<3>, weight: Tensor<1>, bias: Tensor<1>, spec: NormSpec) -> Tensor<3> {
    normalize_with_statistics(x, weight, bias, spec).0
}

/// The normalized values, and mean and reciprocal deviation of each group, `[batch · groups, 2]`.
fn normalize_with_statistics(
    x: Tensor<3>,
    weight: Tensor<1>,
    bias: Tensor<1>,
    spec: NormSpec,
) -> (Tensor<3>, Tensor<2>) {
    let channels = x.dims()[1];
    let found = [weight.dims(), bias.dims()];
    assert!(found == [[channels]; 2], "normalization of {channels} channels: weight and bias are {found:?}");
    let groups = spec.groups;
    assert!(groups > 0 && channels.is_multiple_of(groups), "{channels} channels cannot be cut in {groups} groups");
    let (y, statistics) = Dispatch::normalize(x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch(), spec);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(statistics))
}

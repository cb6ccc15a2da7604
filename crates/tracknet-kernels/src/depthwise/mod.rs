//! Depthwise 3×3 convolutions: stride 1, padding 1, no bias, one filter for each channel.
//!
//! They are most of the decoder's feature maps and none of its arithmetic, and general convolution code serves them
//! badly: the stock weight gradient is a convolution with a kernel as large as the feature map, channel after channel,
//! and the stock input gradient is a transposed convolution. Both are nine shifted products here.

mod backward;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::DepthwiseOps;

/// Convolves each channel with its own 3×3 filter; one pixel of zeros around the input, stride 1.
///
/// * `x`: `[batch, channels, height, width]`
/// * `weight`: `[channels, 1, 3, 3]`
/// * returns `[batch, channels, height, width]`.
///
/// # Panics
/// If `weight` is not `[channels, 1, 3, 3]`, like every Burn operation.
pub fn depthwise_conv3x3(x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let channels = x.dims()[1];
    let found = weight.dims();
    assert!(found == [channels, 1, 3, 3], "depthwise_conv3x3: weight is {found:?}, expected [{channels}, 1, 3, 3]");
    Tensor::from_dispatch(Dispatch::depthwise_conv3x3(x.into_dispatch(), weight.into_dispatch()))
}

//! Dense 3×3 convolutions: stride 1, padding 1, no bias, every output channel sees every input channel.
//!
//! What finds small things does so in such convolutions over large feature maps with few channels. General convolution code
//! copies each map nine times into the columns of a matrix product that is too thin to be fast; here the rows of the input are
//! read where they are, and sums stay in registers from the first tap of the first channel to the last.

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

pub use ops::Conv3x3Ops;

/// Convolves with 3×3 filters over all channels; one pixel of zeros around the input, stride 1.
///
/// * `x`: `[batch, in, height, width]`
/// * `weight`: `[out, in, 3, 3]`
/// * returns `[batch, out, height, width]`.
///
/// # Panics
/// If `weight` is not `[out, in, 3, 3]`, like every Burn operation.
pub fn conv3x3(x: Tensor<4>, weight: Tensor<4>) -> Tensor<4> {
    let (input, found) = (x.dims()[1], weight.dims());
    assert!(found[1..] == [input, 3, 3], "conv3x3: weight is {found:?}, expected [out, {input}, 3, 3]");
    Tensor::from_dispatch(Dispatch::conv3x3(x.into_dispatch(), weight.into_dispatch()))
}

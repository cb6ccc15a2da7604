//! Depthwise convolutions of feature maps whose channels lie last: stride 1, one filter for each channel, odd kernels.
//!
//! What works on the cells of a map between its convolutions, as ConvNeXt does (Liu et al. 2022,
//! <https://arxiv.org/abs/2201.03545>), keeps them as rows of channels. General convolution code wants maps, so each layer
//! would turn its cells into a map and back. Here channels fill the registers, and the rows are read where they are.

mod backward;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::DepthwiseNhwcOps;

#[cfg(feature = "cube")]
impl DepthwiseNhwcOps for burn_cubecl::CubeBackend {}

/// Convolves each channel with its own filter and adds its bias; zeros around the input, stride 1.
///
/// * `x`: `[batch, rows · columns, channels]`
/// * `grid`: rows and columns
/// * `weight`: `[channels, 1, kernel, kernel]`, an odd number of taps
/// * `bias`: `[channels]`
/// * returns `[batch, rows · columns, channels]`.
///
/// # Panics
/// If the grid, the weight or the bias does not fit `x`, like every Burn operation.
pub fn depthwise_conv_nhwc(x: Tensor<3>, grid: [usize; 2], weight: Tensor<4>, bias: Tensor<1>) -> Tensor<3> {
    let [_, cells, channels] = x.dims();
    let (found, of_bias) = (weight.dims(), bias.dims());
    let kernel = found[3];
    let fits = kernel % 2 == 1 && found == [channels, 1, kernel, kernel] && of_bias == [channels];
    assert!(
        fits,
        "depthwise_conv_nhwc: weight {found:?} and bias {of_bias:?}, expected [{channels}, 1, k, k] with an odd k and \
         [{channels}]"
    );
    assert!(grid[0] * grid[1] == cells, "depthwise_conv_nhwc: {cells} cells in a grid {grid:?}");
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::depthwise_conv_nhwc(x, weight, bias, grid))
}

//! Bilinear resize of feature maps, with half-pixel centres (`align_corners = false`).
//!
//! The operation is linear, so backward needs no tensor of the forward pass: its gradient is the transposed resize.

mod axis;
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

pub use ops::ResizeOps;

/// Resizes `[batch, channels, height, width]` to `size`, `[height, width]`.
///
/// Sample `i` of an axis lies at `(i + ½) · from / to − ½` of the input, between its two neighbours; beyond the edge the
/// edge is repeated.
///
/// # Panics
/// If a size is zero, like every Burn operation.
pub fn resize_bilinear(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    assert!(![height, width, size[0], size[1]].contains(&0), "resize from [{height}, {width}] to {size:?}");
    Tensor::from_dispatch(Dispatch::bilinear(x.into_dispatch(), size))
}

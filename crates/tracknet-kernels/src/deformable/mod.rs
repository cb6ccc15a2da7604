//! Multi-scale deformable attention (Zhu et al. 2021, <https://arxiv.org/abs/2010.04159>): a query looks at a few places of
//! every level of a feature pyramid instead of at every cell.
//!
//! A place is a point between cells; its features are those of the four cells around it, weighted bilinearly as PyTorch's
//! `grid_sample` does with `align_corners=False` and zeros beyond the edge. Between forward and backward the graph keeps
//! the inputs and nothing else: backward looks up the cells again.

mod backward;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod kernel;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::{DeformableOps, Pyramid};

#[cfg(feature = "cube")]
impl DeformableOps for burn_cubecl::CubeBackend {}

/// For each query and head the weighted sum of the features at its places.
///
/// * `value`: `[batch, cells, heads, features]`, the cells of all levels one level after the other, row by row
/// * `locations`: `[batch, queries, heads, levels · points, 2]`, x and y with 0 and 1 at the edges of the level
/// * `weights`: `[batch, queries, heads, levels · points]`
/// * returns `[batch, queries, heads · features]`.
///
/// Gradients reach all three.
///
/// # Panics
/// If the shapes do not fit each other, like every Burn operation.
pub fn deformable_attention(value: Tensor<4>, locations: Tensor<5>, weights: Tensor<4>, pyramid: Pyramid) -> Tensor<3> {
    let [batch, cells, heads, _] = value.dims();
    let queries = weights.dims()[1];
    let places = pyramid.places();
    assert!(cells == pyramid.cells(), "deformable_attention: {cells} cells for the levels {:?}", pyramid.levels);
    let (found, expected) = (weights.dims(), [batch, queries, heads, places]);
    assert!(found == expected, "deformable_attention: weights are {found:?}, expected {expected:?}");
    let (found, expected) = (locations.dims(), [batch, queries, heads, places, 2]);
    assert!(found == expected, "deformable_attention: locations are {found:?}, expected {expected:?}");
    let [value, weights] = [value, weights].map(Tensor::into_dispatch);
    Tensor::from_dispatch(Dispatch::deformable_attention(value, locations.into_dispatch(), weights, pyramid))
}

//! The sum of a residual connection, with the layer scale of its branch (Touvron et al. 2021,
//! <https://arxiv.org/abs/2103.17239>), in one pass. The graph keeps the scale; the branch only if the scale trains.

mod backward;
#[cfg(feature = "cube")]
mod cube;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::ResidualOps;

/// `x + scale ∘ branch`.
///
/// * `x`, `branch`: `[batch, tokens, channels]`, one dtype; `scale`: `[channels]`, f32.
/// * returns the shape and dtype of `x`.
///
/// # Panics
/// If the shapes do not fit each other, like every Burn operation.
pub fn add_scaled(x: Tensor<3>, branch: Tensor<3>, scale: Tensor<1>) -> Tensor<3> {
    let [_, _, channels] = x.dims();
    let found = (branch.dims(), scale.dims());
    assert!(found == (x.dims(), [channels]), "add_scaled: branch and scale are {found:?} for x {:?}", x.dims());
    Tensor::from_dispatch(Dispatch::add_scaled(x.into_dispatch(), branch.into_dispatch(), scale.into_dispatch()))
}

//! The update of AdamW (Loshchilov and Hutter, 2019, <https://arxiv.org/abs/1711.05101>) and the norms before it, one pass
//! over each parameter.
//!
//! Written with tensor operations an update is about fifteen of them. On a GPU each is a launch, a parameter of an adapter is
//! small, and there are hundreds: the launches would take longer than the backward pass.

#[cfg(feature = "cube")]
mod cube;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::{AdamWOps, AdamWStep};

/// Updates a flat f32 parameter, `[n]` like all the others; returns the parameter and its two moments.
///
/// Tensors are without autodiff. Moments of a parameter that has not been updated are zero.
pub fn adamw_step(
    value: Tensor<1>,
    gradient: Tensor<1>,
    moments: [Tensor<1>; 2],
    step: AdamWStep,
) -> (Tensor<1>, [Tensor<1>; 2]) {
    let [first, second] = moments.map(Tensor::into_dispatch);
    let (value, first, second) =
        Dispatch::adamw_step(value.into_dispatch(), gradient.into_dispatch(), first, second, step);
    (Tensor::from_dispatch(value), [first, second].map(Tensor::from_dispatch))
}

/// The sum of the squares of each tensor, `[tensors]`, added in f32. They are flat, without autodiff, and at least one.
pub fn sums_of_squares(tensors: impl ExactSizeIterator<Item = Tensor<1>>) -> Tensor<1> {
    let count = tensors.len();
    let mut tensors = tensors.peekable();
    let device = tensors.peek().map(Tensor::device).unwrap_or_default();
    let sums = Tensor::<1>::zeros([count], &device).into_dispatch();
    let sums =
        tensors.enumerate().fold(sums, |sums, (slot, x)| Dispatch::sum_of_squares(x.into_dispatch(), sums, slot));
    Tensor::from_dispatch(sums)
}

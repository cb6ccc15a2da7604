//! The operations written with ordinary tensor operations: what every backend without an own kernel runs, and the oracle
//! that kernels are tested against.

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{Scalar, Slice};

use super::ops::AdamWStep;

/// With moments `m` and `v` and gradient `g`, multiplied by its factor: `m ← β₁ m + (1 − β₁) g`, `v ← β₂ v + (1 − β₂) g²`,
/// `w ← (1 − lr · decay) w − lr · m̂ / (√v̂ + ε)`, the hats for moments divided by `1 − βᵗ`.
pub(super) fn adamw_step<B: Backend>(
    [value, gradient, first, second]: [FloatTensor<B>; 4],
    step: AdamWStep,
) -> (FloatTensor<B>, FloatTensor<B>, FloatTensor<B>) {
    let times = |x: &FloatTensor<B>, factor: f32| B::float_mul_scalar(x.clone(), Scalar::from(factor));
    let [beta_1, beta_2] = step.betas;
    let [correction_1, correction_2] = step.corrections();
    let gradient = times(&gradient, step.gradient_factor as f32);
    let squares = B::float_mul(gradient.clone(), gradient.clone());
    let first = B::float_add(times(&first, beta_1), times(&gradient, 1.0 - beta_1));
    let second = B::float_add(times(&second, beta_2), times(&squares, 1.0 - beta_2));
    let root = B::float_sqrt(B::float_div_scalar(second.clone(), Scalar::from(correction_2)));
    let root = B::float_add_scalar(root, Scalar::from(step.epsilon));
    let change = B::float_div(B::float_div_scalar(first.clone(), Scalar::from(correction_1)), root);
    let kept = B::float_mul_scalar(value, Scalar::from(1.0 - step.lr * step.weight_decay));
    let value = B::float_sub(kept, B::float_mul_scalar(change, Scalar::from(step.lr)));
    (value, first, second)
}

pub(super) fn sum_of_squares<B: Backend>(x: FloatTensor<B>, sums: FloatTensor<B>, slot: usize) -> FloatTensor<B> {
    let sum = B::float_sum(B::float_mul(x.clone(), x));
    B::float_slice_assign(sums, &[Slice::from(slot..slot + 1)], sum)
}

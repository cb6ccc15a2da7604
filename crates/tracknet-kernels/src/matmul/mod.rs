//! Dense matrix products. On GPUs the routine is chosen for the device and the dtype, not left to Burn's default, which rounds
//! factors of f32 where it finds tensor cores; and the gradient of a matrix that many others shared is added up in f32.

mod backward;
#[cfg(feature = "cube")]
mod cube;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::MatmulOps;

/// `lhs · rhs`: of two matrices, or matrix by matrix.
///
/// * `lhs`: `[m, k]`, `rhs`: `[k, n]`; or `[batch, m, k]`, or `[1, m, k]` for all, and `[batch, k, n]`; one dtype.
/// * returns `[m, n]` or `[batch, m, n]`, the dtype of both, accumulated in f32; factors of f32 are not rounded.
///
/// # Panics
/// If the shapes do not fit each other, like every Burn operation, or are no such matrices.
pub fn matmul<const D: usize>(lhs: Tensor<D>, rhs: Tensor<D>) -> Tensor<D> {
    const { assert!(D == 2 || D == 3, "matmul: one matrix, or a batch of them") };
    let (left, right) = (lhs.dims(), rhs.dims());
    let fits = left[D - 1] == right[D - 2] && (D == 2 || left[0] == right[0] || left[0] == 1);
    assert!(fits, "matmul: {left:?} times {right:?}");
    let [lhs, rhs] = [lhs, rhs].map(|factor| factor.unsqueeze::<3>().into_dispatch());
    let y = Tensor::<3>::from_dispatch(Dispatch::matrix_products(lhs, rhs));
    let mut shape = right;
    shape[D - 2] = left[D - 2];
    y.reshape(shape)
}

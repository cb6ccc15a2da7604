//! Dense matrix products. On GPUs the routine is chosen for the device, not left to Burn's default, and the gradient of a
//! matrix that many others shared is added up in f32.

mod backward;
#[cfg(feature = "cube")]
mod cube;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

pub use ops::MatmulOps;

/// `lhs · rhs`, matrix by matrix.
///
/// * `lhs`: `[batch, m, k]`, or `[1, m, k]` for all; `rhs`: `[batch, k, n]`; one dtype.
/// * returns `[batch, m, n]`, the dtype of both, accumulated in f32.
///
/// # Panics
/// If the shapes do not fit each other, like every Burn operation.
pub fn matmul(lhs: Tensor<3>, rhs: Tensor<3>) -> Tensor<3> {
    let (left @ [matrices, _, inner], right @ [batch, rows, _]) = (lhs.dims(), rhs.dims());
    let fits = (matrices == batch || matrices == 1) && inner == rows;
    assert!(fits, "matmul: {left:?} times {right:?}");
    Tensor::from_dispatch(Dispatch::matrix_products(lhs.into_dispatch(), rhs.into_dispatch()))
}

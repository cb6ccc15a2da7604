//! Weight-decomposed adapters (DoRA, Liu et al., 2024, <https://arxiv.org/abs/2402.09353>).
//!
//! The adapted weight `V = W + s·B·A` gives the directions of its rows; their lengths, the magnitudes `m`, are learned by
//! themselves. What the layer computes is `(m / ‖V‖) · V·x`, with the norm taken of each row: plain LoRA with a factor, the
//! gain, for each output feature.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tracknet_kernels::matmul::matmul;

use crate::models::nn::cast_to_dtype_of;

/// The magnitudes of one adapted layer.
#[derive(Module, Debug)]
pub struct Dora {
    /// `[out]`.
    pub magnitude: Param<Tensor<1>>,
    /// `‖w‖²` of each row of the frozen weight, `[out]`; a constant.
    squared_norms: Tensor<1>,
}

/// The matrices `A: [rank, in]` and `B: [out, rank]` of an update `scale · B·A`.
#[derive(Debug, Clone)]
pub(super) struct Update {
    pub(super) a: Tensor<2>,
    pub(super) b: Tensor<2>,
    pub(super) scale: f32,
}

impl Dora {
    /// Of an `update` to the frozen `weight` `[out, in]`; the magnitudes are `magnitude`, or the norms that the rows have.
    pub(super) fn new(weight: Tensor<2>, update: Update, magnitude: Option<TensorData>, device: &Device) -> Self {
        let weight = weight.detach();
        let squared_norms = squared_norms(weight.clone());
        let magnitude = magnitude.unwrap_or_else(|| {
            let multiply_rows = |rows| matmul(rows, weight.transpose());
            adapted_norms(squared_norms.clone(), update, multiply_rows).into_data()
        });
        Self { magnitude: Param::from_data(magnitude, device), squared_norms }
    }

    /// `m / ‖V‖` for each output feature, `[out]`. `multiply_rows` is the product of rows with the transposed weight. The
    /// norm is a constant to the backward pass (section 4.3 of the paper).
    pub(super) fn gain(&self, update: Update, multiply_rows: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<1> {
        self.magnitude.val() / adapted_norms(self.squared_norms.clone(), update, multiply_rows)
    }

    /// The merged weight of `sum` = `W + s·B·A`, and the gain that its rows were multiplied by.
    pub(super) fn merge(&self, sum: Tensor<2>) -> (Tensor<2>, Tensor<1>) {
        let norms = squared_norms(sum.clone()).clamp_min(f32::MIN_POSITIVE).sqrt();
        let gain = self.magnitude.val().detach() / norms;
        (sum * as_column(gain.clone()), gain)
    }
}

/// `W + s·B·A` of a weight that [`Dora::merge`] gave.
pub(super) fn unmerge(merged: Tensor<2>, gain: Tensor<1>) -> Tensor<2> {
    merged / as_column(gain)
}

/// The output without bias, from that of the layer alone (`y`), the update and the gain. While dropout is on, what DoRA adds
/// to the layer alone comes from the dropped input, as in PEFT: `of_dropped` is the layer's output of that.
pub(super) fn combine<const D: usize>(
    y: Tensor<D>,
    update: Tensor<D>,
    gain: Tensor<D>,
    of_dropped: Option<Tensor<D>>,
) -> Tensor<D> {
    let gain = cast_to_dtype_of(gain, &y);
    match of_dropped {
        Some(of_dropped) => y + of_dropped * gain.clone().sub_scalar(1.0) + update * gain,
        None => (y + update) * gain,
    }
}

/// `‖w + s·b·A‖` of each row, from `‖w‖² + 2s·b·(A·w) + s²·b·(A·Aᵀ)·b`: low-rank products only, no dense update.
fn adapted_norms(
    squared_norms: Tensor<1>,
    Update { a, b, scale }: Update,
    multiply_rows: impl FnOnce(Tensor<2>) -> Tensor<2>,
) -> Tensor<1> {
    let (a, b) = (a.detach(), b.detach());
    let gram = matmul(a.clone(), a.clone().transpose());
    let mixed = (b.clone() * multiply_rows(a).transpose()).sum_dim(1);
    let own = (matmul(b.clone(), gram) * b).sum_dim(1);
    let rows = squared_norms.dims()[0];
    let change = (mixed.mul_scalar(2.0 * scale) + own.mul_scalar(scale * scale)).reshape([rows]);
    // A row of zeros has no direction; it stays zero instead of becoming NaN.
    (squared_norms + change).clamp_min(f32::MIN_POSITIVE).sqrt()
}

fn as_column(x: Tensor<1>) -> Tensor<2> {
    let rows = x.dims()[0];
    x.reshape([rows, 1])
}

fn squared_norms(x: Tensor<2>) -> Tensor<1> {
    let rows = x.dims()[0];
    x.square().sum_dim(1).reshape([rows])
}

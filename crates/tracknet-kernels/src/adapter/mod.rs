//! A low-rank adapter beside a product (LoRA, Hu et al. 2021, <https://arxiv.org/abs/2106.09685>), and dropout, for GPUs.
//!
//! Written with tensor operations an adapter leaves the graph a mask, a dropped copy of its input and a scaled thin product.
//! Here it leaves handles: of its input, which the layers beside it share, of its matrices, and of the thin product. Masks
//! are functions of a seed and the place of a value ([`crate::dropout`]), drawn again where they are needed.

mod backward;
#[cfg(feature = "cube")]
mod cube;
mod ops;
mod reference;

use burn::backend::Dispatch;
use burn::tensor::Tensor;

use crate::dropout::KeepMask;
pub use ops::{AdapterOps, AdapterSpec};

/// `y + s · dropout(x) · Aᵀ · Bᵀ + bias`, as two thin products.
///
/// * `y`: `[rows, out]`, the product that is adapted; `x`: `[rows, in]`, its input, of one dtype.
/// * `a`: `[rank, in]`, `b`: `[out, rank]`, `bias`: `[out]`, f32; they are rounded to the dtype of `x`.
/// * returns `[rows, out]`, dtype of `y`.
///
/// Gradients reach all of them; those of `a`, `b` and `bias` are f32.
///
/// # Panics
/// If the shapes do not fit each other, like every Burn operation.
pub fn add_adapter(
    y: Tensor<2>,
    x: Tensor<2>,
    [a, b]: [Tensor<2>; 2],
    bias: Option<Tensor<1>>,
    scale: f32,
    dropout: Option<KeepMask>,
) -> Tensor<2> {
    let ([rows, output], [_, input], [rank, _]) = (y.dims(), x.dims(), a.dims());
    let found = [x.dims(), a.dims(), b.dims()];
    assert!(found == [[rows, input], [rank, input], [output, rank]], "add_adapter: x, a and b are {found:?}");
    if let Some(bias) = &bias {
        assert!(bias.dims() == [output], "add_adapter: bias is {:?}, expected [{output}]", bias.dims());
    }
    let spec = AdapterSpec { scale, dropout, bias: bias.is_some() };
    // The operation takes a tensor all the same; a second handle costs nothing.
    let bias = bias.map_or_else(|| a.clone().into_dispatch(), Tensor::into_dispatch);
    let (sum, ..) =
        Dispatch::add_adapter(y.into_dispatch(), x.into_dispatch(), a.into_dispatch(), b.into_dispatch(), bias, spec);
    Tensor::from_dispatch(sum)
}

/// Each value times the gain of the mask, or 0, as the mask says for its place.
pub fn dropout<const D: usize>(x: Tensor<D>, mask: KeepMask) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::dropout(x.into_dispatch(), mask))
}

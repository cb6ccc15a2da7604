//! What adapters ask of the layers that they are added to.
//!
//! The weight of such a layer is seen as a matrix `[out, in]`; that of a convolution holds each kernel as a row,
//! `[out, in · height · width]`.

use std::ops::Range;

use burn::module::Param;
use burn::tensor::Tensor;
use tracknet_kernels::matmul::matmul;

use crate::models::nn::conv::{as_kernels, pointwise};
use crate::models::nn::linear::{add_bias, multiply_transposed};
use crate::models::nn::{Conv2d, Linear, LinearWeight};
use crate::models::state::with_value;

/// A layer whose weight an adapter can be added to and merged into.
pub trait BaseLayer {
    /// The shape of the weight as PyTorch has it: `[out, in]`, or `[out, in, height, width]` of a convolution.
    fn weight_shape(&self) -> Vec<usize>;

    /// The weight as a matrix of floats.
    fn matrix(&self) -> Tensor<2>;

    /// Gives the weight other values, as floats; whether it trains stays as it is.
    fn set_matrix(&mut self, matrix: Tensor<2>);

    /// `[out]`.
    fn bias(&self) -> Option<&Param<Tensor<1>>>;

    /// Freezes the weight.
    fn freeze_weight(&mut self);

    /// Decides whether the bias trains.
    fn set_bias_trains(&mut self, trains: bool);

    /// The layer as a linear one, which can be stored in 4 bits; `None` for a convolution.
    fn linear(&self) -> Option<&Linear>;

    /// As [`BaseLayer::linear`], to change it.
    fn linear_mut(&mut self) -> Option<&mut Linear>;

    /// The shape of [`BaseLayer::matrix`].
    fn shape(&self) -> [usize; 2] {
        let shape = self.weight_shape();
        [shape[0], shape[1..].iter().product()]
    }

    /// Whether the weight is stored in 4 bits.
    fn is_quantized(&self) -> bool {
        self.linear().is_some_and(Linear::is_quantized)
    }
}

impl BaseLayer for Linear {
    fn weight_shape(&self) -> Vec<usize> {
        self.shape().to_vec()
    }

    fn matrix(&self) -> Tensor<2> {
        self.weight.dense()
    }

    fn set_matrix(&mut self, matrix: Tensor<2>) {
        self.weight = LinearWeight::Dense(match &self.weight {
            LinearWeight::Dense(weight) => with_value(weight.clone(), matrix),
            LinearWeight::Packed(_) => Param::from_tensor(matrix.detach()).set_require_grad(false),
        });
    }

    fn bias(&self) -> Option<&Param<Tensor<1>>> {
        self.bias.as_ref()
    }

    fn freeze_weight(&mut self) {
        if let LinearWeight::Dense(weight) = &mut self.weight {
            *weight = weight.clone().set_require_grad(false);
        }
    }

    fn set_bias_trains(&mut self, trains: bool) {
        self.bias = self.bias.take().map(|bias| bias.set_require_grad(trains));
    }

    fn linear(&self) -> Option<&Linear> {
        Some(self)
    }

    fn linear_mut(&mut self) -> Option<&mut Linear> {
        Some(self)
    }
}

impl BaseLayer for Conv2d {
    fn weight_shape(&self) -> Vec<usize> {
        self.weight.lazy_shape().to_vec()
    }

    fn matrix(&self) -> Tensor<2> {
        self.rows()
    }

    fn set_matrix(&mut self, matrix: Tensor<2>) {
        let shape = self.weight.lazy_shape();
        self.weight = with_value(self.weight.clone(), matrix.reshape(shape));
    }

    fn bias(&self) -> Option<&Param<Tensor<1>>> {
        self.bias.as_ref()
    }

    fn freeze_weight(&mut self) {
        self.weight = self.weight.clone().set_require_grad(false);
    }

    fn set_bias_trains(&mut self, trains: bool) {
        self.bias = self.bias.take().map(|bias| bias.set_require_grad(trains));
    }

    fn linear(&self) -> Option<&Linear> {
        None
    }

    fn linear_mut(&mut self) -> Option<&mut Linear> {
        None
    }
}

/// A layer, or a part of one, as the linear map that it computes from activations of rank `D`. The forward pass of every
/// adapted layer is written once on this ([`super::layer`]).
pub(super) trait LinearMap<const D: usize> {
    /// `W · x`, without the bias.
    fn apply(&self, x: Tensor<D>) -> Tensor<D>;

    /// `M · x` with a matrix `[rank, in]` in place of the weight: a convolution with the stride and padding of this one.
    fn apply_matrix(&self, x: Tensor<D>, matrix: Tensor<2>) -> Tensor<D>;

    /// `M · y` with a matrix `[out, rank]` on the `rank` features of `y`, at each place by itself.
    fn mix(&self, y: Tensor<D>, matrix: Tensor<2>) -> Tensor<D>;

    /// `rows · Wᵀ` with the whole weight: `[rank, in]` → `[rank, out]`.
    fn multiply_rows(&self, rows: Tensor<2>) -> Tensor<2>;

    /// A factor for each output feature, in a shape that broadcasts over activations.
    fn per_output(&self, factors: Tensor<1>) -> Tensor<D>;

    /// `y` and the bias.
    fn add_bias(&self, y: Tensor<D>) -> Tensor<D>;
}

/// A map on rows `[rows, in]` → `[rows, out]`.
pub(super) trait RowMap {
    /// The product of rows with the transposed weight.
    fn multiply(&self, rows: Tensor<2>) -> Tensor<2>;

    /// `[out]`.
    fn row_bias(&self) -> Option<&Param<Tensor<1>>>;
}

impl RowMap for Linear {
    fn multiply(&self, rows: Tensor<2>) -> Tensor<2> {
        self.weight.multiply(rows)
    }

    fn row_bias(&self) -> Option<&Param<Tensor<1>>> {
        self.bias.as_ref()
    }
}

/// A convolution whose kernels do not overlap, on patches that are rows already: `[rows, in · height · width]` →
/// `[rows, out]`.
pub(super) struct OnPatches<'a>(pub(super) &'a Conv2d);

impl RowMap for OnPatches<'_> {
    fn multiply(&self, rows: Tensor<2>) -> Tensor<2> {
        multiply_transposed(rows, self.0.rows())
    }

    fn row_bias(&self) -> Option<&Param<Tensor<1>>> {
        self.0.bias.as_ref()
    }
}

impl<M: RowMap> LinearMap<2> for M {
    fn apply(&self, x: Tensor<2>) -> Tensor<2> {
        self.multiply(x)
    }

    fn apply_matrix(&self, x: Tensor<2>, matrix: Tensor<2>) -> Tensor<2> {
        multiply_transposed(x, matrix)
    }

    fn mix(&self, y: Tensor<2>, matrix: Tensor<2>) -> Tensor<2> {
        multiply_transposed(y, matrix)
    }

    fn multiply_rows(&self, rows: Tensor<2>) -> Tensor<2> {
        self.multiply(rows)
    }

    fn per_output(&self, factors: Tensor<1>) -> Tensor<2> {
        factors.unsqueeze()
    }

    fn add_bias(&self, y: Tensor<2>) -> Tensor<2> {
        add_bias(y, self.row_bias())
    }
}

impl LinearMap<4> for Conv2d {
    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        self.convolve(x, self.rows())
    }

    fn apply_matrix(&self, x: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
        self.convolve(x, matrix)
    }

    fn mix(&self, y: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
        pointwise(y, as_kernels(matrix))
    }

    fn multiply_rows(&self, rows: Tensor<2>) -> Tensor<2> {
        matmul(rows, self.rows().transpose())
    }

    fn per_output(&self, factors: Tensor<1>) -> Tensor<4> {
        let channels = factors.dims()[0];
        factors.reshape([1, channels, 1, 1])
    }

    fn add_bias(&self, y: Tensor<4>) -> Tensor<4> {
        Conv2d::add_bias(self, y)
    }
}

/// The part of a pointwise convolution that reads the input channels of a range, without the bias.
pub(super) struct OnChannels<'a> {
    pub(super) conv: &'a Conv2d,
    pub(super) range: Range<usize>,
}

impl LinearMap<4> for OnChannels<'_> {
    fn apply(&self, x: Tensor<4>) -> Tensor<4> {
        pointwise(x, self.conv.weight_of_channels(self.range.clone()))
    }

    fn apply_matrix(&self, x: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
        let [rank, _] = matrix.dims();
        pointwise(x, as_kernels(matrix.slice([0..rank, self.range.clone()])))
    }

    fn mix(&self, y: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
        self.conv.mix(y, matrix)
    }

    fn multiply_rows(&self, rows: Tensor<2>) -> Tensor<2> {
        self.conv.multiply_rows(rows)
    }

    fn per_output(&self, factors: Tensor<1>) -> Tensor<4> {
        self.conv.per_output(factors)
    }

    fn add_bias(&self, y: Tensor<4>) -> Tensor<4> {
        y
    }
}

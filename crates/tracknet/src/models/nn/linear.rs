//! The linear layer: its weight is stored as floats or in 4 bits.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use tracknet_kernels::matmul::matmul;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, linear_4bit};

use crate::models::graph::{Graph, Traced};

use super::cast_to_dtype_of;
use super::init::{Builder, Fill};

/// `y = x · Wᵀ + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`, and how it is stored.
    pub weight: LinearWeight,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// What a kernel may round the factors of a product with a frozen float weight to.
    #[module(skip)]
    dense_dtype: ComputeDtype,
}

/// How a weight `[out, in]` is stored.
// A few hundred of these exist; a box around the larger variant would save nothing that counts.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum LinearWeight {
    /// Floats, `[out, in]` as PyTorch has them.
    Dense(Param<Tensor<2>>),
    /// 4-bit codes; a constant that can never receive a gradient.
    Packed(Linear4bitWeight),
}

impl Linear {
    /// A layer from `shape[1]` to `shape[0]` features. Random weights are normal with `deviation`, cut at two deviations;
    /// biases begin at 0.
    pub fn new(shape: [usize; 2], bias: bool, deviation: f32, builder: &Builder<'_>) -> Self {
        Self {
            weight: builder.linear_weight(shape, Fill::TruncatedNormal(deviation)),
            bias: bias.then(|| builder.param("bias", [shape[0]], Fill::ZERO)),
            dense_dtype: ComputeDtype::F32,
        }
    }

    /// A layer from `shape[1]` to `shape[0]` features with these first values of weight and bias.
    pub fn with_fill(shape: [usize; 2], [weight, bias]: [Fill; 2], builder: &Builder<'_>) -> Self {
        Self {
            weight: LinearWeight::Dense(builder.param("weight", shape, weight)),
            bias: Some(builder.param("bias", [shape[0]], bias)),
            dense_dtype: ComputeDtype::F32,
        }
    }

    /// Whether the weight is stored in 4 bits.
    pub fn is_quantized(&self) -> bool {
        matches!(self.weight, LinearWeight::Packed(_))
    }

    /// Lets kernels round the factors of products with a frozen float weight.
    pub fn set_dense_dtype(&mut self, dtype: ComputeDtype) {
        self.dense_dtype = dtype;
    }

    /// What kernels may round the factors of its product to.
    pub fn compute_dtype(&self) -> ComputeDtype {
        match &self.weight {
            LinearWeight::Dense(_) => self.dense_dtype,
            LinearWeight::Packed(weight) => weight.compute_dtype(),
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match &self.weight {
            LinearWeight::Dense(weight) => weight.lazy_shape().dims(),
            LinearWeight::Packed(weight) => weight.shape(),
        }
    }

    /// `[.., in]` → `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        on_rows(x, |x| add_bias(self.weight.multiply(x), self.bias.as_ref()))
    }

    /// [`Linear::forward`] as part of a graph.
    pub(crate) fn trace(&self, graph: &mut Graph, x: &Traced) -> Traced {
        graph.linear(x, self.weight.dense(), self.bias.as_ref().map(Param::val))
    }
}

impl LinearWeight {
    /// `[rows, in]` → `[rows, out]`: the product with the transposed weight.
    pub fn multiply(&self, x: Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(weight) => multiply_transposed(x, weight.val()),
            Self::Packed(weight) => linear_4bit(x, weight, None),
        }
    }

    /// The weight as floats, `[out, in]`; a packed one is unpacked, rounded as it is for every product.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(weight) => weight.val(),
            Self::Packed(weight) => weight.dequantize(),
        }
    }
}

/// Applies a function of rows `[rows, in]` → `[rows, out]` to the last dimension of `x`: `[.., in]` → `[.., out]`.
pub(crate) fn on_rows<const D: usize>(x: Tensor<D>, f: impl FnOnce(Tensor<2>) -> Tensor<2>) -> Tensor<D> {
    let mut shape = x.dims();
    let rows: usize = shape[..D - 1].iter().product();
    let y = f(x.reshape([rows, shape[D - 1]]));
    shape[D - 1] = y.dims()[1];
    y.reshape(shape)
}

/// `x · weightᵀ` for `[rows, in]` and `[out, in]`, in the dtype of `x`.
pub(crate) fn multiply_transposed(x: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let weight = cast_to_dtype_of(weight, &x);
    matmul(x, weight.transpose())
}

/// `y + bias` for `[rows, out]` and `[out]`, in the dtype of `y`.
pub(crate) fn add_bias(y: Tensor<2>, bias: Option<&Param<Tensor<1>>>) -> Tensor<2> {
    match bias {
        Some(bias) => {
            let bias = cast_to_dtype_of(bias.val(), &y);
            y + bias.unsqueeze()
        }
        None => y,
    }
}

//! The operations a backend provides for 4-bit weights.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, backend_extension};

use super::{ComputeDtype, QuantType, reference};

/// What the bytes of a 4-bit weight mean; travels beside its tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PackedFormat {
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// The code.
    pub quant_type: QuantType,
    /// Values per scale.
    pub blocksize: usize,
    /// What dequantized values are rounded to.
    pub compute_dtype: ComputeDtype,
    /// With double quantization, the mean that was subtracted from the scales.
    pub offset: Option<f32>,
}

/// A product with a 4-bit weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Product {
    /// `x · Wᵀ`, `[rows, in]` to `[rows, out]`.
    Forward,
    /// `x · Wᵀ + bias`.
    ForwardWithBias,
    /// `x · W`, `[rows, out]` to `[rows, in]`: what leads a gradient back.
    Transposed,
}

/// 4-bit weights on a backend.
///
/// A weight is three tensors: `packed` u8 `[ceil(out * in / 2)]`; `scales` f32, one per block, or with double
/// quantization one per 256 blocks; `scale_codes` u8, one per block, read only with double quantization.
///
/// The default bodies compose ordinary tensor operations (and so need memory for the dense weight while they run); a
/// backend with an own kernel overrides them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait FourBitOps: Backend {
    /// A product; `bias` is `[out]` and read only where the product has one, elsewhere it may be any tensor.
    ///
    /// Weights are rounded to the compute dtype; with bfloat16 so is `x`, and every implementation computes the same up
    /// to the order of a sum. Products accumulate in f32, and the result is rounded once, to the dtype of `x`.
    fn linear_4bit(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        packed: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        format: PackedFormat,
        product: Product,
    ) -> FloatTensor<Self> {
        let weight = Self::dequantize_4bit(packed, scales, scale_codes, format);
        reference::linear::<Self>(x, bias, weight, format.compute_dtype, product)
    }

    /// The dense weight in f32, `[out, in]`, rounded to the compute dtype.
    fn dequantize_4bit(
        packed: IntTensor<Self>,
        scales: FloatTensor<Self>,
        scale_codes: IntTensor<Self>,
        format: PackedFormat,
    ) -> FloatTensor<Self> {
        reference::dequantize::<Self>(packed, scales, scale_codes, format)
    }

    /// The largest magnitude of each block of `blocksize` values of a weight `[out, in]`, f32 `[blocks]`; not finite if a
    /// value of the block is not.
    fn block_maxima(weight: FloatTensor<Self>, blocksize: usize) -> FloatTensor<Self> {
        reference::block_maxima::<Self>(weight, blocksize)
    }

    /// The codes of a weight `[out, in]`, two in a byte, u8 `[ceil(out * in / 2)]`: those nearest to each value times the
    /// reciprocal of its block (f32 `[blocks]`), and the code of zero where that is 0.
    fn block_codes(
        weight: FloatTensor<Self>,
        reciprocals: FloatTensor<Self>,
        quant_type: QuantType,
        blocksize: usize,
    ) -> IntTensor<Self> {
        reference::block_codes::<Self>(weight, reciprocals, quant_type, blocksize)
    }
}

//! Products with a 4-bit weight on the CPU.
//!
//! With compute dtype bfloat16 both factors are bfloat16 and sums are f32, whatever the processor has, so that all
//! implementations differ in the order of a sum and in nothing else. Other compute dtypes leave the activations alone
//! and multiply in f32.
//!
//! No implementation splits a sum between tasks: how the work is cut and how many threads share it never shows in a
//! result.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod float;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod tiled;

use std::sync::OnceLock;

use super::dequantize::{ComputeDtype, PackedView};
use super::ops::PackedFormat;

/// A 4-bit weight `[out, in]` in host memory.
#[derive(Clone, Copy)]
pub(super) struct Weight<'a> {
    /// Scales, and values in pieces.
    pub(super) view: PackedView<'a>,
    /// The codes, two a byte.
    pub(super) packed: &'a [u8],
    /// What they mean.
    pub(super) format: PackedFormat,
}

/// The side of the weight that is summed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// `x · Wᵀ`: over the input features.
    In,
    /// `x · W`: over the output features.
    Out,
}

impl Weight<'_> {
    /// `[summed, columns of the result]`.
    fn sizes(&self, side: Side) -> [usize; 2] {
        let [out_features, in_features] = self.format.shape;
        match side {
            Side::In => [in_features, out_features],
            Side::Out => [out_features, in_features],
        }
    }
}

/// How a product with bfloat16 factors is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Implementation {
    /// In f32, on factors rounded to bfloat16; `gemm` chooses the instructions.
    Float,
    /// Dot products of AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// The matrix unit.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

impl Implementation {
    /// All that this machine has, the fastest last; tests force each.
    pub(super) fn available() -> Vec<Self> {
        let mut available = vec![Self::Float];
        #[cfg(target_arch = "x86_64")]
        if avx512bf16::is_available() {
            available.push(Self::Avx512Bf16);
            if amx::is_available() {
                available.push(Self::Amx);
            }
        }
        available
    }

    /// The fastest that this machine has.
    pub(super) fn detect() -> Self {
        static BEST: OnceLock<Implementation> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::Float))
    }

    /// `x · Wᵀ` or `x · W`, plus `bias` in every row. `x` is `[rows, summed]` row-major, and so is the result.
    pub(super) fn multiply(self, x: &[f32], weight: Weight<'_>, side: Side, bias: Option<&[f32]>) -> Vec<f32> {
        let [summed, columns] = weight.sizes(side);
        assert!(x.len().is_multiple_of(summed), "x has rows of {summed} values");
        assert!(bias.is_none_or(|bias| bias.len() == columns), "a bias has {columns} values");
        match (self, weight.format.compute_dtype) {
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512Bf16, ComputeDtype::Bf16) => tiled::multiply(tiled::Unit::Avx512Bf16, x, weight, side, bias),
            #[cfg(target_arch = "x86_64")]
            (Self::Amx, ComputeDtype::Bf16) => tiled::multiply(tiled::Unit::Amx, x, weight, side, bias),
            (_, ComputeDtype::Bf16) => float::multiply(&float::rounded(x), weight, side, bias),
            _ => float::multiply(x, weight, side, bias),
        }
    }
}

#[cfg(test)]
mod tests;

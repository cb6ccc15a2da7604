//! Products with a frozen factor on the CPU.
//!
//! With compute dtype bfloat16 both factors are bfloat16 and sums are f32, whatever the processor has, so that all
//! implementations differ in the order of a sum and in nothing else. Other compute dtypes leave the activations alone
//! and multiply in f32.
//!
//! The left factor is rounded and laid out once ([`PackedLhs`]), for every product that reads it; the weight is unpacked
//! panel after panel while it multiplies, and never as a whole. A product can carry a low-rank one along, the path of an
//! adapter, and hands its result on block by block ([`Epilogue`]), so that what follows it needs no pass of its own.
//!
//! No implementation splits a sum between tasks: how the work is cut and how many threads share it never shows in a
//! result.

#![cfg_attr(not(target_arch = "x86_64"), allow(unused_variables, reason = "elsewhere a level decides nothing here"))]

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod epilogue;
mod float;
mod lhs;
#[cfg(target_arch = "x86_64")]
mod low_rank;
#[cfg(target_arch = "x86_64")]
mod pack;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod weight;

use crate::dropout::{KeepMask, WORD};
use crate::fourbit::ComputeDtype;
#[cfg(target_arch = "x86_64")]
use crate::simd::InstructionSet;
use crate::simd::Level;

pub(crate) use epilogue::{AddScaled, Epilogue, Shared, Store, StoreBf16, filled};
pub(crate) use lhs::PackedLhs;
#[cfg(target_arch = "x86_64")]
use tiled::Unit;
pub(crate) use weight::{Side, Storage, Weight};

/// `lhs · op(weight) + bias`, and what an adapter adds.
pub(crate) struct Product<'a> {
    /// `[rows, summed]`.
    pub(crate) lhs: &'a PackedLhs,
    /// The weight, and which side of it is summed over.
    pub(crate) weight: Weight<'a>,
    /// See [`Side`].
    pub(crate) side: Side,
    /// `[columns]`.
    pub(crate) bias: Option<&'a [f32]>,
    /// Added, if there is one.
    pub(crate) low_rank: Option<LowRank<'a>>,
}

/// `mask ∘ (lhs · op(weight))` with few columns in `lhs`.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    /// `[rows, rank]`.
    pub(crate) lhs: &'a PackedLhs,
    /// A matrix of an adapter.
    pub(crate) weight: Weight<'a>,
    /// See [`Side`].
    pub(crate) side: Side,
    /// The values of the low-rank product that count, if not all; with a mask, the whole product has no bias.
    pub(crate) mask: Option<&'a Mask>,
}

/// Which values of a matrix `[rows, columns]` a dropout kept.
pub(crate) struct Mask {
    /// A bit for each value, 32 columns a word, row by row.
    words: Vec<u32>,
    /// Words of a row.
    width: usize,
}

impl Mask {
    /// Draws one.
    pub(crate) fn draw(keep: KeepMask, rows: usize, columns: usize) -> Self {
        let width = columns.div_ceil(WORD);
        let mut words = vec![0; rows * width];
        keep.bits(0, columns, &mut words);
        Self { words, width }
    }

    /// The words of a row.
    fn row(&self, row: usize) -> &[u32] {
        &self.words[row * self.width..][..self.width]
    }

    /// Whether a value stays.
    fn keeps(&self, row: usize, column: usize) -> bool {
        self.row(row)[column / WORD] >> (column % WORD) & 1 == 1
    }
}

/// What multiplies bfloat16 on a level; `None`: they are multiplied as f32, and `gemm` chooses the instructions.
#[cfg(target_arch = "x86_64")]
fn unit(level: Level) -> Option<Unit> {
    if level.has(InstructionSet::AmxBf16) {
        Some(Unit::Amx)
    } else {
        level.has(InstructionSet::Avx512Bf16).then_some(Unit::Avx512Bf16)
    }
}

/// `x · Wᵀ` or `x · W`, plus `bias` in every row. `x` is `[rows, summed]` row-major, and so is the result.
pub(crate) fn multiply(level: Level, x: &[f32], weight: Weight<'_>, side: Side, bias: Option<&[f32]>) -> Vec<f32> {
    let [summed, columns] = weight.sizes(side);
    assert!(x.len().is_multiple_of(summed), "x has rows of {summed} values");
    assert!(bias.is_none_or(|bias| bias.len() == columns), "a bias has {columns} values");
    if weight.compute_dtype != ComputeDtype::Bf16 {
        return float::multiply(x, weight, side, bias);
    }
    let rows = x.len() / summed;
    let lhs = PackedLhs::new(level, [rows, summed], |first, values| {
        values.copy_from_slice(&x[first * summed..][..values.len()]);
    });
    let product = Product { lhs: &lhs, weight, side, bias, low_rank: None };
    // SAFETY: the blocks of a product are the whole result, and `Store` writes all of each.
    unsafe { filled([rows, columns], |out| run(level, &product, Store { out })) }.0
}

/// Computes a product and hands its blocks to `epilogue`, from several threads in any order. Together they are the whole
/// result, and no two share a value.
pub(crate) fn run<E: Epilogue>(level: Level, product: &Product<'_>, epilogue: E) {
    product.check();
    let shape = [product.lhs.rows(), product.columns()];
    assert!(epilogue.shape() == shape, "a product {shape:?} for a matrix {:?}", epilogue.shape());
    #[cfg(target_arch = "x86_64")]
    if let Some(unit) = unit(level) {
        // SAFETY: the level has the unit.
        return unsafe { tiled::run(unit, product, epilogue) };
    }
    float::run(product, epilogue);
}

/// `factor · (mask ∘ lhs) · op(weight)`: the thin side of an adapter.
pub(crate) fn thin(
    level: Level,
    lhs: &PackedLhs,
    mask: Option<&Mask>,
    (weight, side): (Weight<'_>, Side),
    factor: f32,
) -> PackedLhs {
    #[cfg(target_arch = "x86_64")]
    if unit(level).is_some() {
        // SAFETY: the level has AVX512-BF16, also where it has the matrix unit.
        return unsafe { low_rank::thin(lhs, mask, (weight, side), factor) };
    }
    float::thin(lhs, mask, (weight, side), factor)
}

/// `thinᵀ · (mask ∘ rows)`, `[rank, columns]`: the gradient of an adapter's matrix, summed over the rows.
pub(crate) fn outer(level: Level, thin: &PackedLhs, rows: &PackedLhs, mask: Option<&Mask>) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if unit(level).is_some() {
        // SAFETY: as above.
        return unsafe { low_rank::outer(thin, rows, mask) };
    }
    float::outer(thin, rows, mask)
}

impl Product<'_> {
    /// Columns of the result.
    fn columns(&self) -> usize {
        self.weight.sizes(self.side)[1]
    }

    fn check(&self) {
        let [summed, columns] = self.weight.sizes(self.side);
        assert!(self.lhs.columns() == summed, "a left factor of {} columns meets {summed}", self.lhs.columns());
        assert!(self.bias.is_none_or(|bias| bias.len() == columns), "a bias has {columns} values");
        if let Some(LowRank { lhs, weight, side, mask }) = &self.low_rank {
            let fits = weight.sizes(*side) == [lhs.columns(), columns] && lhs.rows() == self.lhs.rows();
            assert!(fits, "a low-rank product of another shape");
            assert!(mask.is_none_or(|mask| mask.width == columns.div_ceil(WORD)), "a mask of another shape");
            assert!(mask.is_none() || self.bias.is_none(), "a masked product has no bias");
        }
    }
}

/// A level of this machine for each way to multiply bfloat16: as f32, and with each unit.
#[cfg(test)]
pub(crate) fn levels() -> Vec<Level> {
    let mut levels: Vec<_> = Level::available().collect();
    #[cfg(target_arch = "x86_64")]
    levels.dedup_by_key(|level| unit(*level));
    levels
}

#[cfg(test)]
mod tests;

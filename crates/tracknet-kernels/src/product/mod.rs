//! Products with a frozen factor on the CPU.
//!
//! With compute dtype bfloat16 both factors are bfloat16 and sums are f32, whatever the processor has, so that all
//! implementations differ in the order of a sum and in nothing else. Other compute dtypes leave the activations alone
//! and multiply in f32.
//!
//! The left factor is rounded and laid out once ([`Rows`]), for every product that reads it; the weight is unpacked
//! panel after panel while it multiplies, and never as a whole. A product can carry a low-rank one along, the path of an
//! adapter, and hands its result on block by block ([`Sink`]), so that what follows it needs no pass of its own.
//!
//! No implementation splits a sum between tasks: how the work is cut and how many threads share it never shows in a
//! result.

#[cfg(target_arch = "x86_64")]
pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod avx512bf16;
mod float;
#[cfg(target_arch = "x86_64")]
mod low_rank;
#[cfg(target_arch = "x86_64")]
mod pack;
mod rows;
mod sink;
#[cfg(target_arch = "x86_64")]
mod tiled;
mod weight;

use std::sync::OnceLock;

use crate::dropout::{KeepMask, WORD};
use crate::fourbit::ComputeDtype;

pub(crate) use rows::Rows;
pub(crate) use sink::{AddScaled, Shared, Sink, Store, StoreBf16, filled};
pub(crate) use weight::{Side, Values, Weight};

/// How products with bfloat16 factors are computed, with instructions that this machine has: only
/// [`Implementation::available`] makes those that not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Implementation(Kind);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// In f32, on factors rounded to bfloat16; `gemm` chooses the instructions.
    Float,
    /// Dot products of AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16,
    /// The matrix unit.
    #[cfg(target_arch = "x86_64")]
    Amx,
}

/// `left · op(weight) + bias`, and what an adapter adds.
pub(crate) struct Product<'a> {
    /// `[rows, summed]`.
    pub(crate) left: &'a Rows,
    /// The weight, and which side of it is summed over.
    pub(crate) weight: Weight<'a>,
    /// See [`Side`].
    pub(crate) side: Side,
    /// `[columns]`.
    pub(crate) bias: Option<&'a [f32]>,
    /// Added, if there is one.
    pub(crate) low_rank: Option<LowRank<'a>>,
}

/// `mask ∘ (left · op(weight))` with few columns in `left`.
#[derive(Clone, Copy)]
pub(crate) struct LowRank<'a> {
    /// `[rows, rank]`.
    pub(crate) left: &'a Rows,
    /// A matrix of an adapter.
    pub(crate) weight: Weight<'a>,
    /// See [`Side`].
    pub(crate) side: Side,
    /// What of the result counts; with one, the product has no bias.
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

impl Implementation {
    /// In f32, on every machine.
    pub(crate) const FLOAT: Self = Self(Kind::Float);

    /// All that this machine has, the fastest last; tests force each.
    pub(crate) fn available() -> Vec<Self> {
        let mut available = vec![Self::FLOAT];
        #[cfg(target_arch = "x86_64")]
        if avx512bf16::is_available() {
            available.push(Self(Kind::Avx512Bf16));
            if amx::is_available() {
                available.push(Self(Kind::Amx));
            }
        }
        available
    }

    /// The fastest that this machine has.
    pub(crate) fn detect() -> Self {
        static BEST: OnceLock<Implementation> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::FLOAT))
    }

    /// `x · Wᵀ` or `x · W`, plus `bias` in every row. `x` is `[rows, summed]` row-major, and so is the result.
    pub(crate) fn multiply(self, x: &[f32], weight: Weight<'_>, side: Side, bias: Option<&[f32]>) -> Vec<f32> {
        let [summed, columns] = weight.sizes(side);
        assert!(x.len().is_multiple_of(summed), "x has rows of {summed} values");
        assert!(bias.is_none_or(|bias| bias.len() == columns), "a bias has {columns} values");
        if weight.compute_dtype != ComputeDtype::Bf16 {
            return float::multiply(x, weight, side, bias);
        }
        let rows = x.len() / summed;
        let left = self.rows(rows, summed, |first, values| {
            values.copy_from_slice(&x[first * summed..][..values.len()]);
        });
        let product = Product { left: &left, weight, side, bias, low_rank: None };
        // SAFETY: the blocks of a product are the whole result, and `Store` writes all of each.
        unsafe { filled([rows, columns], |out| self.run(&product, Store { out })) }.0
    }

    /// Computes a product and hands its blocks to `sink`, from several threads in any order. Together they are the whole
    /// result, and no two share a value.
    pub(crate) fn run<S: Sink>(self, product: &Product<'_>, sink: S) {
        product.check();
        let shape = [product.left.count(), product.columns()];
        assert!(sink.shape() == shape, "a product {shape:?} for a matrix {:?}", sink.shape());
        match self.0 {
            Kind::Float => float::run(product, sink),
            // SAFETY: the value exists only if `available` found the unit on this machine.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 => unsafe { tiled::run(tiled::Unit::Avx512Bf16, product, sink) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Amx => unsafe { tiled::run(tiled::Unit::Amx, product, sink) },
        }
    }

    /// `factor · (mask ∘ left) · op(weight)`: the thin side of an adapter.
    pub(crate) fn thin(
        self,
        left: &Rows,
        mask: Option<&Mask>,
        (weight, side): (Weight<'_>, Side),
        factor: f32,
    ) -> Rows {
        match self.0 {
            Kind::Float => float::thin(left, mask, (weight, side), factor),
            // SAFETY: as in `run`; where there is the matrix unit, there is AVX512-BF16.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 | Kind::Amx => unsafe { low_rank::thin(left, mask, (weight, side), factor) },
        }
    }

    /// `thinᵀ · (mask ∘ rows)`, `[rank, columns]`: the gradient of an adapter's matrix, summed over the rows.
    pub(crate) fn outer(self, thin: &Rows, rows: &Rows, mask: Option<&Mask>) -> Vec<f32> {
        match self.0 {
            Kind::Float => float::outer(thin, rows, mask),
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512Bf16 | Kind::Amx => unsafe { low_rank::outer(thin, rows, mask) },
        }
    }
}

impl Product<'_> {
    /// Columns of the result.
    fn columns(&self) -> usize {
        self.weight.sizes(self.side)[1]
    }

    fn check(&self) {
        let [summed, columns] = self.weight.sizes(self.side);
        assert!(self.left.columns() == summed, "a left factor of {} columns meets {summed}", self.left.columns());
        assert!(self.bias.is_none_or(|bias| bias.len() == columns), "a bias has {columns} values");
        if let Some(LowRank { left, weight, side, mask }) = &self.low_rank {
            let fits = weight.sizes(*side) == [left.columns(), columns] && left.count() == self.left.count();
            assert!(fits, "a low-rank product of another shape");
            assert!(mask.is_none_or(|mask| mask.width == columns.div_ceil(WORD)), "a mask of another shape");
            assert!(mask.is_none() || self.bias.is_none(), "a masked product has no bias");
        }
    }
}

#[cfg(test)]
mod tests;

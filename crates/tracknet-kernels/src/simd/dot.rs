//! How the factors of a matrix product lie in registers.
//!
//! A register of a factor has as many places as lanes. A place is 32 bits: an f32, or a group of two bfloat16 that
//! follow each other in the order of the sum. Places are kept, loaded and broadcast as f32, whatever they hold; only
//! [`DotFormat::dot`] looks into them.

use super::{Register, Simd};

/// Packs registers of numbers into registers of places, and multiplies these.
pub(crate) trait DotFormat<S: Simd> {
    /// Numbers of a place, at most [`MAX_GROUP`].
    const GROUP: usize;

    /// Registers of columns in a panel of the right factor.
    const PANEL: usize;

    /// Consecutive numbers of a row as places, for a sum over the row: the first [`Self::GROUP`] registers count.
    fn pack_row(simd: S, numbers: [S::F32; MAX_GROUP]) -> S::F32;

    /// Numbers of consecutive rows as places, for a sum down the columns: the first [`Self::GROUP`] rows count.
    fn pack_col(simd: S, rows: [S::F32; MAX_GROUP]) -> S::F32;

    /// `sum + Σ left · right` over the numbers of each place.
    fn dot(simd: S, left: S::F32, right: S::F32, sum: S::F32) -> S::F32;
}

/// The most numbers that a place holds.
pub(crate) const MAX_GROUP: usize = 2;

/// Numbers as they are.
pub(crate) struct F32Dot;

impl<S: Simd> DotFormat<S> for F32Dot {
    const GROUP: usize = 1;
    const PANEL: usize = 3;

    #[inline(always)]
    fn pack_row(_: S, [numbers, _]: [S::F32; MAX_GROUP]) -> S::F32 {
        numbers
    }

    #[inline(always)]
    fn pack_col(_: S, [row, _]: [S::F32; MAX_GROUP]) -> S::F32 {
        row
    }

    #[inline(always)]
    fn dot(_: S, left: S::F32, right: S::F32, sum: S::F32) -> S::F32 {
        left.mul_add(right, sum)
    }
}

/// Numbers rounded to bfloat16 but kept as f32: for processors that cannot multiply bfloat16.
pub(crate) struct RoundedDot;

impl<S: Simd> DotFormat<S> for RoundedDot {
    const GROUP: usize = 1;
    const PANEL: usize = 3;

    #[inline(always)]
    fn pack_row(_: S, [numbers, _]: [S::F32; MAX_GROUP]) -> S::F32 {
        numbers.rounded_to_bf16()
    }

    #[inline(always)]
    fn pack_col(_: S, [row, _]: [S::F32; MAX_GROUP]) -> S::F32 {
        row.rounded_to_bf16()
    }

    #[inline(always)]
    fn dot(_: S, left: S::F32, right: S::F32, sum: S::F32) -> S::F32 {
        left.mul_add(right, sum)
    }
}

/// Pairs of bfloat16, for AVX512-BF16.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Bf16PairDot;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::super::x86::Avx512Bf16;
    use super::{Bf16PairDot, DotFormat, MAX_GROUP};

    impl DotFormat<Avx512Bf16> for Bf16PairDot {
        const GROUP: usize = 2;
        const PANEL: usize = 4;

        #[inline(always)]
        fn pack_row(_: Avx512Bf16, [low, high]: [__m512; MAX_GROUP]) -> __m512 {
            // SAFETY: the processor has AVX512-BF16 (the first argument proves it); both types are 512 plain bits.
            unsafe { transmute(_mm512_cvtne2ps_pbh(high, low)) }
        }

        #[inline(always)]
        fn pack_col(_: Avx512Bf16, [first, second]: [__m512; MAX_GROUP]) -> __m512 {
            // SAFETY: as above, and with AVX512-BW beside it.
            unsafe {
                let zip = _mm512_set_epi16(
                    31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3,
                    18, 2, 17, 1, 16, 0,
                );
                let numbers: __m512i = transmute(_mm512_cvtne2ps_pbh(second, first));
                _mm512_castsi512_ps(_mm512_permutexvar_epi16(zip, numbers))
            }
        }

        #[inline(always)]
        fn dot(_: Avx512Bf16, left: __m512, right: __m512, sum: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_dpbf16_ps(sum, transmute::<__m512, __m512bh>(left), transmute::<__m512, __m512bh>(right)) }
        }
    }
}

//! What the factors of a product are made of.
//!
//! A register of a factor has as many places as lanes. A place is 32 bits: an f32, or a group of two bfloat16 that
//! follow each other in the order of the sum. Places are kept, loaded and spread as f32, whatever they hold; only
//! [`Factors::dot`] looks into them.

use super::lanes::Lanes;

/// Packs registers of numbers into registers of places, and multiplies these.
pub(super) trait Factors<L: Lanes> {
    /// Numbers of a place, at most [`MAX_GROUP`].
    const GROUP: usize;

    /// Registers of queries in a panel.
    const PANEL: usize;

    /// Consecutive numbers as places, for a sum that runs along them: the first [`Self::GROUP`] registers count.
    ///
    /// # Safety
    /// The processor has the instructions of this type, which can be more than those of `L`.
    unsafe fn along(numbers: [L; MAX_GROUP]) -> L;

    /// The numbers of consecutive rows as places, for a sum that runs across rows: the first [`Self::GROUP`] count.
    ///
    /// # Safety
    /// As [`Self::along`].
    unsafe fn across(rows: [L; MAX_GROUP]) -> L;

    /// `sum + Σ left · right` over the numbers of each place.
    ///
    /// # Safety
    /// As [`Self::along`].
    unsafe fn dot(left: L, right: L, sum: L) -> L;
}

/// Factors that take no instructions beyond those of `L`.
pub(super) trait Plain<L: Lanes>: Factors<L> {}

impl<L: Lanes> Plain<L> for Floats {}
impl<L: Lanes> Plain<L> for RoundedFloats {}

/// The most numbers that a place holds.
pub(super) const MAX_GROUP: usize = 2;

/// Numbers as they are.
pub(super) struct Floats;

impl<L: Lanes> Factors<L> for Floats {
    const GROUP: usize = 1;
    const PANEL: usize = 3;

    #[inline(always)]
    unsafe fn along([numbers, _]: [L; MAX_GROUP]) -> L {
        numbers
    }

    #[inline(always)]
    unsafe fn across([row, _]: [L; MAX_GROUP]) -> L {
        row
    }

    #[inline(always)]
    unsafe fn dot(left: L, right: L, sum: L) -> L {
        left.mul_add(right, sum)
    }
}

/// Numbers rounded to bfloat16 but kept as f32: for processors that cannot multiply bfloat16.
pub(super) struct RoundedFloats;

impl<L: Lanes> Factors<L> for RoundedFloats {
    const GROUP: usize = 1;
    const PANEL: usize = 3;

    #[inline(always)]
    unsafe fn along([numbers, _]: [L; MAX_GROUP]) -> L {
        numbers.rounded_to_bf16()
    }

    #[inline(always)]
    unsafe fn across([row, _]: [L; MAX_GROUP]) -> L {
        row.rounded_to_bf16()
    }

    #[inline(always)]
    unsafe fn dot(left: L, right: L, sum: L) -> L {
        left.mul_add(right, sum)
    }
}

/// Pairs of bfloat16, for AVX512-BF16.
#[cfg(target_arch = "x86_64")]
pub(super) struct Pairs;

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::mem::transmute;

    use super::{Factors, MAX_GROUP, Pairs};

    impl Factors<__m512> for Pairs {
        const GROUP: usize = 2;
        const PANEL: usize = 4;

        #[inline(always)]
        unsafe fn along([low, high]: [__m512; MAX_GROUP]) -> __m512 {
            // SAFETY: the processor has AVX512-BF16 (the caller's); both types are 512 plain bits.
            unsafe { transmute(_mm512_cvtne2ps_pbh(high, low)) }
        }

        #[inline(always)]
        unsafe fn across([first, second]: [__m512; MAX_GROUP]) -> __m512 {
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
        unsafe fn dot(left: __m512, right: __m512, sum: __m512) -> __m512 {
            // SAFETY: as above.
            unsafe { _mm512_dpbf16_ps(sum, transmute::<__m512, __m512bh>(left), transmute::<__m512, __m512bh>(right)) }
        }
    }
}

//! Registers of f32 lanes: what the kernels are written in, once for every instruction set.

/// A register of f32 lanes.
///
/// Creating a value from memory or a scalar is unsafe, because the processor must have the instructions. Whoever holds
/// a value has that behind them, so computing with values is safe. Every method is inlined into a function that enables
/// the instructions.
pub(super) trait Lanes: Copy {
    /// Lanes of a register.
    const COUNT: usize;

    /// The same number in every lane.
    ///
    /// # Safety
    /// The processor has the instructions of this type.
    unsafe fn splat(value: f32) -> Self;

    /// `COUNT` numbers from memory of any alignment.
    ///
    /// # Safety
    /// As [`Self::splat`], and `from` is valid for reading `COUNT` numbers.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes `COUNT` numbers to memory of any alignment.
    ///
    /// # Safety
    /// `to` is valid for writing `COUNT` numbers.
    unsafe fn store(self, to: *mut f32);

    /// The same number in every lane.
    fn like(self, value: f32) -> Self;

    fn add(self, other: Self) -> Self;
    fn sub(self, other: Self) -> Self;
    fn mul(self, other: Self) -> Self;

    /// `self · factor + summand`, rounded once where the processor can.
    fn mul_add(self, factor: Self, summand: Self) -> Self;

    /// The larger number; `other` where one of them is NaN.
    fn max(self, other: Self) -> Self;

    /// Whether any lanes are unequal; NaN equals nothing.
    fn differs(self, other: Self) -> bool;

    /// `2ⁿ` for lanes that hold [`ROUNDER`] + n with a whole n in −127..=127; 0 for −127.
    fn power_of_two(self) -> Self;
}

/// 1.5 · 2²³: adding it to a small number rounds that to a whole one, which then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// `2ˣ` of every lane for x ≤ 127, with a relative error below 1.5e-7 down to 2⁻¹²⁶; smaller results are 0. NaN stays
/// NaN.
///
/// x is split into a whole number, which becomes the exponent, and a rest f in −½..=½ (exact). The coefficients
/// interpolate `(2ᶠ − 1) / f` at Chebyshev nodes (error 1.9e-9), so that `2⁰` is exactly 1.
#[inline(always)]
pub(super) fn exp2<L: Lanes>(x: L) -> L {
    const COEFFICIENTS: [f32; 6] =
        [0.000_154_531_63, 0.001_339_086_3, 0.009_618_083, 0.055_503_57, 0.240_226_5, std::f32::consts::LN_2];
    let x = x.like(-127.0).max(x);
    let shifted = x.add(x.like(ROUNDER));
    let rest = x.sub(shifted.sub(x.like(ROUNDER)));
    let mut sum = x.like(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        sum = sum.mul_add(rest, x.like(*coefficient));
    }
    sum.mul_add(rest, x.like(1.0)).mul(shifted.power_of_two())
}

/// Four lanes in plain Rust: what the compiler makes of them is at least the baseline of every 64-bit processor.
impl Lanes for [f32; 4] {
    const COUNT: usize = 4;

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; 4]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's; an array has the layout of its elements.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    fn like(self, value: f32) -> Self {
        [value; 4]
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] - other[i])
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * other[i])
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, summand: Self) -> Self {
        // Where the baseline has no fused instruction, `f32::mul_add` is a call into the C library.
        if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
            std::array::from_fn(|i| self[i].mul_add(factor[i], summand[i]))
        } else {
            std::array::from_fn(|i| self[i] * factor[i] + summand[i])
        }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        std::array::from_fn(|i| if self[i] > other[i] { self[i] } else { other[i] })
    }

    #[inline(always)]
    fn differs(self, other: Self) -> bool {
        self != other
    }

    #[inline(always)]
    fn power_of_two(self) -> Self {
        std::array::from_fn(|i| f32::from_bits((self[i].to_bits() << 23).wrapping_add(0x3f80_0000)))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// Implements [`Lanes`] with the intrinsics of one register type; `$differs` and `$power` have no common shape.
    macro_rules! lanes {
        (
            $register:ty, $count:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident,
            $mul_add:ident, $max:ident, |$a:ident, $b:ident| $differs:expr, |$c:ident| $power:expr
        ) => {
            impl Lanes for $register {
                const COUNT: usize = $count;

                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    // SAFETY: the caller's.
                    unsafe { $splat(value) }
                }

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the caller's.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: the caller's for `to`; `self` was created where the instructions exist.
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                fn like(self, value: f32) -> Self {
                    // SAFETY: `self` was created where the instructions exist.
                    unsafe { $splat(value) }
                }

                #[inline(always)]
                fn add(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $add(self, other) }
                }

                #[inline(always)]
                fn sub(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $sub(self, other) }
                }

                #[inline(always)]
                fn mul(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $mul(self, other) }
                }

                #[inline(always)]
                fn mul_add(self, factor: Self, summand: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $mul_add(self, factor, summand) }
                }

                #[inline(always)]
                fn max(self, other: Self) -> Self {
                    // SAFETY: as above.
                    unsafe { $max(self, other) }
                }

                #[inline(always)]
                fn differs(self, other: Self) -> bool {
                    let ($a, $b) = (self, other);
                    // SAFETY: as above.
                    unsafe { $differs }
                }

                #[inline(always)]
                fn power_of_two(self) -> Self {
                    let $c = self;
                    // SAFETY: as above.
                    unsafe { $power }
                }
            }
        };
    }

    lanes!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps,
        _mm512_max_ps,
        |a, b| _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, b) != 0,
        |x| _mm512_castsi512_ps(_mm512_add_epi32(
            _mm512_slli_epi32::<23>(_mm512_castps_si512(x)),
            _mm512_set1_epi32(0x3f80_0000)
        ))
    );

    lanes!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps,
        _mm256_max_ps,
        |a, b| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(a, b)) != 0,
        |x| _mm256_castsi256_ps(_mm256_add_epi32(
            _mm256_slli_epi32::<23>(_mm256_castps_si256(x)),
            _mm256_set1_epi32(0x3f80_0000)
        ))
    );
}

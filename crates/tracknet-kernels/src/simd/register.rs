//! Registers of f32: what kernels with hand-chosen instructions are written in.

use super::dot::RoundedDot;
use super::{Simd, round_bf16, widen_bf16};

/// A register of f32.
///
/// Making one from memory or a scalar is unsafe here, because the processor must have the instructions; kernels make them
/// through [`Simd`], whose values prove it. Whoever holds a register has that behind them, so computing with it is safe.
pub(crate) trait Register: Copy {
    /// Numbers in a register.
    const LANES: usize;

    /// The same number in every lane.
    ///
    /// # Safety
    /// The processor has the instructions of this type.
    unsafe fn splat(value: f32) -> Self;

    /// `LANES` numbers from memory of any alignment.
    ///
    /// # Safety
    /// As [`Self::splat`], and `from` is valid for reading `LANES` numbers.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes `LANES` numbers to memory of any alignment.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` numbers.
    unsafe fn store(self, to: *mut f32);

    /// Over the first `LANES` numbers of a slice.
    #[inline(always)]
    fn write(self, numbers: &mut [f32]) {
        let numbers = &mut numbers[..Self::LANES];
        // SAFETY: the slice has as many numbers.
        unsafe { self.store(numbers.as_mut_ptr()) };
    }

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

    /// The nearest bfloat16, ties to even, as f32.
    #[inline(always)]
    fn rounded_to_bf16(self) -> Self {
        let mut numbers = [0.0_f32; MAX_LANES];
        self.write(&mut numbers);
        for number in &mut numbers[..Self::LANES] {
            *number = widen_bf16(round_bf16(*number));
        }
        // SAFETY: `self` was made where the instructions exist, and there are as many numbers.
        unsafe { Self::load(numbers.as_ptr()) }
    }

    /// The sum of the lanes, in halves.
    #[inline(always)]
    fn sum(self) -> f32 {
        let mut numbers = [0.0_f32; MAX_LANES];
        self.write(&mut numbers);
        let mut count = Self::LANES;
        while count > 1 {
            count /= 2;
            for lane in 0..count {
                numbers[lane] += numbers[lane + count];
            }
        }
        numbers[0]
    }

    /// Writes a square of `LANES` rows, `stride` apart, transposed into rows `to_stride` apart.
    ///
    /// # Safety
    /// As [`Self::splat`]; `from` is valid for reading and `to` for writing `LANES` such rows of `LANES` numbers.
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize);
}

/// Lanes of the widest register.
pub(crate) const MAX_LANES: usize = 16;

/// 1.5 · 2²³: adding it to a small number rounds that to a whole one, which then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;

/// `2ˣ` of every lane for x ≤ 127, with a relative error below 1.5e-7 down to 2⁻¹²⁶; smaller results are 0. NaN stays
/// NaN.
///
/// x is split into a whole number, which becomes the exponent, and a rest f in −½..=½ (exact). The coefficients
/// interpolate `(2ᶠ − 1) / f` at Chebyshev nodes (error 1.9e-9), so that `2⁰` is exactly 1.
#[inline(always)]
pub(crate) fn exp2<S: Simd>(simd: S, x: S::F32) -> S::F32 {
    const COEFFICIENTS: [f32; 6] =
        [0.000_154_531_63, 0.001_339_086_3, 0.009_618_083, 0.055_503_57, 0.240_226_5, std::f32::consts::LN_2];
    let x = simd.splat(-127.0).max(x);
    let shifted = x.add(simd.splat(ROUNDER));
    let rest = x.sub(shifted.sub(simd.splat(ROUNDER)));
    let mut sum = simd.splat(COEFFICIENTS[0]);
    for coefficient in &COEFFICIENTS[1..] {
        sum = sum.mul_add(rest, simd.splat(*coefficient));
    }
    sum.mul_add(rest, simd.splat(1.0)).mul(shifted.power_of_two())
}

/// Every processor: registers of four lanes in plain Rust, of which the compiler makes at least the baseline of every
/// 64-bit processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

// SAFETY: plain Rust runs everywhere.
unsafe impl Simd for Portable {
    const FMA: bool = false;
    const BLOCK_ROWS: usize = 4;
    type F32 = [f32; 4];
    type Bf16Dot = RoundedDot;
}

impl Register for [f32; 4] {
    const LANES: usize = 4;

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

    #[inline(always)]
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller's.
        unsafe {
            let rows: [Self; 4] = std::array::from_fn(|i| Self::load(from.add(i * stride)));
            for column in 0..4 {
                rows.map(|row| row[column]).store(to.add(column * to_stride));
            }
        }
    }
}

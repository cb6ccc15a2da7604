//! Registers of f32 lanes: what the kernels are written in, once for every instruction set.

#[cfg(target_arch = "x86_64")]
mod x86;

use super::element::rounded_bits;

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

    /// The first `COUNT` numbers of a slice.
    ///
    /// # Safety
    /// As [`Self::splat`].
    #[inline(always)]
    unsafe fn read(numbers: &[f32]) -> Self {
        let numbers = &numbers[..Self::COUNT];
        // SAFETY: the caller's; the slice has as many numbers.
        unsafe { Self::load(numbers.as_ptr()) }
    }

    /// Over the first `COUNT` numbers of a slice.
    #[inline(always)]
    fn write(self, numbers: &mut [f32]) {
        let numbers = &mut numbers[..Self::COUNT];
        // SAFETY: the slice has as many numbers.
        unsafe { self.store(numbers.as_mut_ptr()) };
    }

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

    /// The nearest bfloat16, ties to even, as f32.
    #[inline(always)]
    fn rounded_to_bf16(self) -> Self {
        let mut numbers = [0.0_f32; MAX_COUNT];
        self.write(&mut numbers);
        for number in &mut numbers[..Self::COUNT] {
            *number = f32::from_bits(rounded_bits(number.to_bits()));
        }
        // SAFETY: `self` was created where the instructions exist.
        unsafe { Self::read(&numbers) }
    }

    /// The sum of the lanes, in halves.
    #[inline(always)]
    fn total(self) -> f32 {
        let mut numbers = [0.0_f32; MAX_COUNT];
        self.write(&mut numbers);
        let mut count = Self::COUNT;
        while count > 1 {
            count /= 2;
            for lane in 0..count {
                numbers[lane] += numbers[lane + count];
            }
        }
        numbers[0]
    }

    /// Writes a square of `COUNT` rows, `stride` apart, transposed into rows `to_stride` apart.
    ///
    /// # Safety
    /// As [`Self::splat`]; `from` is valid for reading and `to` for writing `COUNT` such rows of `COUNT` numbers.
    unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize);
}

/// Lanes of the widest register.
pub(super) const MAX_COUNT: usize = 16;

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

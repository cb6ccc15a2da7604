//! Kernels that are written once and compiled for every instruction set.
//!
//! A [`Kernel`] is its arguments and a body that is generic over the instruction set ([`Simd`]). [`Level::run`] runs the
//! copy of the body that is compiled for the level: [`Level::best`] in operations, each of [`Level::available`] in tests.
//! A body works in one of two ways:
//!
//! * on blocks of 16 values ([`F32x16`]), as plain loops that the compiler turns into the registers of the set. All
//!   copies do the same in the same order and differ only where a product and a sum are rounded once (with FMA) or twice;
//! * on registers ([`Register`], as wide as the set has them), where loads, shuffles or dot products ([`DotFormat`]) have
//!   to be chosen by hand.

mod bf16;
mod dot;
mod f32x16;
mod level;
mod register;
#[cfg(target_arch = "x86_64")]
mod transpose;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use bf16::{round_bf16, widen_bf16};
pub(crate) use dot::{DotFormat, F32Dot, MAX_GROUP};
pub(crate) use f32x16::{F32x16, LANES, each_block, mul_add};
pub(crate) use level::{InstructionSet, Level};
pub(crate) use register::{MAX_LANES, Portable, Register, exp2};
#[cfg(target_arch = "x86_64")]
pub(crate) use transpose::transposed;

/// A body of work with its arguments, compiled for each instruction set by [`Level::run`].
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// Whether the body multiplies with [`Simd::Bf16Dot`]. Only then is there a copy for dot products of bfloat16: others
    /// would be the same as for AVX-512.
    const MULTIPLIES_BF16: bool = false;

    /// The body. It and all that it calls must be `#[inline(always)]` down to the last loop: only what is inlined into the
    /// function that enables an instruction set is compiled for it.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// An instruction set, as a type that kernels are compiled for. A value of it proves that the processor has it, so that
/// registers are made without further questions.
///
/// # Safety
/// Values exist only where the processor has the instructions of [`Self::F32`] and [`Self::Bf16Dot`].
pub(crate) unsafe trait Simd: Copy {
    /// Whether [`mul_add`] and [`F32x16::mul_add`] round once. Without an instruction for it that would be a slow call.
    const FMA: bool;

    /// Rows of the block of a matrix product that stays in registers, beside up to three registers of columns: as many as
    /// the set has room for (8 · 3 of 32 registers with AVX-512, 4 · 3 of 16 elsewhere).
    const BLOCK_ROWS: usize;

    /// A register of f32.
    type F32: Register;

    /// How factors are multiplied that are rounded to bfloat16.
    type Bf16Dot: DotFormat<Self>;

    /// The same number in every lane.
    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        // SAFETY: the value of this type proves that the processor has the instructions.
        unsafe { Self::F32::splat(value) }
    }

    /// As many numbers as a register has lanes, from memory of any alignment.
    ///
    /// # Safety
    /// `from` is valid for reading them.
    #[inline(always)]
    unsafe fn load(self, from: *const f32) -> Self::F32 {
        // SAFETY: as above, and the caller's.
        unsafe { Self::F32::load(from) }
    }

    /// The first numbers of a slice, as many as a register has lanes.
    #[inline(always)]
    fn read(self, numbers: &[f32]) -> Self::F32 {
        let numbers = &numbers[..Self::F32::LANES];
        // SAFETY: the slice has as many numbers.
        unsafe { self.load(numbers.as_ptr()) }
    }

    /// Writes the transpose of a square matrix with as many rows and columns as a register has lanes; rows lie `stride`
    /// and `to_stride` apart.
    #[inline(always)]
    fn transpose(self, from: &[f32], stride: usize, to: &mut [f32], to_stride: usize) {
        let lanes = Self::F32::LANES;
        let from = &from[..(lanes - 1) * stride + lanes];
        let to = &mut to[..(lanes - 1) * to_stride + lanes];
        // SAFETY: as above; the slices reach to the last number of the squares.
        unsafe { Self::F32::transpose(from.as_ptr(), stride, to.as_mut_ptr(), to_stride) };
    }
}

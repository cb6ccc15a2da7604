//! Which instructions a kernel runs with, chosen at run time.

use super::factors::{Factors, Floats, Plain, RoundedFloats};
use super::lanes::Lanes;
use crate::ComputeDtype;

/// An instruction set the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// 16 lanes, and dot products of bfloat16.
    Avx512Bf16,
    /// 16 lanes.
    Avx512,
    /// 8 lanes with fused multiply-add.
    Avx2,
    /// 4 lanes in plain Rust, on every processor.
    Portable,
}

impl Isa {
    /// The widest this processor has.
    pub(crate) fn best() -> Self {
        [Self::Avx512Bf16, Self::Avx512, Self::Avx2]
            .into_iter()
            .find(|isa| isa.is_available())
            .unwrap_or(Self::Portable)
    }

    /// Whether this processor has it.
    pub(crate) fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512bf16")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx512Bf16 | Self::Avx512 | Self::Avx2 => false,
            Self::Portable => true,
        }
    }

    /// Runs `task` with these instructions; with bfloat16 as compute dtype, the factors of its products are rounded to
    /// it. All implementations round the same numbers and differ only in the order of sums.
    pub(super) fn run<T: Task>(self, compute: ComputeDtype, task: T) -> T::Output {
        assert!(self.is_available(), "this processor has no {self:?}");
        match (self, compute) {
            // SAFETY: the processor has the instructions (asserted above).
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512Bf16, ComputeDtype::Bf16) => unsafe { run_avx512bf16(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512, ComputeDtype::Bf16) => unsafe { run_avx512::<T, RoundedFloats>(task) },
            // SAFETY: as above; AVX512-BF16 comes with the rest.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx512Bf16 | Self::Avx512, _) => unsafe { run_avx512::<T, Floats>(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, ComputeDtype::Bf16) => unsafe { run_avx2::<T, RoundedFloats>(task) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            (Self::Avx2, _) => unsafe { run_avx2::<T, Floats>(task) },
            (_, ComputeDtype::Bf16) => run_portable::<T, RoundedFloats>(task),
            _ => run_portable::<T, Floats>(task),
        }
    }
}

/// Work written for any [`Lanes`] and [`Factors`].
///
/// `run` is to be `#[inline(always)]` down to its last loop: only what is inlined into the function that enables the
/// instructions is compiled for them.
pub(super) trait Task {
    type Output;

    /// `ROWS` is the height of the block of a product that stays in registers, beside at most [`MAX_VECTORS`] registers
    /// of width: as large as the registers allow (24 of 32 in AVX-512, 12 of 16 elsewhere).
    ///
    /// # Safety
    /// The processor has the instructions of `L` and `F`.
    unsafe fn run<L: Lanes, F: Factors<L>, const ROWS: usize>(self) -> Self::Output;
}

/// Registers side by side in a block of a product.
pub(super) const MAX_VECTORS: usize = 3;

fn run_portable<T: Task, F: Plain<[f32; 4]>>(task: T) -> T::Output {
    #[cfg(test)]
    crate::entered::count(("attention", "portable"));
    // SAFETY: registers and factors of plain Rust are on every processor.
    unsafe { task.run::<[f32; 4], F, 4>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn run_avx512bf16<T: Task>(task: T) -> T::Output {
    #[cfg(test)]
    crate::entered::count(("attention", "AVX512-BF16"));
    // SAFETY: this function enables the instructions.
    unsafe { task.run::<std::arch::x86_64::__m512, super::factors::Pairs, 8>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn run_avx512<T: Task, F: Plain<std::arch::x86_64::__m512>>(task: T) -> T::Output {
    #[cfg(test)]
    crate::entered::count(("attention", "AVX-512"));
    // SAFETY: this function enables the instructions.
    unsafe { task.run::<std::arch::x86_64::__m512, F, 8>() }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<T: Task, F: Plain<std::arch::x86_64::__m256>>(task: T) -> T::Output {
    #[cfg(test)]
    crate::entered::count(("attention", "AVX2"));
    // SAFETY: this function enables the instructions.
    unsafe { task.run::<std::arch::x86_64::__m256, F, 4>() }
}

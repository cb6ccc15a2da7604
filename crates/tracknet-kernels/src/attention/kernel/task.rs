//! Work on one head, in the format that its factors are multiplied in.

use crate::ComputeDtype;
use crate::simd::{DotFormat, F32Dot, Kernel, Level, Simd};

/// Work that is written for any instruction set and format of factors. As the body of a [`Kernel`], `run` is to be
/// `#[inline(always)]` down to its last loop.
pub(super) trait Task {
    type Output;

    fn run<S: Simd, D: DotFormat<S>>(self, simd: S) -> Self::Output;
}

/// Runs `task` on a level; with bfloat16 as compute dtype, the factors of its products are rounded to it. All levels
/// round the same numbers and differ only in the order of sums.
pub(super) fn run<T: Task>(level: Level, compute: ComputeDtype, task: T) -> T::Output {
    match compute {
        ComputeDtype::Bf16 => level.run(Bf16Factors(task)),
        ComputeDtype::F16 | ComputeDtype::F32 => level.run(F32Factors(task)),
    }
}

struct F32Factors<T>(T);

impl<T: Task> Kernel for F32Factors<T> {
    type Output = T::Output;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> T::Output {
        self.0.run::<S, F32Dot>(simd)
    }
}

struct Bf16Factors<T>(T);

impl<T: Task> Kernel for Bf16Factors<T> {
    type Output = T::Output;
    const MULTIPLIES_BF16: bool = true;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> T::Output {
        self.0.run::<S, S::Bf16Dot>(simd)
    }
}

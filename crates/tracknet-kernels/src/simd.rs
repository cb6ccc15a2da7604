//! One source for every instruction set.
//!
//! A kernel is written once, as loops over [`Lanes`], and compiled once for each instruction set that it can meet: the
//! compiler turns the loops into that set's vectors. Which copy runs is decided at run time, by the processor.
//!
//! All copies work on 16 lanes in the same order. They differ only where a product and a sum are rounded once (with
//! FMA) or twice (without).

use std::ops::{Add, Mul, Sub};
use std::sync::OnceLock;

/// Values of a block. One AVX-512 register, two AVX2 registers.
pub(crate) const LANES: usize = 16;

/// An instruction set that kernels are compiled for and that this machine has: only [`Isa::available`] makes those that
/// not every machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Isa(Set);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    /// What every processor of the target has.
    Portable,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// What every machine has.
    pub(crate) const PORTABLE: Self = Self(Set::Portable);

    /// The best that this machine has.
    pub(crate) fn detect() -> Self {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().last().copied().unwrap_or(Self::PORTABLE))
    }

    /// All that this machine has, the best last; tests force each.
    pub(crate) fn available() -> Vec<Self> {
        let mut available = vec![Self::PORTABLE];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 {
                available.push(Self(Set::Avx2));
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                available.push(Self(Set::Avx512));
            }
        }
        available
    }

    /// Runs the copy of a kernel for this instruction set.
    #[inline]
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Set::Portable => run_portable(kernel),
            // SAFETY: the value exists only if `available` found the features on this machine.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { run_avx2(kernel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { run_avx512(kernel) },
        }
    }
}

#[inline]
fn run_portable<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(test)]
    crate::entered::count(("simd", "portable"));
    kernel.run::<WithoutFma>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn run_avx2<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(test)]
    crate::entered::count(("simd", "AVX2"));
    kernel.run::<WithFma>()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
fn run_avx512<K: Kernel>(kernel: K) -> K::Output {
    #[cfg(test)]
    crate::entered::count(("simd", "AVX-512"));
    kernel.run::<WithFma>()
}

/// The body of a kernel with its arguments. `run` and all that it calls must be `#[inline(always)]`, or they are not
/// compiled for the instruction set of the caller.
pub(crate) trait Kernel {
    /// What it returns.
    type Output;

    /// The body.
    fn run<A: Arithmetic>(self) -> Self::Output;
}

/// How `a · b + c` is computed.
pub(crate) trait Arithmetic {
    /// Whether the instruction set has a fused product and sum; where it has none, the fused one is a slow call.
    const FMA: bool;
}

#[cfg(target_arch = "x86_64")]
struct WithFma;
struct WithoutFma;

#[cfg(target_arch = "x86_64")]
impl Arithmetic for WithFma {
    const FMA: bool = true;
}

impl Arithmetic for WithoutFma {
    const FMA: bool = false;
}

/// Sixteen values that are worked on at once.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct Lanes(pub(crate) [f32; LANES]);

impl Lanes {
    pub(crate) const ZERO: Self = Self([0.0; LANES]);

    #[inline(always)]
    pub(crate) fn splat(value: f32) -> Self {
        Self([value; LANES])
    }

    /// The 16 values from `at`.
    #[inline(always)]
    pub(crate) fn load(values: &[f32], at: usize) -> Self {
        match values[at..].first_chunk() {
            Some(values) => Self(*values),
            None => too_short(values.len(), at),
        }
    }

    /// The values from `at`: 16 of them, or as many as there are and then zeros.
    #[inline(always)]
    pub(crate) fn load_up_to(values: &[f32], at: usize) -> Self {
        match values[at..].first_chunk() {
            Some(values) => Self(*values),
            None => Self::load_or(&values[at..], 0.0),
        }
    }

    /// A slice of at most 16 values, filled up with `filler`. A call, to keep it apart from the loops over whole blocks.
    #[inline(never)]
    pub(crate) fn load_or(values: &[f32], filler: f32) -> Self {
        let mut lanes = Self::splat(filler);
        for (lane, value) in lanes.0.iter_mut().zip(values) {
            *lane = *value;
        }
        lanes
    }

    /// Into the first 16 places, or as many as there are.
    #[inline(always)]
    pub(crate) fn store(self, values: &mut [f32]) {
        match values.first_chunk_mut() {
            Some(values) => *values = self.0,
            None => self.store_part(values),
        }
    }

    #[inline(never)]
    fn store_part(self, values: &mut [f32]) {
        for (value, lane) in values.iter_mut().zip(self.0) {
            *value = lane;
        }
    }

    /// `self · factor + sum`.
    #[inline(always)]
    pub(crate) fn mul_add<A: Arithmetic>(self, factor: Self, sum: Self) -> Self {
        let mut lanes = self;
        for ((value, factor), sum) in lanes.0.iter_mut().zip(&factor.0).zip(&sum.0) {
            *value = mul_add::<A>(*value, *factor, *sum);
        }
        lanes
    }

    /// The sum of the lanes, in pairs.
    #[inline(always)]
    pub(crate) fn sum(self) -> f32 {
        let mut lanes = self.0;
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

/// An operator on each lane. Loops and no closures here and in the kernels: a closure that is not inlined is compiled
/// without the instruction set of its surroundings.
macro_rules! lanewise {
    ($operator:ident, $method:ident, $assign:tt) => {
        impl $operator for Lanes {
            type Output = Self;

            #[inline(always)]
            fn $method(mut self, other: Self) -> Self {
                for (lane, other) in self.0.iter_mut().zip(&other.0) {
                    *lane $assign *other;
                }
                self
            }
        }
    };
}

lanewise!(Add, add, +=);
lanewise!(Sub, sub, -=);
lanewise!(Mul, mul, *=);

/// Runs a block of code for 16 values of a slice after the other, with the place of the first; the last are filled up
/// with a value of choice. A macro, because whole blocks and the rest must not share code: what is loaded in two ways
/// does not stay in registers.
macro_rules! each_block {
    ($values:expr, $filler:expr, ($at:ident, $lanes:ident) $body:block) => {{
        let (whole, rest) = $values.as_chunks::<{ $crate::simd::LANES }>();
        for (block, values) in whole.iter().enumerate() {
            let ($at, $lanes) = (block * $crate::simd::LANES, $crate::simd::Lanes(*values));
            $body
        }
        if !rest.is_empty() {
            let ($at, $lanes) = (whole.len() * $crate::simd::LANES, $crate::simd::Lanes::load_or(rest, $filler));
            $body
        }
    }};
}
pub(crate) use each_block;

/// `a · b + c`.
#[inline(always)]
pub(crate) fn mul_add<A: Arithmetic>(a: f32, b: f32, c: f32) -> f32 {
    if A::FMA { a.mul_add(b, c) } else { a * b + c }
}

#[cold]
fn too_short(length: usize, at: usize) -> ! {
    panic!("{LANES} lanes from {at} do not fit {length} values")
}

//! Blocks of 16 values, whose loops the compiler turns into the registers of any instruction set.

use std::ops::{Add, Mul, Sub};

use super::Simd;

/// Values of a block. One AVX-512 register, two AVX2 registers.
pub(crate) const LANES: usize = 16;

/// Sixteen values that are worked on at once.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(crate) struct F32x16(pub(crate) [f32; LANES]);

impl F32x16 {
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
    pub(crate) fn mul_add<S: Simd>(self, factor: Self, sum: Self) -> Self {
        let mut lanes = self;
        for ((value, factor), sum) in lanes.0.iter_mut().zip(&factor.0).zip(&sum.0) {
            *value = mul_add::<S>(*value, *factor, *sum);
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
        impl $operator for F32x16 {
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
            let ($at, $lanes) = (block * $crate::simd::LANES, $crate::simd::F32x16(*values));
            $body
        }
        if !rest.is_empty() {
            let ($at, $lanes) = (whole.len() * $crate::simd::LANES, $crate::simd::F32x16::load_or(rest, $filler));
            $body
        }
    }};
}
pub(crate) use each_block;

/// `a · b + c`.
#[inline(always)]
pub(crate) fn mul_add<S: Simd>(a: f32, b: f32, c: f32) -> f32 {
    if S::FMA { a.mul_add(b, c) } else { a * b + c }
}

#[cold]
fn too_short(length: usize, at: usize) -> ! {
    panic!("{LANES} lanes from {at} do not fit {length} values")
}

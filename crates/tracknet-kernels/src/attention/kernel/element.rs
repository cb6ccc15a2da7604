//! What the tensors around the kernel hold.

use half::bf16;

use crate::simd::{round_bf16, widen_bf16};

/// A number of a tensor. The kernel turns it into f32 while it packs, and back on the way out.
pub(crate) trait Element: Copy + Default + Send + Sync {
    fn to_f32(self) -> f32;

    /// To nearest, ties to even.
    fn from_f32(value: f32) -> Self;
}

impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        widen_bf16(self.to_bits())
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        Self::from_bits(round_bf16(value))
    }
}

//! What the tensors around the kernel hold.

use half::bf16;

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

/// Written out on bits, because what `half` offers is not inlined everywhere, and only inlined loops become vectors.
impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        Self::from_bits((rounded_bits(value.to_bits()) >> 16) as u16)
    }
}

/// The bits of an f32, of which those of a bfloat16 are the upper half, rounded to it; NaN stays NaN.
#[inline(always)]
pub(super) fn rounded_bits(bits: u32) -> u32 {
    let is_nan = bits & 0x7fff_ffff > 0x7f80_0000;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    (if is_nan { bits | 0x0040_0000 } else { rounded }) & 0xffff_0000
}

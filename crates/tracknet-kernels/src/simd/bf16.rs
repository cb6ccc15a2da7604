//! bfloat16, written out on bits: what `half` offers is not inlined everywhere, and only inlined loops become vectors.

/// The bits of the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // The carry could make an infinity or a zero of a NaN; a quiet one has its highest bit of the fraction set.
    let bits = if x.is_nan() { bits | 0x0040_0000 } else { nearest };
    (bits >> 16) as u16
}

/// The value of a bfloat16.
#[inline(always)]
pub(crate) fn widen_bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

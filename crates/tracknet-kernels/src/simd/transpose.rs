//! Squares transposed in registers.

use std::arch::x86_64::*;

/// A 16 × 16 matrix of 32-bit values transposed: first within blocks of 4 × 4, then the blocks.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn transposed(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut blocks = rows;
    for four in 0..4 {
        let [a, b, c, d] = [rows[four * 4], rows[four * 4 + 1], rows[four * 4 + 2], rows[four * 4 + 3]];
        let [ab, cd] = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
        blocks[four] = _mm512_unpacklo_epi64(ab, cd);
        blocks[4 + four] = _mm512_unpackhi_epi64(ab, cd);
        let [ab, cd] = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
        blocks[8 + four] = _mm512_unpacklo_epi64(ab, cd);
        blocks[12 + four] = _mm512_unpackhi_epi64(ab, cd);
    }
    let mut columns = rows;
    for column in 0..4 {
        let [a, b, c, d] = [blocks[column * 4], blocks[column * 4 + 1], blocks[column * 4 + 2], blocks[column * 4 + 3]];
        let [ab, cd] = [_mm512_shuffle_i32x4::<0b10_00_10_00>(a, b), _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d)];
        columns[column] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd);
        columns[8 + column] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd);
        let [ab, cd] = [_mm512_shuffle_i32x4::<0b11_01_11_01>(a, b), _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d)];
        columns[4 + column] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab, cd);
        columns[12 + column] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab, cd);
    }
    columns
}

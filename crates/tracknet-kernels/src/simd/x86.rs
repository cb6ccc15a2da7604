//! AVX2 and AVX-512.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::dot::{Bf16PairDot, RoundedDot};
use super::{Register, Simd, transposed};

/// AVX2 and FMA. Like the other types here it is made only where its instructions are enabled.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(pub(super) ());

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(super) ());

/// [`Avx512`] with dot products of bfloat16.
#[derive(Clone, Copy)]
pub(crate) struct Avx512Bf16(pub(super) ());

// SAFETY: values are made only by functions that enable the instructions (`super::level`), here and below.
unsafe impl Simd for Avx2 {
    const FMA: bool = true;
    const BLOCK_ROWS: usize = 4;
    type F32 = __m256;
    type Bf16Dot = RoundedDot;
}

// SAFETY: as above.
unsafe impl Simd for Avx512 {
    const FMA: bool = true;
    const BLOCK_ROWS: usize = 8;
    type F32 = __m512;
    type Bf16Dot = RoundedDot;
}

// SAFETY: as above.
unsafe impl Simd for Avx512Bf16 {
    const FMA: bool = true;
    const BLOCK_ROWS: usize = 8;
    type F32 = __m512;
    type Bf16Dot = Bf16PairDot;
}

/// Implements [`Register`] with the intrinsics of one register type; what comes last has no common shape.
macro_rules! register {
    (
        $register:ty, $count:literal, $splat:ident, $load:ident, $store:ident, $add:ident, $sub:ident, $mul:ident,
        $mul_add:ident, $max:ident, |$a:ident, $b:ident| $differs:expr, |$c:ident| $power:expr,
        $transposed:path
    ) => {
        impl Register for $register {
            const LANES: usize = $count;

            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the caller's.
                unsafe { $splat(value) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller's.
                unsafe { $load(from) }
            }

            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller's for `to`; `self` was made where the instructions exist.
                unsafe { $store(to, self) }
            }

            #[inline(always)]
            fn add(self, other: Self) -> Self {
                // SAFETY: `self` was made where the instructions exist.
                unsafe { $add(self, other) }
            }

            #[inline(always)]
            fn sub(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $sub(self, other) }
            }

            #[inline(always)]
            fn mul(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $mul(self, other) }
            }

            #[inline(always)]
            fn mul_add(self, factor: Self, summand: Self) -> Self {
                // SAFETY: as above.
                unsafe { $mul_add(self, factor, summand) }
            }

            #[inline(always)]
            fn max(self, other: Self) -> Self {
                // SAFETY: as above.
                unsafe { $max(self, other) }
            }

            #[inline(always)]
            fn differs(self, other: Self) -> bool {
                let ($a, $b) = (self, other);
                // SAFETY: as above.
                unsafe { $differs }
            }

            #[inline(always)]
            fn power_of_two(self) -> Self {
                let $c = self;
                // SAFETY: as above.
                unsafe { $power }
            }

            #[inline(always)]
            unsafe fn transpose(from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
                // SAFETY: the caller's.
                unsafe {
                    let mut rows = [$splat(0.0); $count];
                    for (i, row) in rows.iter_mut().enumerate() {
                        *row = $load(from.add(i * stride));
                    }
                    for (i, row) in $transposed(rows).into_iter().enumerate() {
                        $store(to.add(i * to_stride), row);
                    }
                }
            }
        }
    };
}

register!(
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    _mm512_max_ps,
    |a, b| _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(a, b) != 0,
    |x| _mm512_castsi512_ps(_mm512_add_epi32(
        _mm512_slli_epi32::<23>(_mm512_castps_si512(x)),
        _mm512_set1_epi32(0x3f80_0000)
    )),
    transposed16
);

#[inline]
#[target_feature(enable = "avx512f")]
fn transposed16(rows: [__m512; 16]) -> [__m512; 16] {
    // SAFETY: both are plain bits of the same size.
    let bits = unsafe { transmute::<[__m512; 16], [__m512i; 16]>(rows) };
    // SAFETY: as above.
    unsafe { transmute::<[__m512i; 16], [__m512; 16]>(transposed(bits)) }
}

register!(
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    _mm256_max_ps,
    |a, b| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_NEQ_UQ>(a, b)) != 0,
    |x| _mm256_castsi256_ps(_mm256_add_epi32(
        _mm256_slli_epi32::<23>(_mm256_castps_si256(x)),
        _mm256_set1_epi32(0x3f80_0000)
    )),
    transposed8
);

/// First within pairs of rows, then within fours, then the halves of registers.
#[inline]
#[target_feature(enable = "avx")]
fn transposed8(rows: [__m256; 8]) -> [__m256; 8] {
    let mut blocks = rows;
    for four in 0..2 {
        let [a, b, c, d] = [rows[four * 4], rows[four * 4 + 1], rows[four * 4 + 2], rows[four * 4 + 3]];
        let [ab, cd] = [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)];
        blocks[four * 4] = _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd);
        blocks[four * 4 + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd);
        let [ab, cd] = [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)];
        blocks[four * 4 + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(ab, cd);
        blocks[four * 4 + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(ab, cd);
    }
    let mut columns = rows;
    for column in 0..4 {
        columns[column] = _mm256_permute2f128_ps::<0x20>(blocks[column], blocks[4 + column]);
        columns[4 + column] = _mm256_permute2f128_ps::<0x31>(blocks[column], blocks[4 + column]);
    }
    columns
}

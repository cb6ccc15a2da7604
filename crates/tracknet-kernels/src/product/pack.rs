//! Factors as tiles of bfloat16, the layout that the microkernels read.
//!
//! A [`Tile`] of the left factor is 16 rows of 32 values, row by row. A tile of the right factor is 32 rows of 16
//! columns: 16 lines, each with a pair of rows, the two values of a column side by side. That is what the matrix unit
//! and the dot product instructions take. Whatever lies outside of a matrix is zero.

use std::arch::x86_64::*;

use super::weight::{Side, Storage, Weight};
use crate::fourbit::PackedView;
use crate::simd::transposed;

/// Rows of a left tile, columns and pairs of rows of a right one.
pub(super) const EDGE: usize = 16;

/// Values summed in a tile.
pub(super) const DEPTH: usize = 32;

/// A kilobyte of bfloat16; a line of 32 values fills a cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Tile(pub(super) [u16; EDGE * DEPTH]);

impl Tile {
    pub(super) const ZERO: Self = Self([0; EDGE * DEPTH]);
}

/// `[rows, columns]` row-major as left tiles: `depth` of them for 16 rows, into all of `tiles`.
///
/// Rounds to nearest, ties to even; subnormal numbers become zero, as in the instructions that multiply.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn pack_rows(x: &[f32], columns: usize, tiles: &mut [Tile]) {
    let depth = columns.div_ceil(DEPTH);
    let rows = x.len() / columns;
    for (block, tiles) in tiles.chunks_exact_mut(depth).enumerate() {
        for line in 0..EDGE {
            let row = block * EDGE + line;
            let values = if row < rows { &x[row * columns..(row + 1) * columns] } else { &[] };
            for (step, tile) in tiles.iter_mut().enumerate() {
                let values = values.get(step * DEPTH..).unwrap_or_default();
                let high = load_up_to(values.get(EDGE..).unwrap_or_default());
                store_line(tile, line, bf16_bits(_mm512_cvtne2ps_pbh(high, load_up_to(values))));
            }
        }
    }
}

/// The columns from `first` on of the right factor, 16 for each group of `depth` tiles, into all of `tiles`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
pub(super) fn pack_panel(weight: &Weight<'_>, side: Side, first: usize, tiles: &mut [Tile]) {
    match side {
        Side::In => pack_transposed(weight, first, tiles),
        Side::Out => pack_straight(weight, first, tiles),
    }
}

/// A column of the right factor is a row of the weight: 16 of them are unpacked, then transposed in pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_transposed(weight: &Weight<'_>, first: usize, tiles: &mut [Tile]) {
    let [out_features, in_features] = weight.shape;
    let depth = in_features.div_ceil(DEPTH);
    let reader = WeightReader::new(weight);
    let mut rows = vec![0_u16; EDGE * depth * DEPTH];
    for (group, tiles) in tiles.chunks_exact_mut(depth).enumerate() {
        for (line, values) in rows.chunks_exact_mut(depth * DEPTH).enumerate() {
            let row = first + group * EDGE + line;
            if row < out_features {
                reader.read(row * in_features, &mut values[..in_features]);
            } else {
                values.fill(0);
            }
        }
        for (step, tile) in tiles.iter_mut().enumerate() {
            let mut lines = [_mm512_setzero_si512(); EDGE];
            for (line, row) in lines.iter_mut().zip(rows.chunks_exact(depth * DEPTH)) {
                *line = load_line(&row[step * DEPTH..]);
            }
            for (at, line) in transposed(lines).into_iter().enumerate() {
                store_line(tile, at, line);
            }
        }
    }
}

/// A row of the right factor is a row of the weight: two of them are unpacked and zipped.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn pack_straight(weight: &Weight<'_>, first: usize, tiles: &mut [Tile]) {
    let [out_features, in_features] = weight.shape;
    let depth = out_features.div_ceil(DEPTH);
    let reader = WeightReader::new(weight);
    let columns = (tiles.len() / depth * EDGE).min(in_features - first);
    let width = columns.next_multiple_of(DEPTH);
    let mut rows = vec![0_u16; 2 * width];
    let (even, odd) = rows.split_at_mut(width);
    for pair in 0..depth * EDGE {
        for (row, values) in [(2 * pair, &mut *even), (2 * pair + 1, &mut *odd)] {
            if row < out_features {
                reader.read(row * in_features + first, &mut values[..columns]);
            } else {
                values.fill(0);
            }
        }
        for (group, tiles) in tiles.chunks_exact_mut(depth).enumerate() {
            let half = |values: &[u16]| match values.get(group * EDGE..).and_then(|values| values.first_chunk::<EDGE>())
            {
                // SAFETY: the array is 32 bytes.
                Some(values) => _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }),
                None => _mm512_setzero_si512(),
            };
            let line = _mm512_or_si512(half(even), _mm512_slli_epi32::<16>(half(odd)));
            store_line(&mut tiles[pair / EDGE], pair % EDGE, line);
        }
    }
}

/// Values of a matrix as bfloat16, many at a time.
enum WeightReader<'a> {
    /// From 4-bit codes; `codes` are what they stand for.
    Packed { view: PackedView<'a>, codes: __m512 },
    /// From floats.
    Dense(&'a [f32]),
}

impl<'a> WeightReader<'a> {
    #[target_feature(enable = "avx512f")]
    fn new(weight: &Weight<'a>) -> Self {
        match weight.values {
            Storage::Packed(view) => {
                let codes = view.quant_type().codes();
                // SAFETY: the array has 16 values.
                Self::Packed { view, codes: unsafe { _mm512_loadu_ps(codes.as_ptr()) } }
            }
            Storage::Dense(values) => Self::Dense(values),
        }
    }

    /// Writes the values from `start` on of the flattened matrix.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn read(&self, start: usize, out: &mut [u16]) {
        match self {
            Self::Packed { view, codes } => dequantize(view, *codes, start, out),
            Self::Dense(values) => round(&values[start..start + out.len()], out),
        }
    }
}

/// Rounds floats; slices of one length.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn round(values: &[f32], out: &mut [u16]) {
    for (values, out) in values.chunks(EDGE).zip(out.chunks_mut(EDGE)) {
        let rounded = _mm512_cvtneps_pbh(load_up_to(values));
        // SAFETY: both are 256 plain bits.
        let rounded = unsafe { std::mem::transmute::<__m256bh, __m256i>(rounded) };
        let mask = ((1_u32 << out.len()) - 1) as u16;
        // SAFETY: a masked store writes the values of `out` and no others.
        unsafe { _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), mask, rounded) };
    }
}

/// Writes the values of 4-bit codes from `start` on.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn dequantize(view: &PackedView<'_>, codes: __m512, start: usize, out: &mut [u16]) {
    let blocksize = view.blocksize();
    let mut at = start;
    let mut rest = out;
    while !rest.is_empty() {
        let block = at / blocksize;
        let take = ((block + 1) * blocksize - at).min(rest.len());
        let (now, later) = rest.split_at_mut(take);
        // A block has 16 possible values.
        let values = _mm512_cvtneps_pbh(_mm512_mul_ps(codes, _mm512_set1_ps(view.scale(block))));
        // SAFETY: both are 256 plain bits.
        let values = unsafe { std::mem::transmute::<__m256bh, __m256i>(values) };
        unpack(view.packed(), at, now, _mm512_broadcast_i64x4(values));
        at += take;
        rest = later;
    }
}

/// Writes `values[code]` for the codes from `start` on; `values` holds its 16 values twice, so that the fifth bit of
/// an index does not matter.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn unpack(packed: &[u8], start: usize, out: &mut [u16], values: __m512i) {
    let (first, out) = out.split_at_mut((start % 2).min(out.len()));
    if let [first] = first {
        let code = _mm512_set1_epi16(i16::from(packed[start / 2]));
        let value = _mm512_castsi512_si128(_mm512_permutexvar_epi16(code, values));
        *first = _mm_cvtsi128_si32(value) as u16;
    }
    let byte = start.div_ceil(2);
    let bytes = &packed[byte..byte + out.len().div_ceil(2)];
    let (lines, rest) = out.as_chunks_mut::<DEPTH>();
    let (sources, last) = bytes.as_chunks::<EDGE>();
    for (line, source) in lines.iter_mut().zip(sources) {
        // SAFETY: the source is 16 bytes.
        let bytes = unsafe { _mm_loadu_si128(source.as_ptr().cast()) };
        // SAFETY: the line is 64 bytes.
        unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), look_up(bytes, values)) };
    }
    if !rest.is_empty() {
        // An odd rest of 31 values has 16 bytes.
        let last = if last.is_empty() { &sources[lines.len()][..] } else { last };
        // SAFETY: a masked load reads the bytes of `last` and no others.
        let bytes = unsafe { _mm_maskz_loadu_epi8(((1_u32 << last.len()) - 1) as u16, last.as_ptr().cast()) };
        let mask = (1_u32 << rest.len()) - 1;
        // SAFETY: a masked store writes the values of `rest` and no others.
        unsafe { _mm512_mask_storeu_epi16(rest.as_mut_ptr().cast(), mask, look_up(bytes, values)) };
    }
}

/// The values of the 32 codes in 16 bytes, the high half of a byte first.
#[target_feature(enable = "avx512f,avx512bw")]
fn look_up(bytes: __m128i, values: __m512i) -> __m512i {
    let bytes = _mm512_cvtepu8_epi32(bytes);
    let codes = _mm512_or_si512(_mm512_srli_epi32::<4>(bytes), _mm512_slli_epi32::<16>(bytes));
    _mm512_permutexvar_epi16(codes, values)
}

/// The first 16 values, or all and then zeros.
#[target_feature(enable = "avx512f")]
fn load_up_to(values: &[f32]) -> __m512 {
    let count = values.len().min(EDGE);
    // SAFETY: a masked load reads the first `count` values and no others.
    unsafe { _mm512_maskz_loadu_ps(((1_u32 << count) - 1) as u16, values.as_ptr()) }
}

#[target_feature(enable = "avx512f")]
pub(super) fn load_line(values: &[u16]) -> __m512i {
    let line: &[u16] = &values[..DEPTH];
    // SAFETY: 32 values are 64 bytes.
    unsafe { _mm512_loadu_si512(line.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
pub(super) fn store_line(tile: &mut Tile, line: usize, values: __m512i) {
    let line = &mut tile.0[line * DEPTH..(line + 1) * DEPTH];
    // SAFETY: 32 values are 64 bytes.
    unsafe { _mm512_storeu_si512(line.as_mut_ptr().cast(), values) };
}

#[target_feature(enable = "avx512f")]
pub(super) fn bf16_bits(values: __m512bh) -> __m512i {
    // SAFETY: both are 512 plain bits.
    unsafe { std::mem::transmute(values) }
}

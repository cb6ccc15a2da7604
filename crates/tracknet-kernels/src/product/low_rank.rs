//! The thin products of an adapter, with AVX512-BF16: [`thin`] forms what few columns a low-rank matrix makes of many,
//! [`outer`] sums the gradient of such a matrix over the rows. Both read a dropout's mask on the way.

use std::arch::x86_64::*;

use super::avx512bf16::bf16s;
use super::epilogue::BLOCK;
use super::pack::{DEPTH, EDGE, Tile, load_line, pack_panel, pack_rows, store_line};
use super::{Mask, PackedLhs, Side, Weight};
use crate::parallel::Threads;

/// Rows of a task.
const TASK_ROWS: usize = 8 * BLOCK;

/// Rows of the thin factor whose sums, two registers each, stay in registers.
const RANKS: usize = 8;

/// [`super::thin`] with dot products of bfloat16.
///
/// # Safety
/// The processor has the instructions of AVX512-BF16.
pub(super) unsafe fn thin(
    lhs: &PackedLhs,
    mask: Option<&Mask>,
    (weight, side): (Weight<'_>, Side),
    factor: f32,
) -> PackedLhs {
    let [summed, rank] = weight.sizes(side);
    let (depth, groups) = (summed.div_ceil(DEPTH), rank.div_ceil(EDGE));
    let mut right = vec![Tile::ZERO; groups * depth];
    // SAFETY: the caller's.
    unsafe { pack_panel(&weight, side, 0, &mut right) };

    let thin_depth = rank.div_ceil(DEPTH);
    let mut tiles = vec![Tile::ZERO; lhs.rows().next_multiple_of(BLOCK) / EDGE * thin_depth];
    Threads::of_caller().for_each_chunk(&mut tiles, TASK_ROWS / EDGE * thin_depth, |task, tiles| {
        let mut sums = vec![0.0; EDGE * groups * EDGE];
        let mut values = vec![0.0; EDGE * rank];
        let mut kept = vec![Tile::ZERO; depth];
        for (block, tiles) in tiles.chunks_exact_mut(thin_depth).enumerate() {
            let first = task * TASK_ROWS + block * EDGE;
            let rows = lhs.rows().saturating_sub(first).min(EDGE);
            if rows == 0 {
                continue;
            }
            let left = &lhs.tiles()[first / EDGE * depth..][..depth];
            // SAFETY: the caller's.
            let left = unsafe { masked(left, mask, first, rows, &mut kept) };
            for (group, right) in right.chunks_exact(depth).enumerate() {
                // SAFETY: the caller's.
                unsafe { narrow(left, right, factor, &mut sums[group * EDGE..], groups * EDGE) };
            }
            for (row, values) in values.chunks_exact_mut(rank).enumerate() {
                values.copy_from_slice(&sums[row * groups * EDGE..][..rank]);
            }
            // SAFETY: the caller's.
            unsafe { pack_rows(&values[..rows * rank], rank, tiles) };
        }
    });
    PackedLhs::from_tiles([lhs.rows(), rank], tiles)
}

/// [`super::outer`] with dot products of bfloat16.
///
/// # Safety
/// As for [`thin`].
pub(super) unsafe fn outer(thin: &PackedLhs, lhs: &PackedLhs, mask: Option<&Mask>) -> Vec<f32> {
    let (rank, columns) = (thin.columns(), lhs.columns());
    let (depth, thin_depth) = (columns.div_ceil(DEPTH), rank.div_ceil(DEPTH));
    // SAFETY: the caller's.
    let pairs = unsafe { paired(thin.tiles(), thin_depth) };
    // A run of 32 columns, `[rank, 32]`, is one task: its sums over the rows are in the order of the rows.
    let parts = Threads::of_caller().map(0..depth, |step| {
        let mut sums = vec![[0.0; DEPTH]; rank.next_multiple_of(RANKS)];
        for (number, sums) in sums.as_chunks_mut::<RANKS>().0.iter_mut().enumerate() {
            // SAFETY: the caller's.
            unsafe { sum_rows(&pairs[number * RANKS..], thin_depth * DEPTH, lhs, mask, step, sums) };
        }
        sums
    });
    let mut out = vec![0.0; rank * columns];
    for (step, part) in parts.iter().enumerate() {
        let width = (columns - step * DEPTH).min(DEPTH);
        for (line, part) in out.chunks_exact_mut(columns).zip(part) {
            line[step * DEPTH..][..width].copy_from_slice(&part[..width]);
        }
    }
    out
}

/// Zeroes the values of a line that `word` has no bit for.
#[target_feature(enable = "avx512f")]
pub(super) fn keep(line: &mut [f32; BLOCK], word: u32) {
    for (half, values) in line.as_chunks_mut::<EDGE>().0.iter_mut().enumerate() {
        // SAFETY: the array has 16 values.
        unsafe {
            let kept = _mm512_maskz_loadu_ps((word >> (half * EDGE)) as u16, values.as_ptr());
            _mm512_storeu_ps(values.as_mut_ptr(), kept);
        }
    }
}

/// The tiles of 16 rows as the mask leaves them.
#[target_feature(enable = "avx512f,avx512bw")]
fn masked<'a>(tiles: &'a [Tile], mask: Option<&Mask>, first: usize, rows: usize, kept: &'a mut [Tile]) -> &'a [Tile] {
    let Some(mask) = mask else { return tiles };
    for line in 0..rows {
        for ((tile, kept), word) in tiles.iter().zip(kept.iter_mut()).zip(mask.row(first + line)) {
            store_line(kept, line, _mm512_maskz_mov_epi16(*word, load_line(&tile.0[line * DEPTH..])));
        }
    }
    kept
}

/// `factor · left · right` for 16 rows and 16 columns, into rows of `out` that lie `stride` apart.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn narrow(left: &[Tile], right: &[Tile], factor: f32, out: &mut [f32], stride: usize) {
    let mut sums = [_mm512_setzero_ps(); EDGE];
    for (left, right) in left.iter().zip(right) {
        let left = left.0.as_ptr().cast::<i32>();
        for pair in 0..EDGE {
            let column = bf16s(load_line(&right.0[pair * DEPTH..]));
            for (row, sum) in sums.iter_mut().enumerate() {
                // SAFETY: a tile has 16 lines of 16 pairs.
                let values = bf16s(_mm512_set1_epi32(unsafe { left.add(row * EDGE + pair).read() }));
                *sum = _mm512_dpbf16_ps(*sum, values, column);
            }
        }
    }
    for (row, sum) in sums.iter().enumerate() {
        let out: &mut [f32] = &mut out[row * stride..][..EDGE];
        // SAFETY: the slice has 16 values.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(*sum, _mm512_set1_ps(factor))) };
    }
}

/// Pairs of neighbouring rows of a thin factor: `[rows / 2, columns]`, columns padded to whole tiles.
#[target_feature(enable = "avx512f,avx512bw")]
fn paired(tiles: &[Tile], depth: usize) -> Vec<u32> {
    let width = depth * DEPTH;
    let mut pairs = vec![0; tiles.len() / depth * (EDGE / 2) * width];
    for (tile, number) in tiles.iter().zip(0..) {
        let (block, step) = (number / depth, number % depth);
        for (pair, two) in tile.0.chunks_exact(2 * DEPTH).enumerate() {
            let out = &mut pairs[(block * (EDGE / 2) + pair) * width + step * DEPTH..][..DEPTH];
            for (column, out) in out.iter_mut().enumerate() {
                *out = u32::from(two[column]) | u32::from(two[DEPTH + column]) << 16;
            }
        }
    }
    pairs
}

/// `sums[rank, 32]` over all rows, for the 32 columns of step `step` and eight ranks; `pairs` begins at the first of
/// them, and lies `width` values a pair of rows.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn sum_rows(
    pairs: &[u32],
    width: usize,
    lhs: &PackedLhs,
    mask: Option<&Mask>,
    step: usize,
    sums: &mut [[f32; DEPTH]; RANKS],
) {
    let depth = lhs.columns().div_ceil(DEPTH);
    let low = interleaving(0);
    let high = interleaving(16);
    let mut registers = [[_mm512_setzero_ps(); 2]; RANKS];
    for pair in 0..lhs.rows().div_ceil(2) {
        let tile = &lhs.tiles()[pair / (EDGE / 2) * depth + step].0;
        let line = pair % (EDGE / 2) * 2;
        let mut lines = [load_line(&tile[line * DEPTH..]), load_line(&tile[(line + 1) * DEPTH..])];
        if let Some(mask) = mask {
            for (at, line) in lines.iter_mut().enumerate() {
                let row = 2 * pair + at;
                let word = if row < lhs.rows() { mask.row(row)[step] } else { 0 };
                *line = _mm512_maskz_mov_epi16(word, *line);
            }
        }
        let columns = [low, high].map(|index| bf16s(_mm512_permutex2var_epi16(lines[0], index, lines[1])));
        let thin: &[u32] = &pairs[pair * width..][..RANKS];
        for (value, sums) in thin.iter().zip(&mut registers) {
            let value = bf16s(_mm512_set1_epi32(*value as i32));
            sums[0] = _mm512_dpbf16_ps(sums[0], value, columns[0]);
            sums[1] = _mm512_dpbf16_ps(sums[1], value, columns[1]);
        }
    }
    for (sums, registers) in sums.iter_mut().zip(registers) {
        for (half, register) in sums.as_chunks_mut::<EDGE>().0.iter_mut().zip(registers) {
            // SAFETY: the array has 16 values.
            unsafe { _mm512_storeu_ps(half.as_mut_ptr(), register) };
        }
    }
}

/// The index that zips two registers of 32 values: from value `first` on, one of the first and one of the second.
#[target_feature(enable = "avx512f")]
fn interleaving(first: u16) -> __m512i {
    let mut index = [0_u16; DEPTH];
    for (at, index) in index.iter_mut().enumerate() {
        *index = first + at as u16 / 2 + if at % 2 == 0 { 0 } else { DEPTH as u16 };
    }
    load_line(&index)
}

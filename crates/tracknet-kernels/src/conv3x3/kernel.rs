//! The CPU kernels: a band of rows of one frame at a time.
//!
//! Both walk over the frame in strips of columns that are copied, with their neighbours and with zeros beyond the frame, into
//! a scratch whose rows lie close together. So no block of outputs meets an edge, loops have no branches, and what they read
//! stays in the first caches whatever the size of the frame.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::product::Shared;
use crate::simd::{Kernel, MAX_LANES, Register, Simd};

/// Registers of outputs side by side in a block.
const REGISTERS: usize = 3;

/// Most columns of a strip of outputs.
const STRIP: usize = REGISTERS * MAX_LANES;

/// Values of a row of a strip in the scratch: its columns, and one beside them on either side.
const STRIP_ROW: usize = STRIP + MAX_LANES;

/// Rows and columns of a tile of output gradients.
const TILE: [usize; 2] = [8, 128];

/// Values of a row of inputs under a tile, with those beside it.
const TILE_ROW: usize = TILE[1] + MAX_LANES;

/// Values between the tiles of two channels: no multiple of a page, so that they do not share lines of a cache.
const TILE_STRIDE: usize = TILE[0] * TILE[1] + MAX_LANES;

/// Planes `[channels, height, width]` of a frame.
#[derive(Clone, Copy)]
pub(super) struct Planes<'a> {
    pub(super) values: &'a [f32],
    pub(super) channels: usize,
    pub(super) size: [usize; 2],
}

impl Planes<'_> {
    /// The columns from `column` on of a row of a channel, as many as `to` takes; zeros outside of the frame. Rows and columns
    /// count from −1.
    #[inline(always)]
    fn read(&self, channel: usize, row: isize, column: isize, to: &mut [f32]) {
        let [height, width] = self.size;
        let Some(row) = usize::try_from(row).ok().filter(|row| *row < height) else {
            to.fill(0.0);
            return;
        };
        let values = &self.values[(channel * height + row) * width..][..width];
        let (left, first) = if column < 0 { (1, 0) } else { (0, column as usize) };
        let found = (width - first.min(width)).min(to.len() - left);
        to[..left].fill(0.0);
        to[left..left + found].copy_from_slice(&values[first..first + found]);
        to[left + found..].fill(0.0);
    }
}

/// How many output channels a block of an instruction set has.
pub(super) struct BlockChannels;

impl Kernel for BlockChannels {
    type Output = usize;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> usize {
        S::BLOCK_ROWS
    }
}

/// Filters `[out, in, 3, 3]` in blocks of output channels, `[blocks, in, 9, block]`; zeros where the last block has too few.
pub(super) struct Filters {
    values: Vec<f32>,
    outputs: usize,
    block: usize,
}

impl Filters {
    pub(super) fn new(weight: &[f32], [outputs, inputs]: [usize; 2], block: usize) -> Self {
        let mut values = vec![0.0; outputs.div_ceil(block) * inputs * 9 * block];
        for (output, filters) in weight.chunks_exact(inputs * 9).enumerate() {
            let first = output / block * inputs * 9 * block + output % block;
            for (at, value) in filters.iter().enumerate() {
                values[first + at * block] = *value;
            }
        }
        Self { values, outputs, block }
    }
}

/// Rows of the outputs of a frame.
pub(super) struct Convolve<'a> {
    pub(super) x: Planes<'a>,
    pub(super) filters: &'a Filters,
    pub(super) rows: Range<usize>,
    /// All rows of all planes of all frames. This call writes its rows of the planes of one frame, each value once.
    pub(super) y: &'a Shared<'a, MaybeUninit<f32>>,
    /// The first plane of the frame in `y`.
    pub(super) first_plane: usize,
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        assert!(self.filters.block == S::BLOCK_ROWS, "filters in blocks of {}", self.filters.block);
        let mut scratch = vec![0.0; 3 * self.x.channels * STRIP_ROW];
        let lanes = S::F32::LANES;
        for column in (0..self.x.size[1]).step_by(REGISTERS * lanes) {
            let registers = (self.x.size[1] - column).div_ceil(lanes);
            match (S::BLOCK_ROWS, registers) {
                (8, 1) => self.strip::<S, 8, 1>(simd, column, &mut scratch),
                (8, 2) => self.strip::<S, 8, 2>(simd, column, &mut scratch),
                (8, _) => self.strip::<S, 8, 3>(simd, column, &mut scratch),
                (_, 1) => self.strip::<S, 4, 1>(simd, column, &mut scratch),
                (_, 2) => self.strip::<S, 4, 2>(simd, column, &mut scratch),
                (_, _) => self.strip::<S, 4, 3>(simd, column, &mut scratch),
            }
        }
    }
}

impl Convolve<'_> {
    /// The outputs of `N` registers of columns from `column` on, row by row; three rows of inputs are at hand at a time.
    #[inline(always)]
    fn strip<S: Simd, const R: usize, const N: usize>(&self, simd: S, column: usize, scratch: &mut [f32]) {
        let channels = self.x.channels;
        let row_values = channels * STRIP_ROW;
        // Input row `row` lies in the third that its number leaves.
        let gather = |scratch: &mut [f32], row: isize| {
            let third = &mut scratch[(row + 1) as usize % 3 * row_values..][..row_values];
            for (channel, to) in third.chunks_exact_mut(STRIP_ROW).enumerate() {
                self.x.read(channel, row, column as isize - 1, &mut to[..N * S::F32::LANES + 2]);
            }
        };
        gather(scratch, self.rows.start as isize - 1);
        gather(scratch, self.rows.start as isize);
        for row in self.rows.clone() {
            gather(scratch, row as isize + 1);
            let mut rows = [scratch.as_ptr(); 3];
            for (tap, start) in rows.iter_mut().enumerate() {
                *start = scratch[(row + tap) % 3 * row_values..][..row_values].as_ptr();
            }
            let blocks = self.filters.values.chunks_exact(channels * 9 * R);
            for (number, filters) in blocks.enumerate() {
                // SAFETY: each start is that of `channels` rows of STRIP_ROW values, more than the `N · LANES + 2` that are
                // read of each.
                let sums = unsafe { block::<S, R, N>(simd, rows, filters) };
                self.store::<S, R, N>(&sums, number * R, [row, column]);
            }
        }
    }

    #[inline(always)]
    fn store<S: Simd, const R: usize, const N: usize>(
        &self,
        sums: &[[S::F32; N]; R],
        first: usize,
        [row, column]: [usize; 2],
    ) {
        let [height, width] = self.x.size;
        let lanes = S::F32::LANES;
        for (output, sums) in (first..self.filters.outputs).zip(sums) {
            let at = (self.first_plane + output) * height + row;
            // SAFETY: no other call writes this row of this frame, and no other block these columns of this plane.
            let y = unsafe { self.y.part(at, column, (width - column).min(N * lanes)) };
            for (sum, y) in sums.iter().zip(y.chunks_mut(lanes)) {
                if y.len() == lanes {
                    // SAFETY: as many values; MaybeUninit has the layout of what it holds.
                    unsafe { sum.store(y.as_mut_ptr().cast()) };
                } else {
                    let mut numbers = [0.0; MAX_LANES];
                    sum.write(&mut numbers);
                    y.iter_mut().zip(numbers).for_each(|(y, number)| *y = MaybeUninit::new(number));
                }
            }
        }
    }
}

/// The sums of `R` output channels in `N` registers of columns; `filters` are `[in, 9, R]`.
///
/// # Safety
/// `rows` are the starts of three rows of as many channels as there are filters, STRIP_ROW values apart, of which each has
/// `N · LANES + 2` values.
#[inline(always)]
unsafe fn block<S: Simd, const R: usize, const N: usize>(
    simd: S,
    rows: [*const f32; 3],
    filters: &[f32],
) -> [[S::F32; N]; R] {
    let mut sums = [[simd.splat(0.0); N]; R];
    for (channel, taps) in filters.as_chunks::<R>().0.as_chunks::<9>().0.iter().enumerate() {
        for (row, taps) in rows.iter().zip(taps.as_chunks::<3>().0) {
            for (shift, factors) in taps.iter().enumerate() {
                let mut x = [simd.splat(0.0); N];
                for (register, x) in x.iter_mut().enumerate() {
                    // SAFETY: the caller's.
                    *x = unsafe { simd.load(row.add(channel * STRIP_ROW + shift + register * S::F32::LANES)) };
                }
                for (sums, factor) in sums.iter_mut().zip(factors) {
                    let factor = simd.splat(*factor);
                    for (sum, x) in sums.iter_mut().zip(x) {
                        *sum = x.mul_add(factor, *sum);
                    }
                }
            }
        }
    }
    sums
}

/// The gradient of the filters `[out, in, 3, 3]` from rows of a frame, added to what is there.
pub(super) struct WeightGradient<'a> {
    pub(super) x: Planes<'a>,
    pub(super) gradient: Planes<'a>,
    pub(super) rows: Range<usize>,
    pub(super) sums: &'a mut [f32],
}

impl Kernel for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        if S::BLOCK_ROWS == 8 { self.tiles::<S, 8>(simd) } else { self.tiles::<S, 4>(simd) }
    }
}

impl WeightGradient<'_> {
    #[inline(always)]
    fn tiles<S: Simd, const R: usize>(self, simd: S) {
        let Self { x, gradient, rows, sums } = self;
        let mut inputs = vec![0.0; x.channels * (TILE[0] + 2) * TILE_ROW];
        let mut gradients = vec![0.0; R * TILE_STRIDE];
        let corners = rows
            .clone()
            .step_by(TILE[0])
            .flat_map(|row| (0..x.size[1]).step_by(TILE[1]).map(move |column| [row, column]));
        for [row, column] in corners {
            let (height, width) = (TILE[0].min(rows.end - row), TILE[1].min(x.size[1] - column));
            for (channel, tile) in inputs.chunks_exact_mut((TILE[0] + 2) * TILE_ROW).enumerate() {
                for (down, to) in tile.chunks_exact_mut(TILE_ROW).take(height + 2).enumerate() {
                    x.read(channel, (row + down) as isize - 1, column as isize - 1, to);
                }
            }
            let vectors = width.div_ceil(S::F32::LANES);
            for first in (0..gradient.channels).step_by(R) {
                let channels = R.min(gradient.channels - first);
                for (at, tile) in gradients.chunks_exact_mut(TILE_STRIDE).enumerate() {
                    for (down, to) in tile.chunks_exact_mut(TILE[1]).take(height).enumerate() {
                        if at < channels {
                            gradient.read(first + at, (row + down) as isize, column as isize, to);
                        } else {
                            to.fill(0.0);
                        }
                    }
                }
                for (channel, tile) in inputs.chunks_exact((TILE[0] + 2) * TILE_ROW).enumerate() {
                    for tap_row in 0..3 {
                        let rows = &tile[tap_row * TILE_ROW..][..height * TILE_ROW];
                        // SAFETY: as many rows of TILE_ROW values, more than the columns of a tile and two; `gradients`
                        // holds R tiles.
                        let taps = unsafe { correlate::<S, R>(simd, rows, &gradients, vectors) };
                        for (at, taps) in taps.iter().enumerate().take(channels) {
                            let filter = ((first + at) * x.channels + channel) * 9 + 3 * tap_row;
                            for (sum, tap) in sums[filter..filter + 3].iter_mut().zip(taps) {
                                *sum += tap.sum();
                            }
                        }
                    }
                }
            }
        }
    }
}

/// For each of `R` output channels the sums over a tile of its gradients times the inputs at three shifts.
///
/// # Safety
/// `rows` are whole rows of TILE_ROW values, at most as many as a tile has; `gradients` are `R` tiles, TILE_STRIDE values
/// apart; `vectors` registers lie within the columns of a tile.
#[inline(always)]
unsafe fn correlate<S: Simd, const R: usize>(
    simd: S,
    rows: &[f32],
    gradients: &[f32],
    vectors: usize,
) -> [[S::F32; 3]; R] {
    let mut sums = [[simd.splat(0.0); 3]; R];
    for (down, row) in rows.chunks_exact(TILE_ROW).enumerate() {
        for vector in 0..vectors {
            let at = vector * S::F32::LANES;
            let mut x = [simd.splat(0.0); 3];
            for (shift, x) in x.iter_mut().enumerate() {
                // SAFETY: the caller's.
                *x = unsafe { simd.load(row.as_ptr().add(at + shift)) };
            }
            for (channel, sums) in sums.iter_mut().enumerate() {
                // SAFETY: the caller's.
                let gradient =
                    unsafe { simd.load(gradients.as_ptr().add(channel * TILE_STRIDE + down * TILE[1] + at)) };
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = x.mul_add(gradient, *sum);
                }
            }
        }
    }
    sums
}

//! The CPU kernels: sixteen channels of a band of rows of one frame at a time.
//!
//! Both walk down the band in strips of columns. The rows that a row of outputs depends on lie in a ring of as many rows as the
//! kernel has, copied with their neighbours and with zeros beyond the frame: a cell's sixteen channels fill a line of the
//! first cache, no block of outputs meets an edge, and loops have no branches.

use std::mem::MaybeUninit;
use std::ops::Range;

use crate::product::Shared;
use crate::simd::{F32x16, Kernel, LANES, Register, Simd};

/// Most columns of a strip of outputs.
const MAX_STRIP: usize = 16;

/// Columns of a strip of output gradients.
const GRADIENT_STRIP: usize = 32;

/// Most taps of a row whose gradients are summed side by side.
const MAX_TAPS: usize = 8;

/// The cells of a frame, `[rows · columns, channels]`.
#[derive(Clone, Copy)]
pub(super) struct Frame<'a> {
    pub(super) values: &'a [f32],
    pub(super) channels: usize,
    pub(super) grid: [usize; 2],
}

impl Frame<'_> {
    /// Sixteen channels of the cells of a row from `column` on, as many cells as `to` takes; zeros outside of the frame and
    /// beyond the last channel.
    #[inline(always)]
    fn read(&self, first_channel: usize, row: isize, column: isize, to: &mut [F32x16]) {
        let [rows, columns] = self.grid;
        let Some(row) = usize::try_from(row).ok().filter(|row| *row < rows) else {
            to.fill(F32x16::ZERO);
            return;
        };
        let channels = LANES.min(self.channels - first_channel);
        for (cell, line) in (column..).zip(to) {
            *line = match usize::try_from(cell) {
                Ok(cell) if cell < columns => {
                    let at = (row * columns + cell) * self.channels + first_channel;
                    F32x16::load_up_to(&self.values[at..at + channels], 0)
                }
                _ => F32x16::ZERO,
            };
        }
    }
}

/// The rows of a strip that a row of outputs depends on. Row `row` of the frame, from −padding on, lies where its number modulo
/// the kernel says.
struct Ring {
    lines: Vec<F32x16>,
    kernel: usize,
    width: usize,
}

impl Ring {
    /// For strips of up to `columns` columns, each with as many beside it as the kernel reaches and `spare` more, of zeros.
    fn new(kernel: usize, columns: usize, spare: usize) -> Self {
        let width = columns + kernel - 1 + spare;
        Self { lines: vec![F32x16::ZERO; kernel * width], kernel, width }
    }

    /// Takes in the row that is the last one that the outputs of `row` depend on, for `columns` columns from `column` on.
    #[inline(always)]
    fn take(&mut self, frame: &Frame<'_>, channel: usize, [row, column]: [usize; 2], columns: usize) {
        let reach = (self.kernel / 2) as isize;
        let place = (row + self.kernel - 1) % self.kernel * self.width;
        let to = &mut self.lines[place..][..columns + self.kernel - 1];
        frame.read(channel, row as isize + reach, column as isize - reach, to);
    }

    /// Takes in all rows before the last one that the outputs of `row` depend on.
    #[inline(always)]
    fn begin(&mut self, frame: &Frame<'_>, channel: usize, [row, column]: [usize; 2], columns: usize) {
        let reach = self.kernel / 2;
        for tap in 0..self.kernel - 1 {
            let place = (row + tap) % self.kernel * self.width;
            let to = &mut self.lines[place..][..columns + self.kernel - 1];
            frame.read(channel, (row + tap) as isize - reach as isize, column as isize - reach as isize, to);
        }
    }

    /// What tap row `tap` of the outputs of `row` reads.
    #[inline(always)]
    fn row(&self, row: usize, tap: usize) -> &[F32x16] {
        &self.lines[(row + tap) % self.kernel * self.width..][..self.width]
    }
}

/// Filters `[channels, 1, kernel, kernel]` and biases `[channels]` as lines of sixteen channels, `[blocks, kernel · kernel]` and
/// `[blocks]`; zeros where the last block has too few.
pub(super) struct Filters {
    taps: Vec<F32x16>,
    biases: Vec<F32x16>,
    kernel: usize,
}

impl Filters {
    pub(super) fn new(weight: &[f32], bias: &[f32], kernel: usize) -> Self {
        let blocks = bias.len().div_ceil(LANES);
        let count = kernel * kernel;
        let (mut taps, mut biases) = (vec![F32x16::ZERO; blocks * count], vec![F32x16::ZERO; blocks]);
        for (channel, (filter, bias)) in weight.chunks_exact(count).zip(bias).enumerate() {
            let (block, lane) = (channel / LANES, channel % LANES);
            biases[block].0[lane] = *bias;
            for (line, tap) in taps[block * count..][..count].iter_mut().zip(filter) {
                line.0[lane] = *tap;
            }
        }
        Self { taps, biases, kernel }
    }

    fn block(&self, block: usize) -> (&[F32x16], &F32x16) {
        let count = self.kernel * self.kernel;
        (&self.taps[block * count..][..count], &self.biases[block])
    }
}

/// Sixteen channels of the outputs of some rows of a frame.
pub(super) struct Convolve<'a> {
    pub(super) x: Frame<'a>,
    pub(super) filters: &'a Filters,
    /// The number of the sixteen channels.
    pub(super) block: usize,
    pub(super) rows: Range<usize>,
    /// All cells of all frames. This call writes its channels of its rows of one frame, each value once.
    pub(super) y: &'a Shared<'a, MaybeUninit<f32>>,
    /// The first cell of the frame in `y`.
    pub(super) first_cell: usize,
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.x.grid[1];
        let strip = match S::F32::LANES {
            16 => MAX_STRIP,
            8 => 6,
            _ => 2,
        };
        let mut ring = Ring::new(self.filters.kernel, MAX_STRIP, 0);
        for column in (0..columns).step_by(strip) {
            // Registers of a line, and columns: as many sums as the instruction set has registers for.
            match (S::F32::LANES, columns - column) {
                (16, 9..) => self.strip::<S, 1, 16>(simd, column, &mut ring),
                (16, 5..=8) => self.strip::<S, 1, 8>(simd, column, &mut ring),
                (16, _) => self.strip::<S, 1, 4>(simd, column, &mut ring),
                (8, _) => self.strip::<S, 2, 6>(simd, column, &mut ring),
                (_, _) => self.strip::<S, 4, 2>(simd, column, &mut ring),
            }
        }
    }
}

impl Convolve<'_> {
    /// The outputs of `N` columns from `column` on, row by row; a line is `R` registers.
    #[inline(always)]
    fn strip<S: Simd, const R: usize, const N: usize>(&self, simd: S, column: usize, ring: &mut Ring) {
        let first_channel = self.block * LANES;
        ring.begin(&self.x, first_channel, [self.rows.start, column], N);
        for row in self.rows.clone() {
            ring.take(&self.x, first_channel, [row, column], N);
            let sums = self.sums::<S, R, N>(simd, ring, row);
            self.store::<S, R, N>(&sums, [row, column]);
        }
    }

    #[inline(always)]
    fn sums<S: Simd, const R: usize, const N: usize>(&self, simd: S, ring: &Ring, row: usize) -> [[S::F32; R]; N] {
        let kernel = self.filters.kernel;
        let (taps, bias) = self.filters.block(self.block);
        let mut sums = [registers::<S, R>(simd, bias); N];
        for (tap_row, taps) in taps.chunks_exact(kernel).enumerate() {
            let lines = &ring.row(row, tap_row)[..N + kernel - 1];
            for (shift, tap) in taps.iter().enumerate() {
                let factors = registers::<S, R>(simd, tap);
                for (cell, sums) in sums.iter_mut().enumerate() {
                    // SAFETY: `shift` is less than the kernel and `cell` less than N: one of the lines above.
                    let line = unsafe { lines.get_unchecked(shift + cell) };
                    let x = registers::<S, R>(simd, line);
                    for ((sum, x), factor) in sums.iter_mut().zip(x).zip(factors) {
                        *sum = x.mul_add(factor, *sum);
                    }
                }
            }
        }
        sums
    }

    #[inline(always)]
    fn store<S: Simd, const R: usize, const N: usize>(&self, sums: &[[S::F32; R]; N], [row, column]: [usize; 2]) {
        let columns = self.x.grid[1];
        let first_channel = self.block * LANES;
        let channels = LANES.min(self.x.channels - first_channel);
        for (cell, sums) in (column..columns).zip(sums) {
            // SAFETY: no other call writes these channels of this row.
            let y = unsafe { self.y.part(self.first_cell + row * columns + cell, first_channel, channels) };
            if channels == LANES {
                for (sum, y) in sums.iter().zip(y.chunks_exact_mut(S::F32::LANES)) {
                    // SAFETY: as many values; MaybeUninit has the layout of what it holds.
                    unsafe { sum.store(y.as_mut_ptr().cast()) };
                }
            } else {
                let mut line = F32x16::ZERO;
                for (sum, part) in sums.iter().zip(line.0.chunks_exact_mut(S::F32::LANES)) {
                    sum.write(part);
                }
                y.iter_mut().zip(line.0).for_each(|(y, value)| *y = MaybeUninit::new(value));
            }
        }
    }
}

/// A line as registers.
#[inline(always)]
fn registers<S: Simd, const R: usize>(simd: S, line: &F32x16) -> [S::F32; R] {
    assert!(R * S::F32::LANES == LANES, "{R} registers are no line");
    let mut registers = [simd.splat(0.0); R];
    for (at, register) in registers.iter_mut().enumerate() {
        // SAFETY: the registers are the whole line.
        *register = unsafe { simd.load(line.0.as_ptr().add(at * S::F32::LANES)) };
    }
    registers
}

/// The gradient of the filters of sixteen channels from some rows of a frame, added to what is there.
pub(super) struct WeightGradient<'a> {
    pub(super) x: Frame<'a>,
    pub(super) gradient: Frame<'a>,
    pub(super) kernel: usize,
    /// The number of the sixteen channels.
    pub(super) block: usize,
    pub(super) rows: Range<usize>,
    /// `[kernel · kernel, 16]`.
    pub(super) sums: &'a mut [f32],
}

impl Kernel for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match S::F32::LANES {
            16 => self.strips::<S, 1, MAX_TAPS>(simd),
            8 => self.strips::<S, 2, 4>(simd),
            _ => self.strips::<S, 4, 2>(simd),
        }
    }
}

impl WeightGradient<'_> {
    /// `T` taps of a row at a time; a line is `R` registers.
    #[inline(always)]
    fn strips<S: Simd, const R: usize, const T: usize>(self, simd: S) {
        let Self { x, gradient, kernel, block, rows, sums } = self;
        let (columns, channel) = (x.grid[1], block * LANES);
        let mut ring = Ring::new(kernel, GRADIENT_STRIP, MAX_TAPS);
        let mut gradients = [F32x16::ZERO; GRADIENT_STRIP];
        for column in (0..columns).step_by(GRADIENT_STRIP) {
            let width = GRADIENT_STRIP.min(columns - column);
            ring.begin(&x, channel, [rows.start, column], width);
            for row in rows.clone() {
                ring.take(&x, channel, [row, column], width);
                gradient.read(channel, row as isize, column as isize, &mut gradients[..width]);
                for (tap_row, sums) in sums.chunks_exact_mut(kernel * LANES).enumerate() {
                    let lines = ring.row(row, tap_row);
                    for (group, sums) in sums.chunks_mut(T * LANES).enumerate() {
                        let products = correlate::<S, R, T>(simd, &lines[group * T..], &gradients[..width]);
                        for (sum, product) in sums.chunks_exact_mut(S::F32::LANES).zip(products.as_flattened()) {
                            simd.read(sum).add(*product).write(sum);
                        }
                    }
                }
            }
        }
    }
}

/// The sums over some cells of their gradients times the inputs at `T` shifts.
#[inline(always)]
fn correlate<S: Simd, const R: usize, const T: usize>(
    simd: S,
    lines: &[F32x16],
    gradients: &[F32x16],
) -> [[S::F32; R]; T] {
    let mut sums = [[simd.splat(0.0); R]; T];
    let lines = &lines[..gradients.len() + T - 1];
    for (cell, gradient) in gradients.iter().enumerate() {
        let factors = registers::<S, R>(simd, gradient);
        for (shift, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `cell` is less than the number of gradients and `shift` less than T: one of the lines above.
            let line = unsafe { lines.get_unchecked(cell + shift) };
            let x = registers::<S, R>(simd, line);
            for ((sum, x), factor) in sums.iter_mut().zip(x).zip(factors) {
                *sum = x.mul_add(factor, *sum);
            }
        }
    }
    sums
}

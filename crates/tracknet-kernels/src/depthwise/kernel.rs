//! The CPU kernels, a channel of a frame at a time.
//!
//! A plane is copied once into a border of zeros, so that no block of outputs meets an edge and the loops have no
//! branches.

use crate::simd::{F32x16, Kernel, LANES, Simd};

/// A plane `[height, width]` within zeros: one row above and below, one column to the left, and to the right as many as
/// the last block of 16 reads.
pub(super) struct Padded {
    values: Vec<f32>,
    width: usize,
    stride: usize,
}

impl Padded {
    /// Zeros everywhere; the border stays so.
    pub(super) fn new([height, width]: [usize; 2]) -> Self {
        let stride = width.next_multiple_of(LANES) + 2;
        Self { values: vec![0.0; (height + 2) * stride], width, stride }
    }

    /// Replaces the plane.
    #[inline(always)]
    fn fill(&mut self, plane: &[f32]) {
        let rows = self.values[self.stride..].chunks_exact_mut(self.stride);
        for (row, values) in rows.zip(plane.chunks_exact(self.width)) {
            row[1..=self.width].copy_from_slice(values);
        }
    }

    /// What the outputs of a row depend on: three rows of `stride` values.
    #[inline(always)]
    fn rows(&self, row: usize) -> [&[f32]; 3] {
        let at = |row: usize| &self.values[row * self.stride..][..self.stride];
        [at(row), at(row + 1), at(row + 2)]
    }
}

/// `y = x * weight`.
pub(super) struct Convolve<'a> {
    pub(super) scratch: &'a mut Padded,
    pub(super) x: &'a [f32],
    pub(super) weight: [f32; 9],
    pub(super) y: &'a mut [f32],
}

impl Kernel for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.scratch.fill(self.x);
        let weight = self.weight.map(F32x16::splat);
        for (row, y) in self.y.chunks_exact_mut(self.scratch.width).enumerate() {
            let rows = self.scratch.rows(row);
            let (blocks, rest) = y.as_chunks_mut::<LANES>();
            let whole = blocks.len() * LANES;
            for (block, y) in blocks.iter_mut().enumerate() {
                *y = convolve::<S>(rows, block * LANES, &weight).0;
            }
            if !rest.is_empty() {
                convolve::<S>(rows, whole, &weight).store(rest);
            }
        }
    }
}

/// Sixteen outputs.
#[inline(always)]
fn convolve<S: Simd>(rows: [&[f32]; 3], at: usize, weight: &[F32x16; 9]) -> F32x16 {
    let mut sum = F32x16::ZERO;
    for (row, weight) in rows.iter().zip(weight.as_chunks::<3>().0) {
        let window = &row[at..at + LANES + 2];
        for (tap, weight) in weight.iter().enumerate() {
            sum = F32x16::load(window, tap).mul_add::<S>(*weight, sum);
        }
    }
    sum
}

/// The nine gradients of a filter: each the sum over the plane of the input shifted by its tap times the gradient.
pub(super) struct WeightGradient<'a> {
    pub(super) scratch: &'a mut Padded,
    pub(super) x: &'a [f32],
    pub(super) gradient: &'a [f32],
}

impl Kernel for WeightGradient<'_> {
    type Output = [f32; 9];

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> [f32; 9] {
        self.scratch.fill(self.x);
        let mut sums = [F32x16::ZERO; 9];
        for (row, gradient) in self.gradient.chunks_exact(self.scratch.width).enumerate() {
            let rows = self.scratch.rows(row);
            let (blocks, rest) = gradient.as_chunks::<LANES>();
            for (block, gradient) in blocks.iter().enumerate() {
                correlate::<S>(rows, block * LANES, F32x16(*gradient), &mut sums);
            }
            if !rest.is_empty() {
                correlate::<S>(rows, blocks.len() * LANES, F32x16::load_or(rest, 0.0), &mut sums);
            }
        }
        sums.map(F32x16::sum)
    }
}

#[inline(always)]
fn correlate<S: Simd>(rows: [&[f32]; 3], at: usize, gradient: F32x16, sums: &mut [F32x16; 9]) {
    for (row, sums) in rows.iter().zip(sums.as_chunks_mut::<3>().0) {
        let window = &row[at..at + LANES + 2];
        for (tap, sum) in sums.iter_mut().enumerate() {
            *sum = F32x16::load(window, tap).mul_add::<S>(gradient, *sum);
        }
    }
}

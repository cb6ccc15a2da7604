//! The CPU kernels, a plane at a time: along the rows, then down the columns; backward the other way round.

use super::axis::Axis;
use crate::simd::{F32x16, Kernel, LANES, Simd, each_block};

/// Resizes a plane.
pub(super) struct Resize<'a> {
    pub(super) vertical: &'a Axis,
    pub(super) horizontal: &'a Axis,
    /// `[height, width]`.
    pub(super) x: &'a [f32],
    pub(super) width: usize,
    /// `[height out, width out]`.
    pub(super) y: &'a mut [f32],
}

impl Kernel for Resize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (width, out_width) = (self.width, self.horizontal.len());
        let mut wide = vec![0.0; self.x.len() / width * out_width];
        let mut border = Border::new(width);
        for (x, wide) in self.x.chunks_exact(width).zip(wide.chunks_exact_mut(out_width)) {
            if self.horizontal.doubles() {
                border.fill(x);
                double::<S>(&border, wide);
            } else {
                for (at, value) in wide.iter_mut().enumerate() {
                    let [(low, a), (high, b)] = self.horizontal.sample(at);
                    *value = a * x[low] + b * x[high];
                }
            }
        }
        for (row, y) in self.y.chunks_exact_mut(out_width).enumerate() {
            let [(low, a), (high, b)] = self.vertical.sample(row);
            let [low, high] = [low, high].map(|row| &wide[row * out_width..][..out_width]);
            let (a, b) = (F32x16::splat(a), F32x16::splat(b));
            each_block!(low, 0.0, (at, low) {
                (low * a + F32x16::load_up_to(high, at) * b).store(&mut y[at..]);
            });
        }
    }
}

/// The gradient of a plane.
pub(super) struct ResizeGradient<'a> {
    pub(super) vertical: &'a Axis,
    pub(super) horizontal: &'a Axis,
    /// `[height out, width out]`.
    pub(super) gradient: &'a [f32],
    pub(super) width: usize,
    /// `[height, width]`, zeros.
    pub(super) of_x: &'a mut [f32],
}

impl Kernel for ResizeGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let (width, out_width) = (self.width, self.horizontal.len());
        let mut wide = vec![0.0; self.of_x.len() / width * out_width];
        for (row, gradient) in self.gradient.chunks_exact(out_width).enumerate() {
            for (to, weight) in self.vertical.sample(row) {
                let (sums, weight) = (&mut wide[to * out_width..][..out_width], F32x16::splat(weight));
                each_block!(gradient, 0.0, (at, gradient) {
                    let sums = &mut sums[at..];
                    gradient.mul_add::<S>(weight, F32x16::load_up_to(sums, 0)).store(sums);
                });
            }
        }
        let mut border = Border::new(out_width);
        for (wide, of_x) in wide.chunks_exact(out_width).zip(self.of_x.chunks_exact_mut(width)) {
            if self.horizontal.doubles() {
                border.fill(wide);
                halve::<S>(&border, of_x);
            } else {
                for (at, value) in wide.iter().enumerate() {
                    for (to, weight) in self.horizontal.sample(at) {
                        of_x[to] += weight * value;
                    }
                }
            }
        }
    }
}

/// A row with its edges repeated once, and room for whole blocks behind it.
struct Border(Vec<f32>, usize);

impl Border {
    fn new(width: usize) -> Self {
        Self(vec![0.0; width.next_multiple_of(2 * LANES) + 2], width)
    }

    #[inline(always)]
    fn fill(&mut self, row: &[f32]) {
        self.0[1..=self.1].copy_from_slice(row);
        self.0[0] = row[0];
        self.0[self.1 + 1] = row[self.1 - 1];
    }
}

/// Two samples for each one of a row: ¾ of it and ¼ of the left, then of the right neighbour.
#[inline(always)]
fn double<S: Simd>(row: &Border, out: &mut [f32]) {
    let (near, far) = (F32x16::splat(0.75), F32x16::splat(0.25));
    let mut pair = [0.0; 2 * LANES];
    for (block, out) in out.chunks_mut(2 * LANES).enumerate() {
        let window = &row.0[block * LANES..][..LANES + 2];
        let middle = F32x16::load(window, 1) * near;
        let left = F32x16::load(window, 0).mul_add::<S>(far, middle);
        let right = F32x16::load(window, 2).mul_add::<S>(far, middle);
        for lane in 0..LANES {
            pair[2 * lane] = left.0[lane];
            pair[2 * lane + 1] = right.0[lane];
        }
        match out.first_chunk_mut() {
            Some(out) => *out = pair,
            None => out.copy_from_slice(&pair[..out.len()]),
        }
    }
}

/// The transpose of [`double`].
#[inline(always)]
fn halve<S: Simd>(row: &Border, out: &mut [f32]) {
    let (near, far) = (F32x16::splat(0.75), F32x16::splat(0.25));
    for (block, out) in out.chunks_mut(LANES).enumerate() {
        let window = &row.0[2 * block * LANES..][..2 * LANES + 2];
        let (mut inner, mut outer) = (F32x16::ZERO, F32x16::ZERO);
        for lane in 0..LANES {
            inner.0[lane] = window[2 * lane + 1] + window[2 * lane + 2];
            outer.0[lane] = window[2 * lane] + window[2 * lane + 3];
        }
        outer.mul_add::<S>(far, inner * near).store(out);
    }
}

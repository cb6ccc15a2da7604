//! The rows of one head: where they lie in a tensor, and how they are packed for the products.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

/// Packed rows are padded with zeros to a multiple of this: the lanes of the widest register.
pub(super) const WIDTH_UNIT: usize = 16;

/// Cosines and sines of every token, `[tokens, head_dim / 2]` each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Angles<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
}

/// The rows of one head within a tensor `[tokens, heads · head_dim]`, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a> {
    /// From the head's first number on.
    pub(super) values: &'a [f32],
    pub(super) stride: usize,
    pub(super) head_dim: usize,
}

impl<'a> HeadRows<'a> {
    #[inline(always)]
    pub(super) fn row(&self, token: usize) -> &'a [f32] {
        &self.values[token * self.stride..][..self.head_dim]
    }

    /// Copies the rows from token `first` on, turned if `angles` is given and times `factor`, into rows of `out` that
    /// are `width` long, as many as there are; what is behind a row is left as it is.
    #[inline(always)]
    pub(super) fn pack(&self, first: usize, angles: Option<Angles<'_>>, factor: f32, out: &mut [f32], width: usize) {
        for (i, out) in out.chunks_exact_mut(width).enumerate() {
            let out = &mut out[..self.head_dim];
            match angles {
                Some(angles) => turn(self.row(first + i), angles, first + i, factor, out),
                None => out.iter_mut().zip(self.row(first + i)).for_each(|(out, x)| *out = x * factor),
            }
        }
    }

    /// Whether any of the first `tokens` rows holds NaN or an infinity.
    #[inline(always)]
    pub(super) fn is_poisoned(&self, tokens: usize) -> bool {
        const EXPONENT: u32 = 0x7f80_0000;
        (0..tokens)
            .any(|token| self.row(token).iter().fold(false, |found, x| found | (x.to_bits() & EXPONENT == EXPONENT)))
    }
}

/// Turns the halves `(x₁, x₂)` of a row by the angles of its token: `(x₁ cos − x₂ sin, x₂ cos + x₁ sin)`.
#[inline(always)]
fn turn(row: &[f32], angles: Angles<'_>, token: usize, factor: f32, out: &mut [f32]) {
    let half = row.len() / 2;
    let (cos, sin) = (&angles.cos[token * half..][..half], &angles.sin[token * half..][..half]);
    let (x1, x2) = row.split_at(half);
    let (y1, y2) = out.split_at_mut(half);
    let x2 = &x2[..half];
    let y2 = &mut y2[..half];
    for i in 0..half {
        y1[i] = (x1[i] * cos[i] - x2[i] * sin[i]) * factor;
        y2[i] = (x2[i] * cos[i] + x1[i] * sin[i]) * factor;
    }
}

/// Turns a row back in place: the transpose of [`turn`], which is what a gradient needs.
#[inline(always)]
pub(super) fn turn_back(row: &mut [f32], angles: Angles<'_>, token: usize) {
    let half = row.len() / 2;
    let (cos, sin) = (&angles.cos[token * half..][..half], &angles.sin[token * half..][..half]);
    let (y1, y2) = row.split_at_mut(half);
    let y2 = &mut y2[..half];
    for i in 0..half {
        (y1[i], y2[i]) = (y1[i] * cos[i] + y2[i] * sin[i], y2[i] * cos[i] - y1[i] * sin[i]);
    }
}

/// `out[column, row] = rows[row, column]` for `count` rows, `width` apart, and `columns` columns; rows of `out` lie
/// `stride` apart and are zero behind `count` up to `padded`.
#[inline(always)]
pub(super) fn transpose(
    rows: &[f32],
    width: usize,
    [count, padded, columns]: [usize; 3],
    out: &mut [f32],
    stride: usize,
) {
    for column in 0..columns {
        let out = &mut out[column * stride..][..padded];
        for (i, out) in out[..count].iter_mut().enumerate() {
            *out = rows[i * width + column];
        }
        out[count..].fill(0.0);
    }
}

/// Zeroed numbers that begin at a cache line, so that no register is loaded from two.
pub(super) struct Buffer(Vec<Line>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([f32; 16]);

impl Buffer {
    pub(super) fn new(len: usize) -> Self {
        Self(vec![Line([0.0; 16]); len.div_ceil(16)])
    }
}

impl Deref for Buffer {
    type Target = [f32];

    #[inline(always)]
    fn deref(&self) -> &[f32] {
        // SAFETY: a line is 16 numbers without padding, and the vector holds `len` of them in a row.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }
}

impl DerefMut for Buffer {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

/// A result whose rows several tasks write side by side.
pub(super) struct SharedRows<'a> {
    start: *mut f32,
    len: usize,
    owner: PhantomData<&'a mut [f32]>,
}

// SAFETY: the rows are handed out by an unsafe method whose callers keep them apart.
unsafe impl Sync for SharedRows<'_> {}

impl<'a> SharedRows<'a> {
    pub(super) fn new(values: &'a mut [f32]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// The numbers `at..at + len`.
    ///
    /// # Safety
    /// While a row lives, no other that overlaps it is asked for.
    #[inline(always)]
    pub(super) unsafe fn row(&self, at: usize, len: usize) -> &'a mut [f32] {
        assert!(at + len <= self.len, "a row beyond the end");
        // SAFETY: inside the slice (asserted) that is borrowed exclusively for 'a, and apart from others (the caller's).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }
}

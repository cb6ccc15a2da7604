//! The rows of one head: where they lie in a tensor, and how they are packed for the products.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};

use super::element::Element;
use crate::bounds::holds;
use crate::simd::{Register, Simd};

/// Cosines and sines of every token, `[tokens, head_dim / 2]` each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RotaryTable<'a> {
    pub(crate) cos: &'a [f32],
    pub(crate) sin: &'a [f32],
}

/// The rows of one head within a tensor `[tokens, heads · head_dim]`, `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a, E> {
    /// From the head's first number on.
    pub(super) values: &'a [E],
    pub(super) stride: usize,
    pub(super) head_dim: usize,
}

impl<'a, E: Element> HeadRows<'a, E> {
    #[inline(always)]
    fn row(&self, token: usize) -> &'a [E] {
        &self.values[token * self.stride..][..self.head_dim]
    }

    /// The row of a token as f32, with the rotary embedding if `rotary` is given, and times `factor`; `out` is as long as
    /// the row.
    #[inline(always)]
    pub(super) fn read(&self, token: usize, rotary: Option<RotaryTable<'_>>, factor: f32, out: &mut [f32]) {
        match rotary {
            Some(table) => apply_rotary(self.row(token), table, token, factor, out),
            None => out.iter_mut().zip(self.row(token)).for_each(|(out, x)| *out = x.to_f32() * factor),
        }
    }
}

/// Rotary position embedding (Su et al., 2021) of the row of a token, times `factor`: its halves `(x₁, x₂)` become
/// `(x₁ cos − x₂ sin, x₂ cos + x₁ sin)`.
#[inline(always)]
fn apply_rotary<E: Element>(row: &[E], table: RotaryTable<'_>, token: usize, factor: f32, out: &mut [f32]) {
    let half = row.len() / 2;
    let (cos, sin) = (&table.cos[token * half..][..half], &table.sin[token * half..][..half]);
    let (x1, x2) = row.split_at(half);
    let (y1, y2) = out.split_at_mut(half);
    let x2 = &x2[..half];
    let y2 = &mut y2[..half];
    for i in 0..half {
        let (x1, x2) = (x1[i].to_f32(), x2[i].to_f32());
        y1[i] = (x1 * cos[i] - x2 * sin[i]) * factor;
        y2[i] = (x2 * cos[i] + x1 * sin[i]) * factor;
    }
}

/// The inverse of the rotary embedding in place. It is the transpose too, which is what a gradient needs.
#[inline(always)]
pub(super) fn invert_rotary(row: &mut [f32], table: RotaryTable<'_>, token: usize) {
    let half = row.len() / 2;
    let (cos, sin) = (&table.cos[token * half..][..half], &table.sin[token * half..][..half]);
    let (y1, y2) = row.split_at_mut(half);
    let y2 = &mut y2[..half];
    for i in 0..half {
        (y1[i], y2[i]) = (y1[i] * cos[i] + y2[i] * sin[i], y2[i] * cos[i] - y1[i] * sin[i]);
    }
}

/// The first columns of a matrix, as many as a register has lanes, as rows of `width`: as many numbers of each as `width`
/// holds whole registers.
#[inline(always)]
pub(super) fn columns_as_rows<S: Simd>(simd: S, values: &[f32], stride: usize, out: &mut [f32], width: usize) {
    for row in (0..width).step_by(S::F32::LANES) {
        simd.transpose(&values[row * stride..], stride, &mut out[row..], width);
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

/// A result that is not written yet and whose rows several tasks write side by side.
pub(super) struct SharedRows<'a, E> {
    start: *mut MaybeUninit<E>,
    len: usize,
    owner: PhantomData<&'a mut [MaybeUninit<E>]>,
}

// SAFETY: rows are handed out by an unsafe method whose callers keep them apart.
unsafe impl<E: Send> Sync for SharedRows<'_, E> {}

impl<'a, E> SharedRows<'a, E> {
    pub(super) fn new(values: &'a mut [MaybeUninit<E>]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// `count` rows of `len` numbers, the first at `at` and each `stride` behind the one before.
    ///
    /// # Safety
    /// While they live, no others that share a number with them are asked for.
    pub(super) unsafe fn rows(&self, at: usize, [count, len]: [usize; 2], stride: usize) -> OwnRows<'a, E> {
        let inside = at <= self.len && holds(self.len - at, [(count - 1, stride), (len - 1, 1)]);
        assert!(inside, "{count} rows of {len}, {stride} apart, from {at} of {}", self.len);
        // SAFETY: inside the values (asserted).
        OwnRows { start: unsafe { self.start.add(at) }, count, len, stride, owner: PhantomData }
    }
}

/// Rows of a result that one task writes.
pub(super) struct OwnRows<'a, E> {
    start: *mut MaybeUninit<E>,
    count: usize,
    len: usize,
    stride: usize,
    owner: PhantomData<&'a mut [MaybeUninit<E>]>,
}

impl<E> OwnRows<'_, E> {
    #[inline(always)]
    pub(super) fn row(&mut self, number: usize) -> &mut [MaybeUninit<E>] {
        assert!(number < self.count, "row {number} of {}", self.count);
        // SAFETY: one of the rows that are inside the values and that nobody else has (see `SharedRows::rows`); the borrow
        // of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(number * self.stride), self.len) }
    }
}

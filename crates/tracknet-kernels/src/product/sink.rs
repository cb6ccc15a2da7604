//! Where the blocks of a product go.

use std::marker::PhantomData;

use half::bf16;

use crate::simd::{Arithmetic, Isa, Kernel};

/// Rows and columns of a block.
pub(crate) const BLOCK: usize = 32;

/// A block of a result: `BLOCK` rows of `BLOCK` values.
#[repr(align(64))]
pub(crate) struct Block(pub(crate) [[f32; BLOCK]; BLOCK]);

impl Block {
    pub(crate) const ZERO: Self = Self([[0.0; BLOCK]; BLOCK]);
}

/// Takes the blocks of a product.
pub(crate) trait Sink: Sync {
    /// The values at `row` and `column` on; `[height, width]` of the block count.
    fn take(&self, row: usize, column: usize, block: &Block, size: [usize; 2]);
}

/// A matrix that several tasks write side by side, each value once.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: rows are handed out by an unsafe method whose callers keep them apart.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T: Copy> Shared<'a, T> {
    /// Over values that exist.
    pub(crate) fn new(values: &'a mut [T]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// Over the first `len` places of the spare capacity: they are to be written, and not to be read before.
    pub(crate) fn spare(values: &'a mut Vec<T>, len: usize) -> Self {
        assert!(values.capacity() - values.len() >= len, "the capacity is reserved");
        Self { start: values.spare_capacity_mut().as_mut_ptr().cast(), len, owner: PhantomData }
    }

    /// The place of value `at`, of which `len` follow.
    fn place(&self, at: usize, len: usize) -> *mut T {
        assert!(at + len <= self.len, "a row beyond the end");
        // SAFETY: inside the slice (asserted).
        unsafe { self.start.add(at) }
    }
}

/// Stores f32 as they are.
pub(crate) struct Store<'a> {
    pub(crate) out: Shared<'a, f32>,
    /// Values of a row.
    pub(crate) stride: usize,
}

impl Sink for Store<'_> {
    fn take(&self, row: usize, column: usize, block: &Block, [height, width]: [usize; 2]) {
        for (line, values) in block.0[..height].iter().enumerate() {
            let place = self.out.place((row + line) * self.stride + column, width);
            // SAFETY: `width` places from there (checked), which no other block has.
            unsafe { place.copy_from_nonoverlapping(values.as_ptr(), width) };
        }
    }
}

/// Stores rounded to bfloat16.
pub(crate) struct StoreBf16<'a> {
    pub(crate) out: Shared<'a, bf16>,
    /// Values of a row.
    pub(crate) stride: usize,
}

impl Sink for StoreBf16<'_> {
    fn take(&self, row: usize, column: usize, block: &Block, [height, width]: [usize; 2]) {
        let mut rounded = [[0; BLOCK]; BLOCK];
        Isa::detect().run(Round { from: block.0.as_flattened(), to: rounded.as_flattened_mut() });
        for (line, values) in rounded[..height].iter().enumerate() {
            let place = self.out.place((row + line) * self.stride + column, width);
            // SAFETY: `width` places from there (checked), which no other block has; a bfloat16 is its bits.
            unsafe { place.cast::<u16>().copy_from_nonoverlapping(values.as_ptr(), width) };
        }
    }
}

/// `out += scale ∘ block`: the end of a branch, which joins the residual stream.
pub(crate) struct AddScaled<'a> {
    pub(crate) out: Shared<'a, f32>,
    /// Values of a row.
    pub(crate) stride: usize,
    /// A factor for each column.
    pub(crate) scale: Option<&'a [f32]>,
}

impl Sink for AddScaled<'_> {
    fn take(&self, row: usize, column: usize, block: &Block, [height, width]: [usize; 2]) {
        let scale = self.scale.map(|scale| &scale[column..][..width]);
        for (line, values) in block.0[..height].iter().enumerate() {
            let place = self.out.place((row + line) * self.stride + column, width);
            // SAFETY: `width` places from there (checked), which no other block has.
            let out = unsafe { std::slice::from_raw_parts_mut(place, width) };
            Isa::detect().run(Add { out, values: &values[..width], scale });
        }
    }
}

struct Add<'a> {
    out: &'a mut [f32],
    values: &'a [f32],
    scale: Option<&'a [f32]>,
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        match self.scale {
            None => {
                for (out, value) in self.out.iter_mut().zip(self.values) {
                    *out += *value;
                }
            }
            Some(scale) => {
                for ((out, value), scale) in self.out.iter_mut().zip(self.values).zip(scale) {
                    *out += *value * *scale;
                }
            }
        }
    }
}

/// f32 to the bits of bfloat16; slices of one length.
pub(crate) struct Round<'a> {
    pub(crate) from: &'a [f32],
    pub(crate) to: &'a mut [u16],
}

impl Kernel for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<A: Arithmetic>(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = round_bf16(*from);
        }
    }
}

/// The bits of the nearest bfloat16, ties to even; NaN stays NaN.
#[inline(always)]
pub(crate) fn round_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    // The carry could make an infinity or a zero of a NaN; a quiet one has its highest bit of the fraction set.
    let bits = if x.is_nan() { bits | 0x0040_0000 } else { nearest };
    (bits >> 16) as u16
}

//! Where the blocks of a product go.

use std::marker::PhantomData;
use std::mem::MaybeUninit;

use half::bf16;

use crate::simd::{Kernel, Level, Simd, round_bf16};

/// Rows and columns of a block.
pub(crate) const BLOCK: usize = 32;

/// A block of a result: `BLOCK` rows of `BLOCK` values.
#[repr(align(64))]
pub(crate) struct Block(pub(crate) [[f32; BLOCK]; BLOCK]);

impl Block {
    pub(crate) const ZERO: Self = Self([[0.0; BLOCK]; BLOCK]);
}

/// Takes the blocks of a product.
pub(crate) trait Epilogue: Sync {
    /// `[rows, columns]` of the product that it takes.
    fn shape(&self) -> [usize; 2];

    /// The values at `row` and `column` on; `[height, width]` of the block count.
    ///
    /// # Safety
    /// No two of the blocks that a epilogue is given share a value.
    unsafe fn apply(&self, row: usize, column: usize, block: &Block, size: [usize; 2]);
}

/// A matrix that several tasks write side by side, each value once.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    rows: usize,
    columns: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: parts of rows are handed out by an unsafe method whose callers keep them apart.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    /// Over values, row by row. Those of a matrix that is not written yet are `MaybeUninit`, which nothing reads.
    pub(crate) fn new(values: &'a mut [T], columns: usize) -> Self {
        assert!(values.len().is_multiple_of(columns), "{} values in rows of {columns}", values.len());
        let rows = values.len().checked_div(columns).unwrap_or(0);
        Self { start: values.as_mut_ptr(), rows, columns, owner: PhantomData }
    }

    fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// `len` values of a row, from `column` on.
    ///
    /// # Safety
    /// While they live, no others that overlap them are asked for.
    pub(crate) unsafe fn part(&self, row: usize, column: usize, len: usize) -> &'a mut [T] {
        let inside = row < self.rows && column <= self.columns && len <= self.columns - column;
        assert!(inside, "{len} values at {row}, {column} of a matrix {:?}", self.shape());
        // SAFETY: inside the values (asserted) that are borrowed exclusively for 'a, and apart from others (the caller's).
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row * self.columns + column), len) }
    }
}

/// A matrix `[rows, columns]` of its own, and what `fill`, which writes it, returned.
///
/// # Safety
/// When `fill` returns, it has written every value.
pub(crate) unsafe fn filled<T, R>(
    [rows, columns]: [usize; 2],
    fill: impl FnOnce(Shared<'_, MaybeUninit<T>>) -> R,
) -> (Vec<T>, R) {
    let len = rows * columns;
    let mut values = Vec::with_capacity(len);
    let returned = fill(Shared::new(&mut values.spare_capacity_mut()[..len], columns));
    // SAFETY: the capacity is at least `len`, and as many values are written (the caller's).
    unsafe { values.set_len(len) };
    (values, returned)
}

/// Stores f32 as they are.
pub(crate) struct Store<'a> {
    pub(crate) out: Shared<'a, MaybeUninit<f32>>,
}

impl Epilogue for Store<'_> {
    fn shape(&self) -> [usize; 2] {
        self.out.shape()
    }

    unsafe fn apply(&self, row: usize, column: usize, block: &Block, [height, width]: [usize; 2]) {
        for (line, values) in block.0[..height].iter().enumerate() {
            // SAFETY: no other block has these values (the caller's).
            let out = unsafe { self.out.part(row + line, column, width) };
            out.write_copy_of_slice(&values[..width]);
        }
    }
}

/// Stores rounded to bfloat16.
pub(crate) struct StoreBf16<'a> {
    pub(crate) out: Shared<'a, MaybeUninit<bf16>>,
}

impl Epilogue for StoreBf16<'_> {
    fn shape(&self) -> [usize; 2] {
        self.out.shape()
    }

    unsafe fn apply(&self, row: usize, column: usize, block: &Block, [height, width]: [usize; 2]) {
        let mut rounded = [[0; BLOCK]; BLOCK];
        Level::best().run(Round { from: block.0.as_flattened(), to: rounded.as_flattened_mut() });
        for (line, values) in rounded[..height].iter().enumerate() {
            // SAFETY: no other block has these values (the caller's).
            let out = unsafe { self.out.part(row + line, column, width) };
            for (out, bits) in out.iter_mut().zip(&values[..width]) {
                out.write(bf16::from_bits(*bits));
            }
        }
    }
}

/// `out += scale ∘ block`: the end of a branch, which joins the residual stream.
pub(crate) struct AddScaled<'a> {
    pub(crate) out: Shared<'a, f32>,
    /// A factor for each column.
    pub(crate) scale: Option<&'a [f32]>,
}

impl Epilogue for AddScaled<'_> {
    fn shape(&self) -> [usize; 2] {
        self.out.shape()
    }

    unsafe fn apply(&self, row: usize, column: usize, block: &Block, [height, width]: [usize; 2]) {
        let scale = self.scale.map(|scale| &scale[column..][..width]);
        for (line, values) in block.0[..height].iter().enumerate() {
            // SAFETY: no other block has these values (the caller's).
            let out = unsafe { self.out.part(row + line, column, width) };
            Level::best().run(Add { out, values: &values[..width], scale });
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
    fn run<S: Simd>(self, _: S) {
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
    fn run<S: Simd>(self, _: S) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to = round_bf16(*from);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::mem::MaybeUninit;

    use super::{BLOCK, Block, Epilogue, Shared, Store};

    /// Gives a block to a matrix of two rows of five values.
    fn take(row: usize, column: usize, size: [usize; 2]) -> Vec<f32> {
        let mut values = [MaybeUninit::new(f32::NAN); 10];
        let epilogue = Store { out: Shared::new(&mut values, 5) };
        // SAFETY: the only block.
        unsafe { epilogue.apply(row, column, &Block([[1.0; BLOCK]; BLOCK]), size) };
        // SAFETY: the values had one from the begin.
        values.iter().map(|value| unsafe { value.assume_init() }).collect()
    }

    #[test]
    fn a_block_is_stored_in_its_place_and_nowhere_else() {
        let values = take(1, 3, [1, 2]);
        let written: Vec<usize> = (0..10).filter(|at| !values[*at].is_nan()).collect();
        assert_eq!(written, [8, 9]);
    }

    #[test]
    fn a_block_beyond_the_matrix_or_the_block_is_refused() {
        let beyond = [(2, 0, [1, 1]), (0, 4, [1, 2]), (1, 0, [2, 1]), (0, 6, [1, 0]), (usize::MAX, 0, [1, 1])];
        for (row, column, size) in beyond.into_iter().chain([(0, 0, [1, BLOCK + 1]), (0, 0, [BLOCK + 1, 1])]) {
            assert!(std::panic::catch_unwind(|| take(row, column, size)).is_err(), "{row} {column} {size:?}");
        }
    }

    #[test]
    #[should_panic(expected = "7 values in rows of 3")]
    fn values_that_are_no_matrix_are_refused() {
        Shared::new(&mut [0.0; 7], 3);
    }
}

//! Rows of a head as factors of products.

use super::element::Element;
use super::factors::{Factors, MAX_GROUP};
use super::lanes::{Lanes, MAX_COUNT};
use super::product::Left;
use super::rows::{Angles, Buffer, HeadRows};

/// Packed rows are padded with zeros to a multiple of this, so that they are whole registers of places.
const WIDTH_UNIT: usize = MAX_GROUP * MAX_COUNT;

/// The length of a packed row of `head_dim` numbers.
pub(super) fn padded_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(WIDTH_UNIT)
}

/// Which sums rows are packed for.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// Along a row.
    pub(super) along: bool,
    /// Across the rows.
    pub(super) across: bool,
}

/// Rows of a head in places of some [`Factors`], padded with zeros.
pub(super) struct PackedRows {
    /// `[rows, width / group]`: consecutive numbers of a row share a place.
    along: Buffer,
    /// `[rows / group, width]`: consecutive rows share a place. Empty where a place is one number: `along` is both.
    across: Buffer,
    /// Rows on their way, as f32.
    group: Buffer,
    width: usize,
    /// Numbers of a place.
    numbers: usize,
}

impl PackedRows {
    /// Room for `rows`, which is a multiple of the group, of `head_dim` numbers.
    #[inline(always)]
    pub(super) fn new<L: Lanes, F: Factors<L>>(rows: usize, head_dim: usize, sums: Sums) -> Self {
        assert!(rows.is_multiple_of(F::GROUP), "{rows} rows in groups of {}", F::GROUP);
        let width = padded_width(head_dim);
        let room = |wanted: bool| Buffer::new(if wanted { rows * width / F::GROUP } else { 0 });
        let both = F::GROUP == 1;
        Self {
            along: room(sums.along || both),
            across: room(sums.across && !both),
            group: Buffer::new(F::GROUP * width),
            width,
            numbers: F::GROUP,
        }
    }

    /// Packs `count` rows from token `first` on, turned if `angles` is given, and times `factor`. Tells whether all
    /// their numbers are finite.
    ///
    /// # Safety
    /// The processor has the instructions of `L` and `F`.
    #[inline(always)]
    pub(super) unsafe fn pack<E: Element, L: Lanes, F: Factors<L>>(
        &mut self,
        rows: HeadRows<'_, E>,
        [first, count]: [usize; 2],
        angles: Option<Angles<'_>>,
        factor: f32,
    ) -> bool {
        assert!(self.numbers == F::GROUP, "room for groups of {}, not {}", self.numbers, F::GROUP);
        let width = self.width;
        let places = width / F::GROUP;
        // SAFETY: the caller's.
        let zero = unsafe { L::splat(0.0) };
        let mut zeros = zero;
        for start in (0..count).step_by(F::GROUP) {
            for (i, row) in self.group.chunks_exact_mut(width).take(F::GROUP).enumerate() {
                let row = &mut row[..rows.head_dim];
                if start + i < count {
                    rows.read(first + start + i, angles, factor, row);
                } else {
                    row.fill(0.0);
                }
            }
            for lane in (0..F::GROUP * width).step_by(L::COUNT) {
                // SAFETY: the caller's.
                zeros = unsafe { L::read(&self.group[lane..]) }.mul_add(zero, zeros);
            }
            if !self.along.is_empty() {
                for (i, row) in self.group.chunks_exact(width).take(F::GROUP).enumerate() {
                    let to = &mut self.along[(start + i) * places..][..places];
                    for place in (0..places).step_by(L::COUNT) {
                        // SAFETY: the caller's.
                        unsafe {
                            let mut numbers = [L::splat(0.0); MAX_GROUP];
                            for (j, register) in numbers.iter_mut().take(F::GROUP).enumerate() {
                                *register = L::read(&row[place * F::GROUP + j * L::COUNT..]);
                            }
                            F::along(numbers).write(&mut to[place..]);
                        }
                    }
                }
            }
            if !self.across.is_empty() {
                let to = &mut self.across[start / F::GROUP * width..][..width];
                for lane in (0..width).step_by(L::COUNT) {
                    // SAFETY: the caller's.
                    unsafe {
                        let mut numbers = [L::splat(0.0); MAX_GROUP];
                        for (i, register) in numbers.iter_mut().take(F::GROUP).enumerate() {
                            *register = L::read(&self.group[i * width + lane..]);
                        }
                        F::across(numbers).write(&mut to[lane..]);
                    }
                }
            }
        }
        // What is not finite, times zero, is NaN.
        !zeros.differs(zero)
    }

    /// Rows from `first` on as the left factor of a sum along them.
    #[inline(always)]
    pub(super) fn left_along(&self, first: usize) -> Left<'_> {
        let row = self.width / self.numbers;
        Left { values: &self.along[first * row..], row, step: 1 }
    }

    /// Rows from `first` on, transposed, as the left factor of a sum across them. `first` begins a group.
    #[inline(always)]
    pub(super) fn left_across(&self, first: usize) -> Left<'_> {
        Left { values: &self.places_across()[first / self.numbers * self.width..], row: 1, step: self.width }
    }

    /// All rows as the right factor of a sum across them, and how far apart its rows are.
    #[inline(always)]
    pub(super) fn right_across(&self) -> (&[f32], usize) {
        (self.places_across(), self.width)
    }

    #[inline(always)]
    fn places_across(&self) -> &[f32] {
        if self.numbers == 1 { &self.along } else { &self.across }
    }
}

/// The rows that the lanes of a product are: queries, or gradients of outputs.
pub(super) struct Panel {
    pub(super) rows: PackedRows,
    /// `[width / group, stride]`, zero where there is no row.
    transposed: Buffer,
    stride: usize,
}

impl Panel {
    /// Room for `stride` rows, whole registers; `across` if sums across them are wanted too.
    #[inline(always)]
    pub(super) fn new<L: Lanes, F: Factors<L>>(stride: usize, head_dim: usize, across: bool) -> Self {
        let rows = PackedRows::new::<L, F>(stride, head_dim, Sums { along: true, across });
        Self { transposed: Buffer::new(padded_width(head_dim) / F::GROUP * stride), rows, stride }
    }

    /// Takes `count` rows from token `first` on; `columns` is `count` rounded up to whole registers.
    ///
    /// # Safety
    /// The processor has the instructions of `L` and `F`.
    #[inline(always)]
    pub(super) unsafe fn pack<E: Element, L: Lanes, F: Factors<L>>(
        &mut self,
        rows: HeadRows<'_, E>,
        [first, count, columns]: [usize; 3],
        angles: Option<Angles<'_>>,
        factor: f32,
    ) {
        let Self { rows: packed, transposed, stride } = self;
        assert!(columns.is_multiple_of(L::COUNT) && columns <= *stride, "{columns} rows for a panel of {stride}");
        // SAFETY: the caller's.
        unsafe { packed.pack::<E, L, F>(rows, [first, count], angles, factor) };
        let places = packed.width / F::GROUP;
        packed.along[count * places..columns * places].fill(0.0);
        for row in (0..columns).step_by(L::COUNT) {
            for place in (0..rows.head_dim.div_ceil(F::GROUP)).step_by(L::COUNT) {
                let from = &packed.along[row * places + place..][..(L::COUNT - 1) * places + L::COUNT];
                let to = &mut transposed[place * *stride + row..][..(L::COUNT - 1) * *stride + L::COUNT];
                // SAFETY: the caller's; the slices reach to the last number of the square.
                unsafe { L::transpose(from.as_ptr(), places, to.as_mut_ptr(), *stride) };
            }
        }
    }

    /// The rows transposed, as the right factor of a sum along them.
    #[inline(always)]
    pub(super) fn right_along(&self) -> (&[f32], usize) {
        (&self.transposed, self.stride)
    }
}

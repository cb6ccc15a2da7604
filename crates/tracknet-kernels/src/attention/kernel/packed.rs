//! Rows of a head as factors of products.

use super::element::Element;
use super::matmul::Lhs;
use super::rows::{Buffer, HeadRows, RotaryTable};
use crate::simd::{DotFormat, MAX_GROUP, MAX_LANES, Register, Simd};

/// Packed rows are padded with zeros to a multiple of this, so that they are whole registers of places.
const WIDTH_UNIT: usize = MAX_GROUP * MAX_LANES;

/// The length of a packed row of `head_dim` numbers.
pub(super) fn padded_width(head_dim: usize) -> usize {
    head_dim.next_multiple_of(WIDTH_UNIT)
}

/// Which sums rows are packed for.
#[derive(Clone, Copy)]
pub(super) struct Sums {
    /// Over the numbers of a row.
    pub(super) by_row: bool,
    /// Over the rows, column by column.
    pub(super) by_col: bool,
}

/// Rows of a head in places of some [`DotFormat`], padded with zeros.
pub(super) struct PackedRows {
    /// `[rows, width / group]`: consecutive numbers of a row share a place.
    by_row: Buffer,
    /// `[rows / group, width]`: consecutive rows share a place. Empty where a place is one number: `by_row` is both.
    by_col: Buffer,
    /// The rows of a group as f32, before they are packed.
    unpacked: Buffer,
    width: usize,
    /// Numbers of a place.
    group: usize,
}

impl PackedRows {
    /// Room for `rows`, which is a multiple of the group, of `head_dim` numbers.
    #[inline(always)]
    pub(super) fn new<S: Simd, F: DotFormat<S>>(rows: usize, head_dim: usize, sums: Sums) -> Self {
        assert!(rows.is_multiple_of(F::GROUP), "{rows} rows in groups of {}", F::GROUP);
        let width = padded_width(head_dim);
        let room = |wanted: bool| Buffer::new(if wanted { rows * width / F::GROUP } else { 0 });
        let both = F::GROUP == 1;
        Self {
            by_row: room(sums.by_row || both),
            by_col: room(sums.by_col && !both),
            unpacked: Buffer::new(F::GROUP * width),
            width,
            group: F::GROUP,
        }
    }

    /// Packs `count` rows from token `first` on, with the rotary embedding if `rotary` is given, and times `factor`. Tells
    /// whether all their numbers are finite.
    #[inline(always)]
    pub(super) fn pack<E: Element, S: Simd, F: DotFormat<S>>(
        &mut self,
        simd: S,
        rows: HeadRows<'_, E>,
        [first, count]: [usize; 2],
        rotary: Option<RotaryTable<'_>>,
        factor: f32,
    ) -> bool {
        assert!(self.group == F::GROUP, "room for groups of {}, not {}", self.group, F::GROUP);
        let zero = simd.splat(0.0);
        let mut zeros = zero;
        for start in (0..count).step_by(F::GROUP) {
            for (i, row) in self.unpacked.chunks_exact_mut(self.width).take(F::GROUP).enumerate() {
                let row = &mut row[..rows.head_dim];
                if start + i < count {
                    rows.read(first + start + i, rotary, factor, row);
                } else {
                    row.fill(0.0);
                }
            }
            for lane in (0..F::GROUP * self.width).step_by(S::F32::LANES) {
                zeros = simd.read(&self.unpacked[lane..]).mul_add(zero, zeros);
            }
            if !self.by_row.is_empty() {
                self.pack_by_row::<S, F>(simd, start);
            }
            if !self.by_col.is_empty() {
                self.pack_by_col::<S, F>(simd, start);
            }
        }
        // What is not finite, times zero, is NaN.
        !zeros.differs(zero)
    }

    /// The unpacked group as rows from `start` on.
    #[inline(always)]
    fn pack_by_row<S: Simd, F: DotFormat<S>>(&mut self, simd: S, start: usize) {
        let places = self.width / F::GROUP;
        for (i, row) in self.unpacked.chunks_exact(self.width).take(F::GROUP).enumerate() {
            let to = &mut self.by_row[(start + i) * places..][..places];
            for place in (0..places).step_by(S::F32::LANES) {
                let mut numbers = [simd.splat(0.0); MAX_GROUP];
                for (j, register) in numbers.iter_mut().take(F::GROUP).enumerate() {
                    *register = simd.read(&row[place * F::GROUP + j * S::F32::LANES..]);
                }
                F::pack_row(simd, numbers).write(&mut to[place..]);
            }
        }
    }

    /// The unpacked group as the row of places that begins with row `start`.
    #[inline(always)]
    fn pack_by_col<S: Simd, F: DotFormat<S>>(&mut self, simd: S, start: usize) {
        let to = &mut self.by_col[start / F::GROUP * self.width..][..self.width];
        for lane in (0..self.width).step_by(S::F32::LANES) {
            let mut numbers = [simd.splat(0.0); MAX_GROUP];
            for (i, register) in numbers.iter_mut().take(F::GROUP).enumerate() {
                *register = simd.read(&self.unpacked[i * self.width + lane..]);
            }
            F::pack_col(simd, numbers).write(&mut to[lane..]);
        }
    }

    /// Rows from `first` on as the left factor of sums over each row.
    #[inline(always)]
    pub(super) fn lhs_by_row(&self, first: usize) -> Lhs<'_> {
        let places = self.width / self.group;
        Lhs { values: &self.by_row[first * places..], row_stride: places, col_stride: 1 }
    }

    /// Rows from `first` on, transposed, as the left factor of sums over each column. `first` begins a group.
    #[inline(always)]
    pub(super) fn lhs_by_col(&self, first: usize) -> Lhs<'_> {
        let values = &self.places_by_col()[first / self.group * self.width..];
        Lhs { values, row_stride: 1, col_stride: self.width }
    }

    /// All rows as the right factor of sums over each column, and how far apart its rows are.
    #[inline(always)]
    pub(super) fn rhs_by_col(&self) -> (&[f32], usize) {
        (self.places_by_col(), self.width)
    }

    #[inline(always)]
    fn places_by_col(&self) -> &[f32] {
        if self.group == 1 { &self.by_row } else { &self.by_col }
    }
}

/// The rows that become columns of a product, a lane each: queries, or gradients of outputs.
pub(super) struct Panel {
    pub(super) rows: PackedRows,
    /// `[width / group, stride]`, zero where there is no row.
    transposed: Buffer,
    stride: usize,
}

impl Panel {
    /// Room for `stride` rows, whole registers; `by_col` if sums over the rows are wanted too.
    #[inline(always)]
    pub(super) fn new<S: Simd, F: DotFormat<S>>(stride: usize, head_dim: usize, by_col: bool) -> Self {
        let rows = PackedRows::new::<S, F>(stride, head_dim, Sums { by_row: true, by_col });
        Self { transposed: Buffer::new(padded_width(head_dim) / F::GROUP * stride), rows, stride }
    }

    /// Takes `count` rows from token `first` on; `columns` is `count` rounded up to whole registers.
    #[inline(always)]
    pub(super) fn pack<E: Element, S: Simd, F: DotFormat<S>>(
        &mut self,
        simd: S,
        rows: HeadRows<'_, E>,
        [first, count, columns]: [usize; 3],
        rotary: Option<RotaryTable<'_>>,
        factor: f32,
    ) {
        let Self { rows: packed, transposed, stride } = self;
        let lanes = S::F32::LANES;
        assert!(columns.is_multiple_of(lanes) && columns <= *stride, "{columns} rows for a panel of {stride}");
        packed.pack::<E, S, F>(simd, rows, [first, count], rotary, factor);
        let places = packed.width / F::GROUP;
        packed.by_row[count * places..columns * places].fill(0.0);
        for row in (0..columns).step_by(lanes) {
            for place in (0..rows.head_dim.div_ceil(F::GROUP)).step_by(lanes) {
                let from = &packed.by_row[row * places + place..];
                simd.transpose(from, places, &mut transposed[place * *stride + row..], *stride);
            }
        }
    }

    /// The rows transposed, as the right factor of sums over each row.
    #[inline(always)]
    pub(super) fn rhs_by_row(&self) -> (&[f32], usize) {
        (&self.transposed, self.stride)
    }
}

//! One head of one frame: its place in the tensors, its packed keys and values, and panels of its queries.

use super::Inputs;
use super::isa::Task;
use super::lanes::Lanes;
use super::rows::{Angles, Buffer, HeadRows, WIDTH_UNIT, transpose};

/// One head of one frame.
pub(super) struct Head<'a> {
    pub(super) query: HeadRows<'a>,
    pub(super) key: HeadRows<'a>,
    pub(super) value: HeadRows<'a>,
    pub(super) tokens: usize,
    pub(super) angles: Option<Angles<'a>>,
    pub(super) scale: f32,
    start: usize,
}

impl<'a> Head<'a> {
    /// Head number `index` of all, counted through the heads of the first frame, then of the next.
    pub(super) fn new(inputs: &Inputs<'a>, index: usize) -> Self {
        let shape = inputs.shape;
        let start = (index / shape.heads) * shape.tokens * shape.hidden() + (index % shape.heads) * shape.head_dim;
        let rows =
            |values: &'a [f32]| HeadRows { values: &values[start..], stride: shape.hidden(), head_dim: shape.head_dim };
        Self {
            query: rows(inputs.query),
            key: rows(inputs.key),
            value: rows(inputs.value),
            tokens: shape.tokens,
            angles: inputs.angles,
            scale: inputs.scale,
            start,
        }
    }

    pub(super) fn head_dim(&self) -> usize {
        self.query.head_dim
    }

    /// The rows of this head in another tensor of the same shape.
    pub(super) fn rows<'b>(&self, values: &'b [f32]) -> HeadRows<'b> {
        HeadRows { values: &values[self.start..], stride: self.query.stride, head_dim: self.query.head_dim }
    }

    /// Where the row of `token` begins in a tensor.
    pub(super) fn offset(&self, token: usize) -> usize {
        self.start + token * self.query.stride
    }

    /// What queries are multiplied by when packed: scores come out in powers of two, so `2^score` is `e^(scale · q·k)`.
    pub(super) fn query_factor(&self) -> f32 {
        self.scale * std::f32::consts::LOG2_E
    }
}

/// The keys (turned) and values of a head in rows of `width`, padded with zeros to whole blocks of a product.
pub(super) struct Packed {
    pub(super) keys: Buffer,
    pub(super) values: Buffer,
    pub(super) width: usize,
    /// Whether a key or value is NaN or infinite. Every query of the head meets it, but an infinite score of the wrong
    /// sign would vanish in the softmax, so it is told apart here.
    pub(super) poisoned: bool,
}

/// Packs the keys and values of a head.
pub(super) struct Pack<'a>(pub(super) &'a Head<'a>);

impl Task for Pack<'_> {
    type Output = Packed;

    #[inline(always)]
    unsafe fn run<L: Lanes, const ROWS: usize>(self) -> Packed {
        let Self(head) = self;
        let width = head.head_dim().next_multiple_of(WIDTH_UNIT);
        let rows = head.tokens.next_multiple_of(ROWS);
        let mut packed = Packed {
            keys: Buffer::new(rows * width),
            values: Buffer::new(rows * width),
            width,
            poisoned: head.key.is_poisoned(head.tokens) || head.value.is_poisoned(head.tokens),
        };
        head.key.pack(0, head.angles, 1.0, &mut packed.keys[..head.tokens * width], width);
        head.value.pack(0, None, 1.0, &mut packed.values[..head.tokens * width], width);
        packed
    }
}

/// Some rows of a head, packed both ways.
pub(super) struct Panel {
    /// `[rows, width]`.
    pub(super) rows: Buffer,
    /// `[head_dim, rows]`, rows `stride` apart, zero where there is no row.
    pub(super) transposed: Buffer,
    width: usize,
    stride: usize,
}

impl Panel {
    #[inline(always)]
    pub(super) fn new(width: usize, stride: usize) -> Self {
        Self { rows: Buffer::new(stride * width), transposed: Buffer::new(width * stride), width, stride }
    }

    /// Takes `count` rows from token `first` on; `padded` is `count` rounded up to whole registers.
    #[inline(always)]
    pub(super) fn pack(
        &mut self,
        rows: HeadRows<'_>,
        first: usize,
        [count, padded]: [usize; 2],
        angles: Option<Angles<'_>>,
        factor: f32,
    ) {
        rows.pack(first, angles, factor, &mut self.rows[..count * self.width], self.width);
        let sizes = [count, padded, rows.head_dim];
        transpose(&self.rows, self.width, sizes, &mut self.transposed, self.stride);
    }
}

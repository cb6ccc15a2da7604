//! One head of one frame: its place in the tensors, and its packed keys and values.

use super::Inputs;
use super::element::Element;
use super::packed::{PackedRows, Sums};
use super::rows::{HeadRows, OwnRows, RotaryTable, SharedRows};
use super::task::Task;
use crate::simd::{DotFormat, Simd};

/// One head of one frame.
pub(super) struct Head<'a, E> {
    pub(super) query: HeadRows<'a, E>,
    pub(super) key: HeadRows<'a, E>,
    pub(super) value: HeadRows<'a, E>,
    pub(super) tokens: usize,
    pub(super) rotary: Option<RotaryTable<'a>>,
    pub(super) scale: f32,
    start: usize,
}

impl<'a, E: Element> Head<'a, E> {
    /// Head number `index` of all, counted through the heads of the first frame, then of the next.
    pub(super) fn new(inputs: &Inputs<'a, E>, index: usize) -> Self {
        let shape = inputs.shape;
        let start = (index / shape.heads) * shape.tokens * shape.hidden() + (index % shape.heads) * shape.head_dim;
        let rows =
            |values: &'a [E]| HeadRows { values: &values[start..], stride: shape.hidden(), head_dim: shape.head_dim };
        Self {
            query: rows(inputs.query),
            key: rows(inputs.key),
            value: rows(inputs.value),
            tokens: shape.tokens,
            rotary: inputs.rotary,
            scale: inputs.scale,
            start,
        }
    }

    #[inline(always)]
    pub(super) fn head_dim(&self) -> usize {
        self.query.head_dim
    }

    /// The rows of this head in another tensor of the same shape.
    pub(super) fn rows<'b, T: Element>(&self, values: &'b [T]) -> HeadRows<'b, T> {
        HeadRows { values: &values[self.start..], stride: self.query.stride, head_dim: self.query.head_dim }
    }

    /// `count` rows of this head, from token `first` on, in a result of the same shape.
    ///
    /// # Safety
    /// While they live, nobody else asks for a row of these tokens and this head.
    pub(super) unsafe fn own<'b, T>(&self, result: &SharedRows<'b, T>, [first, count]: [usize; 2]) -> OwnRows<'b, T> {
        let HeadRows { stride, head_dim, .. } = self.query;
        // SAFETY: the caller's; rows of other tokens and heads lie elsewhere.
        unsafe { result.rows(self.start + first * stride, [count, head_dim], stride) }
    }

    /// What queries are multiplied by when packed: scores come out in powers of two, so `2^score` is `e^(scale · q·k)`.
    #[inline(always)]
    pub(super) fn query_factor(&self) -> f32 {
        self.scale * std::f32::consts::LOG2_E
    }
}

/// The keys (with their rotary embedding) and values of a head, padded with rows of zeros to whole blocks of a product.
pub(super) struct Packed {
    pub(super) keys: PackedRows,
    pub(super) values: PackedRows,
    /// With those of zeros.
    pub(super) rows: usize,
    /// Whether a key or value is NaN or infinite. Every query of the head meets it, but an infinite score of the wrong
    /// sign would vanish in the softmax, so it is told apart here.
    pub(super) poisoned: bool,
}

/// Packs the keys and values of a head, each for the sums that it takes part in.
pub(super) struct Pack<'a, E> {
    pub(super) head: &'a Head<'a, E>,
    pub(super) keys: Sums,
    pub(super) values: Sums,
}

impl<E: Element> Task for Pack<'_, E> {
    type Output = Packed;

    #[inline(always)]
    fn run<S: Simd, F: DotFormat<S>>(self, simd: S) -> Packed {
        let Self { head, keys, values } = self;
        let rows = head.tokens.next_multiple_of(S::BLOCK_ROWS);
        let mut packed = Packed {
            keys: PackedRows::new::<S, F>(rows, head.head_dim(), keys),
            values: PackedRows::new::<S, F>(rows, head.head_dim(), values),
            rows,
            poisoned: false,
        };
        packed.poisoned |= !packed.keys.pack::<E, S, F>(simd, head.key, [0, head.tokens], head.rotary, 1.0);
        packed.poisoned |= !packed.values.pack::<E, S, F>(simd, head.value, [0, head.tokens], None, 1.0);
        packed
    }
}

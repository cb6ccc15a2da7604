//! From tokens with heads side by side to one matrix for each head, and back.

use std::ops::Range;

use burn::backend::TensorMetadata;
use burn::tensor::DType;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use crate::ComputeDtype;
use crate::attention::ops::AttentionFormat;
use crate::cube::{cast, contiguous, elem, expect, grid, has_products_of, launch, unwritten, vector_size};

/// Tokens are filled up to a multiple of this.
const TOKENS_TOGETHER: usize = 16;

/// Shapes of an attention, and its rotary table.
pub(super) struct Heads {
    pub(super) batch: usize,
    pub(super) tokens: usize,
    /// Tokens, filled up.
    pub(super) padded: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) rotary: bool,
    /// What the factors of products are in.
    pub(super) dtype: DType,
    /// Values that a unit moves at once.
    width: usize,
    /// Cosines, then sines, f32 `[2, tokens, head_dim / 2]`, where queries and keys are rotated by position.
    pub(super) table: CubeTensor,
}

impl Heads {
    pub(super) fn new(query: &CubeTensor, table: CubeTensor, format: AttentionFormat) -> Self {
        let [batch, tokens, hidden] = query.shape().dims();
        let head_dim = hidden / format.heads;
        let rotary = format.rotary;
        // A vector lies in one half of a head, and as many cosines are read at once.
        let run = if rotary { head_dim / 2 } else { head_dim };
        let width = vector_size(query, DType::F32, [run]);
        let half = format.compute == ComputeDtype::Bf16 && has_products_of(&query.client, DType::BF16);
        let dtype = if half && query.dtype == DType::F32 { DType::BF16 } else { query.dtype };
        let table = if rotary { contiguous(cast(table, DType::F32)) } else { table };
        if rotary {
            expect([(&table, tokens * head_dim, DType::F32)]);
        }
        let padded = tokens.next_multiple_of(TOKENS_TOGETHER);
        Self { batch, tokens, padded, heads: format.heads, head_dim, rotary, dtype, width, table }
    }

    /// Some frames of `[batch, tokens, heads · head_dim]` as `[frames · heads, padded, head_dim]`, zero in the padding;
    /// times a factor, and with the rotary embedding if the format says so, where one is given.
    pub(super) fn split(&self, x: &CubeTensor, frames: &Range<usize>, factor: Option<f32>) -> CubeTensor {
        let y = unwritten(x, [frames.len() * self.heads, self.padded, self.head_dim], self.dtype);
        let units = frames.len() * self.heads * self.padded * self.head_dim / self.width;
        // SAFETY: a unit writes the vector of its position if that is below the count that fills `y`, and reads only of
        // frames and tokens that `x` has; rows of the table are tokens, and without one it is not read.
        unsafe {
            launch!(
                split,
                grid(x, units),
                [self.width],
                [x, self.table, y],
                self.launch(units, frames),
                factor.unwrap_or(1.0),
                self.rotary && factor.is_some(),
                [elem(x.dtype), elem(self.dtype)]
            );
        }
        y
    }

    /// The reverse, into the place of those frames in `out`, without the padding; times a factor, and through the inverse of the embedding.
    pub(super) fn join(&self, x: CubeTensor, frames: &Range<usize>, factor: Option<f32>, out: &CubeTensor) {
        let x = contiguous(x);
        let units = frames.len() * self.heads * self.tokens * self.head_dim / self.width;
        // SAFETY: as in `split`; `out` has the frames.
        unsafe {
            launch!(
                join,
                grid(&x, units),
                [self.width],
                [x, self.table, out],
                self.launch(units, frames),
                factor.unwrap_or(1.0),
                self.rotary && factor.is_some(),
                [elem(x.dtype), elem(out.dtype)]
            );
        }
    }

    /// All of `[batch, tokens, heads · head_dim]` in the type of factors, rotated or not.
    pub(super) fn factor(&self, x: CubeTensor, rotated: bool) -> CubeTensor {
        if x.dtype == self.dtype && !rotated {
            return x;
        }
        let y = unwritten(&x, x.shape(), self.dtype);
        let units = self.batch * self.tokens * self.heads * self.head_dim / self.width;
        // SAFETY: as in `split`; both tensors have one shape.
        unsafe {
            launch!(
                convert,
                grid(&x, units),
                [self.width],
                [x, self.table, y],
                self.launch(units, &(0..self.batch)),
                rotated,
                [elem(x.dtype), elem(self.dtype)]
            );
        }
        y
    }

    fn launch(&self, units: usize, frames: &Range<usize>) -> HeadLayoutLaunch {
        HeadLayoutLaunch::new(units, self.tokens, self.padded, self.heads, self.head_dim / self.width, frames.start)
    }
}

/// Sizes in vectors.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct HeadLayout {
    units: usize,
    tokens: usize,
    padded: usize,
    heads: usize,
    /// Vectors in a head.
    vectors: usize,
    /// The first frame.
    first: usize,
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn split<F: Float, G: Float, N: Size>(
    x: &[Vector<F, N>],
    table: &[Vector<f32, N>],
    y: &mut [Vector<G, N>],
    layout: HeadLayout,
    factor: f32,
    #[comptime] rotated: bool,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    if ABSOLUTE_POS >= layout.units {
        terminate!();
    }
    let at = ABSOLUTE_POS % layout.vectors;
    let row = ABSOLUTE_POS / layout.vectors;
    let token = row % layout.padded;
    let head = row / layout.padded;
    if token < layout.tokens {
        let frame = layout.first + head / layout.heads;
        let start = ((frame * layout.tokens + token) * layout.heads + head % layout.heads) * layout.vectors;
        let values = apply_rotary::<F, N>(x, table, start, at, token, layout, rotated, false);
        y[ABSOLUTE_POS] = Vector::cast_from(values * Vector::new(factor));
    } else {
        y[ABSOLUTE_POS] = Vector::new(G::new(0.0f32));
    }
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn join<F: Float, G: Float, N: Size>(
    x: &[Vector<F, N>],
    table: &[Vector<f32, N>],
    y: &mut [Vector<G, N>],
    layout: HeadLayout,
    factor: f32,
    #[comptime] rotated: bool,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    if ABSOLUTE_POS >= layout.units {
        terminate!();
    }
    let at = ABSOLUTE_POS % layout.vectors;
    let rest = ABSOLUTE_POS / layout.vectors;
    let head = rest % layout.heads;
    let rest = rest / layout.heads;
    let token = rest % layout.tokens;
    let frame = rest / layout.tokens;
    let start = ((frame * layout.heads + head) * layout.padded + token) * layout.vectors;
    let place = layout.first * layout.tokens * layout.heads * layout.vectors + ABSOLUTE_POS;
    let values = apply_rotary::<F, N>(x, table, start, at, token, layout, rotated, true);
    y[place] = Vector::cast_from(values * Vector::new(factor));
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn convert<F: Float, G: Float, N: Size>(
    x: &[Vector<F, N>],
    table: &[Vector<f32, N>],
    y: &mut [Vector<G, N>],
    layout: HeadLayout,
    #[comptime] rotated: bool,
    #[define(F, G)] _dtypes: [ElemType; 2],
) {
    if ABSOLUTE_POS >= layout.units {
        terminate!();
    }
    let at = ABSOLUTE_POS % layout.vectors;
    let token = ABSOLUTE_POS / layout.vectors / layout.heads % layout.tokens;
    y[ABSOLUTE_POS] =
        Vector::cast_from(apply_rotary::<F, N>(x, table, ABSOLUTE_POS - at, at, token, layout, rotated, false));
}

/// Vector `at` of the head that begins at `start`. With the rotary embedding (`rotated`), the halves `(x₁, x₂)` become `(x₁ cos − x₂ sin, x₂ cos + x₁
/// sin)`; in its `inverse` the sine changes its sign.
#[cube]
#[allow(clippy::too_many_arguments)]
fn apply_rotary<F: Float, N: Size>(
    x: &[Vector<F, N>],
    table: &[Vector<f32, N>],
    start: usize,
    at: usize,
    token: usize,
    layout: HeadLayout,
    #[comptime] rotated: bool,
    #[comptime] inverse: bool,
) -> Vector<f32, N> {
    let own = Vector::<f32, N>::cast_from(x[start + at]);
    if comptime!(rotated) {
        let half = layout.vectors / 2;
        let lower = at < half;
        let pair = select(lower, at, at - half);
        let other = Vector::<f32, N>::cast_from(x[start + select(lower, at + half, pair)]);
        let cos = table[token * half + pair];
        let sin = table[(layout.tokens + token) * half + pair];
        let crossed = other * sin;
        let plus = if comptime!(inverse) { lower } else { !lower };
        own * cos + select(plus, crossed, -crossed)
    } else {
        own
    }
}

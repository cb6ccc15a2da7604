//! The block on slices, forward.

use std::marker::PhantomData;

use half::bf16;

use super::mlp::{Mlp, SavedMlp};
use crate::attention::kernel::{AttentionShape, Inputs, RotaryTable};
use crate::dropout::KeepMask;
use crate::fourbit::ComputeDtype;
use crate::gelu::kernel::Identity;
use crate::norm::kernel::NormalizeRows;
use crate::product::{
    self, AddScaled, Epilogue, LowRank, Mask, PackedLhs, Product, Shared, Side, StoreBf16, Weight, filled,
};
use crate::simd::{F32x16, LANES, Level, widen_bf16};

/// Sizes of a block and of what goes through it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    /// Frames.
    pub(super) batch: usize,
    /// Tokens of a frame.
    pub(super) tokens: usize,
    /// Values of a token.
    pub(super) hidden: usize,
    /// Heads of the attention.
    pub(super) heads: usize,
}

impl Shape {
    pub(super) fn rows(&self) -> usize {
        self.batch * self.tokens
    }

    fn attention(&self) -> AttentionShape {
        let Self { batch, tokens, hidden, heads, .. } = *self;
        AttentionShape { batch, tokens, heads, head_dim: hidden / heads }
    }
}

/// A block in host memory.
pub(super) struct Block<'a> {
    pub(super) shape: Shape,
    pub(super) norm1: Norm<'a>,
    pub(super) query: Linear<'a>,
    pub(super) key: Linear<'a>,
    pub(super) value: Linear<'a>,
    pub(super) output: Linear<'a>,
    pub(super) scale1: Option<&'a [f32]>,
    pub(super) mlp: Mlp<'a>,
    /// The rotary embedding of queries and keys.
    pub(super) rotary: Option<RotaryTable<'a>>,
}

/// Layer normalization.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) epsilon: f32,
}

/// A frozen linear layer, with or without an adapter.
#[derive(Clone, Copy)]
pub(super) struct Linear<'a> {
    pub(super) weight: Weight<'a>,
    pub(super) bias: Option<&'a [f32]>,
    pub(super) adapter: Option<Adapter<'a>>,
}

/// `scale · B(A(dropout(x)))`.
#[derive(Clone, Copy)]
pub(super) struct Adapter<'a> {
    /// `[rank, in]`.
    pub(super) a: Weight<'a>,
    /// `[out, rank]`.
    pub(super) b: Weight<'a>,
    pub(super) scale: f32,
    pub(super) dropout: Option<KeepMask>,
}

/// Activations that the backward pass reads.
pub(super) struct Saved {
    /// The residual stream between attention and MLP.
    pub(super) middle: Vec<f32>,
    /// The normalized input of the attention.
    pub(super) normal1: PackedLhs,
    pub(super) query: Vec<bf16>,
    pub(super) key: Vec<bf16>,
    pub(super) value: Vec<bf16>,
    /// The output of the attention, before its projection.
    pub(super) attended: Vec<bf16>,
    /// Its row statistics.
    pub(super) lse: Vec<f32>,
    /// What each layer's adapter made of its input, in the order of query, key, value, output.
    pub(super) thin: [Option<Thin>; 4],
    pub(super) mlp: SavedMlp,
}

/// The linear layers of a block.
pub(super) const LAYERS: usize = 6;

/// The thin side of an adapter: `scale · gain · A(mask ∘ x)`, and the mask.
pub(super) struct Thin {
    pub(super) rows: PackedLhs,
    pub(super) mask: Option<Mask>,
}

impl Adapter<'_> {
    /// The factor of the thin product: the adapter's scale, and the gain of its dropout.
    pub(super) fn factor(&self) -> f32 {
        self.scale * self.dropout.map_or(1.0, KeepMask::gain)
    }

    fn thin(&self, x: &PackedLhs, level: Level) -> Thin {
        let mask = self.dropout.map(|keep| Mask::draw(keep, x.rows(), x.columns()));
        let rows = product::thin(level, x, mask.as_ref(), (self.a, Side::In), self.factor());
        Thin { rows, mask }
    }
}

impl Linear<'_> {
    /// Hands `x · Wᵀ + bias` with the adapter's part to `epilogue`, as a product does.
    pub(super) fn forward<E: Epilogue>(&self, x: &PackedLhs, level: Level, epilogue: E) -> Option<Thin> {
        let thin = self.adapter.map(|adapter| adapter.thin(x, level));
        let low_rank = self.adapter.zip(thin.as_ref()).map(|(adapter, thin)| LowRank {
            lhs: &thin.rows,
            weight: adapter.b,
            side: Side::In,
            mask: None,
        });
        let Self { weight, bias, .. } = *self;
        product::run(level, &Product { lhs: x, weight, side: Side::In, bias, low_rank }, epilogue);
        thin
    }

    /// [`Self::forward`] into a matrix of bfloat16.
    pub(super) fn forward_bf16(&self, x: &PackedLhs, level: Level) -> (Vec<bf16>, Option<Thin>) {
        let shape = [x.rows(), self.weight.shape[0]];
        // SAFETY: the blocks of a product are the whole result, and `StoreBf16` writes all of each.
        unsafe { filled(shape, |out| self.forward(x, level, StoreBf16 { out })) }
    }
}

impl Norm<'_> {
    /// Normalized rows, ready to multiply.
    pub(super) fn rows(&self, x: &[f32], level: Level) -> PackedLhs {
        let columns = self.weight.len();
        PackedLhs::new(level, [x.len() / columns, columns], |first, y| {
            let Self { weight, bias, epsilon } = *self;
            let x = &x[first * columns..][..y.len()];
            level.run(NormalizeRows { x, weight, bias, epsilon, y, activation: PhantomData::<Identity> });
        })
    }
}

impl Block<'_> {
    /// `[batch, tokens, hidden]` → the same, and what backward wants.
    pub(super) fn forward(&self, x: &[f32], level: Level) -> (Vec<f32>, Saved) {
        let (rows, hidden) = (self.shape.rows(), self.shape.hidden);
        let normal1 = self.norm1.rows(x, level);
        let (query, thin_query) = self.query.forward_bf16(&normal1, level);
        let (key, thin_key) = self.key.forward_bf16(&normal1, level);
        let (value, thin_value) = self.value.forward_bf16(&normal1, level);
        let (attended, lse) = self.attention(&query, &key, &value).forward::<bf16>(level);

        let mut middle = x.to_vec();
        let attended_rows = PackedLhs::new(level, [rows, hidden], |first, y| widen(&attended[first * hidden..], y));
        let epilogue = AddScaled { out: Shared::new(&mut middle, hidden), scale: self.scale1 };
        let thin_output = self.output.forward(&attended_rows, level, epilogue);
        drop(attended_rows);

        let (y, mlp) = self.mlp.forward(&middle, middle.clone(), level);
        let thin = [thin_query, thin_key, thin_value, thin_output];
        (y, Saved { middle, normal1, query, key, value, attended, lse, thin, mlp })
    }

    pub(super) fn attention<'b>(&'b self, query: &'b [bf16], key: &'b [bf16], value: &'b [bf16]) -> Inputs<'b, bf16> {
        let shape = self.shape.attention();
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        Inputs { query, key, value, shape, scale, rotary: self.rotary, compute: ComputeDtype::Bf16 }
    }
}

/// bfloat16 as f32, as many as `y` has places.
pub(super) fn widen(x: &[bf16], y: &mut [f32]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y = widen_bf16(x.to_bits());
    }
}

/// Sixteen bfloat16 as f32.
#[inline(always)]
pub(super) fn lanes(x: &[bf16; LANES]) -> F32x16 {
    let mut lanes = F32x16::ZERO;
    for (lane, x) in lanes.0.iter_mut().zip(x) {
        *lane = widen_bf16(x.to_bits());
    }
    lanes
}

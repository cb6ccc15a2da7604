//! A whole frozen transformer block as one operation.
//!
//! Plain operations keep every intermediate tensor of a block for the backward pass, in f32, and read and write each of
//! them several times. The base of an adapted model never changes and needs no gradient, so a block can do better: rows
//! are normalized, rounded and laid out once for all products that read them ([`crate::product`]), a product hands its
//! result on rounded, and adapters ride along in the same pass over the weight. What the backward pass wants to know is
//! kept in bfloat16 or computed again from what is kept; with checkpointing only the block's input is kept.
//!
//! The block is that of the pre-norm vision transformer (Dosovitskiy et al. 2021, <https://arxiv.org/abs/2010.11929>)
//! with optional rotary positions and layer scales, and LoRA (Hu et al. 2021, <https://arxiv.org/abs/2106.09685>):
//!
//! ```text
//! x = x + scale1 ∘ output(attention(query(norm1(x)), key(norm1(x)), value(norm1(x))))
//! y = x + scale2 ∘ down(gelu(up(norm2(x))))
//! ```
//!
//! The second line is an operation of its own, too ([`frozen_mlp`]), for layers that normalize something else than the residual
//! stream.
//!
//! This exists on the CPU and for compute dtype bfloat16; whoever builds a model asks [`is_supported`] and composes the block
//! of ordinary operations otherwise.

use crate::simd::{InstructionSet, Level};

mod backward;
mod flex;
mod gradients;
mod kernel;
mod layer;
mod mlp;
mod ops;

#[cfg(test)]
mod tests;

pub use flex::{HostBlock, HostMlp, SavedForward};
pub use layer::{
    Adapter, FrozenBlock, FrozenLinear, FrozenMlp, FrozenNorm, FrozenWeight, frozen_block, frozen_mlp, is_supported,
};
pub use ops::{BlockGradients, BlockOps, Tape};

/// Whether this processor multiplies bfloat16 faster than f32.
pub fn has_bfloat16() -> bool {
    Level::best().has(InstructionSet::Avx512Bf16)
}

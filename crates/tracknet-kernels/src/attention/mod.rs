//! Attention without the score matrix, forward and backward.
//!
//! The scores of all tokens with all others would be the largest tensor of a transformer, and reading and writing it
//! takes longer than computing it. Here a tile of scores lives in the cache from its product to the product with the
//! values: an online softmax (Milakov and Gimelshein, 2018, <https://arxiv.org/abs/1805.02867>) corrects what was summed
//! before a larger score came. Forward leaves its output and one number a row, from which backward computes the
//! probabilities again (FlashAttention-2, Dao, 2023, <https://arxiv.org/abs/2307.08691>).
//!
//! The rotation of queries and keys by their position happens on the way into the tiles, so no rotated copy is kept, and
//! backward rotates the gradients back.

mod backward;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
pub(crate) mod kernel;
mod layer;
mod ops;
mod reference;

pub use layer::{Rotary, attention};
pub use ops::{AttentionFormat, AttentionOps};

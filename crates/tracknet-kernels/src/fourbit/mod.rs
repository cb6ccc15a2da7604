//! 4-bit weights: the codec and the linear layer on it.
//!
//! The format is the one bitsandbytes writes, so that checkpoints interchange; the idea (quantiles of a normal
//! distribution as the code, the block scales quantized once more) is QLoRA, Dettmers et al. 2023,
//! <https://arxiv.org/abs/2305.14314>, sections 3 "4-bit NormalFloat" and "Double Quantization".
//!
//! A weight `[out, in]` is flattened row-major and cut in blocks of `blocksize` values (a block may cross a row end, the
//! last may be short). A block stores its largest magnitude `absmax`; a value stores the number of the code nearest to
//! `value / absmax`; two codes share a byte, the first in the high nibble. The value read back is `code * absmax`.

mod backward;
mod codebook;
#[cfg(feature = "cube")]
mod cube;
mod dequantize;
mod error;
#[cfg(feature = "flex")]
pub(crate) mod flex;
mod linear;
mod nested;
mod on_device;
mod ops;
mod packed;
mod quantize;
mod reference;
mod stats;
mod weight;

pub use codebook::{QuantType, dynamic_map};
pub use dequantize::{ComputeDtype, PackedView};
pub use error::QuantizeError;
pub use linear::linear_4bit;
pub use nested::NESTED_BLOCKSIZE;
pub use ops::{FourBitOps, PackedFormat, Product};
pub use packed::{Absmax, BLOCKSIZES, PackedWeight, QuantizeOptions};
pub use stats::QuantizationError;
pub use weight::Linear4bitWeight;

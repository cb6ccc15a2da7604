//! 4-bit checkpoints as bitsandbytes and `transformers` write and read them.
//!
//! A packed weight `<w>` is several tensors: `<w>` itself (two codes a byte), `<w>.absmax` and `<w>.quant_map`, with double
//! quantization `<w>.nested_absmax` and `<w>.nested_quant_map`, and `<w>.quant_state.bitsandbytes__nf4` (or `__fp4`), which
//! is JSON as bytes. `config.json` has a `quantization_config`.
//!
//! | module | what lives there |
//! |---|---|
//! | [`quant_state`] | the JSON of one weight |
//! | [`config`] | `quantization_config` of `config.json` |
//! | `skip` | the list of layers that are left as floats |
//! | [`read`] | the tensors of a packed weight, checked and put together |
//! | `write` | and the other way |
//! | [`quantize`] | a float checkpoint → a 4-bit one |
//! | [`dequantize`] | and back |

pub mod config;
pub mod dequantize;
pub mod quant_state;
pub mod quantize;
pub mod read;
pub(super) mod skip;
pub(super) mod write;

pub use config::BnbConfig;
pub use dequantize::{DequantizedCheckpoint, dequantize_checkpoint};
pub use quant_state::QuantState;
pub use quantize::{QuantizeJob, quantize_checkpoint};
pub use read::{is_packed, read_packed};

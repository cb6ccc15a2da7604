//! Numeric kernels of tracknet on plain Burn tensors; nothing here knows of balls, models or YAML.
//!
//! * [`fourbit`]: 4-bit weights (NF4 and FP4, byte-compatible with bitsandbytes) and the linear layer that multiplies
//!   with them without ever keeping a dense copy;
//! * [`attention`]: softmax attention without the score matrix, forward and backward.

pub mod allocator;
pub mod attention;
pub mod fourbit;

pub use fourbit::{
    Absmax, ComputeDtype, Linear4bitWeight, PackedWeight, QuantType, QuantizationError, QuantizeError, QuantizeOptions,
    linear_4bit,
};

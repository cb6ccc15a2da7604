//! What can be wrong with a weight or with the parts of a packed one.
//!
//! The crate does not know the name of a tensor; the caller that does adds it.

use thiserror::Error;

/// Why a weight cannot be quantized, or stored parts are not a 4-bit weight.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum QuantizeError {
    /// A NaN or an infinity among the values to quantize.
    #[error("element {index} is {value}; only finite values can be quantized")]
    NonFinite {
        /// Position in the flattened tensor (row-major).
        index: usize,
        /// The offending value.
        value: f32,
    },
    /// A stored scale that is not a finite number, or does not fit the compute dtype.
    #[error("{part}[{index}] is {value}; expected {expected}")]
    BadScale {
        /// The part that holds it: `absmax`, `nested_absmax` or `nested_offset`.
        part: &'static str,
        /// Position in that part.
        index: usize,
        /// The offending value.
        value: f32,
        /// What it must be.
        expected: &'static str,
    },
    /// A block size outside of the format.
    #[error("blocksize {0} is not supported; use one of 32, 64, 128, 256, 512, 1024, 2048, 4096")]
    Blocksize(usize),
    /// A shape without elements, or with more than the address space can count.
    #[error("shape [{out_features}, {in_features}] is not a weight: {reason}")]
    Shape {
        /// Rows.
        out_features: usize,
        /// Columns.
        in_features: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A part whose length does not follow from shape and block size.
    #[error("{part} holds {found} elements; shape [{out_features}, {in_features}] needs {expected}")]
    Length {
        /// The part: `weight`, `packed`, `absmax` or `nested_absmax`.
        part: &'static str,
        /// Elements found.
        found: usize,
        /// Elements that the shape and the block size demand.
        expected: usize,
        /// Rows.
        out_features: usize,
        /// Columns.
        in_features: usize,
    },
    /// A tensor that could not be read back from its device.
    #[error("reading {part} from the device failed: {reason}")]
    Device {
        /// The part that was read.
        part: &'static str,
        /// What the backend said.
        reason: String,
    },
}

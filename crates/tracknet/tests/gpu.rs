//! The tests that take their device from the environment, as one program to carry to a machine with a GPU.
#![cfg(any(feature = "cuda", feature = "wgpu"))]

#[path = "suite/common/mod.rs"]
mod common;
#[path = "suite/parity_adapters/mod.rs"]
mod parity_adapters;
#[path = "suite/parity_backbones.rs"]
mod parity_backbones;
#[path = "suite/parity_decoder.rs"]
mod parity_decoder;
#[path = "suite/training_golden.rs"]
mod training_golden;

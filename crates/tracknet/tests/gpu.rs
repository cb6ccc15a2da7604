//! The tests that take their device from the environment, as one program to carry to a machine with a GPU.
#![cfg(any(feature = "cuda", feature = "wgpu"))]
// Each of them has the helpers of `common` for itself, as when it runs alone.
#![allow(clippy::duplicate_mod)]

#[path = "parity_adapters/main.rs"]
mod parity_adapters;
#[path = "parity_backbones.rs"]
mod parity_backbones;
#[path = "parity_decoder.rs"]
mod parity_decoder;
#[path = "training_golden.rs"]
mod training_golden;

//! The tests that take their device from the environment, as one program to carry to a machine with a GPU.
#![cfg(feature = "cube")]
// Each of them has the helpers of `common` for itself, as when it runs alone.
#![allow(clippy::duplicate_mod)]

#[path = "adamw.rs"]
mod adamw;
#[path = "adapter.rs"]
mod adapter;
#[path = "attention.rs"]
mod attention;
#[path = "deformable.rs"]
mod deformable;
#[path = "depthwise.rs"]
mod depthwise;
#[path = "linear.rs"]
mod linear;
#[path = "matmul.rs"]
mod matmul;
#[path = "norm.rs"]
mod norm;
#[path = "on_device.rs"]
mod on_device;
#[path = "residual.rs"]
mod residual;
#[path = "resize.rs"]
mod resize;

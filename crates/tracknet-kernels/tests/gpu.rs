//! The tests that take their device from the environment, as one program to carry to a machine with a GPU.
#![cfg(feature = "cube")]

#[path = "suite/adamw.rs"]
mod adamw;
#[path = "suite/adapter.rs"]
mod adapter;
#[path = "suite/attention.rs"]
mod attention;
#[path = "suite/common/mod.rs"]
mod common;
#[path = "suite/conv3x3.rs"]
mod conv3x3;
#[path = "suite/deformable.rs"]
mod deformable;
#[path = "suite/depthwise.rs"]
mod depthwise;
#[path = "suite/depthwise_nhwc.rs"]
mod depthwise_nhwc;
#[path = "suite/linear.rs"]
mod linear;
#[path = "suite/matmul.rs"]
mod matmul;
#[path = "suite/norm.rs"]
mod norm;
#[path = "suite/on_device.rs"]
mod on_device;
#[path = "suite/residual.rs"]
mod residual;
#[path = "suite/resize.rs"]
mod resize;

//! The tests of the kernels from outside, as one program: Burn is compiled and linked into it once.

mod adamw;
mod adapter;
mod attention;
mod common;
mod conv3x3;
mod deformable;
mod depthwise;
mod depthwise_nhwc;
mod golden;
mod linear;
mod matmul;
mod norm;
mod on_device;
mod properties;
mod residual;
mod resize;

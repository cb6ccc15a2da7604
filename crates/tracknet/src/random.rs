//! Where random numbers come from: streams of [`tracknet_kernels::random`], each keyed by its user.

pub(crate) use tracknet_kernels::random::{GOLDEN, mix, next};

//! 4-bit kernels as Burn backend extensions.

//! What the tests of several crates share: numbers and their comparison, memory, measured on the allocator, and a hub to
//! download from.

pub mod hub;
mod memory;
mod numbers;

pub use memory::{CountingAllocator, live_bytes, peak_of};
pub use numbers::{assert_close, assert_close_above, values};

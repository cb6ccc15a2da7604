//! Where and how things are computed.

mod error;

pub use error::DeviceError;

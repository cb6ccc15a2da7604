//! The device that the tests run on.
//!
//! `TRACKNET_TEST_DEVICE=wgpu` or `=cuda`, in a build with that feature, runs the same tests on a GPU; what they expect is
//! computed on the processor all the same.
#![allow(dead_code, reason = "each test file uses a part of it")]

use burn::tensor::{DType, Device};

/// The processor, or the device that the environment names.
pub(crate) fn device() -> Device {
    match std::env::var("TRACKNET_TEST_DEVICE").as_deref() {
        Err(_) | Ok("cpu") => Device::flex(),
        #[cfg(feature = "wgpu")]
        Ok("wgpu") => Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
        #[cfg(feature = "cuda")]
        Ok("cuda") => Device::cuda(0),
        Ok(other) => panic!("TRACKNET_TEST_DEVICE={other}: not a device of this build"),
    }
}

/// Whether the tests run on the processor, where everything is exact to the order of sums.
pub(crate) fn on_host() -> bool {
    device() == Device::flex()
}

/// Whether products of bfloat16 are computed as such; on Vulkan it is a type of storage only.
pub(crate) fn multiplies_bfloat16() -> bool {
    std::env::var("TRACKNET_TEST_DEVICE").as_deref() != Ok("wgpu")
}

/// Whether the device has the type.
pub(crate) fn has(dtype: DType) -> bool {
    on_host() || device().supports_dtype(dtype)
}

//! The device that the tests run on, and tensors there.
//!
//! `TRACKNET_TEST_DEVICE=wgpu` or `=cuda`, in a build with that feature, runs the same tests on a GPU; what they expect is
//! computed on the processor all the same.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used)] // Helpers beside the tests: a failure there is a failed test.

use burn::tensor::{DType, Device, Tensor, TensorData};

/// A tensor of these values.
pub(crate) fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// [`tensor`] of values that look random and are the same everywhere.
pub(crate) fn random<const D: usize>(shape: [usize; D], seed: u32, device: &Device) -> Tensor<D> {
    tensor(tracknet_testing::values(shape.iter().product(), seed), shape, device)
}

/// The values of a tensor, row-major.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().unwrap()
}

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

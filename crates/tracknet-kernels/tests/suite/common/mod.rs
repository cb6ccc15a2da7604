//! The device that the tests run on, and numbers for them.
//!
//! `TRACKNET_TEST_DEVICE=wgpu` or `=cuda`, in a build with that feature, runs the same tests on a GPU; what they expect is
//! computed on the processor all the same.
#![allow(dead_code, reason = "each test file uses a part of it")]
// clippy.toml allows it in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor, TensorData};

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

/// Values in −1..1 that look random and are the same everywhere.
pub(crate) fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// A tensor of [`values`].
pub(crate) fn tensor<const D: usize>(shape: [usize; D], seed: u32, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values(shape.iter().product(), seed), shape), device)
}

/// The values of a tensor of any float type.
pub(crate) fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_to_vec().unwrap()
}

/// Fails where a value is further from the expected one than this share of the largest.
pub(crate) fn assert_close(found: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let distance = f64::from((found - expected).abs());
        assert!(distance <= tolerance * f64::from(largest), "{what}: element {i} is {found}, expected {expected}");
    }
}

//! Shared by the parity tests: fixtures, comparison, and the device that they run on.
//!
//! `TRACKNET_TEST_DEVICE=wgpu` or `=cuda`, in a build with that feature, runs the same tests on a GPU.
#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use safetensors::{Dtype, SafeTensors};
use tracknet::artifacts::pretrained::Checkpoint;
use tracknet::artifacts::pretrained::checkpoint::WeightSource;
use tracknet::models::Backbone;
use tracknet::models::backbones::ModulePaths;
use tracknet::models::nn::Builder;
use tracknet::models::registry::{describe_backbone, family_of};
use tracknet::models::state::{NamedModule, ParameterInfo, ParameterVisitor, visit_parameters};

/// A file or directory of `tests/fixtures`.
pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// How the paths of a backbone of `tests/fixtures` are spelled.
pub(crate) fn paths(name: &str) -> ModulePaths {
    let config = std::fs::read_to_string(fixture(name).join("config.json")).unwrap();
    ModulePaths::Of(family_of(&serde_json::from_str(&config).unwrap()).unwrap())
}

/// The backbone of a model directory, as it is stored.
pub(crate) fn backbone(dir: &Path, device: &Device) -> Result<Backbone, String> {
    let checkpoint = Checkpoint::open(dir).map_err(|e| e.to_string())?;
    let (spec, _) = describe_backbone(&checkpoint.config, "config.json").map_err(|e| e.to_string())?;
    let source = WeightSource::new(&checkpoint.weights, spec.family());
    let backbone = Backbone::new(spec, &Builder::new(&source, device));
    let unneeded = source.finish().map_err(|e| e.to_string())?;
    Ok(backbone.carrying(checkpoint.carried(unneeded)))
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

/// The f32 tensors of a safetensors file.
pub(crate) fn tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.tensors()
        .into_iter()
        .filter(|(_, view)| view.dtype() == Dtype::F32)
        .map(|(name, view)| {
            let values: Vec<f32> =
                view.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (name, TensorData::new(values, view.shape().to_vec()))
        })
        .collect()
}

/// Every parameter of a model, in its order, with its gradient; `None` = it has none.
pub(crate) fn gradients_of<M: NamedModule>(
    model: &M,
    gradients: &Gradients,
) -> Vec<(ParameterInfo, Option<TensorData>)> {
    struct Collect<'a>(&'a Gradients, Vec<(ParameterInfo, Option<TensorData>)>);
    impl ParameterVisitor for Collect<'_> {
        fn visit<const D: usize>(&mut self, info: &ParameterInfo, parameter: &Param<Tensor<D>>) {
            self.1.push((info.clone(), parameter.val().grad(self.0).map(Tensor::into_data)));
        }
    }
    let mut collect = Collect(gradients, Vec::new());
    visit_parameters(model, &mut collect);
    collect.1
}

/// The input every golden shares, `[2, 3, 64, 96]`.
pub(crate) fn pixels(device: &Device) -> Tensor<4> {
    let io = tensors(&fixture("dinov3_tiny/io.safetensors"));
    Tensor::from_data(io["pixel_values"].clone(), device)
}

/// [`assert_data_close`] of a tensor.
pub(crate) fn assert_close<const D: usize>(what: &str, got: Tensor<D>, want: &TensorData, tolerance: f32) {
    assert_data_close(what, &got.into_data(), want, tolerance);
}

/// Fails with the largest difference when it is above `tolerance`, and where the tolerance would let other values pass.
pub(crate) fn assert_data_close(what: &str, got: &TensorData, want: &TensorData, tolerance: f32) {
    let largest = largest(want);
    assert!(largest > 20.0 * tolerance, "{what}: {tolerance} tells nothing about values up to {largest}");
    let difference = largest_difference(got, want);
    assert!(difference <= tolerance, "{what}: differs by {difference}, tolerance {tolerance}");
}

/// The largest distance of two values in one place; NaN if there is one. The shapes are equal.
pub(crate) fn largest_difference(a: &TensorData, b: &TensorData) -> f32 {
    assert_eq!(a.shape(), b.shape());
    largest_of(floats(a).into_iter().zip(floats(b)).map(|(x, y)| x - y))
}

/// The largest magnitude.
pub(crate) fn largest(data: &TensorData) -> f32 {
    largest_of(floats(data).into_iter())
}

fn floats(data: &TensorData) -> Vec<f32> {
    data.clone().convert::<f32>().try_to_vec().unwrap()
}

/// The largest magnitude; `max` would swallow NaN.
pub(crate) fn largest_of(values: impl Iterator<Item = f32>) -> f32 {
    values.map(f32::abs).fold(0.0, |max, x| if x.is_nan() || x > max { x } else { max })
}

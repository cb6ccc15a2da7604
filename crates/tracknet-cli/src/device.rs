//! `--device`: from its spelling to a Burn device.

use anyhow::{Result, bail};
use burn::tensor::Device;

/// Resolves `auto | cpu | cuda[:N] | wgpu[:N]`. A device that this build lacks is an error that names the
/// feature; `auto` never fails.
pub(crate) fn resolve(spelling: &str) -> Result<Device> {
    let (name, index) = match spelling.split_once(':') {
        Some((name, index)) => match index.parse::<usize>() {
            Ok(index) => (name, index),
            Err(_) => bail!("--device {spelling}: `{index}` is not a device number; write for example {name}:0"),
        },
        None => (spelling, 0),
    };
    match name {
        "auto" => Ok(automatic()),
        "cpu" => Ok(Device::flex()),
        "cuda" => cuda(index),
        "wgpu" => wgpu(index),
        _ => bail!("--device {spelling}: unknown device; known are auto, cpu, cuda[:N] and wgpu[:N]"),
    }
}

/// The processor: a GPU is used only when it is asked for by name, because GPU support is young.
fn automatic() -> Device {
    Device::flex()
}

#[cfg(feature = "cuda")]
fn cuda(index: usize) -> Result<Device> {
    Ok(Device::cuda(index))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_index: usize) -> Result<Device> {
    bail!("--device cuda: this build has no CUDA support; build with `--features cuda`")
}

#[cfg(feature = "wgpu")]
fn wgpu(index: usize) -> Result<Device> {
    use burn::tensor::DeviceKind;
    Ok(Device::wgpu(if index == 0 { DeviceKind::DefaultDevice } else { DeviceKind::DiscreteGpu(index) }))
}

#[cfg(not(feature = "wgpu"))]
fn wgpu(_index: usize) -> Result<Device> {
    bail!("--device wgpu: this build has no wgpu support; build with `--features wgpu`")
}

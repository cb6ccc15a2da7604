//! `--device`: from its spelling to a Burn device.

use anyhow::{Result, bail};
use burn::tensor::Device;
use tracknet::console;

/// Resolves `auto | cpu | cuda[:N] | wgpu[:N]`. A device that this build or this machine lacks is an error that says
/// which; `auto` never fails.
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
        "cuda" => numbered(spelling, index, cuda()?).and_then(with_compiler),
        "wgpu" => numbered(spelling, index, wgpu()?),
        _ => bail!("--device {spelling}: unknown device; known are auto, cpu, cuda[:N] and wgpu[:N]"),
    }
}

/// The first graphics card that this build can use, CUDA before Vulkan or Metal; else the processor. Drivers that draw on
/// the processor are left to those who ask for them by name.
fn automatic() -> Device {
    let usable = |device: &Device| is_card(device) && with_compiler(device.clone()).inspect_err(note).is_ok();
    let card = [cuda(), wgpu()].into_iter().flatten().flatten().find(usable);
    if card.is_none() && cfg!(any(feature = "cuda", feature = "wgpu")) {
        console::note("--device auto: no graphics card found, using the processor");
    }
    card.unwrap_or_else(Device::flex)
}

fn note(error: &anyhow::Error) {
    console::note(error);
}

fn numbered(spelling: &str, index: usize, devices: Vec<Device>) -> Result<Device> {
    let count = devices.len();
    match devices.into_iter().nth(index) {
        Some(device) => Ok(device),
        None if count == 0 => bail!("--device {spelling}: no such device on this machine, or no driver for it"),
        None => bail!("--device {spelling}: this machine has {count} of these, numbered from 0"),
    }
}

#[cfg(any(feature = "cuda", feature = "wgpu"))]
fn is_card(device: &Device) -> bool {
    device.identity().is_some_and(|identity| identity.physical.is_some())
}

#[cfg(not(any(feature = "cuda", feature = "wgpu")))]
fn is_card(_device: &Device) -> bool {
    false
}

/// The device, if its kernels can be compiled here.
#[cfg(feature = "cuda")]
fn with_compiler(device: Device) -> Result<Device> {
    let is_cuda = Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec().contains(&device);
    match tracknet_kernels::cuda::missing_compiler() {
        Some(problem) if is_cuda => bail!("--device cuda: {problem}"),
        _ => Ok(device),
    }
}

#[cfg(not(feature = "cuda"))]
fn with_compiler(device: Device) -> Result<Device> {
    Ok(device)
}

#[cfg(feature = "cuda")]
fn cuda() -> Result<Vec<Device>> {
    Ok(Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec())
}

#[cfg(not(feature = "cuda"))]
fn cuda() -> Result<Vec<Device>> {
    bail!("--device cuda: this build has no CUDA support; build with `--features cuda`")
}

#[cfg(feature = "wgpu")]
fn wgpu() -> Result<Vec<Device>> {
    Ok(Device::enumerate(burn::tensor::DeviceType::Wgpu).into_vec())
}

#[cfg(not(feature = "wgpu"))]
fn wgpu() -> Result<Vec<Device>> {
    bail!("--device wgpu: this build has no wgpu support; build with `--features wgpu`")
}

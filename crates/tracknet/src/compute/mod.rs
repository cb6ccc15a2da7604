//! Where and how things are computed: decided once, from a device and the configuration.
//!
//! | module | what lives there |
//! |---|---|
//! | `memory` | how much memory may be used |
//! | `micro_batches` | the parts of a batch that are computed at once |
//! | `parallel` | independent work on several threads, with results in order |

mod error;
mod memory;
mod micro_batches;
pub(crate) mod parallel;

use burn::tensor::{DType, Device};

use crate::config::Precision;

pub use error::DeviceError;
pub use memory::MemoryBound;
pub(crate) use micro_batches::MicroBatches;

/// A device with what follows from it for everything that runs there. The processor and a graphics card differ in what
/// this type says, and nothing else asks which of them it is.
#[derive(Debug, Clone)]
pub struct Compute {
    device: Device,
    kind: Kind,
    precision: Precision,
    memory_limit: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Burn's CPU backend.
    Cpu,
    /// Any other.
    Gpu,
}

/// Whether this is Burn's CPU backend, with or without autodiff.
pub(crate) fn is_cpu(device: &Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

impl Compute {
    /// In float32 on `device`, with or without autodiff, in all the memory there is.
    pub fn new(device: &Device) -> Self {
        let kind = if is_cpu(device) { Kind::Cpu } else { Kind::Gpu };
        Self { device: device.clone().inner(), kind, precision: Precision::Fp32, memory_limit: None }
    }

    /// This device in another precision, as far as the device has it.
    #[must_use]
    pub fn with_precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    /// This device in at most so many bytes; `None` = what the system has available.
    #[must_use]
    pub fn with_memory_limit(self, memory_limit: Option<u64>) -> Self {
        Self { memory_limit, ..self }
    }

    /// The device without autodiff: for everything that needs no gradients.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The device with autodiff.
    pub fn training_device(&self) -> Device {
        self.device.clone().autodiff()
    }

    /// Whether frames of a batch are best computed side by side, one on each core: an operation on one frame keeps a core
    /// busy, and a graphics card wants all frames at once.
    pub fn side_by_side(&self) -> bool {
        self.kind == Kind::Cpu
    }

    /// How many of `frames` frames that do not depend on each other are computed, and hold memory, at the same time.
    pub fn at_once(&self, frames: usize) -> usize {
        if self.side_by_side() { frames.min(parallel::cores()) } else { frames }
    }

    /// Whether data has to be copied to the device and back.
    pub(crate) fn has_own_memory(&self) -> bool {
        self.kind == Kind::Gpu
    }

    /// Whether one operation for many small ones saves time: each is a launch of its own.
    pub(crate) fn prefers_fused(&self) -> bool {
        self.kind == Kind::Gpu
    }

    /// The dtype of frames and features, or float32 if the device cannot compute in the one of the precision. The CPU
    /// backend takes half precision, and computes it in float32, slower.
    pub fn dtype(&self) -> DType {
        let wanted = match self.precision {
            Precision::Fp32 => DType::F32,
            Precision::Fp16 => DType::F16,
            Precision::Bf16 => DType::BF16,
        };
        if self.kind == Kind::Gpu && self.device.supports_dtype(wanted) { wanted } else { DType::F32 }
    }

    /// Switches mixed precision on where the device has it; whether it has. A graphics card takes frames in
    /// [`Compute::dtype`]; the CPU multiplies with frozen weights in bfloat16, which `use_bfloat16` asks of the model.
    pub fn use_mixed_precision(&self, use_bfloat16: impl FnOnce() -> bool) -> bool {
        match self.kind {
            Kind::Cpu => self.precision == Precision::Bf16 && use_bfloat16(),
            Kind::Gpu => self.dtype() != DType::F32,
        }
    }

    /// What of a step is in half precision once mixed precision is on: for people.
    pub(crate) fn mixed_precision(&self) -> &'static str {
        match self.kind {
            Kind::Cpu => "products with frozen weights in bfloat16",
            Kind::Gpu => self.precision.name(),
        }
    }

    /// What bounds a step's memory. A graphics card says itself when it has none left, and better than an estimate.
    pub fn memory_bound(&self) -> Option<MemoryBound> {
        match self.kind {
            Kind::Cpu => self.host_memory_bound(),
            Kind::Gpu => MemoryBound::of_limit(self.memory_limit),
        }
    }

    /// What bounds the memory beside the device's own.
    pub(crate) fn host_memory_bound(&self) -> Option<MemoryBound> {
        MemoryBound::find(self.memory_limit)
    }

    /// Bytes that this process holds in the device's own memory.
    pub fn device_memory(&self) -> Option<u64> {
        if !self.has_own_memory() {
            return None;
        }
        self.device.memory_pool_usage().map(|usage| usage.bytes_reserved)
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_computes_in_float32_whatever_is_asked_for() {
        for precision in [Precision::Fp32, Precision::Fp16, Precision::Bf16] {
            for device in [Device::flex(), Device::flex().autodiff()] {
                let compute = Compute::new(&device).with_precision(precision);
                assert_eq!(compute.dtype(), DType::F32);
                assert!(compute.side_by_side() && !compute.device().is_autodiff());
                assert_eq!(compute.use_mixed_precision(|| true), precision == Precision::Bf16);
            }
        }
    }
}

//! A 4-bit weight on a device, ready to sit in a module.

use burn::backend::Dispatch;
use burn::module::Module;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use super::ops::{FourBitOps, PackedFormat, Product};
use super::{Absmax, ComputeDtype, PackedWeight, QuantType, QuantizeError, QuantizeOptions};

/// A frozen 4-bit weight `[out_features, in_features]` as tensors on a device.
///
/// It derives `Module` over plain tensors, which are constants to Burn: they move with `to_device`, follow `valid()` and
/// `train()`, and no visitor, mapper or optimizer ever sees them, so they cannot be trained. They are not in Burn's
/// records either; save them with [`Self::to_packed`].
#[derive(Module, Debug)]
pub struct Linear4bitWeight {
    /// u8 `[ceil(out * in / 2)]`.
    packed: Tensor<1, Int>,
    /// f32: one per block, or with double quantization one per 256 blocks.
    scales: Tensor<1>,
    /// u8, one per block, with double quantization.
    scale_codes: Option<Tensor<1, Int>>,
    #[module(skip)]
    format: PackedFormat,
}

impl Linear4bitWeight {
    /// Moves a packed weight to a device.
    ///
    /// # Errors
    /// A scale that overflows float16 when that is the compute dtype.
    pub fn from_packed(
        weight: &PackedWeight,
        compute_dtype: ComputeDtype,
        device: &Device,
    ) -> Result<Self, QuantizeError> {
        let packed = u8s(weight.packed(), device);
        Self::from_codes(packed, weight.absmax(), weight.shape(), &weight.options(), compute_dtype)
    }

    /// Puts scales beside the codes, on their device.
    ///
    /// # Errors
    /// A scale that overflows float16 when that is the compute dtype.
    pub(super) fn from_codes(
        packed: Tensor<1, Int>,
        absmax: &Absmax,
        shape: [usize; 2],
        options: &QuantizeOptions,
        compute_dtype: ComputeDtype,
    ) -> Result<Self, QuantizeError> {
        let blocks = (shape[0] * shape[1]).div_ceil(options.blocksize);
        check_range(absmax, blocks, compute_dtype)?;
        let device = packed.device();
        let (scales, scale_codes, offset) = match absmax {
            Absmax::Plain(scales) => (f32s(scales, &device), None, None),
            Absmax::Nested { codes, absmax, offset } => {
                (f32s(absmax, &device), Some(u8s(codes, &device)), Some(*offset))
            }
        };
        let QuantizeOptions { quant_type, blocksize, .. } = *options;
        let format = PackedFormat { shape, quant_type, blocksize, compute_dtype, offset };
        Ok(Self { packed, scales, scale_codes, format })
    }

    /// Reads the weight back; bytes and scales equal those it was made from.
    ///
    /// # Errors
    /// If the device cannot be read.
    pub fn to_packed(&self) -> Result<PackedWeight, QuantizeError> {
        let scales = read::<f32>("absmax", self.scales.clone().try_into_data())?;
        let absmax = match (&self.scale_codes, self.format.offset) {
            (Some(codes), Some(offset)) => {
                Absmax::Nested { codes: read("absmax", codes.clone().try_into_data())?, absmax: scales, offset }
            }
            _ => Absmax::Plain(scales),
        };
        let packed = read("packed", self.packed.clone().try_into_data())?;
        PackedWeight::from_parts(self.shape(), self.quant_type(), self.format.blocksize, packed, absmax)
    }

    /// The same weight with another compute dtype; the tensors are shared.
    ///
    /// # Errors
    /// As for [`Self::from_packed`].
    pub fn with_compute_dtype(mut self, compute_dtype: ComputeDtype) -> Result<Self, QuantizeError> {
        if compute_dtype == ComputeDtype::F16 {
            let packed = self.to_packed()?;
            check_range(packed.absmax(), packed.num_elements().div_ceil(packed.blocksize()), compute_dtype)?;
        }
        self.format.compute_dtype = compute_dtype;
        Ok(self)
    }

    /// `[out_features, in_features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.format.shape
    }

    /// The code.
    pub fn quant_type(&self) -> QuantType {
        self.format.quant_type
    }

    /// Values per block.
    pub fn blocksize(&self) -> usize {
        self.format.blocksize
    }

    /// What dequantized values are rounded to.
    pub fn compute_dtype(&self) -> ComputeDtype {
        self.format.compute_dtype
    }

    /// Whether the scales are quantized to 8 bits.
    pub fn double_quant(&self) -> bool {
        self.format.offset.is_some()
    }

    /// The device of the tensors.
    pub fn device(&self) -> Device {
        self.packed.device()
    }

    /// Bytes held, counted on the tensors themselves: elements times the size of their dtype.
    pub fn storage_bytes(&self) -> usize {
        let codes = self.scale_codes.as_ref().map_or(0, |codes| codes.shape().num_elements() * codes.dtype().size());
        let offset = self.format.offset.map_or(0, |offset| size_of_val(&offset));
        self.packed.shape().num_elements() * self.packed.dtype().size()
            + self.scales.shape().num_elements() * self.scales.dtype().size()
            + codes
            + offset
    }

    /// The dense weight in f32 `[out_features, in_features]`, rounded to the compute dtype.
    pub fn dequantize(&self) -> Tensor<2> {
        Tensor::from_dispatch(Dispatch::dequantize_4bit(
            self.packed.clone().into_dispatch(),
            self.scales.clone().into_dispatch(),
            self.codes().into_dispatch(),
            self.format,
        ))
    }

    /// `x · Wᵀ + bias` for `x` `[rows, in_features]` and `bias` `[out_features]`.
    pub(super) fn multiply(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        let (bias, product) = match bias {
            Some(bias) => (bias, Product::ForwardWithBias),
            // The operation takes a tensor all the same; a second handle costs nothing.
            None => (self.scales.clone(), Product::Forward),
        };
        Tensor::from_dispatch(Dispatch::linear_4bit(
            x.into_dispatch(),
            bias.into_dispatch(),
            self.packed.clone().into_dispatch(),
            self.scales.clone().into_dispatch(),
            self.codes().into_dispatch(),
            self.format,
            product,
        ))
    }

    /// The tensors on the CPU backend.
    ///
    /// # Panics
    /// If they are elsewhere.
    #[cfg(feature = "flex")]
    pub(crate) fn on_host(&self) -> (super::flex::HostTensors, PackedFormat) {
        use burn::backend::Flex;
        let floats = |tensor: Tensor<1>| tensor.without_autodiff().try_into_primitive::<Flex>();
        let codes = |tensor: Tensor<1, Int>| tensor.without_autodiff().try_into_primitive::<Flex>();
        match (codes(self.packed.clone()), floats(self.scales.clone()), codes(self.codes())) {
            (Ok(packed), Ok(scales), Ok(codes)) => (super::flex::HostTensors::new(packed, scales, codes), self.format),
            _ => panic!("a 4-bit weight on {:?}, expected the CPU backend", self.device()),
        }
    }

    /// The operations take a tensor even where there are no codes; a second handle of the packed one costs nothing.
    fn codes(&self) -> Tensor<1, Int> {
        self.scale_codes.clone().unwrap_or_else(|| self.packed.clone())
    }
}

#[cfg(test)]
impl Linear4bitWeight {
    /// The arguments of the backend operations.
    pub(super) fn primitives<B>(
        &self,
    ) -> (
        burn::backend::tensor::IntTensor<B>,
        burn::backend::tensor::FloatTensor<B>,
        burn::backend::tensor::IntTensor<B>,
        PackedFormat,
    )
    where
        B: burn::backend::Backend,
        burn::backend::DispatchTensor: burn::backend::DispatchKindConversion<B>,
    {
        (
            self.packed.clone().try_into_primitive::<B>().unwrap(),
            self.scales.clone().try_into_primitive::<B>().unwrap(),
            self.codes().try_into_primitive::<B>().unwrap(),
            self.format,
        )
    }
}

pub(super) fn u8s(bytes: &[u8], device: &Device) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(bytes.to_vec(), [bytes.len()]), (device, DType::U8))
}

pub(super) fn f32s(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::F32))
}

fn check_range(absmax: &Absmax, blocks: usize, compute_dtype: ComputeDtype) -> Result<(), QuantizeError> {
    let view = absmax.view();
    // Every code is at most 1, so the scale is the largest value of its block.
    match (0..blocks).find(|block| !compute_dtype.round(view.scale(*block)).is_finite()) {
        Some(index) => Err(QuantizeError::BadScale {
            part: "absmax",
            index,
            value: view.scale(index),
            expected: "a finite number in the compute dtype; use bfloat16 or float32",
        }),
        None => Ok(()),
    }
}

pub(super) fn read<E: burn::tensor::Element>(
    part: &'static str,
    data: Result<TensorData, impl std::fmt::Display>,
) -> Result<Vec<E>, QuantizeError> {
    let data = data.map_err(|error| QuantizeError::Device { part, reason: error.to_string() })?;
    data.try_to_vec().map_err(|error| QuantizeError::Device { part, reason: format!("{error:?}") })
}

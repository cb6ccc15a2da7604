//! Dense weights on a device to 4 bits on that device: the weight does not travel, its scales do.

use burn::backend::Dispatch;
use burn::tensor::{Tensor, TensorData};

use super::nested::quantize_scales;
use super::ops::FourBitOps;
use super::packed::Layout;
use super::quantize::{Steps, multiplies, pack_block};
use super::weight::{f32s, read};
use super::{Absmax, ComputeDtype, Linear4bitWeight, PackedWeight, QuantizeError, QuantizeOptions};

impl Linear4bitWeight {
    /// Quantizes a dense weight `[out_features, in_features]` where it is; bytes and scales are those of
    /// [`PackedWeight::quantize`].
    ///
    /// The largest magnitudes of the blocks come to the host, 64 times fewer than the values by default, and are quantized
    /// there; so are blocks that divide by theirs, because division is not the same on every device.
    ///
    /// # Errors
    /// As [`PackedWeight::quantize`] and [`Self::from_packed`]; or the device cannot be read.
    pub fn quantize(
        weight: Tensor<2>,
        options: &QuantizeOptions,
        compute_dtype: ComputeDtype,
    ) -> Result<Self, QuantizeError> {
        let QuantizeOptions { quant_type, blocksize, double_quant } = *options;
        let (shape, device) = (weight.dims(), weight.device());
        Layout::new(shape, blocksize)?;
        if on_host(&device) {
            let values = read::<f32>("weight", weight.try_into_data())?;
            let packed = PackedWeight::quantize(&values, shape, options)?;
            return Self::from_packed(&packed, compute_dtype, &device);
        }

        let elements = shape[0] * shape[1];
        let flat = weight.clone().reshape([elements]);
        let weight = weight.into_dispatch();
        let maxima = Tensor::<1>::from_dispatch(Dispatch::block_maxima(weight.clone(), blocksize));
        let maxima = read::<f32>("absmax", maxima.try_into_data())?;
        if let Some(block) = maxima.iter().position(|max| !max.is_finite()) {
            return Err(first_not_finite(flat, block * blocksize));
        }
        let full = |block: usize| (block + 1) * blocksize <= elements;
        let reciprocal = |(block, max): (usize, &f32)| if multiplies(*max, full(block)) { 1.0 / max } else { 0.0 };
        let reciprocals: Vec<f32> = maxima.iter().enumerate().map(reciprocal).collect();
        let reciprocals = f32s(&reciprocals, &device).into_dispatch();
        let codes = Dispatch::block_codes(weight, reciprocals, quant_type, blocksize);
        let mut packed = Tensor::from_dispatch(codes);

        for (block, max) in maxima.iter().enumerate().filter(|(block, max)| !multiplies(**max, full(*block))) {
            let (start, end) = (block * blocksize, ((block + 1) * blocksize).min(elements));
            let values = read::<f32>("weight", flat.clone().slice(start..end).try_into_data())?;
            let mut bytes = vec![0_u8; values.len().div_ceil(2)];
            pack_block(&Steps::of(quant_type), &values, *max, false, &mut bytes);
            let place = start / 2..start / 2 + bytes.len();
            let data = TensorData::new(bytes, [place.len()]);
            packed = packed.slice_assign([place], Tensor::from_data(data, (&device, burn::tensor::DType::U8)));
        }
        let absmax = if double_quant { quantize_scales(&maxima) } else { Absmax::Plain(maxima) };
        Self::from_codes(packed, &absmax, shape, options, compute_dtype)
    }
}

/// Whether the device is the host itself, which has a faster way.
fn on_host(device: &burn::tensor::Device) -> bool {
    #[cfg(feature = "flex")]
    return *device == burn::tensor::Device::flex();
    #[cfg(not(feature = "flex"))]
    {
        let _ = device;
        false
    }
}

/// The error that names the first value from `start` on that is not finite.
fn first_not_finite(flat: Tensor<1>, start: usize) -> QuantizeError {
    match read::<f32>("weight", flat.slice([start..]).try_into_data()) {
        Ok(values) => {
            let at = values.iter().position(|value| !value.is_finite()).unwrap_or_default();
            QuantizeError::NonFinite { index: start + at, value: values.get(at).copied().unwrap_or(f32::NAN) }
        }
        Err(error) => error,
    }
}

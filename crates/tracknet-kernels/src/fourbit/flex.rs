//! The operations of the CPU backend: tensors as slices, for the kernels in [`super::product`].

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::tensor::DType;

use super::dequantize::{AbsmaxView, PackedView};
use super::ops::{FourBitOps, PackedFormat, Product};
use crate::host::{bytes, cast, contiguous, slice, tensor};
use crate::product::{self, Side, Storage, Weight};
use crate::simd::Level;

impl FourBitOps for Flex {
    fn linear_4bit(
        x: FlexTensor,
        bias: FlexTensor,
        packed: FlexTensor,
        scales: FlexTensor,
        scale_codes: FlexTensor,
        format: PackedFormat,
        which: Product,
    ) -> FlexTensor {
        let weight = HostTensors::new(packed, scales, scale_codes);
        let dtype = x.dtype();
        let x = contiguous(cast(x, DType::F32));
        let bias = (which == Product::ForwardWithBias).then(|| contiguous(cast(bias, DType::F32)));
        let [out_features, in_features] = format.shape;
        let (side, columns) = match which {
            Product::Forward | Product::ForwardWithBias => (Side::In, out_features),
            Product::Transposed => (Side::Out, in_features),
        };
        let y = product::multiply(Level::best(), slice(&x), weight.weight(format), side, bias.as_ref().map(slice));
        cast(tensor(y, [x.shape()[0], columns]), dtype)
    }

    fn dequantize_4bit(
        packed: FlexTensor,
        scales: FlexTensor,
        scale_codes: FlexTensor,
        format: PackedFormat,
    ) -> FlexTensor {
        let values = HostTensors::new(packed, scales, scale_codes).view(format).dequantize(format.compute_dtype);
        tensor(values, format.shape)
    }
}

/// Keeps the tensors of a weight alive and contiguous while a view borrows them.
#[derive(Debug, Clone)]
pub(crate) struct HostTensors {
    packed: FlexTensor,
    scales: FlexTensor,
    scale_codes: FlexTensor,
}

impl HostTensors {
    pub(crate) fn new(packed: FlexTensor, scales: FlexTensor, scale_codes: FlexTensor) -> Self {
        Self { packed: contiguous(packed), scales: contiguous(scales), scale_codes: contiguous(scale_codes) }
    }

    fn view(&self, format: PackedFormat) -> PackedView<'_> {
        let absmax = match format.offset {
            Some(offset) => AbsmaxView::Nested { codes: bytes(&self.scale_codes), absmax: slice(&self.scales), offset },
            None => AbsmaxView::Plain(slice(&self.scales)),
        };
        let elements = format.shape[0] * format.shape[1];
        PackedView::new_checked(bytes(&self.packed), absmax, format.quant_type, format.blocksize, elements)
    }

    pub(crate) fn weight(&self, format: PackedFormat) -> Weight<'_> {
        let PackedFormat { shape, compute_dtype, .. } = format;
        Weight { values: Storage::Packed(self.view(format)), shape, compute_dtype }
    }
}

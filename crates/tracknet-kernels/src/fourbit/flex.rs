//! The operations of the CPU backend: tensors as slices, for the kernels in [`super::product`].

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType};

use super::dequantize::{AbsmaxView, PackedView};
use super::ops::{FourBitOps, PackedFormat, Product};
use super::product::{Implementation, Side, Weight};
use crate::host::{contiguous, slice, tensor};

impl FourBitOps for Flex {
    fn linear_4bit(
        x: FlexTensor,
        bias: FlexTensor,
        packed: FlexTensor,
        scales: FlexTensor,
        scale_codes: FlexTensor,
        format: PackedFormat,
        product: Product,
    ) -> FlexTensor {
        let weight = HostTensors::new(packed, scales, scale_codes);
        let dtype = x.dtype();
        let x = contiguous(cast(x, DType::F32));
        let bias = (product == Product::ForwardWithBias).then(|| contiguous(cast(bias, DType::F32)));
        let [out_features, in_features] = format.shape;
        let (side, columns) = match product {
            Product::Forward | Product::ForwardWithBias => (Side::In, out_features),
            Product::Transposed => (Side::Out, in_features),
        };
        let y = Implementation::detect().multiply(slice(&x), weight.borrow(format), side, bias.as_ref().map(slice));
        cast(tensor(y, [x.shape()[0], columns]), dtype)
    }

    fn dequantize_4bit(
        packed: FlexTensor,
        scales: FlexTensor,
        scale_codes: FlexTensor,
        format: PackedFormat,
    ) -> FlexTensor {
        let values = HostTensors::new(packed, scales, scale_codes).borrow(format).view.dequantize(format.compute_dtype);
        tensor(values, format.shape)
    }
}

/// Keeps the tensors alive and contiguous while a view borrows them.
struct HostTensors {
    packed: FlexTensor,
    scales: FlexTensor,
    scale_codes: FlexTensor,
}

impl HostTensors {
    fn new(packed: FlexTensor, scales: FlexTensor, scale_codes: FlexTensor) -> Self {
        Self { packed: contiguous(packed), scales: contiguous(scales), scale_codes: contiguous(scale_codes) }
    }

    fn borrow(&self, format: PackedFormat) -> Weight<'_> {
        let absmax = match format.offset {
            Some(offset) => AbsmaxView::Nested { codes: bytes(&self.scale_codes), absmax: slice(&self.scales), offset },
            None => AbsmaxView::Plain(slice(&self.scales)),
        };
        let elements = format.shape[0] * format.shape[1];
        let packed = bytes(&self.packed);
        let view = PackedView::new_checked(packed, absmax, format.quant_type, format.blocksize, elements);
        Weight { view, packed, format }
    }
}

fn cast(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    if tensor.dtype() == dtype {
        tensor
    } else {
        <Flex as FloatTensorOps<Flex>>::float_cast(tensor, FloatDType::from(dtype))
    }
}

/// The values of a contiguous u8 tensor.
fn bytes(tensor: &FlexTensor) -> &[u8] {
    tensor.as_slice().unwrap_or_else(|| panic!("expected contiguous u8, found {tensor:?}"))
}

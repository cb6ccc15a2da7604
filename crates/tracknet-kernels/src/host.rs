//! Tensors of the CPU backend as slices.

use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType, Shape, TensorData};

/// Whether the kernels, which are f32, can take all of these.
pub(crate) fn are_f32<const N: usize>(tensors: [&FlexTensor; N]) -> bool {
    tensors.iter().all(|tensor| tensor.dtype() == DType::F32)
}

/// The tensor with its values in one run; not copied if they are.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

/// The values of a contiguous f32 tensor.
pub(crate) fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().unwrap_or_else(|| panic!("expected contiguous f32, found {tensor:?}"))
}

/// The tensor in another float dtype; not copied if it has it.
pub(crate) fn cast(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    if tensor.dtype() == dtype {
        tensor
    } else {
        <Flex as FloatTensorOps<Flex>>::float_cast(tensor, FloatDType::from(dtype))
    }
}

/// The values of a contiguous u8 tensor.
pub(crate) fn bytes(tensor: &FlexTensor) -> &[u8] {
    tensor.as_slice().unwrap_or_else(|| panic!("expected contiguous u8, found {tensor:?}"))
}

/// A tensor from its values.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

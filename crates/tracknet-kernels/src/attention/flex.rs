//! The CPU backend runs the [kernel](super::kernel).

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, FloatDType, TensorData};

use super::kernel::{AttentionShape, Inputs, RotaryTable};
use super::ops::{AttentionFormat, AttentionOps};
use crate::simd::Level;

impl AttentionOps for Flex {
    fn multi_head_attention(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        table: FlexTensor,
        format: AttentionFormat,
    ) -> FlexTensor {
        Self::multi_head_attention_with_statistics(query, key, value, table, format).0
    }

    /// The statistics are the base-2 log-sum-exp of each row, f32 `[batch, heads, tokens]`.
    fn multi_head_attention_with_statistics(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        table: FlexTensor,
        format: AttentionFormat,
    ) -> (FlexTensor, FlexTensor) {
        let dtype = query.dtype();
        let host = HostTensors::new([query, key, value], table, format);
        let inputs = host.inputs();
        let (output, lse) = inputs.forward::<f32>(Level::best());
        let AttentionShape { batch, tokens, heads, .. } = inputs.shape;
        let lse = FlexTensor::from_data(TensorData::new(lse, [batch, heads, tokens]));
        (host.tensor(output, dtype), lse)
    }

    fn multi_head_attention_backward(
        query: FlexTensor,
        key: FlexTensor,
        value: FlexTensor,
        table: FlexTensor,
        format: AttentionFormat,
        output: FlexTensor,
        statistics: FlexTensor,
        gradient: FlexTensor,
    ) -> (FlexTensor, FlexTensor, FlexTensor) {
        let dtype = query.dtype();
        let host = HostTensors::new([query, key, value], table, format);
        let [output, statistics, gradient] = [output, statistics, gradient].map(on_host);
        let [output, statistics, gradient] = [&output, &statistics, &gradient].map(slice);
        let gradients: [Vec<f32>; 3] = host.inputs().backward(output, statistics, gradient, Level::best());
        let [d_query, d_key, d_value] = gradients.map(|values| host.tensor(values, dtype));
        (d_query, d_key, d_value)
    }
}

/// Keeps the tensors alive, contiguous and in f32 while the kernel borrows them.
struct HostTensors {
    tensors: [FlexTensor; 3],
    table: Option<FlexTensor>,
    format: AttentionFormat,
}

impl HostTensors {
    fn new(tensors: [FlexTensor; 3], table: FlexTensor, format: AttentionFormat) -> Self {
        Self { tensors: tensors.map(on_host), table: format.rotary.then(|| on_host(table)), format }
    }

    fn inputs(&self) -> Inputs<'_> {
        let [query, key, value] = &self.tensors;
        let [batch, tokens, hidden] = query.shape().dims();
        let heads = self.format.heads;
        Inputs {
            query: slice(query),
            key: slice(key),
            value: slice(value),
            shape: AttentionShape { batch, tokens, heads, head_dim: hidden / heads },
            scale: self.format.scale,
            compute: self.format.compute,
            rotary: self.table.as_ref().map(|table| {
                let table = slice(table);
                let (cos, sin) = table.split_at(table.len() / 2);
                RotaryTable { cos, sin }
            }),
        }
    }

    /// A result in the shape of the queries.
    fn tensor(&self, values: Vec<f32>, dtype: DType) -> FlexTensor {
        cast(FlexTensor::from_data(TensorData::new(values, self.tensors[0].shape())), dtype)
    }
}

fn on_host(tensor: FlexTensor) -> FlexTensor {
    let tensor = cast(tensor, DType::F32);
    if tensor.is_contiguous() { tensor } else { tensor.to_contiguous() }
}

fn cast(tensor: FlexTensor, dtype: DType) -> FlexTensor {
    if tensor.dtype() == dtype {
        tensor
    } else {
        <Flex as FloatTensorOps<Flex>>::float_cast(tensor, FloatDType::from(dtype))
    }
}

/// The values of a contiguous f32 tensor.
fn slice(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().unwrap_or_else(|| panic!("expected contiguous f32, found {tensor:?}"))
}

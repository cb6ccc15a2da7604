//! The tensors of one adapted module.

use burn::tensor::{Tensor, TensorData};

use crate::models::lora::AdaptableLayer;
use crate::models::lora::adapter::{LoraAdapter, Scaling};

use super::ENDS;

/// The tensors of one adapted module.
#[derive(Debug, Clone, Default)]
pub(in crate::artifacts::adapter) struct Parts {
    pub(in crate::artifacts::adapter) a: Option<TensorData>,
    pub(in crate::artifacts::adapter) b: Option<TensorData>,
    pub(in crate::artifacts::adapter) magnitude: Option<TensorData>,
}

impl Parts {
    /// The tensors of a layer's adapter as PEFT has them: of a convolution `A` with its kernel, `B` 1×1, and one magnitude
    /// for each output channel.
    pub(super) fn of(layer: &dyn AdaptableLayer) -> Option<Self> {
        let adapter = layer.adapter()?;
        let parts = Self {
            a: Some(adapter.a.val().into_data()),
            b: Some(adapter.b.val().into_data()),
            magnitude: adapter.dora.as_ref().map(|dora| dora.magnitude.val().into_data()),
        };
        let rank = adapter.rank();
        Some(match layer.base().weight_shape()[..] {
            [output, input, height, width] => Self {
                a: parts.a.map(|data| reshaped(&data, vec![rank, input, height, width])),
                b: parts.b.map(|data| reshaped(&data, vec![output, rank, 1, 1])),
                magnitude: parts.magnitude.map(|data| reshaped(&data, vec![1, output, 1, 1])),
            },
            _ => parts,
        })
    }

    /// The tensors that are there, and how their names end.
    pub(super) fn named(&self) -> impl Iterator<Item = (&'static str, &TensorData)> {
        let parts = ENDS.into_iter().zip([&self.a, &self.b, &self.magnitude]);
        parts.filter_map(|(end, data)| Some((end, data.as_ref()?)))
    }

    /// The tensors as a model has them: kernels as rows, magnitudes as a vector.
    pub(in crate::artifacts::adapter) fn as_rows(&self) -> Self {
        Self {
            a: self.a.clone().map(|data| as_rows(ENDS[0], data)),
            b: self.b.clone().map(|data| as_rows(ENDS[1], data)),
            magnitude: self.magnitude.clone().map(|data| as_rows(ENDS[2], data)),
        }
    }

    /// The adapter of the module at `path`, whose weight is `[out, in]`, or what does not fit.
    pub(super) fn adapter(
        &self,
        path: &str,
        [output, input]: [usize; 2],
        (rank, scaling): (usize, Scaling),
        dropout: f32,
        weight: impl FnOnce() -> Tensor<2>,
    ) -> Result<LoraAdapter, String> {
        let (Some(found_a), Some(found_b)) = (&self.a, &self.b) else { return Err(format!("{path}: lacks a matrix")) };
        let (found_a, found_b) = (found_a.shape().to_vec(), found_b.shape().to_vec());
        let Self { a, b, magnitude } = self.as_rows();
        let fits = |data: &Option<TensorData>, shape: &[usize]| data.as_ref().is_some_and(|d| d.shape()[..] == *shape);
        if !fits(&a, &[rank, input]) || !fits(&b, &[output, rank]) {
            return Err(format!(
                "{path}: found lora_A {found_a:?} and lora_B {found_b:?}, expected [{rank}, {input}] and [{output}, {rank}] \
                 by r and rank_pattern"
            ));
        }
        if magnitude.is_some() && !fits(&magnitude, &[output]) {
            let found = magnitude.map(|data| data.shape().to_vec()).unwrap_or_default();
            return Err(format!("{path}.lora_magnitude_vector: found {found:?}, expected [{output}]"));
        }
        let (weight, (Some(a), Some(b))) = (weight(), (a, b)) else { return Err(format!("{path}: lacks a matrix")) };
        let adapter = LoraAdapter::from_data([a, b], scaling, dropout, path, &weight.device());
        Ok(match magnitude {
            Some(magnitude) => adapter.with_dora(weight, Some(magnitude)),
            None => adapter,
        })
    }
}

/// The tensor of an adapter as a model has it, given the end of its name: kernels as rows, magnitudes as a vector.
pub(crate) fn as_rows(name: &str, data: TensorData) -> TensorData {
    let count: usize = data.shape().iter().product();
    let rows = data.shape().first().copied().unwrap_or_default();
    if name.ends_with(ENDS[2]) {
        return reshaped(&data, vec![count]);
    }
    let matrix = ENDS[..2].iter().any(|end| name.ends_with(end));
    if matrix && data.shape().len() > 2 && rows > 0 { reshaped(&data, vec![rows, count / rows]) } else { data }
}

/// The values in another shape.
fn reshaped(data: &TensorData, shape: Vec<usize>) -> TensorData {
    TensorData::new(data.iter::<f32>().collect::<Vec<f32>>(), shape)
}

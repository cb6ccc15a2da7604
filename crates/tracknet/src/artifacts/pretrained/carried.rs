//! What a checkpoint holds besides what heatmaps need: tensors that its model has in Python (mask token, pooler), and how
//! frames are normalized. It rides along, so that a directory written from the model is as whole as the one it was read from.

use std::io::Write;
use std::path::Path;

use burn::tensor::TensorData;
use safetensors::Dtype;
use tracknet_kernels::PackedWeight;

use crate::error::{IoContext, Result};
use crate::files::write_atomic;

use super::bnb::QuantState;
use super::bnb::read::{is_packed, read_packed};
use super::bnb::write::parts;
use super::save::StoredAs;
use super::stream::{Planned, write_values};
use super::weights::Weights;

/// What is kept of a checkpoint to be written again.
#[derive(Debug, Clone, Default)]
pub struct Carried {
    pub(crate) tensors: Vec<CarriedTensor>,
    /// Name and content of the files that say how frames are normalized.
    pub(crate) preprocessor: Vec<(&'static str, Vec<u8>)>,
}

impl Carried {
    /// The names of the tensors in their file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// The float tensors by name; those in 4 bits are none.
    pub(crate) fn floats(&self) -> impl Iterator<Item = (&str, TensorData)> {
        self.tensors.iter().filter_map(|tensor| match &tensor.value {
            Value::Plain { dtype, shape, bytes } => {
                Some((tensor.name.as_str(), TensorData::new(floats(*dtype, bytes)?, shape.clone())))
            }
            Value::Packed { .. } => None,
        })
    }

    /// Gives the tensor of this name another value.
    pub(crate) fn replace(&mut self, name: &str, data: &TensorData) {
        if let Some(tensor) = self.tensors.iter_mut().find(|tensor| tensor.name == name) {
            let bytes = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            tensor.value = Value::Plain { dtype: Dtype::F32, shape: data.shape().to_vec(), bytes };
        }
    }

    /// Writes what is no tensor into a model directory.
    pub(crate) fn write_preprocessor(&self, dir: &Path) -> Result<()> {
        for (name, text) in &self.preprocessor {
            write_atomic(dir.join(name), |w| w.write_all(text))?;
        }
        Ok(())
    }
}

/// A tensor that is kept.
#[derive(Debug, Clone)]
pub(crate) struct CarriedTensor {
    name: String,
    value: Value,
}

#[derive(Debug, Clone)]
enum Value {
    /// As the file has it.
    Plain { dtype: Dtype, shape: Vec<usize>, bytes: Vec<u8> },
    /// A weight in 4 bits.
    Packed { weight: PackedWeight, state: QuantState },
}

impl CarriedTensor {
    /// Reads the tensor `stored`, to be written as `name`.
    ///
    /// # Errors
    /// A damaged file.
    pub(crate) fn read(weights: &Weights, stored: &str, name: &str) -> Result<Self> {
        let value = if is_packed(weights, stored) {
            let (weight, state) = read_packed(weights, stored)?;
            Value::Packed { weight, state }
        } else {
            let shape = weights.shape(stored).unwrap_or_default().to_vec();
            Value::Plain { dtype: weights.dtype(stored).unwrap_or(Dtype::F32), shape, bytes: weights.bytes(stored)? }
        };
        Ok(Self { name: name.to_owned(), value })
    }

    /// What it is called in the file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a weight in 4 bits.
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self.value, Value::Packed { .. })
    }

    /// Its tensors in a file of floats at `path`.
    pub(crate) fn as_floats<'a>(&'a self, stored: StoredAs, path: &'a Path) -> Planned<'a> {
        let (name, dtype) = (self.name.clone(), stored.dtype());
        match &self.value {
            Value::Packed { weight, state } => {
                let write = Box::new(move |out: &mut dyn Write| {
                    write_values(out, &self.name, &weight.dequantize(), stored, path)
                });
                Planned { name, dtype, shape: state.shape.to_vec(), write }
            }
            Value::Plain { dtype: found, shape, bytes } => match floats(*found, bytes) {
                Some(values) if *found != dtype => {
                    let write =
                        Box::new(move |out: &mut dyn Write| write_values(out, &self.name, &values, stored, path));
                    Planned { name, dtype, shape: shape.clone(), write }
                }
                _ => {
                    let write = Box::new(move |out: &mut dyn Write| Ok(out.write_all(bytes).at(path)?));
                    Planned { name, dtype: *found, shape: shape.clone(), write }
                }
            },
        }
    }

    /// Its tensors in a file of 4-bit weights at `path`: what is packed stays so.
    pub(crate) fn as_stored<'a>(&'a self, stored: StoredAs, path: &'a Path) -> Vec<Planned<'a>> {
        match &self.value {
            Value::Packed { weight, state } => parts(&self.name, *state, weight.clone(), path),
            Value::Plain { .. } => vec![self.as_floats(stored, path)],
        }
    }
}

/// The values of a tensor of floats; nothing for other types.
fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    use half::{bf16, f16};
    Some(match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => return None,
    })
}

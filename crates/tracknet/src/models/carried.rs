//! What a model takes along to be written again with it, although it computes nothing with it.

use burn::tensor::TensorData;
use half::{bf16, f16};
use safetensors::Dtype;
use tracknet_kernels::{ComputeDtype, PackedWeight};

/// Tensors that a checkpoint's model has in Python (mask token, pooler), and its files that say how frames are normalized:
/// a directory written from the model is as whole as the one it was read from.
#[derive(Debug, Clone, Default)]
pub struct Carried {
    /// The tensors, by their names in files, without an optional prefix.
    pub tensors: Vec<CarriedTensor>,
    /// Name and content of each file.
    pub files: Vec<(&'static str, Vec<u8>)>,
}

/// A tensor as its file stores it.
#[derive(Debug, Clone)]
pub struct CarriedTensor {
    /// What it is called in files.
    pub name: String,
    /// Its values.
    pub value: CarriedValue,
}

/// Values as a file stores them.
#[derive(Debug, Clone)]
pub enum CarriedValue {
    /// Row-major, least significant byte first.
    Plain {
        /// The type of a value.
        dtype: Dtype,
        /// As PyTorch has it.
        shape: Vec<usize>,
        /// All values.
        bytes: Vec<u8>,
    },
    /// A weight in 4 bits.
    Packed {
        /// Codes and scales.
        weight: PackedWeight,
        /// What the weight was stored as before it was quantized.
        dtype: ComputeDtype,
    },
}

impl Carried {
    /// The names of the tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str())
    }

    /// The float tensors by name; those in 4 bits and of whole numbers are none.
    pub fn floats(&self) -> impl Iterator<Item = (&str, TensorData)> {
        self.tensors.iter().filter_map(|tensor| match &tensor.value {
            CarriedValue::Plain { dtype, shape, bytes } => {
                Some((tensor.name.as_str(), TensorData::new(floats(*dtype, bytes)?, shape.clone())))
            }
            CarriedValue::Packed { .. } => None,
        })
    }

    /// Gives the tensor of this name other values, as 32-bit floats; nothing if there is none.
    pub fn replace(&mut self, name: &str, data: &TensorData) {
        if let Some(tensor) = self.tensors.iter_mut().find(|tensor| tensor.name == name) {
            let bytes = data.iter::<f32>().flat_map(f32::to_le_bytes).collect();
            tensor.value = CarriedValue::Plain { dtype: Dtype::F32, shape: data.shape().to_vec(), bytes };
        }
    }
}

/// The values of a tensor of floats; nothing for other types.
pub(crate) fn floats(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    Some(match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => return None,
    })
}

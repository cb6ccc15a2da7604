//! [`Carried`] tensors, read from a checkpoint and written into files of floats or of 4-bit weights.

use std::io::Write;
use std::path::Path;

use safetensors::Dtype;

use crate::error::{IoContext, Result};
use crate::files::write_atomic;
use crate::models::carried::{Carried, CarriedTensor, CarriedValue, floats};

use super::bnb::QuantState;
use super::bnb::read::{is_packed, read_packed};
use super::bnb::write::parts;
use super::save::StoredAs;
use super::stream::{Planned, write_values};
use super::weights::Weights;

/// Reads the tensor `stored`, to be written as `name`.
///
/// # Errors
/// A damaged file.
pub(crate) fn read_carried(weights: &Weights, stored: &str, name: &str) -> Result<CarriedTensor> {
    let value = if is_packed(weights, stored) {
        let (weight, state) = read_packed(weights, stored)?;
        CarriedValue::Packed { weight, dtype: state.dtype }
    } else {
        let shape = weights.shape(stored).unwrap_or_default().to_vec();
        CarriedValue::Plain { dtype: weights.dtype(stored).unwrap_or(Dtype::F32), shape, bytes: weights.bytes(stored)? }
    };
    Ok(CarriedTensor { name: name.to_owned(), value })
}

/// Writes the files that say how frames are normalized into a model directory.
pub(crate) fn write_carried_files(carried: &Carried, dir: &Path) -> Result<()> {
    for (name, text) in &carried.files {
        write_atomic(dir.join(name), |w| w.write_all(text))?;
    }
    Ok(())
}

/// The tensor in a file of floats at `path`.
pub(crate) fn as_floats<'a>(tensor: &'a CarriedTensor, stored: StoredAs, path: &'a Path) -> Planned<'a> {
    let (name, dtype) = (tensor.name.clone(), stored.dtype());
    match &tensor.value {
        CarriedValue::Packed { weight, .. } => {
            let write = Box::new(move |out: &mut dyn Write| {
                write_values(out, &tensor.name, &weight.dequantize(), stored, path)
            });
            Planned { name, dtype, shape: weight.shape().to_vec(), write }
        }
        CarriedValue::Plain { dtype: found, shape, bytes } => match floats(*found, bytes) {
            Some(values) if *found != dtype => {
                let write = Box::new(move |out: &mut dyn Write| write_values(out, &tensor.name, &values, stored, path));
                Planned { name, dtype, shape: shape.clone(), write }
            }
            _ => {
                let write = Box::new(move |out: &mut dyn Write| Ok(out.write_all(bytes).at(path)?));
                Planned { name, dtype: *found, shape: shape.clone(), write }
            }
        },
    }
}

/// The tensors it becomes in a file of 4-bit weights at `path`: what is packed stays so.
pub(crate) fn as_stored<'a>(tensor: &'a CarriedTensor, stored: StoredAs, path: &'a Path) -> Vec<Planned<'a>> {
    match &tensor.value {
        CarriedValue::Packed { weight, dtype } => {
            parts(&tensor.name, QuantState::of(weight, *dtype), weight.clone(), path)
        }
        CarriedValue::Plain { .. } => vec![as_floats(tensor, stored, path)],
    }
}

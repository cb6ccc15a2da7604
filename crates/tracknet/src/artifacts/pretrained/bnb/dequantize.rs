//! A 4-bit checkpoint → a float checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use serde_json::json;

use crate::artifacts::pretrained::save::{StoredAs, write_config};
use crate::artifacts::pretrained::stream::{Planned, write_stream, write_values};
use crate::artifacts::pretrained::{Checkpoint, Weights};
use crate::error::Result;
use crate::files::Destination;
use crate::models::backbones::Family;
use crate::models::registry::family_of;
use crate::models::{ModelError, words};

use super::config::BnbConfig;
use super::quantize::carry;
use super::read::{is_packed, read_packed, read_state, side_tensor_of};

/// What was dequantized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DequantizedCheckpoint {
    /// Weights that were packed.
    pub layers: usize,
    /// Bytes of their codes and scales.
    pub before: usize,
    /// Bytes of them as floats.
    pub after: usize,
}

/// Reads the 4-bit checkpoint at `source` and writes its weights as floats to `destination`.
///
/// With `dtype` every float tensor is stored as that; without, each weight is stored as what it was before it was
/// quantized (its state says so), and the other tensors as they are. The peak is one tensor.
///
/// # Errors
/// No 4-bit checkpoint, a weight that is damaged (by name), or the destination cannot be written.
pub fn dequantize_checkpoint(
    source: &Path,
    destination: &Destination,
    dtype: Option<StoredAs>,
) -> Result<DequantizedCheckpoint> {
    destination.check()?;
    let checkpoint = Checkpoint::open(source)?;
    let path = source.join("config.json").display().to_string();
    if BnbConfig::from_config(&checkpoint.config, &path)?.is_none() {
        let message = "is no 4-bit checkpoint: its config.json has no quantization_config";
        return Err(ModelError::file(source, message).into());
    }
    let weights = &checkpoint.weights;
    let mut report = DequantizedCheckpoint { layers: 0, before: 0, after: 0 };
    destination.write(|dir| {
        let file = dir.join("model.safetensors");
        let mut tensors = Vec::new();
        for name in weights.names().filter(|n| side_tensor_of(weights, n).is_none()) {
            if is_packed(weights, name) {
                let tensor = unpacked(weights, name, dtype, &file).map_err(|error| error.in_file(weights.path()))?;
                report.layers += 1;
                report.before += weights.length(name).unwrap_or_default() + scale_bytes(weights, name);
                report.after += tensor.shape.iter().product::<usize>() * tensor.dtype.bitsize() / 8;
                tensors.push(tensor);
            } else {
                tensors.extend(kept(weights, name, dtype, &file));
            }
        }
        if report.layers == 0 {
            return Err(ModelError::file(source, "holds no packed weight (no tensor has a quant_state)").into());
        }
        if let Some(family) = family_of(&checkpoint.config) {
            tensors = stacked(tensors, family);
        }
        write_stream(&file, tensors)?;
        let mut config = checkpoint.config.clone();
        config.remove("quantization_config");
        if let Some(dtype) = dtype {
            config.remove("torch_dtype");
            config.insert("dtype".to_owned(), json!(dtype.name()));
        }
        write_config(&dir.join("config.json"), config)?;
        carry(source, dir)
    })?;
    Ok(report)
}

fn unpacked<'a>(weights: &'a Weights, name: &'a str, dtype: Option<StoredAs>, path: &'a Path) -> Result<Planned<'a>> {
    let state = read_state(weights, name)?;
    let stored = dtype.unwrap_or_else(|| words::dtype_name(state.dtype).into());
    let write = Box::new(move |out: &mut dyn Write| {
        let (packed, _) = read_packed(weights, name).map_err(|error| error.in_file(weights.path()))?;
        let values = packed.dequantize();
        write_values(out, name, &values, stored, path)
    });
    Ok(Planned { name: name.to_owned(), dtype: stored.dtype(), shape: state.shape.to_vec(), write })
}

/// A tensor that was never packed: copied, or converted when it is of floats and a type is asked for.
fn kept<'a>(weights: &'a Weights, name: &'a str, dtype: Option<StoredAs>, path: &'a Path) -> Option<Planned<'a>> {
    let (found, shape) = (weights.dtype(name)?, weights.shape(name)?.to_vec());
    let convert = dtype.filter(|d| matches!(found, Dtype::F32 | Dtype::F16 | Dtype::BF16) && d.dtype() != found);
    Some(match convert {
        Some(stored) => {
            let write =
                Box::new(move |out: &mut dyn Write| write_values(out, name, &weights.read(name)?, stored, path));
            Planned { name: name.to_owned(), dtype: stored.dtype(), shape, write }
        }
        None => {
            let write = Box::new(move |out: &mut dyn Write| weights.copy(name, out, path));
            Planned { name: name.to_owned(), dtype: found, shape, write }
        }
    })
}

/// Two halves of what float files have as one tensor become that tensor, where both are there in the same type.
fn stacked<'a>(tensors: Vec<Planned<'a>>, family: &Family) -> Vec<Planned<'a>> {
    let mut all: BTreeMap<String, Planned<'a>> = tensors.into_iter().map(|t| (t.name.clone(), t)).collect();
    let wholes: BTreeSet<String> = all.keys().filter_map(|name| Some(family.stacked(name)?.0)).collect();
    for whole in wholes {
        let Some([upper, lower]) = family.halves(&whole).map(|halves| halves.map(|half| all.remove(&half))) else {
            continue;
        };
        match (upper, lower) {
            (Some(upper), Some(lower)) if upper.dtype == lower.dtype && upper.shape == lower.shape => {
                let (dtype, mut shape) = (upper.dtype, upper.shape);
                shape.iter_mut().take(1).for_each(|rows| *rows *= 2);
                let write = Box::new(move |out: &mut dyn Write| {
                    (upper.write)(out)?;
                    (lower.write)(out)
                });
                all.insert(whole.clone(), Planned { name: whole, dtype, shape, write });
            }
            (upper, lower) => all.extend([upper, lower].into_iter().flatten().map(|t| (t.name.clone(), t))),
        }
    }
    all.into_values().collect()
}

fn scale_bytes(weights: &Weights, name: &str) -> usize {
    ["absmax", "nested_absmax"].iter().filter_map(|suffix| weights.length(&format!("{name}.{suffix}"))).sum()
}

//! The tensors of a packed weight, checked against each other and put together.
//!
//! Every length follows from the shape and the block size that the state names, and is checked on the header of the file:
//! what a hostile state claims is never allocated.

use safetensors::Dtype;
use tracknet_kernels::fourbit::{NESTED_BLOCKSIZE, dynamic_map};
use tracknet_kernels::{Absmax, PackedWeight, QuantType};

use crate::artifacts::pretrained::Weights;
use crate::error::Result;
use crate::models::ModelError;

use super::quant_state::{MAX_BYTES, QuantState};

/// What comes after the name of a packed weight.
pub(super) const SUFFIXES: [&str; 4] = ["absmax", "quant_map", "nested_absmax", "nested_quant_map"];

/// The largest difference between a stored table and the one of the format: tables are computed, and their last bits
/// depend on the program that did it.
const TABLE_TOLERANCE: f32 = 1e-6;

/// The name of the state of a weight.
pub(super) fn state_name(weight: &str, quant_type: QuantType) -> String {
    format!("{weight}.quant_state.bitsandbytes__{quant_type}")
}

/// The weight that `name` belongs to, if it is one of the tensors beside a packed weight.
pub(crate) fn side_tensor_of<'a>(weights: &Weights, name: &'a str) -> Option<&'a str> {
    let types = [QuantType::Nf4, QuantType::Fp4];
    let of_state = types.into_iter().find_map(|quant_type| name.strip_suffix(&state_name("", quant_type)));
    let of_scale = || SUFFIXES.into_iter().find_map(|suffix| name.strip_suffix(suffix)?.strip_suffix('.'));
    of_state.or_else(of_scale).filter(|weight| is_packed(weights, weight))
}

/// Whether the tensor `name` is a packed weight: whether it has a state.
pub fn is_packed(weights: &Weights, name: &str) -> bool {
    [QuantType::Nf4, QuantType::Fp4].into_iter().any(|t| weights.shape(&state_name(name, t)).is_some())
}

/// The names of the tensors beside a packed weight that the file has.
pub(in crate::artifacts::pretrained) fn side_tensors(weights: &Weights, name: &str) -> Vec<String> {
    let states = [QuantType::Nf4, QuantType::Fp4].map(|t| state_name(name, t));
    let scales = SUFFIXES.map(|suffix| format!("{name}.{suffix}"));
    states.into_iter().chain(scales).filter(|n| weights.shape(n).is_some()).collect()
}

/// Reads the state of a packed weight. The number of codes is that of the shape it names, so the shape is as large as the
/// file at most.
///
/// # Errors
/// There is none, there are two, or it is wrong, or the weight is missing or of another size.
pub fn read_state(weights: &Weights, name: &str) -> Result<QuantState> {
    let names = [QuantType::Nf4, QuantType::Fp4].map(|t| (t, state_name(name, t)));
    let mut found = names.into_iter().filter(|(_, n)| weights.shape(n).is_some());
    let Some((quant_type, state)) = found.next() else {
        return Err(problem(name, "has no quant_state beside it, so what its bytes mean is not known").into());
    };
    if found.next().is_some() {
        return Err(problem(name, "has two quant_states, bitsandbytes__nf4 and bitsandbytes__fp4; expected one").into());
    }
    expect(weights, &state, Dtype::U8, None)?;
    let length = weights.length(&state).unwrap_or_default();
    if length > MAX_BYTES {
        let message = format!("is {length} bytes long, expected JSON of at most {MAX_BYTES}");
        return Err(problem(&state, message).into());
    }
    let parsed = QuantState::parse(&weights.bytes(&state)?).map_err(|e| problem(&state, e))?;
    if parsed.quant_type != quant_type {
        let message = format!("`quant_type` is {}, but the tensor is named {quant_type}", parsed.quant_type);
        return Err(problem(&state, message).into());
    }
    if weights.shape(name).is_none() {
        return Err(problem(name, "is missing, but its quant_state is there").into());
    }
    // Whatever type the codes are viewed as (`bnb_4bit_quant_storage`), they are these bytes.
    let [output, input] = parsed.shape;
    let (found, expected) = (weights.length(name).unwrap_or_default(), (output * input).div_ceil(2));
    if found != expected {
        let message =
            format!("holds {found} bytes, but its quant_state says [{output}, {input}], which takes {expected}");
        return Err(problem(name, message).into());
    }
    Ok(parsed)
}

/// Reads a packed weight and its state.
///
/// # Errors
/// A tensor of it is missing, has another type or length than the state demands, or holds what the format does not have.
pub fn read_packed(weights: &Weights, name: &str) -> Result<(PackedWeight, QuantState)> {
    let state = read_state(weights, name)?;
    let count = state.shape[0] * state.shape[1];
    let blocks = count.div_ceil(state.blocksize);
    check_table(weights, &format!("{name}.quant_map"), state.quant_type.codes())?;
    let scales = format!("{name}.absmax");
    let absmax = match state.nested_offset {
        None => {
            if weights.shape(&format!("{name}.nested_absmax")).is_some() {
                let message = "has scales in 8 bits beside it (nested_absmax), but its quant_state does not name them";
                return Err(problem(name, message).into());
            }
            expect(weights, &scales, Dtype::F32, Some(blocks))?;
            Absmax::Plain(weights.read(&scales)?)
        }
        Some(offset) => {
            expect(weights, &scales, Dtype::U8, Some(blocks))?;
            let nested = format!("{name}.nested_absmax");
            expect(weights, &nested, Dtype::F32, Some(blocks.div_ceil(NESTED_BLOCKSIZE)))?;
            check_table(weights, &format!("{name}.nested_quant_map"), dynamic_map())?;
            Absmax::Nested { codes: weights.bytes(&scales)?, absmax: weights.read(&nested)?, offset }
        }
    };
    let packed = PackedWeight::from_parts(state.shape, state.quant_type, state.blocksize, weights.bytes(name)?, absmax)
        .map_err(|e| problem(name, e.to_string()))?;
    Ok((packed, state))
}

/// Checks type and number of elements on the header.
fn expect(weights: &Weights, name: &str, dtype: Dtype, count: Option<usize>) -> Result<(), ModelError> {
    let (Some(found), Some(shape)) = (weights.dtype(name), weights.shape(name)) else {
        return Err(problem(name, "is missing; a packed weight needs it"));
    };
    if found != dtype {
        return Err(problem(name, format!("is {found:?}, expected {dtype:?}")));
    }
    match count {
        Some(count) if shape.iter().product::<usize>() != count => {
            Err(problem(name, format!("has shape {shape:?}, expected {count} elements, as its quant_state says")))
        }
        _ => Ok(()),
    }
}

/// The table in the file must be the one of the format, because that is the one that is computed with.
fn check_table(weights: &Weights, name: &str, table: &[f32]) -> Result<()> {
    expect(weights, name, Dtype::F32, Some(table.len()))?;
    let stored = weights.read(name)?;
    match stored.iter().zip(table).position(|(found, expected)| (found - expected).abs() > TABLE_TOLERANCE) {
        None => Ok(()),
        Some(code) => {
            let message = format!("means {} by code {code}, expected {}: another table", stored[code], table[code]);
            Err(problem(name, message).into())
        }
    }
}

fn problem(name: &str, message: impl Into<String>) -> ModelError {
    ModelError::Tensor { name: name.to_owned(), message: message.into() }
}

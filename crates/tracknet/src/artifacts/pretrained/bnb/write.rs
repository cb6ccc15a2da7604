//! A packed weight → its tensors.

use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use tracknet_kernels::fourbit::dynamic_map;
use tracknet_kernels::{Absmax, PackedWeight};

use crate::artifacts::pretrained::save::StoredAs;
use crate::artifacts::pretrained::stream::{Planned, write_values};
use crate::error::IoContext;

use super::quant_state::QuantState;
use super::read::state_name;

/// The tensors of one packed weight.
pub(in crate::artifacts::pretrained) fn parts<'a>(
    name: &str,
    state: QuantState,
    weight: PackedWeight,
    path: &'a Path,
) -> Vec<Planned<'a>> {
    let bytes = |name: String, shape: Vec<usize>, bytes: Vec<u8>| {
        let write = Box::new(move |out: &mut dyn Write| Ok(out.write_all(&bytes).at(path)?));
        Planned { name, dtype: Dtype::U8, shape, write }
    };
    let floats = |suffix: &str, values: Vec<f32>| {
        let (name, shape) = (format!("{name}.{suffix}"), vec![values.len()]);
        let label = name.clone();
        let write = Box::new(move |out: &mut dyn Write| write_values(out, &label, &values, StoredAs::F32, path));
        Planned { name, dtype: Dtype::F32, shape, write }
    };
    let json = state.to_json().into_bytes();
    let (packed, absmax) = weight.into_parts();
    let mut parts = vec![
        bytes(name.to_owned(), vec![packed.len(), 1], packed),
        floats("quant_map", state.quant_type.codes().to_vec()),
        bytes(state_name(name, state.quant_type), vec![json.len()], json),
    ];
    match absmax {
        Absmax::Plain(scales) => parts.push(floats("absmax", scales)),
        Absmax::Nested { codes, absmax, .. } => {
            parts.push(bytes(format!("{name}.absmax"), vec![codes.len()], codes));
            parts.push(floats("nested_absmax", absmax));
            parts.push(floats("nested_quant_map", dynamic_map().to_vec()));
        }
    }
    parts
}

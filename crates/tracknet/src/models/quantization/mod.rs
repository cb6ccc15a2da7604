//! Storing the linear layers of a model in 4 bits, with the rules of bitsandbytes.
//!
//! | module | what lives there |
//! |---|---|
//! | `format`, [`skip`] | what a `quantization` section asks for, and which layers it leaves as floats |
//! | `packer` | packing while a model is built |
//! | `report` | what was quantized, and how much smaller it is |

mod format;
mod packer;
mod report;
pub mod skip;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use tracknet_kernels::Linear4bitWeight;

use crate::config::QuantizationConfig;

use super::ModelError;
use super::lora::VisitLayers;
use super::nn::{Linear, LinearWeight};

use format::unpackable;
pub use format::{Format, Storage};
pub use packer::{Packer, PackingSource};
pub use report::{QuantizationReport, QuantizedLayer};
pub use skip::SkipRules;

/// Lists what [`apply_quantization`] would do; nothing is changed. Nothing is listed when `config` is not enabled.
///
/// # Errors
/// A value of `config` that cannot work, or a model without linear layers to quantize.
pub fn plan_quantization<M: VisitLayers>(
    model: &M,
    config: &QuantizationConfig,
) -> Result<QuantizationReport, ModelError> {
    let Some(Storage { format, skip }) = Storage::new(config, model.module_paths())? else {
        return Ok(QuantizationReport::default());
    };
    let mut report = QuantizationReport::default();
    let mut seen = 0;
    model.visit_linears(&mut |path, linear| {
        seen += 1;
        if skip.skips(path) {
            report.skipped.push(path.to_owned());
        } else if !linear.is_quantized() {
            let shape = linear.shape();
            let count = shape[0] * shape[1];
            let layer = QuantizedLayer { path: path.to_owned(), shape, before: 4 * count, after: format.bytes(count) };
            report.layers.push(layer);
        }
    });
    report.notes = skip.notes(&report.skipped);
    if report.layers.is_empty() {
        return Err(nothing_left(seen, report.skipped.len()));
    }
    Ok(report)
}

/// Replaces the weight of every linear layer that `config.skip_modules` does not name by its 4-bit form, one at a time, so that
/// the peak is the model and one packed weight. The model comes back as it is when `config` is not enabled.
///
/// # Errors
/// As [`plan_quantization`]; or a weight that is not finite, by name.
pub fn apply_quantization<M: Module + VisitLayers>(
    mut model: M,
    config: &QuantizationConfig,
) -> Result<(M, QuantizationReport), ModelError> {
    let mut report = plan_quantization(&model, config)?;
    if !config.enabled {
        return Ok((model, report));
    }
    let format = Format::new(config)?;
    let mut failed = None;
    let mut layers = report.layers.iter_mut().peekable();
    model.visit_linears_mut(&mut |path, linear| {
        let Some(layer) = layers.next_if(|l| l.path == path && failed.is_none()) else { return };
        match pack(path, linear, format) {
            Ok(after) => layer.after = after,
            Err(error) => failed = Some(error),
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok((model, report)),
    }
}

/// Packs one linear layer; returns the bytes it is stored in.
fn pack(path: &str, linear: &mut Linear, format: Format) -> Result<usize, ModelError> {
    let LinearWeight::Dense(weight) = &linear.weight else { return Ok(0) };
    let weight = Linear4bitWeight::quantize(weight.val(), &format.options(), format.compute());
    let weight = weight.map_err(|e| unpackable(path, e))?;
    let bytes = weight.storage_bytes();
    linear.weight = LinearWeight::Packed(weight);
    Ok(bytes)
}

/// Makes floats of every packed weight, so that the model can be written as floats.
#[must_use]
pub fn dequantize<M: VisitLayers>(mut model: M) -> M {
    model.visit_linears_mut(&mut |_, linear| {
        if let LinearWeight::Packed(weight) = &linear.weight {
            let weight: Param<Tensor<2>> = Param::from_tensor(weight.dequantize());
            linear.weight = LinearWeight::Dense(weight.set_require_grad(false));
        }
    });
    model
}

fn nothing_left(linears: usize, skipped: usize) -> ModelError {
    let message = match linears {
        0 => "the model has no linear layers to quantize".to_owned(),
        _ => format!("none of the {linears} linear layers is left to quantize: {skipped} skipped"),
    };
    ModelError::key("quantization", message)
}

//! The base that `loftq` initialized an adapter for, in `adapter_config.json`.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracknet_kernels::QuantizeOptions;

use crate::config::{DtypeName, LoraConfig, QuantTypeName, QuantizationConfig};
use crate::models::lora::loftq::LoftqBase;
use crate::models::quantization::Format;
use crate::models::{ModelError, words};

/// The key of `adapter_config.json` for a base that PEFT has no word for.
pub(super) const KEY: &str = "tracknet_loftq";

/// [`LoftqBase`] as the value of [`KEY`].
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    quant_type: QuantTypeName,
    blocksize: usize,
    double_quant: bool,
    compute_dtype: DtypeName,
    turns: usize,
    #[serde(default)]
    floats: Vec<String>,
}

/// What `init_lora_weights: loftq` means in a file of PEFT: NF4 in blocks of 64 with float scales, and updates without the
/// adapter's scale.
///
/// # Errors
/// None.
pub(super) fn base_of_peft(lora: &LoraConfig) -> Result<LoftqBase, ModelError> {
    let config = QuantizationConfig {
        quant_type: QuantTypeName::Nf4,
        blocksize: 64,
        compress_statistics: false,
        compute_dtype: DtypeName::Float32,
        ..QuantizationConfig::default()
    };
    let format = Format::new(&config)?;
    Ok(LoftqBase { format, iterations: lora.loftq_config.loftq_iter, scaled: false, floats: Vec::new() })
}

/// Reads the value of [`KEY`].
///
/// # Errors
/// What is wrong with it.
pub(super) fn from_entry(value: &Value) -> Result<LoftqBase, String> {
    let entry = Entry::deserialize(value).map_err(|e| format!("{KEY} is {value}: {e}"))?;
    let Entry { quant_type, blocksize, double_quant, compute_dtype, turns, floats } = entry;
    let config = QuantizationConfig {
        quant_type,
        blocksize,
        compress_statistics: double_quant,
        compute_dtype,
        ..QuantizationConfig::default()
    };
    let format = Format::new(&config).map_err(|e| format!("{KEY}: {e}"))?;
    Ok(LoftqBase { format, iterations: turns, scaled: true, floats })
}

/// The value of [`KEY`].
pub(super) fn to_entry(base: &LoftqBase) -> Value {
    let QuantizeOptions { quant_type, blocksize, double_quant } = base.format.options();
    json!(Entry {
        quant_type: words::quant_type_name(quant_type),
        blocksize,
        double_quant,
        compute_dtype: words::dtype_name(base.format.compute()),
        turns: base.iterations,
        floats: base.floats.clone(),
    })
}

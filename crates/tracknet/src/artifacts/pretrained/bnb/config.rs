//! `quantization_config` of a checkpoint's `config.json`.

use std::str::FromStr;

use serde_json::{Map, Value, json};
use tracknet_kernels::{ComputeDtype, QuantType};

use crate::config::{DtypeName, QuantTypeName};
use crate::console::shown;
use crate::models::{ModelError, words};

/// What `config.json` says about the 4-bit weights beside it. The layers themselves are found by their tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BnbConfig {
    /// `bnb_4bit_quant_type`.
    pub quant_type: QuantType,
    /// `bnb_4bit_compute_dtype`: what dequantized weights are rounded to.
    pub compute_dtype: ComputeDtype,
    /// `bnb_4bit_use_double_quant`.
    pub double_quant: bool,
    /// `llm_int8_skip_modules`: the layers that are left as floats, in 4 bits as well.
    pub skip_modules: Option<Vec<String>>,
}

impl BnbConfig {
    /// Reads the section, if there is one; `path` is that of `config.json`, for errors.
    ///
    /// # Errors
    /// A section of another method than bitsandbytes in 4 bits, or a value that is not known.
    pub fn from_config(config: &Map<String, Value>, path: &str) -> Result<Option<Self>, ModelError> {
        let Some(section) = config.get("quantization_config").filter(|s| !s.is_null()) else { return Ok(None) };
        let section = Section { section, path };
        let method = section.text("quant_method")?.unwrap_or("bitsandbytes");
        if method != "bitsandbytes" {
            return Err(section.wrong("quant_method", "bitsandbytes; other methods are not read"));
        }
        if section.flag("load_in_8bit")? || !(section.flag("load_in_4bit")? || section.flag("_load_in_4bit")?) {
            return Err(section.wrong("load_in_4bit", "true; weights in 8 bits are not read"));
        }
        let skip_modules = match section.get("llm_int8_skip_modules") {
            None => None,
            Some(value) => {
                let entries = value.as_array().and_then(|entries| {
                    entries.iter().map(|entry| entry.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
                });
                Some(entries.ok_or_else(|| section.wrong("llm_int8_skip_modules", "a list of texts, or null"))?)
            }
        };
        Ok(Some(Self {
            quant_type: words::quant_type(
                section.word("bnb_4bit_quant_type", "nf4 or fp4")?.unwrap_or(QuantTypeName::Fp4),
            ),
            compute_dtype: words::compute_dtype(
                section.word("bnb_4bit_compute_dtype", "float32, float16 or bfloat16")?.unwrap_or(DtypeName::Float32),
            ),
            double_quant: section.flag("bnb_4bit_use_double_quant")?,
            skip_modules,
        }))
    }

    /// The section as `transformers` 5 writes it.
    pub fn to_json(&self) -> Value {
        json!({
            "_load_in_4bit": true,
            "_load_in_8bit": false,
            "bnb_4bit_compute_dtype": words::dtype_name(self.compute_dtype),
            "bnb_4bit_quant_storage": "uint8",
            "bnb_4bit_quant_type": words::quant_type_name(self.quant_type),
            "bnb_4bit_use_double_quant": self.double_quant,
            "llm_int8_enable_fp32_cpu_offload": false,
            "llm_int8_has_fp16_weight": false,
            "llm_int8_skip_modules": self.skip_modules,
            "llm_int8_threshold": 6.0,
            "load_in_4bit": true,
            "load_in_8bit": false,
            "quant_method": "bitsandbytes",
        })
    }
}

/// The section being read.
struct Section<'a> {
    section: &'a Value,
    path: &'a str,
}

impl<'a> Section<'a> {
    /// A value that is there and not null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.section.get(key).filter(|v| !v.is_null())
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.get(key).map(|v| v.as_str().ok_or_else(|| self.wrong(key, "text"))).transpose()
    }

    fn word<W: FromStr>(&self, key: &str, expected: &str) -> Result<Option<W>, ModelError> {
        self.text(key)?.map(|text| text.parse().map_err(|_| self.wrong(key, expected))).transpose()
    }

    /// Absent is `false`.
    fn flag(&self, key: &str) -> Result<bool, ModelError> {
        self.get(key).map_or(Ok(false), |v| v.as_bool().ok_or_else(|| self.wrong(key, "true or false")))
    }

    fn wrong(&self, key: &str, expected: &str) -> ModelError {
        let found = self.get(key).map_or_else(|| "missing".to_owned(), |v| format!("`{}`", shown(&v.to_string())));
        ModelError::key(format!("{}: quantization_config.{key}", self.path), format!("is {found}, expected {expected}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(section: Value) -> Result<Option<BnbConfig>, String> {
        let config = json!({ "quantization_config": section }).as_object().cloned().unwrap();
        BnbConfig::from_config(&config, "config.json").map_err(|e| e.to_string())
    }

    #[test]
    fn a_section_goes_around_and_a_float_checkpoint_has_none() {
        let config = BnbConfig {
            quant_type: QuantType::Nf4,
            compute_dtype: ComputeDtype::Bf16,
            double_quant: true,
            skip_modules: Some(vec!["classifier".to_owned()]),
        };
        assert_eq!(read(config.to_json()), Ok(Some(config)));
        assert_eq!(read(Value::Null), Ok(None));
        assert_eq!(BnbConfig::from_config(&Map::new(), "config.json").unwrap(), None);
    }

    #[test]
    fn sections_of_older_releases_are_read_with_the_defaults_of_transformers() {
        let section = json!({ "load_in_4bit": true, "bnb_4bit_compute_dtype": "torch.float16" });
        let expected = BnbConfig {
            quant_type: QuantType::Fp4,
            compute_dtype: ComputeDtype::F16,
            double_quant: false,
            skip_modules: None,
        };
        assert_eq!(read(section), Ok(Some(expected)));
    }

    #[test]
    fn other_methods_and_unknown_values_are_refused_by_key() {
        for (section, said) in [
            (json!({ "quant_method": "gptq", "bits": 4 }), "quant_method: is `\"gptq\"`, expected bitsandbytes"),
            (json!({ "load_in_8bit": true }), "load_in_4bit: is missing"),
            (json!({ "load_in_8bit": true, "load_in_4bit": true }), "8 bits are not read"),
            (json!({ "load_in_4bit": "yes" }), "load_in_4bit: is `\"yes\"`, expected true or false"),
            (json!({ "load_in_4bit": true, "bnb_4bit_quant_type": "int4" }), "expected nf4 or fp4"),
            (
                json!({ "load_in_4bit": true, "bnb_4bit_compute_dtype": 3 }),
                "bnb_4bit_compute_dtype: is `3`, expected text",
            ),
            (json!({ "load_in_4bit": true, "llm_int8_skip_modules": "x" }), "expected a list of texts"),
            (
                json!({ "load_in_4bit": true, "llm_int8_skip_modules": ["x", 1] }),
                "is `[\"x\",1]`, expected a list of texts",
            ),
            (json!([]), "load_in_4bit: is missing"),
        ] {
            let message = read(section).unwrap_err();
            assert!(message.starts_with("config.json: quantization_config.") && message.contains(said), "{message}");
        }
    }
}

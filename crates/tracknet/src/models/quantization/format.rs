//! What a `quantization` section asks for: the format of packed weights, and which ones are packed.

use std::fmt;

use burn::tensor::Device;
use tracknet_kernels::fourbit::BLOCKSIZES;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, PackedWeight, QuantizeOptions};

use crate::config::{QuantMode, QuantizationConfig};
use crate::models::backbones::ModulePaths;
use crate::models::lora::targets::{names_pooler, unused_pooler};
use crate::models::{ModelError, words};

use super::skip::SkipRules;

/// A `quantization` section, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    options: QuantizeOptions,
    compute: ComputeDtype,
}

impl Format {
    /// Reads a configuration.
    ///
    /// # Errors
    /// A block size that is not known.
    pub fn new(config: &QuantizationConfig) -> Result<Self, ModelError> {
        if !BLOCKSIZES.contains(&config.blocksize) {
            let message = format!("is `{}`, expected one of {BLOCKSIZES:?}", config.blocksize);
            return Err(ModelError::key("quantization.blocksize", message));
        }
        let double_quant = match config.use_double_quant {
            Some(on) if config.mode == QuantMode::Hf => on,
            _ => config.compress_statistics,
        };
        let quant_type = words::quant_type(config.quant_type);
        let options = QuantizeOptions { quant_type, blocksize: config.blocksize, double_quant };
        Ok(Self { options, compute: words::compute_dtype(config.compute_dtype) })
    }

    /// Code, block size and double quantization.
    pub fn options(&self) -> QuantizeOptions {
        self.options
    }

    /// What dequantized weights are rounded to.
    pub fn compute(&self) -> ComputeDtype {
        self.compute
    }

    /// Packs values `[out, in]`; `path` names their layer in errors.
    pub(super) fn pack(
        &self,
        path: &str,
        values: &[f32],
        shape: [usize; 2],
        device: &Device,
    ) -> Result<Linear4bitWeight, ModelError> {
        let packed = PackedWeight::quantize(values, shape, &self.options).map_err(|e| unpackable(path, e))?;
        Linear4bitWeight::from_packed(&packed, self.compute, device).map_err(|e| unpackable(path, e))
    }

    /// What is read back of values that are stored so, rounded to the compute type as for every product.
    pub(crate) fn round_trip(&self, path: &str, values: &[f32], shape: [usize; 2]) -> Result<Vec<f32>, ModelError> {
        let packed = PackedWeight::quantize(values, shape, &self.options).map_err(|e| unpackable(path, e))?;
        Ok(packed.view().dequantize(self.compute))
    }

    /// Bytes of codes and scales for this many values.
    pub(super) fn bytes(&self, count: usize) -> usize {
        let blocks = count.div_ceil(self.options.blocksize);
        let scales = if self.options.double_quant { blocks + 4 * blocks.div_ceil(256) + 4 } else { 4 * blocks };
        count.div_ceil(2) + scales
    }
}

/// How each weight of a model will be stored, by an enabled `quantization` section.
#[derive(Debug)]
pub struct Storage {
    pub(super) format: Format,
    pub(super) skip: Skip,
}

impl Storage {
    /// Reads a configuration for a model with these spellings of its paths ([`VisitLayers::module_paths`](crate::models::VisitLayers::module_paths)); nothing
    /// when it is not enabled.
    ///
    /// # Errors
    /// As [`Format::new`], or a skip entry that cannot be understood.
    pub fn new(config: &QuantizationConfig, paths: ModulePaths) -> Result<Option<Self>, ModelError> {
        let read = || Ok(Self { format: Format::new(config)?, skip: Skip::new(config, paths)? });
        config.enabled.then(read).transpose()
    }

    /// The format of the weights that are packed.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The format of the weight of the linear layer at `path`; nothing when it stays float.
    pub(crate) fn format_of(&self, path: &str) -> Option<Format> {
        (!self.skip.skips(path)).then_some(self.format)
    }
}

/// `skip_modules`, understood.
#[derive(Debug)]
pub(super) enum Skip {
    /// `mode: manual`: an entry is a part of the path.
    Parts(Vec<String>, ModulePaths),
    /// `mode: hf`: the rule of `transformers`, for any spelling of the path.
    Rules(SkipRules, ModulePaths),
}

impl Skip {
    pub(super) fn new(config: &QuantizationConfig, paths: ModulePaths) -> Result<Self, ModelError> {
        let entries = config.skip_modules.clone().unwrap_or_default();
        Ok(match config.mode {
            QuantMode::Hf => Self::Rules(SkipRules::new(&entries, "quantization.skip_modules")?, paths),
            QuantMode::Manual => Self::Parts(entries, paths),
        })
    }

    pub(super) fn skips(&self, path: &str) -> bool {
        match self {
            Self::Parts(parts, _) => parts.iter().any(|part| path.contains(part.as_str())),
            Self::Rules(rules, paths) => rules.skips(path, *paths),
        }
    }

    /// One note for each entry that matches none of the skipped paths.
    pub(super) fn notes(&self, skipped: &[String]) -> Vec<String> {
        let (unused, paths): (Vec<&str>, _) = match self {
            Self::Parts(parts, paths) => {
                let unused = parts.iter().filter(|part| !skipped.iter().any(|path| path.contains(part.as_str())));
                (unused.map(String::as_str).collect(), *paths)
            }
            Self::Rules(rules, paths) => {
                (rules.unused(&skipped.iter().map(String::as_str).collect::<Vec<_>>(), *paths), *paths)
            }
        };
        let note = |entry: &&str| match names_pooler(entry, paths) {
            true => format!("quantization.skip_modules: {}", unused_pooler(entry)),
            false => format!("quantization.skip_modules: `{entry}` matches nothing"),
        };
        unused.iter().map(note).collect()
    }
}

/// Why the weight of the layer at `path` cannot be stored in 4 bits.
pub(super) fn unpackable(path: &str, message: impl fmt::Display) -> ModelError {
    ModelError::Tensor { name: format!("{path}.weight"), message: message.to_string() }
}

//! Stores the projections of a model in 4 bits, with the rules of bitsandbytes.

use std::cell::RefCell;
use std::fmt;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tracknet_kernels::fourbit::BLOCKSIZES;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, PackedWeight, QuantType, QuantizeOptions};

use crate::config::QuantizationConfig;
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::lora::targets::{names_pooler, unused_pooler};
use crate::models::projection::{Base, Projection, VisitProjections};

mod skip;

pub use skip::SkipRules;

/// What was quantized, or what would be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuantizationReport {
    /// In the order of the model.
    pub layers: Vec<QuantizedLayer>,
    /// Projections that stay float because of `skip_modules`.
    pub skipped: Vec<String>,
    /// Skip entries that match nothing.
    pub notes: Vec<String>,
}

/// One projection and its size as 32-bit floats and in 4 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedLayer {
    /// The path below the backbone.
    pub path: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Bytes of the weight as it is.
    pub before: usize,
    /// Bytes of codes and scales.
    pub after: usize,
}

impl QuantizationReport {
    /// Bytes of all quantized weights before and after.
    pub fn bytes(&self) -> [usize; 2] {
        [self.layers.iter().map(|l| l.before).sum(), self.layers.iter().map(|l| l.after).sum()]
    }

    /// What is packed in a model as it is: one whose checkpoint was in 4 bits. `before` counts 32-bit floats.
    pub fn of_packed<M: VisitProjections>(model: &M) -> Self {
        let mut report = Self::default();
        model.visit_projections(&mut |path, projection| match &projection.base {
            Base::Dense(_) => report.skipped.push(path.to_owned()),
            Base::Packed(weight) => {
                let shape = weight.shape();
                let [before, after] = [4 * shape[0] * shape[1], weight.storage_bytes()];
                report.layers.push(QuantizedLayer { path: path.to_owned(), shape, before, after });
            }
        });
        report
    }

    /// A table of module, in, out, bytes before and after.
    pub fn table(&self) -> String {
        let width = self.layers.iter().map(|l| l.path.len()).max().unwrap_or_default().clamp("module".len(), 120);
        let mut text =
            format!("{:width$} {:>6} {:>6} {:>12} {:>12}\n", "module", "in", "out", "bytes before", "bytes after");
        for QuantizedLayer { path, shape: [output, input], before, after } in &self.layers {
            text += &format!("{path:width$} {input:>6} {output:>6} {before:>12} {after:>12}\n");
        }
        let [before, after] = self.bytes();
        text + &format!("{:width$} {:>6} {:>6} {before:>12} {after:>12}", "total", "", "")
    }
}

impl fmt::Display for QuantizationReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, after] = self.bytes();
        let ratio = before as f64 / after.max(1) as f64;
        write!(f, "4-bit: {} modules, {before} → {after} bytes ({ratio:.2}× smaller)", self.layers.len())?;
        if !self.skipped.is_empty() {
            write!(f, ", {} left as floats", self.skipped.len())?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

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
    /// Names the first key whose value is not known.
    pub fn new(config: &QuantizationConfig) -> Result<Self, ModelError> {
        let refuse = |key: &str, found: &dyn fmt::Display, expected: &str| {
            Err(ModelError::key(format!("quantization.{key}"), format!("is `{found}`, expected {expected}")))
        };
        let quant_type = match config.quant_type.as_str() {
            "nf4" => QuantType::Nf4,
            "fp4" => QuantType::Fp4,
            other => return refuse("quant_type", &other, "nf4 or fp4"),
        };
        let compute = match config.compute_dtype.as_str() {
            "bfloat16" | "bf16" => ComputeDtype::Bf16,
            "float16" | "fp16" => ComputeDtype::F16,
            "float32" | "fp32" => ComputeDtype::F32,
            other => return refuse("compute_dtype", &other, "bfloat16, float16 or float32"),
        };
        if !["manual", "hf"].contains(&config.mode.as_str()) {
            return refuse("mode", &config.mode, "manual or hf");
        }
        if !BLOCKSIZES.contains(&config.blocksize) {
            return refuse("blocksize", &config.blocksize, &format!("one of {BLOCKSIZES:?}"));
        }
        let double_quant = match config.use_double_quant {
            Some(on) if config.mode == "hf" => on,
            _ => config.compress_statistics,
        };
        let options = QuantizeOptions { quant_type, blocksize: config.blocksize, double_quant };
        Ok(Self { options, compute })
    }

    /// Code, block size and double quantization.
    pub fn options(&self) -> QuantizeOptions {
        self.options
    }

    /// What dequantized weights are rounded to.
    pub fn compute(&self) -> ComputeDtype {
        self.compute
    }

    fn pack(
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
    fn bytes(&self, count: usize) -> usize {
        let blocks = count.div_ceil(self.options.blocksize);
        let scales = if self.options.double_quant { blocks + 4 * blocks.div_ceil(256) + 4 } else { 4 * blocks };
        count.div_ceil(2) + scales
    }
}

/// How each weight of a model will be stored, by an enabled `quantization` section.
#[derive(Debug)]
pub struct Storage {
    format: Format,
    skip: Skip,
}

impl Storage {
    /// Reads a configuration for a model with these spellings of its paths ([`VisitProjections::module_paths`]); nothing
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

    /// The format of the weight of the projection at `path`; nothing when it stays float.
    pub(crate) fn format_of(&self, path: &str) -> Option<Format> {
        (!self.skip.skips(path)).then_some(self.format)
    }
}

/// `skip_modules`, understood.
#[derive(Debug)]
enum Skip {
    /// `mode: manual`: an entry is a part of the path.
    Parts(Vec<String>, ModulePaths),
    /// `mode: hf`: the rule of `transformers`, for any spelling of the path.
    Rules(SkipRules, ModulePaths),
}

impl Skip {
    fn new(config: &QuantizationConfig, paths: ModulePaths) -> Result<Self, ModelError> {
        let entries = config.skip_modules.clone().unwrap_or_default();
        Ok(match config.mode.as_str() {
            "hf" => Self::Rules(SkipRules::new(&entries, "quantization.skip_modules")?, paths),
            _ => Self::Parts(entries, paths),
        })
    }

    fn skips(&self, path: &str) -> bool {
        match self {
            Self::Parts(parts, _) => parts.iter().any(|part| path.contains(part.as_str())),
            Self::Rules(rules, paths) => rules.skips(path, *paths),
        }
    }

    /// One note for each entry that matches none of the skipped paths.
    fn notes(&self, skipped: &[String]) -> Vec<String> {
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

/// Lists what [`apply_quantization`] would do; nothing is changed. Nothing is listed when `config` is not enabled.
///
/// # Errors
/// A value of `config` that cannot work, or a model without linear layers to quantize.
pub fn plan_quantization<M: VisitProjections>(
    model: &M,
    config: &QuantizationConfig,
) -> Result<QuantizationReport, ModelError> {
    let Some(Storage { format, skip }) = Storage::new(config, model.module_paths())? else {
        return Ok(QuantizationReport::default());
    };
    let mut report = QuantizationReport::default();
    let mut seen = 0;
    model.visit_projections(&mut |path, projection| {
        seen += 1;
        if skip.skips(path) {
            report.skipped.push(path.to_owned());
        } else if !projection.is_quantized() {
            let shape = projection.shape();
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

/// Replaces every dense projection that `config.skip_modules` does not name by its 4-bit form, one at a time, so that
/// the peak is the model and one packed weight. The model comes back as it is when `config` is not enabled.
///
/// # Errors
/// As [`plan_quantization`]; or a weight that is not finite, by name.
pub fn apply_quantization<M: Module + VisitProjections>(
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
    model.visit_projections_mut(&mut |path, projection| {
        let Some(layer) = layers.next_if(|l| l.path == path && failed.is_none()) else { return };
        match pack(path, projection, format) {
            Ok(after) => layer.after = after,
            Err(error) => failed = Some(error),
        }
    });
    match failed {
        Some(error) => Err(error),
        None => Ok((model, report)),
    }
}

/// Packs one projection; returns the bytes it is stored in.
fn pack(path: &str, projection: &mut Projection, format: Format) -> Result<usize, ModelError> {
    let Base::Dense(weight) = &projection.base else { return Ok(0) };
    let weight = Linear4bitWeight::quantize(weight.val(), &format.options, format.compute);
    let weight = weight.map_err(|e| unpackable(path, e))?;
    let bytes = weight.storage_bytes();
    projection.base = Base::Packed(weight);
    Ok(bytes)
}

/// Makes floats of every packed projection, so that the model can be written as floats.
#[must_use]
pub fn dequantize<M: VisitProjections>(mut model: M) -> M {
    model.visit_projections_mut(&mut |_, projection| {
        if let Base::Packed(weight) = &projection.base {
            let weight: Param<Tensor<2>> = Param::from_tensor(weight.dequantize());
            projection.base = Base::Dense(weight.set_require_grad(false));
        }
    });
    model
}

fn unpackable(path: &str, message: impl fmt::Display) -> ModelError {
    ModelError::Tensor { name: format!("{path}.weight"), message: message.to_string() }
}

/// Packs weights while a model is built (`mode: hf`): the same bytes as [`apply_quantization`] on the finished model,
/// without ever holding the model as floats.
#[derive(Debug)]
pub struct Packer {
    format: Format,
    skip: Skip,
    report: RefCell<QuantizationReport>,
    failed: RefCell<Option<ModelError>>,
}

impl Packer {
    /// Reads a configuration for a model with these spellings of its paths ([`VisitProjections::module_paths`]).
    ///
    /// # Errors
    /// As [`Format::new`], or a skip entry that cannot be understood.
    pub fn new(config: &QuantizationConfig, paths: ModulePaths) -> Result<Self, ModelError> {
        Ok(Self {
            format: Format::new(config)?,
            skip: Skip::new(config, paths)?,
            report: RefCell::default(),
            failed: RefCell::default(),
        })
    }

    /// Whether the projection at this path is packed; one that is not is noted as skipped.
    pub fn packs(&self, path: &str) -> bool {
        let skipped = self.skip.skips(path);
        if skipped {
            self.report.borrow_mut().skipped.push(path.to_owned());
        }
        !skipped
    }

    /// Packs a weight. A failure is kept for [`Packer::finish`], and the weight left as it is.
    pub fn pack(&self, path: &str, values: Vec<f32>, shape: [usize; 2], device: &Device) -> Base {
        match self.format.pack(path, &values, shape, device) {
            Ok(weight) => {
                let [before, after] = [4 * values.len(), weight.storage_bytes()];
                self.report.borrow_mut().layers.push(QuantizedLayer { path: path.to_owned(), shape, before, after });
                Base::Packed(weight)
            }
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                Base::Dense(Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device)))
            }
        }
    }

    /// What was packed.
    ///
    /// # Errors
    /// The first weight that could not be packed, or nothing was packed.
    pub fn finish(self) -> Result<QuantizationReport, ModelError> {
        if let Some(error) = self.failed.into_inner() {
            return Err(error);
        }
        let mut report = self.report.into_inner();
        report.notes = self.skip.notes(&report.skipped);
        if report.layers.is_empty() {
            Err(nothing_left(report.skipped.len(), report.skipped.len()))
        } else {
            Ok(report)
        }
    }
}

fn nothing_left(linears: usize, skipped: usize) -> ModelError {
    let message = match linears {
        0 => "the model has no linear layers to quantize".to_owned(),
        _ => format!("none of the {linears} linear layers is left to quantize: {skipped} skipped"),
    };
    ModelError::key("quantization", message)
}

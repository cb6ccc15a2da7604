//! Stores the projections of a model in 4 bits, with the rules of bitsandbytes.

use std::fmt;

use burn::module::Module;
use tracknet_kernels::fourbit::BLOCKSIZES;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, PackedWeight, QuantType, QuantizeOptions};

use crate::config::QuantizationConfig;
use crate::models::ModelError;
use crate::models::projection::{Base, Projection, VisitProjections};

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

    /// A table of module, in, out, bytes before and after.
    pub fn table(&self) -> String {
        let width = self.layers.iter().map(|l| l.path.len()).max().unwrap_or_default().max("module".len());
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
        let options =
            QuantizeOptions { quant_type, blocksize: config.blocksize, double_quant: config.compress_statistics };
        Ok(Self { options, compute })
    }

    /// Bytes of codes and scales for this many values.
    fn bytes(&self, count: usize) -> usize {
        let blocks = count.div_ceil(self.options.blocksize);
        let scales = if self.options.double_quant { blocks + 4 * blocks.div_ceil(256) + 4 } else { 4 * blocks };
        count.div_ceil(2) + scales
    }
}

/// Lists what [`apply_quantization`] would do; nothing is changed.
///
/// # Errors
/// A value of `config` that cannot work, or a model without linear layers to quantize.
pub fn plan_quantization<M: VisitProjections>(
    model: &M,
    config: &QuantizationConfig,
) -> Result<QuantizationReport, ModelError> {
    let format = Format::new(config)?;
    let skip = config.skip_modules.clone().unwrap_or_default();
    let mut report = QuantizationReport::default();
    let mut used = vec![false; skip.len()];
    let mut seen = 0;
    model.visit_projections(&mut |path, projection| {
        seen += 1;
        let matching: Vec<usize> = (0..skip.len()).filter(|i| path.contains(skip[*i].as_str())).collect();
        matching.iter().for_each(|i| used[*i] = true);
        if !matching.is_empty() {
            report.skipped.push(path.to_owned());
        } else if !projection.is_quantized() {
            let shape = projection.shape();
            let count = shape[0] * shape[1];
            let layer = QuantizedLayer { path: path.to_owned(), shape, before: 4 * count, after: format.bytes(count) };
            report.layers.push(layer);
        }
    });
    let unused = skip.iter().zip(&used).filter(|(_, used)| !**used);
    report.notes.extend(unused.map(|(entry, _)| format!("quantization.skip_modules: `{entry}` matches nothing")));
    if report.layers.is_empty() {
        let message = match seen {
            0 => "the model has no linear layers to quantize".to_owned(),
            _ => format!("none of the {seen} linear layers is left to quantize: {} skipped", report.skipped.len()),
        };
        return Err(ModelError::key("quantization", message));
    }
    Ok(report)
}

/// Replaces every dense projection that `config.skip_modules` does not name by its 4-bit form, one at a time, so that
/// the peak is the model and one packed weight.
///
/// # Errors
/// As [`plan_quantization`]; or a weight that is not finite, by name.
pub fn apply_quantization<M: Module + VisitProjections>(
    mut model: M,
    config: &QuantizationConfig,
) -> Result<(M, QuantizationReport), ModelError> {
    let format = Format::new(config)?;
    let mut report = plan_quantization(&model, config)?;
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
    let named = |message: String| ModelError::Tensor { name: format!("{path}.weight"), message };
    let device = weight.lazy_device();
    let values = weight.val().into_data().try_to_vec::<f32>().map_err(|e| named(format!("{e:?}")))?;
    let packed =
        PackedWeight::quantize(&values, projection.shape(), &format.options).map_err(|e| named(e.to_string()))?;
    let weight = Linear4bitWeight::from_packed(&packed, format.compute, &device).map_err(|e| named(e.to_string()))?;
    let bytes = weight.storage_bytes();
    projection.base = Base::Packed(weight);
    Ok(bytes)
}

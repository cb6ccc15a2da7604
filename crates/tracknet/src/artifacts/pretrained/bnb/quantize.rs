//! A float checkpoint → a 4-bit checkpoint that `transformers` loads.
//!
//! Every weight is read, packed and dropped before the next; the packed weights are kept until the file is written, since
//! its header comes first and tells the length of every state. The peak is the 4-bit model and one float tensor.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value};
use tracknet_kernels::{ComputeDtype, PackedWeight, QuantizeOptions};

use crate::artifacts::pretrained::foreign::is_there;
use crate::artifacts::pretrained::preprocessing::{PREPROCESSOR_FILE, PROCESSOR_FILE};
use crate::artifacts::pretrained::save::{HEAD_FILE, write_config};
use crate::artifacts::pretrained::stream::{Planned, write_stream};
use crate::artifacts::pretrained::{Checkpoint, Weights};
use crate::error::{IoContext, Result};
use crate::files::{Destination, read, read_bytes};
use crate::models::ModelError;
use crate::models::backbones::{ModulePaths, is_head};
use crate::models::quantization::{QuantizationReport, QuantizedLayer, SkipRules};
use crate::models::registry::{describe_backbone, family_of, model_types};

use super::config::BnbConfig;
use super::quant_state::QuantState;
use super::skip::written_list;
use super::write::parts;

/// Files that belong to a checkpoint and are carried along as they are.
const CARRIED: [&str; 3] = [PREPROCESSOR_FILE, PROCESSOR_FILE, HEAD_FILE];

/// How to quantize a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizeJob {
    /// Code, block size and double quantization.
    pub options: QuantizeOptions,
    /// What programs that load the checkpoint round dequantized weights to.
    pub compute_dtype: ComputeDtype,
    /// Layers to leave as floats, by the rule of `transformers` ([`SkipRules`]).
    pub skip_modules: Vec<String>,
}

/// Reads the float checkpoint at `source` and writes its 4-bit form to `destination`, which must not exist.
///
/// Every linear layer of the backbone is packed, as `transformers` does it: those of the blocks, and the pooler of a ViT.
/// A classification head is left as floats and named in `llm_int8_skip_modules`. Gate and up of DINOv2's SwiGLU, which a
/// float file has stacked, are two layers in memory: each is packed by itself and written under its name there.
///
/// # Errors
/// No float checkpoint of a known family, an entry of the skip list that cannot be understood, a weight that is not
/// finite (by name), nothing left to quantize, or the destination cannot be written.
pub fn quantize_checkpoint(source: &Path, destination: &Destination, job: &QuantizeJob) -> Result<QuantizationReport> {
    destination.check()?;
    let checkpoint = Checkpoint::open(source)?;
    let config = source.join("config.json");
    if BnbConfig::from_config(&checkpoint.config, &config.display().to_string())?.is_some() {
        return Err(ModelError::file(source, "is a 4-bit checkpoint already; dequantize it first").into());
    }
    let paths = family(&checkpoint.config, &config)?;
    let plan = Plan::new(&checkpoint.weights, paths, job, source)?;
    let skipped = plan.skipped.iter().map(|linear| linear.path.clone()).collect();
    let notes = checkpoint.notes.iter().cloned().chain(plan.notes).collect();
    let mut report = QuantizationReport { notes, skipped, ..Default::default() };
    let mut packed = Vec::new();
    for linear in plan.packed {
        let (path, shape) = (linear.path.clone(), linear.shape);
        let stored = checkpoint.weights.dtype(&linear.source).map_or(0, |dtype| dtype.bitsize() / 8);
        let layer = Packed::new(&checkpoint.weights, linear, &job.options)
            .map_err(|error| error.in_file(checkpoint.weights.path()))?;
        let [before, after] = [shape[0] * shape[1] * stored, layer.weight.storage_bytes()];
        report.layers.push(QuantizedLayer { path, shape, before, after });
        packed.push(layer);
    }
    let bnb = BnbConfig {
        quant_type: job.options.quant_type,
        compute_dtype: job.compute_dtype,
        double_quant: job.options.double_quant,
        skip_modules: plan.written_skip,
    };
    destination.write(|dir| {
        write_weights(&dir.join("model.safetensors"), &checkpoint.weights, packed, &plan.skipped)?;
        let mut config = checkpoint.config.clone();
        config.insert("quantization_config".to_owned(), bnb.to_json());
        write_config(&dir.join("config.json"), config)?;
        carry(source, dir)
    })?;
    Ok(report)
}

/// Copies what belongs to the checkpoint besides its weights.
pub(super) fn carry(source: &Path, destination: &Path) -> Result<()> {
    for name in CARRIED {
        let (from, to) = (source.join(name), destination.join(name));
        if is_there(&from)? {
            // Not `fs::copy`, which copies a write protection, too.
            fs::write(&to, read_bytes(&from, read::TENSORS)?).at(&to)?;
        }
    }
    Ok(())
}

/// How the paths of the model are spelled.
///
/// # Errors
/// A family of which it is not known that its two-dimensional weights are its linear layers.
fn family(config: &Map<String, Value>, path: &Path) -> Result<ModulePaths, ModelError> {
    let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
    match family_of(config) {
        Some(family) => {
            describe_backbone(config, &path.display().to_string())?;
            Ok(ModulePaths::Of(family))
        }
        None => {
            let key = format!("{}: model_type", path.display());
            let message =
                format!("is `{model_type}`; which of its tensors are linear layers is known for {}", model_types());
            Err(ModelError::key(key, message))
        }
    }
}

/// A linear layer of the source.
struct Linear {
    /// The path that its 4-bit weight is written under: that of the file, or of one half of what is stacked there.
    path: String,
    shape: [usize; 2],
    /// The tensor that holds its weight, and in which rows.
    source: String,
    rows: Range<usize>,
}

impl Linear {
    fn weight(&self) -> String {
        format!("{}.weight", self.path)
    }

    /// The linear layers whose weight the tensor `name` holds: one, two that are stacked, or none. In the known families
    /// every other weight has one dimension (norms), three (tokens) or four (convolutions).
    fn of(weights: &Weights, name: &str, paths: ModulePaths) -> Vec<Self> {
        let (Some(&[output, input]), Some(path)) = (weights.shape(name), name.strip_suffix(".weight")) else {
            return Vec::new();
        };
        let part =
            |path: String, rows: Range<usize>| Self { path, shape: [rows.len(), input], source: name.to_owned(), rows };
        match paths.halves(path) {
            Some([gate, up]) if output.is_multiple_of(2) => {
                vec![part(gate, 0..output / 2), part(up, output / 2..output)]
            }
            _ => vec![part(path.to_owned(), 0..output)],
        }
    }
}

/// A layer, packed.
struct Packed {
    linear: Linear,
    state: QuantState,
    weight: PackedWeight,
}

impl Packed {
    fn new(weights: &Weights, linear: Linear, options: &QuantizeOptions) -> Result<Self> {
        let problem = |name: &str, message: String| ModelError::Tensor { name: name.to_owned(), message };
        let dtype = match weights.dtype(&linear.source) {
            Some(Dtype::F32) => ComputeDtype::F32,
            Some(Dtype::F16) => ComputeDtype::F16,
            Some(Dtype::BF16) => ComputeDtype::Bf16,
            Some(other) => {
                return Err(problem(&linear.source, format!("is {other:?}, expected F32, F16 or BF16")).into());
            }
            None => return Err(problem(&linear.source, "is missing".to_owned()).into()),
        };
        let values = weights.read_rows(&linear.source, linear.rows.clone())?;
        let weight = PackedWeight::quantize(&values, linear.shape, options)
            .map_err(|e| problem(&linear.weight(), e.to_string()))?;
        Ok(Self { linear, state: QuantState::of(&weight, dtype), weight })
    }
}

/// Which tensors are packed, found before any is read.
struct Plan {
    packed: Vec<Linear>,
    skipped: Vec<Linear>,
    written_skip: Option<Vec<String>>,
    notes: Vec<String>,
}

impl Plan {
    fn new(weights: &Weights, paths: ModulePaths, job: &QuantizeJob, source: &Path) -> Result<Self, ModelError> {
        let rules = SkipRules::new(&job.skip_modules, "skip")?;
        let linears = weights.names().flat_map(|name| Linear::of(weights, name, paths));
        let prefixed = paths.family().is_some_and(|family| family.is_prefixed(|name| weights.shape(name).is_some()));
        let beside =
            |path: &str| paths.family().map_or_else(|| is_head(path), |family| family.is_beside(path, prefixed));
        let (heads, linears): (Vec<_>, Vec<_>) = linears.partition(|linear| beside(&linear.path));
        let bare: Vec<String> = linears.iter().map(|linear| paths.from_any(&linear.path)).collect();
        let layers: Vec<&str> = bare.iter().map(String::as_str).collect();
        let count = linears.len();
        let (skipped, packed): (Vec<_>, Vec<_>) =
            linears.into_iter().zip(&layers).partition(|(_, path)| rules.skips(path, paths));
        if packed.is_empty() {
            let message = match count {
                0 => "holds no linear layers to quantize".to_owned(),
                n => format!("none of its {n} linear layers is left to quantize: all are skipped"),
            };
            return Err(ModelError::file(source, message));
        }
        let unused = rules.unused(&layers, paths);
        let notes = unused.iter().map(|entry| format!("skip: `{entry}` matches nothing")).collect();
        let skipped: Vec<Linear> = skipped.into_iter().map(|(linear, _)| linear).collect();
        let mut written = written_list(&skipped.iter().map(|linear| linear.path.as_str()).collect::<Vec<_>>(), paths);
        written.extend(heads.iter().map(|linear| linear.path.clone()));
        let skipped = skipped.into_iter().chain(heads).collect();
        let pooler = paths.family().is_some_and(|family| family.has_pooler());
        let pooler_packed = pooler && packed.iter().any(|(_, path)| **path == "pooler.dense");
        // Without a list, releases before 5 expect the pooler of a ViT as floats, later ones in 4 bits: an empty list
        // says the same to all.
        let written_skip = (!written.is_empty() || pooler_packed).then_some(written);
        let packed = packed.into_iter().map(|(linear, _)| linear).collect();
        Ok(Self { packed, skipped, written_skip, notes })
    }
}

/// Writes the packed weights, and copies every other tensor as it is.
fn write_weights(path: &Path, weights: &Weights, packed: Vec<Packed>, skipped: &[Linear]) -> Result<()> {
    let mut tensors = Vec::new();
    let mut taken = BTreeSet::new();
    for Packed { linear, state, weight } in packed {
        tensors.extend(parts(&linear.weight(), state, weight, path));
        taken.insert(linear.source);
    }
    for name in weights.names().filter(|name| !taken.contains(*name)) {
        let (Some(dtype), Some(shape)) = (weights.dtype(name), weights.shape(name)) else { continue };
        let write = Box::new(move |out: &mut dyn Write| weights.copy(name, out, path));
        tensors.push(Planned { name: name.to_owned(), dtype, shape: shape.to_vec(), write });
    }
    // A half whose other half is packed.
    for linear in skipped.iter().filter(|linear| taken.contains(&linear.source)) {
        let Some(dtype) = weights.dtype(&linear.source) else { continue };
        let write =
            Box::new(move |out: &mut dyn Write| weights.copy_rows(&linear.source, linear.rows.clone(), out, path));
        tensors.push(Planned { name: linear.weight(), dtype, shape: linear.shape.to_vec(), write });
    }
    write_stream(path, tensors)
}

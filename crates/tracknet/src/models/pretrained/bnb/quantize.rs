//! A float checkpoint → a 4-bit checkpoint that `transformers` loads.
//!
//! Every weight is read, packed and dropped before the next; the packed weights are kept until the file is written, since
//! its header comes first and tells the length of every state. The peak is the 4-bit model and one float tensor.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use safetensors::Dtype;
use serde_json::{Map, Value};
use tracknet_kernels::fourbit::dynamic_map;
use tracknet_kernels::{Absmax, ComputeDtype, PackedWeight, QuantizeOptions};

use crate::error::{IoContext, Result};
use crate::files::write_dir_atomic;
use crate::models::ModelError;
use crate::models::backbones::MODEL_TYPES;
use crate::models::lora::quantization::{QuantizationReport, QuantizedLayer};
use crate::models::pretrained::save::{HEAD_FILE, StoredAs, write_config};
use crate::models::pretrained::stream::{Planned, write_stream, write_values};
use crate::models::pretrained::{Checkpoint, Weights};

use super::config::BnbConfig;
use super::quant_state::QuantState;
use super::read::state_name;
use super::skip::SkipRules;

/// Files that belong to a checkpoint and are carried along as they are.
pub(super) const CARRIED: [&str; 2] = ["preprocessor_config.json", HEAD_FILE];

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
/// A classification head is left as floats and named in `llm_int8_skip_modules`.
///
/// # Errors
/// No float checkpoint of a known family, an entry of the skip list that cannot be understood, a weight that is not
/// finite (by name), nothing left to quantize, or the destination cannot be written.
pub fn quantize_checkpoint(source: &Path, destination: &Path, job: &QuantizeJob) -> Result<QuantizationReport> {
    refuse_existing(destination)?;
    let checkpoint = Checkpoint::open(source)?;
    let config = source.join("config.json");
    if BnbConfig::from_config(&checkpoint.config, &config.display().to_string())?.is_some() {
        return Err(ModelError::file(source, "is a 4-bit checkpoint already; dequantize it first").into());
    }
    let family = Family::of(&checkpoint.config, &config)?;
    let plan = Plan::new(&checkpoint.weights, family, job, source)?;
    let mut report =
        QuantizationReport { notes: plan.notes.clone(), skipped: plan.skipped.clone(), ..Default::default() };
    let mut packed = BTreeMap::new();
    for (name, shape, dtype) in &plan.packed {
        let weight = pack(&checkpoint.weights, name, *shape, &job.options)?;
        let path = name.strip_suffix(".weight").unwrap_or(name).to_owned();
        let before = checkpoint.weights.length(name).unwrap_or_default();
        report.layers.push(QuantizedLayer { path, shape: *shape, before, after: weight.storage_bytes() });
        packed.insert(name.as_str(), (QuantState::of(&weight, *dtype), weight));
    }
    let bnb = BnbConfig {
        quant_type: job.options.quant_type,
        compute_dtype: job.compute_dtype,
        double_quant: job.options.double_quant,
        skip_modules: plan.written_skip,
    };
    write_dir_atomic(destination, |dir| {
        write_weights(&dir.join("model.safetensors"), &checkpoint.weights, packed)?;
        let mut config = checkpoint.config.clone();
        config.insert("quantization_config".to_owned(), bnb.to_json());
        write_config(&dir.join("config.json"), config)?;
        carry(source, dir)
    })?;
    Ok(report)
}

/// A directory that is there is never replaced.
pub(super) fn refuse_existing(destination: &Path) -> Result<(), ModelError> {
    if fs::symlink_metadata(destination).is_ok() {
        return Err(ModelError::file(destination, "exists already; choose another directory or remove it"));
    }
    Ok(())
}

/// Copies what belongs to the checkpoint besides its weights.
pub(super) fn carry(source: &Path, destination: &Path) -> Result<()> {
    for file in
        CARRIED.map(|name| (source.join(name), destination.join(name))).iter().filter(|(from, _)| from.is_file())
    {
        fs::copy(&file.0, &file.1).at(&file.0)?;
    }
    Ok(())
}

/// What is particular to a family of checkpoints here.
#[derive(Debug, Clone, Copy)]
struct Family {
    /// What some releases put before the paths in memory.
    prefix: &'static str,
    /// Whether the model has a linear pooler, the one layer about whose default the releases of `transformers` differ.
    pooler: bool,
}

impl Family {
    /// Families whose two-dimensional weights are their linear layers.
    fn of(config: &Map<String, Value>, path: &Path) -> Result<Self, ModelError> {
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let known = MODEL_TYPES.contains(&model_type) || model_type == "dinov3_convnext";
        if !known {
            let key = format!("{}: model_type", path.display());
            let message = format!(
                "is `{model_type}`; which of its tensors are linear layers is known for {}, dinov3_convnext",
                MODEL_TYPES.join(", ")
            );
            return Err(ModelError::key(key, message));
        }
        let prefix = if model_type == "dinov3_vit" { "model." } else { "" };
        Ok(Self { prefix, pooler: model_type == "vit" })
    }
}

/// Which tensors are packed, found before any is read.
struct Plan {
    /// Name, shape and type.
    packed: Vec<(String, [usize; 2], ComputeDtype)>,
    skipped: Vec<String>,
    written_skip: Option<Vec<String>>,
    notes: Vec<String>,
}

impl Plan {
    fn new(weights: &Weights, family: Family, job: &QuantizeJob, source: &Path) -> Result<Self, ModelError> {
        let rules = SkipRules::new(&job.skip_modules, "skip")?;
        let linears: Vec<(&str, [usize; 2])> = weights.names().filter_map(|n| linear(weights, n)).collect();
        let (heads, linears): (Vec<_>, Vec<_>) = linears.into_iter().partition(|(path, _)| is_head(path));
        let paths: Vec<&str> = linears.iter().map(|(path, _)| in_memory(path, family)).collect();
        let mut plan = Self { packed: Vec::new(), skipped: Vec::new(), written_skip: None, notes: Vec::new() };
        let mut pooler_packed = false;
        for (path, shape) in &linears {
            if rules.skips(in_memory(path, family), family.prefix) {
                plan.skipped.push((*path).to_owned());
                continue;
            }
            let name = format!("{path}.weight");
            let dtype = float(weights.dtype(&name)).ok_or_else(|| {
                let message = format!("is {:?}, expected F32, F16 or BF16", weights.dtype(&name));
                ModelError::Tensor { name: name.clone(), message }
            })?;
            pooler_packed |= family.pooler && path.ends_with("pooler.dense");
            plan.packed.push((name, *shape, dtype));
        }
        if plan.packed.is_empty() {
            let message = match linears.len() {
                0 => "holds no linear layers to quantize".to_owned(),
                n => format!("none of its {n} linear layers is left to quantize: all are skipped"),
            };
            return Err(ModelError::file(source, message));
        }
        let unused = rules.unused(&paths, family.prefix);
        plan.notes.extend(unused.iter().map(|entry| format!("skip: `{entry}` matches nothing")));
        let mut written = rules.to_write(&paths, family.prefix);
        written.extend(heads.iter().map(|(path, _)| (*path).to_owned()));
        plan.skipped.extend(heads.iter().map(|(path, _)| (*path).to_owned()));
        // Without a list, releases before 5 expect the pooler of a ViT as floats, later ones in 4 bits: an empty list
        // says the same to all.
        plan.written_skip = (!written.is_empty() || pooler_packed).then_some(written);
        Ok(plan)
    }
}

/// The path of the linear layer whose weight `name` is. In the known families every other weight has one dimension (norms),
/// three (tokens) or four (convolutions).
fn linear<'a>(weights: &Weights, name: &'a str) -> Option<(&'a str, [usize; 2])> {
    let &[output, input] = weights.shape(name)? else { return None };
    name.strip_suffix(".weight").map(|path| (path, [output, input]))
}

/// Heads are no part of a backbone.
fn is_head(path: &str) -> bool {
    ["classifier", "lm_head", "decoder"].iter().any(|head| path == *head || path.starts_with(&format!("{head}.")))
}

/// The path below the backbone, without what the file may put before it.
fn in_memory(path: &str, family: Family) -> &str {
    let prefixes = ["vit.", "dinov2.", "dinov2_with_registers.", family.prefix];
    prefixes.into_iter().filter(|p| !p.is_empty()).find_map(|p| path.strip_prefix(p)).unwrap_or(path)
}

fn float(dtype: Option<Dtype>) -> Option<ComputeDtype> {
    match dtype? {
        Dtype::F32 => Some(ComputeDtype::F32),
        Dtype::F16 => Some(ComputeDtype::F16),
        Dtype::BF16 => Some(ComputeDtype::Bf16),
        _ => None,
    }
}

fn pack(weights: &Weights, name: &str, shape: [usize; 2], options: &QuantizeOptions) -> Result<PackedWeight> {
    let values = weights.read(name)?;
    PackedWeight::quantize(&values, shape, options)
        .map_err(|e| ModelError::Tensor { name: name.to_owned(), message: e.to_string() }.into())
}

/// Writes the packed weights, and copies every other tensor as it is.
fn write_weights(path: &Path, weights: &Weights, mut packed: BTreeMap<&str, (QuantState, PackedWeight)>) -> Result<()> {
    let mut tensors = Vec::new();
    for name in weights.names() {
        if let Some((state, weight)) = packed.remove(name) {
            tensors.extend(parts(name, state, weight, path));
            continue;
        }
        let (Some(dtype), Some(shape)) = (weights.dtype(name), weights.shape(name)) else { continue };
        let write = Box::new(move |out: &mut dyn Write| weights.copy(name, out, path));
        tensors.push(Planned { name: name.to_owned(), dtype, shape: shape.to_vec(), write });
    }
    write_stream(path, tensors)
}

/// The tensors of one packed weight.
fn parts<'a>(name: &str, state: QuantState, weight: PackedWeight, path: &'a Path) -> Vec<Planned<'a>> {
    let bytes = |name: String, shape: Vec<usize>, bytes: Vec<u8>| {
        let write = Box::new(move |out: &mut dyn Write| out.write_all(&bytes).at(path));
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

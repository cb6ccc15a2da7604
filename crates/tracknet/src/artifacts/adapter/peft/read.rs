//! An adapter directory as tensors by module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::TensorData;

use crate::artifacts::adapter::peft_config::PeftConfig;
use crate::artifacts::pretrained::save::{StoredAs, read_all, write_tensors};
use crate::console::listing;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::backbones::{ModulePaths, halve_rows};

use super::parts::Parts;
use super::{ENDS, NAMES_SHOWN, PICKLE_FILE, PREFIX, WEIGHTS_FILE};

const PICKLED: &str = "holds adapter_model.bin, a pickle, which is not read; convert it once in Python: \
                       `safetensors.torch.save_file(torch.load(\"adapter_model.bin\", weights_only=True), \
                       \"adapter_model.safetensors\")`";

/// An adapter directory, read.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    /// Its configuration.
    pub config: PeftConfig,
    pub(in crate::artifacts::adapter) path: PathBuf,
    /// How the paths of its modules are spelled.
    pub(in crate::artifacts::adapter) paths: ModulePaths,
    /// The tensors of each adapted module, by its path below the backbone.
    pub(in crate::artifacts::adapter) modules: BTreeMap<String, Parts>,
    /// Parameters that replace those of the base.
    pub(in crate::artifacts::adapter) parameters: BTreeMap<String, TensorData>,
}

impl AdapterFile {
    /// Reads the directory of an adapter for a model with these paths ([`VisitLayers::module_paths`](crate::models::VisitLayers::module_paths)), which are
    /// accepted in any spelling.
    ///
    /// # Errors
    /// A file that is missing, damaged or something else, an option that is not supported, a value that is not finite, or
    /// one error that lists every module that is named twice or lacks a matrix.
    pub fn read(dir: &Path, paths: ModulePaths) -> Result<Self> {
        let config = PeftConfig::read(dir)?;
        let path = dir.join(WEIGHTS_FILE);
        if !path.is_file() && dir.join(PICKLE_FILE).is_file() {
            return Err(ModelError::file(dir, PICKLED).into());
        }
        let mut file = Self { config, path, paths, modules: BTreeMap::new(), parameters: BTreeMap::new() };
        let mut problems = Vec::new();
        let tensors = read_all(&file.path)?;
        if !tensors.keys().any(|name| name.contains(".lora_A.")) {
            let message = "no tensor is called ….lora_A.weight: this is no LoRA adapter";
            return Err(ModelError::file(file.path, message).into());
        }
        let tensors = without_adapter_name(tensors).map_err(|message| ModelError::file(&file.path, message))?;
        for (name, data) in tensors.into_iter().filter(|(name, _)| !is_wrapper(name)) {
            let path = paths.from_any(name.strip_prefix(PREFIX).unwrap_or(&name));
            // In memory the lengths are the weight of a module of their own.
            let path =
                path.strip_suffix(".weight").filter(|path| path.ends_with(ENDS[2])).map_or(path.clone(), str::to_owned);
            if !file.is_part(&path) {
                problems.push(format!("{name}: is no part of a LoRA adapter, no bias, and not in modules_to_save"));
                continue;
            }
            match file.split(path, data) {
                Err(message) => problems.push(format!("{name}: {message}")),
                Ok(tensors) => {
                    for (path, data) in tensors {
                        if !file.put(&path, data) {
                            problems.push(format!("{name}: is there twice, by two spellings of its path"));
                        }
                    }
                }
            }
        }
        problems.extend(file.gaps());
        if problems.is_empty() { Ok(file) } else { Err(ModelError::Tensors { path: file.path, problems }.into()) }
    }

    fn is_part(&self, path: &str) -> bool {
        ENDS.iter().chain(&[".bias"]).any(|end| path.ends_with(end)) || self.config.saves(path, self.paths)
    }

    /// The tensors of both halves, where this one belongs to a linear layer that files have stacked: an adapter of it is
    /// one of each half, with the same first matrix.
    fn split(&self, path: String, data: TensorData) -> Result<Vec<(String, TensorData)>, String> {
        let Some(halves) = self.paths.halves(&path) else { return Ok(vec![(path, data)]) };
        let rows = if path.ends_with(ENDS[0]) { Some([data.clone(), data.clone()]) } else { halve_rows(&data) };
        let rows =
            rows.ok_or_else(|| format!("has shape {:?}, expected an even number of rows", data.shape().to_vec()))?;
        Ok(halves.into_iter().zip(rows).collect())
    }

    /// Sorts a tensor in; `false` when its place is taken.
    fn put(&mut self, path: &str, data: TensorData) -> bool {
        let slot = |parts: &mut Option<TensorData>| parts.replace(data.clone()).is_none();
        let [a, b, magnitude] = ENDS.map(|end| path.strip_suffix(end));
        if let Some(module) = a {
            slot(&mut self.modules.entry(module.to_owned()).or_default().a)
        } else if let Some(module) = b {
            slot(&mut self.modules.entry(module.to_owned()).or_default().b)
        } else if let Some(module) = magnitude {
            slot(&mut self.modules.entry(module.to_owned()).or_default().magnitude)
        } else {
            self.parameters.insert(path.replace(".base_layer.", "."), data).is_none()
        }
    }

    /// What is missing, or there without a meaning.
    fn gaps(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let use_dora = self.config.lora.use_dora;
        for (path, parts) in &self.modules {
            if parts.a.is_none() || parts.b.is_none() {
                problems.push(format!("{path}: needs both lora_A.weight and lora_B.weight"));
            }
            if parts.magnitude.is_some() != use_dora {
                let found = if parts.magnitude.is_some() { "has a" } else { "has no" };
                problems.push(format!("{path}: {found} lora_magnitude_vector, but use_dora is {use_dora}"));
            }
        }
        problems
    }

    /// The file of its tensors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Paths of the adapted modules, sorted.
    pub fn module_paths(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// Writes the directory: what was read, where nothing was changed.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let tensors = named(&self.modules, &self.parameters, self.paths);
        write_tensors(&dir.join(WEIGHTS_FILE), tensors, StoredAs::F32)?;
        self.config.write(dir)
    }
}

/// The tensors by the names that PEFT saves, where they are those in memory: with the name of the adapter in them.
fn without_adapter_name(tensors: BTreeMap<String, TensorData>) -> Result<BTreeMap<String, TensorData>, String> {
    let found: BTreeSet<String> = tensors.keys().filter_map(|name| Some(adapter_name(name)?.1.to_owned())).collect();
    let mut found = found.into_iter();
    let Some(adapter) = found.next() else { return Ok(tensors) };
    let others: Vec<String> = found.collect();
    if !others.is_empty() {
        let names = listing(std::iter::once(&adapter).chain(&others), NAMES_SHOWN);
        return Err(format!("holds several adapters ({names}); save one of them with PEFT's selected_adapters"));
    }
    let saved = format!(".modules_to_save.{adapter}.");
    let rename = |(name, data): (String, TensorData)| match adapter_name(&name) {
        Some((end, _)) => (name[..name.find(end).unwrap_or(name.len())].to_owned() + end_of(end), data),
        None => (name.replace(&saved, "."), data),
    };
    Ok(tensors.into_iter().map(rename).collect())
}

/// The part of an adapter that a tensor's name says, and the name of the adapter in it, if there is one.
fn adapter_name(name: &str) -> Option<(&'static str, &str)> {
    let part = |part: &'static str| Some((part, name.split_once(part)?.1.strip_prefix('.')?));
    let (part, tail) = [".lora_A", ".lora_B", ".lora_magnitude_vector"].into_iter().find_map(part)?;
    let adapter = match part {
        ".lora_magnitude_vector" => tail.strip_suffix(".weight").unwrap_or(tail),
        _ => tail.strip_suffix(".weight")?,
    };
    (adapter != "weight").then_some((part, adapter))
}

fn end_of(part: &str) -> &'static str {
    ENDS.into_iter().find(|end| end.starts_with(part)).unwrap_or_default()
}

/// Parts of the module that PEFT wraps around one of `modules_to_save`. With `bias: all` its biases are in the file by these
/// names, too, beside the ones that count.
fn is_wrapper(name: &str) -> bool {
    [".original_module.", ".modules_to_save."].iter().any(|part| name.contains(part))
}

/// Tensors by their names in a directory.
pub(super) fn named(
    modules: &BTreeMap<String, Parts>,
    parameters: &BTreeMap<String, TensorData>,
    paths: ModulePaths,
) -> BTreeMap<String, TensorData> {
    let name = |path: &str| format!("{PREFIX}{}", paths.in_memory(path));
    let mut tensors = BTreeMap::new();
    for (path, parts) in modules {
        tensors.extend(parts.named().map(|(end, data)| (name(path) + end, data.clone())));
    }
    for (path, data) in parameters {
        let adapted = path.strip_suffix(".bias").filter(|module| modules.contains_key(*module));
        let name = adapted.map_or_else(|| name(path), |module| format!("{}.base_layer.bias", name(module)));
        tensors.insert(name, data.clone());
    }
    tensors
}

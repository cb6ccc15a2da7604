//! Adapter directories as Hugging Face PEFT writes and reads them: `adapter_config.json` and
//! `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Device, TensorData};

use crate::config::InitMethod;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::backbones::{ModulePaths, halve_rows};
use crate::models::pretrained::carried::Carried;
use crate::models::pretrained::save::{StoredAs, read_all, write_tensors};
use crate::models::projection::{Projection, VisitProjections};
use crate::models::state::{Group, NamedModule, Require, load_state, named_parameters, state_dict};

use super::adapter::{LoraAdapter, Scaling};
use super::first::FromWeights;
use super::peft_config::PeftConfig;
use super::peft_names::for_peft;
use super::quantization::Format;
use super::ranks::Ranks;
use super::wrapper::{AdaptedModule, LoraReport, freeze_base};

/// The tensors of an adapter directory.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

pub(super) const PREFIX: &str = "base_model.model.";

/// How the names of the parts of an adapted module end.
const ENDS: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"];

/// Writes the adapters of a model's backbone, and the biases and whole modules that train with them, in names that PEFT
/// finds in the memory of `transformers` 5.
///
/// # Errors
/// The model has no adapters, or the directory cannot be written.
pub fn write_adapter<M: NamedModule + VisitProjections>(dir: &Path, model: &M, config: &PeftConfig) -> Result<()> {
    let mut adapted = BTreeSet::new();
    model.visit_projections(&mut |path, projection| {
        adapted.extend(projection.adapter.as_ref().map(|_| path.to_owned()))
    });
    if adapted.is_empty() {
        return Err(ModelError::file(dir, "the model has no adapters to write").into());
    }
    adapted.extend(config.carried_paths().filter_map(|path| path.strip_suffix(ENDS[0])).map(str::to_owned));
    write_tensors(&dir.join(WEIGHTS_FILE), adapter_tensors(model, config), StoredAs::F32)?;
    for_peft(config, model, &adapted)?.write(dir)
}

/// Every tensor of an adapter directory by its name there.
pub(crate) fn adapter_tensors<M: NamedModule + VisitProjections>(
    model: &M,
    config: &PeftConfig,
) -> BTreeMap<String, TensorData> {
    let (naming, paths) = (model.naming(), model.module_paths());
    let mut tensors = BTreeMap::new();
    let mut biases = Vec::new();
    model.visit_projections(&mut |path, projection| {
        let Some(adapter) = &projection.adapter else { return };
        let key = format!("{PREFIX}{}", paths.in_memory(path));
        tensors.insert(format!("{key}.lora_A.weight"), adapter.a.val().into_data());
        tensors.insert(format!("{key}.lora_B.weight"), adapter.b.val().into_data());
        if let Some(dora) = &adapter.dora {
            tensors.insert(format!("{key}.lora_magnitude_vector"), dora.magnitude.val().into_data());
        }
        if let Some(bias) = &projection.bias {
            biases.push(format!("{path}.bias"));
            if config.lora.bias != "none" {
                tensors.insert(format!("{key}.base_layer.bias"), bias.val().into_data());
            }
        }
    });
    let saves = |path: &str| config.saves(path, paths) || (config.lora.bias == "all" && path.ends_with(".bias"));
    let rest = state_dict(model, |p| {
        let path = naming.below_backbone(&p.name);
        p.group == Group::Backbone && !biases.iter().any(|bias| bias == path) && saves(path)
    });
    let name = |name: &str| format!("{PREFIX}{}", paths.in_memory(naming.below_backbone(name)));
    tensors.extend(rest.into_iter().map(|(path, data)| (name(&path), data)));
    tensors.extend(carried_tensors(model, config, saves));
    tensors
}

/// The tensors of parts that are not built here: what the model carries along, where `saves` says so, and what was in the
/// directory that it began with.
fn carried_tensors<M: VisitProjections>(
    model: &M,
    config: &PeftConfig,
    saves: impl Fn(&str) -> bool,
) -> BTreeMap<String, TensorData> {
    // The bias of an adapted one is in the directory by another name.
    let adapted = |path: &str| {
        let module = path.strip_suffix(".bias").unwrap_or_default();
        config.carried.contains_key(&format!("{PREFIX}{module}{}", ENDS[0]))
    };
    let own = model.carried_along().into_iter().flat_map(Carried::floats);
    let own = own.filter(|(path, _)| saves(path) && !adapted(path));
    let own = own.map(|(path, data)| (format!("{PREFIX}{path}"), data));
    own.chain(config.carried.clone()).collect()
}

/// An adapter directory, read.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    /// Its configuration.
    pub config: PeftConfig,
    pub(super) path: PathBuf,
    /// How the paths of its modules are spelled.
    pub(super) paths: ModulePaths,
    /// The tensors of each adapted module, by its path below the backbone.
    pub(super) modules: BTreeMap<String, Parts>,
    /// Parameters that replace those of the base.
    pub(super) parameters: BTreeMap<String, TensorData>,
}

/// The tensors of one adapted module.
#[derive(Debug, Clone, Default)]
pub(super) struct Parts {
    pub(super) a: Option<TensorData>,
    pub(super) b: Option<TensorData>,
    pub(super) magnitude: Option<TensorData>,
}

impl AdapterFile {
    /// Reads the directory of an adapter for a model with these paths ([`VisitProjections::module_paths`]), which are
    /// accepted in any spelling.
    ///
    /// # Errors
    /// A file that is missing or damaged, an option that is not supported, a value that is not finite, or one error that
    /// lists every module that is named twice or lacks a matrix.
    pub fn read(dir: &Path, paths: ModulePaths) -> Result<Self> {
        let config = PeftConfig::read(dir)?;
        let path = dir.join(WEIGHTS_FILE);
        let mut file = Self { config, path, paths, modules: BTreeMap::new(), parameters: BTreeMap::new() };
        let mut problems = Vec::new();
        let tensors = read_all(&file.path)?.into_iter().filter(|(name, _)| !is_wrapper(name));
        for (name, data) in tensors {
            let path = paths.from_any(name.strip_prefix(PREFIX).unwrap_or(&name));
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

    /// The tensors of both halves, where this one belongs to a projection that files have stacked: an adapter of it is
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
        if self.modules.is_empty() {
            problems.push("no tensor is called ….lora_A.weight: this is no LoRA adapter".to_owned());
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

    /// Computes the base that the adapter was trained on, where its start changed the weights (`pissa`, `olora`, several
    /// turns of `loftq`). To be called before the weights are quantized in `format`; does nothing for other adapters.
    ///
    /// # Errors
    /// A weight that is packed already, or modules that the model does not have.
    pub fn prepare_base<M: VisitProjections>(&self, model: &mut M, format: Option<Format>) -> Result<()> {
        let lora = &self.config.lora;
        let (method, iterations) = (lora.init_lora_weights, lora.loftq_config.loftq_iter);
        if !method.reads_weights() || (method == InitMethod::Loftq && iterations == 1) {
            return Ok(());
        }
        let modules = self.planned(model)?;
        FromWeights { method, iterations, format }.run(model, &modules)?;
        Ok(())
    }

    /// Freezes the backbone and puts the adapters on it. They train, as do the biases and modules that the configuration
    /// names.
    ///
    /// # Errors
    /// One error that lists every tensor that has no place in the model or the wrong shape.
    pub fn attach<M: NamedModule + VisitProjections>(mut self, mut model: M) -> Result<(M, LoraReport)> {
        let carried = self.set_aside(&mut model);
        let adapted: Vec<&str> = self.modules.keys().map(String::as_str).collect();
        let (mut model, mut notes) = freeze_base(model, &self.config.lora, &adapted)?;
        let device = model.devices().into_iter().next().unwrap_or_default();
        let (ranks, paths) = (Ranks::new(&self.config.lora)?, model.module_paths());
        let Self { mut config, path: file, mut modules, parameters, .. } = self;
        let dropout = config.lora.lora_dropout;
        let (mut adapted, mut problems) = (Vec::new(), Vec::new());
        model.visit_projections_mut(&mut |path, projection| {
            let Some(parts) = modules.remove(path) else { return };
            match attach(path, projection, parts, ranks.of(path, paths), dropout, &device) {
                Ok(module) => adapted.push(module),
                Err(problem) => problems.push(problem),
            }
        });
        problems.extend(modules.into_keys().map(|path| format!("{path}: the model has no such linear layer")));
        let naming = model.naming();
        for p in named_parameters(&model).iter().filter(|p| p.group == Group::Backbone) {
            let path = naming.below_backbone(&p.name);
            if config.saves(path, paths) && !parameters.contains_key(path) {
                problems.push(format!("{path}: missing, expected {:?}, because of modules_to_save", p.shape));
            }
        }
        let names = |path: String| naming.in_backbone(&path);
        let parameters = parameters.into_iter().map(|(path, data)| (names(path), data)).collect();
        let loaded = load_state(model, parameters, Require::Nothing);
        if let Err(ModelError::Tensors { problems: more, .. }) = &loaded {
            problems.extend(more.iter().cloned());
        }
        if !problems.is_empty() {
            return Err(ModelError::Tensors { path: file, problems }.into());
        }
        let unknown = config.unknown_keys();
        if !unknown.is_empty() {
            notes.push(format!("adapter_config.json: kept without a meaning here: {}", unknown.join(", ")));
        }
        if !carried.is_empty() {
            let names: Vec<&str> = carried.keys().map(|name| name.strip_prefix(PREFIX).unwrap_or(name)).collect();
            notes.push(format!("kept as they are, because heatmaps do not need them: {}", names.join(", ")));
        }
        config.carried = carried;
        Ok((loaded?, LoraReport { adapted, notes, peft: config }))
    }

    /// Takes out the tensors for parts that the backbone has in Python and not here (the pooler of a ViT), by their names
    /// in the file. Parameters replace those that the model carries along; adapters have nothing to adapt.
    fn set_aside<M: VisitProjections>(&mut self, model: &mut M) -> BTreeMap<String, TensorData> {
        let paths = model.module_paths();
        let elsewhere = |path: &str| paths.names().is_some_and(|names| names.is_carried(path));
        let modules = self.modules.extract_if(.., |path, _| elsewhere(path)).collect();
        let parameters: BTreeMap<_, _> = self.parameters.extract_if(.., |path, _| elsewhere(path)).collect();
        if let Some(carried) = model.carried_along_mut() {
            parameters.iter().for_each(|(name, data)| carried.replace(name, data));
        }
        named(&modules, &parameters, paths)
    }
}

/// Parts of the module that PEFT wraps around one of `modules_to_save`. With `bias: all` its biases are in the file by these
/// names, too, beside the ones that count.
fn is_wrapper(name: &str) -> bool {
    [".original_module.", ".modules_to_save."].iter().any(|part| name.contains(part))
}

/// Tensors by their names in a directory.
fn named(
    modules: &BTreeMap<String, Parts>,
    parameters: &BTreeMap<String, TensorData>,
    paths: ModulePaths,
) -> BTreeMap<String, TensorData> {
    let name = |path: &str| format!("{PREFIX}{}", paths.in_memory(path));
    let mut tensors = BTreeMap::new();
    for (path, parts) in modules {
        let parts = ENDS.into_iter().zip([&parts.a, &parts.b, &parts.magnitude]);
        tensors.extend(parts.filter_map(|(end, data)| Some((name(path) + end, data.clone()?))));
    }
    for (path, data) in parameters {
        let adapted = path.strip_suffix(".bias").filter(|module| modules.contains_key(*module));
        let name = adapted.map_or_else(|| name(path), |module| format!("{}.base_layer.bias", name(module)));
        tensors.insert(name, data.clone());
    }
    tensors
}

/// Puts the adapter of a directory on a model whose weights are as they were trained: [`AdapterFile`] in one step.
/// Quantization comes between the two steps where an adapter changed its base; then this refuses packed weights.
///
/// # Errors
/// As [`AdapterFile::read`], [`AdapterFile::prepare_base`] and [`AdapterFile::attach`].
pub fn load_adapter<M: NamedModule + VisitProjections>(dir: &Path, mut model: M) -> Result<(M, LoraReport)> {
    let file = AdapterFile::read(dir, model.module_paths())?;
    file.prepare_base(&mut model, None)?;
    file.attach(model)
}

fn attach(
    path: &str,
    projection: &mut Projection,
    parts: Parts,
    (rank, scaling): (usize, Scaling),
    dropout: f32,
    device: &Device,
) -> Result<AdaptedModule, String> {
    let [output, input] = projection.shape();
    let (Some(a), Some(b)) = (parts.a, parts.b) else { return Err(format!("{path}: lacks a matrix")) };
    let (found_a, found_b) = (a.shape().to_vec(), b.shape().to_vec());
    if found_a != [rank, input] || found_b != [output, rank] {
        return Err(format!(
            "{path}: found lora_A {found_a:?} and lora_B {found_b:?}, expected [{rank}, {input}] and [{output}, {rank}] \
             by r and rank_pattern"
        ));
    }
    let matrices = [a, b].map(|data| Param::from_data(data, device));
    let adapter = LoraAdapter::new(matrices, scaling, dropout, path);
    let adapter = match parts.magnitude {
        Some(magnitude) if magnitude.shape().to_vec() != [output] => {
            let found = magnitude.shape().to_vec();
            return Err(format!("{path}.lora_magnitude_vector: found {found:?}, expected [{output}]"));
        }
        Some(magnitude) => adapter.with_dora(projection.base.dense(), Some(magnitude)),
        None => adapter,
    };
    let module = AdaptedModule::of(path, [output, input], &adapter);
    projection.adapter = Some(adapter);
    Ok(module)
}

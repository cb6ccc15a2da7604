//! Adapter directories as Hugging Face PEFT writes and reads them: `adapter_config.json` and
//! `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::module::Param;
use burn::tensor::{Device, TensorData};

use crate::config::InitMethod;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::pretrained::save::{StoredAs, read_all, write_tensors};
use crate::models::projection::{Projection, VisitProjections};
use crate::models::state::{Group, NamedModule, Require, load_state, named_parameters, state_dict};

use super::adapter::{LoraAdapter, Scaling};
use super::first::FromWeights;
use super::peft_config::PeftConfig;
use super::quantization::Format;
use super::ranks::Ranks;
use super::wrapper::{AdaptedModule, LoraReport, freeze_base};

/// The tensors of an adapter directory.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

const PREFIX: &str = "base_model.model.";

/// Writes the adapters of a model's backbone, and the biases and whole modules that train with them.
///
/// # Errors
/// The model has no adapters, or the directory cannot be written.
pub fn write_adapter<M: NamedModule + VisitProjections>(dir: &Path, model: &M, config: &PeftConfig) -> Result<()> {
    let tensors = adapter_tensors(model, config);
    if !tensors.keys().any(|name| name.ends_with(".lora_A.weight")) {
        return Err(ModelError::file(dir, "the model has no adapters to write").into());
    }
    write_tensors(&dir.join(WEIGHTS_FILE), tensors, StoredAs::F32)?;
    config.write(dir)
}

/// Every tensor of an adapter directory by its name there.
fn adapter_tensors<M: NamedModule + VisitProjections>(model: &M, config: &PeftConfig) -> BTreeMap<String, TensorData> {
    let (naming, prefix) = (model.naming(), model.peft_prefix());
    let mut tensors = BTreeMap::new();
    let mut biases = Vec::new();
    model.visit_projections(&mut |path, projection| {
        let Some(adapter) = &projection.adapter else { return };
        let key = format!("{PREFIX}{prefix}{path}");
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
    let rest = state_dict(model, |p| {
        let path = naming.below_backbone(&p.name);
        p.group == Group::Backbone
            && !biases.iter().any(|bias| bias == path)
            && (config.saves(path, prefix) || (config.lora.bias == "all" && path.ends_with(".bias")))
    });
    tensors.extend(rest.into_iter().map(|(name, data)| {
        let path = naming.below_backbone(&name);
        // Only the blocks are one module deeper in `transformers`, embeddings and the final norm are not.
        let prefix = if path.starts_with("layer.") { prefix } else { "" };
        (format!("{PREFIX}{prefix}{path}"), data)
    }));
    tensors
}

/// An adapter directory, read.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    /// Its configuration.
    pub config: PeftConfig,
    pub(super) path: PathBuf,
    prefix: String,
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
    /// Reads the directory of an adapter for a model before whose paths PEFT puts `prefix`. Paths are accepted with and
    /// without it.
    ///
    /// # Errors
    /// A file that is missing or damaged, an option that is not supported, a value that is not finite, or one error that
    /// lists every module that is named twice or lacks a matrix.
    pub fn read(dir: &Path, prefix: &str) -> Result<Self> {
        let config = PeftConfig::read(dir)?;
        let path = dir.join(WEIGHTS_FILE);
        let mut file =
            Self { config, path, prefix: prefix.to_owned(), modules: BTreeMap::new(), parameters: BTreeMap::new() };
        let mut problems = Vec::new();
        for (name, data) in read_all(&file.path)? {
            let path = name.strip_prefix(PREFIX).unwrap_or(&name);
            let path = path.strip_prefix(prefix).unwrap_or(path).to_owned();
            if !file.is_part(&path, prefix) {
                problems.push(format!("{name}: is no part of a LoRA adapter, no bias, and not in modules_to_save"));
            } else if !file.put(&path, data) {
                problems.push(format!("{name}: is there twice, with and without `{prefix}` in front"));
            }
        }
        for (path, parts) in &file.modules {
            if parts.a.is_none() || parts.b.is_none() {
                problems.push(format!("{path}: needs both lora_A.weight and lora_B.weight"));
            }
            if parts.magnitude.is_some() != file.config.lora.use_dora {
                let found = if parts.magnitude.is_some() { "has a" } else { "has no" };
                let use_dora = file.config.lora.use_dora;
                problems.push(format!("{path}: {found} lora_magnitude_vector, but use_dora is {use_dora}"));
            }
        }
        if file.modules.is_empty() {
            problems.push("no tensor is called ….lora_A.weight: this is no LoRA adapter".to_owned());
        }
        if problems.is_empty() { Ok(file) } else { Err(ModelError::Tensors { path: file.path, problems }.into()) }
    }

    fn is_part(&self, path: &str, prefix: &str) -> bool {
        let ends = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector", ".bias"];
        ends.iter().any(|end| path.ends_with(end)) || self.config.saves(path, prefix)
    }

    /// Sorts a tensor in; `false` when its place is taken.
    fn put(&mut self, path: &str, data: TensorData) -> bool {
        let slot = |parts: &mut Option<TensorData>| parts.replace(data.clone()).is_none();
        if let Some(module) = path.strip_suffix(".lora_A.weight") {
            slot(&mut self.modules.entry(module.to_owned()).or_default().a)
        } else if let Some(module) = path.strip_suffix(".lora_B.weight") {
            slot(&mut self.modules.entry(module.to_owned()).or_default().b)
        } else if let Some(module) = path.strip_suffix(".lora_magnitude_vector") {
            slot(&mut self.modules.entry(module.to_owned()).or_default().magnitude)
        } else {
            self.parameters.insert(path.replace(".base_layer.", "."), data).is_none()
        }
    }

    /// The file of its tensors.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What PEFT puts before the paths of the model it was read for.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
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
        let name = |path: &str| format!("{PREFIX}{}{path}", self.prefix);
        let mut tensors = BTreeMap::new();
        for (path, parts) in &self.modules {
            let ends = [("lora_A.weight", &parts.a), ("lora_B.weight", &parts.b)];
            let ends = ends.into_iter().chain([("lora_magnitude_vector", &parts.magnitude)]);
            tensors.extend(ends.filter_map(|(end, data)| Some((format!("{}.{end}", name(path)), data.clone()?))));
        }
        for (path, data) in &self.parameters {
            let adapted = path.strip_suffix(".bias").filter(|module| self.modules.contains_key(*module));
            let name = adapted.map_or_else(|| name(path), |module| format!("{}.base_layer.bias", name(module)));
            tensors.insert(name, data.clone());
        }
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
    pub fn attach<M: NamedModule + VisitProjections>(self, model: M) -> Result<(M, LoraReport)> {
        let paths: Vec<&str> = self.modules.keys().map(String::as_str).collect();
        let (mut model, mut notes) = freeze_base(model, &self.config.lora, &paths)?;
        let device = model.devices().into_iter().next().unwrap_or_default();
        let (ranks, prefix) = (Ranks::new(&self.config.lora)?, model.peft_prefix());
        let Self { config, path: file, mut modules, parameters, .. } = self;
        let dropout = config.lora.lora_dropout;
        let (mut adapted, mut problems) = (Vec::new(), Vec::new());
        model.visit_projections_mut(&mut |path, projection| {
            let Some(parts) = modules.remove(path) else { return };
            match attach(path, projection, parts, ranks.of(path, prefix), dropout, &device) {
                Ok(module) => adapted.push(module),
                Err(problem) => problems.push(problem),
            }
        });
        problems.extend(modules.into_keys().map(|path| format!("{path}: the model has no such linear layer")));
        let naming = model.naming();
        for p in named_parameters(&model).iter().filter(|p| p.group == Group::Backbone) {
            let path = naming.below_backbone(&p.name);
            if config.saves(path, prefix) && !parameters.contains_key(path) {
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
        Ok((loaded?, LoraReport { adapted, notes, peft: config }))
    }
}

/// Puts the adapter of a directory on a model whose weights are as they were trained: [`AdapterFile`] in one step.
/// Quantization comes between the two steps where an adapter changed its base; then this refuses packed weights.
///
/// # Errors
/// As [`AdapterFile::read`], [`AdapterFile::prepare_base`] and [`AdapterFile::attach`].
pub fn load_adapter<M: NamedModule + VisitProjections>(dir: &Path, mut model: M) -> Result<(M, LoraReport)> {
    let file = AdapterFile::read(dir, model.peft_prefix())?;
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

//! From an adapter directory to a model.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::TensorData;

use crate::artifacts::adapter::loftq;
use crate::artifacts::adapter::peft_config::{CONFIG_FILE, PeftConfig};
use crate::artifacts::adapter::report::AdapterReport;
use crate::config::InitMethod;
use crate::console::listing;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::lora::plan::{AdaptedModule, freeze_base, nested_modules};
use crate::models::lora::ranks::Ranks;
use crate::models::lora::{VisitLayers, init};
use crate::models::quantization::Storage;
use crate::models::state::{Group, NamedModule, Require, load_state, named_parameters};

use super::parts::Parts;
use super::read::{AdapterFile, named};
use super::{ENDS, NAMES_SHOWN, PREFIX};

/// Puts the adapter of a directory on a model whose weights are as they were trained: [`AdapterFile`] in one step.
/// Quantization comes between the two steps where an adapter changed its base; then this refuses packed weights.
///
/// # Errors
/// As [`AdapterFile::read`], [`AdapterFile::prepare_base`] and [`AdapterFile::attach`].
pub fn load_adapter<M: NamedModule + VisitLayers>(dir: &Path, mut model: M) -> Result<(M, AdapterReport)> {
    let file = AdapterFile::read(dir, model.module_paths())?;
    file.prepare_base(&mut model, None)?;
    file.attach(model)
}

impl AdapterFile {
    /// Computes the base that the adapter was trained on, where its initialization changed the weights (`pissa`, `olora`,
    /// `loftq`). To be called before the weights are quantized as `storage` says; does nothing for other adapters.
    ///
    /// # Errors
    /// A weight that is packed already or will be packed in another way than the adapter's base was, or modules that the
    /// model does not have.
    pub fn prepare_base<M: VisitLayers>(&self, model: &mut M, storage: Option<&Storage>) -> Result<()> {
        let method = self.config.lora.init_lora_weights;
        if !method.reads_weights() {
            return Ok(());
        }
        let modules = self.planned(model)?;
        match (method, &self.config.loftq) {
            (InitMethod::Loftq, Some(base)) => base.restore(model, &modules, storage)?,
            (InitMethod::Loftq, None) => loftq::base_of_peft(&self.config.lora)?.restore(model, &modules, storage)?,
            _ => drop(init::split(method, model, &modules)?),
        }
        Ok(())
    }

    /// Freezes the backbone and puts the adapters on it. They train, as do the biases and modules that the configuration
    /// names.
    ///
    /// # Errors
    /// One error that lists every tensor that has no place in the model or the wrong shape.
    pub fn attach<M: NamedModule + VisitLayers>(mut self, mut model: M) -> Result<(M, AdapterReport)> {
        let carried = self.set_aside(&mut model);
        if self.modules.is_empty() {
            let message = format!("adapts nothing of the backbone: {}", listing(names_in(&carried), NAMES_SHOWN));
            return Err(ModelError::file(self.path, message).into());
        }
        let (fixed, mut notes) = self.remove_nested(&model);
        let adapted: Vec<&str> = self.modules.keys().map(String::as_str).collect();
        let (mut model, more) = freeze_base(model, &self.config.lora, &adapted, &fixed)?;
        notes.extend(more);
        let paths = model.module_paths();
        let Self { mut config, path: file, modules, parameters, .. } = self;
        let (adapted, mut problems) = put_on(&mut model, modules, &config)?;
        let naming = model.naming();
        for p in named_parameters(&model).iter().filter(|p| p.group == Group::Backbone) {
            let path = naming.below_backbone(&p.name);
            if config.saves(path, paths) && !parameters.contains_key(path) && !fixed.contains(path) {
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
        notes.extend(notes_of(&config, &carried));
        config.carried = carried;
        Ok((loaded?, AdapterReport { adapted, notes, peft: config }))
    }

    /// Removes the tensors for parts that a model has in Python and not here (heads, the pooler of a ViT), by their names
    /// in the file. Parameters replace those that the model keeps to be written again; adapters have nothing to adapt.
    fn set_aside<M: NamedModule + VisitLayers>(&mut self, model: &mut M) -> BTreeMap<String, TensorData> {
        let (paths, beside) = (model.module_paths(), Beside::of(model));
        let modules = self.modules.extract_if(.., |path, _| beside.names(&format!("{path}."))).collect();
        let parameters: BTreeMap<_, _> = self.parameters.extract_if(.., |path, _| beside.holds(path)).collect();
        if let Some(carried) = model.carried_mut() {
            parameters.iter().for_each(|(name, data)| carried.replace(name, data));
        }
        named(&modules, &parameters, paths)
    }

    /// Removes what PEFT saved of modules that lie in one that is saved, too, and did not compute with; returns the paths
    /// of all their parameters, and a note.
    fn remove_nested<M: NamedModule + VisitLayers>(&mut self, model: &M) -> (BTreeSet<String>, Vec<String>) {
        if !self.config.is_of_peft() {
            return (BTreeSet::new(), Vec::new());
        }
        let nested = nested_modules(model, &self.config.lora);
        let lies = |path: &str| path.rsplit_once('.').is_some_and(|(module, _)| nested.contains(module));
        self.parameters.retain(|path, _| !lies(path));
        let naming = model.naming();
        let all = named_parameters(model).into_iter().map(|p| naming.below_backbone(&p.name).to_owned());
        let note = |module: &String| {
            format!(
                "modules_to_save: {module} lies in a module that is saved, too; PEFT computes with that of the base, and so \
                 does this"
            )
        };
        (all.filter(|path| lies(path)).collect(), nested.iter().map(note).collect())
    }
}

/// Puts adapters on the modules of a model that they are for; returns what was adapted and what does not fit.
fn put_on<M: VisitLayers>(
    model: &mut M,
    mut modules: BTreeMap<String, Parts>,
    config: &PeftConfig,
) -> Result<(Vec<AdaptedModule>, Vec<String>)> {
    let (ranks, paths, dropout) = (Ranks::new(&config.lora)?, model.module_paths(), config.lora.lora_dropout);
    let mut ranked = BTreeMap::new();
    for path in modules.keys() {
        ranked.insert(path.clone(), ranks.of(path, paths)?);
    }
    let (mut adapted, mut problems) = (Vec::new(), Vec::new());
    model.visit_layers_mut(&mut |path, layer| {
        let (Some(parts), Some(rank)) = (modules.remove(path), ranked.remove(path)) else { return };
        let shape = layer.base().shape();
        match parts.adapter(path, shape, rank, dropout, || layer.base().matrix()) {
            Ok(adapter) => {
                adapted.push(AdaptedModule::of(path, shape, &adapter));
                *layer.adapter_mut() = Some(adapter);
            }
            Err(problem) => problems.push(problem),
        }
    });
    problems.extend(modules.into_keys().map(|path| format!("{path}: the model has no such layer to adapt")));
    Ok((adapted, problems))
}

/// What a model has in Python beside the backbone that is built here.
pub(crate) struct Beside {
    paths: ModulePaths,
    /// First components of the paths in the backbone.
    parts: BTreeSet<String>,
}

impl Beside {
    pub(crate) fn of<M: NamedModule + VisitLayers>(model: &M) -> Self {
        let naming = model.naming();
        let parameters = named_parameters(model).into_iter().filter(|p| p.group == Group::Backbone);
        let parts = parameters.map(|p| first_component(naming.below_backbone(&p.name)).to_owned()).collect();
        Self { paths: model.module_paths(), parts }
    }

    /// Whether the family is known to have the tensor at `path` elsewhere.
    fn names(&self, path: &str) -> bool {
        self.paths.family().is_some_and(|family| family.is_carried(path) || family.is_beside(path, false))
    }

    /// Whether the tensor at `path` is elsewhere: a module beside those of the backbone is a head, whatever it is called.
    pub(crate) fn holds(&self, path: &str) -> bool {
        let is_adapter = ENDS.iter().any(|end| path.ends_with(end));
        self.names(path) || (!is_adapter && !self.parts.contains(first_component(path)))
    }
}

fn first_component(path: &str) -> &str {
    path.split('.').next().unwrap_or(path)
}

fn names_in(carried: &BTreeMap<String, TensorData>) -> impl Iterator<Item = &str> {
    carried.keys().map(|name| name.strip_prefix(PREFIX).unwrap_or(name))
}

fn notes_of(config: &PeftConfig, carried: &BTreeMap<String, TensorData>) -> Vec<String> {
    let mut notes = Vec::new();
    let unknown = config.unknown_keys();
    if !unknown.is_empty() {
        notes.push(format!("{CONFIG_FILE}: kept without a meaning here: {}", listing(unknown, NAMES_SHOWN)));
    }
    if !carried.is_empty() {
        let names = listing(names_in(carried), NAMES_SHOWN);
        notes.push(format!("left aside, because heatmaps do not need them: {names}"));
    }
    notes
}

//! Adapter directories as Hugging Face PEFT writes and reads them: `adapter_config.json` and
//! `adapter_model.safetensors`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};

use crate::artifacts::pretrained::save::{StoredAs, read_all, write_tensors};
use crate::config::InitMethod;
use crate::console::listing;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::backbones::{ModulePaths, halve_rows};
use crate::models::carried::Carried;
use crate::models::lora::{AdaptableLayer, VisitLayers};
use crate::models::state::{Group, NamedModule, Require, load_state, named_parameters, state_dict};

use super::loftq;
use super::peft_config::{CONFIG_FILE, PeftConfig};
use super::peft_names::for_peft;
use super::report::AdapterReport;
use crate::models::lora::adapter::{LoraAdapter, Scaling};
use crate::models::lora::init;
use crate::models::lora::plan::{AdaptedModule, freeze_base, in_backbone, nested_modules};
use crate::models::lora::ranks::Ranks;
use crate::models::quantization::Storage;

/// The tensors of an adapter directory.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The same as PEFT wrote them before release 0.7, and writes them without `safe_serialization`.
const PICKLE_FILE: &str = "adapter_model.bin";

pub(crate) const PREFIX: &str = "base_model.model.";

/// How the names of the parts of an adapted module end.
const ENDS: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"];

/// Writes the adapters of a model's backbone, and the biases and whole modules that train with them, in names that PEFT
/// finds in the memory of `transformers` 5.
///
/// # Errors
/// The model has no adapters, or the directory cannot be written.
pub fn write_adapter<M: NamedModule + VisitLayers>(dir: &Path, model: &M, config: &PeftConfig) -> Result<()> {
    let mut adapted = BTreeSet::new();
    model.visit_layers(&mut |path, layer| {
        adapted.extend(layer.adapter().filter(|_| in_backbone(path)).map(|_| path.to_owned()));
    });
    if adapted.is_empty() {
        return Err(ModelError::file(dir, "the model has no adapters to write").into());
    }
    adapted.extend(config.carried_paths().filter_map(|path| path.strip_suffix(ENDS[0])).map(str::to_owned));
    write_tensors(&dir.join(WEIGHTS_FILE), adapter_tensors(model, config), StoredAs::F32)?;
    for_peft(config, model, &adapted)?.write(dir)
}

/// Every tensor of an adapter directory by its name there.
pub(crate) fn adapter_tensors<M: NamedModule + VisitLayers>(
    model: &M,
    config: &PeftConfig,
) -> BTreeMap<String, TensorData> {
    let (naming, paths) = (model.naming(), model.module_paths());
    let mut tensors = BTreeMap::new();
    let mut biases = Vec::new();
    model.visit_layers(&mut |path, layer| {
        let Some(parts) = Parts::of(layer).filter(|_| in_backbone(path)) else { return };
        let key = format!("{PREFIX}{}", paths.in_memory(path));
        tensors.extend(parts.named().map(|(end, data)| (format!("{key}{end}"), data.clone())));
        if let Some(bias) = layer.base().bias() {
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
fn carried_tensors<M: VisitLayers>(
    model: &M,
    config: &PeftConfig,
    saves: impl Fn(&str) -> bool,
) -> BTreeMap<String, TensorData> {
    // The bias of an adapted one is in the directory by another name.
    let adapted = |path: &str| {
        let module = path.strip_suffix(".bias").unwrap_or_default();
        config.carried.contains_key(&format!("{PREFIX}{module}{}", ENDS[0]))
    };
    let own = model.carried().into_iter().flat_map(Carried::floats);
    let own = own.filter(|(path, _)| saves(path) && !adapted(path));
    let own = own.map(|(path, data)| (format!("{PREFIX}{path}"), data));
    own.chain(config.carried.clone()).collect()
}

/// An adapter directory, read.
#[derive(Debug, Clone)]
pub struct AdapterFile {
    /// Its configuration.
    pub config: PeftConfig,
    pub(crate) path: PathBuf,
    /// How the paths of its modules are spelled.
    pub(crate) paths: ModulePaths,
    /// The tensors of each adapted module, by its path below the backbone.
    pub(crate) modules: BTreeMap<String, Parts>,
    /// Parameters that replace those of the base.
    pub(crate) parameters: BTreeMap<String, TensorData>,
}

/// The tensors of one adapted module.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parts {
    pub(crate) a: Option<TensorData>,
    pub(crate) b: Option<TensorData>,
    pub(crate) magnitude: Option<TensorData>,
}

impl AdapterFile {
    /// Reads the directory of an adapter for a model with these paths ([`VisitLayers::module_paths`]), which are
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

    /// Computes the base that the adapter was trained on, where its start changed the weights (`pissa`, `olora`,
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
    /// in the file. Parameters replace those that the model carries along; adapters have nothing to adapt.
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

/// Names that are listed in an error or note.
const NAMES_SHOWN: usize = 8;

const PICKLED: &str = "holds adapter_model.bin, a pickle, which is not read; convert it once in Python: \
                       `safetensors.torch.save_file(torch.load(\"adapter_model.bin\", weights_only=True), \
                       \"adapter_model.safetensors\")`";

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

/// What a directory without an adapter's configuration is, where that can be told, and what to do.
pub(crate) fn what_is_there(dir: &Path) -> Option<String> {
    let has = |name: &str| dir.join(name).is_file();
    if has(CONFIG_FILE) {
        return None;
    }
    let expected = format!("an adapter is a directory with {CONFIG_FILE} and {WEIGHTS_FILE}");
    if dir.is_file() {
        return Some(format!("is a file; {expected}"));
    }
    if let Some(found) = [WEIGHTS_FILE, PICKLE_FILE].into_iter().find(|name| has(name)) {
        return Some(format!("holds {found} without {CONFIG_FILE}, which says ranks and scales: copy that, too"));
    }
    if dir.join("adapter").join(CONFIG_FILE).is_file() {
        return Some(format!("is no adapter but holds one: give {}", dir.join("adapter").display()));
    }
    if dir.join("checkpoints").is_dir() {
        return Some(
            "is a run, no adapter; its adapters are checkpoints/best/adapter and checkpoints/last/adapter".to_owned(),
        );
    }
    if has("config.json") {
        return Some(format!("is a model, no adapter; {expected}. A model is given as the base"));
    }
    dir.is_dir().then(|| format!("holds no {CONFIG_FILE}; {expected}"))
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
fn named(
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

impl Parts {
    /// The tensors of a layer's adapter as PEFT has them: of a convolution `A` with its kernel, `B` 1×1, and one magnitude
    /// for each output channel.
    fn of(layer: &dyn AdaptableLayer) -> Option<Self> {
        let adapter = layer.adapter()?;
        let parts = Self {
            a: Some(adapter.a.val().into_data()),
            b: Some(adapter.b.val().into_data()),
            magnitude: adapter.dora.as_ref().map(|dora| dora.magnitude.val().into_data()),
        };
        let rank = adapter.rank();
        Some(match layer.base().weight_shape()[..] {
            [output, input, height, width] => Self {
                a: parts.a.map(|data| reshaped(&data, vec![rank, input, height, width])),
                b: parts.b.map(|data| reshaped(&data, vec![output, rank, 1, 1])),
                magnitude: parts.magnitude.map(|data| reshaped(&data, vec![1, output, 1, 1])),
            },
            _ => parts,
        })
    }

    /// The tensors that are there, and how their names end.
    fn named(&self) -> impl Iterator<Item = (&'static str, &TensorData)> {
        let parts = ENDS.into_iter().zip([&self.a, &self.b, &self.magnitude]);
        parts.filter_map(|(end, data)| Some((end, data.as_ref()?)))
    }

    /// As a model has them: kernels as rows, lengths as a vector.
    pub(crate) fn as_rows(&self) -> Self {
        Self {
            a: self.a.clone().map(|data| as_rows(ENDS[0], data)),
            b: self.b.clone().map(|data| as_rows(ENDS[1], data)),
            magnitude: self.magnitude.clone().map(|data| as_rows(ENDS[2], data)),
        }
    }

    /// The adapter of the module at `path`, whose weight is `[out, in]`, or what does not fit.
    fn adapter(
        &self,
        path: &str,
        [output, input]: [usize; 2],
        (rank, scaling): (usize, Scaling),
        dropout: f32,
        weight: impl FnOnce() -> Tensor<2>,
    ) -> Result<LoraAdapter, String> {
        let (Some(found_a), Some(found_b)) = (&self.a, &self.b) else { return Err(format!("{path}: lacks a matrix")) };
        let (found_a, found_b) = (found_a.shape().to_vec(), found_b.shape().to_vec());
        let Self { a, b, magnitude } = self.as_rows();
        let fits = |data: &Option<TensorData>, shape: &[usize]| data.as_ref().is_some_and(|d| d.shape()[..] == *shape);
        if !fits(&a, &[rank, input]) || !fits(&b, &[output, rank]) {
            return Err(format!(
                "{path}: found lora_A {found_a:?} and lora_B {found_b:?}, expected [{rank}, {input}] and [{output}, {rank}] \
                 by r and rank_pattern"
            ));
        }
        if magnitude.is_some() && !fits(&magnitude, &[output]) {
            let found = magnitude.map(|data| data.shape().to_vec()).unwrap_or_default();
            return Err(format!("{path}.lora_magnitude_vector: found {found:?}, expected [{output}]"));
        }
        let (weight, (Some(a), Some(b))) = (weight(), (a, b)) else { return Err(format!("{path}: lacks a matrix")) };
        let adapter = LoraAdapter::from_data([a, b], scaling, dropout, path, &weight.device());
        Ok(match magnitude {
            Some(magnitude) => adapter.with_dora(weight, Some(magnitude)),
            None => adapter,
        })
    }
}

/// The tensor of an adapter as a model has it, given the end of its name: kernels as rows, lengths as a vector.
pub(crate) fn as_rows(name: &str, data: TensorData) -> TensorData {
    let count: usize = data.shape().iter().product();
    let rows = data.shape().first().copied().unwrap_or_default();
    if name.ends_with(ENDS[2]) {
        return reshaped(&data, vec![count]);
    }
    let matrix = ENDS[..2].iter().any(|end| name.ends_with(end));
    if matrix && data.shape().len() > 2 && rows > 0 { reshaped(&data, vec![rows, count / rows]) } else { data }
}

/// The same values in another shape.
fn reshaped(data: &TensorData, shape: Vec<usize>) -> TensorData {
    TensorData::new(data.iter::<f32>().collect::<Vec<f32>>(), shape)
}

//! Puts adapters on a model and freezes the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::config::{Bias, InitMethod, LoraConfig, TargetModules};
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::nn::{Builder, RandomSource};
use crate::models::quantization::Storage;
use crate::models::state::{Group, NamedModule, ParameterInfo, named_parameters, set_trainable};

use super::adapter::{LoraAdapter, Scaling};
use super::init::{self, Matrices};
use super::layer::AdaptableLayer;
use super::loftq::LoftqBase;
use super::ranks::Ranks;
use super::targets::{Candidate, condense, is_saved, select};
use super::visit::VisitLayers;

/// Which modules were adapted, and what the user should know about it.
#[derive(Debug, Clone, PartialEq)]
pub struct LoraReport {
    /// In the order of the model.
    pub adapted: Vec<AdaptedModule>,
    /// Translated names, entries that matched nothing, ranks that are larger than they need to be; each once.
    pub notes: Vec<String>,
    /// The base that `loftq` initialized the adapters for.
    pub loftq: Option<LoftqBase>,
}

/// One adapted module.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptedModule {
    /// The path below the backbone, or the full name of a convolution of the decoder.
    pub path: String,
    /// `[out, in]`; of a convolution `[out, in · height · width]`.
    pub shape: [usize; 2],
    /// Columns of `B`.
    pub rank: usize,
    /// The factor in front of `B(A(x))`.
    pub scale: f32,
    /// Whether the lengths of the rows are learned by themselves.
    pub dora: bool,
}

impl AdaptedModule {
    pub(crate) fn of(path: &str, shape: [usize; 2], adapter: &LoraAdapter) -> Self {
        let dora = adapter.dora.is_some();
        Self { path: path.to_owned(), shape, rank: adapter.rank(), scale: adapter.scale(), dora }
    }

    /// Parameters of its adapter.
    pub fn parameters(&self) -> usize {
        let [output, input] = self.shape;
        self.rank * (output + input) + if self.dora { output } else { 0 }
    }
}

impl fmt::Display for LoraReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&summary(&self.adapted, &self.notes))
    }
}

/// How many modules and parameters were added, and each note once, on lines of their own.
pub(crate) fn summary(adapted: &[AdaptedModule], notes: &[String]) -> String {
    let added: usize = adapted.iter().map(AdaptedModule::parameters).sum();
    let mut lines = vec![format!("adapted {} modules, {added} adapter parameters", adapted.len())];
    lines.extend(counted(notes));
    lines.join("\n")
}

/// Notes in their order, equal ones once with their number.
pub fn counted(notes: &[String]) -> Vec<String> {
    let mut found: Vec<(&str, usize)> = Vec::new();
    for note in notes {
        match found.iter_mut().find(|(known, _)| known == note) {
            Some((_, count)) => *count += 1,
            None => found.push((note, 1)),
        }
    }
    let line =
        |(note, count): (&str, usize)| if count > 1 { format!("{note} ({count} times)") } else { note.to_owned() };
    found.into_iter().map(line).collect()
}

/// Freezes every parameter of the backbone and adds an adapter to each linear layer and convolution that `targets`, or else `config.target_modules`, names; `config.bias` and `config.modules_to_save` say what trains
/// besides.
///
/// The initial values of the adapters are those of seed 0, whatever else the model holds; [`LoraPlan`] takes another.
///
/// # Errors
/// A value of `config` that cannot work, targets that match nothing, or initial values that are computed from float weights
/// on packed ones.
pub fn apply_lora_to_model<M: NamedModule + VisitLayers>(
    mut model: M,
    config: &LoraConfig,
    targets: Option<&[String]>,
) -> Result<(M, LoraReport), ModelError> {
    let list = targets.map(|t| TargetModules::List(t.to_vec()));
    let plan = LoraPlan::new(&model, config, list.as_ref(), 0)?;
    let initial = plan.init_from_weights(&mut model, None)?;
    plan.apply(model, initial)
}

/// What [`apply_lora_to_model`] will do, in two steps: some initial values need the weights before they are quantized, and
/// adapters come after that.
#[derive(Debug)]
pub struct LoraPlan {
    config: LoraConfig,
    modules: Vec<PlannedModule>,
    notes: Vec<String>,
    seed: u64,
}

/// A module that will be adapted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PlannedModule {
    pub(crate) path: String,
    pub(crate) shape: [usize; 2],
    pub(crate) rank: usize,
    pub(crate) scaling: Scaling,
}

impl PlannedModule {
    pub(crate) fn scale(&self) -> f32 {
        self.scaling.factor(self.rank)
    }
}

/// Initial matrices that were computed from the weights.
#[derive(Debug, Default)]
pub struct InitialMatrices {
    matrices: Matrices,
    /// The base that `loftq` initialized them for.
    loftq: Option<LoftqBase>,
}

impl LoraPlan {
    /// Chooses the modules and their ranks; `targets` stand in for `config.target_modules`.
    ///
    /// # Errors
    /// A value of `config` that cannot work, or targets that match nothing.
    pub fn new<M: VisitLayers>(
        model: &M,
        config: &LoraConfig,
        targets: Option<&TargetModules>,
        seed: u64,
    ) -> Result<Self, ModelError> {
        validate(config)?;
        let paths = model.module_paths();
        let (mut shapes, mut candidates) = (Vec::new(), Vec::new());
        model.visit_layers(&mut |path, layer| {
            candidates.push(Candidate::of(path, layer, paths));
            shapes.push(layer.base().shape());
        });
        let selection = select(targets.or(config.target_modules.as_ref()), config, &candidates, paths)?;
        let ranks = Ranks::new(config)?;
        let chosen = candidates.iter().zip(shapes).filter(|(c, _)| selection.paths.contains(&c.path));
        let modules: Vec<PlannedModule> = chosen
            .map(|(candidate, shape)| {
                let (rank, scaling) = ranks.of(&candidate.path, paths)?;
                Ok(PlannedModule { path: candidate.path.clone(), shape, rank, scaling })
            })
            .collect::<Result<_, ModelError>>()?;
        let mut notes = selection.notes;
        notes.extend(large_ranks(&modules));
        Ok(Self { config: config.clone(), modules, notes, seed })
    }

    /// Computes the initial matrices that come from float weights, and leaves the rest of each weight in the base. To be
    /// called before the weights are quantized as `storage` says; does nothing where the matrices are random.
    ///
    /// # Errors
    /// A weight that is packed already, a rank that is too large, or `loftq` without quantization.
    pub fn init_from_weights<M: VisitLayers>(
        &self,
        model: &mut M,
        storage: Option<&Storage>,
    ) -> Result<InitialMatrices, ModelError> {
        let method = self.config.init_lora_weights;
        match (method, storage) {
            (InitMethod::Loftq, None) => {
                check_init(method, false, false)?;
                Ok(InitialMatrices::default())
            }
            (InitMethod::Loftq, Some(storage)) => {
                let iterations = self.config.loftq_config.loftq_iter;
                let (matrices, base) = LoftqBase::init(model, &self.modules, storage, iterations)?;
                Ok(InitialMatrices { matrices, loftq: Some(base) })
            }
            _ if method.reads_weights() => {
                let matrices = init::split(method, model, &self.modules)?;
                Ok(InitialMatrices { matrices, loftq: None })
            }
            _ => Ok(InitialMatrices::default()),
        }
    }

    /// Freezes the backbone and adds the adapters.
    ///
    /// # Errors
    /// A module of `modules_to_save` that is stored in 4 bits.
    pub fn apply<M: NamedModule + VisitLayers>(
        self,
        model: M,
        initial: InitialMatrices,
    ) -> Result<(M, LoraReport), ModelError> {
        let Self { config, modules, mut notes, seed } = self;
        let adapted: Vec<&str> = modules.iter().map(|m| m.path.as_str()).collect();
        let (mut model, saved) = freeze_base(model, &config, &adapted, &BTreeSet::new())?;
        notes.extend(saved);
        notes.extend(not_for_peft(&model, &config, &adapted));
        let device = model.devices().into_iter().next().unwrap_or_default();
        let source = RandomSource { seed };
        let root = Builder::new(&source, &device);
        let mut attach = Attach { config: &config, modules: &modules, initial: initial.matrices, seed, root };
        let mut adapted = Vec::new();
        model.visit_layers_mut(&mut |path, layer| adapted.extend(attach.layer(path, layer)));
        Ok((model, LoraReport { adapted, notes, loftq: initial.loftq }))
    }
}

/// Whether an adapted module is one of the backbone: its adapter belongs into the directory of an adapter.
pub(crate) fn in_backbone(path: &str) -> bool {
    !path.starts_with("decoder.")
}

/// One note for each rank and shape where the rank is larger than it needs to be.
fn large_ranks(modules: &[PlannedModule]) -> Vec<String> {
    let mut found: BTreeMap<(usize, [usize; 2]), Vec<&str>> = BTreeMap::new();
    for module in modules.iter().filter(|m| m.rank > m.shape[0].min(m.shape[1])) {
        found.entry((module.rank, module.shape)).or_default().push(module.path.as_str());
    }
    let note = |((rank, [output, input]), paths): ((usize, [usize; 2]), Vec<&str>)| {
        let names = condense(paths);
        format!("lora.r: {rank} is larger than the smaller side of [{output}, {input}] of {names}")
    };
    found.into_iter().map(note).collect()
}

/// What PEFT will not load as it is meant, to be said before hours of training.
fn not_for_peft<M: NamedModule + VisitLayers>(model: &M, config: &LoraConfig, adapted: &[&str]) -> Option<String> {
    let mut packed = false;
    model.visit_linears(&mut |path, linear| packed |= linear.is_quantized() && adapted.contains(&path));
    let start = config.init_lora_weights;
    if start.reads_weights() && packed {
        return Some(format!(
            "lora.init_lora_weights: {start} on a base in 4 bits: PEFT cannot compute this base; for Python, merge the adapter \
             (tracknet adapter merge)"
        ));
    }
    let inner = nested_modules(model, config).into_iter().next()?;
    Some(format!(
        "lora.modules_to_save: {inner} is named and lies in a module that is named, too: PEFT cannot load such an adapter; \
         for Python, merge it (tracknet adapter merge)"
    ))
}

/// Adds planned adapters to the layers they are for.
struct Attach<'a> {
    config: &'a LoraConfig,
    modules: &'a [PlannedModule],
    initial: Matrices,
    seed: u64,
    root: Builder<'a>,
}

impl Attach<'_> {
    fn layer(&mut self, path: &str, layer: &mut dyn AdaptableLayer) -> Option<AdaptedModule> {
        let adapter = self.adapter(path)?;
        let base = layer.base_mut();
        let adapter = if self.config.use_dora { adapter.with_dora(base.matrix(), None) } else { adapter };
        let adapted = AdaptedModule::of(path, base.shape(), &adapter);
        base.freeze_weight();
        base.set_bias_trains(self.config.bias != Bias::None);
        *layer.adapter_mut() = Some(adapter);
        Some(adapted)
    }

    fn adapter(&mut self, path: &str) -> Option<LoraAdapter> {
        let module = self.modules.iter().find(|m| m.path == path)?;
        let matrices = match self.initial.remove(path) {
            Some(matrices) => matrices.map(|data| init::parameter(data, self.root.device())),
            None => {
                let method = self.config.init_lora_weights;
                init::random(method, module.shape, module.rank, self.seed, &self.root.at(path))
            }
        };
        Some(LoraAdapter::new(matrices, module.scaling, self.config.lora_dropout, path))
    }
}

/// Freezes every base weight of the backbone but the biases and modules that `config` lets train; decoder and head keep
/// what they do. Returns what the user should know.
///
/// Parameters at the paths `fixed` stay frozen whatever `config` says.
///
/// # Errors
/// A module of `modules_to_save` that is stored in 4 bits.
pub(crate) fn freeze_base<M: NamedModule + VisitLayers>(
    model: M,
    config: &LoraConfig,
    adapted: &[&str],
    fixed: &BTreeSet<String>,
) -> Result<(M, Vec<String>), ModelError> {
    let (naming, paths) = (model.naming(), model.module_paths());
    let entries = config.modules_to_save.as_deref().unwrap_or_default();
    let saved_by = |path: &str| {
        let spellings = paths.spellings(path);
        entries.iter().find(|e| spellings.iter().any(|p| is_saved(p, e)))
    };
    let mut packed = None;
    model.visit_linears(&mut |path, linear| {
        if packed.is_none() && linear.is_quantized() && saved_by(path).is_some() {
            packed = Some(path.to_owned());
        }
    });
    if let Some(path) = packed {
        let message = format!(
            "{path} is stored in 4 bits and cannot train; name it in model.quantization.skip_modules, or leave it out"
        );
        return Err(ModelError::key("lora.modules_to_save", message));
    }
    let adapted: BTreeSet<String> = adapted.iter().map(|path| format!("{path}.bias")).collect();
    let trains = |p: &ParameterInfo| match p.group {
        Group::Decoder | Group::Head => p.trainable,
        Group::Adapter => true,
        Group::Backbone => {
            let path = naming.below_backbone(&p.name);
            let module = path.rsplit_once('.').map_or("", |(module, _)| module);
            (saved_by(module).is_some() && !fixed.contains(path))
                || (config.bias == Bias::All && path.ends_with(".bias"))
                || (config.bias == Bias::LoraOnly && adapted.contains(path))
        }
    };
    let parameters = named_parameters(&model);
    let unused = |entry: &&String| {
        let backbone = parameters.iter().filter(|p| p.group == Group::Backbone);
        let mut modules = backbone.filter_map(|p| naming.below_backbone(&p.name).rsplit_once('.').map(|(m, _)| m));
        !modules.any(|m| paths.spellings(m).iter().any(|p| is_saved(p, entry)))
    };
    let unused = entries.iter().filter(unused).filter(|entry| !names_head(entry, paths));
    let notes = unused.map(|e| format!("lora.modules_to_save: `{e}` matches no module of the backbone")).collect();
    Ok((set_trainable(model, trains), notes))
}

/// Whether an entry of `modules_to_save` names a head or another part that heatmaps do not need.
fn names_head(entry: &str, paths: ModulePaths) -> bool {
    let path = format!("{entry}.");
    paths.family().is_some_and(|family| family.is_carried(&path) || family.is_beside(&path, false))
}

/// Modules of the backbone that an entry of `modules_to_save` names and that lie directly in another one that is named.
/// PEFT wraps both, and computes with the inner module as the base has it: what it saves of it has no effect.
pub(crate) fn nested_modules<M: NamedModule + VisitLayers>(model: &M, config: &LoraConfig) -> BTreeSet<String> {
    let (naming, paths) = (model.naming(), model.module_paths());
    let entries = config.modules_to_save.as_deref().unwrap_or_default();
    let named = |path: &str| entries.iter().any(|e| !e.is_empty() && path.ends_with(e.as_str()));
    let nested = |path: &str| {
        let ends = path.match_indices('.').map(|(i, _)| i).chain([path.len()]);
        let all: Vec<&str> = ends.map(|end| &path[..end]).collect();
        all.windows(2).any(|pair| named(pair[0]) && named(pair[1]))
    };
    let parameters = named_parameters(model).into_iter().filter(|p| p.group == Group::Backbone);
    let modules = parameters.filter_map(|p| Some(naming.below_backbone(&p.name).rsplit_once('.')?.0.to_owned()));
    modules.filter(|path| paths.spellings(path).iter().any(|path| nested(path))).collect()
}

/// Checks the values of a `lora` section.
///
/// # Errors
/// Names the first key whose value cannot work.
pub fn validate(config: &LoraConfig) -> Result<(), ModelError> {
    match config.problems().into_iter().next() {
        Some((key, message)) => Err(ModelError::key(format!("lora.{key}"), message)),
        None => Ok(()),
    }
}

/// Refuses what only a build from a configuration can see.
///
/// # Errors
/// Initial values that are computed from float weights where there are none, or `loftq` without 4-bit storage.
pub(crate) fn check_init(method: InitMethod, quantized: bool, streamed: bool) -> Result<(), ModelError> {
    let refuse = |message: String| Err(ModelError::key("lora.init_lora_weights", message));
    if method == InitMethod::Loftq && !quantized {
        return refuse("is loftq, which makes up for what 4-bit storage loses: enable quantization".to_owned());
    }
    if method.reads_weights() && streamed {
        return refuse(format!(
            "is {method}, computed from float weights, which quantization.mode hf never holds: use manual"
        ));
    }
    Ok(())
}

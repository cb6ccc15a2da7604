//! Compares adapter directories, and rewrites one as a plain LoRA adapter.

use std::fmt;

use burn::tensor::{Tensor, TensorData};
use tracknet_kernels::host_device;
use tracknet_kernels::matmul::matmul;

use crate::config::{Bias, InitMethod, LoraConfig, Pattern, TargetModules};
use crate::error::Result;
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::state::NamedModule;

use super::peft::{AdapterFile, Parts};
use super::peft_config::PeftConfig;
use super::peft_names::for_peft;
use crate::models::lora::VisitLayers;
use crate::models::lora::init::{self, Matrices};
use crate::models::lora::plan::PlannedModule;
use crate::models::lora::ranks::Ranks;
use crate::models::lora::targets::{is_named, is_saved};

/// What two adapter directories differ in.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AdapterDifference {
    /// Settings that differ, with both values.
    pub settings: Vec<String>,
    /// Modules and parameters of the first that the second lacks.
    pub only_first: Vec<String>,
    /// Modules and parameters of the second that the first lacks.
    pub only_second: Vec<String>,
    /// Updates `s·B·A`, magnitudes and parameters that both have and that are not equal.
    pub tensors: Vec<TensorDifference>,
}

/// How far two tensors are apart.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorDifference {
    /// The module or parameter.
    pub name: String,
    /// Largest difference; infinite when the shapes differ.
    pub max: f32,
    /// Mean difference.
    pub mean: f32,
    /// Largest value of the first.
    pub largest: f32,
}

impl AdapterDifference {
    /// Whether the two compute the same.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for AdapterDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return write!(f, "the adapters are equal");
        }
        let mut lines = self.settings.clone();
        lines.extend(self.only_first.iter().map(|name| format!("only in the first: {name}")));
        lines.extend(self.only_second.iter().map(|name| format!("only in the second: {name}")));
        lines.extend(self.tensors.iter().map(|t| {
            let TensorDifference { name, max, mean, largest } = t;
            format!("{name}: max {max:.3e}, mean {mean:.3e} (largest value {largest:.3e})")
        }));
        write!(f, "{}", lines.join("\n"))
    }
}

/// Compares two adapters by what they compute: `s·B·A` of each module, not the matrices, which can be turned at will.
///
/// # Errors
/// A pattern that is no regular expression, or matrices that do not fit each other or their configuration, which no model
/// could load.
pub fn compare_adapters(first: &AdapterFile, second: &AdapterFile) -> Result<AdapterDifference> {
    let mut found = AdapterDifference { settings: settings(first, second), ..AdapterDifference::default() };
    let (ranks, other_ranks) = (Ranks::new(&first.config.lora)?, Ranks::new(&second.config.lora)?);
    for (path, parts) in &first.modules {
        let update = first.update_of(path, parts, &ranks)?;
        let Some(other) = second.modules.get(path) else {
            found.only_first.push(path.clone());
            continue;
        };
        let other_update = second.update_of(path, other, &other_ranks)?;
        found.tensors.extend(difference(&format!("{path} (s·B·A)"), &update, &other_update));
        // Each is there where its configuration says `use_dora`, which differs otherwise.
        if let (Some(a), Some(b)) = (&parts.magnitude, &other.magnitude) {
            found.tensors.extend(difference(&format!("{path}.lora_magnitude_vector"), a, b));
        }
    }
    for (path, parts) in second.modules.iter().filter(|(path, _)| !first.modules.contains_key(*path)) {
        second.update_of(path, parts, &other_ranks)?;
    }
    found.only_second.extend(second.modules.keys().filter(|p| !first.modules.contains_key(*p)).cloned());
    for (path, data) in &first.parameters {
        match second.parameters.get(path) {
            Some(other) => found.tensors.extend(difference(path, data, other)),
            None => found.only_first.push(path.clone()),
        }
    }
    found.only_second.extend(second.parameters.keys().filter(|p| !first.parameters.contains_key(*p)).cloned());
    Ok(found)
}

/// Settings that change what is computed, where they differ, and what a configuration promises that no tensor holds.
/// Ranks, scales and targets show in the updates.
fn settings(first: &AdapterFile, second: &AdapterFile) -> Vec<String> {
    let (a, b) = (&first.config.lora, &second.config.lora);
    let pairs = [
        ("bias", a.bias.to_string(), b.bias.to_string()),
        ("use_dora", a.use_dora.to_string(), b.use_dora.to_string()),
        ("init_lora_weights", base_change(&first.config), base_change(&second.config)),
    ];
    let differ = pairs.into_iter().filter(|(_, a, b)| a != b);
    let differ = differ.map(|(key, a, b)| format!("{key}: {a} in the first, {b} in the second"));
    let (first_absent, second_absent) = (first.absent(), second.absent());
    let absent = [("first", &first_absent), ("second", &second_absent)];
    let absent =
        absent.into_iter().flat_map(|(which, names)| names.iter().map(move |name| format!("{name} ({which})")));
    differ.chain(absent).collect()
}

/// The start, where it changed the base.
fn base_change(config: &PeftConfig) -> String {
    match (config.lora.init_lora_weights, &config.loftq) {
        (InitMethod::Loftq, Some(base)) => base.to_string(),
        (InitMethod::Loftq, None) => format!("loftq of PEFT after {} turns", config.lora.loftq_config.loftq_iter),
        (start, _) if start.reads_weights() => start.to_string(),
        _ => "base unchanged".to_owned(),
    }
}

fn difference(name: &str, first: &TensorData, second: &TensorData) -> Option<TensorDifference> {
    if first.shape() != second.shape() {
        return Some(TensorDifference { name: name.to_owned(), max: f32::INFINITY, mean: f32::NAN, largest: 0.0 });
    }
    let (mut max, mut sum, mut largest, mut count) = (0f32, 0f64, 0f32, 0usize);
    for (a, b) in first.iter::<f32>().zip(second.iter::<f32>()) {
        let apart = (a - b).abs();
        max = max.max(apart);
        sum += f64::from(apart);
        largest = largest.max(a.abs());
        count += 1;
    }
    let mean = (sum / count.max(1) as f64) as f32;
    (max > 0.0).then(|| TensorDifference { name: name.to_owned(), max, mean, largest })
}

/// Rewrites an adapter as a plain LoRA adapter on the untouched base: an rsLoRA scale becomes `lora_alpha / r`, and an
/// initialization that changed the base (`pissa`, `olora`) becomes part of the update, at twice the rank. It needs the
/// float weights of `base`.
///
/// # Errors
/// DoRA, which is no low-rank update; LoftQ, whose base is none either; a base that is missing, packed or another.
pub fn convert_adapter<M: NamedModule + VisitLayers + Clone>(
    mut file: AdapterFile,
    base: Option<&M>,
) -> Result<AdapterFile> {
    let lora = file.config.lora.clone();
    let (ranks, paths) = (Ranks::new(&lora)?, file.paths);
    let mut initial = changes_of_base(&file, base)?;
    let mut plain = Vec::new();
    for (path, parts) in &mut file.modules {
        let (own_rank, scaling) = ranks.of(path, paths)?;
        let rank = match initial.as_mut().map(|initial| initial.remove(path)) {
            Some(Some(initial)) => {
                parts.subtract(initial);
                2 * own_rank
            }
            Some(None) => {
                let message = format!("{path}: the base has no such linear layer");
                return Err(ModelError::Tensors { path: file.path, problems: vec![message] }.into());
            }
            None => own_rank,
        };
        let scale = scaling.factor(own_rank);
        plain.push(PlainModule { path: path.clone(), rank, alpha: (f64::from(scale) * rank as f64) as f32 });
    }
    file.config = file.config.with_lora(plain_section(lora, &plain, paths));
    if let Some(base) = base {
        file.config = for_peft(&file.config, base, &file.modules.keys().cloned().collect())?;
    }
    Ok(file)
}

/// A module of an adapter without a start and a scale of its own.
struct PlainModule {
    path: String,
    rank: usize,
    /// `lora_alpha`: the scale is this by the rank.
    alpha: f32,
}

/// The initial matrices of each module of an adapter that changed the weights of its base with them; `None` if it did not.
///
/// # Errors
/// An adapter that no plain one equals, or a base that is needed and missing.
fn changes_of_base<M: NamedModule + VisitLayers + Clone>(
    file: &AdapterFile,
    base: Option<&M>,
) -> Result<Option<Matrices>> {
    let refuse = |message: &str| Err(ModelError::file(file.path(), message).into());
    let lora = &file.config.lora;
    if lora.use_dora {
        return refuse("is a DoRA adapter, which no plain LoRA adapter equals; merge it instead");
    }
    match (lora.init_lora_weights, base) {
        (InitMethod::Loftq, _) => {
            refuse("began with loftq: its base is a quantized one that no adapter can make up for; merge it instead")
        }
        (method @ (InitMethod::Pissa | InitMethod::Olora), Some(base)) => {
            let modules = file.planned(base)?;
            Ok(Some(init::split(method, &mut base.clone(), &modules)?))
        }
        (InitMethod::Pissa | InitMethod::Olora, None) => {
            refuse("changed the weights of its base when it began: the base is needed (--base)")
        }
        _ => Ok(None),
    }
}

/// The `lora` section of these modules: what most of an adapter has is that of the first one, the others are patterns.
fn plain_section(lora: LoraConfig, modules: &[PlainModule], paths: ModulePaths) -> LoraConfig {
    let (r, lora_alpha) = modules.first().map_or((lora.r, lora.lora_alpha), |first| (first.rank, first.alpha));
    let key = |module: &PlainModule| regex::escape(&paths.in_memory(&module.path));
    let ranks = modules.iter().filter(|module| module.rank != r);
    let alphas = modules.iter().filter(|module| module.alpha != lora_alpha);
    LoraConfig {
        r,
        lora_alpha,
        rank_pattern: Pattern(ranks.map(|module| (key(module), module.rank)).collect()),
        alpha_pattern: Pattern(alphas.map(|module| (key(module), module.alpha)).collect()),
        use_rslora: false,
        init_lora_weights: InitMethod::Kaiming,
        ..lora
    }
}

impl AdapterFile {
    /// The linear layers of the adapter in a model, with the ranks of its configuration.
    pub(crate) fn planned<M: VisitLayers>(&self, model: &M) -> Result<Vec<PlannedModule>> {
        let (ranks, paths) = (Ranks::new(&self.config.lora)?, model.module_paths());
        let mut found = Vec::new();
        model.visit_linears(&mut |path, linear| {
            if self.modules.contains_key(path) {
                found.push((path.to_owned(), linear.shape()));
            }
        });
        let planned = |(path, shape): (String, [usize; 2])| {
            let (rank, scaling) = ranks.of(&path, paths)?;
            Ok(PlannedModule { path, shape, rank, scaling })
        };
        found.into_iter().map(planned).collect()
    }

    /// `s·B·A` of a module.
    fn update_of(&self, path: &str, parts: &Parts, ranks: &Ranks) -> Result<TensorData> {
        let (rank, scaling) = ranks.of(path, self.paths)?;
        let problem = match parts.update(scaling.factor(rank)) {
            Ok(update) if parts.rank() == Some(rank) => return Ok(update),
            Ok(_) => format!("{path}: its matrices have rank {}, expected {rank}", parts.rank().unwrap_or_default()),
            Err(problem) => format!("{path}: {problem}"),
        };
        Err(ModelError::Tensors { path: self.path.clone(), problems: vec![problem] }.into())
    }

    /// What its configuration promises by name and no tensor holds.
    fn absent(&self) -> Vec<String> {
        let lora = &self.config.lora;
        let named = |path: &str, entry: &str| self.paths.spellings(path).iter().any(|path| is_named(path, entry));
        let mut found = Vec::new();
        if let Some(TargetModules::List(list)) = &lora.target_modules {
            let absent = list.iter().filter(|entry| !self.modules.keys().any(|path| named(path, entry)));
            found.extend(absent.map(|entry| format!("target_modules: `{entry}` has no tensor")));
        }
        // PEFT adds the names of heads by itself, whether a model has them or not.
        let saved =
            lora.modules_to_save.iter().flatten().filter(|entry| !["classifier", "score"].contains(&entry.as_str()));
        let has = |entry: &str| {
            let modules = self.parameters.keys().filter_map(|path| Some(path.rsplit_once('.')?.0));
            modules.flat_map(|path| self.paths.spellings(path)).any(|path| is_saved(&path, entry))
        };
        found
            .extend(saved.filter(|entry| !has(entry)).map(|entry| format!("modules_to_save: `{entry}` has no tensor")));
        if lora.bias != Bias::None && !self.parameters.keys().any(|path| path.ends_with(".bias")) {
            found.push(format!("bias: {} has no tensor", lora.bias));
        }
        found
    }
}

impl Parts {
    /// `s·B·A` as `[out, in]`, or why the matrices do not fit each other.
    pub(crate) fn update(&self, scale: f32) -> Result<TensorData, String> {
        let Self { a: Some(a), b: Some(b), .. } = self.as_rows() else { return Err("lacks a matrix".to_owned()) };
        let matrix = |data: &TensorData| <[usize; 2]>::try_from(data.shape().to_vec()).ok();
        match (matrix(&a), matrix(&b)) {
            (Some([rank, _]), Some([_, columns])) if rank == columns => {
                let device = host_device();
                let tensor = |data: TensorData| Tensor::<2>::from_data(data, &device);
                Ok(matmul(tensor(b), tensor(a)).mul_scalar(scale).into_data())
            }
            _ => {
                let (a, b) = (a.shape().to_vec(), b.shape().to_vec());
                Err(format!("lora_A {a:?} and lora_B {b:?} do not fit each other"))
            }
        }
    }

    /// Rows of `A`.
    fn rank(&self) -> Option<usize> {
        self.a.as_ref()?.shape().first().copied()
    }

    /// `B·A − B₀·A₀` as one pair of matrices: `[B, −B₀] · [A; A₀]`.
    fn subtract(&mut self, [a0, b0]: [TensorData; 2]) {
        let device = host_device();
        let tensor = |data: TensorData| Tensor::<2>::from_data(data, &device);
        let (Some(a), Some(b)) = (self.a.take(), self.b.take()) else { return };
        self.a = Some(Tensor::cat(vec![tensor(a), tensor(a0)], 0).into_data());
        self.b = Some(Tensor::cat(vec![tensor(b), tensor(b0).neg()], 1).into_data());
    }
}

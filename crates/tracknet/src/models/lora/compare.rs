//! Compares adapter directories, and rewrites one as a plain LoRA adapter.

use std::fmt;

use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{InitMethod, LoraConfig, Pattern};
use crate::error::Result;
use crate::models::ModelError;
use crate::models::projection::VisitProjections;
use crate::models::state::NamedModule;

use super::first::FromWeights;
use super::peft::{AdapterFile, Parts};
use super::peft_names::for_peft;
use super::ranks::Ranks;
use super::wrapper::PlannedModule;

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
/// A pattern that is no regular expression, or a device that cannot be read.
pub fn compare_adapters(first: &AdapterFile, second: &AdapterFile) -> Result<AdapterDifference> {
    let mut found = AdapterDifference { settings: settings(first, second), ..AdapterDifference::default() };
    let (ranks, other_ranks) = (Ranks::new(&first.config.lora)?, Ranks::new(&second.config.lora)?);
    for (path, parts) in &first.modules {
        let Some(other) = second.modules.get(path) else {
            found.only_first.push(path.clone());
            continue;
        };
        let scale = |ranks: &Ranks| {
            let (rank, scaling) = ranks.of(path, first.paths);
            scaling.factor(rank)
        };
        let [update, other_update] = [(parts, scale(&ranks)), (other, scale(&other_ranks))].map(|(p, s)| p.update(s));
        found.tensors.extend(difference(&format!("{path} (s·B·A)"), update.as_ref(), other_update.as_ref()));
        let name = format!("{path}.lora_magnitude_vector");
        found.tensors.extend(difference(&name, parts.magnitude.as_ref(), other.magnitude.as_ref()));
    }
    found.only_second.extend(second.modules.keys().filter(|p| !first.modules.contains_key(*p)).cloned());
    for (path, data) in &first.parameters {
        match second.parameters.get(path) {
            Some(other) => found.tensors.extend(difference(path, Some(data), Some(other))),
            None => found.only_first.push(path.clone()),
        }
    }
    found.only_second.extend(second.parameters.keys().filter(|p| !first.parameters.contains_key(*p)).cloned());
    Ok(found)
}

/// Settings that change what is computed, where they differ. Ranks, scales and targets show in the updates.
fn settings(first: &AdapterFile, second: &AdapterFile) -> Vec<String> {
    let (a, b) = (&first.config.lora, &second.config.lora);
    let pairs = [
        ("bias", a.bias.clone(), b.bias.clone()),
        ("use_dora", a.use_dora.to_string(), b.use_dora.to_string()),
        ("init_lora_weights", base_change(a), base_change(b)),
    ];
    let differ = pairs.into_iter().filter(|(_, a, b)| a != b);
    differ.map(|(key, a, b)| format!("{key}: {a} in the first, {b} in the second")).collect()
}

/// The start, where it changed the base.
fn base_change(lora: &LoraConfig) -> String {
    if lora.init_lora_weights.reads_weights() {
        lora.init_lora_weights.to_string()
    } else {
        "base unchanged".to_owned()
    }
}

fn difference(name: &str, first: Option<&TensorData>, second: Option<&TensorData>) -> Option<TensorDifference> {
    let (first, second) = match (first, second) {
        (None, None) => return None,
        (Some(a), Some(b)) if a.shape() == b.shape() => (a, b),
        _ => return Some(TensorDifference { name: name.to_owned(), max: f32::INFINITY, mean: f32::NAN, largest: 0.0 }),
    };
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

/// Rewrites an adapter as a plain LoRA adapter on the untouched base: an rsLoRA scale becomes `lora_alpha / r`, and a
/// start that changed the base (`pissa`, `olora`) becomes part of the update, at twice the rank. Such a start needs the
/// float weights of `base`.
///
/// # Errors
/// DoRA, which is no low-rank update; several turns of LoftQ, whose base is none either; a base that is missing, packed
/// or another.
pub fn convert_adapter<M: NamedModule + VisitProjections + Clone>(
    mut file: AdapterFile,
    base: Option<&M>,
) -> Result<AdapterFile> {
    let refuse = |message: &str| Err(ModelError::file(file.path(), message).into());
    let lora = file.config.lora.clone();
    if lora.use_dora {
        return refuse("is a DoRA adapter, which no plain LoRA adapter equals; merge it instead");
    }
    let redo = lora.init_lora_weights == InitMethod::Loftq && lora.loftq_config.loftq_iter > 1;
    if redo {
        return refuse(
            "started with several turns of loftq: its base is a quantized one that no adapter can make up for",
        );
    }
    let changed = matches!(lora.init_lora_weights, InitMethod::Pissa | InitMethod::Olora);
    let mut first = match (changed, base) {
        (false, _) => Default::default(),
        (true, Some(base)) => {
            let modules = file.planned(base)?;
            FromWeights { method: lora.init_lora_weights, iterations: 1, format: None }
                .run(&mut base.clone(), &modules)?
        }
        (true, None) => return refuse("changed the weights of its base when it began: the base is needed (--base)"),
    };
    let ranks = Ranks::new(&lora)?;
    let mut plain: Vec<(String, usize, f32)> = Vec::new();
    let paths = file.paths;
    for (path, parts) in &mut file.modules {
        let (rank, scaling) = ranks.of(path, paths);
        let rank = match first.remove(path) {
            Some(start) => {
                parts.subtract(start);
                2 * rank
            }
            None if changed => {
                let message = format!("{path}: the base has no such linear layer");
                return Err(ModelError::Tensors { path: file.path, problems: vec![message] }.into());
            }
            None => rank,
        };
        let scale = scaling.factor(ranks.of(path, paths).0);
        plain.push((path.clone(), rank, (f64::from(scale) * rank as f64) as f32));
    }
    let (r, lora_alpha) = plain.first().map_or((lora.r, lora.lora_alpha), |(_, rank, alpha)| (*rank, *alpha));
    let key = |path: &str| regex::escape(&paths.in_memory(path));
    let others = |differs: &dyn Fn(usize, f32) -> bool| {
        plain.iter().filter(|(_, rank, alpha)| differs(*rank, *alpha)).collect::<Vec<_>>()
    };
    let rank_pattern = others(&|rank, _| rank != r).into_iter().map(|(path, rank, _)| (key(path), *rank)).collect();
    let alpha_pattern =
        others(&|_, alpha| alpha != lora_alpha).into_iter().map(|(path, _, alpha)| (key(path), *alpha)).collect();
    let config = LoraConfig {
        r,
        lora_alpha,
        rank_pattern: Pattern(rank_pattern),
        alpha_pattern: Pattern(alpha_pattern),
        use_rslora: false,
        init_lora_weights: InitMethod::Kaiming,
        ..lora
    };
    file.config = file.config.with_lora(config);
    if let Some(base) = base {
        file.config = for_peft(&file.config, base, &file.modules.keys().cloned().collect())?;
    }
    Ok(file)
}

impl AdapterFile {
    /// The modules of the adapter in a model, with the ranks of its configuration.
    pub(super) fn planned<M: VisitProjections>(&self, model: &M) -> Result<Vec<PlannedModule>> {
        let (ranks, paths) = (Ranks::new(&self.config.lora)?, model.module_paths());
        let mut modules = Vec::new();
        model.visit_projections(&mut |path, projection| {
            if self.modules.contains_key(path) {
                let (rank, scaling) = ranks.of(path, paths);
                modules.push(PlannedModule { path: path.to_owned(), shape: projection.shape(), rank, scaling });
            }
        });
        Ok(modules)
    }
}

impl Parts {
    /// `s·B·A`, or nothing when the matrices do not fit each other.
    pub(super) fn update(&self, scale: f32) -> Option<TensorData> {
        let (a, b) = (self.a.clone()?, self.b.clone()?);
        let matrix = |data: &TensorData| <[usize; 2]>::try_from(data.shape().to_vec()).ok();
        let ([rank, _], [_, columns]) = (matrix(&a)?, matrix(&b)?);
        let device = Device::default();
        let tensor = |data: TensorData| Tensor::<2>::from_data(data, &device);
        (rank == columns).then(|| tensor(b).matmul(tensor(a)).mul_scalar(scale).into_data())
    }

    /// `B·A − B₀·A₀` as one pair of matrices: `[B, −B₀] · [A; A₀]`.
    fn subtract(&mut self, [a0, b0]: [TensorData; 2]) {
        let device = Device::default();
        let tensor = |data: TensorData| Tensor::<2>::from_data(data, &device);
        let (Some(a), Some(b)) = (self.a.take(), self.b.take()) else { return };
        self.a = Some(Tensor::cat(vec![tensor(a), tensor(a0)], 0).into_data());
        self.b = Some(Tensor::cat(vec![tensor(b), tensor(b0).neg()], 1).into_data());
    }
}

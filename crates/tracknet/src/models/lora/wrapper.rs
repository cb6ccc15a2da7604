//! Puts adapters on a model and freezes the rest.

use std::fmt;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::Tensor;

use crate::config::{LoraConfig, TargetModules};
use crate::models::ModelError;
use crate::models::init::{Builder, RandomSource};
use crate::models::projection::{Projection, VisitProjections};

use super::adapter::LoraAdapter;
use super::targets::{Candidate, select};

/// Which modules were adapted, and what the user should know about it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoraReport {
    /// In the order of the model.
    pub adapted: Vec<AdaptedModule>,
    /// Translated names, entries that matched nothing, ranks that are larger than they need to be.
    pub notes: Vec<String>,
}

/// One adapted projection.
#[derive(Debug, Clone, PartialEq)]
pub struct AdaptedModule {
    /// The path below the backbone.
    pub path: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// Columns of `B`.
    pub rank: usize,
    /// The factor in front of `B(A(x))`.
    pub scale: f32,
}

impl fmt::Display for LoraReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let added: usize = self.adapted.iter().map(|m| m.rank * (m.shape[0] + m.shape[1])).sum();
        write!(f, "adapted {} modules, {added} adapter parameters", self.adapted.len())?;
        self.notes.iter().try_for_each(|note| write!(f, "\n{note}"))
    }
}

/// Freezes every parameter of `model` and adds an adapter to each projection that `targets`, or else
/// `config.target_modules`, names; `config.bias` says which biases train besides.
///
/// `seed` decides the first values of the adapters, whatever else the model holds.
///
/// # Errors
/// A value of `config` that cannot work, or targets that match nothing.
pub fn apply_lora_to_model<M: Module + VisitProjections>(
    model: M,
    config: &LoraConfig,
    targets: Option<&[String]>,
    seed: u64,
) -> Result<(M, LoraReport), ModelError> {
    validate(config)?;
    let list = targets.map(|t| TargetModules::List(t.to_vec()));
    let mut candidates = Vec::new();
    model.visit_projections(&mut |path, p| candidates.push(Candidate { path: path.to_owned(), role: p.role() }));
    let selection = select(list.as_ref().or(config.target_modules.as_ref()), &candidates, model.peft_prefix())?;

    let mut model = model.freeze();
    if config.bias == "all" {
        model = model.map(&mut UnfreezeBiases::default());
    }
    let device = model.devices().into_iter().next().unwrap_or_default();
    let source = RandomSource { seed };
    let builder = Builder::new(&source, &device);
    let mut report = LoraReport { adapted: Vec::new(), notes: selection.notes };
    model.visit_projections_mut(&mut |path, projection| {
        if selection.paths.iter().any(|p| p == path) {
            adapt(path, projection, config, &builder, &mut report);
        }
    });
    Ok((model, report))
}

fn adapt(path: &str, projection: &mut Projection, config: &LoraConfig, builder: &Builder<'_>, report: &mut LoraReport) {
    let shape = projection.shape();
    if config.r > shape[0].min(shape[1]) {
        let [output, input] = shape;
        report
            .notes
            .push(format!("lora.r: {} is larger than the smaller side of {path} [{output}, {input}]", config.r));
    }
    let adapter = LoraAdapter::new(shape, config, &builder.at(path));
    report.adapted.push(AdaptedModule { path: path.to_owned(), shape, rank: adapter.rank(), scale: adapter.scale() });
    projection.adapter = Some(adapter);
    if config.bias == "lora_only" {
        projection.bias = projection.bias.take().map(|b| b.set_require_grad(true));
    }
}

/// Checks the values of a `lora` section.
///
/// # Errors
/// Names the first key whose value cannot work.
pub fn validate(config: &LoraConfig) -> Result<(), ModelError> {
    let refuse = |key: &str, message: String| Err(ModelError::key(format!("lora.{key}"), message));
    if config.r == 0 {
        return refuse("r", "is 0, expected a positive rank".to_owned());
    }
    if config.lora_alpha.is_nan() || config.lora_alpha <= 0.0 {
        return refuse("lora_alpha", format!("is {}, expected a positive number", config.lora_alpha));
    }
    if !(0.0..=1.0).contains(&config.lora_dropout) {
        return refuse("lora_dropout", format!("is {}, expected 0 ≤ lora_dropout ≤ 1", config.lora_dropout));
    }
    if !["none", "all", "lora_only"].contains(&config.bias.as_str()) {
        return refuse("bias", format!("is `{}`, expected none, all or lora_only", config.bias));
    }
    Ok(())
}

/// Makes every parameter called `bias` trainable.
#[derive(Default)]
struct UnfreezeBiases {
    path: Vec<String>,
}

impl ModuleMapper for UnfreezeBiases {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.path.last().is_some_and(|name| name == "bias") { param.set_require_grad(true) } else { param }
    }
}

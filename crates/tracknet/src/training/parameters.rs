//! The bridge between a model's parameters and the names by which optimizer, freezing and checkpoints know them.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor};

use crate::models::HeatmapModel;
use crate::models::state::{ParameterGroup, named_parameters};

use super::gradients::NamedGradients;
use super::optimizer::{ParameterKind, Part};

/// One parameter that the configuration lets train.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainableParameter {
    /// Its name in the model, such as `backbone.layer.0.attention.q_proj.lora_A.weight`.
    pub name: String,
    /// Its part and kind.
    pub kind: ParameterKind,
    /// Number of values.
    pub elements: usize,
}

/// Every parameter that the configuration lets train, whatever is frozen at the moment.
///
/// Taken from the model as it was built: what requires a gradient there is what may ever train.
#[derive(Debug, Clone)]
pub struct ParameterTable {
    by_id: HashMap<ParamId, TrainableParameter>,
}

impl ParameterTable {
    /// Reads the table off a freshly built model.
    pub fn of(model: &HeatmapModel) -> Self {
        let parameters = named_parameters(model).into_iter().filter(|p| p.trainable);
        let entry = |p: crate::models::state::ParameterInfo| {
            let part = match p.group {
                ParameterGroup::Backbone => Part::Backbone,
                ParameterGroup::Adapter => Part::Adapter,
                ParameterGroup::Decoder | ParameterGroup::Head => Part::Head,
            };
            let kind = ParameterKind { part, bias_or_norm: p.shape.len() < 2 };
            (p.id, TrainableParameter { name: p.name, kind, elements: p.shape.iter().product() })
        };
        Self { by_id: parameters.map(entry).collect() }
    }

    /// The parameters in the order of their names.
    pub fn sorted(&self) -> Vec<&TrainableParameter> {
        let mut all: Vec<_> = self.by_id.values().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Element counts by name.
    pub fn lengths(&self) -> BTreeMap<String, usize> {
        self.by_id.values().map(|p| (p.name.clone(), p.elements)).collect()
    }

    /// Switches gradients on for the parameters that `active` says, and off for the others of the table.
    /// Parameters outside the table are never touched: a frozen base stays frozen.
    pub fn set_active(&self, model: HeatmapModel, active: impl Fn(&TrainableParameter) -> bool) -> HeatmapModel {
        model.map(&mut Activate { table: self, active })
    }

    /// Takes the gradients of a backward pass, flat and by name.
    pub fn gradients(&self, model: &HeatmapModel, gradients: &mut Gradients) -> NamedGradients {
        let mut collect = Collect { table: self, gradients, found: NamedGradients::default() };
        model.visit(&mut collect);
        collect.found
    }

    /// Replaces the value of every parameter that has a gradient by `update(parameter, value, gradient)`.
    pub fn update(
        &self,
        model: HeatmapModel,
        gradients: NamedGradients,
        update: impl FnMut(&TrainableParameter, Tensor<1>, Tensor<1>) -> Tensor<1>,
    ) -> HeatmapModel {
        model.map(&mut Update { table: self, gradients, update })
    }
}

struct Activate<'a, F> {
    table: &'a ParameterTable,
    active: F,
}

impl<F: Fn(&TrainableParameter) -> bool> ModuleMapper for Activate<'_, F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.table.by_id.get(&param.id) {
            // A fresh leaf: a tensor that was tracked before may not be switched off in place.
            Some(entry) => param.map(Tensor::detach).set_require_grad((self.active)(entry)),
            None => param,
        }
    }
}

struct Collect<'a> {
    table: &'a ParameterTable,
    gradients: &'a mut Gradients,
    found: NamedGradients,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(entry) = self.table.by_id.get(&param.id) else { return };
        if let Some(gradient) = param.val().grad_remove(self.gradients) {
            self.found.0.insert(entry.name.clone(), gradient.reshape([entry.elements]));
        }
    }
}

struct Update<'a, F> {
    table: &'a ParameterTable,
    gradients: NamedGradients,
    update: F,
}

impl<F: FnMut(&TrainableParameter, Tensor<1>, Tensor<1>) -> Tensor<1>> ModuleMapper for Update<'_, F> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(entry) = self.table.by_id.get(&param.id) else { return param };
        let Some(gradient) = self.gradients.0.remove(&entry.name) else { return param };
        param.map(|tensor| {
            let shape = tensor.dims();
            let device = tensor.device();
            let value = tensor.inner().reshape([entry.elements]);
            let value = (self.update)(entry, value, gradient).reshape(shape);
            Tensor::from_inner(value).to_device(&device).require_grad()
        })
    }
}

//! The bridge between a model's parameters and the names by which optimizer, freezing and checkpoints know them.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor};

use crate::models::state::{Group, NamedModule, ParameterInfo, ParameterVisitor, visit_parameters};

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
    pub fn of<M: NamedModule>(model: &M) -> Self {
        let mut table = Self { by_id: HashMap::new() };
        visit_parameters(model, &mut table);
        table
    }

    /// The parameters in the order of their names.
    pub fn sorted(&self) -> Vec<&TrainableParameter> {
        let mut all: Vec<_> = self.by_id.values().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether a parameter of `part` may train.
    pub(super) fn trains(&self, part: Part) -> bool {
        self.by_id.values().any(|p| p.kind.part == part)
    }

    /// Element counts by name.
    pub fn lengths(&self) -> BTreeMap<String, usize> {
        self.by_id.values().map(|p| (p.name.clone(), p.elements)).collect()
    }

    /// Switches gradients on for the parameters that `active` says, and off for the others of the table.
    /// Parameters outside the table are never touched: a frozen base stays frozen.
    pub fn set_active<M: Module>(&self, model: M, active: impl Fn(&TrainableParameter) -> bool) -> M {
        model.map(&mut Activate { table: self, active })
    }

    /// Takes the gradients of a backward pass, flat and by name.
    pub fn gradients<M: Module>(&self, model: &M, gradients: &mut Gradients) -> NamedGradients {
        let mut collect = Collect { table: self, gradients, found: NamedGradients::default() };
        model.visit(&mut collect);
        collect.found
    }

    /// Lets go of what a forward pass kept whose backward pass never came. Burn frees such a graph with the next backward pass
    /// through it, and that through any parameter will do.
    pub fn abandon_graph<M: Module>(&self, model: &M) {
        model.visit(&mut Abandon { table: self, done: false });
    }

    /// Replaces the value of every parameter that has a gradient by `update(parameter, value, gradient)`.
    pub fn update<M: Module>(
        &self,
        model: M,
        gradients: NamedGradients,
        update: impl FnMut(&TrainableParameter, Tensor<1>, Tensor<1>) -> Tensor<1>,
    ) -> M {
        model.map(&mut Update { table: self, gradients, update })
    }
}

impl ParameterVisitor for ParameterTable {
    fn visit<const D: usize>(&mut self, info: &ParameterInfo, parameter: &Param<Tensor<D>>) {
        if !info.trainable {
            return;
        }
        let part = match info.group {
            Group::Backbone => Part::Backbone,
            Group::Adapter => Part::Adapter,
            Group::Decoder | Group::Head => Part::Head,
        };
        let kind = ParameterKind { part, bias_or_norm: info.is_bias_or_norm() };
        let entry = TrainableParameter { name: info.name.clone(), kind, elements: info.count() };
        self.by_id.insert(parameter.id, entry);
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

struct Abandon<'a> {
    table: &'a ParameterTable,
    done: bool,
}

impl ModuleVisitor for Abandon<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.done && self.table.by_id.contains_key(&param.id) && param.is_require_grad() {
            param.val().sum().backward();
            self.done = true;
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

#[cfg(test)]
impl ParameterTable {
    /// A table of parameters with these names, kinds and numbers of values.
    pub(super) fn from_entries<const N: usize>(entries: [(ParamId, &str, ParameterKind, usize); N]) -> Self {
        let entry = |(id, name, kind, elements): (ParamId, &str, _, _)| {
            (id, TrainableParameter { name: name.to_owned(), kind, elements })
        };
        Self { by_id: HashMap::from(entries.map(entry)) }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[derive(Module, Debug)]
    struct Pair {
        a: Param<Tensor<2>>,
        b: Param<Tensor<1>>,
        frozen: Param<Tensor<1>>,
    }

    impl Pair {
        fn new() -> Self {
            let device = Device::flex().autodiff();
            Self {
                a: Param::from_tensor(Tensor::ones([2, 3], &device)),
                b: Param::from_tensor(Tensor::ones([2], &device)),
                frozen: Param::from_tensor(Tensor::ones([2], &device)).set_require_grad(false),
            }
        }

        fn loss(&self) -> Tensor<1> {
            let a = self.a.val().sum_dim(1).reshape([2]);
            (a * self.b.val() * self.frozen.val()).sum()
        }

        fn table(&self) -> ParameterTable {
            let kind = ParameterKind { part: Part::Head, bias_or_norm: false };
            ParameterTable::from_entries([(self.a.id, "a", kind, 6), (self.b.id, "b", kind, 2)])
        }
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.try_into_vec_as::<f32>().unwrap()
    }

    fn names(gradients: &NamedGradients) -> Vec<&str> {
        gradients.0.keys().map(String::as_str).collect()
    }

    #[test]
    fn an_update_changes_what_has_a_gradient_and_keeps_it_trainable() {
        let mut model = Pair::new();
        let table = model.table();
        for expected in [0.0, 1.0] {
            let gradients = table.gradients(&model, &mut model.loss().backward());
            assert_eq!(names(&gradients), ["a", "b"]);
            model = table.update(
                model,
                gradients,
                |p, value, gradient| {
                    if p.name == "a" { value - gradient } else { value }
                },
            );
            assert_eq!(values(model.a.val()), [expected - expected * 2.0; 6]);
            assert_eq!(values(model.frozen.val()), [1.0; 2]);
        }
        assert_eq!(table.lengths(), BTreeMap::from([("a".to_owned(), 6), ("b".to_owned(), 2)]));
    }

    #[test]
    fn freezing_and_unfreezing_reach_only_the_table() {
        let model = Pair::new();
        let table = model.table();
        let model = table.set_active(model, |p| p.name == "b");
        assert_eq!(names(&table.gradients(&model, &mut model.loss().backward())), ["b"]);
        let model = table.set_active(model, |_| true);
        assert_eq!(names(&table.gradients(&model, &mut model.loss().backward())), ["a", "b"]);
        assert!(!model.frozen.is_require_grad());
    }
}

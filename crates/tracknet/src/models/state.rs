//! Parameters by name: what the optimizer iterates, checkpoints hold and reports count.
//!
//! A name is `backbone.<path as transformers writes it>`, `backbone.<path>.lora_A.weight`, `decoder.…`, `head.…` or
//! `window.…`; where the Rust module nests differently, [`Naming`] translates.

use std::collections::BTreeMap;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Tensor, TensorData};

use super::backbones::{Backbone, Family};
use super::{HeatmapModel, ModelError};

/// The part of a model a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// A base weight of the backbone.
    Backbone,
    /// A matrix or magnitude of an adapter of the backbone.
    Adapter,
    /// The decoder, adapters of its convolutions included, and what embeds the earlier frames of a window.
    Decoder,
    /// The head.
    Head,
}

/// A parameter, described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterInfo {
    /// The public name.
    pub name: String,
    /// Its shape, as PyTorch has it.
    pub shape: Vec<usize>,
    /// Whether it receives a gradient now: false for everything in a model that went through `valid()`.
    pub trainable: bool,
    /// The part of the model it belongs to.
    pub group: Group,
}

impl ParameterInfo {
    /// Elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether a checkpoint must hold it: everything except base weights that do not train. Statistics of batch
    /// normalization do not train and are part of it.
    pub fn is_checkpointed(&self) -> bool {
        self.trainable || self.group != Group::Backbone
    }

    /// Whether it is a bias or belongs to a normalization, which decay may leave out.
    pub fn is_bias_or_norm(&self) -> bool {
        self.shape.len() == 1
    }
}

/// A model whose parameters have public names.
pub trait NamedModule: Module {
    /// How paths in the Rust module become names.
    fn naming(&self) -> Naming;
}

impl NamedModule for HeatmapModel {
    fn naming(&self) -> Naming {
        Naming { family: self.backbone.family(), whole: true }
    }
}

impl NamedModule for Backbone {
    fn naming(&self) -> Naming {
        Naming { family: self.family(), whole: false }
    }
}

/// From the path of a parameter in the Rust module to its public name.
#[derive(Debug, Clone, Copy)]
pub struct Naming {
    family: &'static Family,
    /// A whole model, or a backbone alone, whose names have no `backbone.` in front.
    whole: bool,
}

/// How the names of an adapter's parameters end.
const ADAPTER_ENDINGS: [&str; 3] = [".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"];

impl Naming {
    /// The name of something at a path below the backbone.
    pub fn in_backbone(&self, path: &str) -> String {
        if self.whole { format!("backbone.{path}") } else { path.to_owned() }
    }

    /// The path below the backbone of something with this name.
    pub fn below_backbone<'a>(&self, name: &'a str) -> &'a str {
        if self.whole { name.strip_prefix("backbone.").unwrap_or(name) } else { name }
    }

    fn name(&self, path: &[&str]) -> (String, Group) {
        let fields = public_fields(path);
        match fields.split_first() {
            Some((&"decoder", _)) if self.whole => (fields.join("."), Group::Decoder),
            Some((&"head", _)) if self.whole => (fields.join("."), Group::Head),
            Some((&"window", _)) if self.whole => (fields.join("."), Group::Decoder),
            _ => {
                // The backbone as a field of the model, and its network.
                let parts = if self.whole { 2 } else { 1 };
                let name = self.family.file_name(&fields[parts.min(fields.len())..].join("."));
                let is_adapter = ADAPTER_ENDINGS.iter().any(|end| name.ends_with(end));
                (self.in_backbone(&name), if is_adapter { Group::Adapter } else { Group::Backbone })
            }
        }
    }
}

/// The path of a parameter's field as names have it: what the Rust modules add (variants of enums, the base of an adapted
/// layer) is left out, and fields that files call otherwise get those names.
fn public_fields<'a>(path: &[&'a str]) -> Vec<&'a str> {
    let is_variant = |part: &str| part.starts_with(|c: char| c.is_ascii_uppercase());
    let mut fields = Vec::new();
    for (i, part) in path.iter().enumerate() {
        let parent = i.checked_sub(1).map_or("", |i| path[i]);
        match (parent, *part) {
            ("Batch", "gamma") => fields.push("weight"),
            ("Batch", "beta") => fields.push("bias"),
            ("se", "reduce") => fields.push("fc.0"),
            ("se", "expand") => fields.push("fc.2"),
            ("adapter", "a") => fields.extend(["lora_A", "weight"]),
            ("adapter", "b") => fields.extend(["lora_B", "weight"]),
            ("dora", "magnitude") => fields.push("lora_magnitude_vector"),
            (_, "base" | "adapter" | "dora") => {}
            (_, part) if is_variant(part) => {}
            (_, part) => fields.push(part),
        }
    }
    fields
}

/// Sees every parameter with its name.
pub trait ParameterVisitor {
    /// Called once for each parameter, in the order of the model.
    fn visit<const D: usize>(&mut self, info: &ParameterInfo, parameter: &Param<Tensor<D>>);
}

/// Replaces parameters, knowing their names.
pub trait ParameterMapper {
    /// Called once for each parameter, in the order of the model.
    fn map<const D: usize>(&mut self, info: &ParameterInfo, parameter: Param<Tensor<D>>) -> Param<Tensor<D>>;
}

/// Visits every parameter of a model.
pub fn visit_parameters<M: NamedModule, V: ParameterVisitor>(model: &M, visitor: &mut V) {
    model.visit(&mut Named { naming: model.naming(), path: Vec::new(), inner: visitor });
}

/// Maps every parameter of a model.
pub fn map_parameters<M: NamedModule, F: ParameterMapper>(model: M, mapper: &mut F) -> M {
    let naming = model.naming();
    model.map(&mut Named { naming, path: Vec::new(), inner: mapper })
}

/// Turns Burn's paths into names for a visitor or mapper.
struct Named<'a, T> {
    naming: Naming,
    path: Vec<String>,
    inner: &'a mut T,
}

impl<T> Named<'_, T> {
    fn info<const D: usize>(&self, param: &Param<Tensor<D>>) -> ParameterInfo {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        let (name, group) = self.naming.name(&path);
        ParameterInfo { name, shape: param.lazy_shape().to_vec(), trainable: param.is_require_grad(), group }
    }
}

impl<V: ParameterVisitor> ModuleVisitor for Named<'_, V> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let info = self.info(param);
        self.inner.visit(&info, param);
    }
}

impl<F: ParameterMapper> ModuleMapper for Named<'_, F> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let info = self.info(&param);
        self.inner.map(&info, param)
    }
}

/// Every float parameter of a model, in its order. Packed 4-bit weights are not parameters.
pub fn named_parameters<M: NamedModule>(model: &M) -> Vec<ParameterInfo> {
    struct Collect(Vec<ParameterInfo>);
    impl ParameterVisitor for Collect {
        fn visit<const D: usize>(&mut self, info: &ParameterInfo, _parameter: &Param<Tensor<D>>) {
            self.0.push(info.clone());
        }
    }
    let mut collect = Collect(Vec::new());
    visit_parameters(model, &mut collect);
    collect.0
}

/// The values of the parameters that `filter` keeps.
pub fn state_dict<M: NamedModule>(model: &M, filter: impl Fn(&ParameterInfo) -> bool) -> BTreeMap<String, TensorData> {
    struct Collect<F>(F, BTreeMap<String, TensorData>);
    impl<F: Fn(&ParameterInfo) -> bool> ParameterVisitor for Collect<F> {
        fn visit<const D: usize>(&mut self, info: &ParameterInfo, parameter: &Param<Tensor<D>>) {
            if (self.0)(info) {
                self.1.insert(info.name.clone(), parameter.val().into_data());
            }
        }
    }
    // Burn holds back the last update of running statistics until it is asked for; `valid` asks, on the shared state.
    let _ = model.valid();
    let mut collect = Collect(filter, BTreeMap::new());
    visit_parameters(model, &mut collect);
    collect.1
}

/// Vectors of a model at a moment, by name, where they are: nothing is read from the device, which would wait for all that it
/// has to do.
pub type Held = BTreeMap<String, Tensor<1>>;

/// Holds the vectors among the parameters that `filter` keeps.
pub fn hold_vectors<M: NamedModule>(model: &M, filter: impl Fn(&ParameterInfo) -> bool) -> Held {
    struct Hold<F>(F, Held);
    impl<F: Fn(&ParameterInfo) -> bool> ParameterVisitor for Hold<F> {
        fn visit<const D: usize>(&mut self, info: &ParameterInfo, parameter: &Param<Tensor<D>>) {
            if D == 1 && (self.0)(info) {
                self.1.insert(info.name.clone(), parameter.val().detach().reshape([info.count()]));
            }
        }
    }
    // As in [`state_dict`].
    let _ = model.valid();
    let mut hold = Hold(filter, Held::new());
    visit_parameters(model, &mut hold);
    hold.1
}

/// Gives vectors the values that were held of them.
pub fn put_back<M: NamedModule>(model: M, held: Held) -> M {
    struct Put(Held);
    impl ParameterMapper for Put {
        fn map<const D: usize>(&mut self, info: &ParameterInfo, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.0.remove(&info.name) {
                Some(value) => {
                    let shape = parameter.lazy_shape();
                    with_value(parameter, value.reshape(shape))
                }
                None => parameter,
            }
        }
    }
    // An update that is held back would come after this one.
    let _ = model.valid();
    map_parameters(model, &mut Put(held))
}

/// Which parameters [`load_state`] must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Require {
    /// Every parameter of the model.
    All,
    /// Every trainable parameter.
    Trainable,
    /// Everything but the base weights of the backbone: what a checkpoint of an adapted model holds.
    AllButBackbone,
    /// None: what is not there keeps its value.
    Nothing,
}

/// Replaces values by name; what trains and what does not stays as it is.
///
/// # Errors
/// One error that lists every name the model does not have, every shape that differs and every parameter that is
/// required and missing.
pub fn load_state<M: NamedModule>(
    model: M,
    state: BTreeMap<String, TensorData>,
    require: Require,
) -> Result<M, ModelError> {
    let parameters = named_parameters(&model);
    let problems = compare(&parameters, &state, require);
    if !problems.is_empty() {
        return Err(ModelError::Tensors { path: "saved state".into(), problems });
    }
    struct Load(BTreeMap<String, TensorData>);
    impl ParameterMapper for Load {
        fn map<const D: usize>(&mut self, info: &ParameterInfo, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
            match self.0.remove(&info.name) {
                Some(data) => replace(parameter, data),
                None => parameter,
            }
        }
    }
    Ok(map_parameters(model, &mut Load(state)))
}

/// Gives a parameter new values of the same shape; whether it trains stays as it is.
pub fn replace<const D: usize>(parameter: Param<Tensor<D>>, data: TensorData) -> Param<Tensor<D>> {
    let device = parameter.lazy_device();
    with_value(parameter, Tensor::from_data(data.convert::<f32>(), &device))
}

/// [`replace`] from a tensor.
pub(crate) fn with_value<const D: usize>(parameter: Param<Tensor<D>>, value: Tensor<D>) -> Param<Tensor<D>> {
    parameter.map(|old| {
        let value = value.detach();
        if old.is_require_grad() { value.require_grad() } else { value }
    })
}

/// Decides for every parameter whether it trains.
pub fn set_trainable<M: NamedModule>(model: M, trains: impl Fn(&ParameterInfo) -> bool) -> M {
    struct Set<F>(F);
    impl<F: Fn(&ParameterInfo) -> bool> ParameterMapper for Set<F> {
        fn map<const D: usize>(&mut self, info: &ParameterInfo, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
            parameter.set_require_grad((self.0)(info))
        }
    }
    map_parameters(model, &mut Set(trains))
}

fn compare(parameters: &[ParameterInfo], state: &BTreeMap<String, TensorData>, require: Require) -> Vec<String> {
    let mut problems = Vec::new();
    for info in parameters {
        match state.get(&info.name) {
            Some(data) if data.shape().to_vec() != info.shape => {
                let found = data.shape().to_vec();
                problems.push(format!("{}: found {found:?}, expected {:?}", info.name, info.shape));
            }
            Some(_) => {}
            None => {
                let required = match require {
                    Require::All => true,
                    Require::Trainable => info.trainable,
                    Require::AllButBackbone => info.group != Group::Backbone,
                    Require::Nothing => false,
                };
                if required {
                    problems.push(format!("{}: missing, expected {:?}", info.name, info.shape));
                }
            }
        }
    }
    for (name, data) in state {
        if !parameters.iter().any(|p| &p.name == name) {
            problems.push(format!("{name}: found {:?}, but the model has no such parameter", data.shape().to_vec()));
        }
    }
    problems
}

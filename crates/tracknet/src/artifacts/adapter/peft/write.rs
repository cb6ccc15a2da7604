//! From a model to the directory of its adapters.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::TensorData;

use crate::artifacts::adapter::peft_config::PeftConfig;
use crate::artifacts::adapter::peft_names::for_peft;
use crate::artifacts::pretrained::save::{StoredAs, write_tensors};
use crate::config::Bias;
use crate::error::Result;
use crate::models::ModelError;
use crate::models::carried::Carried;
use crate::models::lora::VisitLayers;
use crate::models::lora::plan::in_backbone;
use crate::models::state::{Group, NamedModule, state_dict};

use super::parts::Parts;
use super::{ENDS, PREFIX, WEIGHTS_FILE};

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
            if config.lora.bias != Bias::None {
                tensors.insert(format!("{key}.base_layer.bias"), bias.val().into_data());
            }
        }
    });
    let saves = |path: &str| config.saves(path, paths) || (config.lora.bias == Bias::All && path.ends_with(".bias"));
    let rest = state_dict(model, |p| {
        let path = naming.below_backbone(&p.name);
        p.group == Group::Backbone && !biases.iter().any(|bias| bias == path) && saves(path)
    });
    let name = |name: &str| format!("{PREFIX}{}", paths.in_memory(naming.below_backbone(name)));
    tensors.extend(rest.into_iter().map(|(path, data)| (name(&path), data)));
    tensors.extend(carried_tensors(model, config, saves));
    tensors
}

/// The tensors of parts that are not built here: those of the checkpoint that the model keeps, where `saves` says so, and what
/// was in the directory that its adapters were read from.
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

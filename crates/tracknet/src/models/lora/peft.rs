//! Adapter directories as Hugging Face PEFT writes and reads them: `adapter_config.json` and
//! `adapter_model.safetensors`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::{Device, TensorData};
use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::config::{LoraConfig, TargetModules};
use crate::error::{IoContext, Result};
use crate::models::ModelError;
use crate::models::pretrained::save::{StoredAs, read_all, write_json, write_tensors};
use crate::models::projection::{Projection, VisitProjections};
use crate::models::state::{Group, NamedModule, replace, state_dict};

use super::adapter::LoraAdapter;
use super::wrapper::{AdaptedModule, LoraReport};

/// The tensors of an adapter directory.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// The configuration of an adapter directory.
pub const CONFIG_FILE: &str = "adapter_config.json";

const PREFIX: &str = "base_model.model.";

/// Writes the adapters of a model. `base` names the model they belong to, as PEFT records it.
///
/// # Errors
/// The model has no adapters, or the directory cannot be written.
pub fn write_adapter<M: NamedModule + VisitProjections>(
    dir: &Path,
    model: &M,
    config: &LoraConfig,
    base: Option<&str>,
) -> Result<()> {
    let mut tensors = BTreeMap::new();
    let mut targets = Vec::new();
    let prefix = model.peft_prefix();
    model.visit_projections(&mut |path, projection| {
        if let Some(adapter) = &projection.adapter {
            let key = format!("{PREFIX}{prefix}{path}");
            tensors.insert(format!("{key}.lora_A.weight"), adapter.a.val().into_data());
            tensors.insert(format!("{key}.lora_B.weight"), adapter.b.val().into_data());
            if let (Some(bias), true) = (&projection.bias, config.bias != "none") {
                tensors.insert(format!("{key}.base_layer.bias"), bias.val().into_data());
            }
            targets.push(format!("{prefix}{path}"));
        }
    });
    if tensors.is_empty() {
        return Err(ModelError::file(dir, "the model has no adapters to write").into());
    }
    if config.bias == "all" {
        tensors.extend(other_biases(model, &targets));
    }
    write_tensors(&dir.join(WEIGHTS_FILE), tensors, StoredAs::F32)?;
    write_json(&dir.join(CONFIG_FILE), &config_json(config, base, targets))
}

/// The biases of the backbone outside the adapted modules, as `bias: all` trains and keeps them.
fn other_biases<M: NamedModule + VisitProjections>(model: &M, targets: &[String]) -> BTreeMap<String, TensorData> {
    let prefix = model.peft_prefix();
    let biases = state_dict(model, |p| p.group == Group::Backbone && p.name.ends_with(".bias"));
    let named = biases.into_iter().map(|(name, data)| {
        let path = name.strip_prefix("backbone.").unwrap_or(&name);
        (format!("{prefix}{path}"), data)
    });
    let is_adapted = |path: &str| targets.iter().any(|t| path.strip_suffix(".bias") == Some(t.as_str()));
    named.filter(|(path, _)| !is_adapted(path)).map(|(path, data)| (format!("{PREFIX}{path}"), data)).collect()
}

/// What PEFT needs to attach the adapter again; targets are the full paths that were adapted.
fn config_json(config: &LoraConfig, base: Option<&str>, targets: Vec<String>) -> Value {
    json!({
        "alpha_pattern": {},
        "base_model_name_or_path": base,
        "bias": config.bias,
        "exclude_modules": null,
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": config.r,
        "rank_pattern": {},
        "target_modules": targets,
        "task_type": config.task_type,
        "use_dora": false,
        "use_rslora": false,
    })
}

/// The keys of `adapter_config.json` that decide what an adapter computes.
#[derive(Debug, Clone, Deserialize)]
pub struct PeftConfig {
    /// Rank of modules that no pattern names.
    pub r: usize,
    /// Scale numerator of modules that no pattern names.
    pub lora_alpha: f32,
    /// Dropout on the adapter's input.
    #[serde(default)]
    pub lora_dropout: f32,
    /// `none`, `all` or `lora_only`.
    #[serde(default = "no_bias")]
    pub bias: String,
    /// Names, suffixes or a pattern.
    #[serde(default)]
    pub target_modules: Option<TargetModules>,
    #[serde(default)]
    peft_type: Option<String>,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    alpha_pattern: serde_json::Map<String, Value>,
    #[serde(default)]
    modules_to_save: Option<Vec<String>>,
}

fn no_bias() -> String {
    "none".to_owned()
}

impl PeftConfig {
    /// Reads the configuration of an adapter directory.
    ///
    /// # Errors
    /// It is missing or damaged, or asks for something that is not supported.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(CONFIG_FILE);
        let text = fs::read_to_string(&path).at(&path)?;
        Self::parse(&text).map_err(|message| ModelError::file(path, message).into())
    }

    /// Reads the text of an `adapter_config.json`.
    ///
    /// # Errors
    /// As [`PeftConfig::read`], as a message.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let refuse = |message: String| Err(message);
        match &config.peft_type {
            Some(kind) if kind != "LORA" => return refuse(format!("peft_type is `{kind}`; only LORA is supported")),
            _ => {}
        }
        if config.use_dora {
            return refuse("use_dora is true; DoRA adapters are not supported by this version".to_owned());
        }
        if config.modules_to_save.as_ref().is_some_and(|m| !m.is_empty()) {
            return refuse("modules_to_save is set; this version does not load whole modules from adapters".to_owned());
        }
        Ok(config)
    }

    /// The scale of a module of this rank. The first key of `alpha_pattern` that is the path or the end of it wins.
    fn scale(&self, path: &str, rank: usize) -> f32 {
        let alpha = self
            .alpha_pattern
            .iter()
            .find(|(k, _)| Regex::new(&format!(r"^(.*\.)?({k})$")).is_ok_and(|r| r.is_match(path)))
            .and_then(|(_, v)| v.as_f64())
            .map_or(self.lora_alpha, |a| a as f32);
        if self.use_rslora { alpha / (rank as f32).sqrt() } else { alpha / rank as f32 }
    }
}

/// The tensors of one adapted module.
#[derive(Default)]
struct Parts {
    a: Option<TensorData>,
    b: Option<TensorData>,
    bias: Option<TensorData>,
}

/// Puts the adapters of a directory on a model. Paths are accepted with and without the module that `transformers`
/// wraps around this kind of model. The adapters are trainable; nothing else changes what it trains.
///
/// # Errors
/// The directory is damaged or asks for something unsupported; or one error that lists every tensor that has no
/// place in the model, the wrong shape, or no counterpart.
pub fn load_adapter<M: VisitProjections>(dir: &Path, model: &mut M, device: &Device) -> Result<LoraReport> {
    let config = PeftConfig::read(dir)?;
    let file = dir.join(WEIGHTS_FILE);
    let mut problems = Vec::new();
    let mut modules = collect(read_all(&file)?, model.peft_prefix(), &mut problems);
    let mut report = LoraReport::default();
    model.visit_projections_mut(&mut |path, projection| {
        if let Some(parts) = modules.remove(path) {
            match attach(path, projection, parts, &config, device) {
                Ok(adapted) => report.adapted.push(adapted),
                Err(problem) => problems.push(problem),
            }
        }
    });
    problems.extend(modules.into_keys().map(|path| format!("{path}: the model has no such linear layer")));
    if problems.is_empty() { Ok(report) } else { Err(ModelError::Tensors { path: file, problems }.into()) }
}

fn collect(tensors: BTreeMap<String, TensorData>, prefix: &str, problems: &mut Vec<String>) -> BTreeMap<String, Parts> {
    let mut modules: BTreeMap<String, Parts> = BTreeMap::new();
    for (name, data) in tensors {
        let path = name.strip_prefix(PREFIX).unwrap_or(&name);
        let path = path.strip_prefix(prefix).unwrap_or(path);
        let mut part = |suffix: &str, put: fn(&mut Parts, TensorData)| {
            let Some(module) = path.strip_suffix(suffix) else { return false };
            put(modules.entry(module.to_owned()).or_default(), data.clone());
            true
        };
        let known = part(".lora_A.weight", |p, d| p.a = Some(d))
            || part(".lora_B.weight", |p, d| p.b = Some(d))
            || part(".base_layer.bias", |p, d| p.bias = Some(d));
        if !known {
            let what = if name.ends_with(".bias") {
                "is the bias of a module without an adapter (`bias: all`), which this version does not load"
            } else {
                "is no part of a LoRA adapter"
            };
            problems.push(format!("{name}: {what}"));
        }
    }
    modules
}

fn attach(
    path: &str,
    projection: &mut Projection,
    parts: Parts,
    config: &PeftConfig,
    device: &Device,
) -> Result<AdaptedModule, String> {
    let shape = projection.shape();
    let [output, input] = shape;
    let (Some(a), Some(b)) = (parts.a, parts.b) else {
        return Err(format!("{path}: needs both lora_A.weight and lora_B.weight"));
    };
    let (found_a, found_b) = (a.shape().to_vec(), b.shape().to_vec());
    let rank = found_a.first().copied().unwrap_or_default();
    if rank == 0 || found_a != [rank, input] || found_b != [output, rank] {
        return Err(format!(
            "{path}: found lora_A {found_a:?} and lora_B {found_b:?}, expected [r, {input}] and [{output}, r]"
        ));
    }
    if let Some(bias) = parts.bias {
        let Some(old) = projection.bias.take().filter(|_| bias.shape().to_vec() == [output]) else {
            return Err(format!(
                "{path}.base_layer.bias: found {:?}, which the layer cannot take",
                bias.shape().to_vec()
            ));
        };
        projection.bias = Some(replace(old, bias));
    }
    let adapter = LoraAdapter::from_data([a, b], config.scale(path, rank), config.lora_dropout, path, device);
    let scale = adapter.scale();
    projection.adapter = Some(adapter);
    Ok(AdaptedModule { path: path.to_owned(), shape, rank, scale })
}

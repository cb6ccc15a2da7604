//! The configuration of an adapter in names that PEFT finds: those in the memory of `transformers` 5.
//!
//! A name of a user, or of an adapter for an older release, may hold for another spelling of the paths only. What PEFT
//! would find by itself is left as it is; anything else is spelled out.

use std::collections::BTreeSet;

use crate::config::{LoraConfig, Pattern, TargetModules};
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::projection::VisitProjections;
use crate::models::state::{Group, NamedModule, named_parameters};

use super::peft_config::PeftConfig;
use super::ranks::Ranks;
use super::targets::{PeftRule, is_saved};

/// `config` for an adapter of `model` with matrices for the modules `adapted`.
///
/// # Errors
/// A pattern that is not a regular expression.
pub(super) fn for_peft<M: NamedModule + VisitProjections>(
    config: &PeftConfig,
    model: &M,
    adapted: &BTreeSet<String>,
) -> Result<PeftConfig, ModelError> {
    let paths = model.module_paths();
    let mut lora = config.lora.clone();
    targets(&mut lora, model, adapted)?;
    ranks(&mut lora, paths, adapted)?;
    saved(&mut lora, model, config);
    Ok(if lora == config.lora { config.clone() } else { config.clone().with_lora(lora) })
}

fn targets<M: VisitProjections>(
    lora: &mut LoraConfig,
    model: &M,
    adapted: &BTreeSet<String>,
) -> Result<(), ModelError> {
    let paths = model.module_paths();
    let mut linears = Vec::new();
    model.visit_projections(&mut |path, _| linears.push(path.to_owned()));
    if paths.names().is_some_and(|names| names.has_pooler()) {
        linears.push("pooler.dense".to_owned());
    }
    let rule = PeftRule::new(lora)?;
    if linears.iter().any(|path| rule.adapts(&paths.in_memory(path)) != adapted.contains(path)) {
        lora.target_modules = Some(TargetModules::List(adapted.iter().map(|path| paths.in_memory(path)).collect()));
        (lora.exclude_modules, lora.layers_to_transform, lora.layers_pattern) = (None, None, None);
    }
    Ok(())
}

fn ranks(lora: &mut LoraConfig, paths: ModulePaths, adapted: &BTreeSet<String>) -> Result<(), ModelError> {
    let ranks = Ranks::new(lora)?;
    let found: Vec<_> = adapted.iter().map(|path| (paths.in_memory(path), ranks.of(path, paths))).collect();
    if found.iter().all(|(path, found)| ranks.of(path, ModulePaths::AsWritten) == *found) {
        return Ok(());
    }
    let key = |path: &str| regex::escape(path);
    let differ = found.iter().filter(|(_, (rank, _))| *rank != lora.r);
    let rank_pattern = differ.map(|(path, (rank, _))| (key(path), *rank)).collect();
    let differ = found.iter().filter(|(_, (_, scaling))| scaling.alpha != lora.lora_alpha);
    let alpha_pattern = differ.map(|(path, (_, scaling))| (key(path), scaling.alpha)).collect();
    (lora.rank_pattern, lora.alpha_pattern) = (Pattern(rank_pattern), Pattern(alpha_pattern));
    Ok(())
}

fn saved<M: NamedModule + VisitProjections>(lora: &mut LoraConfig, model: &M, config: &PeftConfig) {
    let Some(entries) = &lora.modules_to_save else { return };
    let (naming, paths) = (model.naming(), model.module_paths());
    let parameters = named_parameters(model);
    let backbone = parameters.iter().filter(|p| p.group == Group::Backbone).map(|p| naming.below_backbone(&p.name));
    let modules: BTreeSet<&str> =
        backbone.chain(config.carried_paths()).filter_map(|path| Some(path.rsplit_once('.')?.0)).collect();
    let by_any = |spellings: &[String]| entries.iter().any(|e| spellings.iter().any(|path| is_saved(path, e)));
    let ours: Vec<&str> = modules.iter().copied().filter(|path| by_any(&paths.spellings(path))).collect();
    let theirs = modules.iter().copied().filter(|path| by_any(&[paths.in_memory(path)]));
    if !theirs.eq(ours.iter().copied()) {
        lora.modules_to_save = Some(ours.into_iter().map(|path| paths.in_memory(path)).collect());
    }
}

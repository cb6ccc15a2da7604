//! The configuration of an adapter in names that PEFT finds: those in the memory of `transformers` 5.
//!
//! A name of a user, or of an adapter for an older release, may hold for another spelling of the paths only. What PEFT
//! would find by itself is left as it is; anything else is spelled out.

use std::collections::BTreeSet;

use crate::config::{InitMethod, LoraConfig, Pattern, TargetModules};
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::state::{Group, NamedModule, named_parameters};

use super::peft_config::PeftConfig;
use super::peft_rule::PeftRule;
use crate::models::lora::VisitLayers;
use crate::models::lora::plan::in_backbone;
use crate::models::lora::ranks::Ranks;
use crate::models::lora::targets::{POOLER, is_saved};

/// `config` for an adapter of `model` with matrices for the modules `adapted`.
///
/// # Errors
/// A pattern that is not a regular expression.
pub(crate) fn for_peft<M: NamedModule + VisitLayers>(
    config: &PeftConfig,
    model: &M,
    adapted: &BTreeSet<String>,
) -> Result<PeftConfig, ModelError> {
    let paths = model.module_paths();
    let mut lora = config.lora.clone();
    targets(&mut lora, model, adapted)?;
    ranks(&mut lora, paths, adapted)?;
    saved(&mut lora, model, config);
    start(&mut lora, model);
    Ok(if lora == config.lora { config.clone() } else { config.clone().with_lora(lora) })
}

fn targets<M: VisitLayers>(lora: &mut LoraConfig, model: &M, adapted: &BTreeSet<String>) -> Result<(), ModelError> {
    let paths = model.module_paths();
    let mut layers = Vec::new();
    model.visit_layers(&mut |path, layer| {
        layers.extend(in_backbone(path).then(|| (path.to_owned(), layer.base().linear().is_some())));
    });
    if paths.family().is_some_and(|family| family.has_pooler()) {
        layers.push((POOLER.to_owned(), true));
    }
    let rule = PeftRule::new(lora)?;
    let mut differs = false;
    for (path, is_linear) in &layers {
        differs |= rule.adapts(&paths.in_memory(path), *is_linear)? != adapted.contains(path);
    }
    if differs {
        lora.target_modules = Some(TargetModules::List(adapted.iter().map(|path| paths.in_memory(path)).collect()));
        (lora.exclude_modules, lora.layers_to_transform, lora.layers_pattern) = (None, None, None);
    }
    Ok(())
}

/// PEFT cannot make an orthogonal start on a base in 4 bits, not even one that its file replaces.
fn start<M: VisitLayers>(lora: &mut LoraConfig, model: &M) {
    if model.is_quantized() && lora.init_lora_weights == InitMethod::Orthogonal {
        lora.init_lora_weights = InitMethod::Kaiming;
    }
}

fn ranks(lora: &mut LoraConfig, paths: ModulePaths, adapted: &BTreeSet<String>) -> Result<(), ModelError> {
    let ranks = Ranks::new(lora)?;
    let mut found = Vec::new();
    let mut same = true;
    for path in adapted {
        let (memory, rank) = (paths.in_memory(path), ranks.of(path, paths)?);
        same &= ranks.of(&memory, ModulePaths::AsWritten)? == rank;
        found.push((memory, rank));
    }
    if same {
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

fn saved<M: NamedModule + VisitLayers>(lora: &mut LoraConfig, model: &M, config: &PeftConfig) {
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

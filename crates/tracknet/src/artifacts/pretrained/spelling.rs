//! Tensors that are the right ones under other names: those of memory, of wrappers, of a program's own modules.
//!
//! `save_pretrained` of `transformers` writes one set of names. `save_file(model.state_dict())` writes those of memory, which
//! differ since release 5; `torch.compile`, `DataParallel` and FSDP put components of their own into them; and in the file
//! of a larger program the backbone is a module among others. All of this is recognized by where the anchors of the family are.

use std::collections::{BTreeMap, BTreeSet};

use crate::console::{listing, shown};
use crate::models::ModelError;
use crate::models::backbones::{Family, is_head};

use super::weights::Weights;

/// Components that wrappers of PyTorch add: `torch.compile`, data parallelism, FSDP, activation checkpointing.
const WRAPPERS: [&str; 4] = ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];

/// The weights by the names that `save_pretrained` gives them, and what was done to their names.
///
/// Modules beside the backbone stay if they are those of a model of `transformers`; those of another program are left out.
///
/// # Errors
/// Names of another library or family, several backbones, adapters that were not merged, or two tensors of one name.
pub(crate) fn spell(weights: Weights, family: &Family) -> Result<(Weights, Vec<String>), ModelError> {
    let path = weights.path().to_path_buf();
    let stored: Vec<&str> = weights.names().collect();
    refuse_others(&stored, family).map_err(|message| ModelError::file(&path, message))?;
    let prefix = prefix(&stored, family).map_err(|message| ModelError::file(&path, message))?;
    let own = family.optional_prefix == Some(prefix.as_str());
    let mut seen = Seen::default();
    let rename = |name: &str| {
        let bare = unwrapped(name);
        seen.wrapped.extend(WRAPPERS.into_iter().filter(|part| name.split('.').any(|found| found == *part)));
        let Some(tail) = bare.strip_prefix(&prefix) else {
            seen.beside(&bare);
            return own.then_some(bare);
        };
        if prefix.is_empty() && is_head(tail) {
            seen.beside(tail);
        }
        let in_file = family.from_memory(tail).unwrap_or_else(|| tail.to_owned());
        seen.in_memory |= in_file != tail;
        Some(if own { format!("{prefix}{in_file}") } else { in_file })
    };
    let weights = weights.renamed(rename)?;
    let foreign = Some(prefix).filter(|prefix| !own && !prefix.is_empty());
    Ok((weights, seen.notes(foreign.as_deref())))
}

/// What was found while renaming.
#[derive(Default)]
struct Seen {
    wrapped: BTreeSet<&'static str>,
    in_memory: bool,
    /// Modules beside the backbone, and how many tensors each has.
    beside: BTreeMap<String, usize>,
}

impl Seen {
    fn beside(&mut self, name: &str) {
        let module = name.split('.').next().unwrap_or_default();
        *self.beside.entry(module.to_owned()).or_default() += 1;
    }

    fn notes(&self, prefix: Option<&str>) -> Vec<String> {
        let mut notes = Vec::new();
        if !self.wrapped.is_empty() {
            let wrappers = listing(self.wrapped.iter().map(|part| format!("`{part}`")), WRAPPERS.len());
            notes.push(format!("names of the checkpoint: {wrappers}, which a wrapper adds, was left away"));
        }
        if let Some(prefix) = prefix {
            notes.push(format!("names of the checkpoint: `{}` before each was left away", shown(prefix)));
        }
        if self.in_memory {
            notes.push(
                "names of the checkpoint: they are those in memory, not those of save_pretrained; translated".into(),
            );
        }
        if !self.beside.is_empty() {
            let modules = self.beside.iter().map(|(module, count)| match count {
                1 => format!("{} (1 tensor)", shown(module)),
                n => format!("{} ({n} tensors)", shown(module)),
            });
            notes.push(format!("left aside, no part of the backbone: {}", listing(modules, 6)));
        }
        notes
    }
}

/// A name without what wrappers add.
fn unwrapped(name: &str) -> String {
    name.split('.').filter(|part| !WRAPPERS.contains(part)).collect::<Vec<_>>().join(".")
}

/// What is before the names of the backbone, told by the first anchor of the family that is there.
fn prefix(stored: &[&str], family: &Family) -> Result<String, String> {
    for anchor in family.anchors {
        let before = |name: &&str| {
            let name = unwrapped(name);
            let before = name.strip_suffix(anchor)?;
            (before.is_empty() || before.ends_with('.')).then(|| before.to_owned())
        };
        let found: BTreeSet<String> = stored.iter().filter_map(before).collect();
        if found.len() > 1 {
            let places = listing(found.iter().map(|place| format!("`{}`", shown(place))), 4);
            return Err(format!("holds {} backbones, whose names begin with {places}; keep one of them", found.len()));
        }
        if let Some(prefix) = found.into_iter().next() {
            return Ok(prefix);
        }
    }
    let [first, second] = family.anchors;
    Err(format!(
        "has neither `{first}` nor `{second}` under any prefix, so it is no {} by the names of transformers; it holds {}",
        family.model_type,
        listing(stored.iter().map(|name| format!("`{}`", shown(name))), 4)
    ))
}

/// Refuses what is no checkpoint of `transformers` under any prefix.
fn refuse_others(stored: &[&str], family: &Family) -> Result<(), String> {
    if let Some(name) = stored.iter().find(|name| name.contains(".lora_A.") || name.contains(".lora_B.")) {
        return Err(format!(
            "holds matrices of LoRA (`{}`): a model with an adapter that was not merged; call merge_and_unload() in Python \
             and save it again, or save the adapter by itself",
            shown(name)
        ));
    }
    let of_timm = |name: &&&str| name.ends_with("attn.qkv.weight") || name.ends_with("attn.qkv.bias");
    if let Some(name) = stored.iter().find(of_timm) {
        return Err(format!(
            "has the names of timm or of the original DINO code (`{}`); expected those of transformers (`{}`): \
             get the model as transformers has it (on the hub: facebook/dinov2-small, facebook/dinov3-vits16-…, \
             google/vit-base-patch16-224), or convert it in Python",
            shown(name),
            family.example()
        ));
    }
    Ok(())
}

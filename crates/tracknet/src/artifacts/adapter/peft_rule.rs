//! Which layers PEFT would adapt by the configuration of an adapter.

use crate::config::{LoraConfig, PathPattern, TargetModules};
use crate::models::ModelError;
use crate::models::lora::ranks::of_key;
use crate::models::lora::targets::{Exclusion, Layers, is_all_linear, is_named, whole};

/// Whether PEFT, which knows one spelling of every path and no short names, would adapt the layer at `path`.
pub(crate) struct PeftRule<'a> {
    exclusion: Exclusion<'a>,
    layers: Layers<'a>,
    all_linear: bool,
    pattern: Option<PathPattern>,
    list: &'a [String],
}

impl<'a> PeftRule<'a> {
    pub(crate) fn new(config: &'a LoraConfig) -> Result<Self, ModelError> {
        let (all_linear, pattern, list) = match &config.target_modules {
            None => (false, None, &[][..]),
            Some(TargetModules::List(list)) => (false, None, list.as_slice()),
            Some(TargetModules::Pattern(pattern)) if is_all_linear(pattern) => (true, None, &[][..]),
            Some(TargetModules::Pattern(pattern)) => (false, Some(whole("target_modules", pattern)?), &[][..]),
        };
        Ok(Self { exclusion: Exclusion::new(config)?, layers: Layers::new(config)?, all_linear, pattern, list })
    }

    /// # Errors
    /// A pattern whose match takes too long.
    pub(crate) fn adapts(&self, path: &str, is_linear: bool) -> Result<bool, ModelError> {
        if self.exclusion.excludes(path)? {
            return Ok(false);
        }
        if self.all_linear {
            return Ok(is_linear);
        }
        if let Some(pattern) = &self.pattern {
            return pattern.matches(path).map_err(of_key("target_modules"));
        }
        let named = self.list.iter().any(|entry| is_named(path, entry));
        Ok(self.list.iter().any(|entry| entry == path) || (named && self.layers.holds(path)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Option<TargetModules> {
        Some(TargetModules::List(entries.iter().map(|e| (*e).to_owned()).collect()))
    }

    /// What `check_target_module_exists` of PEFT 0.21 says of these, run by hand.
    #[test]
    fn peft_knows_one_spelling_and_no_short_names() {
        let adapts = |config: &LoraConfig, path: &str| PeftRule::new(config).unwrap().adapts(path, true).unwrap();
        let config = |targets| LoraConfig { target_modules: targets, ..LoraConfig::default() };
        for (targets, path, expected) in [
            (list(&["q_proj"]), "layers.0.attention.q_proj", true),
            (list(&["query"]), "layers.0.attention.q_proj", false),
            (list(&["layers.0.attention.q_proj"]), "layers.0.attention.q_proj", true),
            (list(&["dense"]), "pooler.dense", true),
            (Some(TargetModules::Pattern(r".*\.q_proj".to_owned())), "layers.0.attention.q_proj", true),
            (Some(TargetModules::Pattern(r"q_proj".to_owned())), "layers.0.attention.q_proj", false),
        ] {
            assert_eq!(adapts(&config(targets.clone()), path), expected, "{targets:?} {path}");
        }
        let first = LoraConfig { layers_to_transform: Some(vec![0]), ..config(list(&["q_proj"])) };
        assert!(adapts(&first, "encoder.layer.0.attention.q_proj"));
        assert!(!adapts(&first, "encoder.layer.1.attention.q_proj"));
        assert!(!adapts(&first, "layers.0.attention.q_proj"), "two components must come before the number");
        let saved = LoraConfig { modules_to_save: Some(vec!["mlp".to_owned()]), ..config(list(&["fc1"])) };
        assert!(!adapts(&saved, "layers.0.mlp.fc1"));
    }
}

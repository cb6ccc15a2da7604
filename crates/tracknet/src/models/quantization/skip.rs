//! Which layers `transformers` leaves as floats (`llm_int8_skip_modules`, and `quantization.skip_modules` in `mode: hf`).
//!
//! The rule of `transformers` 5.24: a layer is left alone if an entry, read as a regular expression, matches its path from
//! the start to the end of a component (`layer.1` matches `layer.1.mlp`, and not `layer.11.mlp`), or if its path ends with
//! the entry as plain text.
//!
//! The path is the one in memory, which since `transformers` 5 is another than in files; an entry here may be written for
//! either.

use regex::Regex;

use crate::console::shown;
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;

/// Skip entries, understood.
#[derive(Debug, Clone, Default)]
pub struct SkipRules {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    entry: String,
    /// The entry, then a dot or the end.
    to_component: Regex,
    /// The entry alone, for one that ends with a dot.
    whole: Regex,
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        let after_dots = path.match_indices('.').map(|(dot, _)| &path[..=dot]);
        path.ends_with(&self.entry)
            || self.to_component.is_match(path)
            || after_dots.into_iter().any(|start| self.whole.is_match(start))
    }
}

impl SkipRules {
    /// Understands `entries`; `key` names the list in errors.
    ///
    /// # Errors
    /// An entry that is empty or no regular expression.
    pub fn new(entries: &[String], key: &str) -> Result<Self, ModelError> {
        let rule = |entry: &String| {
            let refuse = |message: String| ModelError::key(key, format!("`{}` {message}", shown(entry)));
            if entry.is_empty() {
                return Err(refuse("is empty, and every path ends with nothing; leave it out".to_owned()));
            }
            let regex = |end: &str| {
                Regex::new(&format!("^(?:{entry}){end}"))
                    .map_err(|e| refuse(format!("is not a regular expression that this program reads: {e}")))
            };
            Ok(Rule { entry: entry.clone(), to_component: regex(r"(?:\.|$)")?, whole: regex("$")? })
        };
        Ok(Self { rules: entries.iter().map(rule).collect::<Result<_, _>>()? })
    }

    /// Whether the layer at `path` stays float, by any spelling of it.
    pub fn skips(&self, path: &str, paths: ModulePaths) -> bool {
        let spellings = paths.spellings(path);
        self.rules.iter().any(|rule| spellings.iter().any(|path| rule.matches(path)))
    }

    /// The entries that match none of `layers`.
    pub fn unused<'a>(&'a self, layers: &[&str], paths: ModulePaths) -> Vec<&'a str> {
        let spellings: Vec<String> = layers.iter().flat_map(|path| paths.spellings(path)).collect();
        let unused = self.rules.iter().filter(|rule| !spellings.iter().any(|path| rule.matches(path)));
        unused.map(|rule| rule.entry.as_str()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models::registry::family_of;

    fn of(model_type: &str) -> ModulePaths {
        ModulePaths::Of(family_of(json!({ "model_type": model_type }).as_object().unwrap()).unwrap())
    }

    fn rules(entries: &[&str]) -> SkipRules {
        let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
        SkipRules::new(&entries, "skip").unwrap()
    }

    /// As `should_convert_module` of transformers 5.24 answers for the two paths of the layer.
    #[test]
    fn an_entry_matches_whole_components_from_the_start_as_a_pattern_or_the_end_as_text() {
        let path = "layer.11.attention.q_proj";
        for (entry, skips) in [
            ("layer.11", true),
            // A match ends with a component; a point stands for any character.
            ("layer.1", false),
            ("layer.1.", true),
            (r"layer\.11\.", true),
            (r"layer\.1\.", false),
            ("layer.1.?", true),
            ("layer", true),
            ("lay", false),
            (r"layer\.\d+\.attention", true),
            (r"layer\.\d+\.atten", false),
            ("layer.2|layer.11", true),
            ("q_proj", true),
            ("proj", true),
            ("attention", false),
            (".*attention", true),
            (".*attenti", false),
            ("attention.q_proj", true),
            ("q_pro", false),
            ("model.layer.11", true),
            ("odel.layer", false),
        ] {
            assert_eq!(rules(&[entry]).skips(path, of("dinov3_vit")), skips, "{entry}");
        }
        assert!(!rules(&["model.layer.11"]).skips(path, ModulePaths::AsWritten));
        assert!(!rules(&["encoder.layer.1"]).skips("encoder.layer.11.mlp.fc1", of("dinov2")));
    }

    #[test]
    fn entries_that_match_nothing_or_cannot_be_understood_are_named() {
        assert_eq!(rules(&["up_proj", "pooler"]).unused(&["layer.0.mlp.up_proj"], of("dinov3_vit")), ["pooler"]);
        for (entry, said) in [("(", "`(` is not a regular expression"), ("", "`` is empty"), ("(?=x)", "look-around")] {
            let message = SkipRules::new(&[entry.to_owned()], "quantization.skip_modules").unwrap_err().to_string();
            assert!(message.starts_with("quantization.skip_modules: ") && message.contains(said), "{message}");
        }
    }
}

//! Which layers `transformers` leaves as floats (`llm_int8_skip_modules`, and `quantization.skip_modules` in `mode: hf`).
//!
//! The rule of `transformers` 5: a layer is left alone if an entry, read as a regular expression, matches its path from
//! the start (the match may end anywhere), or if its path ends with the entry as plain text. Without a list, a model keeps
//! its output embeddings, what is tied to them, and its last parameter, by the parameter's own name; a backbone has no
//! output embeddings, and no linear layer has the name of a parameter, so all of a backbone's linear layers are packed.
//! Earlier releases differ: they looked for `<entry>.` anywhere in the path, and kept the last layer.
//!
//! The path is the one in memory, which since `transformers` 5 is another than in files; an entry here may be written for
//! either.

use regex::Regex;

use crate::models::ModelError;
use crate::models::backbones::ModulePaths;
use crate::models::pretrained::json::shown;

/// Skip entries, understood.
#[derive(Debug, Clone, Default)]
pub struct SkipRules {
    rules: Vec<(String, Regex)>,
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
            let regex = Regex::new(&format!("^(?:{entry})"))
                .map_err(|e| refuse(format!("is not a regular expression that this program reads: {e}")))?;
            Ok((entry.clone(), regex))
        };
        Ok(Self { rules: entries.iter().map(rule).collect::<Result<_, _>>()? })
    }

    /// Whether the layer at `path` stays float, by any spelling of it.
    pub fn skips(&self, path: &str, paths: ModulePaths) -> bool {
        let spellings = paths.spellings(path);
        self.rules.iter().any(|rule| spellings.iter().any(|path| matches(rule, path)))
    }

    /// The entries that match none of `layers`.
    pub fn unused<'a>(&'a self, layers: &[&str], paths: ModulePaths) -> Vec<&'a str> {
        let spellings: Vec<String> = layers.iter().flat_map(|path| paths.spellings(path)).collect();
        let unused = self.rules.iter().filter(|rule| !spellings.iter().any(|path| matches(rule, path)));
        unused.map(|(entry, _)| entry.as_str()).collect()
    }

    /// The entries to write into a checkpoint, so that every release finds the same ones of `layers`: where an entry
    /// holds for one spelling of the paths only, the layers themselves are named too.
    pub fn to_write(&self, layers: &[&str], paths: ModulePaths) -> Vec<String> {
        let given: Vec<String> = self.rules.iter().map(|(entry, _)| entry.clone()).collect();
        let skipped: Vec<&str> = layers.iter().copied().filter(|path| self.skips(path, paths)).collect();
        let holds = |path: &str| self.rules.iter().any(|rule| matches(rule, path));
        if skipped.iter().all(|path| holds(path) && holds(&paths.in_memory(path))) {
            return given;
        }
        let named =
            skipped.into_iter().flat_map(|path| layer_entries(path, paths)).filter(|path| !given.contains(path));
        given.iter().cloned().chain(named).collect()
    }
}

/// Entries that skip the layer at `path` and no other, whatever release of `transformers` reads them: the path in files
/// and the one in memory, unless the end of that is the first already.
pub(in crate::models::pretrained) fn layer_entries(path: &str, paths: ModulePaths) -> Vec<String> {
    let memory = paths.in_memory(path);
    let mut entries = vec![path.to_owned()];
    if !memory.ends_with(path) {
        entries.push(memory);
    }
    entries
}

fn matches((entry, regex): &(String, Regex), path: &str) -> bool {
    regex.is_match(path) || path.ends_with(entry.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models::backbones::names_of;

    fn of(model_type: &str) -> ModulePaths {
        ModulePaths::Of(names_of(json!({ "model_type": model_type }).as_object().unwrap()).unwrap())
    }

    fn rules(entries: &[&str]) -> SkipRules {
        let entries: Vec<String> = entries.iter().map(|e| (*e).to_owned()).collect();
        SkipRules::new(&entries, "skip").unwrap()
    }

    #[test]
    fn an_entry_matches_from_the_start_as_a_pattern_or_at_the_end_as_text() {
        let path = "layer.11.attention.q_proj";
        for (entry, skips) in [
            ("layer.11", true),
            // A match may end anywhere, and a point stands for any character.
            ("layer.1", true),
            ("layer.2", false),
            (r"layer\.\d+\.attention", true),
            ("q_proj", true),
            ("proj", true),
            ("attention", false),
            (".*attention", true),
            ("attention.q_proj", true),
            ("q_pro", false),
            ("model.layer.11", true),
            ("odel.layer", false),
        ] {
            assert_eq!(rules(&[entry]).skips(path, of("dinov3_vit")), skips, "{entry}");
        }
        assert!(!rules(&["model.layer.11"]).skips(path, ModulePaths::AsWritten));
    }

    #[test]
    fn what_is_written_means_the_same_to_every_release() {
        let paths = ["layer.0.attention.q_proj", "layer.0.mlp.up_proj"];
        // Holds for both spellings of the path.
        assert_eq!(rules(&["up_proj"]).to_write(&paths, of("dinov3_vit")), ["up_proj"]);
        assert_eq!(rules(&["layer.0.a"]).to_write(&paths, ModulePaths::AsWritten), ["layer.0.a"]);
        let vit = ["encoder.layer.0.attention.output.dense", "encoder.layer.0.output.dense"];
        assert_eq!(
            rules(&["o_proj"]).to_write(&vit, of("vit")),
            ["o_proj", "encoder.layer.0.attention.output.dense", "layers.0.attention.o_proj"]
        );
        assert_eq!(
            rules(&["output.dense", "o_proj", "fc2"]).to_write(&vit, of("vit")),
            ["output.dense", "o_proj", "fc2"]
        );
        // Holds from the start of one spelling only.
        assert_eq!(rules(&["layer.0.a"]).to_write(&paths, of("dinov3_vit")), ["layer.0.a", "layer.0.attention.q_proj"]);
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

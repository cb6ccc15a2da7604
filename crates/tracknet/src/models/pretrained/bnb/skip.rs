//! Which layers `transformers` leaves as floats (`llm_int8_skip_modules`, and `quantization.skip_modules` in `mode: hf`).
//!
//! The rule of `transformers` 5: a layer is left alone if an entry, read as a regular expression, matches its path from
//! the start (the match may end anywhere), or if its path ends with the entry as plain text. Without a list, a model keeps
//! its output embeddings, what is tied to them, and its last parameter, by the parameter's own name; a backbone has no
//! output embeddings, and no linear layer has the name of a parameter, so all of a backbone's linear layers are packed.
//! Earlier releases differ: they looked for `<entry>.` anywhere in the path, and kept the last layer.
//!
//! The path is the one in memory. DINOv3 has `model.` before it since `transformers` 5 and did not before; an entry here
//! may be written for either.

use regex::Regex;

use crate::models::ModelError;
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

    /// Whether the layer at `path` stays float; `prefix` is what some releases put before it.
    pub fn skips(&self, path: &str, prefix: &str) -> bool {
        self.rules.iter().any(|rule| matches(rule, path, prefix))
    }

    /// The entries that match none of `paths`.
    pub fn unused<'a>(&'a self, paths: &[&str], prefix: &str) -> Vec<&'a str> {
        let unused = self.rules.iter().filter(|rule| !paths.iter().any(|path| matches(rule, path, prefix)));
        unused.map(|(entry, _)| entry.as_str()).collect()
    }

    /// The entries to write into a checkpoint, so that every release finds the same layers of `paths`: where an entry
    /// holds for one spelling of the paths only, the layers themselves are named too.
    pub fn to_write(&self, paths: &[&str], prefix: &str) -> Vec<String> {
        let mut entries: Vec<String> = self.rules.iter().map(|(entry, _)| entry.clone()).collect();
        let one = |path: &str| self.rules.iter().any(|rule| matches_as(rule, path));
        let skipped: Vec<&str> = paths.iter().copied().filter(|path| self.skips(path, prefix)).collect();
        if skipped.iter().any(|path| !one(path) || !one(&format!("{prefix}{path}"))) {
            entries
                .extend(skipped.into_iter().map(str::to_owned).filter(|path| !self.rules.iter().any(|r| r.0 == *path)));
        }
        entries
    }
}

fn matches(rule: &(String, Regex), path: &str, prefix: &str) -> bool {
    matches_as(rule, path) || (!prefix.is_empty() && matches_as(rule, &format!("{prefix}{path}")))
}

fn matches_as((entry, regex): &(String, Regex), path: &str) -> bool {
    regex.is_match(path) || path.ends_with(entry.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(rules(&[entry]).skips(path, "model."), skips, "{entry}");
        }
        assert!(!rules(&["model.layer.11"]).skips(path, ""));
    }

    #[test]
    fn what_is_written_means_the_same_to_every_release() {
        let paths = ["layer.0.attention.q_proj", "layer.0.mlp.up_proj"];
        // Holds for both spellings of the path.
        assert_eq!(rules(&["up_proj"]).to_write(&paths, "model."), ["up_proj"]);
        assert_eq!(rules(&["layer.0.a"]).to_write(&paths, ""), ["layer.0.a"]);
        // Holds from the start of one spelling only.
        assert_eq!(rules(&["layer.0.a"]).to_write(&paths, "model."), ["layer.0.a", "layer.0.attention.q_proj"]);
    }

    #[test]
    fn entries_that_match_nothing_or_cannot_be_understood_are_named() {
        assert_eq!(rules(&["up_proj", "pooler"]).unused(&["layer.0.mlp.up_proj"], "model."), ["pooler"]);
        for (entry, said) in [("(", "`(` is not a regular expression"), ("", "`` is empty"), ("(?=x)", "look-around")] {
            let message = SkipRules::new(&[entry.to_owned()], "quantization.skip_modules").unwrap_err().to_string();
            assert!(message.starts_with("quantization.skip_modules: ") && message.contains(said), "{message}");
        }
    }
}

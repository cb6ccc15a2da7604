//! `model.safetensors.index.json`: which file of a sharded checkpoint holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::console::shown;

use super::json::UniqueMap;

/// The index of a sharded checkpoint, understood. The names in it are names of files beside the index, never paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardIndex {
    /// Tensor → file.
    pub weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// Reads the bytes of an index; touches no file.
    ///
    /// # Errors
    /// What is wrong: no JSON, no `weight_map`, a key twice, nothing in it, or a file name that is a path.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: UniqueMap<String>,
            #[serde(default, rename = "metadata")]
            _metadata: Value,
        }
        let index: Index = serde_json::from_slice(bytes).map_err(|e| format!("is no index of shards: {e}"))?;
        let weight_map = index.weight_map.0;
        if weight_map.is_empty() {
            return Err("its weight_map is empty; expected a file for each tensor".to_owned());
        }
        match weight_map.iter().find(|(_, file)| !is_plain_file_name(file)) {
            Some((name, file)) => {
                let [name, file] = [name, file].map(|t| shown(t));
                Err(format!("`{name}` is in `{file}`, which is not a plain file name beside the index"))
            }
            None => Ok(Self { weight_map }),
        }
    }

    /// The files, each once.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// One component, which is neither `..` nor a drive; a backslash separates on Windows.
fn is_plain_file_name(file: &str) -> bool {
    !file.contains(['\\', '/', ':', '\0']) && Path::new(file).file_name().is_some_and(|name| name == file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        ShardIndex::parse(text.as_bytes()).unwrap_err()
    }

    #[test]
    fn an_index_names_a_file_for_each_tensor() {
        let text = r#"{"metadata": {"total_size": 8}, "weight_map": {"b": "2.safetensors", "a": "1.safetensors"}}"#;
        let index = ShardIndex::parse(text.as_bytes()).unwrap();
        assert_eq!(index.weight_map["a"], "1.safetensors");
        assert_eq!(index.weight_map.len(), 2);
        assert_eq!(Vec::from_iter(index.files()), ["1.safetensors", "2.safetensors"]);
    }

    #[test]
    fn files_outside_of_the_directory_are_refused() {
        for file in ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\\\b", "c:x", "x/", "./x", "a\\u0000"] {
            let message = refusal(&format!(r#"{{"weight_map": {{"w": "{file}"}}}}"#));
            assert!(message.contains("`w`") && message.contains("plain file name"), "{file}: {message}");
        }
    }

    #[test]
    fn what_is_no_index_says_why() {
        assert!(refusal("").contains("no index of shards"));
        assert!(refusal("[]").contains("no index of shards"));
        assert!(refusal(r#"{"metadata": {}}"#).contains("weight_map"));
        assert!(refusal(r#"{"weight_map": {}}"#).contains("empty"));
        assert!(refusal(r#"{"weight_map": {"w": 3}}"#).contains("string"));
        assert!(refusal(r#"{"weight_map": {"w": "a", "w": "b"}}"#).contains("key `w` is there twice"));
        let deep = format!("{{\"metadata\": {}", "[".repeat(100_000));
        assert!(refusal(&deep).contains("recursion"), "depth is limited");
    }
}

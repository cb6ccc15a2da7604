//! The list of layers that a written checkpoint leaves as floats (`llm_int8_skip_modules`).
//!
//! How `transformers` 5.24 reads it: [`SkipRules`](crate::models::quantization::SkipRules). Without a list, a model keeps its
//! output embeddings, what is tied to them, and its last parameter, by the parameter's own name; a backbone has no output
//! embeddings, and no linear layer has the name of a parameter, so all of a backbone's linear layers are packed. Earlier
//! releases differ: until 5.23 a match could end anywhere, and release 4 looked for `<entry>.` anywhere in the path or for
//! the whole path, and kept the last layer. What is written is therefore the list of the layers themselves, by their whole
//! paths, which every release reads the same way.

use crate::models::backbones::ModulePaths;

/// The list to write into a checkpoint whose layers `skipped`, by their paths in files, are floats: it means them and no
/// other, whatever release of `transformers` reads it.
pub(in crate::artifacts::pretrained) fn written_list(skipped: &[&str], paths: ModulePaths) -> Vec<String> {
    let mut entries: Vec<String> = skipped.iter().flat_map(|path| layer_entries(path, paths)).collect();
    // A stacked projection is one layer to releases before 5.
    for path in skipped {
        let Some((whole, false)) = paths.stacked(path) else { continue };
        if paths.halves(&whole).is_some_and(|halves| halves.iter().all(|half| skipped.contains(&half.as_str()))) {
            entries.push(whole);
        }
    }
    entries
}

/// The path in files and the one in memory, unless the end of that is the first already. With a prefix that the file has
/// before its names, release 4 goes by the whole name.
fn layer_entries(path: &str, paths: ModulePaths) -> Vec<String> {
    let bare = paths.from_any(path);
    let memory = paths.in_memory(&bare);
    let mut entries = vec![path.to_owned()];
    for other in [bare, memory] {
        if !entries.iter().any(|entry| other.ends_with(entry.as_str())) {
            entries.push(other);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models::registry::family_of;

    fn of(model_type: &str) -> ModulePaths {
        ModulePaths::Of(family_of(json!({ "model_type": model_type }).as_object().unwrap()).unwrap())
    }

    #[test]
    fn what_is_written_are_whole_paths_in_every_spelling_that_some_release_has() {
        let list = |paths: &[&str], model_type: &str| written_list(paths, of(model_type));
        assert_eq!(list(&["layer.0.mlp.up_proj"], "dinov3_vit"), ["layer.0.mlp.up_proj"]);
        assert_eq!(
            list(&["encoder.layer.0.attention.output.dense", "pooler.dense"], "vit"),
            ["encoder.layer.0.attention.output.dense", "layers.0.attention.o_proj", "pooler.dense"]
        );
        assert_eq!(
            list(&["vit.encoder.layer.1.output.dense"], "vit"),
            ["vit.encoder.layer.1.output.dense", "encoder.layer.1.output.dense", "layers.1.mlp.fc2"]
        );
        assert_eq!(list(&["encoder.layer.1.mlp.fc1"], "dinov2"), ["encoder.layer.1.mlp.fc1"]);
    }
}

//! How the path of a module is spelled: in files, in the memory of `transformers` 5, and by older releases.
//!
//! PEFT names adapters, targets, patterns and saved modules by paths in memory. Until release 4 of `transformers` those
//! were the paths of the files; release 5 renames layers while it reads a file. Inside of this program a module has one
//! path, that of the files. It is respelled where directories of PEFT are read and written, and names that a user gives
//! are looked for in every spelling.

use crate::models::registry;

use super::family::Family;

/// The spellings that a model's paths have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModulePaths {
    /// One: the paths are what they are.
    AsWritten,
    /// Those of a family of backbones.
    Of(&'static Family),
    /// Those of any family, for adapters whose base is not known.
    AnyFamily,
}

impl ModulePaths {
    fn families(&self) -> Vec<&'static Family> {
        match self {
            Self::AsWritten => Vec::new(),
            Self::Of(family) => vec![family],
            Self::AnyFamily => registry::BACKBONES.iter().map(|row| row.spelling).collect(),
        }
    }

    /// The model's family, when it is known.
    pub fn family(&self) -> Option<&'static Family> {
        match self {
            Self::Of(family) => Some(family),
            Self::AsWritten | Self::AnyFamily => None,
        }
    }

    /// The short name of the linear layer at `path`, when the family is known.
    pub fn role(&self, path: &str) -> Option<&'static str> {
        self.family()?.role(path)
    }

    /// The paths of both halves of what is at `path`, where files have it stacked ([`Family::halves`]).
    pub fn halves(&self, path: &str) -> Option<[String; 2]> {
        self.families().iter().find_map(|family| family.halves(path))
    }

    /// What files have stacked, given the path of one half of it, and whether that is the second half
    /// ([`Family::stacked`]).
    pub fn stacked(&self, path: &str) -> Option<(String, bool)> {
        self.families().iter().find_map(|family| family.stacked(path))
    }

    /// The path in the memory of `transformers` 5 of what is at `path`; any path of a module or parameter.
    pub fn in_memory(&self, path: &str) -> String {
        let memory = self.family().and_then(|family| family.in_memory(path));
        memory.unwrap_or_else(|| path.to_owned())
    }

    /// The path of what is at `path` in any spelling.
    ///
    /// What files have stacked keeps its name: see [`Family::halves`].
    pub fn from_any(&self, path: &str) -> String {
        let found = self.families().into_iter().find_map(|family| {
            let bare = family.optional_prefix.and_then(|prefix| path.strip_prefix(prefix));
            let read = |path| family.from_memory(path);
            read(path).or_else(|| read(bare?)).or_else(|| bare.map(str::to_owned))
        });
        found.unwrap_or_else(|| path.to_owned())
    }

    /// Every spelling of `path`, that in memory first.
    pub fn spellings(&self, path: &str) -> Vec<String> {
        let mut all = Vec::new();
        for family in self.families() {
            let mut of_family = vec![Self::Of(family).in_memory(path), path.to_owned()];
            of_family.extend(family.stacked(path).map(|(whole, _)| whole));
            if let Some(prefix) = family.optional_prefix {
                of_family.extend(of_family.clone().iter().map(|path| format!("{prefix}{path}")));
            }
            all.extend(of_family);
        }
        all.push(path.to_owned());
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|path| seen.insert(path.clone()));
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::models::registry::family_of;

    fn paths(config: serde_json::Value) -> ModulePaths {
        ModulePaths::Of(family_of(config.as_object().unwrap()).unwrap())
    }

    /// File and memory, as `named_parameters` of transformers 5.23 and the keys of what it saves.
    #[test]
    fn paths_in_files_and_in_memory_are_those_of_transformers() {
        let vit = paths(json!({"model_type": "vit"}));
        let dinov2 = paths(json!({"model_type": "dinov2"}));
        let registers = paths(json!({"model_type": "dinov2_with_registers", "use_swiglu_ffn": true}));
        let dinov3 = paths(json!({"model_type": "dinov3_vit", "use_gated_mlp": true}));
        for (paths, file, memory) in [
            (vit, "encoder.layer.11.attention.attention.query", "layers.11.attention.q_proj"),
            (vit, "encoder.layer.0.attention.output.dense.bias", "layers.0.attention.o_proj.bias"),
            (vit, "encoder.layer.0.intermediate.dense.lora_A.weight", "layers.0.mlp.fc1.lora_A.weight"),
            (vit, "encoder.layer.0.output.dense", "layers.0.mlp.fc2"),
            (vit, "encoder.layer.0.layernorm_before.weight", "layers.0.layernorm_before.weight"),
            (vit, "encoder.layer.3", "layers.3"),
            (vit, "layernorm.weight", "layernorm.weight"),
            (vit, "pooler.dense", "pooler.dense"),
            (dinov2, "encoder.layer.0.attention.attention.value", "encoder.layer.0.attention.v_proj"),
            (dinov2, "encoder.layer.0.mlp.fc1", "encoder.layer.0.mlp.fc1"),
            (dinov2, "encoder.layer.0.layer_scale1.lambda1", "encoder.layer.0.layer_scale1.lambda1"),
            (registers, "encoder.layer.0.mlp.gate_proj", "encoder.layer.0.mlp.gate_proj"),
            (registers, "encoder.layer.0.mlp.weights_out.weight", "encoder.layer.0.mlp.down_proj.weight"),
            (dinov3, "layer.1.mlp.gate_proj.bias", "model.layer.1.mlp.gate_proj.bias"),
            (dinov3, "embeddings.cls_token", "embeddings.cls_token"),
            (dinov3, "norm.weight", "norm.weight"),
        ] {
            assert_eq!(paths.in_memory(file), memory);
            for spelling in [memory, file] {
                assert_eq!(paths.from_any(spelling), file, "{spelling}");
                assert_eq!(ModulePaths::AnyFamily.from_any(spelling), file, "{spelling}");
                assert!(paths.spellings(file).contains(&spelling.to_owned()), "{spelling}");
            }
        }
        assert_eq!(vit.from_any("vit.layers.0.mlp.fc1"), "encoder.layer.0.intermediate.dense");
        assert_eq!(dinov3.from_any("model.norm.weight"), "norm.weight");
        assert_eq!(ModulePaths::AsWritten.from_any("model.layer.0"), "model.layer.0");
    }

    #[test]
    fn halves_of_a_stacked_projection_are_found_by_its_name() {
        let swiglu = paths(json!({"model_type": "dinov2", "use_swiglu_ffn": true}));
        let names = swiglu.family().unwrap();
        let [gate, up] = ["gate", "up"].map(|half| format!("encoder.layer.2.mlp.{half}_proj.weight"));
        let whole = "encoder.layer.2.mlp.weights_in.weight";
        assert_eq!(names.halves(whole), Some([gate.clone(), up.clone()]));
        assert_eq!(names.stacked(&gate), Some((whole.to_owned(), false)));
        assert_eq!(names.stacked(&up), Some((whole.to_owned(), true)));
        assert_eq!((names.halves(&gate), names.stacked("encoder.layer.2.mlp.weights_out")), (None, None));
        assert!(swiglu.spellings(&gate).contains(&whole.to_owned()));
        assert_eq!(paths(json!({"model_type": "dinov2"})).family().unwrap().halves(whole), None);
    }

    #[test]
    fn what_is_below_no_block_keeps_its_name() {
        let vit = paths(json!({"model_type": "vit"}));
        for path in ["encoder.layers.0.x", "encoder.layer", "encoder.layer.x.output.dense", "layers", "layers..x", ""] {
            assert_eq!((vit.in_memory(path), vit.from_any(path)), (path.to_owned(), path.to_owned()));
        }
    }
}

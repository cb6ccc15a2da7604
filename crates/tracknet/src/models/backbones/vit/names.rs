//! Names that all families of vision transformers share.

use crate::models::backbones::ModuleName;

/// Tokens and positions.
pub(super) const EMBEDDINGS: &[ModuleName] = &[
    ModuleName::new("cls_token", "embeddings.cls_token"),
    ModuleName::new("register_tokens", "embeddings.register_tokens"),
    ModuleName::new("position", "embeddings.position_embeddings"),
];

/// The keys of `config.json` that say how large a model is.
pub(super) const SIZES: &[&str] = &["hidden_size", "num_hidden_layers", "patch_size"];

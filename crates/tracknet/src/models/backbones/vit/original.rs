//! The original vision transformer (`vit`): a learned position table, no layer scale.

use serde_json::{Map, Value};

use crate::models::ModelError;

use super::names::{EMBEDDINGS, SIZES};
use super::spec::{Biases, MlpKind, Position, Resampling, VitSpec};
use crate::models::backbones::config::{Sides, activation, config_keys, parse};
use crate::models::backbones::{Family, ModuleName};

const MODULES: &[ModuleName] = &[
    ModuleName::new("blocks.*.query", "encoder.layer.*.attention.attention.query")
        .in_memory("layers.*.attention.q_proj")
        .role("query"),
    ModuleName::new("blocks.*.key", "encoder.layer.*.attention.attention.key")
        .in_memory("layers.*.attention.k_proj")
        .role("key"),
    ModuleName::new("blocks.*.value", "encoder.layer.*.attention.attention.value")
        .in_memory("layers.*.attention.v_proj")
        .role("value"),
    ModuleName::new("blocks.*.output", "encoder.layer.*.attention.output.dense")
        .in_memory("layers.*.attention.o_proj")
        .role("dense"),
    ModuleName::new("blocks.*.up", "encoder.layer.*.intermediate.dense").in_memory("layers.*.mlp.fc1").role("dense"),
    ModuleName::new("blocks.*.down", "encoder.layer.*.output.dense").in_memory("layers.*.mlp.fc2").role("dense"),
    ModuleName::new("blocks.*.norm1", "encoder.layer.*.layernorm_before").in_memory("layers.*.layernorm_before"),
    ModuleName::new("blocks.*.norm2", "encoder.layer.*.layernorm_after").in_memory("layers.*.layernorm_after"),
    ModuleName::new("blocks.*", "encoder.layer.*").in_memory("layers.*"),
    ModuleName::new("patch", "embeddings.patch_embeddings.projection"),
    ModuleName::new("norm", "layernorm"),
];
pub(in crate::models) static FAMILY: Family = Family {
    model_type: "vit",
    architecture: "ViTModel",
    optional_prefix: Some("vit."),
    modules: &[EMBEDDINGS, MODULES],
    stacked: None,
    anchors: ["embeddings.cls_token", "embeddings.patch_embeddings.projection.weight"],
    sizes: SIZES,
    image_processor: "ViTImageProcessor",
    unused: &["embeddings.mask_token", "pooler."],
};

config_keys! {
    /// Keys of `config.json` with a meaning here, with `transformers`' defaults: ViT-B/16.
    pub(in crate::models) struct Config {
        patch_size: Sides = Sides::Square(16),
        hidden_size: usize = 768,
        intermediate_size: usize = 3072,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        hidden_act: String = "gelu".to_owned(),
        initializer_range: f32 = 0.02,
        layer_norm_eps: f64 = 1e-12,
        qkv_bias: bool = true,
        image_size: Sides = Sides::Square(224),
    }
}

pub(in crate::models) fn spec(config: &Map<String, Value>, key: &str) -> Result<(VitSpec, Vec<String>), ModelError> {
    let (c, unknown): (Config, _) = parse(config, key)?;
    let patch = c.patch_size.square("patch_size", key)?;
    let spec = VitSpec {
        hidden: c.hidden_size,
        layers: c.num_hidden_layers,
        heads: c.num_attention_heads,
        mlp: c.intermediate_size,
        patch,
        registers: 0,
        epsilon: c.layer_norm_eps,
        activation: activation(&c.hidden_act, key)?,
        mlp_kind: MlpKind::Plain,
        layer_scale: None,
        position: Position::Learned { grid: c.image_size.grid(patch, key)?, resampling: Resampling::Bicubic },
        biases: Biases { query: c.qkv_bias, key: c.qkv_bias, value: c.qkv_bias, output: true, mlp: true },
        initializer_range: c.initializer_range,
        family: &FAMILY,
        config: Map::new(),
    };
    Ok((spec, unknown))
}

//! DINOv3 vision transformers (`dinov3_vit`): rotary positions, register tokens, layer scale, no key bias.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::models::ModelError;

use super::names::{EMBEDDINGS, SIZES};
use super::spec::{Biases, MlpKind, Position, VitSpec};
use crate::models::backbones::config::{Sides, activation, parse};
use crate::models::backbones::{Family, ModuleName};

/// In memory everything of a block is one module deeper than in files.
const BLOCKS: &[ModuleName] = &[
    ModuleName::new("blocks.*.query", "layer.*.attention.q_proj")
        .in_memory("model.layer.*.attention.q_proj")
        .role("query"),
    ModuleName::new("blocks.*.key", "layer.*.attention.k_proj").in_memory("model.layer.*.attention.k_proj").role("key"),
    ModuleName::new("blocks.*.value", "layer.*.attention.v_proj")
        .in_memory("model.layer.*.attention.v_proj")
        .role("value"),
    ModuleName::new("blocks.*.output", "layer.*.attention.o_proj")
        .in_memory("model.layer.*.attention.o_proj")
        .role("dense"),
    ModuleName::new("blocks.*.gate", "layer.*.mlp.gate_proj").in_memory("model.layer.*.mlp.gate_proj").role("dense"),
    ModuleName::new("blocks.*.up", "layer.*.mlp.up_proj").in_memory("model.layer.*.mlp.up_proj").role("dense"),
    ModuleName::new("blocks.*.down", "layer.*.mlp.down_proj").in_memory("model.layer.*.mlp.down_proj").role("dense"),
    ModuleName::new("blocks.*.scale1", "layer.*.layer_scale1.lambda1").in_memory("model.layer.*.layer_scale1.lambda1"),
    ModuleName::new("blocks.*.scale2", "layer.*.layer_scale2.lambda1").in_memory("model.layer.*.layer_scale2.lambda1"),
    ModuleName::new("blocks.*", "layer.*").in_memory("model.layer.*"),
];
pub(in crate::models) static FAMILY: Family = Family {
    model_type: "dinov3_vit",
    architecture: "DINOv3ViTModel",
    optional_prefix: Some("model."),
    modules: &[EMBEDDINGS, BLOCKS, &[ModuleName::new("patch", "embeddings.patch_embeddings")]],
    stacked: None,
    anchors: ["embeddings.cls_token", "embeddings.patch_embeddings.weight"],
    sizes: SIZES,
    image_processor: "DINOv3ViTImageProcessor",
    unused: &["embeddings.mask_token"],
};

/// Keys of `config.json` with a meaning here.
pub(in crate::models) const KEYS: &[&str] = &[
    "patch_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "initializer_range",
    "layer_norm_eps",
    "rope_theta",
    "query_bias",
    "key_bias",
    "value_bias",
    "proj_bias",
    "mlp_bias",
    "layerscale_value",
    "use_gated_mlp",
    "num_register_tokens",
    "image_size",
    "num_channels",
];

/// `transformers`' defaults: ViT-S/16.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    patch_size: Sides,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    hidden_act: String,
    initializer_range: f32,
    layer_norm_eps: f64,
    rope_theta: f32,
    query_bias: bool,
    key_bias: bool,
    value_bias: bool,
    proj_bias: bool,
    mlp_bias: bool,
    layerscale_value: f32,
    use_gated_mlp: bool,
    num_register_tokens: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patch_size: Sides::Square(16),
            hidden_size: 384,
            intermediate_size: 1536,
            num_hidden_layers: 12,
            num_attention_heads: 6,
            hidden_act: "gelu".to_owned(),
            initializer_range: 0.02,
            layer_norm_eps: 1e-5,
            rope_theta: 100.0,
            query_bias: true,
            key_bias: false,
            value_bias: true,
            proj_bias: true,
            mlp_bias: true,
            layerscale_value: 1.0,
            use_gated_mlp: false,
            num_register_tokens: 0,
        }
    }
}

pub(in crate::models) fn spec(config: &Map<String, Value>, key: &str) -> Result<(VitSpec, Vec<String>), ModelError> {
    let (c, unknown): (Config, _) = parse(config, key, KEYS)?;
    let patch = c.patch_size.square("patch_size", key)?;
    let spec = VitSpec {
        hidden: c.hidden_size,
        layers: c.num_hidden_layers,
        heads: c.num_attention_heads,
        mlp: c.intermediate_size,
        patch,
        registers: c.num_register_tokens,
        epsilon: c.layer_norm_eps,
        activation: activation(&c.hidden_act, key)?,
        mlp_kind: if c.use_gated_mlp { MlpKind::Gated } else { MlpKind::Plain },
        layer_scale: Some(c.layerscale_value),
        position: Position::Rope { theta: c.rope_theta },
        biases: Biases {
            query: c.query_bias,
            key: c.key_bias,
            value: c.value_bias,
            output: c.proj_bias,
            mlp: c.mlp_bias,
        },
        initializer_range: c.initializer_range,
        family: &FAMILY,
        config: Map::new(),
    };
    Ok((spec, unknown))
}

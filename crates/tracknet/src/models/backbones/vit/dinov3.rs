//! DINOv3 vision transformers (`dinov3_vit`): rotary positions, register tokens, layer scale, no key bias.

use serde_json::{Map, Value};

use crate::models::ModelError;

use super::names::{EMBEDDINGS, SIZES};
use super::spec::{Biases, MlpKind, Position, VitSpec};
use crate::models::backbones::config::{Sides, activation, config_keys, parse};
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

config_keys! {
    /// Keys of `config.json` with a meaning here, with `transformers`' defaults: ViT-S/16.
    pub(in crate::models) struct Config {
        patch_size: Sides = Sides::Square(16),
        hidden_size: usize = 384,
        intermediate_size: usize = 1536,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 6,
        hidden_act: String = "gelu".to_owned(),
        initializer_range: f32 = 0.02,
        layer_norm_eps: f64 = 1e-5,
        rope_theta: f32 = 100.0,
        query_bias: bool = true,
        key_bias: bool = false,
        value_bias: bool = true,
        proj_bias: bool = true,
        mlp_bias: bool = true,
        layerscale_value: f32 = 1.0,
        use_gated_mlp: bool = false,
        num_register_tokens: usize = 0,
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

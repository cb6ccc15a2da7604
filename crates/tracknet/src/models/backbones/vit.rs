//! The original vision transformer (`vit`): a learned position table, no layer scale.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::models::ModelError;

use super::names::{LinearNames, VitNames};
use super::spec::{Biases, MlpKind, Position, Resampling, Sides, VitSpec, activation, parse};

pub(super) const NAMES: VitNames = VitNames {
    model_type: "vit",
    architecture: "ViTModel",
    optional_prefix: Some("vit."),
    patch: "embeddings.patch_embeddings.projection",
    norm: "layernorm",
    norm1: "layernorm_before",
    norm2: "layernorm_after",
    files: LinearNames {
        blocks: "encoder.layer",
        query: "attention.attention.query",
        key: "attention.attention.key",
        value: "attention.attention.value",
        output: "attention.output.dense",
        up: "intermediate.dense",
        gate: "",
        down: "output.dense",
    },
    stacked: None,
    memory: LinearNames {
        blocks: "layers",
        query: "attention.q_proj",
        key: "attention.k_proj",
        value: "attention.v_proj",
        output: "attention.o_proj",
        up: "mlp.fc1",
        gate: "",
        down: "mlp.fc2",
    },
    unused: &["embeddings.mask_token", "pooler."],
};

const KEYS: &[&str] = &[
    "patch_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "initializer_range",
    "layer_norm_eps",
    "qkv_bias",
    "image_size",
    "num_channels",
];

/// `transformers`' defaults: ViT-B/16.
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
    qkv_bias: bool,
    image_size: Sides,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patch_size: Sides::Square(16),
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            hidden_act: "gelu".to_owned(),
            initializer_range: 0.02,
            layer_norm_eps: 1e-12,
            qkv_bias: true,
            image_size: Sides::Square(224),
        }
    }
}

pub(super) fn spec(config: &Map<String, Value>, key: &str) -> Result<(VitSpec, Vec<String>), ModelError> {
    let (c, unknown): (Config, _) = parse(config, key, KEYS)?;
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
        names: &NAMES,
        config: Map::new(),
    };
    Ok((spec, unknown))
}

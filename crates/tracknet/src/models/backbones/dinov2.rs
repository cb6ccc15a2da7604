//! DINOv2 vision transformers (`dinov2`, `dinov2_with_registers`): a learned position table, layer scale, and a
//! SwiGLU MLP in the largest model.

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::models::ModelError;
use crate::models::layers::Activation;

use super::names::{LinearNames, VitNames};
use super::spec::{Biases, MlpKind, Position, Resampling, Sides, VitSpec, activation, parse, positive};

const PLAIN: VitNames = VitNames {
    model_type: "dinov2",
    architecture: "Dinov2Model",
    optional_prefix: Some("dinov2."),
    patch: "embeddings.patch_embeddings.projection",
    norm: "layernorm",
    norm1: "norm1",
    norm2: "norm2",
    files: LinearNames {
        blocks: "encoder.layer",
        query: "attention.attention.query",
        key: "attention.attention.key",
        value: "attention.attention.value",
        output: "attention.output.dense",
        up: "mlp.fc1",
        gate: "",
        down: "mlp.fc2",
    },
    stacked: None,
    memory: MEMORY,
    unused: &["embeddings.mask_token"],
};
const MEMORY: LinearNames = LinearNames {
    blocks: "encoder.layer",
    query: "attention.q_proj",
    key: "attention.k_proj",
    value: "attention.v_proj",
    output: "attention.o_proj",
    up: "mlp.fc1",
    gate: "",
    down: "mlp.fc2",
};
/// Gate and up have no names of their own in files, so they are called here as in memory.
pub(super) const SWIGLU: VitNames = VitNames {
    files: LinearNames { up: "mlp.up_proj", gate: "mlp.gate_proj", down: "mlp.weights_out", ..PLAIN.files },
    stacked: Some("mlp.weights_in"),
    memory: LinearNames { up: "mlp.up_proj", gate: "mlp.gate_proj", down: "mlp.down_proj", ..MEMORY },
    ..PLAIN
};
const REGISTERS: VitNames = VitNames {
    model_type: "dinov2_with_registers",
    architecture: "Dinov2WithRegistersModel",
    optional_prefix: Some("dinov2_with_registers."),
    ..PLAIN
};
const REGISTERS_SWIGLU: VitNames = VitNames {
    model_type: REGISTERS.model_type,
    architecture: REGISTERS.architecture,
    optional_prefix: REGISTERS.optional_prefix,
    ..SWIGLU
};

const KEYS: &[&str] = &[
    "patch_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "mlp_ratio",
    "hidden_act",
    "initializer_range",
    "layer_norm_eps",
    "qkv_bias",
    "layerscale_value",
    "use_swiglu_ffn",
    "num_register_tokens",
    "image_size",
    "num_channels",
];

/// `transformers`' defaults: ViT-B/14, and ViT-B/16 with registers.
#[derive(Debug, Deserialize)]
#[serde(default)]
struct Config {
    patch_size: Option<Sides>,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    mlp_ratio: f64,
    hidden_act: String,
    initializer_range: f32,
    layer_norm_eps: f64,
    qkv_bias: bool,
    layerscale_value: f32,
    use_swiglu_ffn: bool,
    num_register_tokens: usize,
    image_size: Sides,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            patch_size: None,
            hidden_size: 768,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            mlp_ratio: 4.0,
            hidden_act: "gelu".to_owned(),
            initializer_range: 0.02,
            layer_norm_eps: 1e-6,
            qkv_bias: true,
            layerscale_value: 1.0,
            use_swiglu_ffn: false,
            num_register_tokens: 4,
            image_size: Sides::Square(224),
        }
    }
}

pub(super) fn names(registers: bool, swiglu: bool) -> &'static VitNames {
    match (registers, swiglu) {
        (false, false) => &PLAIN,
        (false, true) => &SWIGLU,
        (true, false) => &REGISTERS,
        (true, true) => &REGISTERS_SWIGLU,
    }
}

pub(super) fn spec(
    config: &Map<String, Value>,
    key: &str,
    registers: bool,
) -> Result<(VitSpec, Vec<String>), ModelError> {
    let (c, unknown): (Config, _) = parse(config, key, KEYS)?;
    let patch = c.patch_size.unwrap_or(Sides::Square(if registers { 16 } else { 14 })).square("patch_size", key)?;
    positive(c.mlp_ratio, "mlp_ratio", key)?;
    let width = (c.hidden_size as f64 * c.mlp_ratio) as usize;
    let (mlp, mlp_kind) = if c.use_swiglu_ffn {
        // Two thirds, so that three matrices cost as much as two, rounded up to a multiple of 8.
        ((width.saturating_mul(2) / 3).div_ceil(8) * 8, MlpKind::Gated)
    } else {
        (width, MlpKind::Plain)
    };
    let spec = VitSpec {
        hidden: c.hidden_size,
        layers: c.num_hidden_layers,
        heads: c.num_attention_heads,
        mlp,
        patch,
        registers: if registers { c.num_register_tokens } else { 0 },
        epsilon: c.layer_norm_eps,
        activation: if c.use_swiglu_ffn { Activation::Silu } else { activation(&c.hidden_act, key)? },
        mlp_kind,
        layer_scale: Some(c.layerscale_value),
        position: Position::Learned {
            grid: c.image_size.grid(patch, key)?,
            resampling: if registers { Resampling::BicubicAntialias } else { Resampling::Bicubic },
        },
        biases: Biases { query: c.qkv_bias, key: c.qkv_bias, value: c.qkv_bias, output: true, mlp: true },
        initializer_range: c.initializer_range,
        names: names(registers, c.use_swiglu_ffn),
        config: Map::new(),
    };
    Ok((spec, unknown))
}

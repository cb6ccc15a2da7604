//! DINOv2 vision transformers (`dinov2`, `dinov2_with_registers`): a learned position table, layer scale, and a
//! SwiGLU MLP in the largest model.

use serde_json::{Map, Value};

use crate::models::ModelError;
use crate::models::backbones::config::{Sides, activation, config_keys, parse, positive};
use crate::models::backbones::{Family, ModuleName, Stacked};
use crate::models::nn::Activation;

use super::names::{EMBEDDINGS, SIZES};
use super::spec::{Biases, MlpKind, Position, Resampling, VitSpec};

const MODULES: &[ModuleName] = &[
    ModuleName::new("blocks.*.query", "encoder.layer.*.attention.attention.query")
        .in_memory("encoder.layer.*.attention.q_proj")
        .role("query"),
    ModuleName::new("blocks.*.key", "encoder.layer.*.attention.attention.key")
        .in_memory("encoder.layer.*.attention.k_proj")
        .role("key"),
    ModuleName::new("blocks.*.value", "encoder.layer.*.attention.attention.value")
        .in_memory("encoder.layer.*.attention.v_proj")
        .role("value"),
    ModuleName::new("blocks.*.output", "encoder.layer.*.attention.output.dense")
        .in_memory("encoder.layer.*.attention.o_proj")
        .role("dense"),
    ModuleName::new("blocks.*.scale1", "encoder.layer.*.layer_scale1.lambda1"),
    ModuleName::new("blocks.*.scale2", "encoder.layer.*.layer_scale2.lambda1"),
    ModuleName::new("patch", "embeddings.patch_embeddings.projection"),
    ModuleName::new("norm", "layernorm"),
];
const PLAIN_MLP: &[ModuleName] = &[
    ModuleName::new("blocks.*.up", "encoder.layer.*.mlp.fc1").role("dense"),
    ModuleName::new("blocks.*.down", "encoder.layer.*.mlp.fc2").role("dense"),
];
/// Gate and up have no names of their own in files, so they are called here as in memory.
const SWIGLU_MLP: &[ModuleName] = &[
    ModuleName::new("blocks.*.gate", "encoder.layer.*.mlp.gate_proj").role("dense"),
    ModuleName::new("blocks.*.up", "encoder.layer.*.mlp.up_proj").role("dense"),
    ModuleName::new("blocks.*.down", "encoder.layer.*.mlp.weights_out")
        .in_memory("encoder.layer.*.mlp.down_proj")
        .role("dense"),
];
const BLOCKS: &[ModuleName] = &[ModuleName::new("blocks.*", "encoder.layer.*")];

const PLAIN: Family = Family {
    model_type: "dinov2",
    architecture: "Dinov2Model",
    optional_prefix: Some("dinov2."),
    modules: &[EMBEDDINGS, MODULES, PLAIN_MLP, BLOCKS],
    stacked: None,
    anchors: ["embeddings.cls_token", "embeddings.patch_embeddings.projection.weight"],
    sizes: SIZES,
    image_processor: "BitImageProcessor",
    unused: &["embeddings.mask_token"],
};
const REGISTERS: Family = Family {
    model_type: "dinov2_with_registers",
    architecture: "Dinov2WithRegistersModel",
    optional_prefix: Some("dinov2_with_registers."),
    ..PLAIN
};
const fn with_swiglu(family: Family) -> Family {
    let stacked = Some(Stacked { whole: "mlp.weights_in", halves: ["mlp.gate_proj", "mlp.up_proj"] });
    Family { modules: &[EMBEDDINGS, MODULES, SWIGLU_MLP, BLOCKS], stacked, ..family }
}
/// By registers, then by the MLP: plain, SwiGLU.
static FAMILIES: [[Family; 2]; 2] = [[PLAIN, with_swiglu(PLAIN)], [REGISTERS, with_swiglu(REGISTERS)]];

config_keys! {
    /// Keys of `config.json` with a meaning here, with `transformers`' defaults: ViT-B/14, and ViT-B/16 with registers.
    pub(in crate::models) struct Config {
        patch_size: Option<Sides> = None,
        hidden_size: usize = 768,
        num_hidden_layers: usize = 12,
        num_attention_heads: usize = 12,
        mlp_ratio: f64 = 4.0,
        hidden_act: String = "gelu".to_owned(),
        initializer_range: f32 = 0.02,
        layer_norm_eps: f64 = 1e-6,
        qkv_bias: bool = true,
        layerscale_value: f32 = 1.0,
        use_swiglu_ffn: bool = false,
        num_register_tokens: usize = 4,
        image_size: Sides = Sides::Square(224),
    }
}

/// The names of a checkpoint with or without registers, and with a SwiGLU MLP or a plain one.
pub(in crate::models) const fn family(registers: bool, swiglu: bool) -> &'static Family {
    &FAMILIES[registers as usize][swiglu as usize]
}

/// [`family`] of a `config.json`.
pub(in crate::models) fn family_of(config: &Map<String, Value>, registers: bool) -> &'static Family {
    family(registers, config.get("use_swiglu_ffn").and_then(Value::as_bool).unwrap_or_default())
}

pub(in crate::models) fn spec(
    config: &Map<String, Value>,
    key: &str,
    registers: bool,
) -> Result<(VitSpec, Vec<String>), ModelError> {
    let (c, unknown): (Config, _) = parse(config, key)?;
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
        family: family(registers, c.use_swiglu_ffn),
        config: Map::new(),
    };
    Ok((spec, unknown))
}

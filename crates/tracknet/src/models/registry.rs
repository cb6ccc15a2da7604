//! Every family of backbones and every decoder: one row each.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{ModelConfig, ModelName};
use crate::console::shown;

use super::ModelError;
use super::backbones::config::ConfigKeys;
use super::backbones::vit::{self, dinov2, dinov3, original};
use super::backbones::{BackboneSpec, Family, convnext};
use super::decoders::{DecoderSpec, DeformableSpec, FpnSpec, HrnetSpec, UnetSpec, UpsamplingSpec};
use super::features::Layout;
use super::window::WindowSpec;

/// A description of a backbone, and the keys of its configuration that mean nothing to its family.
pub type Described = (Arc<dyn BackboneSpec>, Vec<String>);

/// A family of backbones.
pub struct BackboneRow {
    /// `config.json: model_type`.
    pub model_type: &'static str,
    /// The keys of `config.json` with a meaning here.
    pub keys: &'static [&'static str],
    /// The names of a checkpoint with this `config.json`.
    pub family: fn(&Map<String, Value>) -> &'static Family,
    /// The names that spell the paths of every model of the family.
    pub spelling: &'static Family,
    /// Reads a `config.json`, which the second argument names in errors.
    describe: fn(&Map<String, Value>, &str) -> Result<Described, ModelError>,
}

/// The families of backbones.
pub static BACKBONES: [BackboneRow; 5] = [
    BackboneRow {
        model_type: "dinov3_vit",
        keys: dinov3::Config::KEYS,
        family: |_| &dinov3::FAMILY,
        spelling: &dinov3::FAMILY,
        describe: |config, key| vit::describe(dinov3::spec(config, key), config, key),
    },
    BackboneRow {
        model_type: "dinov2",
        keys: dinov2::Config::KEYS,
        family: |config| dinov2::family_of(config, false),
        spelling: dinov2::family(false, true),
        describe: |config, key| vit::describe(dinov2::spec(config, key, false), config, key),
    },
    BackboneRow {
        model_type: "dinov2_with_registers",
        keys: dinov2::Config::KEYS,
        family: |config| dinov2::family_of(config, true),
        spelling: dinov2::family(true, true),
        describe: |config, key| vit::describe(dinov2::spec(config, key, true), config, key),
    },
    BackboneRow {
        model_type: "vit",
        keys: original::Config::KEYS,
        family: |_| &original::FAMILY,
        spelling: &original::FAMILY,
        describe: |config, key| vit::describe(original::spec(config, key), config, key),
    },
    BackboneRow {
        model_type: "dinov3_convnext",
        keys: convnext::Config::KEYS,
        family: |_| &convnext::FAMILY,
        spelling: &convnext::FAMILY,
        describe: convnext::describe,
    },
];

/// A decoder that was found to fit a backbone.
pub type PlannedDecoder = Result<Box<dyn DecoderSpec>, ModelError>;

/// A decoder.
pub struct DecoderRow {
    /// What it is called.
    pub name: &'static str,
    /// The values of `model.model_name` that mean it.
    pub model_names: &'static [ModelName],
    /// Checks a configuration against the levels of a backbone and the size `[W, H]` of the heatmap. Only a decoder with a stem
    /// has a use for the window: for the others it cannot enter there ([`WindowSpec::new`]).
    ///
    /// # Errors
    /// A value that cannot work, or a level that the backbone does not have.
    pub plan: fn(&ModelConfig, &Layout, [usize; 2], WindowSpec) -> PlannedDecoder,
}

/// The decoders.
pub static DECODERS: [DecoderRow; 5] = [
    DecoderRow {
        name: "upsampling",
        model_names: &[ModelName::VitHeatmap, ModelName::VitLoraHeatmap, ModelName::VitQloraHeatmap],
        plan: |config, layout, heatmap, window| {
            Ok(Box::new(UpsamplingSpec::new(&config.decoder, layout, heatmap)?.seeing(window)))
        },
    },
    DecoderRow {
        name: "fpn",
        model_names: &[ModelName::ConvnextFpnHeatmap],
        plan: |config, layout, heatmap, _window| Ok(Box::new(FpnSpec::new(&config.fpn, layout, heatmap)?)),
    },
    DecoderRow {
        name: "hrnet",
        model_names: &[ModelName::ConvnextHrnetHeatmap],
        plan: |config, layout, heatmap, _window| Ok(Box::new(HrnetSpec::new(&config.hrnet, layout, heatmap)?)),
    },
    DecoderRow {
        name: "deformable",
        model_names: &[ModelName::ConvnextDeformableFpnHeatmap],
        plan: |config, layout, heatmap, _window| {
            Ok(Box::new(DeformableSpec::new(&config.deformable_encoder, layout, heatmap)?))
        },
    },
    DecoderRow {
        name: "unet",
        model_names: &[ModelName::VitUnetHeatmap],
        plan: |config, layout, heatmap, window| Ok(Box::new(UnetSpec::new(&config.unet, layout, heatmap, window))),
    },
];

/// The weights of the largest backbone that is built: above those of every published one (DINOv3 has 6.7e9).
const MOST_WEIGHTS: u128 = 1 << 34;

/// The values of `config.json: model_type` that can be built, for messages.
pub fn model_types() -> String {
    BACKBONES.iter().map(|row| row.model_type).collect::<Vec<_>>().join(", ")
}

/// The row of this model type.
pub fn backbone_row(model_type: &str) -> Option<&'static BackboneRow> {
    BACKBONES.iter().find(|row| row.model_type == model_type)
}

/// The names that a checkpoint with this `config.json` uses; nothing for other models.
pub fn family_of(config: &Map<String, Value>) -> Option<&'static Family> {
    let row = backbone_row(config.get("model_type").and_then(Value::as_str)?)?;
    Some((row.family)(config))
}

/// Reads a Hugging Face `config.json`, or the `backbone.architecture` section; `key` names it in errors.
///
/// # Errors
/// An unknown `model_type`, a key of the wrong type, or sizes that cannot work together.
pub fn describe_backbone(config: &Map<String, Value>, key: &str) -> Result<Described, ModelError> {
    let model_type = model_type(config, key)?;
    let Some(row) = backbone_row(model_type) else {
        let message = format!("`{}` is not supported; known model types: {}", shown(model_type), model_types());
        return Err(ModelError::key(format!("{key}.model_type"), message));
    };
    let (spec, unknown) = (row.describe)(config, key)?;
    check_channels(config, key)?;
    let weights = spec.weights();
    if weights > MOST_WEIGHTS {
        let sizes = spec.sizes();
        let message = format!("describes a model of {weights} weights ({sizes}); at most {MOST_WEIGHTS} are built");
        return Err(ModelError::key(key, message));
    }
    Ok((spec, unknown))
}

/// The decoder of the models that `model.model_name` names.
///
/// # Errors
/// A name without a row.
pub fn decoder_of(model_name: ModelName) -> Result<&'static DecoderRow, ModelError> {
    DECODERS.iter().find(|row| row.model_names.contains(&model_name)).ok_or_else(|| {
        let known: Vec<&str> = DECODERS.iter().flat_map(|row| row.model_names).map(|name| name.name()).collect();
        let message = format!("`{model_name}` is not known; known models: {}", known.join(", "));
        ModelError::key("model.model_name", message)
    })
}

/// The model type that a configuration names.
fn model_type<'a>(config: &'a Map<String, Value>, key: &str) -> Result<&'a str, ModelError> {
    let message = match config.get("model_type").filter(|value| !value.is_null()) {
        Some(Value::String(text)) if !text.is_empty() => return Ok(text),
        Some(other) => format!("is `{}`, expected one of {}", shown(&other.to_string()), model_types()),
        None if config.contains_key("pretrained_cfg") => {
            "is missing: this is the config.json of a model of timm; get the \
             model as transformers has it (on the hub: facebook/dinov2-small, google/vit-base-patch16-224)"
                .to_owned()
        }
        None => format!("is missing; known model types: {}", model_types()),
    };
    Err(ModelError::key(format!("{key}.model_type"), message))
}

/// Frames are RGB: a backbone for anything else cannot see them.
fn check_channels(config: &Map<String, Value>, key: &str) -> Result<(), ModelError> {
    match config.get("num_channels").filter(|value| !value.is_null() && value.as_u64() != Some(3)) {
        None => Ok(()),
        Some(found) => {
            let message = format!("is `{}`, expected 3: frames are red, green and blue", shown(&found.to_string()));
            Err(ModelError::key(format!("{key}.num_channels"), message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<Arc<dyn BackboneSpec>, ModelError> {
        describe_backbone(&serde_json::from_str(json).unwrap(), "config.json").map(|s| s.0)
    }

    #[test]
    fn a_size_that_is_not_a_multiple_of_the_patch_names_the_nearest_legal_sizes() {
        let spec = spec(r#"{"model_type": "dinov2", "patch_size": 14, "image_size": 518}"#).unwrap();
        let message = spec.check_input([512, 288]).unwrap_err().to_string();
        assert!(message.contains("[512, 288]") && message.contains("14×14"), "{message}");
        assert!(message.contains("width 504 or 518") && message.contains("height 280 or 294"), "{message}");
        spec.check_input([504, 294]).unwrap();
        assert_eq!(spec.layout().grids([504, 294]), [[21, 36]]);
    }

    #[test]
    fn an_unknown_model_type_lists_the_known_ones() {
        let message = spec(r#"{"model_type": "swin"}"#).unwrap_err().to_string();
        assert!(message.contains("`swin`") && message.contains("dinov2_with_registers"), "{message}");
    }

    #[test]
    fn heads_that_do_not_divide_the_hidden_size_are_refused() {
        let message = spec(r#"{"model_type": "vit", "hidden_size": 65}"#).unwrap_err().to_string();
        assert!(message.contains("num_attention_heads") && message.contains("65"), "{message}");
    }

    #[test]
    fn a_key_of_the_wrong_type_is_named() {
        for (json, expected) in [
            (r#""hidden_size": "big""#, r#"hidden_size: is `"big"`, expected a whole number that is not below 0"#),
            (r#""hidden_size": -1"#, "hidden_size: is `-1`, expected a whole number that is not below 0"),
            (r#""num_hidden_layers": 1.5"#, "num_hidden_layers: is `1.5`, expected a whole number"),
            (r#""layer_norm_eps": "1e-6""#, r#"layer_norm_eps: is `"1e-6"`, expected a number"#),
            (r#""qkv_bias": 1"#, "qkv_bias: is `1`, expected true or false"),
            (r#""hidden_act": 1"#, "hidden_act: is `1`, expected text"),
            (r#""patch_size": [16, 16, 3]"#, "patch_size: is `[16,16,3]`, expected a whole number, or a list of two"),
            (r#""patch_size": [16, 8]"#, "patch_size: [16, 8] is not square"),
            (r#""num_channels": 9"#, "num_channels: is `9`, expected 3"),
        ] {
            let message = spec(&format!(r#"{{"model_type": "vit", {json}}}"#)).unwrap_err().to_string();
            assert!(message.starts_with("config.json.") && message.contains(expected), "{message}");
        }
        let timm = spec(r#"{"architecture": "vit_small", "pretrained_cfg": {}}"#).unwrap_err().to_string();
        assert!(timm.contains("model of timm"), "{timm}");
        assert!(spec(r#"{"model_type": 3}"#).unwrap_err().to_string().contains("model_type: is `3`"));
    }

    #[test]
    fn sizes_are_bounded_before_anything_is_built() {
        for (model_type, json, expected) in [
            (
                "dinov3_vit",
                r#""num_register_tokens": 18446744073709551615"#,
                "num_register_tokens: is 18446744073709551615",
            ),
            (
                "dinov3_vit",
                r#""num_hidden_layers": 1000000000"#,
                "num_hidden_layers: is 1000000000, expected a whole number",
            ),
            ("vit", r#""num_hidden_layers": 0"#, "num_hidden_layers: is 0, expected a whole number from 1 to 1024"),
            ("vit", r#""hidden_size": 18446744073709551615"#, "hidden_size: is 18446744073709551615"),
            ("vit", r#""intermediate_size": 4294967296"#, "intermediate_size"),
            ("vit", r#""image_size": 18446744073709551615"#, "image_size"),
            ("vit", r#""patch_size": 0"#, "patch_size: is 0"),
            ("dinov2", r#""mlp_ratio": 1e300"#, "intermediate_size"),
            ("dinov2", r#""mlp_ratio": -4"#, "mlp_ratio: is -4, expected a number above 0"),
            ("dinov2", r#""layer_norm_eps": 0"#, "layer_norm_eps: is 0"),
            ("dinov3_vit", r#""rope_theta": -1"#, "rope_theta: is -1"),
            (
                "vit",
                r#""hidden_size": 16384, "num_attention_heads": 16, "num_hidden_layers": 1024, "intermediate_size": 65536"#,
                "at most 17179869184 are built",
            ),
        ] {
            let json = format!(r#"{{"model_type": "{model_type}", {json}}}"#);
            let message = spec(&json).unwrap_err().to_string();
            assert!(message.starts_with("config.json") && message.contains(expected), "{message}");
        }
        assert!(
            spec(
                r#"{"model_type": "dinov3_vit", "hidden_size": 4096, "num_hidden_layers": 40, "num_attention_heads": 32,
                        "intermediate_size": 8192, "use_gated_mlp": true, "num_register_tokens": 4}"#
            )
            .is_ok()
        );
    }
}

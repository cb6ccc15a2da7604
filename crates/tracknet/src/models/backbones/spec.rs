//! What distinguishes one vision transformer from another, as data.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::console::shown;
use crate::models::ModelError;
use crate::models::layers::Activation;

use super::names::VitNames;
use super::{dinov2, dinov3, vit};

/// The values of `config.json: model_type` that can be built.
pub const MODEL_TYPES: [&str; 4] = ["dinov3_vit", "dinov2", "dinov2_with_registers", "vit"];

/// The weights of the largest backbone that is built: above those of every published one (DINOv3 has 6.7e9).
const MOST_WEIGHTS: u128 = 1 << 34;

/// The widest table of positions, in patches.
const MOST_PATCHES: usize = 1 << 10;

/// A vision transformer, described.
#[derive(Debug, Clone, PartialEq)]
pub struct VitSpec {
    /// Features of a token.
    pub hidden: usize,
    /// Blocks.
    pub layers: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Features inside the MLP, after its activation.
    pub mlp: usize,
    /// Pixels of a patch's edge.
    pub patch: usize,
    /// Register tokens, after the class token.
    pub registers: usize,
    /// Epsilon of every layer normalization.
    pub epsilon: f64,
    /// Activation of the MLP.
    pub activation: Activation,
    /// Shape of the MLP.
    pub mlp_kind: MlpKind,
    /// First value of the layer scales; `None` = there are none.
    pub layer_scale: Option<f32>,
    /// How tokens know where they are.
    pub position: Position,
    /// Which projections have a bias.
    pub biases: Biases,
    /// Deviation of random weights.
    pub initializer_range: f32,
    /// What the checkpoint calls things.
    pub names: &'static VitNames,
    /// The configuration as it was read, so that it can be written again.
    pub config: Map<String, Value>,
}

/// Shape of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlpKind {
    /// `down(act(up(x)))`.
    Plain,
    /// `down(act(gate(x)) · up(x))`.
    Gated,
}

/// How tokens know where they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Position {
    /// Rotary embedding on queries and keys of the patches.
    Rope {
        /// Base of the frequencies.
        theta: f32,
    },
    /// A learned table for a square of `grid × grid` patches, resampled to the input's grid.
    Learned {
        /// Patches along an edge of the table.
        grid: usize,
        /// How the table is resampled.
        resampling: Resampling,
    },
}

/// Cubic resampling, as PyTorch's `interpolate` does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resampling {
    /// `mode="bicubic"`.
    Bicubic,
    /// `mode="bicubic", antialias=True`.
    BicubicAntialias,
}

/// Which projections have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Biases {
    pub query: bool,
    pub key: bool,
    pub value: bool,
    pub output: bool,
    pub mlp: bool,
}

/// The names that a checkpoint with this `config.json` uses; nothing for other models.
pub(crate) fn names_of(config: &Map<String, Value>) -> Option<&'static VitNames> {
    let swiglu = config.get("use_swiglu_ffn").and_then(Value::as_bool).unwrap_or_default();
    match config.get("model_type").and_then(Value::as_str)? {
        "dinov3_vit" => Some(&dinov3::NAMES),
        "dinov2" => Some(dinov2::names(false, swiglu)),
        "dinov2_with_registers" => Some(dinov2::names(true, swiglu)),
        "vit" => Some(&vit::NAMES),
        _ => None,
    }
}

impl VitSpec {
    /// Reads a Hugging Face `config.json`, or the `backbone.architecture` section; `key` names it in errors.
    ///
    /// Also returns the keys that mean nothing to this family.
    ///
    /// # Errors
    /// An unknown `model_type`, a key of the wrong type, or sizes that cannot work together.
    pub fn from_config(config: &Map<String, Value>, key: &str) -> Result<(Self, Vec<String>), ModelError> {
        let (mut spec, unknown) = match model_type(config, key)? {
            "dinov3_vit" => dinov3::spec(config, key)?,
            "dinov2" => dinov2::spec(config, key, false)?,
            "dinov2_with_registers" => dinov2::spec(config, key, true)?,
            "vit" => vit::spec(config, key)?,
            other => {
                let message =
                    format!("`{}` is not supported; known model types: {}", shown(other), MODEL_TYPES.join(", "));
                return Err(ModelError::key(format!("{key}.model_type"), message));
            }
        };
        check_channels(config, key)?;
        spec.validate(key)?;
        spec.config = config.clone();
        Ok((spec, unknown))
    }

    fn validate(&self, key: &str) -> Result<(), ModelError> {
        let refuse = |name: &str, message: String| Err(ModelError::key(format!("{key}.{name}"), message));
        let grid = match self.position {
            Position::Learned { grid, .. } => grid,
            Position::Rope { theta } => {
                positive(f64::from(theta), "rope_theta", key)?;
                1
            }
        };
        if grid == 0 {
            return refuse("image_size", format!("is smaller than a patch of {} pixels", self.patch));
        }
        if grid > MOST_PATCHES {
            return refuse("image_size", format!("is {grid} patches wide, expected at most {MOST_PATCHES}"));
        }
        for (name, size, least, most) in [
            ("hidden_size", self.hidden, 1, 1 << 15),
            ("num_hidden_layers", self.layers, 1, 1 << 10),
            ("num_attention_heads", self.heads, 1, 1 << 10),
            ("intermediate_size", self.mlp, 1, 1 << 17),
            ("patch_size", self.patch, 1, 1 << 8),
            ("num_register_tokens", self.registers, 0, 1 << 12),
        ] {
            if !(least..=most).contains(&size) {
                return refuse(name, format!("is {size}, expected a whole number from {least} to {most}"));
            }
        }
        let weights = self.weights();
        if weights > MOST_WEIGHTS {
            let message = format!(
                "describes a model of {weights} weights (hidden_size {}, num_hidden_layers {}, intermediate_size {}); at \
                 most {MOST_WEIGHTS} are built",
                self.hidden, self.layers, self.mlp
            );
            return Err(ModelError::key(key, message));
        }
        if !self.hidden.is_multiple_of(self.heads) {
            return refuse(
                "num_attention_heads",
                format!("{} does not divide hidden_size {}", self.heads, self.hidden),
            );
        }
        if matches!(self.position, Position::Rope { .. }) && !(self.hidden / self.heads).is_multiple_of(4) {
            let head = self.hidden / self.heads;
            let message =
                format!("a head has {head} features; rotary embedding in two directions needs a multiple of 4");
            return refuse("num_attention_heads", message);
        }
        positive(self.epsilon, "layer_norm_eps", key)?;
        let scale = self.layer_scale.unwrap_or_default();
        for (name, value) in [("initializer_range", self.initializer_range), ("layerscale_value", scale)] {
            if !value.is_finite() || value < 0.0 {
                return refuse(name, format!("is {value}, expected a number that is not below 0"));
            }
        }
        Ok(())
    }

    /// The weights of its matrices, embeddings and tables; biases and scales are not counted.
    pub fn weights(&self) -> u128 {
        let sides = [self.hidden, self.layers, self.mlp, self.patch, self.registers];
        let [hidden, layers, mlp, patch, registers] = sides.map(|side| side as u128);
        let table = match self.position {
            Position::Learned { grid, .. } => (grid as u128).saturating_pow(2),
            Position::Rope { .. } => 0,
        };
        let block = hidden.saturating_mul(4).saturating_add(mlp.saturating_mul(2)).saturating_mul(layers);
        let patches = patch.saturating_pow(2).saturating_mul(3);
        hidden.saturating_mul([patches, table, registers].into_iter().fold(block, u128::saturating_add))
    }

    /// Class and register tokens before the patches.
    pub fn prefix_tokens(&self) -> usize {
        1 + self.registers
    }

    /// Checks that frames of this size `[W, H]` can be cut into patches; returns the grid `[rows, columns]`.
    ///
    /// # Errors
    /// Names both sizes and the nearest legal ones.
    pub fn grid(&self, [width, height]: [usize; 2]) -> Result<[usize; 2], ModelError> {
        let patch = self.patch;
        if width % patch == 0 && height % patch == 0 && width > 0 && height > 0 {
            return Ok([height / patch, width / patch]);
        }
        let near = |size: usize| {
            let below = size / patch * patch;
            if size.is_multiple_of(patch) && size > 0 {
                size.to_string()
            } else if below == 0 {
                patch.to_string()
            } else {
                format!("{below} or {}", below + patch)
            }
        };
        Err(ModelError::key(
            "data.preprocess.resize",
            format!(
                "[{width}, {height}] cannot be cut into patches of {patch}×{patch} pixels: width and height must be \
                 multiples of {patch}; nearest: width {}, height {}",
                near(width),
                near(height)
            ),
        ))
    }
}

/// Reads the keys of a family's configuration; everything it does not know is returned by name.
pub(super) fn parse<T: DeserializeOwned>(
    config: &Map<String, Value>,
    key: &str,
    known: &[&str],
) -> Result<(T, Vec<String>), ModelError> {
    // `null` means "the default" in Hugging Face configurations.
    let given: Map<String, Value> =
        config.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let unknown = given.keys().filter(|k| *k != "model_type" && !known.contains(&k.as_str())).cloned().collect();
    match serde_json::from_value(Value::Object(given.clone())) {
        Ok(parsed) => Ok((parsed, unknown)),
        Err(whole) => Err(wrong_key::<T>(given, key).unwrap_or_else(|| ModelError::key(key, whole.to_string()))),
    }
}

/// The key that cannot be read: the one that cannot be read alone.
fn wrong_key<T: DeserializeOwned>(given: Map<String, Value>, key: &str) -> Option<ModelError> {
    given.into_iter().find_map(|(name, value)| {
        let found = shown(&value.to_string());
        let error = serde_json::from_value::<T>(Value::Object(Map::from_iter([(name.clone(), value)]))).err()?;
        let error = error.to_string();
        let expected = match () {
            () if error.contains("usize") => "a whole number that is not below 0",
            () if error.contains("f32") || error.contains("f64") => "a number",
            () if error.contains("boolean") => "true or false",
            () if error.contains("string") => "text",
            () => "a whole number, or a list of two",
        };
        Some(ModelError::key(format!("{key}.{name}"), format!("is `{found}`, expected {expected}")))
    })
}

/// The model type that a configuration names.
fn model_type<'a>(config: &'a Map<String, Value>, key: &str) -> Result<&'a str, ModelError> {
    let message = match config.get("model_type").filter(|value| !value.is_null()) {
        Some(Value::String(text)) if !text.is_empty() => return Ok(text),
        Some(other) => format!("is `{}`, expected one of {}", shown(&other.to_string()), MODEL_TYPES.join(", ")),
        None if config.contains_key("pretrained_cfg") => {
            "is missing: this is the config.json of a model of timm; get the \
             model as transformers has it (on the hub: facebook/dinov2-small, google/vit-base-patch16-224)"
                .to_owned()
        }
        None => format!("is missing; known model types: {}", MODEL_TYPES.join(", ")),
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

/// Refuses what is no number above zero.
pub(super) fn positive(value: f64, name: &str, key: &str) -> Result<(), ModelError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(ModelError::key(format!("{key}.{name}"), format!("is {value}, expected a number above 0"))),
    }
}

pub(super) fn activation(name: &str, key: &str) -> Result<Activation, ModelError> {
    Activation::from_name(name).ok_or_else(|| {
        let message = format!("`{name}` is not known; known activations: {}", Activation::NAMES);
        ModelError::key(format!("{key}.hidden_act"), message)
    })
}

/// A size as a number or as `[height, width]`: published checkpoints are square in patches and position tables.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum Sides {
    Square(usize),
    Both([usize; 2]),
}

impl Sides {
    pub(super) fn square(self, name: &str, key: &str) -> Result<usize, ModelError> {
        match self {
            Self::Square(size) => Ok(size),
            Self::Both([height, width]) if height == width => Ok(height),
            Self::Both([height, width]) => {
                let message = format!("[{height}, {width}] is not square; only squares are supported");
                Err(ModelError::key(format!("{key}.{name}"), message))
            }
        }
    }

    /// An image of this size in patches of `patch` pixels; a patch of 0 is refused later.
    pub(super) fn grid(self, patch: usize, key: &str) -> Result<usize, ModelError> {
        Ok(self.square("image_size", key)? / patch.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: &str) -> Result<VitSpec, ModelError> {
        VitSpec::from_config(&serde_json::from_str(json).unwrap(), "config.json").map(|s| s.0)
    }

    #[test]
    fn a_size_that_is_not_a_multiple_of_the_patch_names_the_nearest_legal_sizes() {
        let spec = spec(r#"{"model_type": "dinov2", "patch_size": 14, "image_size": 518}"#).unwrap();
        let message = spec.grid([512, 288]).unwrap_err().to_string();
        assert!(message.contains("[512, 288]") && message.contains("14×14"), "{message}");
        assert!(message.contains("width 504 or 518") && message.contains("height 280 or 294"), "{message}");
        assert_eq!(spec.grid([504, 294]).unwrap(), [21, 36]);
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

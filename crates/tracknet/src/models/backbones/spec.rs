//! What distinguishes one vision transformer from another, as data.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::models::ModelError;
use crate::models::layers::Activation;

use super::names::VitNames;
use super::{dinov2, dinov3, vit};

/// The values of `config.json: model_type` that can be built.
pub const MODEL_TYPES: [&str; 4] = ["dinov3_vit", "dinov2", "dinov2_with_registers", "vit"];

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
        let model_type = config.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let (mut spec, unknown) = match model_type {
            "dinov3_vit" => dinov3::spec(config, key)?,
            "dinov2" => dinov2::spec(config, key, false)?,
            "dinov2_with_registers" => dinov2::spec(config, key, true)?,
            "vit" => vit::spec(config, key)?,
            "" => {
                let message = format!("is missing; known model types: {}", MODEL_TYPES.join(", "));
                return Err(ModelError::key(format!("{key}.model_type"), message));
            }
            other => {
                let message = format!("`{other}` is not supported; known model types: {}", MODEL_TYPES.join(", "));
                return Err(ModelError::key(format!("{key}.model_type"), message));
            }
        };
        spec.validate(key)?;
        spec.config = config.clone();
        Ok((spec, unknown))
    }

    fn validate(&self, key: &str) -> Result<(), ModelError> {
        let refuse = |name: &str, message: String| Err(ModelError::key(format!("{key}.{name}"), message));
        let sizes = [
            ("hidden_size", self.hidden),
            ("num_hidden_layers", self.layers),
            ("num_attention_heads", self.heads),
            ("intermediate_size", self.mlp),
            ("patch_size", self.patch),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return refuse(name, "is 0, expected a positive number".to_owned());
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
        if matches!(self.position, Position::Learned { grid: 0, .. }) {
            return refuse("image_size", format!("is smaller than a patch of {} pixels", self.patch));
        }
        Ok(())
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
    let parsed = serde_json::from_value(Value::Object(given)).map_err(|e| ModelError::key(key, e.to_string()))?;
    Ok((parsed, unknown))
}

pub(super) fn activation(name: &str, key: &str) -> Result<Activation, ModelError> {
    Activation::from_name(name).ok_or_else(|| {
        let message = format!("`{name}` is not known; known activations: {}", Activation::NAMES);
        ModelError::key(format!("{key}.hidden_act"), message)
    })
}

/// `image_size` as a number or as `[height, width]`; learned tables are square in every published checkpoint.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(untagged)]
pub(super) enum ImageSize {
    Square(usize),
    Sides([usize; 2]),
}

impl ImageSize {
    pub(super) fn grid(self, patch: usize, key: &str) -> Result<usize, ModelError> {
        match self {
            Self::Square(size) | Self::Sides([size, _]) if patch == 0 => Ok(size),
            Self::Square(size) => Ok(size / patch),
            Self::Sides([height, width]) if height == width => Ok(height / patch),
            Self::Sides([height, width]) => Err(ModelError::key(
                format!("{key}.image_size"),
                format!("[{height}, {width}] is not square; only square position tables are supported"),
            )),
        }
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
        let message = spec(r#"{"model_type": "vit", "hidden_size": "big"}"#).unwrap_err().to_string();
        assert!(message.contains("config.json") && message.contains("big"), "{message}");
    }
}

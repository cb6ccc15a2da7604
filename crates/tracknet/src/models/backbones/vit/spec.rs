//! What distinguishes one vision transformer from another, as data.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::models::ModelError;
use crate::models::backbones::config::positive;
use crate::models::backbones::{BackboneSpec, Family, Network};
use crate::models::features::{Layout, LevelLayout};
use crate::models::nn::{Activation, Builder};

use super::Vit;

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
    /// Which linear layers have a bias.
    pub biases: Biases,
    /// Deviation of random weights.
    pub initializer_range: f32,
    /// What its checkpoint calls its modules.
    pub family: &'static Family,
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

/// Which linear layers have a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Biases {
    pub query: bool,
    pub key: bool,
    pub value: bool,
    pub output: bool,
    pub mlp: bool,
}

impl VitSpec {
    /// The description that `config`, named `key` in errors, gives, once its keys are read as `self`.
    ///
    /// # Errors
    /// Sizes that cannot work together.
    pub(super) fn of_config(self, config: &Map<String, Value>, key: &str) -> Result<Arc<dyn BackboneSpec>, ModelError> {
        self.validate(key)?;
        Ok(Arc::new(Self { config: config.clone(), ..self }))
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

    /// Class and register tokens before the patches.
    pub fn prefix_tokens(&self) -> usize {
        1 + self.registers
    }

    /// Patches of frames of this size `[W, H]`, as `[rows, columns]`.
    pub fn grid(&self, [width, height]: [usize; 2]) -> [usize; 2] {
        [height / self.patch, width / self.patch]
    }
}

impl BackboneSpec for VitSpec {
    fn family(&self) -> &'static Family {
        self.family
    }

    fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    fn layout(&self) -> Layout {
        Layout { levels: vec![self.embedding()] }
    }

    fn embedding(&self) -> LevelLayout {
        LevelLayout { channels: self.hidden, stride: self.patch }
    }

    fn patch_size(&self) -> Option<usize> {
        Some(self.patch)
    }

    fn token_features(&self) -> usize {
        self.hidden
    }

    fn sizes(&self) -> String {
        format!("hidden_size {}, num_hidden_layers {}, intermediate_size {}", self.hidden, self.layers, self.mlp)
    }

    /// Biases and scales are not counted.
    fn weights(&self) -> u128 {
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

    fn check_input(&self, [width, height]: [usize; 2]) -> Result<(), ModelError> {
        let patch = self.patch;
        if width % patch == 0 && height % patch == 0 && width > 0 && height > 0 {
            return Ok(());
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

    fn computation(&self) -> Vec<(&'static str, String)> {
        let position = match self.position {
            Position::Rope { theta } => ("rope_theta", theta.to_string()),
            Position::Learned { grid, resampling } => ("position_embeddings", format!("{grid}×{grid}, {resampling:?}")),
        };
        vec![
            ("num_attention_heads", self.heads.to_string()),
            ("patch_size", self.patch.to_string()),
            ("num_register_tokens", self.registers.to_string()),
            ("layer_norm_eps", self.epsilon.to_string()),
            ("hidden_act", format!("{:?}", self.activation)),
            ("mlp", format!("{:?}", self.mlp_kind)),
            position,
        ]
    }

    fn build(&self, builder: &Builder<'_>) -> Network {
        Network::Vit(Vit::new(self, builder))
    }
}

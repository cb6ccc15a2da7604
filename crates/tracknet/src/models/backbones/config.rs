//! Reading `config.json` of Hugging Face checkpoints: what every family of backbones has in common.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::console::shown;
use crate::models::ModelError;
use crate::models::nn::Activation;

/// Reads the keys of a family's configuration; everything it does not know is returned by name.
pub(crate) fn parse<T: DeserializeOwned>(
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
            () if error.contains("a sequence") => "a list of whole numbers",
            () if error.contains("usize") => "a whole number that is not below 0",
            () if error.contains("f32") || error.contains("f64") => "a number",
            () if error.contains("boolean") => "true or false",
            () if error.contains("string") => "text",
            () => "a whole number, or a list of two",
        };
        Some(ModelError::key(format!("{key}.{name}"), format!("is `{found}`, expected {expected}")))
    })
}

/// Refuses what is no number above zero.
pub(crate) fn positive(value: f64, name: &str, key: &str) -> Result<(), ModelError> {
    match value.is_finite() && value > 0.0 {
        true => Ok(()),
        false => Err(ModelError::key(format!("{key}.{name}"), format!("is {value}, expected a number above 0"))),
    }
}

/// The activation that `hidden_act` names.
pub(crate) fn activation(name: &str, key: &str) -> Result<Activation, ModelError> {
    Activation::from_name(name).ok_or_else(|| {
        let message = format!("`{name}` is not known; known activations: {}", Activation::NAMES);
        ModelError::key(format!("{key}.hidden_act"), message)
    })
}

/// A size as a number or as `[height, width]`: published checkpoints are square in patches and position tables.
#[derive(Debug, Clone, Copy, serde::Deserialize)]
#[serde(untagged)]
pub(crate) enum Sides {
    Square(usize),
    Both([usize; 2]),
}

impl Sides {
    /// The edge of a square.
    pub(crate) fn square(self, name: &str, key: &str) -> Result<usize, ModelError> {
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
    pub(crate) fn grid(self, patch: usize, key: &str) -> Result<usize, ModelError> {
        Ok(self.square("image_size", key)? / patch.max(1))
    }
}

//! Reading `config.json` of Hugging Face checkpoints: what every family of backbones has in common.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::console::shown;
use crate::models::ModelError;
use crate::models::nn::Activation;

/// The keys that a family reads of a `config.json`.
pub(crate) trait ConfigKeys: DeserializeOwned {
    /// Their names.
    const KEYS: &'static [&'static str];
}

/// The struct that a family's `config.json` is read into, from one line for each key with its type and default: what is read,
/// the defaults and the names of the keys cannot differ.
macro_rules! config_keys {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($key:ident: $kind:ty = $default:expr,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, serde::Deserialize)]
        #[serde(default)]
        $vis struct $name {
            $($key: $kind,)+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($key: $default,)+ }
            }
        }

        impl $crate::models::backbones::config::ConfigKeys for $name {
            const KEYS: &'static [&'static str] = &[$(stringify!($key),)+];
        }
    };
}
pub(crate) use config_keys;

/// Keys that are known in every family: the two that are read for all of them together, and the size of the frames that it was
/// trained on, which not every family needs.
const IN_EVERY_FAMILY: [&str; 3] = ["model_type", "num_channels", "image_size"];

/// Reads the keys of a family's configuration; everything it does not know is returned by name.
pub(crate) fn parse<T: ConfigKeys>(config: &Map<String, Value>, key: &str) -> Result<(T, Vec<String>), ModelError> {
    // `null` means "the default" in Hugging Face configurations.
    let given: Map<String, Value> =
        config.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
    let unknown = given.keys().filter(|k| !IN_EVERY_FAMILY.contains(&k.as_str()) && !T::KEYS.contains(&k.as_str()));
    let unknown = unknown.cloned().collect();
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

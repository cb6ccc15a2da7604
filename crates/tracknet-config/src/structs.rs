//! From a checked tree to the structs, and from structs to a tree.

use std::sync::LazyLock;

use serde::de::value::{Error, MapDeserializer, SeqDeserializer};
use serde::de::{Deserializer, IntoDeserializer, Visitor};
use serde::{Deserialize, Serialize, forward_to_deserialize_any};

use super::yaml::{self, Node, Value};
use super::{Config, DataConfig, ModelConfig, TrainingConfig};

/// The sections of a checked tree; what is not given has its default.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct Sections {
    pub(crate) data: DataConfig,
    pub(crate) model: ModelConfig,
    pub(crate) training: TrainingConfig,
    pub(crate) runtime: GivenRuntime,
}

/// What is kept of the `runtime` section of a run's own file.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct GivenRuntime {
    pub(crate) seed: Option<u64>,
    pub(crate) run_id: Option<String>,
}

impl<'de> IntoDeserializer<'de> for Value {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Value {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Value::Null => visitor.visit_unit(),
            Value::Bool(on) => visitor.visit_bool(on),
            Value::Int(n) => match (u64::try_from(n), i64::try_from(n)) {
                (Ok(n), _) => visitor.visit_u64(n),
                (_, Ok(n)) => visitor.visit_i64(n),
                _ => visitor.visit_f64(n as f64),
            },
            Value::Float(x) => visitor.visit_f64(x),
            Value::Text(text) => visitor.visit_string(text),
            Value::List(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(|node| node.value))),
            Value::Map(entries) => {
                visitor.visit_map(MapDeserializer::new(entries.into_iter().map(|e| (e.key, e.node.value))))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self {
            Value::Null => visitor.visit_none(),
            value => visitor.visit_some(value),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// The value of every key that the structs have, with defaults.
pub(crate) fn defaults_tree() -> Result<Node, String> {
    // Made once: it is the dearest part of reading a small file.
    static TREE: LazyLock<Result<Node, String>> = LazyLock::new(|| {
        let mut tree = tree_of(&Config::from_sections(Default::default(), Default::default(), Default::default()))?;
        if let Value::Map(entries) = &mut tree.value {
            entries.retain(|e| e.key != "runtime");
        }
        Ok(tree)
    });
    TREE.clone()
}

/// Structs as a tree. JSON text stands between: it keeps the order of the fields, and writes an `f32` with its own digits.
pub(crate) fn tree_of<T: Serialize>(structs: &T) -> Result<Node, String> {
    let json = serde_json::to_string(structs).map_err(|e| e.to_string())?;
    let mut problems = Vec::new();
    let tree = yaml::parse(&escape_json(&json), 0, &mut problems);
    tree.ok_or_else(|| problems.into_iter().map(|p| p.message).collect())
}

/// JSON as YAML: the characters that only YAML forbids are escaped.
pub(crate) fn escape_json(json: &str) -> String {
    let mut yaml = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                yaml.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => yaml.push(c),
        }
    }
    yaml
}

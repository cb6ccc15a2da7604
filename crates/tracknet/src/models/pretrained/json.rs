//! JSON objects whose keys are unique. JSON itself allows a key twice and parsers keep one of the two, so a file could
//! say one thing to this program and another to the next.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};

/// A JSON object with unique keys.
#[derive(Debug, Clone, Default)]
pub(crate) struct UniqueMap<V>(pub(crate) BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for UniqueMap<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueVisitor(PhantomData))
    }
}

struct UniqueVisitor<V>(PhantomData<V>);

impl<'de, V: Deserialize<'de>> Visitor<'de> for UniqueVisitor<V> {
    type Value = UniqueMap<V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(Error::custom(format_args!("key `{}` is there twice", shown(&key))));
            }
            let value = access.next_value()?;
            map.insert(key, value);
        }
        Ok(UniqueMap(map))
    }
}

/// Text of a file in a message: shortened, and without control characters, so that a file cannot flood or steer the
/// terminal.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut short: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_there_twice_is_refused_by_name_at_any_depth() {
        let flat = serde_json::from_str::<UniqueMap<u8>>(r#"{"a": 1, "b": 2, "a": 1}"#).unwrap_err();
        assert!(flat.to_string().contains("key `a` is there twice"), "{flat}");
        let deep = serde_json::from_str::<UniqueMap<UniqueMap<u8>>>(r#"{"a": {"x": 1, "x": 2}}"#).unwrap_err();
        assert!(deep.to_string().contains("key `x` is there twice"), "{deep}");
        assert_eq!(serde_json::from_str::<UniqueMap<u8>>(r#"{"b": 2, "a": 1}"#).unwrap().0.len(), 2);
    }

    #[test]
    fn text_of_a_file_is_shortened_and_cannot_steer_the_terminal() {
        assert_eq!(shown("layer.0"), "layer.0");
        assert_eq!(shown("\u{1b}[2J"), "\\u{1b}[2J");
        assert_eq!(shown(&"x".repeat(500)).chars().count(), 121);
    }
}

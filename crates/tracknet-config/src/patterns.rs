//! Values of the `model.lora` section that name modules by patterns.

use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::kind::{Kind, Setting};

/// `target_modules`: a list of names or path suffixes, or one regex over the whole path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TargetModules {
    /// A regex that must match the full module path.
    Pattern(String),
    /// Whole paths or `.suffix`es of them.
    List(Vec<String>),
}

impl Setting for TargetModules {
    type Limits = ();

    fn kind((): ()) -> Kind {
        Kind::Targets
    }
}

/// Values by module: the first key, in the order of the file, that is a module's path or the end of it from a `.` on,
/// read as a regular expression.
#[derive(Debug, Clone, PartialEq)]
pub struct Pattern<T>(pub Vec<(String, T)>);

impl<T: Setting> Setting for Pattern<T> {
    type Limits = T::Limits;

    fn kind(limits: T::Limits) -> Kind {
        Kind::Ordered(Box::new(T::kind(limits)))
    }
}

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Serialize> Serialize for Pattern<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pattern<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(std::marker::PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = Vec<(String, T)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping from patterns to values")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Vec::new())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries: Self::Value = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, T>()? {
                    if entries.iter().any(|(known, _)| *known == key) {
                        return Err(A::Error::custom(format!("the key `{key}` is given twice")));
                    }
                    entries.push((key, value));
                }
                Ok(entries)
            }
        }
        deserializer.deserialize_any(Entries(std::marker::PhantomData)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_keeps_the_order_of_the_file_and_refuses_a_key_twice() {
        let text = r#"{"z":1,"a":2,"m":3}"#;
        let pattern: Pattern<usize> = serde_json::from_str(text).unwrap();
        assert_eq!(pattern.0.iter().map(|(k, _)| k.as_str()).collect::<Vec<_>>(), ["z", "a", "m"]);
        assert_eq!(serde_json::to_string(&pattern).unwrap(), text);
        let message = serde_json::from_str::<Pattern<usize>>(r#"{"a":1,"a":2}"#).unwrap_err().to_string();
        assert!(message.contains("`a` is given twice"), "{message}");
    }
}

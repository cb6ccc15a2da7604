//! JSON of other programs: read strictly, and written as Python writes it.
//!
//! JSON itself allows a key twice and parsers keep one of the two, so a file could say one thing to this program and
//! another to the next: [`UniqueMap`] refuses it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use crate::console::shown;

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

/// What `json.dumps(value, indent=2, sort_keys=True)` gives, and a line end: how `transformers` writes `config.json`.
pub(crate) fn python_json(value: &Value) -> String {
    let mut text = String::new();
    write_value(&mut text, value, 0);
    text + "\n"
}

fn write_value(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::Number(number) if number.is_f64() => *text += &python_float(number.as_f64().unwrap_or_default()),
        Value::Null | Value::Bool(_) | Value::Number(_) => *text += &value.to_string(),
        Value::String(string) => *text += &ascii(string),
        Value::Array(items) if items.is_empty() => *text += "[]",
        Value::Object(entries) if entries.is_empty() => *text += "{}",
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                start_line(text, i, depth + 1);
                write_value(text, item, depth + 1);
            }
            end_lines(text, depth);
            text.push(']');
        }
        Value::Object(entries) => {
            text.push('{');
            let sorted: BTreeMap<&String, &Value> = entries.iter().collect();
            for (i, (key, item)) in sorted.into_iter().enumerate() {
                start_line(text, i, depth + 1);
                *text += &ascii(key);
                *text += ": ";
                write_value(text, item, depth + 1);
            }
            end_lines(text, depth);
            text.push('}');
        }
    }
}

fn start_line(text: &mut String, index: usize, depth: usize) {
    *text += if index == 0 { "\n" } else { ",\n" };
    *text += &"  ".repeat(depth);
}

fn end_lines(text: &mut String, depth: usize) {
    text.push('\n');
    *text += &"  ".repeat(depth);
}

/// A string with everything outside of ASCII as `\u` escapes.
fn ascii(string: &str) -> String {
    let mut units = [0; 2];
    let quoted = Value::from(string).to_string();
    let escape = |c: char| match c {
        c if c.is_ascii() => c.to_string(),
        c => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    quoted.chars().map(escape).collect()
}

/// A finite number as Python's `repr` has it: the fewest digits that read back the same, with an exponent of at least two
/// digits outside of 1e-4 to 1e16.
///
/// Of two numbers with so few digits that are equally near, Python takes the one that ends with an even digit. Rust does so
/// only where the number of digits is given.
pub(crate) fn python_float(value: f64) -> String {
    let shortest = format!("{value:e}");
    let Some((digits, exponent)) = shortest.split_once('e') else { return shortest };
    let power: i32 = exponent.parse().unwrap_or_default();
    let after_point = digits.bytes().filter(u8::is_ascii_digit).count().saturating_sub(1);
    let nearest = |rounded: String, shortest: String| if rounded.parse() == Ok(value) { rounded } else { shortest };
    if (-4..16).contains(&power) || value == 0.0 {
        let decimals = usize::try_from(after_point as i32 - power).unwrap_or_default();
        let plain = nearest(format!("{value:.decimals$}"), format!("{value}"));
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let scientific = nearest(format!("{value:.after_point$e}"), shortest.clone());
    let digits = scientific.split('e').next().unwrap_or_default();
    let sign = if power < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", power.abs())
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
    fn numbers_are_written_as_python_writes_them() {
        for (value, python) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (f64::from(0.1f32), "0.10000000149011612"),
            (1e-4, "0.0001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (f64::from(f32::MAX), "3.4028234663852886e+38"),
            (f64::from(f32::from_bits(1)), "1.401298464324817e-45"),
            // Half way between two forms of 17 digits: 0.100002288818359375 and so on.
            (26215.0 / 262_144.0, "0.10000228881835938"),
            (26217.0 / 262_144.0, "0.10000991821289062"),
            (-26219.0 / 262_144.0, "-0.10001754760742188"),
            (5e-324, "5e-324"),
            (9_007_199_254_740_993.0, "9007199254740992.0"),
        ] {
            assert_eq!(python_float(value), python);
        }
    }

    #[test]
    fn objects_are_written_as_python_writes_them() {
        let value = serde_json::json!({"z": [1, 1e-5], "a": {}, "é😀\n": null, "m": {"x": true, "l": []}});
        let python = "{\n  \"a\": {},\n  \"m\": {\n    \"l\": [],\n    \"x\": true\n  },\n  \"z\": [\n    1,\n    1e-05\n  ],\n  \
                      \"\\u00e9\\ud83d\\ude00\\n\": null\n}\n";
        assert_eq!(python_json(&value), python);
    }
}

//! YAML text ↔ a tree in which every node knows its layer and line.
//!
//! The tree stands between the text and the structs because a plain deserializer stops at the first problem, and
//! because interpolation and overrides need the values before they have types.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use serde_saphyr::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};

/// Where a node was written: the index of a layer (a file, an override, a flag) and a line of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) layer: usize,
    pub(crate) line: Option<u64>,
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Origin,
}

/// A YAML value; mappings keep the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One `key: value` of a mapping.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// Where the key itself stands.
    pub(crate) at: Origin,
    pub(crate) node: Node,
}

/// Something wrong with the text itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct YamlProblem {
    pub(crate) line: Option<u64>,
    pub(crate) key: String,
    pub(crate) message: String,
}

/// Reads one YAML document. An empty document is null. Repeated keys are reported, and the first one is kept.
pub(crate) fn parse(text: &str, layer: usize, problems: &mut Vec<YamlProblem>) -> Option<Node> {
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
    };
    match serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options) {
        Ok(raw) => Some(locate(raw, layer, "", problems)),
        Err(error) => {
            problems.push(syntax_problem(&error));
            None
        }
    }
}

/// Reads text as one YAML scalar, as if it stood unquoted in a file; anything else is text.
pub(crate) fn parse_scalar(text: &str) -> Value {
    match parse(text, 0, &mut Vec::new()) {
        Some(Node { value: Value::List(_) | Value::Map(_), .. }) | None => Value::Text(text.to_owned()),
        Some(node) => node.value,
    }
}

fn syntax_problem(error: &serde_saphyr::Error) -> YamlProblem {
    let mut message = error.without_snippet().to_string();
    let place = error.location();
    if let Some(place) = place {
        let suffix = format!(" at line {}, column {}", place.line(), place.column());
        message = message.replace(&suffix, "");
    }
    if message.contains("multiple YAML documents") {
        message = "a configuration file holds one YAML document; remove the second `---`".to_owned();
    }
    if message.contains("into string") || message.contains("expected string scalar") {
        message = "a key must be plain text".to_owned();
    }
    let column = place.map(|p| format!(" (column {})", p.column())).unwrap_or_default();
    YamlProblem {
        line: place.map(|p| p.line()).filter(|&line| line > 0),
        key: String::new(),
        message: format!("not valid YAML: {message}{column}"),
    }
}

fn locate(raw: Spanned<Raw>, layer: usize, path: &str, problems: &mut Vec<YamlProblem>) -> Node {
    let at = Origin { layer, line: Some(raw.defined.line()).filter(|&line| line > 0) };
    let value = match raw.value {
        Raw::Scalar(value) => value,
        Raw::List(items) => {
            let located = items.into_iter().enumerate();
            Value::List(located.map(|(i, item)| locate(item, layer, &format!("{path}[{i}]"), problems)).collect())
        }
        Raw::Map(pairs) => Value::Map(locate_entries(pairs, layer, path, problems)),
    };
    Node { value, at }
}

fn locate_entries(
    pairs: Vec<(Spanned<String>, Spanned<Raw>)>,
    layer: usize,
    path: &str,
    problems: &mut Vec<YamlProblem>,
) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::with_capacity(pairs.len());
    for (key, raw) in pairs {
        let at = Origin { layer, line: Some(key.defined.line()).filter(|&line| line > 0) };
        let key_path = join(path, &key.value);
        let node = locate(raw, layer, &key_path, problems);
        if let Some(first) = entries.iter().find(|e| e.key == key.value) {
            let earlier = first.at.line.map(|line| format!(" on line {line}")).unwrap_or_default();
            let message = format!("key {key_path} is already given{earlier}; keep one of the two");
            problems.push(YamlProblem { line: at.line, key: key_path, message });
        } else {
            entries.push(Entry { key: key.value, at, node });
        }
    }
    entries
}

/// `a.b` from `a` and `b`; `b` from the root.
pub(crate) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// What serde hands over, before layers are known.
enum Raw {
    Scalar(Value),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Int(value.into())))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Int(value.into())))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Float(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Text(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = access.next_entry()? {
            pairs.push(pair);
        }
        Ok(Raw::Map(pairs))
    }
}

impl Node {
    /// The entries of a mapping.
    pub(crate) fn entries(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The node at a dotted path; list elements by their number.
    pub(crate) fn get(&self, path: &str) -> Option<&Node> {
        path.split('.').filter(|part| !part.is_empty()).try_fold(self, |node, part| match &node.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == part).map(|e| &e.node),
            Value::List(items) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
            _ => None,
        })
    }
}

impl Value {
    /// How a value is quoted in a message: "`many` (text)".
    pub(crate) fn found(&self) -> String {
        match self {
            Value::Null => "null".to_owned(),
            Value::Bool(value) => format!("{value} (a flag)"),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => float_text(*value),
            Value::Text(text) => format!("`{}` (text)", shorten(text)),
            Value::List(items) => format!("a list of {}", items.len()),
            Value::Map(entries) => {
                let keys: Vec<_> = entries.iter().map(|e| e.key.as_str()).collect();
                format!("a section with keys {}", shorten(&keys.join(", ")))
            }
        }
    }

    /// Scalars as plain text, as an interpolation pastes them; `None` for lists and mappings.
    pub(crate) fn scalar_text(&self) -> Option<String> {
        match self {
            Value::Null => Some("null".to_owned()),
            Value::Bool(value) => Some(value.to_string()),
            Value::Int(value) => Some(value.to_string()),
            Value::Float(value) => Some(float_text(*value)),
            Value::Text(text) => Some(text.clone()),
            Value::List(_) | Value::Map(_) => None,
        }
    }
}

/// The shortest text that reads back as the same float, and as a float.
pub(crate) fn float_text(value: f64) -> String {
    if value.is_nan() {
        ".nan".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { ".inf".to_owned() } else { "-.inf".to_owned() }
    } else {
        format!("{value:?}")
    }
}

fn shorten(text: &str) -> String {
    const LONGEST: usize = 80;
    let line = text.replace(['\n', '\r'], " ");
    if line.chars().count() <= LONGEST {
        return line;
    }
    let kept: String = line.chars().take(LONGEST).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Node {
        let mut problems = Vec::new();
        let node = parse(text, 0, &mut problems).unwrap();
        assert_eq!(problems, []);
        node
    }

    #[test]
    fn floats_and_integers_are_read_as_users_of_python_write_them() {
        let node = read("a: 5e-4\nb: 1.\nc: .5\nd: 1_000\ne: '5'\nf: yes\ng: ~\nh:");
        let value = |key: &str| node.get(key).unwrap().value.clone();
        assert_eq!(value("a"), Value::Float(5e-4));
        assert_eq!(value("b"), Value::Float(1.0));
        assert_eq!(value("c"), Value::Float(0.5));
        assert_eq!(value("d"), Value::Int(1000));
        assert_eq!(value("e"), Value::Text("5".into()));
        assert_eq!(value("f"), Value::Bool(true));
        assert_eq!((value("g"), value("h")), (Value::Null, Value::Null));
    }

    #[test]
    fn anchors_and_merges_are_expanded_and_point_at_the_line_that_defines_the_value() {
        let node = read("base: &b\n  q: 1\n  r: 2\nd:\n  <<: *b\n  r: 3\n");
        assert_eq!(node.get("d.q").unwrap().at.line, Some(2));
        assert_eq!(node.get("d.r").unwrap().value, Value::Int(3));
        assert_eq!(node.get("d.r").unwrap().at.line, Some(6));
    }

    #[test]
    fn every_repeated_key_is_reported_with_its_line() {
        let mut problems = Vec::new();
        parse("a: 1\nb:\n  x: 1\n  x: 2\na: 3\n", 0, &mut problems).unwrap();
        let seen: Vec<_> = problems.iter().map(|p| (p.line, p.message.as_str())).collect();
        assert_eq!(
            seen,
            [
                (Some(4), "key b.x is already given on line 3; keep one of the two"),
                (Some(5), "key a is already given on line 1; keep one of the two"),
            ]
        );
    }

    #[test]
    fn broken_yaml_is_a_problem_with_a_line_and_a_column() {
        let mut problems = Vec::new();
        assert_eq!(parse("a: 1\nb: [1, 2\nc: 3", 0, &mut problems), None);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].line, Some(3));
        assert!(problems[0].message.starts_with("not valid YAML: ") && problems[0].message.ends_with("(column 2)"));
    }

    #[test]
    fn an_empty_text_or_one_of_comments_is_null() {
        assert_eq!(read("").value, Value::Null);
        assert_eq!(read("# only a comment\n").value, Value::Null);
    }

    #[test]
    fn deep_nesting_is_refused_and_does_not_exhaust_the_stack() {
        let mut problems = Vec::new();
        assert_eq!(parse(&"[".repeat(100_000), 0, &mut problems), None);
        assert_eq!(problems.len(), 1);
    }
}

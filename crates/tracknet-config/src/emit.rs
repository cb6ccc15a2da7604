//! The configuration as YAML: stable order, lists on one line, and read back as the equal configuration.

use super::interpolate::escape;
use super::structs::escape_json;
use super::yaml::{self, Node, Value, float_text};

/// Writes a tree as block mappings with flow lists.
pub(crate) fn to_yaml(tree: &Node) -> String {
    let mut out = String::new();
    mapping(tree, 0, &mut out);
    out
}

fn mapping(node: &Node, indent: usize, out: &mut String) {
    for entry in node.entries().unwrap_or_default() {
        out.push_str(&" ".repeat(indent));
        out.push_str(&text(&entry.key));
        match entry.node.entries() {
            Some(inner) if !inner.is_empty() => {
                out.push_str(":\n");
                mapping(&entry.node, indent + 2, out);
            }
            _ => {
                out.push_str(": ");
                out.push_str(&flow(&entry.node.value));
                out.push('\n');
            }
        }
    }
}

/// A value on one line.
pub(crate) fn flow(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(on) => on.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(x) => float_text(*x),
        Value::Text(value) => text(&escape(value)),
        Value::List(items) => {
            let items: Vec<_> = items.iter().map(|n| flow(&n.value)).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Map(entries) => {
            let pairs: Vec<_> = entries.iter().map(|e| format!("{}: {}", text(&e.key), flow(&e.node.value))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
    }
}

/// Plain where that reads back as the same text, in quotes elsewhere.
fn text(text: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let starts = text.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '/' | '_'));
    if starts && text.chars().all(harmless) && yaml::parse_scalar(text) == Value::Text(text.to_owned()) {
        return text.to_owned();
    }
    // A JSON string is a double-quoted scalar of YAML.
    escape_json(&serde_json::Value::from(text).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(yaml: &str) -> Node {
        yaml::parse(yaml, 0, &mut Vec::new()).unwrap()
    }

    #[test]
    fn sections_are_blocks_and_lists_stand_on_one_line() {
        let yaml = "data:\n  resize: [512, 288]\n  name: \"yes\"\n  none: null\n  empty: {}\n  x: 0.0005\n";
        assert_eq!(to_yaml(&read(yaml)), yaml);
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_as_it_was(original in any::<String>()) {
            let yaml = format!("k: {}\nl: [{}]\n", text(&original), text(&original));
            let node = read(&yaml);
            prop_assert_eq!(&node.get("k").unwrap().value, &Value::Text(original.clone()));
            prop_assert_eq!(&node.get("l.0").unwrap().value, &Value::Text(original));
        }
    }
}

//! From the merged tree to values of the right type: unknown keys, wrong types, values out of range, features that
//! this version does not have. Everything that is wrong is reported, and replaced by its default to go on.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::key::{self, Key, Status, known_keys};
use super::kind::{Kind, WholeRange};
use super::layers::Layers;
use super::load::tree_of;
use super::setting::Section;
use super::typo;
use super::words::{self, Word};
use super::yaml::{self, Node, Origin, Value, join};

/// Values by section, and where each was written.
pub(crate) struct Checked {
    /// Nested values of every key that the structs have.
    pub(crate) values: Map<String, Json>,
    /// Where the keys that were given stand.
    pub(crate) origins: BTreeMap<&'static str, Origin>,
    /// Keys whose value was refused and replaced by the default.
    pub(crate) refused: BTreeSet<&'static str>,
}

/// Checks the merged tree against the keys. `defaults` holds the value of every key that the structs have.
pub(crate) fn check(layers: &mut Layers, defaults: &Node) -> Checked {
    let tree = layers.tree.clone();
    let mut given = BTreeMap::new();
    collect(layers, &tree, "", &mut given);
    let mut checked = Checked { values: Map::new(), origins: BTreeMap::new(), refused: BTreeSet::new() };
    for key in known_keys() {
        let path = key.path.as_str();
        let node = given.get(path).copied();
        if let Some(node) = node {
            checked.origins.insert(path, node.at);
        }
        let value = node.and_then(|node| {
            let value = check_key(layers, &tree, key, node);
            if value.is_none() {
                checked.refused.insert(path);
            }
            value.flatten()
        });
        // The default of the structs stands in; a key that no struct has is checked and not stored.
        if let Some(default) = defaults.get(path) {
            insert(&mut checked.values, path, value.unwrap_or_else(|| to_json(&default.value)));
        } else if let (Status::Derived, Some(value)) = (&key.status, value) {
            insert(&mut checked.values, path, value);
        }
    }
    apply_amp(layers, &given, &mut checked);
    checked
}

/// Finds the node of every key, and reports names that are no key.
fn collect<'t>(layers: &mut Layers, node: &'t Node, path: &str, given: &mut BTreeMap<&'static str, &'t Node>) {
    let Some(entries) = node.entries() else {
        if node.value != Value::Null {
            let names = key::names_in(path).join(", ");
            let message = format!("{path} is a section with the keys {names}; found {}", node.value.found());
            layers.problems.push(layers.problem(node.at, path, message));
        }
        return;
    };
    for entry in entries {
        let full = join(path, &entry.key);
        if let Some(key) = key::find(&full) {
            given.insert(&key.path, &entry.node);
        } else if !entry.key.is_empty() && key::is_section(&full) {
            collect(layers, &entry.node, &full, given);
        } else {
            let message = format!("unknown key {full}; {}", key::suggestion(path, &entry.key));
            layers.problems.push(layers.problem(entry.at, &full, message));
        }
    }
}

/// `None`: refused and reported. `Some(None)`: the default. `Some(Some(_))`: the value.
fn check_key(layers: &mut Layers, tree: &Node, key: &Key, node: &Node) -> Option<Option<Json>> {
    let section = key.path.rsplit_once('.').map(|(section, _)| section);
    let is_off = is_switched_off(tree, section);
    match &key.status {
        Status::Ignored(why) => {
            if layers.layers.get(node.at.layer).is_none_or(|l| l.notes) {
                layers.notes.push(format!("{} is ignored: {why}", key.path));
            }
            return Some(None);
        }
        Status::Unavailable(neutral) if !neutral.holds(&node.value) => {
            if is_off {
                return Some(None);
            }
            let (found, leave) = (node.value.found(), neutral.describe());
            let message = format!(
                "{}: {found} is not available in this version of tracknet; leave the key out or set it to {leave}",
                key.path
            );
            layers.problems.push(layers.problem(node.at, &key.path, message));
            return None;
        }
        Status::Unavailable(_) if matches!(key.kind, Kind::Anything) => return Some(None),
        Status::Unavailable(_) if node.value == Value::Null => return Some(None),
        _ => {}
    }
    let mut convert = Convert { refusals: Vec::new(), section_is_off: is_off };
    let value = convert.value(&key.kind, node, &key.path);
    let problems: Vec<_> =
        convert.refusals.iter().map(|r| layers.problem(r.at, &key.path, r.message.clone())).collect();
    let refused = !problems.is_empty();
    layers.problems.extend(problems);
    if refused { None } else { Some(value) }
}

/// The numbers of a section that was built in code that are out of their bounds: the key, and what follows it in a
/// sentence.
pub(crate) fn out_of_bounds<S: Section + Serialize>(section: &S) -> Vec<(String, String)> {
    let mut keys = Vec::new();
    S::keys("", &mut keys);
    let tree = match tree_of(section) {
        Ok(tree) => tree,
        Err(message) => return vec![(String::new(), message)],
    };
    let mut convert = Convert { refusals: Vec::new(), section_is_off: false };
    for key in keys.iter().filter(|key| key.kind.is_bounded()) {
        if let Some(node) = tree.get(&key.path) {
            convert.value(&key.kind, node, &key.path);
        }
    }
    let said = |r: Refusal| (r.path, format!("is {}, expected {}", r.found, r.expected));
    convert.refusals.into_iter().map(said).collect()
}

/// Whether a section with a switch is off, so that nothing in it has an effect. Off is the default of every switch.
fn is_switched_off(tree: &Node, section: Option<&str>) -> bool {
    let Some(section) = section else { return false };
    let switch = join(section, "enabled");
    if key::find(&switch).is_none() {
        return false;
    }
    match tree.get(&switch).map(|n| &n.value) {
        Some(Value::Bool(on)) => !on,
        Some(Value::Text(text)) => yaml::parse_scalar(text) == Value::Bool(false),
        Some(_) => false,
        None => true,
    }
}

/// A value that a key does not accept.
struct Refusal {
    at: Origin,
    /// The key, or an element of it.
    path: String,
    found: String,
    expected: String,
    /// All of it in a sentence.
    message: String,
}

/// Converts one value, collecting what is wrong with it.
struct Convert {
    refusals: Vec<Refusal>,
    /// Words of features that this version lacks pass while their section is off.
    section_is_off: bool,
}

impl Convert {
    fn refuse(&mut self, kind: &Kind, node: &Node, path: &str) -> Option<Json> {
        let hint = match (kind, &node.value) {
            (Kind::Text, Value::Bool(_) | Value::Int(_) | Value::Float(_)) => "; put it in quotes",
            (Kind::Whole(WholeRange::Between(_, high)), Value::Int(n)) if *n > i128::from(*high) => {
                &format!("; the largest is {high}")
            }
            (Kind::Whole(WholeRange::Between(_, high)), Value::Float(x)) if *x > *high as f64 => {
                &format!("; the largest is {high}")
            }
            (Kind::Real(_), Value::Float(x)) if x.abs() > f64::from(f32::MAX) => "; the largest is 3.4e38",
            _ => "",
        };
        self.push(kind, node, path, |found, expected| format!("{path}: expected {expected}, found {found}{hint}"))
    }

    fn push(
        &mut self,
        kind: &Kind,
        node: &Node,
        path: &str,
        message: impl FnOnce(&str, &str) -> String,
    ) -> Option<Json> {
        let (found, expected) = (node.value.found(), kind.describe());
        let message = message(&found, &expected);
        self.refusals.push(Refusal { at: node.at, path: path.to_owned(), found, expected, message });
        None
    }

    /// The value, or `None` for the default and for what was refused.
    fn value(&mut self, kind: &Kind, node: &Node, path: &str) -> Option<Json> {
        match (kind, &node.value) {
            (Kind::Nullable(_), Value::Null) => Some(Json::Null),
            (Kind::NullIsDefault(_), Value::Null) => None,
            (Kind::NullIsDefault(inner), _) => self.value(inner, node, path),
            (Kind::Nullable(inner), _) => {
                let before = self.refusals.len();
                let value = self.value(inner, node, path);
                // Say that null is allowed, too.
                if let Some([refusal]) = self.refusals.get_mut(before..)
                    && refusal.path == path
                {
                    refusal.message = refusal.message.replacen(&refusal.expected, &kind.describe(), 1);
                    refusal.expected = kind.describe();
                }
                value
            }
            (Kind::List(inner, least), Value::List(items)) => {
                if items.len() < *least {
                    return self.refuse(kind, node, path);
                }
                self.each(inner, items, path)
            }
            (Kind::Pair(inner), Value::List(items)) if items.len() == 2 => self.each(inner, items, path),
            (Kind::Targets, Value::Text(_)) => self.value(&Kind::Text, node, path),
            (Kind::Targets, Value::List(items)) => self.each(&Kind::Text, items, path),
            (Kind::OneOrMany(inner), Value::List(items)) => self.each(inner, items, path),
            (Kind::OneOrMany(inner), _) => self.value(inner, node, path).map(|value| Json::Array(vec![value])),
            (Kind::Ordered(inner), Value::Map(entries)) => self.pairs(inner, entries, path),
            (Kind::Mapping, Value::Map(_)) | (Kind::Anything, _) => Some(to_json(&node.value)),
            (Kind::Text, Value::Text(text)) if !text.is_empty() => Some(Json::String(text.clone())),
            (Kind::Choice(words), _) => self.word(words, kind, node, path),
            (Kind::Flag | Kind::Whole(_) | Kind::Real(_), Value::Text(text)) => {
                // Quoted numbers and what an interpolation pasted count as what they read like.
                scalar(kind, &yaml::parse_scalar(text)).or_else(|| self.refuse(kind, node, path))
            }
            (_, value) => scalar(kind, value).or_else(|| self.refuse(kind, node, path)),
        }
    }

    fn each(&mut self, kind: &Kind, items: &[Node], path: &str) -> Option<Json> {
        let converted = items.iter().enumerate().map(|(i, item)| self.value(kind, item, &format!("{path}[{i}]")));
        // Collected first, so that every element is checked.
        let converted: Vec<_> = converted.collect();
        converted.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
    }

    /// Pairs instead of a map, because JSON's maps here are sorted.
    fn pairs(&mut self, kind: &Kind, entries: &[yaml::Entry], path: &str) -> Option<Json> {
        let pair = |entry: &yaml::Entry| {
            let value = self.value(kind, &entry.node, &join(path, &entry.key))?;
            Some(Json::Array(vec![Json::from(entry.key.as_str()), value]))
        };
        let converted: Vec<_> = entries.iter().map(pair).collect();
        converted.into_iter().collect::<Option<Vec<_>>>().map(Json::Array)
    }

    fn word(&mut self, words: &'static [Word], kind: &Kind, node: &Node, path: &str) -> Option<Json> {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Int(number) => number.to_string(),
            Value::Bool(on) => on.to_string(),
            _ => return self.refuse(kind, node, path),
        };
        match words::find(words, &text) {
            Some(word) if word.available || self.section_is_off => Some(Json::String(word.name.to_owned())),
            Some(word) => self.push(kind, node, path, |_, _| {
                let (name, available) = (word.name, words::available(words).join(", "));
                format!("{path}: {name} is not available in this version of tracknet; available: {available}")
            }),
            None => self.push(kind, node, path, |found, expected| {
                let near = typo::meant(&text, words::available(words)).map(|near| format!("; did you mean {near}?"));
                format!("{path}: expected {expected}, found {found}{}", near.unwrap_or_default())
            }),
        }
    }
}

/// Flags and numbers; `None` when the value is of another type or out of range.
fn scalar(kind: &Kind, value: &Value) -> Option<Json> {
    match (kind, value) {
        (Kind::Flag, Value::Bool(on)) => Some(Json::Bool(*on)),
        (Kind::Whole(range), _) => whole(value).filter(|n| range.contains(*n)).map(Json::from),
        (Kind::Real(range), Value::Int(n)) => Some(*n as f64).filter(|x| range.contains(*x)).map(Json::from),
        (Kind::Real(range), Value::Float(x)) => Some(*x).filter(|x| range.contains(*x)).map(Json::from),
        _ => None,
    }
}

/// Whole numbers, also when they are written `20.0` or `1e3`.
fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::Int(n) => u64::try_from(*n).ok(),
        // Beyond 2^53 a float no longer names one whole number.
        Value::Float(x) if x.fract() == 0.0 && (0.0..9e15).contains(x) => Some(*x as u64),
        _ => None,
    }
}

/// `amp: true` is the old spelling of `precision: fp16`, `amp: false` of `fp32`. The later layer of the two counts.
fn apply_amp(layers: &mut Layers, given: &BTreeMap<&'static str, &Node>, checked: &mut Checked) {
    let (Some(amp), false) = (given.get("training.amp"), checked.refused.contains("training.amp")) else { return };
    let on = match &amp.value {
        Value::Text(text) => yaml::parse_scalar(text),
        value => value.clone(),
    };
    let Value::Bool(on) = on else { return };
    let meant = if on { "fp16" } else { "fp32" };
    if let Some(precision) = checked.origins.get("training.precision") {
        if precision.layer > amp.at.layer {
            return;
        }
        let stored = checked.values.get("training").and_then(|t| t.get("precision")).and_then(Json::as_str);
        let agrees = stored == Some(meant) || (on && stored == Some("bf16"));
        if precision.layer == amp.at.layer {
            if !agrees && !checked.refused.contains("training.precision") {
                let stored = stored.unwrap_or_default();
                let message =
                    format!("training.amp: {on} means precision {meant}, but training.precision is {stored}; keep one");
                layers.problems.push(layers.problem(amp.at, "training.amp", message));
            }
            return;
        }
    }
    insert(&mut checked.values, "training.precision", Json::from(meant));
}

fn insert(values: &mut Map<String, Json>, path: &str, value: Json) {
    match path.split_once('.') {
        None => {
            values.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = values.entry(section).or_insert_with(|| Json::Object(Map::new()));
            if let Json::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

/// A free value as JSON. Numbers that JSON does not have (`.inf`) become null.
pub(crate) fn to_json(value: &Value) -> Json {
    match value {
        Value::Null => Json::Null,
        Value::Bool(on) => Json::Bool(*on),
        Value::Int(n) => match (u64::try_from(*n), i64::try_from(*n)) {
            (Ok(n), _) => Json::from(n),
            (_, Ok(n)) => Json::from(n),
            _ => Json::from(*n as f64),
        },
        Value::Float(x) => Json::from(*x),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => Json::Array(items.iter().map(|n| to_json(&n.value)).collect()),
        Value::Map(entries) => Json::Object(entries.iter().map(|e| (e.key.clone(), to_json(&e.node.value))).collect()),
    }
}

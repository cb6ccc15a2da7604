//! From the merged tree to values of the right type: unknown keys, wrong types, values out of range, features that
//! this version does not have. Everything that is wrong is reported, and replaced by its default to go on.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json};

use super::layers::Layers;
use super::schema::{self, Key, Kind, Status, Word};
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

/// Checks the merged tree against the schema. `defaults` holds the value of every key that the structs have.
pub(crate) fn check(layers: &mut Layers, defaults: &Node) -> Checked {
    let tree = layers.tree.clone();
    let mut given = BTreeMap::new();
    collect(layers, &tree, "", &mut given);
    let mut checked = Checked { values: Map::new(), origins: BTreeMap::new(), refused: BTreeSet::new() };
    for key in schema::known_keys() {
        let node = given.get(key.path).copied();
        if let Some(node) = node {
            checked.origins.insert(key.path, node.at);
        }
        let value = node.and_then(|node| {
            let value = check_key(layers, &tree, key, node);
            if value.is_none() {
                checked.refused.insert(key.path);
            }
            value.flatten()
        });
        // The default of the structs stands in; a key that no struct has is checked and not stored.
        if let Some(default) = defaults.get(key.path) {
            insert(&mut checked.values, key.path, value.unwrap_or_else(|| to_json(&default.value)));
        } else if let (Status::Derived, Some(value)) = (&key.status, value) {
            insert(&mut checked.values, key.path, value);
        }
    }
    apply_amp(layers, &given, &mut checked);
    checked
}

/// Finds the node of every key, and reports names that are no key.
fn collect<'t>(layers: &mut Layers, node: &'t Node, path: &str, given: &mut BTreeMap<&'static str, &'t Node>) {
    let Some(entries) = node.entries() else {
        if node.value != Value::Null {
            let names = schema::names_in(path).join(", ");
            let message = format!("{path} is a section with the keys {names}; found {}", node.value.found());
            layers.problems.push(layers.problem(node.at, path, message));
        }
        return;
    };
    for entry in entries {
        let full = join(path, &entry.key);
        if let Some(key) = schema::key(&full) {
            given.insert(key.path, &entry.node);
        } else if !entry.key.is_empty() && schema::is_section(&full) {
            collect(layers, &entry.node, &full, given);
        } else {
            let message = format!("unknown key {full}; {}", schema::suggestion(path, &entry.key));
            layers.problems.push(layers.problem(entry.at, &full, message));
        }
    }
}

/// `None`: refused and reported. `Some(None)`: the default. `Some(Some(_))`: the value.
fn check_key(layers: &mut Layers, tree: &Node, key: &Key, node: &Node) -> Option<Option<Json>> {
    let wants_notes = layers.layers.get(node.at.layer).is_none_or(|l| l.notes);
    match &key.status {
        Status::Ignored(why) => {
            if wants_notes {
                layers.notes.push(format!("{} is ignored: {why}", key.path));
            }
            return Some(None);
        }
        Status::Unavailable(neutral, gate) if !neutral.holds(&node.value) => {
            if is_switched_off(tree, *gate) {
                return Some(None);
            }
            let (found, leave) = (node.value.found(), neutral.describe());
            let message = format!(
                "{}: {found} is not available in this version of tracknet; leave the key out or set it to {leave}",
                key.path
            );
            layers.problems.push(layers.problem(node.at, key.path, message));
            return None;
        }
        Status::Unavailable(..) if matches!(key.kind, Kind::Anything) => return Some(None),
        Status::Unavailable(..) | Status::OtherModel if node.value == Value::Null => return Some(None),
        _ => {}
    }
    let gate = key.path.rsplit_once('.').map(|(section, _)| section);
    let mut convert = Convert { problems: Vec::new(), section_is_off: is_switched_off(tree, gate) };
    let value = convert.value(&key.kind, node, key.path);
    let problems: Vec<_> = convert.problems.into_iter().map(|(at, m)| layers.problem(at, key.path, m)).collect();
    let refused = !problems.is_empty();
    layers.problems.extend(problems);
    if refused { None } else { Some(value) }
}

/// Whether a section with a switch is off, so that nothing in it has an effect. Off is the default of every switch,
/// but a window (`data.sequence`) must be switched off in words: its length alone reads like a wish.
fn is_switched_off(tree: &Node, section: Option<&str>) -> bool {
    let Some(section) = section else { return false };
    let switch = join(section, "enabled");
    if schema::key(&switch).is_none() {
        return false;
    }
    match tree.get(&switch).map(|n| &n.value) {
        Some(Value::Bool(on)) => !on,
        Some(Value::Text(text)) => yaml::parse_scalar(text) == Value::Bool(false),
        Some(_) => false,
        None => section != "data.sequence",
    }
}

/// Converts one value, collecting what is wrong with it.
struct Convert {
    problems: Vec<(Origin, String)>,
    /// Words of features that this version lacks pass while their section is off.
    section_is_off: bool,
}

impl Convert {
    fn refuse(&mut self, kind: &Kind, node: &Node, path: &str) -> Option<Json> {
        let hint = match (kind, &node.value) {
            (Kind::Text, Value::Bool(_) | Value::Int(_) | Value::Float(_)) => "; put it in quotes",
            (Kind::Whole(_, high), Value::Int(n)) if *n > i128::from(*high) => &format!("; the largest is {high}"),
            (Kind::Whole(_, high), Value::Float(x)) if *x > *high as f64 => &format!("; the largest is {high}"),
            (Kind::Real(_), Value::Float(x)) if x.abs() > f64::from(f32::MAX) => "; the largest is 3.4e38",
            _ => "",
        };
        let message = format!("{path}: expected {}, found {}{hint}", kind.describe(), node.value.found());
        self.problems.push((node.at, message));
        None
    }

    /// The value, or `None` for the default and for what was refused.
    fn value(&mut self, kind: &Kind, node: &Node, path: &str) -> Option<Json> {
        match (kind, &node.value) {
            (Kind::Nullable(_) | Kind::Targets, Value::Null) => Some(Json::Null),
            (Kind::NullIsDefault(_), Value::Null) => None,
            (Kind::Nullable(inner) | Kind::NullIsDefault(inner), _) => {
                let before = self.problems.len();
                let value = self.value(inner, node, path);
                // Say that null is allowed, too.
                if let (true, [.., (_, message)]) = (self.problems.len() == before + 1, self.problems.as_mut_slice())
                    && matches!(kind, Kind::Nullable(_))
                {
                    *message = message.replacen(&inner.describe(), &kind.describe(), 1);
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
            (Kind::Choice(words), value) => self.word(words, kind, node, value, path),
            (Kind::Flag | Kind::Whole(..) | Kind::WholeOf(_) | Kind::Real(_), Value::Text(text)) => {
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

    fn word(&mut self, words: &'static [Word], kind: &Kind, node: &Node, value: &Value, path: &str) -> Option<Json> {
        let text = match value {
            Value::Text(text) => text.to_lowercase(),
            Value::Int(number) => number.to_string(),
            Value::Bool(on) => on.to_string(),
            _ => return self.refuse(kind, node, path),
        };
        let known = words.iter().find(|w| w.name == text || w.aliases.contains(&text.as_str()));
        let message = match known {
            Some(word) if word.available || self.section_is_off => return Some(Json::String(word.name.to_owned())),
            Some(word) => format!(
                "{path}: {} is not available in this version of tracknet; available: {}",
                word.name,
                schema::available(words).join(", ")
            ),
            None => {
                let near = schema::nearest_word(words, &text);
                let hint = near.map(|w| format!("; did you mean {w}?")).unwrap_or_default();
                format!("{path}: expected {}, found {}{hint}", kind.describe(), value.found())
            }
        };
        self.problems.push((node.at, message));
        None
    }
}

/// Flags and numbers; `None` when the value is of another type or out of range.
fn scalar(kind: &Kind, value: &Value) -> Option<Json> {
    match (kind, value) {
        (Kind::Flag, Value::Bool(on)) => Some(Json::Bool(*on)),
        (Kind::Whole(low, high), _) => whole(value).filter(|n| (low..=high).contains(&n)).map(Json::from),
        (Kind::WholeOf(allowed), _) => whole(value).filter(|n| allowed.contains(n)).map(Json::from),
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

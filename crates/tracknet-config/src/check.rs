//! From the merged tree to values of the right type: unknown keys, wrong types, values out of range, features that
//! this version does not have. Everything that is wrong is reported, and left out to go on with its default.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::error::Problem;
use super::key::{self, Key, Section, Status};
use super::kind::{Kind, WholeRange};
use super::layers::Layers;
use super::structs::tree_of;
use super::typo;
use super::words::{self, Word};
use super::yaml::{self, Entry, Node, Origin, Value, join};

/// What the checks leave, and where it was written.
#[derive(Default)]
pub(crate) struct Checked {
    /// Where the keys that were given stand.
    pub(crate) origins: BTreeMap<&'static str, Origin>,
    /// Keys whose value was refused.
    pub(crate) refused: BTreeSet<&'static str>,
}

/// Checks the merged tree against the keys, and gives the values that the structs take.
pub(crate) fn check(layers: &mut Layers) -> (Value, Checked) {
    let mut check =
        Check { layers, checked: Checked::default(), unknown: Vec::new(), wrong: Vec::new(), notes: Vec::new() };
    let mut values = check.section(&layers.tree, "");
    check.apply_amp(&mut values);
    let Check { checked, unknown, wrong, notes, .. } = check;
    layers.problems.extend(unknown.into_iter().chain(wrong));
    layers.notes.extend(notes);
    (Value::Map(values), checked)
}

struct Check<'a> {
    layers: &'a Layers,
    checked: Checked,
    /// Names that are no key.
    unknown: Vec<Problem>,
    /// Values that their keys do not accept.
    wrong: Vec<Problem>,
    notes: Vec<String>,
}

impl Check<'_> {
    /// The values of a section.
    fn section(&mut self, node: &Node, path: &str) -> Vec<Entry> {
        let Some(entries) = node.entries() else {
            if node.value != Value::Null {
                let names = key::names_in(path).join(", ");
                let message = format!("{path} is a section with the keys {names}; found {}", node.value.found());
                self.unknown.push(self.layers.problem(node.at, path, message));
            }
            return Vec::new();
        };
        let mut values = Vec::new();
        for entry in entries {
            let full = join(path, &entry.key);
            let value = if let Some(key) = key::find(&full) {
                self.key(key, &entry.node)
            } else if !entry.key.is_empty() && key::is_section(&full) {
                Some(self.section(&entry.node, &full)).filter(|values| !values.is_empty()).map(Value::Map)
            } else {
                let message = format!("unknown key {full}; {}", key::suggestion(path, &entry.key));
                self.unknown.push(self.layers.problem(entry.at, &full, message));
                None
            };
            values.extend(value.map(|value| Entry::new(&entry.key, value, entry.node.at)));
        }
        values
    }

    /// The value of a key; `None` for its default, and when it was refused.
    fn key(&mut self, key: &'static Key, node: &Node) -> Option<Value> {
        self.checked.origins.insert(&key.path, node.at);
        let refusals = match &key.status {
            Status::Ignored(why) => {
                if self.layers.wants_notes(node.at) {
                    self.notes.push(format!("{} is ignored: {why}", key.path));
                }
                return None;
            }
            Status::Unavailable if key::is_neutral(&node.value) || self.is_switched_off(key) => return None,
            Status::Unavailable => {
                let found = node.value.found();
                let message = format!(
                    "{}: {found} is not available in this version of tracknet; leave the key out or set it to null or false",
                    key.path
                );
                vec![(node.at, message)]
            }
            Status::Working | Status::Derived => {
                let mut convert = Convert::default();
                let value = convert.value(&key.kind, node, &key.path);
                if convert.refusals.is_empty() {
                    return value;
                }
                convert.refusals.into_iter().map(|refusal| (refusal.at, refusal.message())).collect()
            }
        };
        self.checked.refused.insert(&key.path);
        self.wrong.extend(refusals.into_iter().map(|(at, message)| self.layers.problem(at, &key.path, message)));
        None
    }

    /// Whether the section of a key has a switch that is off, so that nothing in it has an effect. Off is the default of
    /// every switch.
    fn is_switched_off(&self, key: &Key) -> bool {
        let switch = key.path.rsplit_once('.').map(|(section, _)| join(section, "enabled"));
        let Some(switch) = switch.filter(|switch| key::find(switch).is_some()) else { return false };
        match self.layers.tree.get(&switch).map(|n| &n.value) {
            Some(Value::Bool(on)) => !on,
            Some(Value::Text(text)) => yaml::parse_scalar(text) == Value::Bool(false),
            Some(_) => false,
            None => true,
        }
    }

    /// `amp: true` is the old spelling of `precision: fp16`, `amp: false` of `fp32`. The later layer of the two counts.
    fn apply_amp(&mut self, values: &mut [Entry]) {
        let training = values.iter_mut().find(|e| e.key == "training").map(|e| &mut e.node.value);
        let Some(Value::Map(training)) = training else { return };
        let Some(index) = training.iter().position(|e| e.key == "amp") else { return };
        let Node { value: Value::Bool(on), at } = training.remove(index).node else { return };
        let meant = if on { "fp16" } else { "fp32" };
        match self.checked.origins.get("training.precision").map(|precision| precision.layer.cmp(&at.layer)) {
            Some(Ordering::Greater) => {}
            Some(Ordering::Equal) => {
                let stored = training.iter().find(|e| e.key == "precision").and_then(|e| e.node.value.scalar_text());
                if let Some(stored) = stored.filter(|stored| stored != meant && !(on && stored == "bf16")) {
                    let message = format!(
                        "training.amp: {on} means precision {meant}, but training.precision is {stored}; keep one"
                    );
                    self.wrong.push(self.layers.problem(at, "training.amp", message));
                }
            }
            Some(Ordering::Less) | None => {
                training.retain(|e| e.key != "precision");
                training.push(Entry::new("precision", Value::Text(meant.to_owned()), at));
            }
        }
    }
}

/// [`Section::out_of_bounds`].
pub(crate) fn out_of_bounds<S: Section + Serialize>(section: &S) -> Vec<(String, String)> {
    let mut keys = Vec::new();
    S::keys("", &mut keys);
    let tree = match tree_of(section) {
        Ok(tree) => tree,
        Err(message) => return vec![(String::new(), message)],
    };
    let mut convert = Convert::default();
    for key in keys.iter().filter(|key| key.kind.is_bounded()) {
        if let Some(node) = tree.get(&key.path) {
            convert.value(&key.kind, node, &key.path);
        }
    }
    let said = |r: Refusal| (r.path, format!("is {}, expected {}", r.found, r.expected));
    convert.refusals.into_iter().map(said).collect()
}

/// A value that a key does not accept.
struct Refusal {
    at: Origin,
    /// The key, or an element of it.
    path: String,
    found: String,
    expected: String,
    /// What helps, behind both; or a sentence in their place.
    hint: Hint,
}

enum Hint {
    Behind(String),
    Instead(String),
}

impl Refusal {
    fn message(&self) -> String {
        let Self { path, found, expected, .. } = self;
        match &self.hint {
            Hint::Behind(hint) => format!("{path}: expected {expected}, found {found}{hint}"),
            Hint::Instead(sentence) => format!("{path}: {sentence}"),
        }
    }
}

/// Converts one value, collecting what is wrong with it.
#[derive(Default)]
struct Convert {
    refusals: Vec<Refusal>,
}

impl Convert {
    fn refuse(&mut self, kind: &Kind, node: &Node, path: &str) -> Option<Value> {
        let is_above = |most: u64| match node.value {
            Value::Int(n) => n > i128::from(most),
            Value::Float(x) => x > most as f64,
            _ => false,
        };
        let hint = match (kind, &node.value) {
            (Kind::Text, Value::Bool(_) | Value::Int(_) | Value::Float(_)) => "; put it in quotes".to_owned(),
            (Kind::Whole(WholeRange::Between(_, most)), _) if is_above(*most) => format!("; the largest is {most}"),
            (Kind::Real(_), Value::Float(x)) if x.abs() > f64::from(f32::MAX) => "; the largest is 3.4e38".to_owned(),
            _ => String::new(),
        };
        self.refuse_with(Hint::Behind(hint), kind, node, path)
    }

    fn refuse_with(&mut self, hint: Hint, kind: &Kind, node: &Node, path: &str) -> Option<Value> {
        let (found, expected) = (node.value.found(), kind.describe());
        self.refusals.push(Refusal { at: node.at, path: path.to_owned(), found, expected, hint });
        None
    }

    /// The value, or `None` for the default and for what was refused.
    fn value(&mut self, kind: &Kind, node: &Node, path: &str) -> Option<Value> {
        match (kind, &node.value) {
            (Kind::Nullable(_), Value::Null) => Some(Value::Null),
            (Kind::NullIsDefault(_), Value::Null) => None,
            (Kind::NullIsDefault(inner), _) => self.value(inner, node, path),
            (Kind::Nullable(inner), _) => {
                let before = self.refusals.len();
                let value = self.value(inner, node, path);
                // Say that null is allowed, too.
                if let Some([refusal]) = self.refusals.get_mut(before..)
                    && refusal.path == path
                {
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
            (Kind::OneOrMany(inner), _) => {
                self.value(inner, node, path).map(|value| Value::List(vec![Node { value, at: node.at }]))
            }
            (Kind::Ordered(inner), Value::Map(entries)) => self.each_entry(inner, entries, path),
            (Kind::Mapping, Value::Map(_)) | (Kind::Anything, _) => Some(node.value.clone()),
            (Kind::Text, Value::Text(text)) if !text.is_empty() => Some(node.value.clone()),
            (Kind::Choice(words), _) => self.word(words, kind, node, path),
            (Kind::Flag | Kind::Whole(_) | Kind::Real(_), Value::Text(text)) => {
                // Quoted numbers and what an interpolation pasted count as what they read like.
                scalar(kind, &yaml::parse_scalar(text)).or_else(|| self.refuse(kind, node, path))
            }
            (_, value) => scalar(kind, value).or_else(|| self.refuse(kind, node, path)),
        }
    }

    fn each(&mut self, kind: &Kind, items: &[Node], path: &str) -> Option<Value> {
        let element = |(i, item): (usize, &Node)| {
            self.value(kind, item, &format!("{path}[{i}]")).map(|value| Node { value, at: item.at })
        };
        // Collected first, so that every element is checked.
        let converted: Vec<_> = items.iter().enumerate().map(element).collect();
        converted.into_iter().collect::<Option<_>>().map(Value::List)
    }

    fn each_entry(&mut self, kind: &Kind, entries: &[Entry], path: &str) -> Option<Value> {
        let element = |entry: &Entry| {
            let value = self.value(kind, &entry.node, &join(path, &entry.key))?;
            Some(Entry::new(&entry.key, value, entry.node.at))
        };
        let converted: Vec<_> = entries.iter().map(element).collect();
        converted.into_iter().collect::<Option<_>>().map(Value::Map)
    }

    fn word(&mut self, words: &'static [Word], kind: &Kind, node: &Node, path: &str) -> Option<Value> {
        let text = match &node.value {
            Value::Text(text) => text.clone(),
            Value::Int(number) => number.to_string(),
            Value::Bool(on) => on.to_string(),
            _ => return self.refuse(kind, node, path),
        };
        match words::find(words, &text) {
            Some(word) if word.available => Some(Value::Text(word.name.to_owned())),
            Some(Word { name, .. }) => {
                let available = words::available(words).join(", ");
                let sentence = format!("{name} is not available in this version of tracknet; available: {available}");
                self.refuse_with(Hint::Instead(sentence), kind, node, path)
            }
            None => {
                let near = typo::meant(&text, words::available(words));
                let hint = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                self.refuse_with(Hint::Behind(hint), kind, node, path)
            }
        }
    }
}

/// Flags and numbers; `None` when the value is of another type or out of range.
fn scalar(kind: &Kind, value: &Value) -> Option<Value> {
    match (kind, value) {
        (Kind::Flag, Value::Bool(_)) => Some(value.clone()),
        (Kind::Whole(range), _) => whole(value).filter(|n| range.contains(*n)).map(|n| Value::Int(n.into())),
        (Kind::Real(range), _) => value.number().filter(|x| range.contains(*x)).map(Value::Float),
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

//! The keys of the configuration: which there are, whether this version acts on them, and which one was meant.

use std::sync::LazyLock;

use serde::Serialize;

use super::check::out_of_bounds;
use super::kind::Kind;
use super::typo;
use super::yaml::{Value, join};
use super::{DataConfig, ModelConfig, Runtime, TrainingConfig};

/// A key of the configuration.
#[derive(Debug, Clone)]
pub struct Key {
    /// Full path: `model.lora.r`.
    pub path: String,
    /// What it accepts.
    pub kind: Kind,
    /// Whether this version acts on it.
    pub status: Status,
    /// What it means, in Markdown: the documentation of its field.
    pub doc: &'static str,
}

impl Key {
    /// A key without a field, of a feature that this version does not have.
    pub(crate) fn unavailable(path: &str) -> Self {
        Self { path: path.to_owned(), kind: Kind::Anything, status: Status::Unavailable, doc: "" }
    }

    /// The same key in a section.
    pub(crate) fn below(self, section: &str) -> Self {
        Self { path: join(section, &self.path), ..self }
    }
}

/// Whether this version acts on a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It does what its documentation says.
    Working,
    /// Accepted for the sake of older files, and said to be ignored.
    Ignored(&'static str),
    /// Known, but only its neutral value is accepted, unless its section is switched off.
    Unavailable,
    /// Derived by the program, written to a run's `config.yaml`.
    Derived,
}

/// Whether a value leaves a feature off: null, false, zero, `none`, `off`, or nothing in it.
pub(crate) fn is_neutral(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(on) => !on,
        Value::Int(n) => *n == 0,
        Value::Float(x) => *x == 0.0,
        Value::Text(text) => matches!(text.to_ascii_lowercase().as_str(), "" | "none" | "off" | "false" | "null"),
        Value::List(items) => items.is_empty(),
        Value::Map(entries) => entries.is_empty(),
    }
}

/// A struct whose fields are keys, by `#[derive(Section)]`.
pub trait Section {
    /// Adds the keys of the section that stands at `path`, in the order of the fields.
    fn keys(path: &str, keys: &mut Vec<Key>);

    /// The numbers of a section that was built in code that are out of their bounds: the key, and what follows it in a
    /// sentence.
    fn out_of_bounds(&self) -> Vec<(String, String)>
    where
        Self: Serialize + Sized,
    {
        out_of_bounds(self)
    }
}

static KEYS: LazyLock<Vec<Key>> = LazyLock::new(|| {
    let mut keys = Vec::new();
    DataConfig::keys("data", &mut keys);
    ModelConfig::keys("model", &mut keys);
    TrainingConfig::keys("training", &mut keys);
    Runtime::keys("runtime", &mut keys);
    keys
});

/// Every key that is known, in the order of the reference.
pub fn known_keys() -> &'static [Key] {
    &KEYS
}

/// The key at a full path.
pub(crate) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

/// Whether a path is a section: the prefix of some key.
pub(crate) fn is_section(path: &str) -> bool {
    path.is_empty() || KEYS.iter().any(|k| below(&k.path, path).is_some())
}

/// Names directly below a section.
pub(crate) fn names_in(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for rest in KEYS.iter().filter_map(|k| below(&k.path, section)) {
        let name = rest.split('.').next().unwrap_or(rest);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

pub(crate) fn below(path: &'static str, section: &str) -> Option<&'static str> {
    if section.is_empty() {
        return Some(path);
    }
    path.strip_prefix(section)?.strip_prefix('.')
}

/// "did you mean lora_alpha?" for an unknown `name` in `section`; always names the nearest known key.
pub(crate) fn suggestion(section: &str, name: &str) -> String {
    let here = names_in(section);
    let nearest = typo::nearest(name, here.iter().copied());
    if let Some((known, true)) = nearest {
        return format!("did you mean {known}?");
    }
    let elsewhere = KEYS.iter().find(|k| k.path.rsplit('.').next() == Some(name)).map(|k| k.path.as_str());
    let section_elsewhere = || {
        let parents = KEYS.iter().filter_map(|k| k.path.rsplit_once('.').map(|(parent, _)| parent));
        parents.into_iter().find(|parent| parent.rsplit('.').next() == Some(name))
    };
    if let Some(path) = elsewhere.or_else(section_elsewhere) {
        return format!("did you mean {path}?");
    }
    match nearest {
        Some((known, _)) => format!("the nearest known key is {known}; known here: {}", here.join(", ")),
        None if here.is_empty() => "no key is known here".to_owned(),
        None => format!("known here: {}", here.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_answered_with_the_key_that_was_meant() {
        assert_eq!(suggestion("model.lora", "lora_aplha"), "did you mean lora_alpha?");
        assert_eq!(suggestion("model.lora", "Lora_Alpha"), "did you mean lora_alpha?");
    }

    #[test]
    fn a_key_in_the_wrong_section_is_answered_with_its_full_path() {
        assert_eq!(suggestion("model", "lora_alpha"), "did you mean model.lora.lora_alpha?");
        assert_eq!(suggestion("", "lora"), "did you mean model.lora?");
    }

    #[test]
    fn a_key_that_is_near_to_nothing_is_answered_with_what_is_known() {
        let text = suggestion("data.split", "fold");
        assert!(text.starts_with("the nearest known key is "), "{text}");
        assert!(text.ends_with("known here: train_games, val_games, val_share, test_games"), "{text}");
    }

    #[test]
    fn no_path_is_a_key_twice_or_both_a_key_and_a_section() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(KEYS.iter().skip(i + 1).all(|k| k.path != key.path), "{} twice", key.path);
            assert!(!is_section(&key.path), "{} is also a section", key.path);
        }
    }
}

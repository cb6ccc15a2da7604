//! What a key may hold: one vocabulary for the checks, the messages and the reference in `docs/configuration.md`.

use super::keys::KEYS;
use super::yaml::Value;

/// A key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Full path: `model.lora.r`.
    pub path: &'static str,
    /// What it may hold.
    pub kind: Kind,
    /// Whether this version acts on it.
    pub status: Status,
    /// What it means, in Markdown.
    pub doc: &'static str,
}

/// Values that a key accepts.
#[derive(Debug)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number between two bounds, both allowed.
    Whole(u64, u64),
    /// One of a few whole numbers.
    WholeOf(&'static [u64]),
    /// A finite number.
    Real(Range),
    /// Text that is not empty.
    Text,
    /// One of a few words.
    Choice(&'static [Word]),
    /// A list with at least so many elements.
    List(&'static Kind, usize),
    /// A list of exactly two.
    Pair(&'static Kind),
    /// The inner kind, or null.
    Nullable(&'static Kind),
    /// The inner kind; null means the default.
    NullIsDefault(&'static Kind),
    /// Text, or a list of texts.
    Targets,
    /// One of the inner kind, or a list of them; always a list in the structs.
    OneOrMany(&'static Kind),
    /// A mapping from texts to the inner kind, whose order counts.
    Ordered(&'static Kind),
    /// A mapping with keys of its own.
    Mapping,
    /// Whatever YAML can say.
    Anything,
}

/// Bounds of a [`Kind::Real`].
#[derive(Debug)]
pub enum Range {
    /// 0 ≤ x ≤ 1.
    Unit,
    /// 0 < x ≤ 1.
    UnitAboveZero,
    /// 0 ≤ x < 1.
    UnitBelowOne,
    /// x > 0.
    Positive,
    /// x ≥ 0.
    NotNegative,
    /// From one bound to the other, both allowed.
    Within(f64, f64),
}

/// A word of a [`Kind::Choice`].
#[derive(Debug)]
pub struct Word {
    /// The spelling that the configuration keeps.
    pub name: &'static str,
    /// Other accepted spellings, in lower case.
    pub aliases: &'static [&'static str],
    /// Whether this version can do it.
    pub available: bool,
}

/// Whether this version acts on a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Status {
    /// It does what its documentation says.
    Working,
    /// Accepted for the sake of older files, and said to be ignored.
    Ignored(&'static str),
    /// Known, but only its neutral value is accepted while the named section is enabled (or, without one, always).
    Unavailable(Neutral, Option<&'static str>),
    /// Read by models that this version does not have.
    OtherModel,
    /// Derived by the program, written to a run's `config.yaml`.
    Derived,
}

/// The value that leaves an unavailable feature off.
#[derive(Debug, PartialEq, Eq)]
pub enum Neutral {
    /// Null, false, zero, `none`, `off`, or nothing in it.
    Off,
    /// `true`.
    On,
    /// A whole number up to one.
    One,
}

impl Neutral {
    pub(crate) fn holds(&self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) | (Self::Off, Value::Bool(false)) | (Self::On, Value::Bool(true)) => true,
            (Self::Off, Value::Int(0)) | (Self::One, Value::Int(0 | 1)) => true,
            (Self::Off, Value::Float(x)) => *x == 0.0,
            (Self::Off, Value::Text(t)) => {
                matches!(t.to_ascii_lowercase().as_str(), "" | "none" | "off" | "false" | "null")
            }
            (Self::On, Value::Text(t)) => t.eq_ignore_ascii_case("true"),
            (Self::Off, Value::List(items)) => items.is_empty(),
            (Self::Off, Value::Map(entries)) => entries.is_empty(),
            _ => false,
        }
    }

    pub(crate) fn describe(&self) -> &'static str {
        match self {
            Self::Off => "null or false",
            Self::On => "true",
            Self::One => "1",
        }
    }
}

impl Range {
    pub(crate) fn contains(&self, x: f64) -> bool {
        // Most numbers are stored in 32 bits, where anything beyond is infinite.
        x.abs() <= f64::from(f32::MAX)
            && match self {
                Self::Unit => (0.0..=1.0).contains(&x),
                Self::UnitAboveZero => x > 0.0 && x <= 1.0,
                Self::UnitBelowOne => (0.0..1.0).contains(&x),
                Self::Positive => x > 0.0,
                Self::NotNegative => x >= 0.0,
                Self::Within(low, high) => (*low..=*high).contains(&x),
            }
    }

    fn describe(&self) -> String {
        match self {
            Self::Unit => "a number from 0 to 1".to_owned(),
            Self::UnitAboveZero => "a number above 0, up to 1".to_owned(),
            Self::UnitBelowOne => "a number from 0 to below 1".to_owned(),
            Self::Positive => "a number above 0".to_owned(),
            Self::NotNegative => "a number of at least 0".to_owned(),
            Self::Within(low, high) => format!("a number from {low} to {high}"),
        }
    }
}

impl Kind {
    /// What a message says was expected: "a whole number of at least 1".
    pub fn describe(&self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            // A bound that nobody meets is not worth the words.
            Self::Whole(low, 16_777_216..) => format!("a whole number of at least {low}"),
            Self::Whole(low, high) => format!("a whole number from {low} to {high}"),
            Self::WholeOf(allowed) => {
                format!("one of {}", allowed.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
            }
            Self::Real(range) => range.describe(),
            Self::Text => "text".to_owned(),
            Self::Choice(words) => format!("one of {}", available(words).join(", ")),
            Self::List(inner, 0) => format!("a list, each {}", inner.describe()),
            Self::List(inner, least) => format!("a list of at least {least}, each {}", inner.describe()),
            Self::Pair(inner) => format!("a list of two, each {}", inner.describe()),
            Self::Nullable(inner) => format!("{}, or null", inner.describe()),
            Self::NullIsDefault(inner) => inner.describe(),
            Self::Targets => "text or a list of texts, or null".to_owned(),
            Self::OneOrMany(inner) => format!("{}, or a list of such", inner.describe()),
            Self::Ordered(inner) => format!("a mapping from patterns to {}", inner.describe()),
            Self::Mapping => "a mapping".to_owned(),
            Self::Anything => "anything".to_owned(),
        }
    }
}

/// The names of the words that this version can do.
pub(crate) fn available(words: &'static [Word]) -> Vec<&'static str> {
    words.iter().filter(|w| w.available).map(|w| w.name).collect()
}

/// Every key that is known, in the order of the reference.
pub fn known_keys() -> &'static [Key] {
    KEYS
}

/// The key at a full path.
pub(crate) fn key(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

/// Whether a path is a section: the prefix of some key.
pub(crate) fn is_section(path: &str) -> bool {
    path.is_empty() || KEYS.iter().any(|k| below(k.path, path).is_some())
}

/// Names directly below a section.
pub(crate) fn names_in(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for rest in KEYS.iter().filter_map(|k| below(k.path, section)) {
        let name = rest.split('.').next().unwrap_or(rest);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn below(path: &'static str, section: &str) -> Option<&'static str> {
    if section.is_empty() {
        return Some(path);
    }
    path.strip_prefix(section)?.strip_prefix('.')
}

/// Names beyond this are no typing errors of a key or a word, and too long to be compared with all of them.
pub(crate) const LONGEST_TYPO: usize = 64;

/// "did you mean lora_alpha?" for an unknown `name` in `section`; always names the nearest known key.
pub(crate) fn suggestion(section: &str, name: &str) -> String {
    let here = names_in(section);
    let distance = |known: &str| strsim::damerau_levenshtein(&name.to_lowercase(), known);
    let comparable = name.len() <= LONGEST_TYPO;
    let nearest = here.iter().copied().filter(|_| comparable).min_by_key(|known| distance(known));
    if let Some(known) = nearest
        && distance(known) <= (known.len().max(name.len()) / 3).max(1)
    {
        return format!("did you mean {known}?");
    }
    let elsewhere = KEYS.iter().find(|k| k.path.rsplit('.').next() == Some(name)).map(|k| k.path);
    let section_elsewhere = || {
        let parents = KEYS.iter().filter_map(|k| k.path.rsplit_once('.').map(|(parent, _)| parent));
        parents.into_iter().find(|parent| parent.rsplit('.').next() == Some(name))
    };
    if let Some(path) = elsewhere.or_else(section_elsewhere) {
        return format!("did you mean {path}?");
    }
    match nearest {
        Some(known) => format!("the nearest known key is {known}; known here: {}", here.join(", ")),
        None if here.is_empty() => "no key is known here".to_owned(),
        None => format!("known here: {}", here.join(", ")),
    }
}

/// The word of `words` nearest to `text`, when it is near enough to be a typo.
pub(crate) fn nearest_word(words: &'static [Word], text: &str) -> Option<&'static str> {
    if text.len() > LONGEST_TYPO {
        return None;
    }
    let text = text.to_lowercase();
    let near = available(words).into_iter().map(|w| (strsim::damerau_levenshtein(&text, w), w)).min()?;
    (near.0 <= (near.1.len() / 3).max(1)).then_some(near.1)
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
        assert!(text.ends_with("known here: train_games, val_games, test_games"), "{text}");
    }

    #[test]
    fn no_path_is_a_key_twice_or_both_a_key_and_a_section() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(KEYS.iter().skip(i + 1).all(|k| k.path != key.path), "{} twice", key.path);
            assert!(!is_section(key.path), "{} is also a section", key.path);
        }
    }
}

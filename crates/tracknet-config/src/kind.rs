//! What a key accepts, from the type of its field: one vocabulary for the checks, the messages and the reference in
//! `docs/configuration.md`.

use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::path::PathBuf;

use super::words::{Word, Words, available};

/// Values that a key accepts.
#[derive(Debug, Clone)]
pub enum Kind {
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Whole(WholeRange),
    /// A finite number.
    Real(RealRange),
    /// Text that is not empty.
    Text,
    /// One of a few words.
    Choice(&'static [Word]),
    /// A list with at least so many elements.
    List(Box<Kind>, usize),
    /// A list of exactly two.
    Pair(Box<Kind>),
    /// The inner kind, or null.
    Nullable(Box<Kind>),
    /// The inner kind; null means the default.
    NullIsDefault(Box<Kind>),
    /// Text, or a list of texts.
    Targets,
    /// One of the inner kind, or a list of them; always a list in the structs.
    OneOrMany(Box<Kind>),
    /// A mapping from texts to the inner kind, whose order counts.
    Ordered(Box<Kind>),
    /// A mapping with keys of its own.
    Mapping,
    /// Whatever YAML can say.
    Anything,
}

/// The whole numbers that a key accepts.
#[derive(Debug, Clone)]
pub enum WholeRange {
    /// From one bound to the other, both allowed.
    Between(u64, u64),
    /// One of a few.
    OneOf(&'static [u64]),
}

/// The numbers that a key accepts; what 32 bits cannot hold is refused as well.
#[derive(Debug, Clone)]
pub struct RealRange {
    low: Bound<f64>,
    high: Bound<f64>,
}

impl From<RangeInclusive<u64>> for WholeRange {
    fn from(range: RangeInclusive<u64>) -> Self {
        Self::Between(*range.start(), *range.end())
    }
}

impl<const N: usize> From<&'static [u64; N]> for WholeRange {
    fn from(allowed: &'static [u64; N]) -> Self {
        Self::OneOf(allowed)
    }
}

impl<R: RangeBounds<f64>> From<R> for RealRange {
    fn from(range: R) -> Self {
        Self { low: range.start_bound().cloned(), high: range.end_bound().cloned() }
    }
}

impl WholeRange {
    pub(crate) fn contains(&self, n: u64) -> bool {
        match self {
            Self::Between(low, high) => (*low..=*high).contains(&n),
            Self::OneOf(allowed) => allowed.contains(&n),
        }
    }

    fn describe(&self) -> String {
        match self {
            // A bound that nobody meets is not worth the words.
            Self::Between(low, 16_777_216..) => format!("a whole number of at least {low}"),
            Self::Between(low, high) => format!("a whole number from {low} to {high}"),
            Self::OneOf(allowed) => {
                format!("one of {}", allowed.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

impl RealRange {
    pub(crate) fn contains(&self, x: f64) -> bool {
        // Most numbers are stored in 32 bits, where anything beyond is infinite.
        x.abs() <= f64::from(f32::MAX) && (self.low, self.high).contains(&x)
    }

    fn describe(&self) -> String {
        let low = match self.low {
            Bound::Included(low) => format!("from {low}"),
            Bound::Excluded(low) => format!("above {low}"),
            Bound::Unbounded => String::new(),
        };
        match (self.low, self.high) {
            (Bound::Included(low), Bound::Unbounded) => format!("a number of at least {low}"),
            (_, Bound::Unbounded) => format!("a number {low}"),
            (Bound::Included(_), Bound::Included(high)) => format!("a number {low} to {high}"),
            (_, Bound::Included(high)) => format!("a number {low}, up to {high}"),
            (_, Bound::Excluded(high)) => format!("a number {low} to below {high}"),
        }
    }
}

impl Kind {
    /// A list with at least `least` elements.
    pub(crate) fn at_least(self, least: usize) -> Self {
        match self {
            Self::List(inner, _) => Self::List(inner, least),
            Self::Nullable(inner) => Self::Nullable(Box::new(inner.at_least(least))),
            other => other,
        }
    }

    /// A list for which a single element may stand.
    pub(crate) fn one_or_many(self) -> Self {
        match self {
            Self::List(inner, _) => Self::OneOrMany(inner),
            Self::Nullable(inner) => Self::Nullable(Box::new(inner.one_or_many())),
            other => other,
        }
    }

    /// The same, or null for the default.
    pub(crate) fn null_is_default(self) -> Self {
        Self::NullIsDefault(Box::new(self))
    }

    /// Whether it bounds numbers.
    pub(crate) fn is_bounded(&self) -> bool {
        match self {
            Self::Whole(_) | Self::Real(_) => true,
            Self::List(inner, _)
            | Self::Pair(inner)
            | Self::Nullable(inner)
            | Self::NullIsDefault(inner)
            | Self::OneOrMany(inner)
            | Self::Ordered(inner) => inner.is_bounded(),
            _ => false,
        }
    }

    /// Whether the value may be a mapping with names of the user's.
    pub(crate) fn accepts_mapping(&self) -> bool {
        match self {
            Self::Mapping | Self::Anything => true,
            Self::Nullable(inner) => inner.accepts_mapping(),
            _ => false,
        }
    }

    /// What a message says was expected: "a whole number of at least 1".
    pub fn describe(&self) -> String {
        match self {
            Self::Flag => "true or false".to_owned(),
            Self::Whole(range) => range.describe(),
            Self::Real(range) => range.describe(),
            Self::Text => "text".to_owned(),
            Self::Choice(words) => format!("one of {}", available(words).join(", ")),
            Self::List(inner, 0) => format!("a list, each {}", inner.describe()),
            Self::List(inner, least) => format!("a list of at least {least}, each {}", inner.describe()),
            Self::Pair(inner) => format!("a list of two, each {}", inner.describe()),
            Self::Nullable(inner) => format!("{}, or null", inner.describe()),
            Self::NullIsDefault(inner) => inner.describe(),
            Self::Targets => "text or a list of texts".to_owned(),
            Self::OneOrMany(inner) => format!("{}, or a list of such", inner.describe()),
            Self::Ordered(inner) => format!("a mapping from patterns to {}", inner.describe()),
            Self::Mapping => "a mapping".to_owned(),
            Self::Anything => "anything".to_owned(),
        }
    }
}

/// A type that a field may have.
pub trait Setting {
    /// What narrows it down: a range for numbers, which must be given, and nothing for other types.
    type Limits;

    /// What the key of such a field accepts.
    fn kind(limits: Self::Limits) -> Kind;
}

/// Sides of images and maps; beyond are typing errors.
pub(crate) const PIXELS: RangeInclusive<u64> = 1..=16_384;
/// Counts that cannot be zero.
pub(crate) const POSITIVE: RangeInclusive<u64> = 1..=1 << 24;
/// Counts that can be zero.
pub(crate) const COUNT: RangeInclusive<u64> = 0..=1 << 32;
/// Probabilities and other shares of one.
pub(crate) const PROBABILITY: RangeInclusive<f64> = 0.0..=1.0;
/// Numbers that cannot be zero.
pub(crate) const ABOVE_ZERO: (Bound<f64>, Bound<f64>) = (Bound::Excluded(0.0), Bound::Unbounded);

macro_rules! settings {
    ($($ty:ty: $limits:ty => $kind:expr),+ $(,)?) => {
        $(impl Setting for $ty {
            type Limits = $limits;

            fn kind(limits: $limits) -> Kind {
                let kind: fn($limits) -> Kind = $kind;
                kind(limits)
            }
        })+
    };
}

settings! {
    bool: () => |()| Kind::Flag,
    u8: WholeRange => Kind::Whole,
    u64: WholeRange => Kind::Whole,
    usize: WholeRange => Kind::Whole,
    f32: RealRange => Kind::Real,
    f64: RealRange => Kind::Real,
    String: () => |()| Kind::Text,
    PathBuf: () => |()| Kind::Text,
    serde_json::Map<String, serde_json::Value>: () => |()| Kind::Mapping,
}

impl<W: Words> Setting for W {
    type Limits = ();

    fn kind((): ()) -> Kind {
        Kind::Choice(W::WORDS)
    }
}

impl<T: Setting> Setting for Option<T> {
    type Limits = T::Limits;

    fn kind(limits: T::Limits) -> Kind {
        Kind::Nullable(Box::new(T::kind(limits)))
    }
}

impl<T: Setting> Setting for Vec<T> {
    type Limits = T::Limits;

    fn kind(limits: T::Limits) -> Kind {
        Kind::List(Box::new(T::kind(limits)), 0)
    }
}

impl<T: Setting> Setting for [T; 2] {
    type Limits = T::Limits;

    fn kind(limits: T::Limits) -> Kind {
        Kind::Pair(Box::new(T::kind(limits)))
    }
}

//! What a key accepts: one vocabulary for the checks, the messages and the reference in `docs/configuration.md`.

use std::ops::{Bound, RangeBounds, RangeInclusive};

use super::words::{Word, available};

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

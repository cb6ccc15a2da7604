//! From the type of a field to what its key accepts.

use std::ops::{Bound, RangeInclusive};
use std::path::PathBuf;

use super::key::Key;
use super::kind::{Kind, RealRange, WholeRange};
use super::words::Words;

/// A struct whose fields are keys, by `#[derive(Section)]`.
pub trait Section {
    /// Adds the keys of the section that stands at `path`, in the order of the fields.
    fn keys(path: &str, keys: &mut Vec<Key>);
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

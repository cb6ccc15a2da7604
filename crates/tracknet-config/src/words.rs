//! Enums of words: their spellings, how they are read and written.

use std::fmt;
use std::marker::PhantomData;

use serde::de::Visitor;
use serde::{Deserializer, Serializer};

/// A word that a key accepts.
#[derive(Debug)]
pub struct Word {
    /// The spelling that the configuration keeps.
    pub name: &'static str,
    /// Other accepted spellings, in lower case.
    pub aliases: &'static [&'static str],
    /// Whether this version can do it.
    pub available: bool,
}

/// An enum of words, by `#[derive(Words)]`.
pub trait Words: Copy + 'static {
    /// Every word: those of the variants in their order, then the ones that this version does not have.
    const WORDS: &'static [Word];
    /// The variants.
    const VARIANTS: &'static [Self];
}

/// A text that is none of the words it could be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not known; known are {known}")]
pub struct UnknownWord {
    /// As it was written.
    pub found: String,
    /// The known words, with commas between them.
    pub known: String,
}

/// The word with this spelling, in any case.
pub(crate) fn find(words: &'static [Word], text: &str) -> Option<&'static Word> {
    let text = text.to_lowercase();
    words.iter().find(|word| word.name == text || word.aliases.contains(&text.as_str()))
}

/// The names of the words that this version can do.
pub(crate) fn available(words: &'static [Word]) -> Vec<&'static str> {
    words.iter().filter(|word| word.available).map(|word| word.name).collect()
}

/// The variant that `text` spells, by name or alias and in any case.
pub(crate) fn parse<W: Words>(text: &str) -> Result<W, UnknownWord> {
    let index = find(W::WORDS, text).and_then(|found| W::WORDS.iter().position(|word| std::ptr::eq(word, found)));
    let unknown = || UnknownWord { found: text.to_owned(), known: available(W::WORDS).join(", ") };
    index.and_then(|index| W::VARIANTS.get(index)).copied().ok_or_else(unknown)
}

/// `true` and `false` are flags in files, every other word is text.
pub(crate) fn serialize<S: Serializer>(name: &str, serializer: S) -> Result<S::Ok, S::Error> {
    match name {
        "true" | "false" => serializer.serialize_bool(name == "true"),
        name => serializer.serialize_str(name),
    }
}

pub(crate) fn deserialize<'de, W: Words, D: Deserializer<'de>>(deserializer: D) -> Result<W, D::Error> {
    struct OneOf<W>(PhantomData<W>);
    impl<W: Words> Visitor<'_> for OneOf<W> {
        type Value = W;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "one of {}", available(W::WORDS).join(", "))
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<W, E> {
            parse(text).map_err(E::custom)
        }

        fn visit_bool<E: serde::de::Error>(self, on: bool) -> Result<W, E> {
            self.visit_str(if on { "true" } else { "false" })
        }
    }
    deserializer.deserialize_any(OneOf(PhantomData))
}

#[cfg(test)]
mod tests {
    use crate::{DtypeName, InitMethod, Precision, Words};

    /// Every variant of an enum is read as it is written, and by each of its aliases.
    fn goes_around<W: Words + PartialEq + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned>() {
        for (variant, word) in W::VARIANTS.iter().zip(W::WORDS) {
            let text = serde_json::to_string(variant).unwrap();
            assert_eq!(serde_json::from_str::<W>(&text).unwrap(), *variant, "{text}");
            for spelling in word.aliases.iter().chain([&word.name]) {
                assert_eq!(super::parse::<W>(&spelling.to_uppercase()).as_ref(), Ok(variant), "{spelling}");
            }
        }
    }

    #[test]
    fn every_word_is_read_as_it_is_written() {
        goes_around::<InitMethod>();
        goes_around::<Precision>();
        goes_around::<DtypeName>();
        assert_eq!(serde_json::to_string(&InitMethod::Kaiming).unwrap(), "true");
        let message = serde_json::from_str::<InitMethod>("\"eva\"").unwrap_err().to_string();
        assert!(message.contains("`eva` is not known; known are true, false, gaussian"), "{message}");
    }
}

//! Derives for `tracknet-config`, so that a key is written once: its struct field with documentation, default and bounds
//! is all that the checks, the error messages, the reference and serde need.
//!
//! The generated code names `crate::…` and is meant for `tracknet-config` alone.

mod arguments;
mod section;
mod words;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Implements `Section` (the keys of a struct) and `Default` for a struct with named fields.
///
/// The documentation of a field is that of its key, and required. `#[config(…)]` on a field takes
///
/// | argument | meaning |
/// |---|---|
/// | `section` | the field is a section of its own, not a key |
/// | `default = …` | default value; without it, that of the type |
/// | `range = …` or `one_of = …` | the numbers that are accepted, in lists those of each element |
/// | `min_len = n` | fewest elements of a list |
/// | `one_or_many` | a single element stands for a list of one |
/// | `null_is_default` | null is accepted and means the default |
/// | `kind = …` | a `Kind` in place of that of the field's type |
/// | `status = …` | a `Status` in place of `Status::Working` |
///
/// and on the struct
///
/// | argument | meaning |
/// |---|---|
/// | `fieldless = f` | `f() -> Vec<Key>` gives keys that have no field, their paths relative to the section |
/// | `derived` | the program sets every field: the keys are `Status::Derived`, and there is no `Default` |
#[proc_macro_derive(Section, attributes(config))]
pub fn derive_section(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    section::expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

/// Implements `Words` for an enum of words, with what follows from them: a `const fn name`, `Display`, `FromStr`,
/// `Serialize` and `Deserialize`.
///
/// A variant is spelled in snake case, or as `#[word(name = "…")]` says; `#[word(aliases = ["…"])]` gives other accepted
/// spellings, in lower case. `#[word(unavailable = ["…"])]` on the enum names words that are known and refused.
#[proc_macro_derive(Words, attributes(word))]
pub fn derive_words(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    words::expand(&input).unwrap_or_else(|error| error.to_compile_error()).into()
}

//! The arguments of an attribute: names, alone or with a value.

use syn::{Attribute, Expr, ExprArray, Result, Token};

/// What `#[config(…)]` or `#[word(…)]` says.
pub(crate) struct Arguments(Vec<(String, Option<Expr>)>);

impl Arguments {
    /// Reads every `#[attribute(…)]` of an item; a name that is none of `known` is an error at its place.
    pub(crate) fn read(attributes: &[Attribute], attribute: &str, known: &[&str]) -> Result<Self> {
        let mut arguments = Vec::new();
        for found in attributes.iter().filter(|a| a.path().is_ident(attribute)) {
            found.parse_nested_meta(|meta| {
                let name = meta.path.require_ident()?.to_string();
                if !known.contains(&name.as_str()) {
                    return Err(meta.error(format!("expected one of {}", known.join(", "))));
                }
                let value = if meta.input.peek(Token![=]) { Some(meta.value()?.parse()?) } else { None };
                arguments.push((name, value));
                Ok(())
            })?;
        }
        Ok(Self(arguments))
    }

    /// Whether an argument is there.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The value of an argument.
    pub(crate) fn value(&self, name: &str) -> Option<&Expr> {
        self.0.iter().find(|(known, _)| known == name)?.1.as_ref()
    }

    /// The elements of an argument that is an array.
    pub(crate) fn elements(&self, name: &str) -> impl Iterator<Item = &Expr> {
        let array = self.value(name).and_then(|value| if let Expr::Array(array) = value { Some(array) } else { None });
        array.into_iter().flat_map(|ExprArray { elems, .. }| elems)
    }
}

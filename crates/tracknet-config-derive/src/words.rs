//! `#[derive(Words)]`: from the variants of an enum to words and their spellings.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Error, Fields, Ident, Result};

use crate::arguments::Arguments;

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Enum(data) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "words are the variants of an enum"));
    };
    let of_enum = Arguments::read(&input.attrs, "word", &["unavailable"])?;
    let unavailable = of_enum.elements("unavailable");
    let (mut variants, mut names, mut aliases) = (Vec::new(), Vec::new(), Vec::new());
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            return Err(Error::new_spanned(variant, "a word has no fields"));
        }
        let arguments = Arguments::read(&variant.attrs, "word", &["name", "aliases"])?;
        let spelled = snake_case(&variant.ident);
        variants.push(&variant.ident);
        names.push(arguments.value("name").map_or_else(|| quote! { #spelled }, |name| quote! { #name }));
        aliases.push(arguments.elements("aliases").cloned().collect::<Vec<_>>());
    }
    let ty = &input.ident;
    let traits = forwarding_impls(ty);
    Ok(quote! {
        impl crate::Words for #ty {
            const WORDS: &'static [crate::Word] = &[
                #(crate::Word { name: #names, aliases: &[#(#aliases),*], available: true },)*
                #(crate::Word { name: #unavailable, aliases: &[], available: false },)*
            ];
            const VARIANTS: &'static [Self] = &[#(Self::#variants),*];
        }
        impl #ty {
            /// The word, as files spell it.
            pub const fn name(self) -> &'static str {
                match self {
                    #(Self::#variants => #names),*
                }
            }
        }
        #traits
    })
}

/// The foreign traits that every enum of words has.
fn forwarding_impls(ty: &Ident) -> TokenStream {
    quote! {
        impl ::core::fmt::Display for #ty {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                f.pad(self.name())
            }
        }
        impl ::core::str::FromStr for #ty {
            type Err = crate::UnknownWord;

            fn from_str(text: &str) -> ::core::result::Result<Self, Self::Err> {
                crate::words::parse(text)
            }
        }
        impl ::serde::Serialize for #ty {
            fn serialize<S: ::serde::Serializer>(&self, serializer: S) -> ::core::result::Result<S::Ok, S::Error> {
                crate::words::serialize(self.name(), serializer)
            }
        }
        impl<'de> ::serde::Deserialize<'de> for #ty {
            fn deserialize<D: ::serde::Deserializer<'de>>(deserializer: D) -> ::core::result::Result<Self, D::Error> {
                crate::words::deserialize(deserializer)
            }
        }
    }
}

fn snake_case(ident: &Ident) -> String {
    let mut name = String::new();
    for c in ident.to_string().chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    name
}

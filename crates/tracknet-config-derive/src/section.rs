//! `#[derive(Section)]`: from the fields of a struct to its keys and its defaults.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Attribute, Data, DataStruct, DeriveInput, Error, Expr, ExprLit, Fields, Lit, Result};

use crate::arguments::Arguments;

const OF_STRUCTS: [&str; 2] = ["fieldless", "derived"];
const OF_FIELDS: [&str; 9] =
    ["section", "default", "range", "one_of", "min_len", "one_or_many", "null_is_default", "kind", "status"];

pub(crate) fn expand(input: &DeriveInput) -> Result<TokenStream> {
    let Data::Struct(DataStruct { fields: Fields::Named(fields), .. }) = &input.data else {
        return Err(Error::new_spanned(&input.ident, "a section is a struct with named fields"));
    };
    let of_struct = Arguments::read(&input.attrs, "config", &OF_STRUCTS)?;
    let derived = of_struct.has("derived");
    let (mut keys, mut defaults) = (Vec::new(), Vec::new());
    for field in &fields.named {
        let arguments = Arguments::read(&field.attrs, "config", &OF_FIELDS)?;
        keys.push(keys_of(field, &arguments, derived)?);
        defaults.push(default_of(field, &arguments));
    }
    let fieldless = of_struct.value("fieldless").map(|function| {
        quote! { keys.extend(#function().into_iter().map(|key| key.below(path))); }
    });
    let name = &input.ident;
    let default = (!derived).then(|| {
        quote! {
            impl ::core::default::Default for #name {
                fn default() -> Self {
                    Self { #(#defaults),* }
                }
            }
        }
    });
    Ok(quote! {
        impl crate::Section for #name {
            fn keys(path: &str, keys: &mut ::std::vec::Vec<crate::Key>) {
                #(#keys)*
                #fieldless
            }
        }
        #default
    })
}

/// The statement that adds the key of a field, or the keys of its section.
fn keys_of(field: &syn::Field, arguments: &Arguments, derived: bool) -> Result<TokenStream> {
    let (ty, name) = (&field.ty, field.ident.as_ref().map(ToString::to_string));
    if arguments.has("section") {
        return Ok(quote! { <#ty as crate::Section>::keys(&crate::yaml::join(path, #name), keys); });
    }
    let doc = documentation(&field.attrs);
    if doc.is_empty() {
        return Err(Error::new_spanned(field, "the documentation of a field is that of its key; it has none"));
    }
    let kind = kind_of(field, arguments);
    let status = match arguments.value("status") {
        Some(status) => quote! { #status },
        None if derived => quote! { crate::Status::Derived },
        None => quote! { crate::Status::Working },
    };
    Ok(quote! {
        keys.push(crate::Key { path: crate::yaml::join(path, #name), kind: #kind, status: #status, doc: #doc });
    })
}

fn kind_of(field: &syn::Field, arguments: &Arguments) -> TokenStream {
    if let Some(kind) = arguments.value("kind") {
        return quote! { #kind };
    }
    let limits = match arguments.value("range").or_else(|| arguments.value("one_of")) {
        Some(limits) => quote! { ::core::convert::From::from(#limits) },
        None => quote! { ::core::default::Default::default() },
    };
    let min_len = arguments.value("min_len").map(|n| quote! { .at_least(#n) });
    let one_or_many = arguments.has("one_or_many").then(|| quote! { .one_or_many() });
    let null_is_default = arguments.has("null_is_default").then(|| quote! { .null_is_default() });
    let ty = &field.ty;
    quote! { <#ty as crate::Setting>::kind(#limits) #min_len #one_or_many #null_is_default }
}

/// `field: value` of the default struct.
fn default_of(field: &syn::Field, arguments: &Arguments) -> TokenStream {
    let name = &field.ident;
    match arguments.value("default") {
        // Text for a `String` or a `PathBuf`.
        Some(text @ Expr::Lit(ExprLit { lit: Lit::Str(_), .. })) => {
            quote! { #name: ::core::convert::Into::into(#text) }
        }
        Some(value) => quote! { #name: #value },
        None => quote! { #name: ::core::default::Default::default() },
    }
}

/// The lines of a doc comment as one text.
fn documentation(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter(|a| a.path().is_ident("doc")).filter_map(|attribute| {
        match &attribute.meta.require_name_value().ok()?.value {
            Expr::Lit(ExprLit { lit: Lit::Str(line), .. }) => Some(line.value().trim().to_owned()),
            _ => None,
        }
    });
    lines.collect::<Vec<_>>().join(" ")
}

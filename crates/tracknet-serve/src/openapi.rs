//! The document that describes the paths, in OpenAPI 3.1 (<https://spec.openapis.org/oas/v3.1.0>).

use serde_json::{Value, json};

use crate::options::Options;

/// The document, without what depends on a server's flags.
const DOCUMENT: &str = include_str!("openapi.json");

/// The document of a server with these options.
///
/// # Errors
/// None that a caller can cause.
pub(crate) fn document(options: &Options) -> serde_json::Result<Value> {
    let mut document: Value = serde_json::from_str(DOCUMENT)?;
    document["info"]["version"] = json!(env!("CARGO_PKG_VERSION"));
    if options.token.is_some() {
        document["components"]["securitySchemes"] = json!({ "token": { "type": "http", "scheme": "bearer" } });
        document["security"] = json!([{ "token": [] }]);
        document["paths"]["/healthz"]["get"]["security"] = json!([]);
    }
    Ok(document)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_path_and_method_of_the_server_is_described_and_no_other() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let described = document["paths"].as_object().unwrap().iter().flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods.map(move |method| format!("{method} {path}")).collect::<Vec<_>>()
        });
        let expected = [
            "get /healthz",
            "get /metrics",
            "get /openapi.json",
            "get /v1/models",
            "post /v1/predict",
            "post /v1/predict/video",
            "get /v1/adapters",
            "put /v1/adapters/{name}",
            "delete /v1/adapters/{name}",
        ];
        assert_eq!(described.collect::<BTreeSet<_>>(), expected.map(str::to_owned).into());
    }

    #[test]
    fn every_reference_leads_to_something() {
        let document: Value = serde_json::from_str(DOCUMENT).unwrap();
        let mut open = vec![&document];
        let mut references = 0;
        while let Some(value) = open.pop() {
            match value {
                Value::Array(values) => open.extend(values),
                Value::Object(values) => {
                    if let Some(reference) = values.get("$ref").and_then(Value::as_str) {
                        references += 1;
                        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                    }
                    open.extend(values.values());
                }
                _ => {}
            }
        }
        assert!(references > 20, "{references}");
    }
}

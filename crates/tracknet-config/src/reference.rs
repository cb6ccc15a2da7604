//! The reference of the keys, from the same table that checks them: `docs/configuration.md` and `config explain`.

use super::emit;
use super::key::{self, Key, Status, known_keys};
use super::structs::defaults_tree;

/// The Markdown table of one group (`data`, `model` or `training`): every working key, its default, what it takes, its
/// meaning.
pub fn markdown_table(group: &str) -> String {
    let mut out = String::from("| key | default | takes | meaning |\n|---|---|---|---|\n");
    let prefix = format!("{group}.");
    for key in known_keys().iter().filter(|key| key.status == Status::Working) {
        if let (Some(name), Some(default)) = (key.path.strip_prefix(&prefix), default_of(&key.path)) {
            let range = key.kind.describe();
            out.push_str(&format!("| `{name}` | `{default}` | {} | {} |\n", range, key.doc));
        }
    }
    out
}

/// One key in a few lines, or every key of a section, for the command line.
///
/// # Errors
/// There is no such key; names the nearest.
pub fn explain(path: &str) -> Result<String, String> {
    let keys: Vec<&Key> = match key::find(path) {
        Some(key) => vec![key],
        None if key::is_section(path) => {
            known_keys().iter().filter(|key| key::below(&key.path, path).is_some()).collect()
        }
        None => {
            let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
            return Err(format!("unknown key {path}; {}", key::suggestion(section, name)));
        }
    };
    Ok(keys.into_iter().map(explain_key).collect::<Vec<_>>().join("\n"))
}

fn explain_key(key: &Key) -> String {
    let path = &key.path;
    let default = default_of(path).unwrap_or_else(|| "not set".to_owned());
    let text = match &key.status {
        Status::Working => key.doc.to_owned(),
        Status::Ignored(why) => format!("Accepted and ignored: {why}."),
        Status::Unavailable => "Not available in this version of tracknet; only null or false is accepted.".to_owned(),
        Status::Derived => "Derived by the program.".to_owned(),
    };
    format!("{path}\n  {text}\n  default: {default}\n  expected: {}\n", key.kind.describe())
}

fn default_of(path: &str) -> Option<String> {
    Some(emit::flow(&defaults_tree().ok()?.get(path)?.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_holds_the_table_of_every_group() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let docs = std::fs::read_to_string(path).unwrap();
        for group in ["data", "model", "training"] {
            let table = markdown_table(group);
            assert!(docs.contains(&table), "docs/configuration.md lacks this table:\n\n{table}");
        }
    }

    #[test]
    fn a_key_is_explained_with_its_default_and_what_it_takes() {
        let text = explain("model.lora.r").unwrap();
        assert_eq!(
            text,
            "model.lora.r\n  Rank of the two thin matrices.\n  default: 16\n  expected: a whole number from 1 to 65536\n"
        );
        assert!(explain("model.lora.lora_bias").unwrap().contains("Not available"));
        let section = explain("model.lora.loftq_config").unwrap();
        assert!(section.starts_with("model.lora.loftq_config.") && !section.contains("model.lora.r\n"), "{section}");
        assert_eq!(explain("model.lora.rr").unwrap_err(), "unknown key model.lora.rr; did you mean r?");
    }
}

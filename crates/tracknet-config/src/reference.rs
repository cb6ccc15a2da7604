//! The reference of the keys, from the same table that checks them: `docs/configuration.md` and `config explain`.

use super::emit;
use super::key::{self, Status, known_keys};
use super::load::defaults_tree;

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

/// One key in a few lines, for the command line; `None` when there is no such key.
pub fn explain(path: &str) -> Option<String> {
    let key = key::find(path)?;
    let default = default_of(path).unwrap_or_else(|| "not set".to_owned());
    let text = match &key.status {
        Status::Working => key.doc.to_owned(),
        Status::Ignored(why) => format!("Accepted and ignored: {why}."),
        Status::Unavailable(neutral) => {
            format!("Not available in this version of tracknet; only {} is accepted.", neutral.describe())
        }
        Status::Derived => "Derived by the program.".to_owned(),
    };
    Some(format!("{path}\n  {text}\n  default: {default}\n  expected: {}\n", key.kind.describe()))
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
        assert_eq!(explain("model.lora"), None);
    }
}

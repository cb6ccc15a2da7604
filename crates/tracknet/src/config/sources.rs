//! Where the file of a group comes from: a path, a configs folder, or the configs built into the binary.

use std::path::{Path, PathBuf};

use super::error::Problem;

/// The folder of configs that is looked in when neither `--config-dir` nor this variable names one.
pub const CONFIG_DIR_VARIABLE: &str = "TRACKNET_CONFIG_DIR";

macro_rules! embedded {
    ($($group:literal / $name:literal),+ $(,)?) => {
        &[$(Embedded {
            group: $group,
            name: $name,
            text: include_str!(concat!("../../../../configs/", $group, "/", $name, ".yaml")),
        }),+]
    };
}

/// A config that travels in the binary, so that an installed binary works in any directory.
#[derive(Debug, Clone, Copy)]
pub struct Embedded {
    /// `data`, `model` or `training`.
    pub group: &'static str,
    /// Name without `.yaml`.
    pub name: &'static str,
    /// The file.
    pub text: &'static str,
}

/// Every config of the binary.
pub const EMBEDDED: &[Embedded] = embedded![
    "data" / "tracknet",
    "data" / "quickstart",
    "data" / "pretrain",
    "model" / "vit_heatmap",
    "model" / "vit_lora_heatmap",
    "model" / "vit_qlora_heatmap",
    "model" / "quickstart",
    "model" / "pretrain",
    "training" / "default",
    "training" / "quickstart",
    "training" / "pretrain",
];

/// The name that stands in for a group that is not given.
pub(crate) fn default_name(group: &str) -> &'static str {
    match group {
        "data" => "tracknet",
        "model" => "vit_heatmap",
        _ => "default",
    }
}

/// A file as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The path as messages name it.
    pub(crate) label: String,
    pub(crate) text: String,
}

/// The configs folders to look in, nearest first.
pub(crate) fn config_dirs(flag: Option<&Path>, variable: Option<String>, working: &Path) -> Vec<PathBuf> {
    let named = variable.filter(|v| !v.is_empty()).map(PathBuf::from);
    flag.map(Path::to_path_buf).into_iter().chain(named).chain([working.join("configs")]).collect()
}

/// Finds the file of `group` by name or path.
pub(crate) fn find(group: &str, name_or_path: &str, dirs: &[PathBuf]) -> Result<Found, Problem> {
    if is_path(name_or_path) {
        return read(Path::new(name_or_path)).map_err(|message| Problem {
            source: name_or_path.to_owned(),
            line: None,
            key: group.to_owned(),
            message,
        });
    }
    for dir in dirs {
        for extension in ["yaml", "yml"] {
            let path = dir.join(group).join(format!("{name_or_path}.{extension}"));
            if path.is_file() {
                let label = path.strip_prefix(".").unwrap_or(&path).display().to_string();
                return read(&path).map_err(|message| Problem {
                    source: label,
                    line: None,
                    key: group.into(),
                    message,
                });
            }
        }
    }
    match EMBEDDED.iter().find(|e| e.group == group && e.name == name_or_path) {
        Some(e) => Ok(Found { label: format!("configs/{group}/{}.yaml (built in)", e.name), text: e.text.into() }),
        None => {
            let message = not_found(group, name_or_path, dirs);
            Err(Problem { source: format!("--{group}"), line: None, key: group.into(), message })
        }
    }
}

fn not_found(group: &str, name: &str, dirs: &[PathBuf]) -> String {
    let known = known_names(group, dirs);
    let near = known.iter().map(|k| (strsim::damerau_levenshtein(name, k), k)).min();
    let hint = match near {
        Some((distance, near)) if distance <= (near.len() / 3).max(1) => format!("; did you mean {near}?"),
        _ => ".".to_owned(),
    };
    let looked: Vec<_> = dirs.iter().map(|d| shown(d).join(group).display().to_string()).collect();
    format!(
        "no {group} config is named {name}{hint} Known: {}. Looked in {}, and in the binary. A path to a file works, too",
        known.join(", "),
        looked.join(", ")
    )
}

/// Paths below the working directory are shown as they are typed.
fn shown(path: &Path) -> &Path {
    path.strip_prefix(".").unwrap_or(path)
}

/// Every name that `--data`, `--model` or `--training` would find, sorted.
pub(crate) fn known_names(group: &str, dirs: &[PathBuf]) -> Vec<String> {
    let mut names: Vec<String> = EMBEDDED.iter().filter(|e| e.group == group).map(|e| e.name.to_owned()).collect();
    for dir in dirs {
        let Ok(files) = std::fs::read_dir(dir.join(group)) else { continue };
        for path in files.flatten().map(|f| f.path()) {
            let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
            if let (true, Some(stem)) = (yaml, path.file_stem()) {
                names.push(stem.to_string_lossy().into_owned());
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

fn is_path(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    text.contains(['/', std::path::MAIN_SEPARATOR]) || lower.ends_with(".yaml") || lower.ends_with(".yml")
}

pub(crate) fn read(path: &Path) -> Result<Found, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot be read: {e}"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes().iter().take(valid).filter(|b| **b == b'\n').count();
        format!("line {line} is not UTF-8 text; save the file as UTF-8")
    })?;
    Ok(Found { label: shown(path).display().to_string(), text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_in_the_folders_in_order_and_then_in_the_binary() {
        let dir = tempfile::tempdir().unwrap();
        let (near, far) = (dir.path().join("near"), dir.path().join("far"));
        for (root, name) in [(&near, "a"), (&far, "a"), (&far, "b")] {
            std::fs::create_dir_all(root.join("model")).unwrap();
            std::fs::write(root.join(format!("model/{name}.yaml")), format!("# {}", root.display())).unwrap();
        }
        let dirs = config_dirs(Some(&near), Some(far.display().to_string()), dir.path());
        assert_eq!(find("model", "a", &dirs).unwrap().text, format!("# {}", near.display()));
        assert_eq!(find("model", "b", &dirs).unwrap().text, format!("# {}", far.display()));
        assert_eq!(find("model", "vit_heatmap", &dirs).unwrap().label, "configs/model/vit_heatmap.yaml (built in)");
    }

    #[test]
    fn an_unknown_name_lists_the_known_ones_and_where_was_looked() {
        let problem = find("training", "defualt", &[PathBuf::from("configs")]).unwrap_err();
        assert_eq!(
            problem.to_string(),
            "--training: no training config is named defualt; did you mean default? Known: default, pretrain, quickstart. \
             Looked in configs/training, and in the binary. A path to a file works, too"
        );
        let problem = find("training", "zzzzzzzzzzz", &[PathBuf::from("configs")]).unwrap_err();
        assert!(problem.message.starts_with("no training config is named zzzzzzzzzzz. Known: default"), "{problem}");
    }

    #[test]
    fn a_path_that_is_missing_or_not_text_is_named() {
        assert!(find("data", "none/x.yaml", &[]).unwrap_err().to_string().starts_with("none/x.yaml: cannot be read"));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.yml");
        std::fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
        let problem = find("data", &path.display().to_string(), &[]).unwrap_err();
        assert!(problem.message.starts_with("line 2 is not UTF-8"), "{problem}");
    }

    #[test]
    fn every_shipped_config_is_in_the_binary() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
        for group in ["data", "model", "training"] {
            for file in std::fs::read_dir(root.join(group)).unwrap() {
                let name = file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
                assert!(EMBEDDED.iter().any(|e| e.group == group && e.name == name), "{group}/{name}");
            }
        }
    }
}

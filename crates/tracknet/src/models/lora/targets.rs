//! Which projections `target_modules` means, by the rules of PEFT plus the short names every flavour understands.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::config::TargetModules;
use crate::models::ModelError;
use crate::models::projection::Role;

/// A projection that could be adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The path below the backbone.
    pub path: String,
    /// What it does in its block.
    pub role: Role,
}

/// The outcome of matching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Paths that are adapted, in the order of the model.
    pub paths: Vec<String>,
    /// Translations of short names, and entries that matched nothing.
    pub notes: Vec<String>,
}

/// Chooses from the candidates. `prefix` is what PEFT puts before the paths of this model; targets may be written
/// with it or without.
///
/// # Errors
/// Nothing matches, or a pattern is not a regular expression.
pub fn select(
    targets: Option<&TargetModules>,
    candidates: &[Candidate],
    prefix: &str,
) -> Result<Selection, ModelError> {
    let selection = match targets {
        None => everything(candidates),
        Some(TargetModules::Pattern(pattern)) if pattern == "all-linear" => everything(candidates),
        Some(TargetModules::Pattern(pattern)) => by_pattern(pattern, candidates, prefix)?,
        Some(TargetModules::List(list)) => by_list(list, candidates, prefix),
    };
    if selection.paths.is_empty() {
        return Err(ModelError::NoTarget { requested: describe(targets), existing: condense(candidates) });
    }
    Ok(selection)
}

fn everything(candidates: &[Candidate]) -> Selection {
    Selection { paths: candidates.iter().map(|c| c.path.clone()).collect(), notes: Vec::new() }
}

fn by_pattern(pattern: &str, candidates: &[Candidate], prefix: &str) -> Result<Selection, ModelError> {
    let regex = Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|e| ModelError::key("lora.target_modules", format!("`{pattern}` is not a regular expression: {e}")))?;
    let matches = |c: &&Candidate| regex.is_match(&c.path) || regex.is_match(&format!("{prefix}{}", c.path));
    let paths = candidates.iter().filter(matches).map(|c| c.path.clone()).collect();
    Ok(Selection { paths, notes: Vec::new() })
}

fn by_list(list: &[String], candidates: &[Candidate], prefix: &str) -> Selection {
    let mut chosen = BTreeSet::new();
    let mut notes = Vec::new();
    for entry in list {
        let mut matched = false;
        let mut translated = BTreeSet::new();
        for (i, candidate) in candidates.iter().enumerate() {
            let named = is_named(&candidate.path, entry) || is_named(&format!("{prefix}{}", candidate.path), entry);
            if named || is_short_name(entry, candidate.role) {
                matched = true;
                chosen.insert(i);
                if !named {
                    translated.insert(last(&candidate.path));
                }
            }
        }
        if !matched {
            notes.push(format!("lora.target_modules: `{entry}` matches nothing{}", suggestion(entry, candidates)));
        } else if !translated.is_empty() {
            let names = translated.into_iter().collect::<Vec<_>>().join(", ");
            notes.push(format!("lora.target_modules: `{entry}` means {names} in this model"));
        }
    }
    Selection { paths: chosen.into_iter().map(|i| candidates[i].path.clone()).collect(), notes }
}

/// The whole path, or the end of it from a `.` on.
fn is_named(path: &str, entry: &str) -> bool {
    path == entry || path.strip_suffix(entry).is_some_and(|head| head.ends_with('.'))
}

fn is_short_name(entry: &str, role: Role) -> bool {
    matches!(
        (entry, role),
        ("query", Role::Query) | ("key", Role::Key) | ("value", Role::Value) | ("dense", Role::Output | Role::Mlp)
    )
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn suggestion(entry: &str, candidates: &[Candidate]) -> String {
    let names: BTreeSet<&str> = candidates.iter().flat_map(|c| [last(&c.path), c.path.as_str()]).collect();
    let nearest = names.into_iter().max_by(|a, b| {
        strsim::jaro_winkler(a, entry).total_cmp(&strsim::jaro_winkler(b, entry)).then_with(|| b.len().cmp(&a.len()))
    });
    nearest.map(|name| format!("; the nearest name is `{name}`")).unwrap_or_default()
}

fn describe(targets: Option<&TargetModules>) -> String {
    match targets {
        None => "auto".to_owned(),
        Some(TargetModules::Pattern(pattern)) => format!("`{pattern}`"),
        Some(TargetModules::List(list)) => format!("[{}]", list.join(", ")),
    }
}

/// Module names with their layer index replaced, such as `layer.*.attention.q_proj (12)`.
pub fn condense(candidates: &[Candidate]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for candidate in candidates {
        let is_index = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = candidate.path.split('.').map(|p| if is_index(p) { "*" } else { p }).collect();
        *counts.entry(parts.join(".")).or_default() += 1;
    }
    if counts.is_empty() {
        return "none".to_owned();
    }
    counts.into_iter().map(|(name, count)| format!("{name} ({count})")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(names: [&str; 6]) -> Vec<Candidate> {
        let roles = [Role::Query, Role::Key, Role::Value, Role::Output, Role::Mlp, Role::Mlp];
        (0..2)
            .flat_map(|i| {
                names.iter().zip(roles).map(move |(n, role)| Candidate { path: format!("layer.{i}.{n}"), role })
            })
            .collect()
    }

    fn dinov3() -> Vec<Candidate> {
        candidates([
            "attention.q_proj",
            "attention.k_proj",
            "attention.v_proj",
            "attention.o_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ])
    }

    fn list(entries: &[&str]) -> Option<TargetModules> {
        Some(TargetModules::List(entries.iter().map(|e| (*e).to_owned()).collect()))
    }

    #[test]
    fn auto_and_all_linear_take_every_projection() {
        assert_eq!(select(None, &dinov3(), "").unwrap().paths.len(), 12);
        let all = TargetModules::Pattern("all-linear".to_owned());
        assert_eq!(select(Some(&all), &dinov3(), "").unwrap().paths.len(), 12);
    }

    #[test]
    fn a_list_matches_whole_paths_and_dotted_suffixes_only() {
        let chosen = select(list(&["q_proj", "layer.1.mlp.up_proj", "proj"]).as_ref(), &dinov3(), "").unwrap();
        assert_eq!(chosen.paths, ["layer.0.attention.q_proj", "layer.1.attention.q_proj", "layer.1.mlp.up_proj"]);
        assert_eq!(chosen.notes.len(), 1);
        assert!(chosen.notes[0].contains("`proj` matches nothing"), "{:?}", chosen.notes);
    }

    #[test]
    fn the_short_names_of_the_design_mean_the_same_on_every_flavour() {
        let short = list(&["query", "key", "value", "dense"]);
        let chosen = select(short.as_ref(), &dinov3(), "").unwrap();
        assert_eq!(chosen.paths.len(), 12);
        assert_eq!(chosen.notes.len(), 4, "each translation is reported once: {:?}", chosen.notes);
        let dinov2 = candidates([
            "attention.attention.query",
            "attention.attention.key",
            "attention.attention.value",
            "attention.output.dense",
            "mlp.fc1",
            "mlp.fc2",
        ]);
        let chosen = select(short.as_ref(), &dinov2, "").unwrap();
        assert_eq!(chosen.paths.len(), 12);
        assert_eq!(chosen.notes, ["lora.target_modules: `dense` means fc1, fc2 in this model"]);
    }

    #[test]
    fn a_pattern_must_match_the_full_path_with_or_without_the_prefix_of_peft() {
        let pattern = |p: &str| Some(TargetModules::Pattern(p.to_owned()));
        assert!(select(pattern("q_proj").as_ref(), &dinov3(), "model.").is_err());
        for p in [r".*layer\.\d+\.attention\.(q|v)_proj", r"model\.layer\.\d+\.attention\.[qv]_proj"] {
            assert_eq!(select(pattern(p).as_ref(), &dinov3(), "model.").unwrap().paths.len(), 4, "{p}");
        }
        assert!(select(pattern("(").as_ref(), &dinov3(), "").unwrap_err().to_string().contains("regular expression"));
    }

    #[test]
    fn no_match_lists_what_exists_and_an_unmatched_entry_names_the_nearest() {
        let message = select(list(&["fc1"]).as_ref(), &dinov3(), "").unwrap_err().to_string();
        assert!(message.contains("[fc1]") && message.contains("layer.*.attention.q_proj (2)"), "{message}");
        let chosen = select(list(&["q_proj", "k_poj"]).as_ref(), &dinov3(), "").unwrap();
        assert!(chosen.notes[0].contains("`k_proj`"), "{:?}", chosen.notes);
    }
}

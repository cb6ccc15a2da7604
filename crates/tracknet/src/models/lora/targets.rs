//! Which projections `target_modules` means, by the rules of PEFT plus the short names every flavour understands.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use crate::config::{LoraConfig, TargetModules};
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

/// Chooses from the candidates by the `lora` section; `targets` stand in for its `target_modules`. `prefix` is what PEFT
/// puts before the paths of this model; names may be written with it or without.
///
/// # Errors
/// Nothing matches, or a pattern is not a regular expression.
pub fn select(
    targets: Option<&TargetModules>,
    config: &LoraConfig,
    candidates: &[Candidate],
    prefix: &str,
) -> Result<Selection, ModelError> {
    let open = Exclusion::new(config, prefix)?.filter(candidates);
    let mut selection = match targets {
        None => {
            let layers = Layers::new(config, prefix)?;
            let mut all = every_linear(&open);
            all.paths.retain(|path| layers.hold(path));
            all
        }
        Some(TargetModules::Pattern(pattern)) if pattern == "all-linear" => every_linear(&open),
        Some(TargetModules::Pattern(pattern)) => by_pattern(pattern, &open, prefix)?,
        Some(TargetModules::List(list)) => by_list(list, &open, &Layers::new(config, prefix)?, prefix),
    };
    if selection.paths.is_empty() {
        let mut requested = describe(targets);
        if open.len() < candidates.len() {
            requested += " without what exclude_modules and modules_to_save take out";
        }
        return Err(ModelError::NoTarget { requested, existing: condense(candidates) });
    }
    selection.notes.extend(config.modules_to_save.iter().flatten().filter_map(|entry| {
        let inside = candidates.iter().find(|c| spellings(&c.path, prefix).iter().any(|p| is_inside(p, entry)))?;
        Some(format!("lora.modules_to_save: {} is not adapted, it trains as a whole", inside.path))
    }));
    Ok(selection)
}

/// A path as it is below the backbone and as PEFT calls it.
pub(super) fn spellings(path: &str, prefix: &str) -> [String; 2] {
    [format!("{prefix}{path}"), path.to_owned()]
}

/// Whether the module at `path` is called `entry` or lies inside of a module that is.
pub(super) fn is_inside(path: &str, entry: &str) -> bool {
    format!(".{path}.").contains(&format!(".{entry}."))
}

/// `pattern` as a regular expression for a whole path.
pub(super) fn whole(key: &str, pattern: &str) -> Result<Regex, ModelError> {
    Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|e| ModelError::key(format!("lora.{key}"), format!("`{pattern}` is not a regular expression: {e}")))
}

/// What is never adapted.
struct Exclusion<'a> {
    pattern: Option<Regex>,
    names: &'a [String],
    saved: &'a [String],
    prefix: &'a str,
}

impl<'a> Exclusion<'a> {
    fn new(config: &'a LoraConfig, prefix: &'a str) -> Result<Self, ModelError> {
        let saved = config.modules_to_save.as_deref().unwrap_or_default();
        Ok(match &config.exclude_modules {
            None => Self { pattern: None, names: &[], saved, prefix },
            Some(TargetModules::List(names)) => Self { pattern: None, names, saved, prefix },
            Some(TargetModules::Pattern(pattern)) => {
                Self { pattern: Some(whole("exclude_modules", pattern)?), names: &[], saved, prefix }
            }
        })
    }

    fn filter(&self, candidates: &[Candidate]) -> Vec<Candidate> {
        let excluded = |path: &String| {
            self.pattern.as_ref().is_some_and(|p| p.is_match(path))
                || self.names.iter().any(|name| is_named(path, name))
                || self.saved.iter().any(|name| is_inside(path, name))
        };
        let short = |c: &&Candidate| self.names.iter().any(|name| is_short_name(name, c.role));
        let open = candidates.iter().filter(|c| !short(c) && !spellings(&c.path, self.prefix).iter().any(excluded));
        open.cloned().collect()
    }
}

/// `layers_to_transform`: the index of the layer that a path names, and which of them count.
struct Layers<'a> {
    indices: &'a [usize],
    patterns: Vec<Regex>,
    prefix: &'a str,
}

impl<'a> Layers<'a> {
    fn new(config: &'a LoraConfig, prefix: &'a str) -> Result<Self, ModelError> {
        let names = config.layers_pattern.as_deref().filter(|names| !names.is_empty());
        let pattern = |name: &str| {
            Regex::new(&format!(r"^(?:.*\.)?{name}\.(\d+)\.")).map_err(|e| {
                ModelError::key("lora.layers_pattern", format!("`{name}` is not a regular expression: {e}"))
            })
        };
        let patterns = match names {
            Some(names) => names.iter().map(|name| pattern(name)).collect::<Result<_, _>>()?,
            None => vec![pattern(r"[^.]*")?],
        };
        Ok(Self { indices: config.layers_to_transform.as_deref().unwrap_or_default(), patterns, prefix })
    }

    fn hold(&self, path: &str) -> bool {
        if self.indices.is_empty() {
            return true;
        }
        let path = format!("{}{path}", self.prefix);
        let found = self.patterns.iter().find_map(|p| p.captures(&path)).and_then(|c| c.get(1)?.as_str().parse().ok());
        found.is_some_and(|index: usize| self.indices.contains(&index))
    }
}

fn every_linear(candidates: &[Candidate]) -> Selection {
    let linear = candidates.iter().filter(|c| c.role != Role::Convolution);
    Selection { paths: linear.map(|c| c.path.clone()).collect(), notes: Vec::new() }
}

fn by_pattern(pattern: &str, candidates: &[Candidate], prefix: &str) -> Result<Selection, ModelError> {
    let regex = whole("target_modules", pattern)?;
    let matches = |c: &&Candidate| spellings(&c.path, prefix).iter().any(|path| regex.is_match(path));
    let paths = candidates.iter().filter(matches).map(|c| c.path.clone()).collect();
    Ok(Selection { paths, notes: Vec::new() })
}

fn by_list(list: &[String], candidates: &[Candidate], layers: &Layers<'_>, prefix: &str) -> Selection {
    let mut chosen = BTreeSet::new();
    let mut notes = Vec::new();
    for entry in list {
        let mut matched = false;
        let mut translated = BTreeSet::new();
        for (i, candidate) in candidates.iter().enumerate() {
            let spelled = spellings(&candidate.path, prefix);
            let exact = spelled.iter().any(|path| path == entry);
            let named = spelled.iter().any(|path| is_named(path, entry));
            let found = named || is_short_name(entry, candidate.role);
            matched |= found;
            // A whole path says its layer itself.
            if found && (exact || layers.hold(&candidate.path)) {
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

    fn select(
        targets: Option<&TargetModules>,
        candidates: &[Candidate],
        prefix: &str,
    ) -> Result<Selection, ModelError> {
        super::select(targets, &LoraConfig::default(), candidates, prefix)
    }

    fn selected(config: &LoraConfig) -> Vec<String> {
        super::select(config.target_modules.as_ref(), config, &dinov3(), "model.").unwrap().paths
    }

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

    #[test]
    fn excluded_modules_are_left_out_by_suffix_or_by_regex() {
        let exclude = list(&["k_proj", "model.layer.0.mlp.up_proj"]);
        let config = LoraConfig { exclude_modules: exclude, ..LoraConfig::default() };
        let paths = selected(&config);
        assert_eq!(paths.len(), 9);
        assert!(!paths.iter().any(|p| p.ends_with("k_proj") || p == "layer.0.mlp.up_proj"), "{paths:?}");
        let config = LoraConfig { exclude_modules: list(&["dense"]), ..LoraConfig::default() };
        assert_eq!(selected(&config).len(), 6, "short names mean the same as in target_modules");
        let exclude = Some(TargetModules::Pattern(r".*\.mlp\..*".to_owned()));
        assert_eq!(selected(&LoraConfig { exclude_modules: exclude, ..LoraConfig::default() }).len(), 8);
        let exclude = Some(TargetModules::Pattern(".*".to_owned()));
        let config = LoraConfig { exclude_modules: exclude, ..LoraConfig::default() };
        let message = super::super::targets::select(None, &config, &dinov3(), "").unwrap_err().to_string();
        assert!(message.contains("exclude_modules"), "{message}");
    }

    #[test]
    fn a_module_that_is_saved_as_a_whole_is_not_adapted() {
        let config = LoraConfig { modules_to_save: Some(vec!["layer.1.mlp".to_owned()]), ..LoraConfig::default() };
        let paths = selected(&config);
        assert_eq!(paths.len(), 10);
        assert!(!paths.iter().any(|p| p.starts_with("layer.1.mlp")), "{paths:?}");
    }

    #[test]
    fn layers_are_counted_for_names_and_not_for_whole_paths() {
        let target_modules = list(&["q_proj", "layer.0.mlp.up_proj"]);
        let config = LoraConfig { target_modules, layers_to_transform: Some(vec![1]), ..LoraConfig::default() };
        assert_eq!(selected(&config), ["layer.0.mlp.up_proj", "layer.1.attention.q_proj"]);
        let named = |name: &str| LoraConfig { layers_pattern: Some(vec![name.to_owned()]), ..config.clone() };
        assert_eq!(selected(&named("layer")).len(), 2);
        assert_eq!(selected(&named("blocks")), ["layer.0.mlp.up_proj"]);
        let auto = LoraConfig { layers_to_transform: Some(vec![1]), ..LoraConfig::default() };
        assert!(selected(&auto).iter().all(|p| p.starts_with("layer.1.")) && selected(&auto).len() == 6);
    }

    #[test]
    fn convolutions_are_adapted_only_when_they_are_named() {
        let mut all = dinov3();
        all.push(Candidate { path: "decoder.stages.0.proj".to_owned(), role: Role::Convolution });
        assert_eq!(select(None, &all, "").unwrap().paths.len(), 12);
        let targets = list(&["q_proj", "stages.0.proj"]);
        assert_eq!(select(targets.as_ref(), &all, "").unwrap().paths[2], "decoder.stages.0.proj");
    }
}

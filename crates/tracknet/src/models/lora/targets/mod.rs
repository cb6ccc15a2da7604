//! Which layers `target_modules` means, by the rules of PEFT plus the short names every flavour understands.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::config::{LoraConfig, PathPattern, TargetModules};
use crate::console::listing;
use crate::models::ModelError;
use crate::models::backbones::ModulePaths;

use super::layer::AdaptableLayer;
use super::ranks::{matches_any, of_key};

/// A layer that could be adapted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The path below the backbone, or the full name of a convolution of the decoder.
    pub path: String,
    /// The short name that its family of backbones gives it: `query`, `key`, `value` or `dense`.
    pub role: Option<&'static str>,
    /// Whether it is a linear layer; a convolution is adapted only when it is named.
    pub is_linear: bool,
}

impl Candidate {
    /// The `layer` at `path` of a model with these spellings of its paths.
    pub(crate) fn of(path: &str, layer: &dyn AdaptableLayer, paths: ModulePaths) -> Self {
        Self { path: path.to_owned(), role: paths.role(path), is_linear: layer.base().linear().is_some() }
    }
}

/// The outcome of matching.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Paths that are adapted, in the order of the model.
    pub paths: Vec<String>,
    /// Translations of short names, and entries that matched nothing.
    pub notes: Vec<String>,
}

/// Chooses from the candidates by the `lora` section; `targets` stand in for its `target_modules`. Names may be written
/// in any spelling of `paths`.
///
/// # Errors
/// Nothing matches, or a pattern is not a regular expression or takes too long to match.
pub fn select(
    targets: Option<&TargetModules>,
    config: &LoraConfig,
    candidates: &[Candidate],
    paths: ModulePaths,
) -> Result<Selection, ModelError> {
    let (exclusion, layers) = (Exclusion::new(config)?, Layers::new(config)?);
    let all: Vec<Spelled> =
        candidates.iter().map(|candidate| Spelled { candidate, all: paths.spellings(&candidate.path) }).collect();
    let open = kept(all.iter(), |c| Ok(!exclusion.excludes_any(c)?))?;
    let mut selection = match targets {
        None => every_linear(&kept(open.iter().copied(), |c| layers.hold(&c.all))?),
        Some(TargetModules::Pattern(pattern)) if is_all_linear(pattern) => every_linear(&open),
        Some(TargetModules::Pattern(pattern)) => by_pattern(pattern, &open)?,
        Some(TargetModules::List(list)) => by_list(list, &open, &layers, paths)?,
    };
    if selection.paths.is_empty() {
        let mut requested = describe(targets);
        if open.len() < candidates.len() {
            requested += " without what exclude_modules and modules_to_save take out";
        }
        return Err(ModelError::NoTarget { requested, existing: condense(candidates.iter().map(|c| c.path.as_str())) });
    }
    selection.notes.extend(config.modules_to_save.iter().flatten().filter_map(|entry| {
        let inside = all.iter().find(|c| c.all.iter().any(|path| is_saved(path, entry)))?;
        Some(format!("lora.modules_to_save: {} is not adapted, it trains as a whole", inside.path()))
    }));
    Ok(selection)
}

/// The candidates that a rule keeps.
fn kept<'a>(
    candidates: impl Iterator<Item = &'a Spelled<'a>>,
    keeps: impl Fn(&Spelled<'_>) -> Result<bool, ModelError>,
) -> Result<Vec<&'a Spelled<'a>>, ModelError> {
    let keep = |c: &'a Spelled<'a>| keeps(c).map(|keep| keep.then_some(c)).transpose();
    candidates.filter_map(keep).collect()
}

pub(crate) fn is_all_linear(pattern: &str) -> bool {
    pattern.eq_ignore_ascii_case("all-linear")
}

/// A candidate with every spelling of its path.
struct Spelled<'a> {
    candidate: &'a Candidate,
    all: Vec<String>,
}

impl Spelled<'_> {
    fn path(&self) -> &str {
        &self.candidate.path
    }

    fn has_role(&self, entry: &str) -> bool {
        self.candidate.role == Some(entry)
    }
}

/// Whether the module at `path`, or one that it lies in, is saved as a whole because of an `entry` of `modules_to_save`:
/// PEFT saves every module whose path ends with the entry.
pub(crate) fn is_saved(path: &str, entry: &str) -> bool {
    let ends = path.match_indices('.').map(|(i, _)| i).chain([path.len()]);
    !entry.is_empty() && ends.into_iter().any(|end| path[..end].ends_with(entry))
}

pub(crate) fn whole(key: &str, pattern: &str) -> Result<PathPattern, ModelError> {
    PathPattern::whole(pattern).map_err(of_key(key))
}

/// What is never adapted.
pub(crate) struct Exclusion<'a> {
    pattern: Option<PathPattern>,
    names: &'a [String],
    saved: &'a [String],
}

impl<'a> Exclusion<'a> {
    pub(crate) fn new(config: &'a LoraConfig) -> Result<Self, ModelError> {
        let saved = config.modules_to_save.as_deref().unwrap_or_default();
        Ok(match &config.exclude_modules {
            None => Self { pattern: None, names: &[], saved },
            Some(TargetModules::List(names)) => Self { pattern: None, names, saved },
            Some(TargetModules::Pattern(pattern)) => {
                Self { pattern: Some(whole("exclude_modules", pattern)?), names: &[], saved }
            }
        })
    }

    pub(crate) fn excludes(&self, path: &str) -> Result<bool, ModelError> {
        let matches = |pattern: &PathPattern| pattern.matches(path).map_err(of_key("exclude_modules"));
        Ok(self.pattern.as_ref().map_or(Ok(false), matches)?
            || self.names.iter().any(|name| is_named(path, name))
            || self.saved.iter().any(|name| is_saved(path, name)))
    }

    fn excludes_any(&self, candidate: &Spelled<'_>) -> Result<bool, ModelError> {
        if self.names.iter().any(|name| candidate.has_role(name)) {
            return Ok(true);
        }
        for path in &candidate.all {
            if self.excludes(path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// `layers_to_transform`: the index of the layer that a path names, and which of them count.
pub(crate) struct Layers<'a> {
    indices: &'a [usize],
    patterns: Vec<PathPattern>,
}

impl<'a> Layers<'a> {
    pub(crate) fn new(config: &'a LoraConfig) -> Result<Self, ModelError> {
        let names = config.layers_pattern.as_deref().filter(|names| !names.is_empty());
        let patterns = match names {
            Some(names) => names.iter().map(|name| PathPattern::before_index(name)).collect(),
            None => PathPattern::first_index().map(|pattern| vec![pattern]),
        };
        let patterns = patterns.map_err(of_key("layers_pattern"))?;
        Ok(Self { indices: config.layers_to_transform.as_deref().unwrap_or_default(), patterns })
    }

    /// Whether the layer with these spellings counts. Where a path holds several numbers, spellings can differ in which is
    /// the first: the path in memory, which stands first, decides, as in PEFT.
    fn hold(&self, spellings: &[String]) -> Result<bool, ModelError> {
        if self.indices.is_empty() {
            return Ok(true);
        }
        for path in spellings {
            if let Some(index) = self.index(path)? {
                return Ok(self.indices.contains(&index));
            }
        }
        Ok(false)
    }

    pub(crate) fn holds(&self, path: &str) -> Result<bool, ModelError> {
        Ok(self.indices.is_empty() || self.index(path)?.is_some_and(|index| self.indices.contains(&index)))
    }

    fn index(&self, path: &str) -> Result<Option<usize>, ModelError> {
        for pattern in &self.patterns {
            if let Some(index) = pattern.index(path).map_err(of_key("layers_pattern"))? {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }
}

fn every_linear(candidates: &[&Spelled<'_>]) -> Selection {
    let linear = candidates.iter().filter(|c| c.candidate.is_linear);
    Selection { paths: linear.map(|c| c.path().to_owned()).collect(), notes: Vec::new() }
}

fn by_pattern(pattern: &str, candidates: &[&Spelled<'_>]) -> Result<Selection, ModelError> {
    let pattern = whole("target_modules", pattern)?;
    let matching =
        kept(candidates.iter().copied(), |c| matches_any(&pattern, &c.all).map_err(of_key("target_modules")))?;
    Ok(Selection { paths: matching.into_iter().map(|c| c.path().to_owned()).collect(), notes: Vec::new() })
}

fn by_list(
    list: &[String],
    candidates: &[&Spelled<'_>],
    layers: &Layers<'_>,
    paths: ModulePaths,
) -> Result<Selection, ModelError> {
    let mut chosen = BTreeSet::new();
    let mut notes = Vec::new();
    for entry in list {
        let mut matched = false;
        let mut translated = BTreeSet::new();
        for (i, candidate) in candidates.iter().enumerate() {
            let exact = candidate.all.iter().any(|path| path == entry);
            let named = candidate.all.iter().any(|path| is_named(path, entry));
            let found = named || candidate.has_role(entry);
            matched |= found;
            // A whole path says its layer itself.
            if found && (exact || layers.hold(&candidate.all)?) {
                chosen.insert(i);
                if !named {
                    translated.insert(last(candidate.path()));
                }
            }
        }
        if !matched && names_pooler(entry, paths) {
            notes.push(format!("lora.target_modules: {}", unused_pooler(entry)));
        } else if !matched {
            notes.push(format!("lora.target_modules: `{entry}` matches nothing{}", suggestion(entry, candidates)));
        } else if !translated.is_empty() {
            let names = translated.into_iter().collect::<Vec<_>>().join(", ");
            notes.push(format!("lora.target_modules: `{entry}` means {names} in this model"));
        }
    }
    Ok(Selection { paths: chosen.into_iter().map(|i| candidates[i].path().to_owned()).collect(), notes })
}

/// Whether an entry of a list names the linear layer after the last norm, where the family has one.
pub(crate) fn names_pooler(entry: &str, paths: ModulePaths) -> bool {
    paths.family().is_some_and(|family| family.has_pooler()) && (is_named(POOLER, entry) || is_named(entry, POOLER))
}

/// What a note says of [`names_pooler`].
pub(crate) fn unused_pooler(entry: &str) -> String {
    format!("`{entry}` is kept as its file has it, because heatmaps do not need it")
}

/// The linear layer after the last norm.
pub(crate) const POOLER: &str = "pooler.dense";

/// The whole path, or the end of it from a `.` on.
pub(crate) fn is_named(path: &str, entry: &str) -> bool {
    path == entry || path.strip_suffix(entry).is_some_and(|head| head.ends_with('.'))
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

fn suggestion(entry: &str, candidates: &[&Spelled<'_>]) -> String {
    let spellings = candidates.iter().flat_map(|c| &c.all);
    let names: BTreeSet<&str> = spellings.flat_map(|path| [last(path), path.as_str()]).collect();
    let nearest = names.into_iter().max_by(|a, b| {
        strsim::jaro_winkler(a, entry).total_cmp(&strsim::jaro_winkler(b, entry)).then_with(|| b.len().cmp(&a.len()))
    });
    nearest.map(|name| format!("; the nearest name is `{name}`")).unwrap_or_default()
}

fn describe(targets: Option<&TargetModules>) -> String {
    match targets {
        None => "auto".to_owned(),
        Some(TargetModules::Pattern(pattern)) => format!("`{pattern}`"),
        Some(TargetModules::List(list)) => format!("[{}]", listing(list, 20)),
    }
}

/// Module names with their layer index replaced, such as `layer.*.attention.q_proj (12)`.
pub fn condense<'a>(paths: impl IntoIterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for path in paths {
        let is_index = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = path.split('.').map(|p| if is_index(p) { "*" } else { p }).collect();
        *counts.entry(parts.join(".")).or_default() += 1;
    }
    if counts.is_empty() {
        return "none".to_owned();
    }
    listing(counts.into_iter().map(|(name, count)| format!("{name} ({count})")), 40)
}

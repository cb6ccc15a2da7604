//! Which layers `target_modules` means, by the rules of PEFT plus the short names every flavour understands.

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

    fn hold(&self, spellings: &[String]) -> Result<bool, ModelError> {
        for path in spellings {
            if self.holds(path)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn holds(&self, path: &str) -> Result<bool, ModelError> {
        if self.indices.is_empty() {
            return Ok(true);
        }
        for pattern in &self.patterns {
            if let Some(index) = pattern.index(path).map_err(of_key("layers_pattern"))? {
                return Ok(self.indices.contains(&index));
            }
        }
        Ok(false)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::registry::family_of;

    fn select(
        targets: Option<&TargetModules>,
        candidates: &[Candidate],
        paths: ModulePaths,
    ) -> Result<Selection, ModelError> {
        super::select(targets, &LoraConfig::default(), candidates, paths)
    }

    fn dinov3_paths() -> ModulePaths {
        paths("dinov3_vit")
    }

    fn paths(model_type: &str) -> ModulePaths {
        let config = serde_json::json!({ "model_type": model_type });
        ModulePaths::Of(family_of(config.as_object().unwrap()).unwrap())
    }

    fn selected(config: &LoraConfig) -> Vec<String> {
        super::select(config.target_modules.as_ref(), config, &dinov3(), dinov3_paths()).unwrap().paths
    }

    /// The layers of two blocks of a family.
    fn candidates(model_type: &str, blocks: &str, names: [&str; 6]) -> Vec<Candidate> {
        let paths = paths(model_type);
        let paths_of = |i: usize| names.map(|name| format!("{blocks}.{i}.{name}"));
        (0..2).flat_map(paths_of).map(|path| Candidate { role: paths.role(&path), path, is_linear: true }).collect()
    }

    fn dinov3() -> Vec<Candidate> {
        candidates(
            "dinov3_vit",
            "layer",
            [
                "attention.q_proj",
                "attention.k_proj",
                "attention.v_proj",
                "attention.o_proj",
                "mlp.up_proj",
                "mlp.down_proj",
            ],
        )
    }

    fn list(entries: &[&str]) -> Option<TargetModules> {
        Some(TargetModules::List(entries.iter().map(|e| (*e).to_owned()).collect()))
    }

    #[test]
    fn auto_and_all_linear_take_every_projection() {
        assert_eq!(select(None, &dinov3(), ModulePaths::AsWritten).unwrap().paths.len(), 12);
        let all = TargetModules::Pattern("all-linear".to_owned());
        assert_eq!(select(Some(&all), &dinov3(), ModulePaths::AsWritten).unwrap().paths.len(), 12);
    }

    #[test]
    fn a_list_matches_whole_paths_and_dotted_suffixes_only() {
        let chosen =
            select(list(&["q_proj", "layer.1.mlp.up_proj", "proj"]).as_ref(), &dinov3(), ModulePaths::AsWritten)
                .unwrap();
        assert_eq!(chosen.paths, ["layer.0.attention.q_proj", "layer.1.attention.q_proj", "layer.1.mlp.up_proj"]);
        assert_eq!(chosen.notes.len(), 1);
        assert!(chosen.notes[0].contains("`proj` matches nothing"), "{:?}", chosen.notes);
    }

    #[test]
    fn the_short_names_of_the_design_mean_the_same_on_every_flavour() {
        let short = list(&["query", "key", "value", "dense"]);
        let chosen = select(short.as_ref(), &dinov3(), ModulePaths::AsWritten).unwrap();
        assert_eq!(chosen.paths.len(), 12);
        assert_eq!(chosen.notes.len(), 4, "each translation is reported once: {:?}", chosen.notes);
        let dinov2 = candidates(
            "dinov2",
            "encoder.layer",
            [
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
                "mlp.fc1",
                "mlp.fc2",
            ],
        );
        let chosen = select(short.as_ref(), &dinov2, ModulePaths::AsWritten).unwrap();
        assert_eq!(chosen.paths.len(), 12);
        assert_eq!(chosen.notes, ["lora.target_modules: `dense` means fc1, fc2 in this model"]);
    }

    #[test]
    fn a_pattern_must_match_the_full_path_in_any_spelling() {
        let pattern = |p: &str| Some(TargetModules::Pattern(p.to_owned()));
        assert!(select(pattern("q_proj").as_ref(), &dinov3(), dinov3_paths()).is_err());
        for p in [r".*layer\.\d+\.attention\.(q|v)_proj", r"model\.layer\.\d+\.attention\.[qv]_proj"] {
            assert_eq!(select(pattern(p).as_ref(), &dinov3(), dinov3_paths()).unwrap().paths.len(), 4, "{p}");
        }
        assert!(
            select(pattern("(").as_ref(), &dinov3(), ModulePaths::AsWritten)
                .unwrap_err()
                .to_string()
                .contains("regular expression")
        );
    }

    #[test]
    fn no_match_lists_what_exists_and_an_unmatched_entry_names_the_nearest() {
        let message = select(list(&["fc1"]).as_ref(), &dinov3(), ModulePaths::AsWritten).unwrap_err().to_string();
        assert!(message.contains("[fc1]") && message.contains("layer.*.attention.q_proj (2)"), "{message}");
        let chosen = select(list(&["q_proj", "k_poj"]).as_ref(), &dinov3(), ModulePaths::AsWritten).unwrap();
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
        let message =
            super::super::targets::select(None, &config, &dinov3(), ModulePaths::AsWritten).unwrap_err().to_string();
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

    fn vit() -> Vec<Candidate> {
        candidates(
            "vit",
            "encoder.layer",
            [
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
                "intermediate.dense",
                "output.dense",
            ],
        )
    }

    #[test]
    fn names_of_a_vit_may_be_those_of_its_files_or_those_in_the_memory_of_transformers_5() {
        let select = |config: &LoraConfig| {
            super::select(config.target_modules.as_ref(), config, &vit(), paths("vit")).unwrap().paths
        };
        let targets = |entries: &[&str]| LoraConfig { target_modules: list(entries), ..LoraConfig::default() };
        let queries = ["encoder.layer.0.attention.attention.query", "encoder.layer.1.attention.attention.query"];
        for entry in ["q_proj", "query", "attention.q_proj", "attention.attention.query"] {
            assert_eq!(select(&targets(&[entry])), queries, "{entry}");
        }
        for entry in ["layers.1.mlp.fc1", "encoder.layer.1.intermediate.dense", "vit.layers.1.mlp.fc1"] {
            assert_eq!(select(&targets(&[entry])), ["encoder.layer.1.intermediate.dense"], "{entry}");
        }
        let pattern = |text: &str| Some(TargetModules::Pattern(text.to_owned()));
        for text in [r"layers\.\d+\.mlp\.fc\d", r"encoder\.layer\.\d+\.(intermediate|output)\.dense"] {
            let config = LoraConfig { target_modules: pattern(text), ..LoraConfig::default() };
            assert_eq!(select(&config).len(), 4, "{text}");
        }
        let excluded = LoraConfig { exclude_modules: pattern(r"layers\.0\..*"), ..LoraConfig::default() };
        assert_eq!(select(&excluded).len(), 6);
        let saved = LoraConfig { modules_to_save: Some(vec!["mlp".to_owned()]), ..LoraConfig::default() };
        assert_eq!(select(&saved).len(), 8, "the MLP is one module in memory");
        for name in ["layers", "layer"] {
            let layers_pattern = Some(vec![name.to_owned()]);
            let config = LoraConfig { layers_pattern, layers_to_transform: Some(vec![1]), ..targets(&["q_proj"]) };
            assert_eq!(select(&config), queries[1..], "{name}");
        }
    }

    #[test]
    fn a_module_is_saved_when_its_path_or_that_of_one_around_it_ends_with_the_entry() {
        for (path, entry, saved) in [
            ("layernorm", "norm", true),
            ("norm", "norm", true),
            ("layer.0.norm1", "norm", false),
            ("layers.0.mlp.fc1", "mlp", true),
            ("layers.0.mlp.fc1", "layers.0.mlp", true),
            ("layers.0.mlp.fc1", "layers", true),
            ("layers.0.mlp.fc1", "layers.1", false),
            ("norm", "", false),
        ] {
            assert_eq!(is_saved(path, entry), saved, "{path} {entry}");
        }
    }

    #[test]
    fn the_pooler_of_a_vit_is_known_and_that_of_a_family_without_one_is_not() {
        let targets = list(&["q_proj", "pooler.dense"]);
        let select = |candidates: &[Candidate], model_type| {
            select(targets.as_ref(), candidates, paths(model_type)).unwrap().notes.join("\n")
        };
        let known = select(&vit(), "vit");
        assert!(known.contains("`pooler.dense` is kept") && !known.contains("matches nothing"), "{known}");
        let unknown = select(&dinov3(), "dinov3_vit");
        assert!(unknown.contains("`pooler.dense` matches nothing"), "{unknown}");
    }

    #[test]
    fn a_pattern_that_takes_for_ever_stops_the_selection_with_its_key() {
        let pattern = Some(TargetModules::Pattern(r"(?:([\w.]+)\1?)+!".to_owned()));
        let message = select(pattern.as_ref(), &dinov3(), dinov3_paths()).unwrap_err().to_string();
        assert!(message.starts_with("lora.target_modules: ") && message.contains("could not be matched"), "{message}");
    }

    #[test]
    fn convolutions_are_adapted_only_when_they_are_named() {
        let mut all = dinov3();
        all.push(Candidate { path: "decoder.stages.0.proj".to_owned(), role: None, is_linear: false });
        assert_eq!(select(None, &all, ModulePaths::AsWritten).unwrap().paths.len(), 12);
        let targets = list(&["q_proj", "stages.0.proj"]);
        assert_eq!(select(targets.as_ref(), &all, ModulePaths::AsWritten).unwrap().paths[2], "decoder.stages.0.proj");
    }
}

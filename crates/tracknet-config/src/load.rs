//! Sources → [`Config`]: find the files, merge the layers, resolve `${…}`, check, validate, derive.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::check;
use super::error::{ConfigError, Problem};
use super::layers::{GROUPS, Layers};
use super::runtime::{Runtime, moved};
use super::structs::{GivenRuntime, Sections, defaults_tree, tree_of};
use super::yaml::Value;
use super::{CONFIG_DIR_VARIABLE, Config, emit, interpolate, sources, validate};

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct ConfigSources {
    /// `--config-dir`: a configs folder that is looked in first.
    pub config_dir: Option<PathBuf>,
    /// `--data`: a name or a path; a path has a separator or ends in `.yaml` or `.yml`.
    pub data: Option<String>,
    /// `--model`: a name or a path.
    pub model: Option<String>,
    /// `--training`: a name or a path.
    pub training: Option<String>,
    /// A run directory (or its `config.yaml`) to start from, in place of the default groups.
    pub run: Option<PathBuf>,
    /// `section.key=value`, applied in order after the files.
    pub overrides: Vec<String>,
    /// `--seed`: sets `training.seed`.
    pub seed: Option<u64>,
    /// `--output-dir`: moves `training.output_dir`, `log_dir` and `ckpt_dir`.
    pub output_dir: Option<PathBuf>,
}

/// A configuration and how it came about.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The merged, resolved, validated configuration.
    pub config: Config,
    /// What the user should be told once: keys that are ignored, values that are probably not meant.
    pub notes: Vec<String>,
    /// The files that were read, in order.
    pub files: Vec<String>,
}

/// The parts of the world that a configuration depends on; tests bring their own.
pub(crate) struct World<'a> {
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) working: &'a Path,
    pub(crate) now: jiff::ZonedDateTime,
}

impl World<'_> {
    fn now() -> Self {
        let env = &|name: &str| std::env::var(name).ok();
        Self { env, working: Path::new("."), now: jiff::ZonedDateTime::now() }
    }
}

/// Name of the merged configuration in a run directory.
pub(crate) const RUN_FILE: &str = "config.yaml";

impl Config {
    /// Loads, merges, resolves and validates a configuration.
    ///
    /// A group that is not given is its default config: `data/tracknet`, `model/vit_heatmap`, `training/default`
    /// (or, with `run`, what that run used).
    ///
    /// # Errors
    /// One error with every problem of all files, overrides and flags.
    pub fn load(from: &ConfigSources) -> Result<Loaded, ConfigError> {
        load(from, &World::now())
    }

    /// Reads the configuration that a run keeps in its directory.
    ///
    /// # Errors
    /// As [`Config::load`]; a directory without `config.yaml` is named.
    pub fn from_run_dir(dir: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_yaml_file(dir.as_ref().join(RUN_FILE))
    }

    /// Reads a merged configuration, as [`Config::to_yaml`] writes it. Its run id is kept.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_yaml_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let found = sources::read(path).map_err(|m| ConfigError::new(path.display().to_string(), "", m))?;
        Self::from_yaml(&found.label, &found.text)
    }

    /// Reads a merged configuration from text; messages call it `label`.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_yaml(label: &str, text: &str) -> Result<Self, ConfigError> {
        let mut layers = Layers::new();
        layers.add_merged(label, text);
        finish(layers, None, &World::now(), Vec::new()).map(|loaded| loaded.config)
    }

    /// The configuration as YAML that [`Config::from_yaml`] reads back as the equal configuration.
    ///
    /// # Errors
    /// A path that is not UTF-8 has no YAML.
    pub fn to_yaml(&self) -> Result<String, ConfigError> {
        tree_of(self).map(|tree| emit::to_yaml(&tree)).map_err(|m| ConfigError::new("configuration", "", m))
    }

    /// Checks a configuration that was built or changed in code by the same rules as one from files.
    ///
    /// # Errors
    /// As [`Config::load`]; the source of each problem is `configuration`.
    pub fn validate(&self) -> Result<(), ConfigError> {
        Self::from_yaml("configuration", &self.to_yaml()?).map(|_| ())
    }
}

pub(crate) fn load(from: &ConfigSources, world: &World<'_>) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::new();
    let mut files = Vec::new();
    if let Some(run) = &from.run {
        let path = if run.is_dir() { run.join(RUN_FILE) } else { run.clone() };
        match sources::read(&path) {
            Ok(found) => {
                layers.add_merged(&found.label, &found.text);
                files.push(found.label);
            }
            Err(message) => layers.problems.push(Problem::new(path.display().to_string(), "", message)),
        }
    }
    let dirs = sources::config_dirs(from.config_dir.as_deref(), (world.env)(CONFIG_DIR_VARIABLE), world.working);
    for (group, given) in GROUPS.into_iter().zip([&from.data, &from.model, &from.training]) {
        let name = match (given, &from.run) {
            (Some(name), _) => name.as_str(),
            (None, Some(_)) => continue,
            (None, None) => sources::default_name(group),
        };
        match sources::find(group, name, &dirs) {
            Ok(found) => {
                layers.replace_group(group);
                layers.add_group(&found.label, group, &found.text);
                files.push(found.label);
            }
            Err(problem) => layers.problems.push(problem),
        }
    }
    for text in &from.overrides {
        layers.add_override(text);
    }
    if let Some(seed) = from.seed {
        layers.add_flag("--seed", "training.seed", Value::Int(seed.into()));
    }
    finish(layers, from.output_dir.as_deref(), world, files)
}

fn finish(
    mut layers: Layers,
    output_dir: Option<&Path>,
    world: &World<'_>,
    files: Vec<String>,
) -> Result<Loaded, ConfigError> {
    let defaults = defaults_tree().map_err(|m| ConfigError::new("configuration", "", m))?;
    let mut old_root = None;
    if let Some(new) = output_dir {
        let Some(text) = new.to_str() else {
            return Err(ConfigError::new("flag --output-dir", "training.output_dir", "the path is not UTF-8"));
        };
        old_root = interpolate::value_at(&layers.tree, &defaults, world.env, "training.output_dir");
        layers.add_flag("--output-dir", "training.output_dir", Value::Text(interpolate::escape(text)));
    }
    interpolate::resolve(&mut layers, &defaults, world.env);
    let (values, checked) = check::check(&mut layers);
    let mut config = match build(values, world) {
        Err(_) if !layers.problems.is_empty() => return Err(ConfigError { problems: layers.problems }),
        built => built?,
    };
    validate::validate(&config, &checked, &mut layers);
    if !layers.problems.is_empty() {
        return Err(ConfigError { problems: layers.problems });
    }
    if let Some(new) = output_dir {
        move_directories(&mut config, old_root, new);
    }
    layers.notes.dedup();
    Ok(Loaded { config, notes: layers.notes, files })
}

/// Structs from checked values. An error here would be a disagreement of the keys with the structs.
fn build(values: Value, world: &World<'_>) -> Result<Config, ConfigError> {
    let sections = Sections::deserialize(values).map_err(|e| ConfigError::new("configuration", "", e.to_string()))?;
    let Sections { mut data, model, training, runtime: GivenRuntime { seed, run_id } } = sections;
    data.split.name_ranges();
    let derived = Runtime::starting_at(&training, &world.now);
    // A run keeps its id when its configuration is read back; seed and directories follow the training section.
    let kept = run_id.filter(|_| seed.is_none_or(|seed| seed == derived.seed));
    let runtime = Runtime { run_id: kept.unwrap_or_else(|| derived.run_id.clone()), ..derived };
    Ok(Config { data, model, training, runtime })
}

fn move_directories(config: &mut Config, old_root: Option<Value>, new: &Path) {
    let old = old_root.and_then(|v| v.scalar_text()).map_or_else(|| new.to_path_buf(), PathBuf::from);
    let training = &mut config.training;
    training.log_dir = moved(&training.log_dir, &old, new, "logs");
    training.ckpt_dir = moved(&training.ckpt_dir, &old, new, "checkpoints");
    training.output_dir = new.to_path_buf();
    config.runtime.output_dir.clone_from(&training.output_dir);
    config.runtime.log_dir.clone_from(&training.log_dir);
    config.runtime.ckpt_dir.clone_from(&training.ckpt_dir);
}

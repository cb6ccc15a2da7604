//! Flags that several verbs share, and how they become configuration sources.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use tracknet::artifacts::AdapterChoice;
use tracknet::artifacts::run::find_adapter;
use tracknet::config::{ConfigSources, DtypeName, UnknownWord, Words, games_of};
use tracknet::evaluation::TrackOptions;
use tracknet::files::destination::check_file;
use tracknet::files::{self, Destination, Existing, read_text};

/// The games of `--games`, each range by its names.
pub(crate) fn asked_games(games: &[String]) -> anyhow::Result<Vec<String>> {
    games_of(games).map_err(|why| anyhow::anyhow!("--games {why}"))
}

/// Where the configuration comes from: three groups, then overrides.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// Data configuration: a name (configs/data/NAME.yaml) or a path.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) data: Option<String>,
    /// Model configuration: a name (configs/model/NAME.yaml) or a path.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) model: Option<String>,
    /// Training configuration: a name (configs/training/NAME.yaml) or a path.
    #[arg(long, value_name = "NAME|PATH")]
    pub(crate) training: Option<String>,
    /// Another configs folder; also TRACKNET_CONFIG_DIR.
    #[arg(long, value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Seed of the run; overrides training.seed.
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Where everything that the command writes goes.
    #[arg(long, value_name = "DIR")]
    pub(crate) output_dir: Option<PathBuf>,
    /// Values that replace those of the files, in YAML syntax: training.optimizer.lr=1e-4
    #[arg(value_name = "SECTION.KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

impl ConfigArgs {
    /// The sources in the form that the library resolves.
    pub(crate) fn sources(&self) -> ConfigSources {
        ConfigSources {
            config_dir: self.config_dir.clone(),
            data: self.data.clone(),
            model: self.model.clone(),
            training: self.training.clone(),
            run: None,
            overrides: self.overrides.clone(),
            seed: self.seed,
            output_dir: self.output_dir.clone(),
        }
    }
}

/// `--dtype` where float weights are written.
pub(crate) const FLOAT_DTYPES: &[DtypeName] = &[DtypeName::Float32, DtypeName::Float16];

/// Reads a flag as one of `words`, in the spellings that configurations have.
pub(crate) fn one_of<W>(words: &'static [W]) -> impl TypedValueParser<Value = W>
where
    W: Words + PartialEq + FromStr<Err = UnknownWord> + Send + Sync,
{
    let index = |word: &W| W::VARIANTS.iter().position(|variant| variant == word);
    let values = words.iter().filter_map(|word| W::WORDS.get(index(word)?));
    let values = values.map(|word| PossibleValue::new(word.name).aliases(word.aliases));
    PossibleValuesParser::new(values).try_map(|text| text.parse::<W>())
}

/// Whether a destination may be replaced.
#[derive(Debug, Clone, Args)]
pub(crate) struct OverwriteFlag {
    /// Replace what stands at the destination, also what tracknet did not write. Never an input.
    #[arg(long)]
    pub(crate) overwrite: bool,
}

impl OverwriteFlag {
    /// Checks a directory that a verb is told to write, before it does any work.
    pub(crate) fn directory(&self, path: &Path, inputs: &[&Path]) -> tracknet::Result<Destination> {
        let existing = if self.overwrite { Existing::Anything } else { Existing::Written };
        Ok(Destination::directory(path, existing, inputs)?)
    }

    /// Checks a report that a verb is told to write, before it does any work: one of this verb's reports, which have
    /// exactly these keys, may stand there.
    pub(crate) fn json(&self, path: &Path, keys: &[&str], inputs: &[PathBuf]) -> tracknet::Result<()> {
        let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        let is_ours = |path: &Path| {
            let json = read_text(path, files::read::JSON).ok().and_then(|text| serde_json::from_str(&text).ok());
            let object = json.as_ref().and_then(serde_json::Value::as_object);
            object.is_some_and(|object| object.len() == keys.len() && keys.iter().all(|key| object.contains_key(*key)))
        };
        Ok(check_file(path, self.overwrite, is_ours, &inputs)?)
    }
}

/// Which processor computes.
#[derive(Debug, Clone, Args)]
pub(crate) struct DeviceArgs {
    /// Where to compute: auto, cpu, cuda[:N] or wgpu[:N], as far as this build has them.
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    pub(crate) device: String,
}

/// Where the frozen backbone of a run is.
#[derive(Debug, Clone, Args)]
pub(crate) struct BaseArgs {
    /// Where the frozen backbone is now, if it was moved since the run.
    #[arg(long, value_name = "DIR")]
    pub(crate) base: Option<String>,
}

/// Which adapter a run's model gets.
#[derive(Debug, Clone, Args)]
pub(crate) struct AdapterFlags {
    /// Another adapter on the run's base: a directory, or the name of one in the run (see tracknet adapter list).
    #[arg(long, value_name = "NAME|DIR", conflicts_with = "no_adapter")]
    adapter: Option<String>,
    /// No adapter: the base as it was before the run.
    #[arg(long)]
    no_adapter: bool,
}

impl AdapterFlags {
    /// The adapter that is asked for by name.
    pub(crate) fn name(&self) -> Option<&str> {
        if self.no_adapter { Some("none") } else { self.adapter.as_deref() }
    }

    /// What the flags mean for a run.
    pub(crate) fn choice(&self, run: &Path) -> tracknet::Result<AdapterChoice> {
        Ok(match &self.adapter {
            Some(name) => AdapterChoice::Directory(find_adapter(run, name)?),
            None if self.no_adapter => AdapterChoice::None,
            None => AdapterChoice::Own,
        })
    }
}

/// How candidates become a trajectory.
#[derive(Debug, Clone, Args)]
pub(crate) struct TrackArgs {
    /// Follow one ball: choose among several candidates of each frame by speed, flight and score, drop what never moves, fill short
    /// gaps. --threshold is then the score at which a candidate alone counts neither for nor against a ball.
    #[arg(long)]
    pub(crate) track: bool,
    /// The most frames of a gap that is filled; 0 fills none.
    #[arg(long, value_name = "N", requires = "track", default_value_t = TrackOptions::default().max_gap)]
    track_max_gap: usize,
    /// The fastest that a ball can be, in widths of the frame per second.
    #[arg(long, value_name = "WIDTHS", requires = "track", default_value_t = TrackOptions::default().max_speed,
        value_parser = parse_rate)]
    track_max_speed: f64,
    /// Frames a second; by default what a video says, and 25 where nothing does.
    #[arg(long, value_name = "FPS", requires = "track", value_parser = parse_rate)]
    track_fps: Option<f64>,
}

impl TrackArgs {
    /// What the flags mean for a source of `fps` frames a second, if it says so; `None` without `--track`.
    /// The options count the frames that are looked at, every `stride`-th one.
    pub(crate) fn options(
        &self,
        threshold: f32,
        stride: NonZeroU64,
        fps: impl FnOnce() -> Option<f64>,
    ) -> Option<TrackOptions> {
        let fps = || self.track_fps.or_else(fps).unwrap_or(TrackOptions::default().fps);
        self.track.then(|| TrackOptions {
            threshold,
            fps: fps() / stride.get() as f64,
            max_speed: self.track_max_speed,
            max_gap: self.track_max_gap,
        })
    }

    /// The flags in words, as far as they decide on rows.
    pub(crate) fn words(&self) -> Option<String> {
        let Self { track, track_max_gap, track_max_speed, track_fps } = self;
        let fps = track_fps.map_or_else(|| "that of the source".to_owned(), |fps| fps.to_string());
        track.then(|| format!("max gap {track_max_gap}, max speed {track_max_speed}, fps {fps}"))
    }
}

/// The files that are read of a run or checkpoint directory, as far as they stand in it: never a destination.
pub(crate) fn files_of_run(run: &Path) -> Vec<PathBuf> {
    let mut files = vec![run.join("config.yaml")];
    // A run has checkpoints; a checkpoint stands for itself; anything else is refused later.
    let places = [run.join("checkpoints"), run.to_path_buf()];
    let holds = |dir: &&PathBuf| dir.ends_with("checkpoints") && dir.is_dir() || dir.join("state.json").is_file();
    let mut open: Vec<PathBuf> = places.iter().find(holds).cloned().into_iter().collect();
    while let Some(dir) = open.pop() {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        for (path, kind) in entries.filter_map(|entry| Some((entry.path(), entry.file_type().ok()?))) {
            if kind.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    files
}

/// A score: from 0 to 1.
pub(crate) fn parse_score(text: &str) -> Result<f32, String> {
    let score = text.parse::<f32>().ok().filter(|score| (0.0..=1.0).contains(score));
    score.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// A distance in pixels: finite and above 0.
pub(crate) fn parse_distance(text: &str) -> Result<f32, String> {
    let distance = text.parse::<f32>().ok().filter(|px| px.is_finite() && *px > 0.0);
    distance.ok_or_else(|| "expected a number of pixels above 0".to_owned())
}

/// A rate or speed: finite and above 0.
pub(crate) fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.parse::<f64>().ok().filter(|rate| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "expected a number above 0".to_owned())
}

/// How many there should be: at least one.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    let count = text.parse::<usize>().ok().filter(|count| *count > 0);
    count.ok_or_else(|| "expected a whole number of at least 1".to_owned())
}

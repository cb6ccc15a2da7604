//! The `runtime` section: what a run derives from the configuration and the clock.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracknet_config_derive::Section;

use super::training::TrainingConfig;
use tracknet_io::console::excerpt;

/// The longest name that the usual file systems take.
const MOST_BYTES: usize = 255;

/// The `runtime` section: derived, never read from the three groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Section)]
#[config(derived)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// The seed of the run.
    #[config(range = 0..=u64::MAX)]
    pub seed: u64,
    /// `run-YYYYmmdd-HHMMSS-s<seed>`, in local time.
    pub run_id: String,
    /// Where runs are written.
    pub output_dir: PathBuf,
    /// Where logs are written.
    pub log_dir: PathBuf,
    /// Where checkpoints are written.
    pub ckpt_dir: PathBuf,
}

impl Runtime {
    /// The runtime of a run that starts now.
    pub fn starting_now(training: &TrainingConfig) -> Self {
        Self::starting_at(training, &jiff::ZonedDateTime::now())
    }

    pub(super) fn starting_at(training: &TrainingConfig, now: &jiff::ZonedDateTime) -> Self {
        Self {
            seed: training.seed,
            run_id: format!("run-{}-s{}", now.strftime("%Y%m%d-%H%M%S"), training.seed),
            output_dir: training.output_dir.clone(),
            log_dir: training.log_dir.clone(),
            ckpt_dir: training.ckpt_dir.clone(),
        }
    }

    /// The directory of this run: `<output_dir>/<run_id>`.
    pub fn run_dir(&self) -> PathBuf {
        self.output_dir.join(&self.run_id)
    }
}

/// Checks that a run id can be the name of a directory, and of no other place: it comes from files that may be crafted.
///
/// # Errors
/// What was found and what is expected.
pub fn check_run_id(id: &str) -> Result<(), String> {
    let is_name = matches!(Path::new(id).components().collect::<Vec<_>>()[..], [Component::Normal(name)] if name == id);
    if is_name && id.len() <= MOST_BYTES && !id.contains(|c: char| c == '\\' || c.is_control()) {
        return Ok(());
    }
    let found = excerpt(id, MOST_BYTES);
    Err(format!("`{found}` cannot be the name of a run's directory; expected a name without separators"))
}

/// Moves `path` from below `old` to below `new`; a path elsewhere becomes `new/<name>`.
pub(super) fn moved(path: &Path, old: &Path, new: &Path, name: &str) -> PathBuf {
    // An interpolated path (`${training.output_dir}/logs`) is below the new root already.
    let follows = path.starts_with(new) && !old.starts_with(new);
    match path.strip_prefix(old) {
        Ok(rest) if !follows && !rest.as_os_str().is_empty() => new.join(rest),
        _ if path.starts_with(new) && path != new => path.to_path_buf(),
        _ => new.join(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_run_id_holds_the_local_time_and_the_seed() {
        let now: jiff::ZonedDateTime =
            jiff::civil::date(2026, 3, 4).at(5, 6, 7, 0).to_zoned_datetime(jiff::tz::TimeZone::UTC).unwrap();
        let runtime = Runtime::starting_at(&TrainingConfig { seed: 9, ..TrainingConfig::default() }, &now);
        assert_eq!(runtime.run_id, "run-20260304-050607-s9");
        assert_eq!(runtime.run_dir(), PathBuf::from("outputs/run-20260304-050607-s9"));
    }

    #[test]
    fn a_run_id_is_one_name_and_leads_nowhere_else() {
        for id in ["run-20260304-050607-s9", "run-20260304-050607-s9-2", "my run", ".hidden"] {
            check_run_id(id).unwrap();
        }
        let long = "a".repeat(256);
        for id in ["", ".", "..", "a/b", "a/", "/a", "../a", "a\\b", "a\nb", &long] {
            assert!(check_run_id(id).is_err(), "{id}");
        }
    }

    #[test]
    fn directories_move_with_their_place_below_the_old_root() {
        let to = |path: &str, old: &str| moved(Path::new(path), Path::new(old), Path::new("/new"), "logs");
        assert_eq!(to("outputs/a/logs", "outputs"), PathBuf::from("/new/a/logs"));
        assert_eq!(to("/elsewhere/x", "outputs"), PathBuf::from("/new/logs"));
        assert_eq!(to("/new/kept", "outputs"), PathBuf::from("/new/kept"));
        assert_eq!(to("outputs", "outputs"), PathBuf::from("/new/logs"));
    }
}

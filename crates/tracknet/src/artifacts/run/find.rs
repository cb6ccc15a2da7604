//! The checkpoints and adapters of a run, found by path or name.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::artifacts::adapter::peft_config::CONFIG_FILE as ADAPTER_CONFIG;
use crate::config::Config;
use crate::console::listing;
use crate::error::{Error, IoContext, Result};
use crate::files::FileError;

use super::checkpoint::is_file;
use super::{ADAPTER_DIR, CONFIG_FILE, Checkpoint, RunError, RunPaths};

/// Finds a checkpoint of a run (the first of `names` that exists), or opens `path` if it is a checkpoint itself.
/// A run whose `ckpt_dir` is elsewhere is looked up there; what is found must be its own.
///
/// # Errors
/// If there is none, it is another run's, or a file of it is damaged.
pub fn find_checkpoint(path: &Path, names: &[&str]) -> Result<Checkpoint> {
    let missing = match Checkpoint::find(path, names) {
        Err(Error::Run(missing @ RunError::NoCheckpoint { .. })) => missing,
        found => return found,
    };
    if !is_file(&path.join(CONFIG_FILE))? {
        return Err(missing.into());
    }
    let config = Config::from_run_dir(path)?;
    let run_id = &config.runtime.run_id;
    let checkpoint =
        Checkpoint::find(&RunPaths::configured(path.to_path_buf(), &config.runtime, run_id).checkpoints, names)?;
    if checkpoint.state.run_id == *run_id {
        return Ok(checkpoint);
    }
    let problem = format!("is of the run {}, but {} is the run {run_id}", checkpoint.state.run_id, path.display());
    Err(RunError::DoesNotFit { path: checkpoint.dir, problem }.into())
}

/// Finds the adapter that `name` means: a directory with an `adapter_config.json`, or the name of one in `adapters/` of
/// the run or beside the run's own adapter.
///
/// # Errors
/// There is none; the names that exist are listed.
pub fn find_adapter(run: &Path, name: &str) -> Result<PathBuf> {
    let direct = PathBuf::from(name);
    if is_file(&direct.join(ADAPTER_CONFIG))? {
        return Ok(direct);
    }
    let known = named_adapters(run)?;
    match known.iter().find(|(known, _)| known == name) {
        Some((_, dir)) => Ok(dir.clone()),
        None => {
            let names = listing(known.iter().map(|(name, _)| name), 12);
            let names = if names.is_empty() { "none".to_owned() } else { names };
            let problem = format!(
                "--adapter {name}: neither a directory with an {ADAPTER_CONFIG} nor the name of an adapter of the run; \
                 names: {names}"
            );
            Err(RunError::DoesNotFit { path: run.to_path_buf(), problem }.into())
        }
    }
}

/// The adapters below a directory, by name: of a run its own (`best`, `last`) and those in `adapters/`, elsewhere every
/// sub-directory that holds one.
///
/// # Errors
/// A directory that cannot be looked into.
pub fn named_adapters(path: &Path) -> Result<Vec<(String, PathBuf)>> {
    let own = ["best", "last"].map(|name| (name, path.join("checkpoints").join(name).join(ADAPTER_DIR)));
    let mut candidates: Vec<(String, PathBuf)> =
        own.into_iter().chain([(ADAPTER_DIR, path.join(ADAPTER_DIR))]).map(|(n, dir)| (n.to_owned(), dir)).collect();
    for folder in [path.join("adapters"), path.to_path_buf()] {
        let mut entries = entries_of(&folder)?;
        entries.sort();
        let name = |dir: &Path| dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        candidates.extend(entries.into_iter().map(|dir| (name(&dir), dir)));
    }
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for (name, dir) in candidates {
        if is_file(&dir.join(ADAPTER_CONFIG))? && !found.iter().any(|(known, _)| *known == name) {
            found.push((name, dir));
        }
    }
    Ok(found)
}

/// What is in a directory; nothing if there is none.
fn entries_of(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry.at(dir)?.path())).collect(),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(Vec::new()),
        Err(error) => Err(error).at(dir),
    }
}

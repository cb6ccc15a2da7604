//! The directories of a run that is continued. Nothing that a checkpoint says leads outside of what belongs to its run.

use std::path::{Path, PathBuf};

use crate::artifacts::run::checkpoint::is_file;
use crate::artifacts::run::{CONFIG_FILE, Checkpoint, RunError, RunPaths};
use crate::config::Config;
use crate::error::{IoContext, Result};
use crate::files::parent_of;
use crate::training::logging::LOG_FILE;

/// The directories of the run that `checkpoint`, found at `from`, belongs to, and what to say about them.
pub(super) fn places(config: &Config, from: &Path, checkpoint: &Checkpoint) -> Result<(RunPaths, Vec<String>)> {
    let run_id = &checkpoint.state.run_id;
    let folder = parent_of(&checkpoint.dir);
    let mut notes = Vec::new();
    let root = match root_of(from, checkpoint)? {
        Some(root) => root,
        None => {
            let root = root_elsewhere(config, checkpoint)?;
            notes.push(format!("only a checkpoint was named; the directory of its run is {}", root.display()));
            root
        }
    };
    let mut logs = RunPaths::configured(root.clone(), &config.runtime, run_id).logs;
    if !logs.starts_with(&root) && !is_file(&logs.join(LOG_FILE))? {
        logs = root.join("logs");
        let dir = config.training.log_dir.display();
        notes.push(format!("training.log_dir: {dir} holds no log of this run; it goes on in {}", logs.display()));
    }
    let paths = RunPaths { checkpoints: folder.to_path_buf(), logs, root };
    let elsewhere = paths.elsewhere().into_iter();
    notes.extend(elsewhere.map(|(what, dir)| format!("outside of the run's directory: {what} in {}", dir.display())));
    Ok((paths, notes))
}

/// The directory of the run at `from`, or around it; `None` if only its checkpoints are there.
fn root_of(from: &Path, checkpoint: &Checkpoint) -> Result<Option<PathBuf>> {
    if checkpoint.dir != from && is_file(&from.join(CONFIG_FILE))? {
        return Ok(Some(from.to_path_buf()));
    }
    let dir = std::path::absolute(&checkpoint.dir).at(&checkpoint.dir)?;
    let folder = parent_of(&dir);
    let root = parent_of(folder);
    let is_part = folder.ends_with("checkpoints") && is_file(&root.join(CONFIG_FILE))?;
    Ok(is_part.then(|| root.to_path_buf()))
}

/// The directory of a run of which only a checkpoint was named: where its configuration says, if that is free or holds
/// this very run.
fn root_elsewhere(config: &Config, checkpoint: &Checkpoint) -> Result<PathBuf> {
    let run_id = &checkpoint.state.run_id;
    let root = config.runtime.output_dir.join(run_id);
    if !root.try_exists().at(&root)? {
        return Ok(root);
    }
    let known = if is_file(&root.join(CONFIG_FILE))? { Some(Config::from_run_dir(&root)?) } else { None };
    let belongs = known.is_some_and(|known| {
        let folder = RunPaths::configured(root.clone(), &known.runtime, &known.runtime.run_id).checkpoints;
        known.runtime.run_id == *run_id && is_same(&folder, parent_of(&checkpoint.dir))
    });
    if belongs {
        return Ok(root);
    }
    let problem = format!(
        "only this checkpoint of the run {run_id} was named, and {} holds something else: name the run's directory, or \
         another training.output_dir",
        root.display()
    );
    Err(RunError::DoesNotFit { path: checkpoint.dir.clone(), problem }.into())
}

/// Whether two paths lead to the same directory.
fn is_same(a: &Path, b: &Path) -> bool {
    a == b || a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

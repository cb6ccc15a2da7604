//! Where the files of a run are.
//!
//! ```text
//! <output_dir>/<run id>/
//!   config.yaml                    the merged configuration
//!   checkpoints/{best,last}/       see the checkpoint module; <ckpt_dir>/<run id>/ when ckpt_dir is elsewhere
//!   logs/metrics.{csv,jsonl}       <log_dir>/<run id>/ when log_dir is elsewhere
//!   overlays_pred/epochNNN/        predictions on the first validation batch
//!   overlays_target/epochNNN/      their targets
//! ```
//!
//! `log_dir` and `ckpt_dir` are shared by all runs in the original program's configurations; when they lie at their
//! usual place below `output_dir`, the files go into the run's own directory, so that a run can be moved as a whole.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::Runtime;
use crate::error::{IoContext, Result};
use crate::files::{DirectoryLock, FileError, temporary};

/// The directories of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunPaths {
    /// The run's directory.
    pub root: PathBuf,
    /// Holds `best` and `last`.
    pub checkpoints: PathBuf,
    /// Holds the metric logs.
    pub logs: PathBuf,
}

impl RunPaths {
    /// The directories of run `run_id`.
    pub fn new(output_dir: &Path, log_dir: &Path, ckpt_dir: &Path, run_id: &str) -> Self {
        Self::at(output_dir.join(run_id), output_dir, log_dir, ckpt_dir, run_id)
    }

    /// [`RunPaths::new`] for a run whose directory is known, such as one that is resumed and may have been moved.
    pub fn at(root: PathBuf, output_dir: &Path, log_dir: &Path, ckpt_dir: &Path, run_id: &str) -> Self {
        let place = |dir: &Path, name: &str| {
            let usual = dir == output_dir.join(name) || dir == Path::new("outputs").join(name);
            if usual { root.join(name) } else { dir.join(run_id) }
        };
        Self { checkpoints: place(ckpt_dir, "checkpoints"), logs: place(log_dir, "logs"), root }
    }

    /// [`RunPaths::at`] the places that a configuration names.
    pub(crate) fn configured(root: PathBuf, runtime: &Runtime, run_id: &str) -> Self {
        Self::at(root, &runtime.output_dir, &runtime.log_dir, &runtime.ckpt_dir, run_id)
    }

    /// Makes the directories of a new run. If another has the name, as of runs that began in the same second, the id gets
    /// a number: `<run id>-2`. Returns the id.
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub(crate) fn claim(runtime: &Runtime) -> Result<(Self, String)> {
        let mut number = 1;
        loop {
            let run_id = match number {
                1 => runtime.run_id.clone(),
                n => format!("{}-{n}", runtime.run_id),
            };
            let paths = Self::new(&runtime.output_dir, &runtime.log_dir, &runtime.ckpt_dir, &run_id);
            if paths.make()? {
                return Ok((paths, run_id));
            }
            number += 1;
        }
    }

    /// Makes every directory that holds files of the run alone; `false` if one is there already.
    fn make(&self) -> Result<bool> {
        let mut made: Vec<&Path> = Vec::new();
        for dir in self.own() {
            if let Some(parent) = dir.parent() {
                fs::create_dir_all(parent).at(parent)?;
            }
            let result = fs::create_dir(dir);
            if result.is_ok() {
                made.push(dir);
                continue;
            }
            // Empty still, or somebody else's by now.
            made.iter().rev().for_each(|dir| drop(fs::remove_dir(dir)));
            return match result {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
                other => Ok(other.at(dir).map(|()| false)?),
            };
        }
        Ok(true)
    }

    /// The run's directory, and those of its checkpoints and logs that lie elsewhere.
    fn own(&self) -> Vec<&Path> {
        let mut own = vec![self.root.as_path()];
        for dir in [&self.checkpoints, &self.logs] {
            if !own.iter().any(|known| dir.starts_with(known)) {
                own.push(dir);
            }
        }
        own
    }

    /// Directories outside of the run's own, through links, too, with what they hold.
    pub(crate) fn elsewhere(&self) -> Vec<(&'static str, PathBuf)> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let root = real(&self.root);
        let mut places: Vec<(&str, PathBuf)> =
            vec![("checkpoints", self.checkpoints.clone()), ("logs", self.logs.clone())];
        places.extend([("last checkpoint", self.last()), ("best checkpoint", self.best())]);
        places.extend(["overlays_pred", "overlays_target"].map(|name| (name, self.root.join(name))));
        let mut found: Vec<(&str, PathBuf)> = Vec::new();
        for (what, place) in places {
            let place = real(&place);
            // A place below one that was found is part of it.
            if !place.starts_with(&root) && !found.iter().any(|(_, known)| place.starts_with(known)) {
                found.push((what, place));
            }
        }
        found
    }

    /// Keeps every other process out of the run, and removes what dead ones left under temporary names.
    ///
    /// # Errors
    /// Another process has the run: which one, and since when.
    pub(crate) fn lock(&self) -> Result<Vec<DirectoryLock>, FileError> {
        let own = self.own();
        let locks = own.iter().map(|dir| {
            fs::create_dir_all(dir).at(dir)?;
            DirectoryLock::acquire(dir)
        });
        let locks = locks.collect::<Result<_, FileError>>()?;
        for dir in own.into_iter().chain([self.checkpoints.as_path(), &self.logs]) {
            temporary::sweep(dir);
        }
        for kind in ["pred", "target"] {
            let epochs = fs::read_dir(self.root.join(format!("overlays_{kind}")));
            epochs.into_iter().flatten().flatten().for_each(|epoch| temporary::sweep(&epoch.path()));
        }
        Ok(locks)
    }

    /// The checkpoint after the latest epoch or interrupt.
    pub fn last(&self) -> PathBuf {
        self.checkpoints.join("last")
    }

    /// The checkpoint with the best value of the watched metric.
    pub fn best(&self) -> PathBuf {
        self.checkpoints.join("best")
    }

    /// Overlay folder of an epoch (from 0): `overlays_<kind>/epochNNN`.
    pub fn overlays(&self, kind: &str, epoch: usize) -> PathBuf {
        self.root.join(format!("overlays_{kind}")).join(format!("epoch{epoch:03}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_one_directory_by_default() {
        let paths = RunPaths::new(Path::new("o"), Path::new("o/logs"), Path::new("outputs/checkpoints"), "run-1");
        assert_eq!(paths.last(), Path::new("o/run-1/checkpoints/last"));
        assert_eq!(paths.logs, Path::new("o/run-1/logs"));
        assert_eq!(paths.overlays("pred", 7), Path::new("o/run-1/overlays_pred/epoch007"));
    }

    #[test]
    fn runs_of_one_second_get_directories_of_their_own_wherever_their_parts_are() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let runtime = |out: &str| Runtime {
            seed: 1,
            run_id: "run-1".to_owned(),
            output_dir: at(out),
            log_dir: at(out).join("logs"),
            ckpt_dir: at("ckpt"),
        };
        let claim = |out: &str| RunPaths::claim(&runtime(out)).unwrap();
        assert_eq!(claim("o").1, "run-1");
        assert_eq!(claim("o").1, "run-1-2");
        // Another output directory and the same one for checkpoints.
        let (paths, id) = claim("p");
        assert_eq!((id.as_str(), &paths.root, &paths.checkpoints), ("run-1-3", &at("p/run-1-3"), &at("ckpt/run-1-3")));
        assert_eq!(fs::read_dir(at("p")).unwrap().count(), 1);
        // Checkpoints and logs in one place are one directory.
        let shared = Runtime { log_dir: at("ckpt"), ..runtime("q") };
        assert_eq!(RunPaths::claim(&shared).unwrap().1, "run-1-4");
    }

    #[test]
    fn a_run_has_one_holder_and_leftovers_of_dead_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let paths = RunPaths::new(&dir.path().join("o"), Path::new("outputs/logs"), &dir.path().join("ckpt"), "run-1");
        let overlays = paths.overlays("pred", 3);
        for place in [&paths.root, &paths.checkpoints, &paths.logs, &overlays] {
            fs::create_dir_all(place).unwrap();
            fs::write(place.join(".tracknet-abc.tmp"), "half").unwrap();
        }
        let locks = paths.lock().unwrap();
        for place in [&paths.root, &paths.checkpoints, &paths.logs, &overlays] {
            assert!(!place.join(".tracknet-abc.tmp").exists(), "{}", place.display());
        }
        assert!(paths.lock().unwrap_err().to_string().contains("in use by process"));
        // Neither does a run with another directory and these checkpoints.
        let other = RunPaths { root: dir.path().join("p"), ..paths.clone() };
        assert!(other.lock().unwrap_err().to_string().contains("ckpt/run-1: in use by process"));
        drop(locks);
        paths.lock().unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_out_of_a_run_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run-1");
        let paths =
            RunPaths::at(root.clone(), dir.path(), &dir.path().join("logs"), &dir.path().join("checkpoints"), "x");
        fs::create_dir_all(&paths.checkpoints).unwrap();
        assert_eq!(paths.elsewhere(), []);
        let victim = dir.path().canonicalize().unwrap().join("victim");
        fs::create_dir(&victim).unwrap();
        std::os::unix::fs::symlink(&victim, paths.last()).unwrap();
        std::os::unix::fs::symlink(&victim, root.join("overlays_pred")).unwrap();
        assert_eq!(paths.elsewhere(), [("last checkpoint", victim)]);
    }

    #[test]
    fn directories_elsewhere_hold_one_folder_a_run() {
        let paths = RunPaths::new(Path::new("o"), Path::new("/var/log/t"), Path::new("/big/ckpt"), "run-1");
        assert_eq!((paths.best(), paths.logs), ("/big/ckpt/run-1/best".into(), "/var/log/t/run-1".into()));
    }
}

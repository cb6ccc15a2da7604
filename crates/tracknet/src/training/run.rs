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

use std::path::{Path, PathBuf};

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

    /// The same for a run whose directory is known, such as one that is resumed and may have been moved.
    pub fn at(root: PathBuf, output_dir: &Path, log_dir: &Path, ckpt_dir: &Path, run_id: &str) -> Self {
        let place = |dir: &Path, name: &str| {
            let usual = dir == output_dir.join(name) || dir == Path::new("outputs").join(name);
            if usual { root.join(name) } else { dir.join(run_id) }
        };
        Self { checkpoints: place(ckpt_dir, "checkpoints"), logs: place(log_dir, "logs"), root }
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
    fn directories_elsewhere_hold_one_folder_a_run() {
        let paths = RunPaths::new(Path::new("o"), Path::new("/var/log/t"), Path::new("/big/ckpt"), "run-1");
        assert_eq!((paths.best(), paths.logs), ("/big/ckpt/run-1/best".into(), "/var/log/t/run-1".into()));
    }
}

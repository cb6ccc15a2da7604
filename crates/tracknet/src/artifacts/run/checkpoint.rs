//! A checkpoint is a directory of ordinary files, written whole or not at all and checked when it is read.
//!
//! ```text
//! last/
//!   config.yaml                  the merged configuration of the run
//!   state.json                   epoch, batch and step to continue with, best value so far, metrics, base
//!   optimizer.safetensors        <parameter>.moment_1, .moment_2, .step
//!   adapter/                     PEFT layout, when the backbone has adapters
//!   backbone/                    Hugging Face layout, when the backbone itself trains
//!   tracknet_head.safetensors    decoder and head
//!   checksums.json               SHA-256 of each file above
//! ```
//!
//! A frozen or quantized base is named in `state.json`, with its hash, and never copied. There is no random
//! state to save: shuffling, augmentation and dropout are functions of the seed and the position in the run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::config::check_run_id;
use crate::console::listing;
use crate::error::{IoContext, Result};
use crate::files::directory::hash_file;
use crate::files::read::{JSON, YAML};
use crate::files::{Destination, Existing, FileError, MANIFEST_FILE, Manifest, read_text};

use super::state::{BaseIdentity, Computation, FORMAT_VERSION, RunState};
use super::tensors::{self, HostTensors};
use super::{ADAPTER_DIR, BACKBONE_DIR, CONFIG_FILE, HEAD_FILE, RunError};

const STATE_FILE: &str = "state.json";
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Writes a checkpoint to `dir`, replacing the one there as a whole. `write_weights` puts the model's files into
/// the directory it is given. Returns where files were kept that somebody else had put into the checkpoint before it.
///
/// # Errors
/// If a file cannot be written; the old checkpoint then stays.
pub fn write_checkpoint(
    dir: &Path,
    config_yaml: &str,
    state: &RunState,
    optimizer: &HostTensors,
    write_weights: impl FnOnce(&Path) -> Result<()>,
) -> Result<Option<PathBuf>> {
    let destination = Destination::directory(dir, Existing::Own, &[])?;
    destination.write(|temporary| -> Result<()> {
        let put = |name: &str, bytes: &[u8]| {
            let path = temporary.join(name);
            fs::write(&path, bytes).at(&path)
        };
        write_weights(temporary)?;
        put(CONFIG_FILE, config_yaml.as_bytes())?;
        put(STATE_FILE, &json(state)?)?;
        let optimizer = tensors::to_bytes(optimizer).map_err(|e| RunError::damaged(OPTIMIZER_FILE, e))?;
        Ok(put(OPTIMIZER_FILE, &optimizer)?)
    })
}

fn json(state: &RunState) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(state).map_err(|e| RunError::damaged(STATE_FILE, e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// A checkpoint whose files have been checked.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Its directory.
    pub dir: PathBuf,
    /// Where the run was.
    pub state: RunState,
}

impl Checkpoint {
    /// Opens the checkpoint in `dir` and checks every file.
    ///
    /// # Errors
    /// Names the file that is missing, changed or unreadable.
    pub fn open(dir: &Path) -> Result<Self> {
        if !is_checkpoint(dir)? {
            let problem = format!("it has no {STATE_FILE}");
            return Err(RunError::NoCheckpoint { path: dir.to_path_buf(), problem }.into());
        }
        let dir = dir.to_path_buf();
        verify(&dir)?;
        let path = dir.join(STATE_FILE);
        let text = read_text(&path, JSON)?;
        check_version(&path, &text)?;
        let state: RunState = serde_json::from_str(&text).map_err(|e| RunError::damaged(&path, e))?;
        check_run_id(&state.run_id).map_err(|problem| RunError::damaged(&path, format!("run_id: {problem}")))?;
        Ok(Self { dir, state })
    }

    /// Finds a checkpoint from a run directory, its `checkpoints` folder or a checkpoint itself; of a run, the
    /// first of `names` that exists.
    ///
    /// # Errors
    /// As [`open`](Self::open), and if there is none.
    pub fn find(path: &Path, names: &[&str]) -> Result<Self> {
        if is_checkpoint(path)? {
            return Self::open(path);
        }
        let folders = [path.join("checkpoints"), path.to_path_buf()];
        let candidates = folders.iter().flat_map(|folder| names.iter().map(|name| folder.join(name)));
        for candidate in candidates {
            if is_checkpoint(&candidate)? {
                return Self::open(&candidate);
            }
        }
        let problem = format!("looked for {} in {} and in it", names.join(" and "), folders[0].display());
        Err(RunError::NoCheckpoint { path: path.to_path_buf(), problem }.into())
    }

    /// The configuration the run had.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn config_yaml(&self) -> Result<String, FileError> {
        let path = self.dir.join(CONFIG_FILE);
        read_text(&path, YAML)
    }

    /// The optimizer's state.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn optimizer(&self) -> Result<HostTensors> {
        tensors::read(&self.optimizer_path())
    }

    /// Path of the optimizer's state.
    pub fn optimizer_path(&self) -> PathBuf {
        self.dir.join(OPTIMIZER_FILE)
    }

    /// The adapters, when the checkpoint has them.
    pub fn adapter_dir(&self) -> Option<PathBuf> {
        Some(self.dir.join(ADAPTER_DIR)).filter(|dir| dir.is_dir())
    }

    /// The trained backbone, when the checkpoint has it.
    pub fn backbone_dir(&self) -> Option<PathBuf> {
        Some(self.dir.join(BACKBONE_DIR)).filter(|dir| dir.is_dir())
    }

    /// Decoder and head weights.
    pub fn head_path(&self) -> PathBuf {
        self.dir.join(HEAD_FILE)
    }

    /// Checks that the base in use is the one the checkpoint was trained on.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_base(&self, found: Option<&BaseIdentity>) -> Result<()> {
        let Some(expected) = &self.state.base else { return Ok(()) };
        match found {
            Some(found) if found.sha256 == expected.sha256 => Ok(()),
            _ => Err(RunError::OtherBase {
                path: self.dir.clone(),
                name: expected.name.clone(),
                expected: expected.sha256.clone(),
                found: found.map_or_else(|| "no frozen weights".to_owned(), |f| f.sha256.clone()),
            }
            .into()),
        }
    }

    /// Checks that the backbone in use computes what the one of the checkpoint did. `false` if the checkpoint does not say.
    ///
    /// # Errors
    /// Names each key that differs, with both values.
    pub fn check_computation(&self, found: &Computation) -> Result<bool> {
        let Some(expected) = &self.state.computation else { return Ok(false) };
        let value = |values: &Computation, key: &str| values.get(key).cloned().unwrap_or_else(|| "nothing".to_owned());
        let keys: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
        let differs = keys.into_iter().filter(|key| expected.get(*key) != found.get(*key));
        let differs: Vec<String> =
            differs.map(|key| format!("{key} is {}, was {}", value(found, key), value(expected, key))).collect();
        if differs.is_empty() {
            return Ok(true);
        }
        let problem = format!(
            "the backbone does not compute what the one of the checkpoint did: {}; put its config.json and \
             preprocessor_config.json back as they were",
            listing(differs, 8)
        );
        Err(RunError::DoesNotFit { path: self.dir.clone(), problem }.into())
    }
}

fn is_checkpoint(dir: &Path) -> Result<bool, FileError> {
    is_file(&dir.join(STATE_FILE))
}

/// Whether there is such a file. A directory on the way that may not be looked into is an error, not a no.
pub(crate) fn is_file(path: &Path) -> Result<bool, FileError> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match fs::metadata(path) {
        Ok(found) => Ok(found.is_file()),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(false),
        Err(error) => Err(error).at(path),
    }
}

fn check_version(path: &Path, text: &str) -> Result<()> {
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let found = serde_json::from_str::<Version>(text).map_err(|e| RunError::damaged(path, e))?.format_version;
    if found == 0 {
        let problem = format!("format_version is 0, expected 1 to {FORMAT_VERSION}");
        return Err(RunError::damaged(path, problem).into());
    }
    if found > FORMAT_VERSION {
        let path = path.to_path_buf();
        return Err(RunError::NewerCheckpoint { path, found, supported: FORMAT_VERSION }.into());
    }
    Ok(())
}

/// Checks every file against the manifest, and that it lists what every checkpoint has.
fn verify(dir: &Path) -> Result<()> {
    let path = dir.join(MANIFEST_FILE);
    let text = read_text(&path, JSON).map_err(|e| RunError::damaged(&path, e))?;
    let manifest = Manifest::parse(&text).map_err(|e| RunError::damaged(&path, e))?;
    for name in [CONFIG_FILE, STATE_FILE, OPTIMIZER_FILE] {
        if !manifest.files().any(|(listed, _)| listed == name) {
            return Err(RunError::damaged(&path, format!("it does not list {name}")).into());
        }
    }
    for (name, expected) in manifest.files() {
        let file = dir.join(name);
        let found = hash_file(&file).map_err(|e| RunError::damaged(&file, e))?;
        if found != expected {
            let problem = format!("the file has changed: its SHA-256 is {found}, {MANIFEST_FILE} has {expected}");
            return Err(RunError::damaged(&file, problem).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::HostTensor;
    use super::*;

    fn write(dir: &Path, step: u64) -> Result<Option<PathBuf>> {
        let base = BaseIdentity { name: "dinov3".to_owned(), sha256: "ab".to_owned() };
        let state = RunState { step, epoch_loss_sum: 0.1 + 0.2, ..RunState::start("run-1", 42, Some(base)) };
        let moments = HostTensor { shape: vec![2], values: vec![0.1, 0.2] };
        let optimizer = HostTensors::from([("head.w.moment_1".to_owned(), moments)]);
        write_checkpoint(dir, "training: {}\n", &state, &optimizer, |d| {
            let adapter = d.join(ADAPTER_DIR);
            fs::create_dir(&adapter).at(&adapter)?;
            fs::write(adapter.join("adapter_config.json"), "{}").at(&adapter)?;
            Ok(fs::write(d.join(HEAD_FILE), [1, 2, 3]).at(d)?)
        })
    }

    #[test]
    fn a_checkpoint_comes_back_as_it_was_written() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("checkpoints/last");
        for step in [3, 4] {
            write(&dir, step).unwrap();
        }
        let found = Checkpoint::find(run.path(), &["last"]).unwrap();
        assert_eq!((found.state.step, found.state.epoch_loss_sum), (4, 0.1 + 0.2));
        assert_eq!(found.config_yaml().unwrap(), "training: {}\n");
        assert_eq!(found.optimizer().unwrap()["head.w.moment_1"].values, [0.1, 0.2]);
        assert!(found.adapter_dir().is_some() && found.backbone_dir().is_none());
        let text = fs::read_to_string(dir.join(MANIFEST_FILE)).unwrap();
        assert!(text.contains("\"adapter/adapter_config.json\""), "{text}");
    }

    #[test]
    fn a_changed_missing_or_cut_file_is_named() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("last");
        for name in [HEAD_FILE, CONFIG_FILE, STATE_FILE, OPTIMIZER_FILE, "adapter/adapter_config.json"] {
            write(&dir, 1).unwrap();
            let path = dir.join(name);
            let mut bytes = fs::read(&path).unwrap();
            bytes[0] ^= 1;
            fs::write(&path, bytes).unwrap();
            let error = Checkpoint::open(&dir).unwrap_err().to_string();
            assert!(error.contains(Path::new(name).file_name().unwrap().to_str().unwrap()), "{error}");
            assert!(error.contains("changed"), "{error}");
        }
        write(&dir, 1).unwrap();
        fs::remove_file(dir.join(HEAD_FILE)).unwrap();
        assert!(Checkpoint::open(&dir).unwrap_err().to_string().contains(HEAD_FILE));
    }

    #[test]
    fn a_neighbour_with_a_similar_name_is_no_checkpoint_and_stays() {
        let run = tempfile::tempdir().unwrap();
        let (dir, neighbour) = (run.path().join("last"), run.path().join("last.old"));
        write(&neighbour, 7).unwrap();
        assert!(Checkpoint::open(&dir).unwrap_err().to_string().contains("it has no state.json"));
        write(&dir, 8).unwrap();
        assert_eq!(Checkpoint::open(&dir).unwrap().state.step, 8);
        assert_eq!(Checkpoint::open(&neighbour).unwrap().state.step, 7);
    }

    #[test]
    fn a_failed_write_leaves_the_old_checkpoint() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("last");
        write(&dir, 1).unwrap();
        let state = RunState::start("run-1", 42, None);
        let full = |d: &Path| Ok(Err(std::io::Error::other("disk full")).at(d)?);
        write_checkpoint(&dir, "", &state, &HostTensors::new(), full).unwrap_err();
        assert_eq!(Checkpoint::open(&dir).unwrap().state.step, 1);
        assert_eq!(fs::read_dir(run.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_base_is_refused_with_both_hashes() {
        let run = tempfile::tempdir().unwrap();
        write(&run.path().join("last"), 1).unwrap();
        let found = Checkpoint::open(&run.path().join("last")).unwrap();
        let base = |hash: &str| BaseIdentity { name: "other".to_owned(), sha256: hash.to_owned() };
        found.check_base(Some(&base("ab"))).unwrap();
        let error = found.check_base(Some(&base("cd"))).unwrap_err().to_string();
        assert!(error.contains("ab") && error.contains("cd") && error.contains("dinov3"), "{error}");
        assert!(found.check_base(None).is_err());
    }

    /// The error of a checkpoint whose checksums are right and whose state is this.
    fn refused(state: RunState) -> String {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("last");
        write_checkpoint(&dir, "", &state, &HostTensors::new(), |_| Ok(())).unwrap();
        Checkpoint::open(&dir).unwrap_err().to_string()
    }

    #[test]
    fn a_format_that_does_not_exist_is_refused_by_its_version() {
        let version = |format_version| RunState { format_version, ..RunState::start("r", 1, None) };
        assert!(refused(version(99)).contains("version 99"));
        assert!(refused(version(0)).contains("format_version is 0, expected 1 to 2"));
    }

    #[test]
    fn a_run_id_that_leads_elsewhere_is_refused() {
        for id in ["", ".", "..", "a/b", "/a", "../a", "a\\b", "a\u{1b}[2J"] {
            assert!(refused(RunState::start(id, 1, None)).contains("run_id: "), "{id}");
        }
    }

    #[test]
    fn a_checkpoint_of_version_1_is_read() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("last");
        write(&dir, 5).unwrap();
        let mut state: serde_json::Value = serde_json::from_slice(&fs::read(dir.join(STATE_FILE)).unwrap()).unwrap();
        state["format_version"] = 1.into();
        for newer in ["computation", "frames"] {
            state.as_object_mut().unwrap().remove(newer);
        }
        state["monitor"].as_object_mut().unwrap().remove("metric");
        let destination = Destination::directory(&dir, Existing::Own, &[]).unwrap();
        let empty = tensors::to_bytes(&HostTensors::new()).unwrap();
        let files = [(STATE_FILE, state.to_string().into_bytes()), (CONFIG_FILE, vec![]), (OPTIMIZER_FILE, empty)];
        destination
            .write(|dir| files.iter().try_for_each(|(name, bytes)| fs::write(dir.join(name), bytes).at(dir)))
            .unwrap();
        let found = Checkpoint::open(&dir).unwrap();
        assert_eq!((found.state.step, found.state.monitor.metric.as_deref()), (5, None));
        assert!(!found.check_computation(&Computation::new()).unwrap());
    }

    #[test]
    fn a_backbone_that_computes_something_else_is_refused_key_by_key() {
        let run = tempfile::tempdir().unwrap();
        let dir = run.path().join("last");
        let values = |heads: &str, theta: &str| {
            let pairs = [("num_attention_heads", heads), ("rope_theta", theta), ("patch_size", "16")];
            Some(Computation::from(pairs.map(|(key, value)| (key.to_owned(), value.to_owned()))))
        };
        let state = RunState { computation: values("12", "100"), ..RunState::start("r", 1, None) };
        write_checkpoint(&dir, "", &state, &HostTensors::new(), |_| Ok(())).unwrap();
        let found = Checkpoint::open(&dir).unwrap();
        assert!(found.check_computation(&values("12", "100").unwrap()).unwrap());
        let error = found.check_computation(&values("6", "10000").unwrap()).unwrap_err().to_string();
        assert!(error.contains("num_attention_heads is 6, was 12, rope_theta is 10000, was 100"), "{error}");
        assert!(!error.contains("patch_size"), "{error}");
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_cannot_be_looked_into_is_not_taken_for_an_empty_one() {
        let run = tempfile::tempdir().unwrap();
        // Whoever runs the test may be allowed everything; a link to itself nobody can follow.
        std::os::unix::fs::symlink(run.path().join("checkpoints"), run.path().join("checkpoints")).unwrap();
        let error = Checkpoint::find(run.path(), &["last"]).unwrap_err().to_string();
        assert!(error.contains("checkpoints/last/state.json: ") && !error.contains("no checkpoint here"), "{error}");
    }
}

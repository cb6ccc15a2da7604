//! From `pretrained_model_name` to a directory on disk.
//!
//! | module | what lives there |
//! |---|---|
//! | `environment` | the variables of Hugging Face's libraries: caches, address, token |
//! | `download` | from the hub into its cache |
//! | `client` | requests |
//! | `failure` | why a download did not come to its end |
//! | `progress` | how far it is |
//!
//! All but `environment` are of the cargo feature `hub`.

#[cfg(feature = "hub")]
mod client;
#[cfg(feature = "hub")]
mod download;
mod environment;
#[cfg(feature = "hub")]
mod failure;
#[cfg(feature = "hub")]
mod progress;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::console::shown;
use crate::error::{IoContext, Result};
use crate::files::{Limit, read_bytes, read_text};
use crate::models::ModelError;

#[cfg(feature = "hub")]
use download::download;
use environment::{Environment, expanded};

use super::checkpoint::CONFIG_FILE;
use super::foreign::{Foreign, is_there, sniff_file};
use super::index::ShardIndex;
use super::weights::{INDEX, INDEX_FILE, SINGLE_FILE};

/// The key that names a model.
const KEY: &str = "model.pretrained_model_name";
/// The name of a revision.
const REVISION: Limit = Limit { kind: "the name of a revision", bytes: 4096 };

/// Finds the directory of a model: `name` is a directory, or a hub id in one of the local caches. Never downloads.
///
/// # Errors
/// Says where it looked and how to get the model, or what is there and cannot be read.
pub fn find(name: &str) -> Result<PathBuf> {
    located(name, Missing::IsAnError)
}

/// As [`find`]; without `local_files_only`, a hub id that is in no cache as a whole is downloaded into the first of them,
/// unless `HF_HUB_OFFLINE` is set.
///
/// # Errors
/// As [`find`], or why the download failed.
pub fn resolve(name: &str, local_files_only: bool) -> Result<PathBuf> {
    located(name, if local_files_only { Missing::CouldBeDownloaded } else { Missing::IsDownloaded })
}

/// What becomes of a hub id that is in no cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    IsAnError,
    /// An error that names the key which allows the download.
    CouldBeDownloaded,
    IsDownloaded,
}

fn located(name: &str, missing: Missing) -> Result<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let path = expanded(PathBuf::from(name), home.as_deref());
    locate(&path.to_string_lossy(), missing, &Environment::of(|name| env::var_os(name)))
}

fn locate(name: &str, missing: Missing, environment: &Environment) -> Result<PathBuf> {
    let path = Path::new(name);
    if !name.is_empty() && is_there(path)? {
        return match fs::metadata(path).at(path)?.is_dir() {
            true => Ok(path.to_path_buf()),
            false => Err(ModelError::file(path, what_file(path)?).into()),
        };
    }
    if !is_hub_id(name) {
        let message = format!("`{}` is neither a directory nor a hub id such as facebook/dinov2-small", shown(name));
        return Err(ModelError::key(KEY, message).into());
    }
    let (mut first, mut ambiguous) = (None, String::new());
    for cache in &environment.caches {
        match snapshot(&cache.join(folder_of(name)))? {
            Snapshot::Found(found) if missing != Missing::IsDownloaded || is_whole(&found)? => return Ok(found),
            Snapshot::Found(found) => first = first.or(Some(found)),
            Snapshot::Ambiguous(message) => ambiguous = message,
            Snapshot::None => {}
        }
    }
    let local = match (missing, environment.offline, first) {
        (Missing::IsDownloaded, None, _) => return download(name, environment),
        // Whoever opens it says what it lacks.
        (_, _, Some(found)) => return Ok(found),
        (Missing::IsDownloaded, Some(variable), None) => format!("; {variable} forbids to download it here"),
        (Missing::CouldBeDownloaded, ..) => {
            "; model.backbone.local_files_only=false downloads it when it is needed".to_owned()
        }
        (Missing::IsAnError, ..) => String::new(),
    };
    let places = environment.caches.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ");
    let message = format!(
        "`{name}` is no directory, and not in the hub cache ({places}); get it with `hf download {name}`, or name a \
         directory that holds it{local}{ambiguous}"
    );
    Err(ModelError::key(KEY, message).into())
}

/// Reports the cargo feature that is missing.
///
/// # Errors
/// Always.
#[cfg(not(feature = "hub"))]
fn download(name: &str, _environment: &Environment) -> Result<PathBuf> {
    let message = format!(
        "`{name}` is not in the hub cache as a whole, and this program was built without the cargo feature `hub`, which \
         downloads; get it with `hf download {name}`, or name a directory that holds it"
    );
    Err(ModelError::key(KEY, message).into())
}

/// Whether a directory holds all that a model is built from. An index that is not understood counts: whoever reads it says
/// what is wrong.
///
/// # Errors
/// What is there and cannot be read.
fn is_whole(dir: &Path) -> Result<bool> {
    // A link of the cache to a content that is gone counts as absent here: it is downloaded again.
    let has = |file: &str| dir.join(file).exists();
    if !has(CONFIG_FILE) || has(SINGLE_FILE) || !has(INDEX_FILE) {
        return Ok(has(CONFIG_FILE) && has(SINGLE_FILE));
    }
    let index = ShardIndex::parse(&read_bytes(dir.join(INDEX_FILE), INDEX)?);
    Ok(index.map_or(true, |index| index.files().into_iter().all(has)))
}

/// The folder of a model in a cache.
fn folder_of(name: &str) -> String {
    format!("models--{}", name.replace('/', "--"))
}

/// Why a file is no model directory.
fn what_file(path: &Path) -> Result<String> {
    Ok(match sniff_file(path)? {
        Some(found) if !matches!(found, Foreign::Json | Foreign::Text(_)) => found.to_string(),
        _ => "is a file; expected a directory with config.json and model.safetensors".to_owned(),
    })
}

/// `org/name`, or `name`, of the characters the hub allows; never a path that leaves the cache.
pub(crate) fn is_hub_id(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty() && !p.starts_with('.') && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(part)
}

/// What a model's folder in a cache holds.
enum Snapshot {
    /// The revision that `refs/main` names, or else the only one.
    Found(PathBuf),
    /// Several, of which none is named; says so.
    Ambiguous(String),
    None,
}

/// # Errors
/// What is there and cannot be read.
fn snapshot(folder: &Path) -> Result<Snapshot> {
    let snapshots = folder.join("snapshots");
    if !is_there(&snapshots)? {
        return Ok(Snapshot::None);
    }
    let main = folder.join("refs/main");
    if is_there(&main)? {
        let revision = read_text(&main, REVISION)?;
        let revision = revision.trim();
        let found = snapshots.join(revision);
        let plain = !revision.is_empty() && revision.chars().all(|c| c.is_ascii_alphanumeric());
        if plain && is_there(&found)? {
            return Ok(Snapshot::Found(found));
        }
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&snapshots).at(&snapshots)? {
        let path = entry.at(&snapshots)?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    Ok(match (found.pop(), found.len()) {
        (None, _) => Snapshot::None,
        (Some(only), 0) => Snapshot::Found(only),
        (Some(_), more) => Snapshot::Ambiguous(format!(
            "; {} holds {} revisions, and refs/main names none of them: name one as a directory",
            snapshots.display(),
            more + 1
        )),
    })
}

#[cfg(test)]
mod tests;

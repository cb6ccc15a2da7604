//! From `pretrained_model_name` to a directory on disk.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::console::shown;
use crate::error::{IoContext, Result};
use crate::files::{Limit, read_text};
use crate::models::ModelError;

use super::foreign::{Foreign, is_there, sniff_file};

/// The name of a revision.
const REVISION: Limit = Limit { kind: "the name of a revision", bytes: 4096 };

/// Finds the directory of a model: `name` is a directory, or a hub id in one of the local hub caches.
///
/// # Errors
/// Says where it looked and how to get the model, or what is there and cannot be read.
pub fn resolve(name: &str, local_files_only: bool) -> Result<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from);
    let path = expanded(PathBuf::from(name), home.as_deref());
    resolve_in(&path.to_string_lossy(), local_files_only, &caches())
}

fn resolve_in(name: &str, local_files_only: bool, caches: &[PathBuf]) -> Result<PathBuf> {
    let path = Path::new(name);
    if !name.is_empty() && is_there(path)? {
        return match fs::metadata(path).at(path)?.is_dir() {
            true => Ok(path.to_path_buf()),
            false => Err(ModelError::file(path, what_file(path)?).into()),
        };
    }
    let mut ambiguous = String::new();
    if is_hub_id(name) {
        let folder = format!("models--{}", name.replace('/', "--"));
        for cache in caches {
            match snapshot(&cache.join(&folder))? {
                Snapshot::Found(found) => return Ok(found),
                Snapshot::Ambiguous(message) => ambiguous = message,
                Snapshot::None => {}
            }
        }
    }
    let message = not_found(name, local_files_only, caches) + &ambiguous;
    Err(ModelError::key("model.pretrained_model_name", message).into())
}

/// Why a file is no model directory.
fn what_file(path: &Path) -> Result<String> {
    Ok(match sniff_file(path)? {
        Some(found) if !matches!(found, Foreign::Json | Foreign::Text(_)) => found.to_string(),
        _ => "is a file; expected a directory with config.json and model.safetensors".to_owned(),
    })
}

fn not_found(name: &str, local_files_only: bool, caches: &[PathBuf]) -> String {
    if !is_hub_id(name) {
        return format!("`{}` is neither a directory nor a hub id such as facebook/dinov2-small", shown(name));
    }
    let places = caches.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ");
    let download =
        if local_files_only { "" } else { " (local_files_only is false, but this version does not download)" };
    format!(
        "`{name}` is no directory, and not in the hub cache ({places}){download}; get it with \
         `hf download {name}`, or name a directory that holds it"
    )
}

/// `org/name`, or `name`, of the characters the hub allows; never a path that leaves the cache.
pub(crate) fn is_hub_id(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty() && !p.starts_with('.') && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(part)
}

/// Cache directories in the order Hugging Face's libraries look, older names of the variables last.
fn caches() -> Vec<PathBuf> {
    caches_of(|name| env::var_os(name))
}

fn caches_of(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let home = variable("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let path =
        |name: &str| variable(name).filter(|v| !v.is_empty()).map(|v| expanded(PathBuf::from(v), home.as_deref()));
    let found = [
        path("HF_HUB_CACHE"),
        path("HUGGINGFACE_HUB_CACHE"),
        path("HF_HOME").map(|home| home.join("hub")),
        path("XDG_CACHE_HOME").map(|cache| cache.join("huggingface").join("hub")),
        home.as_ref().map(|home| home.join(".cache/huggingface/hub")),
        path("TRANSFORMERS_CACHE"),
        path("PYTORCH_TRANSFORMERS_CACHE"),
    ];
    let mut caches: Vec<PathBuf> = Vec::new();
    for cache in found.into_iter().flatten() {
        if !caches.contains(&cache) {
            caches.push(cache);
        }
    }
    caches
}

/// A path whose leading `~` is the home directory, as Python's `expanduser` has it.
fn expanded(path: PathBuf, home: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), home) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path,
    }
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
mod tests {
    use super::*;

    #[test]
    fn a_hub_id_is_found_through_the_revision_that_main_names() {
        let cache = tempfile::tempdir().unwrap();
        let folder = cache.path().join("models--org--small");
        for revision in ["aaa", "bbb"] {
            fs::create_dir_all(folder.join("snapshots").join(revision)).unwrap();
        }
        let caches = [PathBuf::from("/nowhere"), cache.path().to_path_buf()];
        let message = resolve_in("org/small", true, &caches).unwrap_err().to_string();
        assert!(message.contains("holds 2 revisions, and refs/main names none"), "{message}");
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), "bbb\n").unwrap();
        assert_eq!(resolve_in("org/small", true, &caches).unwrap(), folder.join("snapshots/bbb"));
    }

    #[test]
    fn a_missing_model_says_where_it_was_looked_for_and_how_to_get_it() {
        let caches = [PathBuf::from("/some/cache")];
        let message = resolve_in("org/none", true, &caches).unwrap_err().to_string();
        assert!(message.contains("/some/cache") && message.contains("`hf download org/none`"), "{message}");
        let message = resolve_in("org/none", false, &caches).unwrap_err().to_string();
        assert!(message.contains("does not download"), "{message}");
    }

    #[test]
    fn a_name_that_would_leave_the_cache_is_refused() {
        let cache = tempfile::tempdir().unwrap();
        for name in ["../org", "...", "a/b/c", "/etc/nothing"] {
            let message = resolve_in(name, true, &[cache.path().to_path_buf()]).unwrap_err().to_string();
            assert!(message.contains("neither a directory nor a hub id"), "{message}");
        }
    }

    #[test]
    fn caches_are_where_the_libraries_of_hugging_face_look() {
        let of = |set: &[(&str, &str)]| {
            let value = |name: &str| set.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v));
            caches_of(value).iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of(&[("HOME", "/h")]), ["/h/.cache/huggingface/hub"]);
        assert_eq!(of(&[("HOME", "/h"), ("HF_HOME", "~/hf")]), ["/h/hf/hub", "/h/.cache/huggingface/hub"]);
        assert_eq!(of(&[("HUGGINGFACE_HUB_CACHE", "/a"), ("HF_HUB_CACHE", "/a"), ("HF_HOME", "")]), ["/a"]);
        assert_eq!(of(&[("HOME", "/h"), ("TRANSFORMERS_CACHE", "~")]), ["/h/.cache/huggingface/hub", "/h/"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_may_not_be_read_is_not_called_absent() {
        use std::os::unix::fs::symlink;
        let cache = tempfile::tempdir().unwrap();
        let broken = cache.path().join("broken");
        symlink("/nowhere/else", &broken).unwrap();
        let message = resolve_in(&broken.display().to_string(), true, &[]).unwrap_err().to_string();
        assert!(message.contains("is a link to /nowhere/else, which is not there"), "{message}");
        let page = cache.path().join("page");
        fs::write(&page, "<!doctype html>").unwrap();
        let message = resolve_in(&page.display().to_string(), true, &[]).unwrap_err().to_string();
        assert!(message.contains("is a web page"), "{message}");
    }
}

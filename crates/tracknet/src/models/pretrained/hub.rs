//! From `pretrained_model_name` to a directory on disk.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::models::ModelError;

/// Finds the directory of a model: `name` is a directory, or a hub id in one of the local hub caches.
///
/// # Errors
/// Says where it looked and how to get the model.
pub fn resolve(name: &str, local_files_only: bool) -> Result<PathBuf, ModelError> {
    resolve_in(name, local_files_only, &caches())
}

fn resolve_in(name: &str, local_files_only: bool, caches: &[PathBuf]) -> Result<PathBuf, ModelError> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.to_path_buf());
    }
    if path.is_file() {
        return Err(ModelError::file(path, "is a file; expected a directory with config.json and model.safetensors"));
    }
    if is_hub_id(name) {
        let folder = format!("models--{}", name.replace('/', "--"));
        if let Some(found) = caches.iter().find_map(|cache| snapshot(&cache.join(&folder))) {
            return Ok(found);
        }
    }
    Err(ModelError::key("model.pretrained_model_name", not_found(name, local_files_only, caches)))
}

fn not_found(name: &str, local_files_only: bool, caches: &[PathBuf]) -> String {
    if !is_hub_id(name) {
        return format!("`{name}` is neither a directory nor a hub id such as facebook/dinov2-small");
    }
    let places = caches.iter().map(|c| c.display().to_string()).collect::<Vec<_>>().join(", ");
    let download =
        if local_files_only { "" } else { " (local_files_only is false, but this version does not download)" };
    format!(
        "`{name}` is no directory, and not in the hub cache ({places}){download}; get it with \
         `huggingface-cli download {name}`, or name a directory that holds it"
    )
}

/// `org/name`, or `name`, of the characters the hub allows; never a path that leaves the cache.
fn is_hub_id(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty() && !p.starts_with('.') && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() <= 2 && parts.into_iter().all(part)
}

/// Cache directories in the order Hugging Face's libraries look.
fn caches() -> Vec<PathBuf> {
    let variable = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let mut caches = Vec::new();
    caches.extend(variable("HF_HUB_CACHE"));
    caches.extend(variable("HF_HOME").map(|home| home.join("hub")));
    caches.extend(variable("XDG_CACHE_HOME").map(|cache| cache.join("huggingface").join("hub")));
    caches.extend(variable("HOME").map(|home| home.join(".cache/huggingface/hub")));
    caches
}

/// The snapshot that `refs/main` names, or else the only one there is.
fn snapshot(folder: &Path) -> Option<PathBuf> {
    let snapshots = folder.join("snapshots");
    if let Ok(revision) = fs::read_to_string(folder.join("refs/main")) {
        let revision = revision.trim();
        let found = snapshots.join(revision);
        if revision.chars().all(|c| c.is_ascii_alphanumeric()) && found.is_dir() {
            return Some(found);
        }
    }
    let mut found: Vec<PathBuf> =
        fs::read_dir(snapshots).ok()?.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect();
    if found.len() == 1 { found.pop() } else { None }
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
        assert!(resolve_in("org/small", true, &caches).is_err(), "two snapshots and no ref is ambiguous");
        fs::create_dir_all(folder.join("refs")).unwrap();
        fs::write(folder.join("refs/main"), "bbb\n").unwrap();
        assert_eq!(resolve_in("org/small", true, &caches).unwrap(), folder.join("snapshots/bbb"));
    }

    #[test]
    fn a_missing_model_says_where_it_was_looked_for_and_how_to_get_it() {
        let caches = [PathBuf::from("/some/cache")];
        let message = resolve_in("org/none", true, &caches).unwrap_err().to_string();
        assert!(message.contains("/some/cache") && message.contains("huggingface-cli download org/none"), "{message}");
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
}

//! Directories that are either whole or absent, and what they say about who wrote them.
//!
//! Every directory that the program writes holds [`MANIFEST_FILE`], the SHA-256 of each of its other files. A checkpoint
//! is checked against it when it is read, and a destination before it is replaced: what is not in the manifest, or not as
//! the manifest says, is somebody else's work.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::atomic::sync_directory;
use super::read::{JSON, open_regular, read_text};
use super::{FileError, IoContext, Result, hex, parent_of, temporary};

/// Name of the manifest in a directory.
pub const MANIFEST_FILE: &str = "checksums.json";

/// The files that were written together, by their name below the directory (with forward slashes), and their SHA-256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest(BTreeMap<String, String>);

impl Manifest {
    /// Reads the manifest of a directory; `None` if it has none that can be read.
    pub fn of(dir: &Path) -> Option<Self> {
        let text = read_text(dir.join(MANIFEST_FILE), JSON).ok()?;
        serde_json::from_str(&text).ok().map(Self)
    }

    /// Parses a manifest.
    ///
    /// # Errors
    /// Text that is no map from names to checksums.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text).map(Self)
    }

    /// Names and checksums.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, checksum)| (name.as_str(), checksum.as_str()))
    }

    /// What is in `dir` beside or instead of what the manifest says; `None` if nothing is.
    pub fn difference(&self, dir: &Path) -> Result<Option<String>> {
        let names: BTreeSet<String> = files_in(dir)?.iter().map(|path| relative_name(dir, path)).collect();
        for name in names.iter().filter(|name| *name != MANIFEST_FILE) {
            let Some(expected) = self.0.get(name) else {
                return Ok(Some(format!("holds {name}, which tracknet did not write")));
            };
            let path = dir.join(name);
            if hash_file(&path).at(&path)? != *expected {
                return Ok(Some(format!("{name} was changed since tracknet wrote it")));
            }
        }
        Ok(None)
    }

    /// Removes the files that the manifest lists, itself, and what is then empty. Returns whether nothing is left.
    pub(super) fn remove_listed(&self, dir: &Path) -> std::io::Result<bool> {
        let names = self.0.keys().map(String::as_str).chain([MANIFEST_FILE]);
        for file in names.filter(|name| is_below(name)).map(|name| dir.join(name)).filter(|file| file.is_file()) {
            fs::remove_file(file)?;
        }
        for directory in walk(dir)?.1.iter().rev() {
            // Fails when something is left in it.
            let _ = fs::remove_dir(directory);
        }
        Ok(fs::remove_dir(dir).is_ok())
    }
}

/// Hashes every file below `dir` and writes the manifest.
pub(super) fn write_manifest(dir: &Path) -> Result<()> {
    let mut checksums = BTreeMap::new();
    for path in files_in(dir)? {
        checksums.insert(relative_name(dir, &path), hash_file(&path).at(&path)?);
    }
    let path = dir.join(MANIFEST_FILE);
    let mut text = serde_json::to_string_pretty(&checksums).map_err(std::io::Error::from).at(&path)?;
    text.push('\n');
    fs::write(&path, text).at(&path)
}

/// What happens to the directory that stood at the destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Old {
    /// There must be none.
    None,
    /// What its manifest lists is removed; what else is in it stays, as `<name>.kept-<n>`.
    Own,
    /// All of it is removed.
    All,
}

/// Fills a directory through `fill` under a temporary name beside `path`, syncs it, and renames it to `path`.
/// Returns where files of others in the replaced directory were moved.
pub(super) fn write<E: From<FileError>>(
    path: &Path,
    old: Old,
    fill: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<Option<PathBuf>, E> {
    let temporary = temporary::Directory::beside(path)?;
    fill(temporary.path())?;
    for file in files_in(temporary.path())? {
        File::options().write(true).open(&file).and_then(|f| f.sync_all()).at(&file)?;
    }
    for directory in directories_in(temporary.path())? {
        sync_directory(&directory)?;
    }
    sync_directory(temporary.path())?;
    let replaced = place(temporary, path, old)?;
    sync_directory(parent_of(path))?;
    match (replaced, old) {
        (Some(replaced), Old::Own) => return Ok(retire(&replaced, path)?),
        (Some(replaced), _) if replaced.is_dir() => fs::remove_dir_all(&replaced).at(&replaced)?,
        (Some(replaced), _) => fs::remove_file(&replaced).at(&replaced)?,
        (None, _) => {}
    }
    Ok(None)
}

/// Renames the temporary directory to its destination. Returns where the directory that stood there is now.
///
/// The two are exchanged in one step where the file system can; elsewhere the old one is moved aside first, under a name of
/// this call's own.
fn place(temporary: temporary::Directory, path: &Path, old: Old) -> Result<Option<PathBuf>> {
    if old == Old::None || fs::symlink_metadata(path).is_err() {
        rename_to_new(temporary.path(), path).at(path)?;
        temporary.keep();
        return Ok(None);
    }
    if exchange(temporary.path(), path).is_ok() {
        return Ok(Some(temporary.keep()));
    }
    let aside = temporary::Directory::beside(path)?.keep();
    fs::rename(path, &aside).at(path)?;
    if let Err(error) = fs::rename(temporary.path(), path).at(path) {
        fs::rename(&aside, path).at(path)?;
        return Err(error);
    }
    temporary.keep();
    Ok(Some(aside))
}

#[cfg(any(target_os = "linux", target_os = "macos"))]
fn exchange(a: &Path, b: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn exchange(_a: &Path, _b: &Path) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

/// Renames a directory to a name that is free; an empty directory counts as free.
fn rename_to_new(from: &Path, to: &Path) -> std::io::Result<()> {
    // The system itself refuses to rename a directory over one that is not empty, or over a file.
    fs::rename(from, to)
}

/// Removes the files that a directory's manifest lists; what is left gets a name beside `path`.
fn retire(dir: &Path, path: &Path) -> Result<Option<PathBuf>> {
    if let Some(manifest) = Manifest::of(dir)
        && manifest.remove_listed(dir).at(dir)?
    {
        return Ok(None);
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut number = 1;
    let kept = loop {
        let kept = path.with_file_name(format!("{name}.kept-{number}"));
        if fs::symlink_metadata(&kept).is_err() {
            break kept;
        }
        number += 1;
    };
    fs::rename(dir, &kept).at(&kept)?;
    Ok(Some(kept))
}

/// Whether a manifest's name stays below its directory: a manifest is a file like any other and may be crafted.
fn is_below(name: &str) -> bool {
    let path = Path::new(name);
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// Every file below a directory, sorted; symbolic links are files.
fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    walk(dir).at(dir).map(|(files, _)| files)
}

/// Every directory below a directory, parents first.
fn directories_in(dir: &Path) -> Result<Vec<PathBuf>> {
    walk(dir).at(dir).map(|(_, directories)| directories)
}

fn walk(dir: &Path) -> std::io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut directories) = (Vec::new(), vec![dir.to_path_buf()]);
    let mut next = 0;
    while let Some(directory) = directories.get(next).cloned() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let found = if entry.file_type()?.is_dir() { &mut directories } else { &mut files };
            found.push(entry.path());
        }
        next += 1;
    }
    files.sort();
    directories.remove(0);
    Ok((files, directories))
}

/// Path below `root` with forward slashes on every system.
fn relative_name(root: &Path, path: &Path) -> String {
    let parts = path.strip_prefix(root).unwrap_or(path).components();
    parts.map(|c| c.as_os_str().to_string_lossy().into_owned()).collect::<Vec<_>>().join("/")
}

/// SHA-256 of a file, in hexadecimal.
pub fn hash_file(path: &Path) -> std::io::Result<String> {
    let mut file = open_regular(path).map_err(std::io::Error::other)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
    }
}

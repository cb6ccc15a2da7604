//! Temporary names beside their destination: `.tracknet-<random>.tmp[.extension]`.
//!
//! Whoever writes one holds a lock on it, which the system releases when the process ends, however it ends. What carries
//! such a name and is not locked was left by a dead process and is removed by [`sweep`].

use std::fs::{self, File, Permissions};
use std::path::{Path, PathBuf};

use tempfile::{NamedTempFile, TempDir};

use super::directory::Manifest;
use super::{IoContext, Result, parent_of};

const PREFIX: &str = ".tracknet-";
const MARK: &str = ".tmp";

/// A temporary file beside `path`, with the permissions of the file that it will replace, or of a new one.
/// `extension` follows the name's `.tmp`, for programs that look at it; it starts with a dot, or is empty.
///
/// # Errors
/// A directory that cannot be made or written to.
pub fn file_beside(path: &Path, extension: &str) -> Result<NamedTempFile> {
    let parent = parent_of(path);
    fs::create_dir_all(parent).at(parent)?;
    let suffix = format!("{MARK}{extension}");
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(&suffix);
    if let Some(permissions) = new_permissions(0o666) {
        builder.permissions(permissions);
    }
    loop {
        let file = builder.tempfile_in(parent).at(parent)?;
        hold(file.as_file());
        // Between its making and its lock, another process may have taken it for a dead one's.
        if !file.path().exists() {
            continue;
        }
        if let Ok(old) = fs::metadata(path) {
            file.as_file().set_permissions(old.permissions()).at(file.path())?;
        }
        return Ok(file);
    }
}

/// A temporary directory that is removed when dropped.
#[derive(Debug)]
pub struct Directory {
    directory: TempDir,
    _lock: Option<File>,
}

impl Directory {
    /// A temporary directory beside `path`, with the permissions of a new one.
    ///
    /// # Errors
    /// A directory that cannot be made or written to.
    pub fn beside(path: &Path) -> Result<Self> {
        let parent = parent_of(path);
        fs::create_dir_all(parent).at(parent)?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(MARK);
        if let Some(permissions) = new_permissions(0o777) {
            builder.permissions(permissions);
        }
        loop {
            let directory = builder.tempdir_in(parent).at(parent)?;
            let lock = open_to_lock(directory.path()).ok();
            lock.as_ref().map(hold);
            if directory.path().exists() {
                return Ok(Self { directory, _lock: lock });
            }
        }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves the directory on disk: the caller renames or removes it.
    pub(super) fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}

/// Removes what dead processes left under temporary names in `parent`. What cannot be read or removed stays.
pub fn sweep(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains(MARK)) {
            continue;
        }
        let (path, kind) = (entry.path(), entry.file_type());
        let Ok(file) = open_to_lock(&path) else { continue };
        if file.try_lock().is_err() {
            continue;
        }
        // Failures leave it for the next start.
        let _ = match kind {
            Ok(kind) if kind.is_dir() => remove_leftover(&path),
            Ok(kind) if kind.is_file() => fs::remove_file(&path),
            _ => Ok(()),
        };
    }
}

/// Removes a directory that was being written; one that was already replaced as a whole may hold files of others, which stay.
fn remove_leftover(dir: &Path) -> std::io::Result<()> {
    match Manifest::of(dir) {
        Some(manifest) => manifest.remove_listed(dir).map(drop),
        None => fs::remove_dir_all(dir),
    }
}

/// Locks until the file is closed. File systems without locks go without: nothing is ever swept there.
fn hold(file: &File) {
    let _ = file.try_lock();
}

/// Opens a file or directory without waiting for a pipe's other end.
fn open_to_lock(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW;
        options.custom_flags(flags.bits() as i32);
    }
    options.open(path)
}

/// The permissions of a new file or directory before the umask, where there is one.
fn new_permissions(mode: u32) -> Option<Permissions> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        Some(Permissions::from_mode(mode))
    }
    #[cfg(not(unix))]
    {
        let _ = mode;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dead_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path(".tracknet-dead.tmp"), "half").unwrap();
        fs::write(path(".tracknet-dead.tmp.mp4"), "half").unwrap();
        fs::create_dir(path(".tracknet-gone.tmp")).unwrap();
        fs::write(path(".tracknet-gone.tmp").join("a"), "half").unwrap();
        let replaced = path(".tracknet-replaced.tmp");
        fs::create_dir(&replaced).unwrap();
        fs::write(replaced.join("checksums.json"), r#"{"a": "0"}"#).unwrap();
        fs::write(replaced.join("a"), "ours").unwrap();
        fs::write(replaced.join("b"), "theirs").unwrap();
        for stranger in [".tracknet-notes", "tracknet-a.tmp", "model.old", ".a.tmp"] {
            fs::write(path(stranger), "mine").unwrap();
        }
        let alive = (file_beside(&path("x"), ".mp4").unwrap(), Directory::beside(&path("y")).unwrap());
        sweep(dir.path());
        assert!(alive.0.path().exists() && alive.1.path().exists());
        drop(alive);
        let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        left.sort();
        let expected = [".a.tmp", ".tracknet-notes", ".tracknet-replaced.tmp", "model.old", "tracknet-a.tmp"];
        assert_eq!(left, expected);
        assert_eq!(fs::read_dir(&replaced).unwrap().count(), 1);
    }
}

//! Files that are either whole or absent.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::temporary::file_beside;
use super::{FileError, IoContext, Result, parent_of};

/// Writes a file through `write` under a temporary name in the same directory, then renames it to `path`.
///
/// A reader sees the old content or the new, never a half; on an error the old file stays. A new file has the
/// permissions that the umask gives, a replaced one keeps its own; a symbolic link stays, and what it points to is
/// replaced.
///
/// # Errors
/// A file that cannot be written.
pub fn write_atomic(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    replace_file(path, |file, _| {
        let mut writer = BufWriter::new(file);
        write(&mut writer).at(path)?;
        writer.flush().at(path)
    })
}

/// [`write_atomic`] for programs and libraries that want a path: `write` gets a temporary one in the same directory.
///
/// # Errors
/// A file that cannot be written.
pub fn write_file_atomic<E: From<FileError>>(path: &Path, write: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
    replace_file(path, |_, temporary| write(temporary))
}

fn replace_file<E: From<FileError>>(path: &Path, write: impl FnOnce(&File, &Path) -> Result<(), E>) -> Result<(), E> {
    let path = &followed(path)?;
    let temporary = file_beside(path, "")?;
    write(temporary.as_file(), temporary.path())?;
    Ok(replace_with(temporary, path)?)
}

/// Gives a temporary file that is written its name.
///
/// # Errors
/// A name that cannot be given.
pub fn replace_with(temporary: NamedTempFile, path: &Path) -> Result<()> {
    let path = &followed(path)?;
    temporary.as_file().sync_all().at(path)?;
    temporary.persist(path).map_err(|e| FileError::Io { path: path.clone(), cause: e.error })?;
    sync_directory(parent_of(path))
}

/// What `path` points to if it is a symbolic link, else itself. A directory cannot be replaced by a file.
fn followed(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        return Err(FileError::NotRegular { path: path.to_path_buf(), found: "a directory" });
    }
    Ok(if path.is_symlink() {
        fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
    } else {
        path.to_path_buf()
    })
}

/// Makes a rename in this directory last through a loss of power.
pub fn sync_directory(path: &Path) -> Result<()> {
    // Directories can be opened and synced on Unix only; elsewhere the rename itself is the guarantee.
    #[cfg(unix)]
    File::open(path).and_then(|d| d.sync_all()).at(path)?;
    let _ = path;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_keeps_the_old_file_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        write_atomic(&path, |w| w.write_all(b"old")).unwrap();
        let failed = write_atomic(&path, |w| {
            w.write_all(b"ne")?;
            Err(std::io::Error::other("disk full"))
        });
        assert!(failed.unwrap_err().to_string().contains("a.txt"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn a_private_file_stays_private_and_a_new_one_is_what_the_umask_makes_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (private, new, ordinary) =
            (dir.path().join("private"), dir.path().join("new"), dir.path().join("ordinary"));
        fs::write(&private, "old").unwrap();
        fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&ordinary, "").unwrap();
        for path in [&private, &new] {
            write_atomic(path, |w| w.write_all(b"text")).unwrap();
        }
        assert_eq!((mode(&private), mode(&new)), (0o600, mode(&ordinary)));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        fs::write(&target, "old").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomic(&link, |w| w.write_all(b"new")).unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&target).unwrap(), b"new");
    }

    #[test]
    fn a_directory_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = write_atomic(dir.path(), |_| Ok(())).unwrap_err().to_string();
        assert!(error.ends_with("is a directory, expected a regular file"), "{error}");
    }
}

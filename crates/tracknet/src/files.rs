//! Files that are either whole or absent: written under a temporary name, synced, renamed.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, IoContext, Result};

/// Writes a file through `write` under a temporary name in the same directory, then renames it to `path`.
///
/// A reader sees the old content or the new, never a half; on an error the old file stays.
pub fn write_atomic(
    path: impl AsRef<Path>,
    write: impl FnOnce(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> Result<()> {
    let path = path.as_ref();
    let parent = parent_of(path);
    fs::create_dir_all(parent).at(parent)?;
    let temporary = tempfile::Builder::new().prefix(".tracknet-").suffix(".tmp").tempfile_in(parent).at(parent)?;
    let mut writer = BufWriter::new(temporary.as_file());
    write(&mut writer).at(path)?;
    writer.flush().at(path)?;
    drop(writer);
    temporary.as_file().sync_all().at(path)?;
    let file = temporary.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), cause: e.error })?;
    make_readable(&file).at(path)?;
    Ok(())
}

/// Writes a file through `write`, which gets a temporary path in the same directory, then renames it to `path`.
pub(crate) fn write_file_atomic(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let parent = parent_of(path);
    let temporary = tempfile::Builder::new().prefix(".tracknet-").suffix(".tmp").tempfile_in(parent).at(parent)?;
    write(temporary.path())?;
    let file = temporary.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), cause: e.error })?;
    make_readable(&file).at(path)
}

/// Fills a directory through `fill` under a temporary name beside `path`, then renames it to `path`.
///
/// An existing directory at `path` is replaced; it is moved aside first, so that a crash between the two
/// renames leaves it as `<name>.old`.
pub fn write_dir_atomic(path: impl AsRef<Path>, fill: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let parent = parent_of(path);
    fs::create_dir_all(parent).at(parent)?;
    let temporary = tempfile::Builder::new().prefix(".tracknet-").suffix(".tmp").tempdir_in(parent).at(parent)?;
    fill(temporary.path())?;
    sync_directory(temporary.path())?;
    let old = path.with_extension("old");
    if path.exists() {
        if old.exists() {
            fs::remove_dir_all(&old).at(&old)?;
        }
        fs::rename(path, &old).at(path)?;
    }
    let kept = temporary.keep();
    make_directory_readable(&kept).at(&kept)?;
    fs::rename(&kept, path).at(path)?;
    if old.exists() {
        fs::remove_dir_all(&old).at(&old)?;
    }
    sync_directory(parent)
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> Result<()> {
    // Directories can be opened and synced on Unix only; elsewhere the rename itself is the guarantee.
    #[cfg(unix)]
    File::open(path).and_then(|d| d.sync_all()).at(path)?;
    let _ = path;
    Ok(())
}

/// Temporary files are created private (0600); what is kept gets the permissions of an ordinary new file.
fn make_readable(file: &File) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    let _ = file;
    Ok(())
}

fn make_directory_readable(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    }
    let _ = path;
    Ok(())
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
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

    #[test]
    fn a_directory_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("last");
        for text in ["one", "two"] {
            write_dir_atomic(&path, |d| fs::write(d.join(text), text).at(d)).unwrap();
        }
        assert!(path.join("two").exists() && !path.join("one").exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

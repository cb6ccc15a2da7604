//! One process at a time in a directory, or at a file: locks that the system releases when their holder ends, however it
//! ends.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::identity::leads_to;
use super::{FileError, IoContext, Result};

/// Name of the lock file in a directory; removed when the lock is given back.
pub const LOCK_FILE: &str = ".tracknet-lock";

/// The right to write in a directory, until it is dropped or the process ends.
#[derive(Debug)]
pub struct DirectoryLock {
    path: PathBuf,
    // Closing the file releases the lock.
    _file: File,
}

impl DirectoryLock {
    /// Takes the lock of a directory that exists. On file systems without locks every call succeeds.
    ///
    /// # Errors
    /// Another process holds it: which one, and since when; or the directory cannot be written.
    pub fn acquire(dir: &Path) -> Result<Self> {
        let path = dir.join(LOCK_FILE);
        loop {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).at(&path)?;
            match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(FileError::Locked { path: dir.to_path_buf(), holder: holder(&mut file) });
                }
                Err(fs::TryLockError::Error(cause)) if cause.kind() != std::io::ErrorKind::Unsupported => {
                    return Err(FileError::Io { path, cause });
                }
                _ => {}
            }
            // A holder removes the file before it gives the lock back: what was locked may be nobody's file any more.
            if !leads_to(&path, &file) {
                continue;
            }
            file.set_len(0).at(&path)?;
            let since = jiff::ZonedDateTime::now().strftime("%Y-%m-%d %H:%M:%S %Z");
            write!(file, "process {} since {since}", std::process::id()).at(&path)?;
            return Ok(Self { path, _file: file });
        }
    }
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // A file that stays is not locked any more and hinders nobody.
        let _ = fs::remove_file(&self.path);
    }
}

/// The right to write what a lock file stands for, until it is dropped or the process ends. The file stays: others may wait
/// for it.
#[derive(Debug)]
pub struct PathLock {
    // Closing the file releases the lock.
    _file: File,
}

impl PathLock {
    /// Takes the lock; waits for whoever holds it, and calls `waiting` before. On file systems without locks every call
    /// succeeds.
    ///
    /// # Errors
    /// The lock file cannot be written.
    pub fn wait(path: &Path, waiting: impl FnOnce()) -> Result<Self> {
        let parent = super::parent_of(path);
        fs::create_dir_all(parent).at(parent)?;
        let mut waiting = Some(waiting);
        loop {
            let file = File::options().write(true).create(true).truncate(false).open(path).at(path)?;
            let locked = match file.try_lock() {
                Err(fs::TryLockError::WouldBlock) => {
                    if let Some(waiting) = waiting.take() {
                        waiting();
                    }
                    file.lock()
                }
                Err(fs::TryLockError::Error(cause)) => Err(cause),
                Ok(()) => Ok(()),
            };
            match locked {
                Err(cause) if cause.kind() != std::io::ErrorKind::Unsupported => {
                    return Err(FileError::Io { path: path.to_path_buf(), cause });
                }
                // Other programs remove their lock files: what was locked may be nobody's file any more.
                Ok(()) if !leads_to(path, &file) => {}
                _ => return Ok(Self { _file: file }),
            }
        }
    }
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let known = file.take(256).read_to_string(&mut text).is_ok() && !text.is_empty();
    if known { text } else { "another process".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is_and_gets_the_lock_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirectoryLock::acquire(dir.path()).unwrap();
        let error = DirectoryLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("in use by process {} since 2", std::process::id())), "{error}");
        drop(first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        DirectoryLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn who_waits_for_a_file_is_told_so_and_goes_on_after_the_holder_even_if_that_removes_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks").join("a.lock");
        let first = PathLock::wait(&path, || panic!("nobody holds it")).unwrap();
        let (told, waits) = std::sync::mpsc::channel();
        let second = std::thread::spawn({
            let path = path.clone();
            move || PathLock::wait(&path, || told.send(()).unwrap()).map(|_| path.exists())
        });
        waits.recv().unwrap();
        assert!(!second.is_finished());
        fs::remove_file(&path).unwrap();
        drop(first);
        assert!(second.join().unwrap().unwrap(), "the lock is that of the file that is there");
    }

    #[test]
    fn a_file_that_a_dead_holder_left_hinders_nobody() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK_FILE), "process 1 since the flood").unwrap();
        DirectoryLock::acquire(dir.path()).unwrap();
    }
}

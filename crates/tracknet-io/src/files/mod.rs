//! The file system, for everything that the program reads and writes.
//!
//! | module | what it promises |
//! |---|---|
//! | [`atomic`] | a file is whole or absent: written under a temporary name, synced, renamed; permissions follow the umask |
//! | [`directory`] | the same for directories, with a manifest that tells later what this program wrote |
//! | [`destination`] | nothing of the user's is replaced unasked, and no input is written over |
//! | [`temporary`] | temporary names that tell whether their writer still lives, and the removal of those it left |
//! | [`identity`] | whether two names lead to the same file |
//! | [`lock`] | one process at a time in a directory, or at a file |
//! | [`space`] | what a file system has left |
//! | [`read`] | regular files only, up to a size that fits their kind |

use std::path::{Path, PathBuf};

pub mod atomic;
pub mod destination;
pub mod directory;
pub mod identity;
pub mod lock;
pub mod read;
pub mod space;
pub mod temporary;

pub use atomic::{write_atomic, write_file_atomic};
pub use destination::{Destination, Existing};
pub use directory::{MANIFEST_FILE, Manifest};
pub use identity::FileId;
pub use lock::{DirectoryLock, PathLock};
pub use read::{Limit, open_regular, read_bytes, read_text};
pub use space::free_bytes;

/// A result with [`FileError`].
pub type Result<T, E = FileError> = std::result::Result<T, E>;

/// Why a file or directory was not read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileError {
    /// A file or directory cannot be read or written.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system said. Part of the message, so not also its `source`: printed once.
        cause: std::io::Error,
    },
    /// Something stands at a destination that this program did not write, or that was changed since.
    #[error("{}: {found}; choose another name, or replace it with --overwrite", path.display())]
    Exists {
        /// The destination.
        path: PathBuf,
        /// What stands there.
        found: String,
    },
    /// A destination is one of the inputs, or holds it.
    #[error("{}: {relation} the input {}, which is never written over; choose another destination", path.display(), input.display())]
    OverInput {
        /// The destination.
        path: PathBuf,
        /// The input.
        input: PathBuf,
        /// `is` or `holds`.
        relation: &'static str,
    },
    /// A pipe, device, socket or directory where a file was expected.
    #[error("{}: is {found}, expected a regular file", path.display())]
    NotRegular {
        /// What was opened.
        path: PathBuf,
        /// What it is.
        found: &'static str,
    },
    /// A file far larger than its kind can be.
    #[error("{}: {size} bytes are too many for {kind} (at most {limit})", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        size: u64,
        /// What it should be.
        kind: &'static str,
        /// The most bytes that are read of this kind.
        limit: u64,
    },
    /// A text file whose bytes are no UTF-8.
    #[error("{}: is not UTF-8 text ({problem}); save it as UTF-8", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// Where it stops being text.
        problem: String,
    },
    /// Another process works in a directory.
    #[error("{}: in use by {holder}; wait for it to end, or stop it", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process, and since when.
        holder: String,
    },
}

/// Adds the path to an I/O result: `std::fs::read(&path).at(&path)?`.
pub trait IoContext<T> {
    /// Names the file or directory that the operation was about.
    ///
    /// # Errors
    /// What the operation met.
    fn at(self, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> IoContext<T> for std::io::Result<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|cause| FileError::Io { path: path.as_ref().to_path_buf(), cause })
    }
}

/// The directory that a path lies in.
pub fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_message_names_the_path_and_the_cause_and_the_chain_does_not_repeat_it() {
        let error = std::fs::read("no-such-file").at("no-such-file").unwrap_err();
        let FileError::Io { cause, .. } = &error else { panic!("{error:?}") };
        assert_eq!(error.to_string(), format!("no-such-file: {cause}"));
        assert!(error.source().is_none());
    }
}

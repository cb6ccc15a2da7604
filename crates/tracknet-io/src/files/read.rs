//! Reading files of others: regular files only, up to a size that fits their kind.
//!
//! A pipe under a label file's name would wait for ever, and a link to a device would fill the memory.

use std::fs::{File, FileType};
use std::io::Read;
use std::path::Path;

use super::{FileError, IoContext, Result};

/// The most bytes that are read of a kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// What the file is, with its article: `a YAML configuration`.
    pub kind: &'static str,
    /// The most bytes that are read of it.
    pub bytes: u64,
}

/// A YAML configuration.
pub const YAML: Limit = Limit { kind: "a YAML configuration", bytes: 4 << 20 };
/// A JSON file that describes a model, adapter, run or directory.
pub const JSON: Limit = Limit { kind: "a JSON description", bytes: 64 << 20 };
/// The labels of a clip: a row takes some 30 bytes.
pub const LABELS: Limit = Limit { kind: "a label file", bytes: 64 << 20 };
/// The annotations of a whole data set in one JSON file: a box takes some 200 bytes.
pub const ANNOTATIONS: Limit = Limit { kind: "an annotations file", bytes: 512 << 20 };
/// A picture as stored.
pub const PICTURE: Limit = Limit { kind: "a picture", bytes: 256 << 20 };
/// A log of a run.
pub const LOG: Limit = Limit { kind: "a log", bytes: 4 << 30 };
/// Tensors of a checkpoint that are read as a whole.
pub const TENSORS: Limit = Limit { kind: "a file of tensors", bytes: 1 << 40 };

/// Opens a regular file for reading; anything else is refused without waiting for it.
///
/// # Errors
/// A path that cannot be opened, or that is no regular file.
pub fn open_regular(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // Without this, opening a pipe waits for somebody to write to it.
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path).at(path)?;
    let kind = file.metadata().at(path)?.file_type();
    if kind.is_file() {
        return Ok(file);
    }
    Err(FileError::NotRegular { path: path.to_path_buf(), found: name_of(kind) })
}

/// Reads a file as a whole.
///
/// # Errors
/// As [`open_regular`], and a file above the limit.
pub fn read_bytes(path: impl AsRef<Path>, limit: Limit) -> Result<Vec<u8>> {
    let path = path.as_ref();
    let file = open_regular(path)?;
    let size = file.metadata().at(path)?.len();
    let too_large = |size| {
        let (path, kind, limit) = (path.to_path_buf(), limit.kind, limit.bytes);
        Err(FileError::TooLarge { path, size, kind, limit })
    };
    if size > limit.bytes {
        return too_large(size);
    }
    let mut bytes = Vec::with_capacity(size as usize);
    // A file may grow while it is read, and some do not tell their size.
    file.take(limit.bytes.saturating_add(1)).read_to_end(&mut bytes).at(path)?;
    if bytes.len() as u64 > limit.bytes { too_large(bytes.len() as u64) } else { Ok(bytes) }
}

/// Reads a file of UTF-8 text.
///
/// # Errors
/// As [`read_bytes`], and bytes that are no UTF-8.
pub fn read_text(path: impl AsRef<Path>, limit: Limit) -> Result<String> {
    let path = path.as_ref();
    String::from_utf8(read_bytes(path, limit)?).map_err(|e| {
        let problem = format!("byte {}", e.utf8_error().valid_up_to());
        FileError::NotText { path: path.to_path_buf(), problem }
    })
}

fn name_of(kind: FileType) -> &'static str {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return "a named pipe";
        }
        if kind.is_socket() {
            return "a socket";
        }
        if kind.is_char_device() || kind.is_block_device() {
            return "a device";
        }
    }
    if kind.is_dir() { "a directory" } else { "no regular file" }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: Limit = Limit { kind: "a test file", bytes: 4 };

    #[test]
    fn a_file_up_to_its_limit_is_read_and_a_larger_one_refused_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "1234").unwrap();
        assert_eq!(read_text(&path, SMALL).unwrap(), "1234");
        std::fs::write(&path, "12345").unwrap();
        let error = read_bytes(&path, SMALL).unwrap_err().to_string();
        assert!(error.ends_with("a: 5 bytes are too many for a test file (at most 4)"), "{error}");
        std::fs::write(&path, [b'a', 0xff]).unwrap();
        assert!(read_text(&path, SMALL).unwrap_err().to_string().contains("not UTF-8 text (byte 1)"));
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_a_device_and_a_directory_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let (pipe, link) = (dir.path().join("pipe"), dir.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, found) in
            [(pipe.as_path(), "a named pipe"), (link.as_path(), "a device"), (dir.path(), "a directory")]
        {
            let error = read_bytes(path, SMALL).unwrap_err().to_string();
            assert!(error.ends_with(&format!("is {found}, expected a regular file")), "{error}");
        }
    }
}

//! What a file is, under whatever name: hard links and spellings of a path are the same file.

use std::fs::{self, File};
use std::path::Path;

/// Equal for two names exactly when they lead to the same file or directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileId {
    #[cfg(unix)]
    device_and_inode: (u64, u64),
    /// Here hard links count as different files.
    #[cfg(not(unix))]
    canonical: std::path::PathBuf,
}

impl FileId {
    /// Of the file that a path leads to; `None` where nothing is.
    #[cfg(unix)]
    pub fn of(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().as_ref().map(Self::from_metadata)
    }

    /// Of the file that a path leads to; `None` where nothing is.
    #[cfg(not(unix))]
    pub fn of(path: &Path) -> Option<Self> {
        fs::canonicalize(path).ok().map(|canonical| Self { canonical })
    }

    #[cfg(unix)]
    fn from_metadata(file: &fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        Self { device_and_inode: (file.dev(), file.ino()) }
    }

    /// Whether the file is there under this name, too.
    pub fn is_at(&self, path: &Path) -> bool {
        Self::of(path).as_ref() == Some(self)
    }
}

/// Whether `path` still leads to this open file; where the system does not tell, whether it leads anywhere.
pub(super) fn leads_to(path: &Path, file: &File) -> bool {
    #[cfg(unix)]
    {
        file.metadata().is_ok_and(|file| FileId::from_metadata(&file).is_at(path))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_itself_under_another_spelling_and_not_its_copy() {
        let dir = tempfile::tempdir().unwrap();
        let [path, copy] = ["a", "b"].map(|name| dir.path().join(name));
        fs::write(&path, "1").unwrap();
        fs::copy(&path, &copy).unwrap();
        let id = FileId::of(&path).unwrap();
        assert!(id.is_at(&dir.path().join("./a")) && !id.is_at(&copy) && !id.is_at(&dir.path().join("none")));
        let open = File::open(&path).unwrap();
        assert!(leads_to(&path, &open));
        #[cfg(unix)]
        {
            fs::hard_link(&path, dir.path().join("hard")).unwrap();
            assert!(id.is_at(&dir.path().join("hard")) && !leads_to(&copy, &open));
        }
    }
}

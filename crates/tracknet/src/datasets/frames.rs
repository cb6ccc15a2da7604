//! What a frame is: one rule for datasets, `data check`, prediction and distillation.
//!
//! A frame is a jpg, jpeg or png by its name, in any case, that is neither hidden nor a directory. Systems put hidden
//! files beside pictures (`._0004.jpg` holds what macOS knows of `0004.jpg`), and directories of their own beside
//! games. A pipe, a broken link or a damaged file under a frame's name is a frame that cannot be read.

use std::cmp::Ordering;
use std::io;
use std::path::{Path, PathBuf};

use super::DatasetError;

/// Directories that systems, archives and file servers add, in lower case.
const FOREIGN_DIRECTORIES: [&str; 9] = [
    "__macosx",
    "@eadir",
    "@recycle",
    "#recycle",
    "#snapshot",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
];

/// Whether a file of this name is a frame.
pub fn is_frame_name(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
    !name.starts_with('.') && matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
}

/// [`is_frame_name`] of a path.
pub fn is_picture(path: &Path) -> bool {
    is_frame_name(&name_of(path))
}

/// Extensions of videos, in lower case.
pub(crate) const VIDEO_EXTENSIONS: [&str; 18] = [
    "mp4", "mov", "mkv", "avi", "webm", "m4v", "mpg", "ts", "mts", "m2ts", "mpeg", "flv", "wmv", "asf", "ogv", "mxf",
    "3gp", "gif",
];

/// Whether a file is a video by its name, and not hidden.
pub(crate) fn is_video(path: &Path) -> bool {
    let name = name_of(path).to_lowercase();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    !name.starts_with('.') && VIDEO_EXTENSIONS.contains(&extension)
}

/// The frames of a folder in natural order of their names; there is at least one.
///
/// # Errors
/// A folder that cannot be read, or without frames.
pub fn pictures_in(dir: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let failure = |reason| DatasetError::Image { path: dir.to_path_buf(), reason };
    let frames = frames_in(dir).map_err(|e| failure(format!("cannot read: {e}")))?;
    if frames.is_empty() {
        return Err(failure("the folder has no jpg or png frames".to_owned()));
    }
    Ok(frames)
}

/// The frames of a directory, perhaps none, in natural order of their names.
///
/// # Errors
/// A directory that cannot be read.
pub fn frames_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    entries(dir, |path| is_picture(path) && !path.is_dir())
}

/// The directories in a directory that a person made, in natural order of their names: neither hidden ones nor those of
/// systems (`__MACOSX`, `@eaDir`, `$RECYCLE.BIN`, …).
///
/// # Errors
/// A directory that cannot be read.
pub fn directories_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    entries(dir, |path| {
        let name = name_of(path).to_lowercase();
        !name.starts_with('.') && !FOREIGN_DIRECTORIES.contains(&name.as_str()) && path.is_dir()
    })
}

/// The entries of a directory that are wanted, in natural order of their names.
pub(crate) fn entries(dir: &Path, wanted: impl Fn(&Path) -> bool) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if wanted(&path) {
            found.push(path);
        }
    }
    found.sort_by_cached_key(|path| Natural(name_of(path)));
    Ok(found)
}

/// The last part of a path as text.
pub(crate) fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// A name in [`natural_order`].
#[derive(PartialEq, Eq)]
pub(super) struct Natural(pub(super) String);

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        natural_order(&self.0, &other.0)
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Orders names as a person does: runs of digits by their value, so that `Clip2` comes before `Clip10`.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a, b);
    loop {
        let (x, y) = (take_run(&mut left), take_run(&mut right));
        if x.is_empty() || y.is_empty() {
            // Equal but for leading zeros: fall back to the plain order, so that the order is total.
            return x.len().cmp(&y.len()).then_with(|| a.cmp(b));
        }
        let both_digits = [x, y].iter().all(|run| run.starts_with(|c: char| c.is_ascii_digit()));
        let order = if both_digits {
            let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
            x.len().cmp(&y.len()).then_with(|| x.cmp(y))
        } else {
            x.cmp(y)
        };
        if order != Ordering::Equal {
            return order;
        }
    }
}

/// Splits the leading run of digits, or of anything else, off `text`.
fn take_run<'a>(text: &mut &'a str) -> &'a str {
    let digits = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != digits).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    run
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(paths: &[PathBuf]) -> Vec<String> {
        paths.iter().map(|path| name_of(path)).collect()
    }

    #[test]
    fn a_folder_is_read_in_natural_order_and_only_frames() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["10.png", "2.PNG", "1.jpg", "Label.csv", "b2.png", "b10.jpeg", "3.bmp"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        for added in ["._1.jpg", "._._1.jpg", ".DS_Store", "Thumbs.db", "desktop.ini", ".~lock.Label.csv#"] {
            std::fs::write(dir.path().join(added), "").unwrap();
        }
        std::fs::create_dir(dir.path().join("4.jpg")).unwrap();
        assert_eq!(names(&pictures_in(dir.path()).unwrap()), ["1.jpg", "2.PNG", "10.png", "b2.png", "b10.jpeg"]);
        let empty = tempfile::tempdir().unwrap();
        assert!(pictures_in(empty.path()).unwrap_err().to_string().contains("no jpg or png"));
        assert!(pictures_in(&empty.path().join("no")).unwrap_err().to_string().contains("cannot read"));
    }

    #[test]
    fn directories_of_systems_and_hidden_ones_are_not_those_of_a_person() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["game10", "game2", "__MACOSX", "$RECYCLE.BIN", "@eaDir", "System Volume Information", ".git"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("game3"), "a file").unwrap();
        assert_eq!(names(&directories_in(dir.path()).unwrap()), ["game2", "game10"]);
    }

    #[test]
    fn numbers_in_names_are_ordered_by_value() {
        assert_eq!(natural_order("9.jpg", "10.jpg"), Ordering::Less);
        assert_eq!(natural_order("a2b", "a2"), Ordering::Greater);
        assert_eq!(natural_order("007", "7"), Ordering::Less);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_or_a_broken_link_under_a_frames_name_is_a_frame_and_a_link_to_its_own_directory_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(std::process::Command::new("mkfifo").arg(dir.path().join("1.jpg")).status().unwrap().success());
        std::os::unix::fs::symlink("nowhere", dir.path().join("2.jpg")).unwrap();
        std::os::unix::fs::symlink(".", dir.path().join("3.jpg")).unwrap();
        assert_eq!(names(&frames_in(dir.path()).unwrap()), ["1.jpg", "2.jpg"]);
    }
}

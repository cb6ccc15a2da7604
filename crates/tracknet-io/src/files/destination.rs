//! Where a command is told to write: checked before any work is done, and again when the result takes its name.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::directory::{self, Manifest, Old};
use super::{FileError, IoContext, Result, parent_of, temporary};

/// What may stand at a destination already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Nothing, or an empty directory.
    Nothing,
    /// What this program wrote and nobody has changed since.
    Written,
    /// A part of the caller's own directory, such as a checkpoint of a run that it holds. Files that others put there are
    /// kept beside it.
    Own,
    /// Anything: the user said `--overwrite`.
    Anything,
}

/// A place that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Destination {
    path: PathBuf,
    existing: Existing,
}

impl Destination {
    /// Checks that `path` may be written as a directory, given that `inputs` are read; removes what dead processes left
    /// beside it.
    ///
    /// # Errors
    /// Something stands there that is not to be replaced, or it is an input, or a directory that holds one.
    pub fn directory(path: impl Into<PathBuf>, existing: Existing, inputs: &[&Path]) -> Result<Self> {
        let path: PathBuf = path.into();
        // A link to a directory stays a link.
        let path = if path.is_symlink() { fs::canonicalize(&path).unwrap_or(path) } else { path };
        refuse_inputs(&path, inputs)?;
        let destination = Self { path, existing };
        destination.check()?;
        temporary::sweep(parent_of(&destination.path));
        Ok(destination)
    }

    /// A directory that is not there yet, checked when it is written.
    pub fn new_directory(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), existing: Existing::Nothing }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the directory through `fill` under a temporary name, adds the manifest, and gives it its name; on an error
    /// nothing has changed. Returns where strange files of the directory before it were kept, with [`Existing::Own`].
    ///
    /// # Errors
    /// What `fill` returns, something that stands there by now, or a directory that cannot be written.
    pub fn write<E: From<FileError>>(&self, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<Option<PathBuf>, E> {
        let old = match self.existing {
            Existing::Nothing => Old::None,
            Existing::Own => Old::Own,
            Existing::Written | Existing::Anything => Old::All,
        };
        directory::write(&self.path, old, |temporary| {
            fill(temporary)?;
            directory::write_manifest(temporary)?;
            Ok(self.check()?)
        })
    }

    /// [`Destination::write`] of a directory whose format has no place for a manifest, such as a clip; only for one that
    /// is not there yet.
    ///
    /// # Errors
    /// As there.
    pub fn write_plain<E: From<FileError>>(&self, fill: impl FnOnce(&Path) -> Result<(), E>) -> Result<(), E> {
        directory::write(&self.path, Old::None, fill).map(drop)
    }

    /// Checks what stands there by now.
    ///
    /// # Errors
    /// Something that is not to be replaced.
    pub fn check(&self) -> Result<()> {
        let path = &self.path;
        if fs::symlink_metadata(path).is_err() || matches!(self.existing, Existing::Own | Existing::Anything) {
            return Ok(());
        }
        let exists = |found: &str| FileError::Exists { path: path.clone(), found: found.to_owned() };
        if !path.is_dir() {
            return Err(exists("a file of this name exists"));
        }
        if fs::read_dir(path).at(path)?.next().is_none() {
            return Ok(());
        }
        match Manifest::of(path) {
            Some(manifest) if self.existing == Existing::Written => {
                manifest.difference(path)?.map_or(Ok(()), |found| Err(exists(&found)))
            }
            Some(_) => Err(exists("this directory exists")),
            None => Err(exists("this directory exists, and tracknet did not write it")),
        }
    }
}

/// Checks that `path` may be written as a file: nothing stands there, or what `is_ours` recognizes, or anything with
/// `overwrite`; and never one of `inputs`. Removes what dead processes left beside it.
///
/// # Errors
/// As [`Destination::directory`].
pub fn check_file(path: &Path, overwrite: bool, is_ours: impl FnOnce(&Path) -> bool, inputs: &[&Path]) -> Result<()> {
    refuse_inputs(path, inputs)?;
    temporary::sweep(parent_of(path));
    if fs::symlink_metadata(path).is_err() || overwrite && !path.is_dir() || is_ours(path) {
        return Ok(());
    }
    let what = if path.is_dir() { "a directory" } else { "a file" };
    let found = format!("{what} of this name exists, and tracknet did not write it");
    Err(FileError::Exists { path: path.to_path_buf(), found })
}

/// Refuses a destination that is one of the inputs, under whatever name, or a directory that holds one.
///
/// # Errors
/// Names both.
pub fn refuse_inputs(path: &Path, inputs: &[&Path]) -> Result<()> {
    let place = resolved(path);
    for input in inputs {
        let source = resolved(input);
        let relation = match () {
            () if source == place || is_same_file(path, input) => "is",
            () if source.starts_with(&place) => "holds",
            () => continue,
        };
        let (path, input) = (path.to_path_buf(), input.to_path_buf());
        return Err(FileError::OverInput { path, input, relation });
    }
    Ok(())
}

/// The path without links and dots; what does not exist yet is taken as it is written.
fn resolved(path: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(path) {
        return path;
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let (mut known, mut rest) = (absolute.as_path(), Vec::new());
    let base = loop {
        if let Ok(base) = fs::canonicalize(known) {
            break base;
        }
        match (known.parent(), known.components().next_back()) {
            (Some(parent), Some(last)) => {
                rest.push(last);
                known = parent;
            }
            _ => break PathBuf::new(),
        }
    };
    rest.into_iter().rev().fold(base, |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
        path
    })
}

/// Whether two names are links to the same file.
fn is_same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let same = |a: fs::Metadata, b: fs::Metadata| a.dev() == b.dev() && a.ino() == b.ino();
        fs::metadata(a).ok().zip(fs::metadata(b).ok()).is_some_and(|(a, b)| same(a, b))
    }
    #[cfg(not(unix))]
    {
        let _ = (a, b);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, existing: Existing, text: &str) -> Result<Option<PathBuf>> {
            let destination = Destination::directory(self.path(name), existing, &[])?;
            destination.write(|dir| fs::write(dir.join(text), text).at(dir))
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> =
                fs::read_dir(self.0.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    #[test]
    fn a_neighbour_is_never_touched() {
        let place = Place::new();
        for neighbour in ["v1.old", "v1.tmp", ".v1", "v1"] {
            fs::create_dir(place.path(neighbour)).unwrap();
            fs::write(place.path(neighbour).join("mine"), "").unwrap();
        }
        for text in ["one", "two"] {
            place.write("v1.2", Existing::Written, text).unwrap();
        }
        assert_eq!(place.names(), [".v1", "v1", "v1.2", "v1.old", "v1.tmp"]);
        assert!(place.path("v1.old/mine").exists());
        assert!(place.path("v1.2/two").exists() && !place.path("v1.2/one").exists());
    }

    #[test]
    fn what_this_program_did_not_write_or_somebody_changed_is_refused() {
        let place = Place::new();
        fs::create_dir(place.path("theirs")).unwrap();
        place.write("theirs", Existing::Written, "an empty directory is nobody's").unwrap();
        fs::create_dir(place.path("notes")).unwrap();
        fs::write(place.path("notes/a.txt"), "mine").unwrap();
        let message = |name: &str| place.write(name, Existing::Written, "new").unwrap_err().to_string();
        assert!(
            message("notes").contains("tracknet did not write it; choose another name, or replace it with --overwrite")
        );
        place.write("ours", Existing::Nothing, "model").unwrap();
        fs::write(place.path("ours/notes.txt"), "mine").unwrap();
        assert!(message("ours").contains("holds notes.txt, which tracknet did not write"));
        fs::remove_file(place.path("ours/notes.txt")).unwrap();
        fs::write(place.path("ours/model"), "edited").unwrap();
        assert!(message("ours").contains("model was changed since tracknet wrote it"));
        assert!(place.path("ours/model").exists() && place.path("notes/a.txt").exists());
        fs::write(place.path("file"), "").unwrap();
        assert!(message("file").contains("a file of this name exists"));
        place.write("notes", Existing::Anything, "new").unwrap();
        place.write("file", Existing::Anything, "new").unwrap();
        assert!(place.path("file/new").exists());
        assert!(!place.path("notes/a.txt").exists() && place.path("notes/new").exists());
        assert!(place.write("notes", Existing::Nothing, "new").is_err());
    }

    #[test]
    fn strange_files_in_a_directory_of_ones_own_are_kept_beside_it() {
        let place = Place::new();
        assert_eq!(place.write("last", Existing::Own, "one").unwrap(), None);
        fs::write(place.path("last/notes.txt"), "mine").unwrap();
        let kept = place.write("last", Existing::Own, "two").unwrap().unwrap();
        assert_eq!(kept, place.path("last.kept-1"));
        assert_eq!(fs::read_dir(&kept).unwrap().count(), 1);
        assert_eq!(place.write("last", Existing::Own, "three").unwrap(), None);
        assert_eq!(place.names(), ["last", "last.kept-1"]);
    }

    #[test]
    fn a_manifest_cannot_make_anything_outside_be_removed() {
        let place = Place::new();
        place.write("last", Existing::Own, "one").unwrap();
        fs::write(place.path("theirs"), "").unwrap();
        fs::write(place.path("last/checksums.json"), r#"{"../theirs": "0", "one": "0"}"#).unwrap();
        place.write("last", Existing::Own, "two").unwrap();
        assert!(place.path("theirs").exists());
    }

    #[test]
    fn a_failed_write_changes_nothing() {
        let place = Place::new();
        place.write("a", Existing::Nothing, "one").unwrap();
        let destination = Destination::directory(place.path("a"), Existing::Written, &[]).unwrap();
        destination.write(|dir| Err(std::io::Error::other("disk full")).at(dir)).unwrap_err();
        assert!(place.path("a/one").exists());
        // Whoever takes the name meanwhile keeps it.
        let destination = Destination::directory(place.path("b"), Existing::Nothing, &[]).unwrap();
        let raced = destination.write(|_| {
            fs::create_dir(place.path("b")).unwrap();
            fs::write(place.path("b/mine"), "").at("b")
        });
        assert!(raced.is_err() && place.path("b/mine").exists());
        assert_eq!(place.names(), ["a", "b"]);
    }

    #[test]
    fn no_spelling_of_an_input_is_written_over() {
        let place = Place::new();
        fs::create_dir(place.path("models")).unwrap();
        fs::write(place.path("models/a.bin"), "").unwrap();
        let input = place.path("models/a.bin");
        let refused = |path: PathBuf| refuse_inputs(&path, &[&input]).unwrap_err().to_string();
        assert!(refused(place.path("models/../models/./a.bin")).contains(": is the input "));
        assert!(refused(place.path("models")).contains(": holds the input "));
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(place.path("models"), place.path("link")).unwrap();
            fs::hard_link(&input, place.path("hard.bin")).unwrap();
            assert!(refused(place.path("link/a.bin")).contains(": is the input "));
            assert!(refused(place.path("hard.bin")).contains(": is the input "));
        }
        refuse_inputs(&place.path("models/nf4/deep"), &[&place.path("models")]).unwrap();
        let overwrite = Destination::directory(place.path("models"), Existing::Anything, &[&input]);
        assert!(overwrite.is_err() && input.exists());
    }

    #[test]
    fn a_file_is_replaced_when_it_is_recognized_or_the_user_says_so() {
        let place = Place::new();
        let path = place.path("a.csv");
        let check = |overwrite, ours| check_file(&path, overwrite, |_| ours, &[]);
        check(false, false).unwrap();
        fs::write(&path, "mine").unwrap();
        let error = check(false, false).unwrap_err().to_string();
        assert!(error.contains("a.csv: a file of this name exists, and tracknet did not write it"), "{error}");
        check(false, true).unwrap();
        check(true, false).unwrap();
        assert!(check_file(&path, true, |_| true, &[&path]).is_err());
    }
}

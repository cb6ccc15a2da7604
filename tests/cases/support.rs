//! The command in a directory of its own, and the inputs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A file or folder beside this one.
pub(crate) fn input(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cases").join(name)
}

/// A directory in which commands run.
pub(crate) struct Place(TempDir);

/// What a command printed, and how it ended.
pub(crate) struct Answer {
    pub(crate) code: Option<i32>,
    pub(crate) text: String,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Copies an input, with what is below it.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        let from = input(from);
        if from.is_dir() {
            for entry in fs::read_dir(&from).unwrap() {
                let path = entry.unwrap().path();
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                if path.is_file() {
                    self.write(&format!("{to}/{name}"), fs::read(&path).unwrap());
                }
            }
        } else {
            self.write(to, fs::read(from).unwrap());
        }
    }

    /// Frames `0000.jpg` … of 320×180.
    pub(crate) fn frames(&self, dir: &str, names: impl IntoIterator<Item = String>) {
        for name in names {
            let path = self.path(&format!("{dir}/{name}"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            image::RgbImage::from_pixel(320, 180, image::Rgb([40, 90, 60])).save(path).unwrap();
        }
    }

    pub(crate) fn run<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Answer {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tracknet"));
        for word in words {
            command.arg(word.as_ref());
        }
        answer(&command.current_dir(self.0.path()).env_remove("TRACKNET_CONFIG_DIR").output().unwrap())
    }
}

fn answer(output: &Output) -> Answer {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    Answer { code: output.status.code(), text }
}

impl Answer {
    /// Ended well, and said all of this.
    pub(crate) fn is(&self, code: i32, parts: &[&str]) -> &Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        for part in parts {
            assert!(self.text.contains(part), "no `{part}` in:\n{}", self.text);
        }
        self
    }

    pub(crate) fn lacks(&self, part: &str) -> &Self {
        assert!(!self.text.contains(part), "`{part}` in:\n{}", self.text);
        self
    }
}

//! Labels that a person gives one by one: in memory, and in the label files of the clips after every change.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::frames::{directories_in, frames_in, name_of};
use super::report::ProblemKind;
use super::tracknet::labels::{HEADER, line_of, parse, stem};
use super::tracknet::{LABEL_FILE, label_files};
use super::{DatasetError, Label};
use crate::error::{IoContext, Result};
use crate::files::write_atomic;

/// The frames of some clips in order, and the labels that they have so far.
#[derive(Debug)]
pub struct LabelBook {
    root: Option<PathBuf>,
    clips: Vec<BookClip>,
    frames: Vec<BookFrame>,
}

/// A clip of a [`LabelBook`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BookClip {
    /// Its directory.
    pub dir: PathBuf,
    /// Its first frame.
    pub first: usize,
    /// How many frames it has.
    pub count: usize,
    /// Whether its label file was written by another program in another form, of which a copy is kept before the first change.
    foreign: bool,
}

#[derive(Debug)]
struct BookFrame {
    path: PathBuf,
    clip: usize,
    /// The label, and the status of its row.
    label: Option<Labelled>,
}

/// A label, and the status of its row.
type Labelled = (Label, String);

/// What a copy of a label file of another form is called.
const KEPT: &str = "Label.csv.before-labelling";

impl LabelBook {
    /// Opens a clip (a directory with frames) or a data set in the tennis layout (`game/clip`), with the labels that it has.
    ///
    /// # Errors
    /// A directory without frames; a label file with rows that would be lost because they cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let nothing = |reason: String| DatasetError::Image { path: path.to_path_buf(), reason };
        let (root, dirs) = if frames_in(path).at(path)?.is_empty() {
            let mut dirs = Vec::new();
            for game in directories_in(path).at(path)? {
                dirs.extend(directories_in(&game).at(&game)?);
            }
            (Some(path.to_path_buf()), dirs)
        } else {
            (None, vec![path.to_path_buf()])
        };
        let mut book = Self { root, clips: Vec::new(), frames: Vec::new() };
        for dir in dirs {
            book.add(dir)?;
        }
        if book.frames.is_empty() {
            let reason = "has no jpg or png frames, neither itself nor in <game>/<clip> below it".to_owned();
            return Err(nothing(reason).into());
        }
        Ok(book)
    }

    fn add(&mut self, dir: PathBuf) -> Result<()> {
        let files = frames_in(&dir).at(&dir)?;
        if files.is_empty() {
            return Ok(());
        }
        let (mut labels, foreign) = read_labels(&dir)?;
        let (clip, first, count) = (self.clips.len(), self.frames.len(), files.len());
        for path in files {
            let label = labels.remove(stem(&name_of(&path)));
            self.frames.push(BookFrame { path, clip, label });
        }
        if let Some(name) = labels.into_keys().next() {
            let reason = format!("has a row for `{name}`, and no frame of this name; mend or remove it first");
            return Err(DatasetError::Image { path: dir.join(LABEL_FILE), reason }.into());
        }
        self.clips.push(BookClip { dir, first, count, foreign });
        Ok(())
    }

    /// The data set that the clips belong to, if it was opened as a whole.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The clips in order.
    pub fn clips(&self) -> &[BookClip] {
        &self.clips
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many frames have a label.
    pub fn labelled(&self) -> usize {
        self.frames.iter().filter(|frame| frame.label.is_some()).count()
    }

    /// The file of a frame.
    pub fn path(&self, frame: usize) -> Option<&Path> {
        self.frames.get(frame).map(|frame| frame.path.as_path())
    }

    /// The files of all frames.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.frames.iter().map(|frame| frame.path.clone()).collect()
    }

    /// The place of a frame's clip among the clips.
    pub fn clip_of(&self, frame: usize) -> Option<usize> {
        self.frames.get(frame).map(|frame| frame.clip)
    }

    /// The label of a frame; `None` = it has none yet.
    pub fn label(&self, frame: usize) -> Option<Label> {
        self.frames.get(frame)?.label.as_ref().map(|(label, _)| *label)
    }

    /// Labels a frame, or takes its label away, and writes the label file of its clip, whole or not at all.
    ///
    /// # Errors
    /// A frame that there is not, or a file that cannot be written; nothing is changed then.
    pub fn set(&mut self, frame: usize, label: Option<Label>) -> Result<()> {
        let Some(place) = self.frames.get_mut(frame) else {
            let reason = format!("has {} frames, and none with the number {frame}", self.frames.len());
            return Err(DatasetError::Image { path: "(labels)".into(), reason }.into());
        };
        let status = place.label.as_ref().map(|(_, status)| status.clone()).unwrap_or_default();
        let (clip, before) = (place.clip, std::mem::replace(&mut place.label, label.map(|label| (label, status))));
        let written = self.write(clip);
        if written.is_err() {
            self.frames[frame].label = before;
        }
        written
    }

    fn write(&mut self, clip: usize) -> Result<()> {
        let BookClip { dir, first, count, foreign } = &mut self.clips[clip];
        let path = dir.join(LABEL_FILE);
        if *foreign {
            let kept = dir.join(KEPT);
            if !kept.exists() {
                fs::copy(&path, &kept).at(&kept)?;
            }
            *foreign = false;
        }
        let frames = &self.frames[*first..*first + *count];
        Ok(write_atomic(&path, |out| {
            writeln!(out, "{HEADER}")?;
            let labelled = frames.iter().filter_map(|frame| Some((frame, frame.label.as_ref()?)));
            labelled.into_iter().try_for_each(|(frame, (label, status))| {
                writeln!(out, "{}", line_of(&name_of(&frame.path), label, status))
            })
        })?)
    }
}

/// The labels of a clip by the stems of their frames, with the status of their rows; and whether the file has another form than this
/// program writes.
fn read_labels(dir: &Path) -> Result<(BTreeMap<String, Labelled>, bool)> {
    let Some(path) = label_files(dir).at(dir)?.into_iter().next() else { return Ok((BTreeMap::new(), false)) };
    let refuse = |reason: String| DatasetError::Image { path: path.clone(), reason };
    if path.file_name().is_none_or(|name| name != LABEL_FILE) {
        return Err(refuse(format!("holds the labels of the clip; rename it to {LABEL_FILE} first")).into());
    }
    let bytes = fs::read(&path).at(&path)?;
    let mut first: Option<String> = None;
    let mut problem = |_: ProblemKind, line: usize, detail: String| {
        first.get_or_insert(format!("line {line}: {detail}"));
    };
    let table = parse(&bytes, &mut problem);
    if let Some(found) = first {
        let what = "would be lost when the labels are written; mend or remove it first";
        return Err(refuse(format!("{found}: this row {what}")).into());
    }
    let rows = table.map(|table| table.rows).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let foreign = text.lines().next() != Some(HEADER);
    let status = |line: usize| {
        let row = text.lines().nth(line - 1).filter(|_| !foreign);
        row.and_then(|row| row.split(',').nth(4)).unwrap_or_default().trim().to_owned()
    };
    let label = |row: super::tracknet::labels::Row| (stem(&row.file_name).to_owned(), (row.label, status(row.line)));
    Ok((rows.into_iter().map(label).collect(), foreign))
}

#[cfg(test)]
mod tests {
    use super::super::Visibility;
    use super::*;

    fn clip(dir: &Path, frames: usize, labels: Option<&str>) {
        fs::create_dir_all(dir).unwrap();
        (0..frames).for_each(|i| fs::write(dir.join(format!("{i:04}.jpg")), b"x").unwrap());
        labels.iter().for_each(|text| fs::write(dir.join(LABEL_FILE), text).unwrap());
    }

    fn text(dir: &Path) -> String {
        fs::read_to_string(dir.join(LABEL_FILE)).unwrap()
    }

    const VISIBLE: Label = Label { visibility: Visibility::Visible, xy: Some([12.345, 6.0]) };

    #[test]
    fn every_change_is_in_the_file_and_the_other_rows_stay_as_they_were() {
        let root = tempfile::tempdir().unwrap();
        let (one, two) = (root.path().join("game1/Clip1"), root.path().join("game1/Clip2"));
        clip(&one, 3, Some(&format!("{HEADER}\n0001.jpg,2,7,8.5,1\n")));
        clip(&two, 2, None);
        let mut book = LabelBook::open(root.path()).unwrap();
        assert_eq!((book.len(), book.labelled(), book.clips()[1].first, book.clip_of(3)), (5, 1, 3, Some(1)));
        assert_eq!(book.label(1), Some(Label { visibility: Visibility::Hard, xy: Some([7.0, 8.5]) }));
        book.set(0, Some(VISIBLE)).unwrap();
        book.set(4, Some(Label::ABSENT)).unwrap();
        assert_eq!(text(&one), format!("{HEADER}\n0000.jpg,1,12.35,6,\n0001.jpg,2,7,8.5,1\n"));
        assert_eq!(text(&two), format!("{HEADER}\n0001.jpg,0,,,\n"));
        book.set(0, None).unwrap();
        assert_eq!(text(&one), format!("{HEADER}\n0001.jpg,2,7,8.5,1\n"));
        assert!(book.set(5, None).is_err() && !one.join(KEPT).exists());
        let again = LabelBook::open(&two).unwrap();
        assert_eq!((again.len(), again.label(1), again.root()), (2, Some(Label::ABSENT), None));
    }

    #[test]
    fn a_file_of_another_form_is_kept_and_one_with_bad_rows_refused() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = "file name,visibility,x-coordinate,y-coordinate,status,player\n0000.jpg,1,5,6,0,left\n";
        clip(dir.path(), 2, Some(theirs));
        let mut book = LabelBook::open(dir.path()).unwrap();
        book.set(1, Some(VISIBLE)).unwrap();
        assert_eq!(text(dir.path()), format!("{HEADER}\n0000.jpg,1,5,6,\n0001.jpg,1,12.35,6,\n"));
        assert_eq!(fs::read_to_string(dir.path().join(KEPT)).unwrap(), theirs);

        for (rows, part) in [("0000.jpg,1,far,6,0\n", "line 2"), ("0009.jpg,1,5,6,0\n", "`0009`, and no frame")] {
            fs::write(dir.path().join(LABEL_FILE), format!("{HEADER}\n{rows}")).unwrap();
            let error = LabelBook::open(dir.path()).unwrap_err().to_string();
            assert!(error.contains("Label.csv") && error.contains(part), "{error}");
        }
        let empty = tempfile::tempdir().unwrap();
        assert!(LabelBook::open(empty.path()).unwrap_err().to_string().contains("no jpg or png frames"));
    }

    #[test]
    fn a_label_that_cannot_be_written_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        clip(&dir.path().join("clip"), 1, None);
        let mut book = LabelBook::open(&dir.path().join("clip")).unwrap();
        fs::remove_dir_all(dir.path().join("clip")).unwrap();
        fs::write(dir.path().join("clip"), b"a file").unwrap();
        assert!(book.set(0, Some(VISIBLE)).is_err());
        assert_eq!(book.label(0), None);
    }
}

//! The layouts of other programs: what a directory holds, which games there are, and their labels.
//!
//! | layout | a game | a clip | module |
//! |---|---|---|---|
//! | `yolo`, `coco` | a split | pictures whose names count up without a gap | `yolo`, `coco` |
//! | `badminton`, `gridtracknet`, `normalized`, `predictions` | a match | a table of frame numbers and its frames | `tables` |
//!
//! A directory is recognized by what lies beside each other in it, not by the contents of large files. Frames of a clip are
//! pictures, or a video, which `import` takes apart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::frames::{directories_in, name_of};
use super::report::{ProblemKind, Problems};
use super::tracknet::{LISTED_NAMES, available_games, check_root};
use super::{Clip, Dataset, DatasetError, Frame, Game, Label, Reading};
use crate::config::{DataFormat, SplitConfig};
use crate::console::listing;
use crate::error::Result;

mod boxes;
mod coco;
mod sequences;
mod tables;
mod yolo;

/// What training, validation and test are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Split {
    /// For training.
    Train,
    /// For validation.
    Val,
    /// For the test.
    Test,
}

impl Split {
    const ALL: [Self; 3] = [Self::Train, Self::Val, Self::Test];

    /// `train`, `val` or `test`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }

    /// The split that a directory or file is named after (`valid`, `train2017`).
    fn of(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        match name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_matches(['_', '-']) {
            "train" | "training" => Some(Self::Train),
            "val" | "valid" | "validation" | "dev" => Some(Self::Val),
            "test" | "testing" => Some(Self::Test),
            _ => None,
        }
    }
}

/// What belongs in a layout, for messages.
pub fn expected(format: DataFormat) -> &'static str {
    match format {
        DataFormat::Auto | DataFormat::Tracknet => "<game>/Clip*/Label.csv beside jpg, jpeg or png frames",
        DataFormat::Yolo => "data.yaml with images/ and labels/*.txt, or those two alone",
        DataFormat::Coco => {
            "<split>/_annotations.coco.json beside its pictures, or annotations/*.json and the pictures in images/"
        }
        DataFormat::Badminton => {
            "<match>/csv/<rally>_ball.csv with <match>/frame/<rally>/ or <match>/video/<rally>.mp4"
        }
        DataFormat::GridTrackNet => "<match>/Labels.csv and <match>/frames/",
        DataFormat::Normalized => {
            "<match>/labels/<rally>.csv with <match>/images/<rally>/ or <match>/videos/<rally>.mp4"
        }
        DataFormat::Predictions => {
            "<name>.csv (Frame,Visibility,X,Y,Score) beside the folder <name>/ of its frames or the video <name>.mp4"
        }
    }
}

/// A data set in the layout of another program.
#[derive(Debug)]
pub struct Layout {
    root: PathBuf,
    format: DataFormat,
    reading: Reading,
    entries: Vec<Entry>,
    reader: Reader,
    /// What was met while looking for games.
    problems: Problems,
    notes: Vec<String>,
}

/// A game that was found and not read yet.
#[derive(Debug)]
struct Entry {
    name: String,
    split: Option<Split>,
    /// Directories of pictures, the annotations file, or the directory of the match.
    places: Vec<PathBuf>,
}

/// How games are read.
#[derive(Debug)]
enum Reader {
    Yolo(boxes::Classes),
    Coco,
    Tables(tables::Kind),
}

/// A clip before its frames are known to be pictures.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RawClip {
    pub(super) name: String,
    pub(super) dir: PathBuf,
    pub(super) label_file: PathBuf,
    pub(super) frames: Frames,
    /// In the order of their places.
    pub(super) labels: Vec<PlacedLabel>,
    pub(super) negative: usize,
    pub(super) absent_with_position: usize,
}

/// Where the frames of a clip are.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Frames {
    /// Pictures, in their order.
    Pictures(Vec<PathBuf>),
    /// The frames of a video; positions are fractions of them when `fractions`.
    Video { path: PathBuf, fractions: bool },
}

/// The label of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PlacedLabel {
    /// Number of the frame in its clip, from 0.
    pub(super) place: usize,
    pub(super) label: Label,
    /// Line of the label file, from 1, or 0.
    pub(super) line: usize,
}

/// A game with its clips.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RawGame {
    pub(super) name: String,
    pub(super) split: Option<Split>,
    pub(super) clips: Vec<RawClip>,
}

/// Games as they are on disk.
pub(super) struct RawDataset {
    pub(super) format: DataFormat,
    pub(super) games: Vec<RawGame>,
    pub(super) problems: Problems,
    pub(super) notes: Vec<String>,
}

impl Layout {
    /// Looks for the layout that `reading` asks for, or for any; `None` for the tennis layout and where nothing is known.
    ///
    /// # Errors
    /// A root that is not a directory, in the words of who asked; another layout than the one that was asked for; a
    /// description that cannot be used, such as a data.yaml without a class that is the ball.
    pub fn find(key: &str, root: &Path, reading: &Reading) -> Result<Option<Self>> {
        let known = [DataFormat::Yolo, DataFormat::Coco].into_iter().chain(tables::Kind::ALL.map(tables::Kind::format));
        match reading.format {
            DataFormat::Tracknet => return Ok(None),
            DataFormat::Auto => {
                check_root(key, root)?;
                if !available_games(root)?.is_empty() {
                    return Ok(None);
                }
            }
            format => {
                check_root(key, root)?;
                let other = || DatasetError::OtherLayout {
                    root: root.to_path_buf(),
                    format,
                    found: super::tracknet::describe(root),
                    expected: expected(format),
                };
                return Ok(Some(Self::of(format, root, reading)?.ok_or_else(other)?));
            }
        }
        for format in known {
            if let Some(found) = Self::of(format, root, reading)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The name of the layout that a directory has, if it is one of these; for descriptions.
    pub(super) fn name_of(root: &Path) -> Option<DataFormat> {
        if yolo::looks_like(root) {
            return Some(DataFormat::Yolo);
        }
        if !coco::entries(root, false).is_empty() {
            return Some(DataFormat::Coco);
        }
        tables::Kind::ALL.into_iter().find(|kind| !kind.entries(root).is_empty()).map(tables::Kind::format)
    }

    fn of(format: DataFormat, root: &Path, reading: &Reading) -> Result<Option<Self>> {
        let mut layout = Self {
            root: root.to_path_buf(),
            format,
            reading: reading.clone(),
            entries: Vec::new(),
            reader: Reader::Coco,
            problems: Problems::default(),
            notes: Vec::new(),
        };
        match format {
            DataFormat::Auto | DataFormat::Tracknet => return Ok(None),
            DataFormat::Yolo => {
                let Some(found) = yolo::find(root, reading, &mut layout.problems)? else { return Ok(None) };
                layout.notes.extend(found.classes.note());
                (layout.entries, layout.reader) = (found.entries, Reader::Yolo(found.classes));
            }
            DataFormat::Coco => layout.entries = coco::entries(root, reading.format == format),
            format => {
                let Some(kind) = tables::Kind::of(format) else { return Ok(None) };
                (layout.entries, layout.reader) = (kind.entries(root), Reader::Tables(kind));
            }
        }
        Ok((!layout.entries.is_empty()).then_some(layout))
    }

    /// The data set's own split, if it has one: its training games and, where there are some, the others.
    pub fn own_split(&self) -> Option<SplitConfig> {
        let of = |split: Split| -> Vec<String> {
            let entries = self.entries.iter().filter(|entry| entry.split == Some(split));
            entries.map(|entry| entry.name.clone()).collect()
        };
        let [train_games, val_games, test_games] = Split::ALL.map(of);
        (!train_games.is_empty()).then_some(SplitConfig { train_games, val_games, val_share: 0.0, test_games })
    }

    /// The data set of these games, or of all.
    pub(super) fn open(self, key: &str, games: Option<&[String]>, strict: bool) -> Result<Dataset> {
        let root = self.root.clone();
        let RawDataset { format, games, mut problems, notes } = self.read(key, games)?;
        let names = listing(games.iter().map(|game| &game.name), LISTED_NAMES);
        let to_game = |game: RawGame| {
            let clips = game.clips.into_iter().filter_map(|clip| clip.into_clip(&root, &mut problems)).collect();
            Game { name: game.name, clips }
        };
        let games: Vec<Game> = games.into_iter().map(to_game).collect();
        if strict && !problems.is_empty() {
            return Err(DatasetError::Strict { root, problems: Box::new(problems) }.into());
        }
        if games.iter().flat_map(|game| &game.clips).all(|clip| clip.frames.is_empty()) {
            let (key, expected, problems) = (key.to_owned(), expected(format), Box::new(problems));
            return Err(DatasetError::NoFrames { key, root, games: names, expected, problems }.into());
        }
        let mut data = Dataset::new(&root, games, problems);
        data.report.notes = notes;
        Ok(data)
    }

    /// Reads these games, or all.
    pub(super) fn read(mut self, key: &str, games: Option<&[String]>) -> Result<RawDataset> {
        let chosen = match games {
            Some(games) => self.select(key, games)?,
            None => (0..self.entries.len()).collect(),
        };
        let mut problems = std::mem::take(&mut self.problems);
        let mut notes = vec![format!("layout: {}", self.format)];
        notes.append(&mut self.notes);
        let mut read = Vec::with_capacity(chosen.len());
        for index in chosen {
            let entry = &self.entries[index];
            let clips = match &self.reader {
                Reader::Yolo(classes) => {
                    yolo::read(entry, &self.root, classes, &self.reading, &mut problems, &mut notes)?
                }
                Reader::Coco => coco::read(entry, &self.root, &self.reading, &mut problems, &mut notes)?,
                Reader::Tables(kind) => kind.read(entry, &self.reading, &mut problems, &mut notes)?,
            };
            read.push(RawGame { name: entry.name.clone(), split: entry.split, clips });
        }
        Ok(RawDataset { format: self.format, games: read, problems, notes })
    }

    /// The games of these names; the name of a split stands for all games in it.
    fn select(&self, key: &str, games: &[String]) -> Result<Vec<usize>> {
        let (key, root) = (key.to_owned(), self.root.clone());
        let found = format!("it has: {}", listing(self.entries.iter().map(|entry| &entry.name), LISTED_NAMES));
        if games.is_empty() {
            return Err(DatasetError::NoGames { key, root, found }.into());
        }
        let mut chosen = BTreeMap::new();
        let mut missing = Vec::new();
        for name in games {
            let named = |entry: &Entry| {
                entry.name == *name || (entry.split.is_some() && entry.split == Split::of(name) && !name.contains('/'))
            };
            let of_name: Vec<usize> = (0..self.entries.len()).filter(|index| named(&self.entries[*index])).collect();
            if of_name.is_empty() {
                missing.push(name.as_str());
            }
            for index in of_name {
                let order = chosen.len();
                chosen.entry(index).or_insert(order);
            }
        }
        if let Some(first) = missing.first() {
            let distance = |name: &str| strsim::damerau_levenshtein(&name.to_lowercase(), &first.to_lowercase());
            let nearest = self.entries.iter().map(|entry| (distance(&entry.name), &entry.name)).min();
            let nearest = nearest.filter(|(distance, _)| *distance <= 2).map(|(_, name)| name.clone());
            let missing = listing(&missing, LISTED_NAMES);
            return Err(DatasetError::GamesMissing { key, root, missing, nearest, found }.into());
        }
        let mut chosen: Vec<(usize, usize)> = chosen.into_iter().map(|(index, order)| (order, index)).collect();
        chosen.sort_unstable();
        Ok(chosen.into_iter().map(|(_, index)| index).collect())
    }
}

impl RawClip {
    /// The clip of its pictures; a video is a problem that names the remedy.
    fn into_clip(self, root: &Path, problems: &mut Problems) -> Option<Clip> {
        let files = match self.frames {
            Frames::Pictures(files) => files,
            Frames::Video { path, .. } => {
                let detail = format!(
                    "{} is the video {}, whose frames are not read in place: take them out with `tracknet data import {} DST`",
                    self.name,
                    name_of(&path),
                    root.display()
                );
                problems.push(ProblemKind::BadLabelFile, &self.label_file, None, &detail);
                return None;
            }
        };
        let frame = |PlacedLabel { place, label, line }: PlacedLabel| {
            let path = files.get(place)?.clone();
            Some(Frame { file_name: name_of(&path), path, label, line })
        };
        let frames = self.labels.into_iter().filter_map(frame).collect();
        let (negative, absent_with_position) = (self.negative, self.absent_with_position);
        let (name, dir, label_file) = (self.name, self.dir, self.label_file);
        Some(Clip { name, dir, label_file, frames, files, negative, absent_with_position })
    }
}

impl From<Clip> for RawClip {
    fn from(clip: Clip) -> Self {
        let places = clip.places();
        let labels = clip.frames.iter().zip(places);
        let labels = labels.map(|(frame, place)| PlacedLabel { place, label: frame.label, line: frame.line }).collect();
        let (negative, absent_with_position) = (clip.negative, clip.absent_with_position);
        let (name, dir, label_file) = (clip.name, clip.dir, clip.label_file);
        Self { name, dir, label_file, frames: Frames::Pictures(clip.files), labels, negative, absent_with_position }
    }
}

/// A file or directory of this name in a directory, without regard to case.
fn child(dir: &Path, names: &[&str]) -> Option<PathBuf> {
    let found: Vec<PathBuf> = std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    names.iter().find_map(|name| found.iter().find(|path| name_of(path).eq_ignore_ascii_case(name)).cloned())
}

/// A directory of this name in a directory.
fn child_directory(dir: &Path, names: &[&str]) -> Option<PathBuf> {
    names.iter().filter_map(|name| child(dir, &[name])).find(|path| path.is_dir())
}

/// Files of this extension in a directory, in natural order of their names.
fn files_with(dir: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let wanted = |path: &Path| {
        let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
        extension.is_some_and(|extension| extensions.contains(&extension.as_str()))
            && !name_of(path).starts_with('.')
            && !path.is_dir()
    };
    super::frames::entries(dir, wanted).unwrap_or_default()
}

/// Every match of a layout: the root, the directories in it, and those in the directories of splits.
fn matches(root: &Path, is_match: impl Fn(&Path) -> bool) -> Vec<Entry> {
    let entry = |dir: &Path, name: String, split| Entry { name, split, places: vec![dir.to_path_buf()] };
    if is_match(root) {
        let name = std::fs::canonicalize(root).map(|root| name_of(&root)).unwrap_or_default();
        return vec![entry(root, if name.is_empty() { "match".to_owned() } else { name }, None)];
    }
    let mut found = Vec::new();
    for dir in directories_in(root).unwrap_or_default() {
        let name = name_of(&dir);
        if is_match(&dir) {
            found.push(entry(&dir, name, None));
            continue;
        }
        let inside = directories_in(&dir).unwrap_or_default().into_iter().filter(|inside| is_match(inside));
        found.extend(inside.map(|inside| entry(&inside, format!("{name}/{}", name_of(&inside)), Split::of(&name))));
    }
    found
}

#[cfg(test)]
mod tests;

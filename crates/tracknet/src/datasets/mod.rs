//! Frames and labels on disk → batches in memory. No tensors here: a batch is plain `Vec<f32>`s, so that reading,
//! checking and drawing a dataset need no device and no model.
//!
//! | module | what lives there |
//! |---|---|
//! | [`frames`] | what a frame is, and the order of names |
//! | [`tracknet`] | the tennis label reader: `<root>/<game>/<clip>/Label.csv` |
//! | [`layouts`] | the layouts of other programs: YOLO, COCO, TrackNetV2/V3, GridTrackNet, fractions, predictions |
//! | [`import`] | a data set in any layout → the tennis layout |
//! | [`labelling`] | labels that a person gives one by one |
//! | [`label_point`] | labels of the leading end of a streak → labels of its centre |
//! | [`streak`] | which of the two labels are, measured on the pictures |
//! | [`report`] | what is wrong with a dataset, by file and line, and the checks that decode images |
//! | [`plausibility`] | labels that can be read and cannot be true as a whole |
//! | [`image`] | decode, resize, normalize |
//! | [`augment`] | opt-in augmentations, from seeded streams |
//! | [`heatmap`] | where a native pixel lies on the heatmap and back; the target |
//! | [`window`] | which frames of a clip make a window; repeated frames |
//! | [`batch_spec`] | what batches look like |
//! | `source` | the frames of a loader, their files and labels |
//! | [`sample`] | one frame, with its window → one sample |
//! | `blocks` | samples in which each frame is once |
//! | `cache` | decoded frames |
//! | [`bad`] | frames that cannot be read: named once, counted |
//! | [`batcher`] | worker threads that decode ahead, in the order of the sampler |
//! | [`draw`], [`preview`] | drawing primitives; the contact sheet |

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{DataConfig, DataFormat, ExifOrientation, LabelPoint, SplitConfig};
use crate::error::Result;

pub mod augment;
pub mod bad;
pub mod batch_spec;
pub mod batcher;
mod blocks;
mod cache;
pub mod draw;
pub mod frames;
pub mod heatmap;
pub mod image;
pub mod import;
pub mod label_point;
pub mod labelling;
pub mod layouts;
pub mod plausibility;
pub mod preview;
pub mod report;
pub mod sample;
mod source;
pub mod streak;
pub mod tracknet;
pub mod window;

pub use bad::BadFrames;
pub use batcher::{Batch, BatchLoader, BatchSpec, LoaderOptions, SampleInfo};
pub use heatmap::Geometry;
pub use report::{DataReport, Problem, ProblemKind, Problems};
pub use window::FrameWindow;

/// How well the ball of a frame can be seen; the numbers are those of the label files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Visibility {
    /// No ball in the frame.
    Absent = 0,
    /// Easy to see.
    Visible = 1,
    /// In the frame, but hard to see.
    Hard = 2,
    /// Behind something; the label is where it must be.
    Occluded = 3,
}

impl Visibility {
    /// Every class, in the order of the numbers.
    pub const ALL: [Self; 4] = [Self::Absent, Self::Visible, Self::Hard, Self::Occluded];

    /// The class with this number, if it is 0, 1, 2 or 3.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// `absent`, `visible`, `hard` or `occluded`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Visible => "visible",
            Self::Hard => "hard",
            Self::Occluded => "occluded",
        }
    }
}

/// Where the ball of one frame is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Label {
    /// How well it can be seen.
    pub visibility: Visibility,
    /// Position in pixels of the original image; `None` exactly when the ball is absent, or when the position
    /// turned out to be outside the image (such a frame teaches and measures nothing).
    pub xy: Option<[f32; 2]>,
}

impl Label {
    /// A frame without a ball.
    pub const ABSENT: Self = Self { visibility: Visibility::Absent, xy: None };

    /// Whether the label says something: absent, or a position.
    pub fn is_usable(&self) -> bool {
        self.visibility == Visibility::Absent || self.xy.is_some()
    }
}

/// One labelled image.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// The image file.
    pub path: PathBuf,
    /// Its name inside the clip.
    pub file_name: String,
    /// Its label.
    pub label: Label,
    /// The line of the label file that says so, from 1; 0 when there is no label file, or none with lines.
    pub line: usize,
}

/// Consecutive frames of one camera.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Clip {
    /// Directory name.
    pub name: String,
    /// Directory.
    pub dir: PathBuf,
    /// The label file.
    pub label_file: PathBuf,
    /// Frames in natural order of their names.
    pub frames: Vec<Frame>,
    /// Every frame file of the clip in the same order, those without a usable label included: what windows are made of.
    pub files: Vec<PathBuf>,
    /// Rows of visible balls that were left out because their position is negative.
    pub negative: usize,
    /// Rows that call the ball absent and give a position all the same.
    pub absent_with_position: usize,
}

impl Clip {
    /// For each labelled frame its place among the files of the clip. Both lists are in the same order.
    fn places(&self) -> Vec<usize> {
        if self.files.is_empty() {
            return (0..self.frames.len()).collect();
        }
        let mut place = 0;
        let next = |frame: &Frame| {
            place += self.files.iter().skip(place).position(|file| *file == frame.path).unwrap_or_default();
            place
        };
        self.frames.iter().map(next).collect()
    }

    /// The position of the ball on each file of the clip, where it is known.
    fn points(&self) -> Vec<Option<[f32; 2]>> {
        let mut points = vec![None; self.files.len().max(self.frames.len())];
        for (frame, place) in self.frames.iter().zip(self.places()) {
            points[place] = frame.label.xy;
        }
        points
    }

    /// Makes centres of labels that are of `point`; see [`label_point::to_center`].
    fn make_centres(&mut self, point: LabelPoint, shutter: f32) -> label_point::Converted {
        let mut points = self.points();
        let converted = label_point::to_center(&mut points, point, shutter);
        let places = self.places();
        for (frame, place) in self.frames.iter_mut().zip(places) {
            frame.label.xy = points[place];
        }
        converted
    }
}

/// The clips of one match.
#[derive(Debug, Clone, PartialEq)]
pub struct Game {
    /// Directory name.
    pub name: String,
    /// Clips in natural order (`Clip2` before `Clip10`).
    pub clips: Vec<Clip>,
}

/// The games of one split, and what was wrong with their files.
#[derive(Debug, Clone)]
pub struct Dataset {
    /// The directory that holds the games.
    pub root: PathBuf,
    /// Games in the order in which they were asked for.
    pub games: Vec<Game>,
    /// Counts, and every row or file that was skipped.
    pub report: DataReport,
    /// Whether the labels are those of the upright pictures.
    pub exif_orientation: ExifOrientation,
    /// What the labels marked before they were made centres.
    pub label_point: LabelPoint,
}

/// How the labels of a data set are to be read; the keys of the `data` section that say so.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The layout of the data set.
    pub format: DataFormat,
    /// Name or number of the class that is the ball, where there are classes; `None` to find it by its name.
    pub ball_class: Option<String>,
    /// Whether the labels are those of the upright pictures.
    pub exif_orientation: ExifOrientation,
    /// What the labels mark of a moving ball.
    pub label_point: LabelPoint,
    /// Share of a frame's time in which the shutter is open.
    pub shutter: f32,
}

impl From<DataFormat> for Reading {
    /// The layout, and the defaults of the other keys.
    fn from(format: DataFormat) -> Self {
        Self { format, ..Self::from(&DataConfig::default()) }
    }
}

impl From<&DataConfig> for Reading {
    fn from(data: &DataConfig) -> Self {
        let &DataConfig { format, exif_orientation, label_point, shutter, .. } = data;
        Self { format, ball_class: data.ball_class.clone(), exif_orientation, label_point, shutter }
    }
}

/// The split of a configuration; where it was left as it is by default and the data set brings its own, that one.
///
/// # Errors
/// A root that cannot be read, or is not in the layout that the configuration names.
pub fn split_of(data: &DataConfig) -> Result<SplitConfig> {
    if data.split != SplitConfig::default() {
        return Ok(data.split.clone());
    }
    let layout = layouts::Layout::find("data.split", &data.root, &data.into())?;
    Ok(layout.and_then(|layout| layout.own_split()).unwrap_or_default())
}

impl Dataset {
    /// Reads the labels of `games` under `root`. Of images at most the header is read, where labels are fractions of them.
    ///
    /// Bad rows are skipped and listed in [`Dataset::report`]; with `strict` they are an error.
    ///
    /// # Errors
    /// A missing root or game (the message says what is there), an unreadable directory, another layout than the one that
    /// was asked for, no usable frame at all, and any problem when `strict`.
    pub fn open(root: &Path, reading: impl Into<Reading>, games: &[String], strict: bool) -> Result<Self> {
        Self::open_split("data.split", root, reading, games, strict)
    }

    /// [`Dataset::open`], with the configuration key or the flag that asked for these games, for the error messages
    /// (`data.split.val_games`, `--games`).
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn open_split(
        key: &str,
        root: &Path,
        reading: impl Into<Reading>,
        games: &[String],
        strict: bool,
    ) -> Result<Self> {
        let reading = reading.into();
        let data = match layouts::Layout::find(key, root, &reading)? {
            Some(layout) => layout.open(key, Some(games), strict)?,
            None => tracknet::open(key, root, games, strict)?,
        };
        Ok(data.read_as(&reading))
    }

    /// [`Dataset::open`] of every game under `root`; directories that are no games are listed in
    /// [`DataReport::not_read`].
    ///
    /// # Errors
    /// As [`Dataset::open`]; a root without games is described: a game, a clip, a level too high, another layout.
    pub fn open_all(root: &Path, reading: impl Into<Reading>) -> Result<Self> {
        let reading = reading.into();
        let data = match layouts::Layout::find("--games", root, &reading)? {
            Some(layout) => layout.open("labels", None, false)?,
            None => tracknet::open_all(root)?,
        };
        Ok(data.read_as(&reading))
    }

    /// Games with the problems that were met while reading them.
    fn new(root: &Path, games: Vec<Game>, problems: Problems) -> Self {
        let report = DataReport::new(&games, problems);
        let (exif_orientation, label_point) = (ExifOrientation::Apply, LabelPoint::Center);
        Self { root: root.to_path_buf(), games, report, exif_orientation, label_point }
    }

    /// The labels as centres of streaks.
    fn read_as(mut self, reading: &Reading) -> Self {
        let clips = self.games.iter_mut().flat_map(|game| &mut game.clips);
        let converted = clips.map(|clip| clip.make_centres(reading.label_point, reading.shutter));
        let converted = converted.fold(label_point::Converted::default(), label_point::Converted::and);
        self.report.notes.extend(converted.note());
        Self { exif_orientation: reading.exif_orientation, label_point: reading.label_point, ..self }
    }

    /// Every frame, in order, as cheap shared references.
    pub fn frames(&self) -> Vec<FrameRef> {
        let mut frames = Vec::new();
        for game in &self.games {
            let game_name: Arc<str> = game.name.as_str().into();
            for clip in &game.clips {
                let clip_name: Arc<str> = clip.name.as_str().into();
                let label_file: Arc<Path> = clip.label_file.as_path().into();
                let files: Arc<[PathBuf]> = match clip.files.as_slice() {
                    [] => clip.frames.iter().map(|frame| frame.path.clone()).collect(),
                    files => files.into(),
                };
                frames.extend(clip.frames.iter().zip(clip.places()).map(|(frame, place)| FrameRef {
                    game: Arc::clone(&game_name),
                    clip: Arc::clone(&clip_name),
                    label_file: Arc::clone(&label_file),
                    files: Arc::clone(&files),
                    place,
                    frame: Arc::new(frame.clone()),
                }));
            }
        }
        frames
    }
}

/// A frame with the names of its game and clip; cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub struct FrameRef {
    /// Name of the game.
    pub game: Arc<str>,
    /// Name of the clip.
    pub clip: Arc<str>,
    /// The label file of the clip.
    pub label_file: Arc<Path>,
    /// Every frame file of the clip, in order.
    pub files: Arc<[PathBuf]>,
    /// The place of the frame among them.
    pub place: usize,
    /// The frame itself.
    pub frame: Arc<Frame>,
}

impl FrameRef {
    /// A frame of which nothing is known but its file: for prediction.
    pub fn unlabelled(path: &Path) -> Self {
        let file_name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Self {
            game: "".into(),
            clip: "".into(),
            label_file: Path::new("").into(),
            files: [path.to_path_buf()].into(),
            place: 0,
            frame: Arc::new(Frame { path: path.to_path_buf(), file_name, label: Label::ABSENT, line: 0 }),
        }
    }
}

impl fmt::Display for FrameRef {
    /// `game1/Clip2/0007.jpg`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.game.is_empty() && self.clip.is_empty() {
            return write!(f, "{}", self.frame.path.display());
        }
        write!(f, "{}/{}/{}", self.game, self.clip, self.frame.file_name)
    }
}

/// Why a dataset, a label file or an image was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// The dataset root does not exist or is not a directory.
    #[error(
        "dataset root {} is not a directory; {advice}, or make a dataset there with `tracknet data generate`",
        root.display()
    )]
    RootMissing {
        /// The dataset root.
        root: PathBuf,
        /// What to do, in the words of who asked.
        advice: &'static str,
    },
    /// A dataset root is not in the layout that was asked for.
    #[error("{}: not in the layout `{format}`: {found}; expected {expected}", root.display())]
    OtherLayout {
        /// The dataset root.
        root: PathBuf,
        /// The layout.
        format: DataFormat,
        /// What is there instead.
        found: String,
        /// What belongs there.
        expected: &'static str,
    },
    /// A file that describes a data set cannot be used.
    #[error("{}: {reason}", file.display())]
    Description {
        /// The file.
        file: PathBuf,
        /// What was found, what was expected and what to do.
        reason: String,
    },
    /// No directory under the dataset root is a game.
    #[error("{}: no game here; {found}", root.display())]
    NotARoot {
        /// The dataset root.
        root: PathBuf,
        /// What it is instead, and which directory is meant.
        found: String,
    },
    /// No game was asked for at all.
    #[error("{key} is empty: name at least one game of {}; {found}", root.display())]
    NoGames {
        /// The key or flag that asked.
        key: String,
        /// The dataset root.
        root: PathBuf,
        /// What the root has.
        found: String,
    },
    /// Games that were asked for do not exist.
    #[error("{key} asks for {missing}, which {} does not have{}; {found}", root.display(), suggestion(nearest))]
    GamesMissing {
        /// The key or flag that asked.
        key: String,
        /// The dataset root.
        root: PathBuf,
        /// The missing directories.
        missing: String,
        /// The existing directory whose name is nearest to the first missing one.
        nearest: Option<String>,
        /// What the root has.
        found: String,
    },
    /// No frame of the split can be used.
    #[error(
        "{key}: no usable frame in {games} under {} (expected {expected}){problems}",
        root.display()
    )]
    NoFrames {
        /// The key or flag that asked.
        key: String,
        /// The dataset root.
        root: PathBuf,
        /// The games that were read.
        games: String,
        /// What belongs there.
        expected: &'static str,
        /// Why rows and files were skipped.
        problems: Box<Problems>,
    },
    /// Bad rows or files, and `strict` was asked for.
    #[error("{} in {} (strict){problems}", count(problems.total(), "problem"), root.display())]
    Strict {
        /// The dataset root.
        root: PathBuf,
        /// Every problem.
        problems: Box<Problems>,
    },
    /// An image cannot be read or decoded.
    #[error("image {}: {reason}", path.display())]
    Image {
        /// The image file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A sample of a batch cannot be made.
    #[error("frame {frame} ({}): {cause}", label_place(label_file, *line))]
    Sample {
        /// `game/clip/file`.
        frame: String,
        /// The label file that names the image.
        label_file: PathBuf,
        /// The line in it, from 1.
        line: usize,
        /// What went wrong.
        cause: Box<DatasetError>,
    },
    /// Work that was asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Every frame of an epoch is one that cannot be read.
    #[error("none of {} could be read; the first: {first}", count(*frames, "frame"))]
    NothingReadable {
        /// How many were tried.
        frames: usize,
        /// The first one, and why.
        first: String,
    },
    /// A value of the batch specification makes no sense.
    #[error("{key} = {found}: {expected}")]
    Spec {
        /// The configuration key.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is expected.
        expected: &'static str,
    },
    /// A worker thread cannot be started.
    #[error("cannot start a decode worker: {0}; lower training.data_loader.num_workers")]
    Worker(std::io::Error),
    /// A part of the program itself is damaged (its built-in font).
    #[error("internal: {0}")]
    Internal(&'static str),
}

impl DatasetError {
    /// Whether it speaks of one picture only.
    pub(crate) fn is_of_picture(&self) -> bool {
        match self {
            Self::Image { .. } => true,
            Self::Sample { cause, .. } => cause.is_of_picture(),
            _ => false,
        }
    }
}

fn suggestion(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

fn label_place(label_file: &Path, line: usize) -> String {
    match line {
        _ if label_file.as_os_str().is_empty() => "no label".to_owned(),
        0 => label_file.display().to_string(),
        line => format!("{} line {line}", label_file.display()),
    }
}

/// `1 problem`, `2 problems`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

//! Tables of frame numbers: `Frame,Visibility,X,Y` beside the frames that they count.
//!
//! | layout | table | frames | a row names |
//! |---|---|---|---|
//! | `badminton` (TrackNetV2, TrackNetV3) | `csv/<rally>_ball.csv` | `frame/<rally>/`, `video/<rally>.mp4` | the number in the file's name |
//! | `gridtracknet` | `Labels.csv` | `frames/` | the number in the file's name |
//! | `normalized` (TrackNetV2-pytorch) | `labels/<rally>.csv` | `images/<rally>/`, `videos/<rally>.mp4` | the same; positions are fractions |
//! | `predictions` | `<name>.csv` | `<name>/`, `<name>.mp4` | the frame's place, from 0 |
//!
//! The columns are those of [`labels`](super::super::tracknet::labels), `frame_num,visible,x,y` among them.

use std::collections::btree_map::Entry as MapEntry;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::super::frames::{VIDEO_EXTENSIONS, frames_in, name_of};
use super::super::image::dimensions;
use super::super::report::{ProblemKind, Problems};
use super::super::tracknet::labels::{Row, stem};
use super::super::tracknet::read_table;
use super::super::{Reading, Visibility};
use super::sequences::number_in;
use super::{Entry, Frames, PlacedLabel, RawClip, child, child_directory, files_with, matches};
use crate::config::DataFormat;
use crate::console::excerpt;
use crate::error::{IoContext, Result};

/// Which of these layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Badminton,
    GridTrackNet,
    Normalized,
    Predictions,
}

/// A table and where its frames may be.
struct Pair {
    name: String,
    table: PathBuf,
    frames: Option<PathBuf>,
    video: Option<PathBuf>,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::GridTrackNet, Self::Badminton, Self::Normalized, Self::Predictions];

    pub(super) fn of(format: DataFormat) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.format() == format)
    }

    pub(super) fn format(self) -> DataFormat {
        match self {
            Self::Badminton => DataFormat::Badminton,
            Self::GridTrackNet => DataFormat::GridTrackNet,
            Self::Normalized => DataFormat::Normalized,
            Self::Predictions => DataFormat::Predictions,
        }
    }

    /// The matches of this layout.
    pub(super) fn entries(self, root: &Path) -> Vec<Entry> {
        matches(root, |dir| self.pairs(dir).iter().any(|pair| pair.frames.is_some() || pair.video.is_some()))
    }

    /// The tables of a match.
    fn pairs(self, dir: &Path) -> Vec<Pair> {
        let pair = |table: PathBuf, frames: &[&str], videos: &[&str]| {
            let name = rally_of(&table);
            let of_rally = |dir: PathBuf| Some(dir.join(&name)).filter(|dir| dir.is_dir());
            let frames = child_directory(dir, frames).and_then(of_rally);
            let video = child_directory(dir, videos).and_then(|dir| video_of(&dir, &name));
            Pair { name, table, frames, video }
        };
        let tables = |names: &[&str]| -> Vec<PathBuf> {
            child_directory(dir, names).map(|dir| files_with(&dir, &["csv"])).unwrap_or_default()
        };
        match self {
            Self::Badminton => {
                let corrected = tables(&["corrected_csv", "csv"]);
                corrected.into_iter().map(|table| pair(table, &["frame", "frames"], &["video", "videos"])).collect()
            }
            Self::Normalized => {
                let labels = tables(&["labels"]);
                labels.into_iter().map(|table| pair(table, &["images"], &["videos", "video"])).collect()
            }
            Self::GridTrackNet => {
                let table = child(dir, &["Labels.csv"]);
                let of = |table| Pair {
                    name: "frames".to_owned(),
                    table,
                    frames: child_directory(dir, &["frames"]),
                    video: None,
                };
                table.map(of).into_iter().collect()
            }
            Self::Predictions => {
                let of = |table: PathBuf| {
                    let name = rally_of(&table);
                    let frames =
                        Some(dir.join(&name)).filter(|dir| frames_in(dir).is_ok_and(|frames| !frames.is_empty()));
                    Pair { video: video_of(dir, &name), frames, name, table }
                };
                files_with(dir, &["csv"]).into_iter().map(of).collect()
            }
        }
    }

    /// The clips of a match.
    pub(super) fn read(
        self,
        entry: &Entry,
        reading: &Reading,
        problems: &mut Problems,
        notes: &mut Vec<String>,
    ) -> Result<Vec<RawClip>> {
        let Some(dir) = entry.places.first() else { return Ok(Vec::new()) };
        let mut clips = Vec::new();
        for pair in self.pairs(dir) {
            let pictures = pair.frames.as_deref().map(|dir| frames_in(dir).at(dir)).transpose()?.unwrap_or_default();
            if pictures.is_empty() && pair.video.is_none() {
                let detail = format!("no frames and no video of {}", excerpt(&pair.name, 80));
                problems.push(ProblemKind::MissingFile, &pair.table, None, &detail);
                continue;
            }
            let Some(table) = read_table(&pair.table, problems) else { continue };
            let (negative, absent_with_position) = (table.negative, table.absent_with_position);
            let rows = numbered(table.rows, &pair.table, problems);
            let fractions = self == Self::Normalized;
            let (frames, labels) = match (pictures.is_empty(), pair.video.clone()) {
                (true, Some(path)) => (Frames::Video { path, fractions }, placed(rows)),
                _ => {
                    let mut labels = self.join(rows, &pictures, &pair, problems, notes);
                    if fractions {
                        labels.retain_mut(|label| in_pixels(label, &pictures[label.place], reading, problems));
                    }
                    (Frames::Pictures(pictures), labels)
                }
            };
            let dir = pair.frames.unwrap_or_else(|| dir.clone());
            let (name, label_file) = (pair.name, pair.table);
            clips.push(RawClip { name, dir, label_file, frames, labels, negative, absent_with_position });
        }
        Ok(clips)
    }

    /// The labels of pictures, by the numbers in their names or by their places.
    fn join(
        self,
        rows: BTreeMap<u64, Row>,
        pictures: &[PathBuf],
        pair: &Pair,
        problems: &mut Problems,
        notes: &mut Vec<String>,
    ) -> Vec<PlacedLabel> {
        let numbers: Vec<Option<u64>> = match self {
            Self::Predictions => (0..pictures.len() as u64).map(Some).collect(),
            _ => pictures.iter().map(|path| number_in(&name_of(path))).collect(),
        };
        let place_of: HashMap<u64, usize> =
            numbers.iter().enumerate().filter_map(|(place, number)| Some(((*number)?, place))).collect();
        let shift = shift(&rows, place_of.keys().copied());
        if shift != 0 {
            notes.push(format!(
                "{}: rows are counted from {} and frames from {}, and both count {}: row {} is the first frame",
                pair.name,
                rows.keys().next().copied().unwrap_or_default(),
                place_of.keys().min().copied().unwrap_or_default(),
                pictures.len(),
                rows.keys().next().copied().unwrap_or_default()
            ));
        }
        let mut labels = Vec::new();
        let mut found = vec![false; pictures.len()];
        for (number, row) in rows {
            let place = number.checked_add_signed(-shift).and_then(|number| place_of.get(&number));
            match place {
                Some(&place) => {
                    found[place] = true;
                    labels.push(PlacedLabel { place, label: row.label, line: row.line });
                }
                None => {
                    let detail = format!("frame {number}: no such image among the {} of {}", pictures.len(), pair.name);
                    problems.push(ProblemKind::MissingFile, &pair.table, Some(row.line), &detail);
                }
            }
        }
        for (path, _) in pictures.iter().zip(&found).filter(|(_, found)| !**found) {
            problems.push(ProblemKind::UnlabelledFile, path, None, &format!("no row in {}", name_of(&pair.table)));
        }
        labels.sort_by_key(|label| label.place);
        labels
    }
}

/// By how much rows are counted differently from frames: 1 or −1 when both count the same number, one from 0 and one from
/// 1, so that nothing else fits; otherwise 0.
fn shift(rows: &BTreeMap<u64, Row>, frames: impl Iterator<Item = u64> + Clone) -> i64 {
    let count = frames.clone().count() as u64;
    let (first, last) = (frames.clone().min(), frames.max());
    let (Some(first), Some(last), Some(from), Some(to)) =
        (first, last, rows.keys().next().copied(), rows.keys().next_back().copied())
    else {
        return 0;
    };
    let full = last - first + 1 == count && to - from + 1 == count && rows.len() as u64 == count;
    match (full, from, first) {
        (true, 1, 0) => 1,
        (true, 0, 1) => -1,
        _ => 0,
    }
}

/// Labels of the frames of a video; their places are the numbers of the rows.
fn placed(rows: BTreeMap<u64, Row>) -> Vec<PlacedLabel> {
    let labels = rows.into_iter();
    labels.map(|(number, row)| PlacedLabel { place: number as usize, label: row.label, line: row.line }).collect()
}

/// Rows by the number of their frame.
fn numbered(rows: Vec<Row>, table: &Path, problems: &mut Problems) -> BTreeMap<u64, Row> {
    let mut numbered = BTreeMap::new();
    for row in rows {
        let Some(number) = number_of(&row.file_name) else {
            let detail = format!("frame `{}` is not a whole number from 0", excerpt(&row.file_name, 80));
            problems.push(ProblemKind::UnparsableRow, table, Some(row.line), &detail);
            continue;
        };
        match numbered.entry(number) {
            MapEntry::Vacant(free) => {
                free.insert(row);
            }
            MapEntry::Occupied(_) => {
                let detail = format!("frame {number}: it has a row already");
                problems.push(ProblemKind::DuplicateRow, table, Some(row.line), &detail);
            }
        }
    }
    numbered
}

/// A frame number as a row has it: `12`, `12.0`, `12.png`.
fn number_of(text: &str) -> Option<u64> {
    let text = stem(text);
    let whole = text.parse::<f64>().ok().filter(|value| value.fract() == 0.0 && (0.0..=1e9).contains(value))?;
    Some(whole as u64)
}

/// Makes pixels of the fractions of a picture; whether that was possible.
fn in_pixels(label: &mut PlacedLabel, picture: &Path, reading: &Reading, problems: &mut Problems) -> bool {
    let Some(xy) = label.label.xy else { return label.label.visibility == Visibility::Absent };
    match dimensions(picture, reading.exif_orientation) {
        Ok(size) => {
            label.label.xy = Some([0, 1].map(|axis| xy[axis] * size[axis] as f32));
            true
        }
        Err(error) => {
            problems.push(ProblemKind::UndecodableImage, picture, None, &error.to_string());
            false
        }
    }
}

/// The rally that a table is of: its name without what tools append.
fn rally_of(table: &Path) -> String {
    let name = name_of(table);
    let stem = name.rsplit_once('.').map_or(name.as_str(), |(stem, _)| stem);
    ["_ball", "_predict"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem).to_owned()
}

fn video_of(dir: &Path, name: &str) -> Option<PathBuf> {
    let is_it = |path: &PathBuf| path.file_stem().is_some_and(|stem| stem.to_string_lossy() == name);
    files_with(dir, &VIDEO_EXTENSIONS).into_iter().find(is_it)
}

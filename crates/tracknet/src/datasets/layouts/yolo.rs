//! YOLO: a text file of boxes beside each picture, or in `labels/` for a picture in `images/`
//! (<https://docs.ultralytics.com/datasets/detect/>), as Roboflow, CVAT and Label Studio export them.
//!
//! A line is `class x y width height` as fractions of the picture, with a confidence in predictions, or
//! `class x1 y1 x2 y2 x3 y3 …`, a polygon, of which the bounding box counts. A picture without a file, or with an empty one,
//! has no ball. Paths of `data.yaml` are looked for below the data set, whatever machine they were written on.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use super::super::frames::{directories_in, frames_in, is_picture, name_of};
use super::super::image::dimensions;
use super::super::report::{ProblemKind, Problems};
use super::super::{DatasetError, Label, Reading, Visibility, count};
use super::boxes::{BallBox, Classes, ball_of};
use super::sequences::clips_of;
use super::{Entry, RawClip, Split, child, child_directory, files_with};
use crate::config::ExifOrientation;
use crate::console::excerpt;
use crate::error::Result;
use crate::files::{self, read::LABELS, read::YAML};

/// How deep pictures may lie below the directory of a split.
const DEEPEST: usize = 4;

/// What a data set describes.
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    pub(super) classes: Classes,
}

/// Whether a directory has the layout, without reading labels.
pub(super) fn looks_like(root: &Path) -> bool {
    description(root).is_some() || !unnamed_entries(root).is_empty()
}

/// Finds splits and classes; `None` when it is another layout.
pub(super) fn find(root: &Path, reading: &Reading, problems: &mut Problems) -> Result<Option<Found>> {
    let wanted = reading.ball_class.as_deref();
    if let Some((file, yaml)) = description(root) {
        let classes = Classes::new(names_of(&yaml), wanted, &file)?;
        let entries = named_entries(root, &file, &yaml, problems);
        return match entries.is_empty() {
            true => Ok(Some(Found { entries: unnamed_entries(root), classes })),
            false => Ok(Some(Found { entries, classes })),
        };
    }
    let entries = unnamed_entries(root);
    if entries.is_empty() {
        return Ok(None);
    }
    let file = child(root, &["classes.txt", "obj.names"]);
    let names = file.as_ref().map(|file| files::read_text(file, YAML)).transpose()?.unwrap_or_default();
    let names = names.lines().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    let classes = Classes::new((0..).zip(names).collect(), wanted, file.as_deref().unwrap_or(root))?;
    Ok(Some(Found { entries, classes }))
}

/// The YAML file that names classes or splits.
fn description(root: &Path) -> Option<(PathBuf, Value)> {
    let mut candidates = files_with(root, &["yaml", "yml"]);
    candidates.sort_by_key(|path| !name_of(path).to_lowercase().starts_with("data"));
    candidates.into_iter().find_map(|path| {
        let text = files::read_text(&path, YAML).ok()?;
        let yaml: Value = serde_saphyr::from_str(&text).ok()?;
        (yaml.get("names").is_some() && ["train", "val", "valid"].iter().any(|key| yaml.get(key).is_some()))
            .then_some((path, yaml))
    })
}

/// `names` as a list, or as a map from numbers.
fn names_of(yaml: &Value) -> Vec<(i64, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match &yaml["names"] {
        Value::Array(names) => (0..).zip(names.iter().map(text)).collect(),
        Value::Object(names) => {
            let mut names: Vec<(i64, String)> =
                names.iter().filter_map(|(id, name)| Some((id.trim().parse().ok()?, text(name)))).collect();
            names.sort();
            names
        }
        _ => Vec::new(),
    }
}

/// The splits that the description names.
fn named_entries(root: &Path, file: &Path, yaml: &Value, problems: &mut Problems) -> Vec<Entry> {
    let base = yaml["path"].as_str().unwrap_or_default();
    let mut entries = Vec::new();
    for (split, keys) in [(Split::Train, &["train"][..]), (Split::Val, &["val", "valid"]), (Split::Test, &["test"])] {
        let Some(key) = keys.iter().find(|key| yaml.get(**key).is_some_and(|value| !value.is_null())) else { continue };
        let written: Vec<&str> = match &yaml[*key] {
            Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
            one => one.as_str().into_iter().collect(),
        };
        let mut places = Vec::new();
        for text in written {
            let found = below(root, &Path::new(base).join(text)).or_else(|| below(root, Path::new(text)));
            match found.or_else(|| child_directory(root, keys)) {
                Some(place) => places.push(place),
                None => {
                    let detail = format!(
                        "{key}: `{}` is not below {}; the split is not read",
                        excerpt(text, 120),
                        root.display()
                    );
                    problems.push(ProblemKind::BadLabelFile, file, None, &detail);
                }
            }
        }
        if !places.is_empty() {
            entries.push(Entry { name: split.name().to_owned(), split: Some(split), places });
        }
    }
    entries
}

/// What a path means below `root`: `../` and the directories of other machines in front are left out. Never leaves it.
fn below(root: &Path, written: &Path) -> Option<PathBuf> {
    let text = written.to_string_lossy().replace('\\', "/");
    let parts: Vec<String> = Path::new(&text)
        .components()
        .filter_map(|part| match part {
            Component::Normal(part) => Some(part.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect();
    // The last name alone is too little to go by, unless nothing else was written.
    let starts = (0..parts.len()).filter(|start| *start == 0 || parts.len() - start >= 2);
    let place = |start: usize| parts[start..].iter().fold(root.to_path_buf(), |place, part| place.join(part));
    starts.map(place).find(|place| place.exists())
}

/// Splits by their directories: `train/images`, `images/train`, or `images` alone, each with labels.
fn unnamed_entries(root: &Path) -> Vec<Entry> {
    let labelled = |dir: &Path| {
        let labels = labels_of(root, dir);
        labels != *dir
            && labels.is_dir()
            && !files_below(&labels, &|dir| Ok(files_with(dir, &["txt"])), DEEPEST).is_empty()
    };
    let images = child_directory(root, &["images"]);
    let of_split = |dir: PathBuf, inside: bool| {
        let split = Split::of(&name_of(&dir))?;
        let place = if inside { child_directory(&dir, &["images"])? } else { dir };
        labelled(&place).then(|| Entry { name: split.name().to_owned(), split: Some(split), places: vec![place] })
    };
    let splits = directories_in(root).unwrap_or_default().into_iter().filter_map(|dir| of_split(dir, true));
    let in_images = images.iter().flat_map(|dir| directories_in(dir).unwrap_or_default());
    let mut entries: Vec<Entry> = splits.chain(in_images.filter_map(|dir| of_split(dir, false))).collect();
    entries.sort_by_key(|entry| entry.split);
    match images {
        Some(images) if entries.is_empty() && labelled(&images) => {
            vec![Entry { name: "all".to_owned(), split: None, places: vec![images] }]
        }
        _ => entries,
    }
}

/// Where the labels of a picture, or of a directory of them, are: `labels` in place of the last `images` below the root.
fn labels_of(root: &Path, place: &Path) -> PathBuf {
    let Ok(inside) = place.strip_prefix(root) else { return place.to_path_buf() };
    let parts: Vec<_> = inside.components().collect();
    let images = parts.iter().rposition(|part| part.as_os_str().eq_ignore_ascii_case("images"));
    let part = |(index, part): (usize, &Component<'_>)| match images == Some(index) {
        true => PathBuf::from("labels"),
        false => PathBuf::from(part.as_os_str()),
    };
    parts.iter().enumerate().map(part).fold(root.to_path_buf(), |place, part| place.join(part))
}

/// Files of a directory and those in it, in natural order.
fn files_below(dir: &Path, of: &dyn Fn(&Path) -> std::io::Result<Vec<PathBuf>>, depth: usize) -> Vec<PathBuf> {
    let mut files = of(dir).unwrap_or_default();
    if depth > 0 {
        let inside = directories_in(dir).unwrap_or_default();
        files.extend(inside.into_iter().flat_map(|dir| files_below(&dir, of, depth - 1)));
    }
    files
}

/// The pictures of a split: of a directory, or of a text file that lists them.
fn pictures_of(root: &Path, place: &Path) -> Result<Vec<PathBuf>> {
    if place.is_dir() {
        let images = child_directory(place, &["images"]).unwrap_or_else(|| place.to_path_buf());
        return Ok(files_below(&images, &|dir| frames_in(dir), DEEPEST));
    }
    let list = files::read_text(place, LABELS)?;
    let listed = list.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(listed.filter_map(|line| below(root, Path::new(line))).filter(|path| is_picture(path)).collect())
}

/// The clips of a split.
pub(super) fn read(
    entry: &Entry,
    root: &Path,
    classes: &Classes,
    reading: &Reading,
    problems: &mut Problems,
    notes: &mut Vec<String>,
) -> Result<Vec<RawClip>> {
    let mut pictures = Vec::new();
    let mut seen = HashSet::new();
    for place in &entry.places {
        pictures.extend(pictures_of(root, place)?.into_iter().filter(|path| seen.insert(path.clone())));
    }
    let read: Vec<Picture> =
        pictures.par_iter().map(|path| Picture::read(root, path, classes, reading.exif_orientation)).collect();
    let files = read.iter().filter(|picture| picture.labelled).count();
    let boxes: HashSet<i64> = read.iter().flat_map(|picture| picture.classes.iter().copied()).collect();
    let place = entry.places.first().map_or_else(|| root.to_path_buf(), |place| labels_of(root, place));
    let unlabelled = pictures.len() - files;
    if files == 0 {
        let detail = format!("no label file for any of {}", count(unlabelled, "picture"));
        problems.push(ProblemKind::BadLabelFile, &place, None, &detail);
        return Ok(Vec::new());
    }
    if classes.is_open() && boxes.len() > 1 {
        let reason = format!("boxes of {} classes without names; {}", boxes.len(), super::boxes::SAY_WHICH);
        return Err(DatasetError::Description { file: place, reason }.into());
    }
    if unlabelled > 0 {
        let one = if unlabelled == 1 { "counts" } else { "count" };
        notes.push(format!(
            "{}: {} without a label file {one} as without a ball",
            entry.name,
            count(unlabelled, "picture")
        ));
    }
    let labels: Vec<Option<Label>> = read.into_iter().map(|picture| picture.label(problems)).collect();
    Ok(clips_of(entry, &pictures, &labels, &place, notes))
}

/// A picture with its label file.
struct Picture {
    file: PathBuf,
    labelled: bool,
    classes: HashSet<i64>,
    /// The ball's position in pixels, `None` without a ball; or what is wrong, with the line.
    ball: Result<Option<[f32; 2]>, (ProblemKind, Option<usize>, String)>,
    /// Lines that were left out.
    bad: Vec<(usize, String)>,
}

impl Picture {
    fn read(root: &Path, path: &Path, classes: &Classes, exif: ExifOrientation) -> Self {
        let file = labels_of(root, path).with_extension("txt");
        let mut picture = Self { file, labelled: false, classes: HashSet::new(), ball: Ok(None), bad: Vec::new() };
        if std::fs::symlink_metadata(&picture.file).is_err() {
            return picture;
        }
        picture.labelled = true;
        picture.ball = match files::read_bytes(&picture.file, LABELS) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                picture.ball(text.trim_start_matches('\u{feff}'), path, classes, exif)
            }
            Err(error) => Err((ProblemKind::BadLabelFile, None, error.to_string())),
        };
        picture
    }

    fn ball(
        &mut self,
        text: &str,
        path: &Path,
        classes: &Classes,
        exif: ExifOrientation,
    ) -> Result<Option<[f32; 2]>, (ProblemKind, Option<usize>, String)> {
        let mut boxes = Vec::new();
        for (line, text) in (1..).zip(text.lines()).filter(|(_, text)| !text.trim().is_empty()) {
            let found = parse(text).and_then(|(class, found)| Ok((class, classes.is_ball(class)?, found)));
            match found {
                Ok((class, is_ball, found)) => {
                    self.classes.insert(class);
                    boxes.extend(is_ball.then_some(found));
                }
                Err(reason) => self.bad.push((line, reason)),
            }
        }
        if boxes.is_empty() {
            // A line that cannot be read may have been the ball.
            return if self.bad.is_empty() { Ok(None) } else { Err((ProblemKind::UnparsableRow, None, String::new())) };
        }
        let size = dimensions(path, exif).map_err(|e| (ProblemKind::UndecodableImage, None, e.to_string()))?;
        let size = size.map(|n| n as f64);
        let scaled = |v: [f64; 2]| [v[0] * size[0], v[1] * size[1]];
        let boxes: Vec<BallBox> =
            boxes.iter().map(|b: &BallBox| BallBox { middle: scaled(b.middle), size: scaled(b.size) }).collect();
        ball_of(&boxes).map_err(|(kind, detail)| (kind, None, detail))
    }

    /// The label, if it says one clear thing; everything else joins the problems.
    fn label(self, problems: &mut Problems) -> Option<Label> {
        for (line, reason) in &self.bad {
            problems.push(ProblemKind::UnparsableRow, &self.file, Some(*line), reason);
        }
        match self.ball {
            Ok(None) => Some(Label::ABSENT),
            Ok(Some(xy)) if xy.iter().any(|v| *v < 0.0) => {
                let detail = format!("({}, {}) is outside the frame", xy[0], xy[1]);
                problems.push(ProblemKind::OutsideFrame, &self.file, None, &detail);
                None
            }
            Ok(Some(xy)) => Some(Label { visibility: Visibility::Visible, xy: Some(xy) }),
            // Its lines are named already.
            Err((ProblemKind::UnparsableRow, ..)) => None,
            Err((kind, line, detail)) => {
                problems.push(kind, &self.file, line, &detail);
                None
            }
        }
    }
}

/// A line of a label file: the class, and the box as fractions of the picture.
fn parse(line: &str) -> Result<(i64, BallBox), String> {
    let shown = || excerpt(line.trim(), 120).into_owned();
    let fields: Vec<&str> = line.split_whitespace().collect();
    let numbers: Option<Vec<f64>> =
        fields.iter().map(|field| field.parse::<f64>().ok().filter(|value| value.is_finite())).collect();
    let Some(numbers) = numbers else {
        let comma = if line.contains(',') { ": write decimals with a point" } else { "" };
        return Err(format!("`{}` has a field that is not a number{comma}", shown()));
    };
    let [class, rest @ ..] = numbers.as_slice() else { return Err("the line is empty".to_owned()) };
    if class.fract() != 0.0 || class.abs() > 1e9 {
        return Err(format!("class `{}` is not a whole number", excerpt(fields[0], 40)));
    }
    let (middle, size) = match rest {
        [x, y, width, height] | [x, y, width, height, _] => ([*x, *y], [*width, *height]),
        points if points.len() >= 6 && points.len() % 2 == 0 => {
            let range = |axis: usize| {
                let values = points.iter().skip(axis).step_by(2);
                values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| [low.min(*v), high.max(*v)])
            };
            let [[left, right], [top, bottom]] = [range(0), range(1)];
            ([0.5 * (left + right), 0.5 * (top + bottom)], [right - left, bottom - top])
        }
        _ => return Err(format!("{}, expected `class x y width height`: `{}`", count(fields.len(), "field"), shown())),
    };
    let inside = middle.iter().chain(&size).all(|v| (-0.001..=1.001).contains(v)) && size.iter().all(|v| *v > 0.0);
    if !inside {
        return Err(format!("`{}`: expected fractions of the picture in 0..1 and a box that is not empty", shown()));
    }
    Ok((*class as i64, BallBox { middle, size }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_box_a_prediction_or_a_polygon() {
        let expected = BallBox { middle: [0.5, 0.25], size: [0.5, 0.25] };
        for line in
            ["1 0.5 0.25 0.5 0.25", " 1  0.5 0.25 0.5 0.25 0.93\r", "1 0.25 0.125 0.75 0.125 0.75 0.375 0.25 0.375"]
        {
            assert_eq!(parse(line), Ok((1, expected)), "{line}");
        }
        for (line, words) in [
            ("0 0.5 0.5 0.1", "4 fields, expected `class x y width height`"),
            ("0 NaN 0.5 0.1 0.1", "not a number"),
            ("0 0,5 0,5 0,1 0,1", "write decimals with a point"),
            ("ball 0.5 0.5 0.1 0.1", "not a number"),
            ("0.5 0.5 0.5 0.1 0.1", "class `0.5` is not a whole number"),
            ("0 320 180 12 12", "expected fractions of the picture in 0..1"),
            ("0 0.5 0.5 0 0.1", "a box that is not empty"),
        ] {
            assert!(parse(line).unwrap_err().contains(words), "{line}: {:?}", parse(line));
        }
    }

    #[test]
    fn paths_of_other_machines_are_found_below_the_data_set_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("export");
        std::fs::create_dir_all(root.join("train/images")).unwrap();
        std::fs::create_dir_all(dir.path().join("outside/images")).unwrap();
        let found =
            |text: &str| below(&root, Path::new(text)).map(|path| path.strip_prefix(&root).unwrap().to_path_buf());
        for text in
            ["train/images", "../train/images", "/content/x/train/images", r"C:\data\train\images", "./train/images/"]
        {
            assert_eq!(found(text), Some(PathBuf::from("train/images")), "{text}");
        }
        assert_eq!(found("../outside/images"), None);
        assert_eq!(labels_of(&root, &root.join("images/images/a.jpg")), root.join("images/labels/a.jpg"));
    }
}

//! COCO: one JSON of pictures, categories and boxes (<https://cocodataset.org/#format-data>), as Roboflow, CVAT and Label
//! Studio export it. A box is `[left, top, width, height]` in pixels.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::super::frames::{directories_in, is_frame_name, name_of};
use super::super::report::{ProblemKind, Problems};
use super::super::{DatasetError, Label, Reading, Visibility, count};
use super::boxes::{BallBox, Classes, ball_of};
use super::sequences::clips_of;
use super::{Entry, RawClip, Split, child_directory, files_with};
use crate::console::excerpt;
use crate::error::Result;
use crate::files::{self, read::ANNOTATIONS};

/// What is read of an annotations file.
#[derive(Deserialize)]
struct Annotations {
    images: Vec<Image>,
    annotations: Vec<Annotation>,
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Image {
    id: Id,
    file_name: String,
}

#[derive(Deserialize)]
struct Annotation {
    image_id: Id,
    category_id: i64,
    #[serde(default)]
    bbox: Vec<f64>,
}

#[derive(Deserialize)]
struct Category {
    id: i64,
    name: String,
    #[serde(default)]
    supercategory: Option<String>,
}

/// Numbers in most files, texts in some.
#[derive(Debug, Deserialize, PartialEq, Eq, Hash)]
#[serde(untagged)]
enum Id {
    Number(i64),
    Text(String),
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "{:?}", excerpt(text, 80)),
        }
    }
}

/// Annotation files below a directory by their names; with `any`, any JSON file beside the directories of splits.
pub(super) fn entries(root: &Path, any: bool) -> Vec<Entry> {
    let is_usual = |name: &str| {
        let name = name.to_lowercase();
        name == "_annotations.coco.json"
            || ["instances", "annotations", "result.json", "coco", "labels_coco"]
                .iter()
                .any(|start| name.starts_with(start))
    };
    let other_task = |name: &str| ["captions", "person_keypoints", "panoptic"].iter().any(|s| name.starts_with(s));
    let mut found: Vec<(PathBuf, String)> = Vec::new();
    for path in files_with(root, &["json"]).into_iter().filter(|path| any || is_usual(&name_of(path))) {
        let stem = stem_of(&path);
        found.push((path, stem));
    }
    for dir in directories_in(root).unwrap_or_default() {
        let in_annotations = name_of(&dir).eq_ignore_ascii_case("annotations");
        let wanted = |path: &PathBuf| in_annotations && !other_task(&name_of(path)) || is_usual(&name_of(path));
        for path in files_with(&dir, &["json"]).into_iter().filter(wanted) {
            let name = if in_annotations { stem_of(&path) } else { name_of(&dir) };
            found.push((path, name));
        }
    }
    let split_of = |name: &str| Split::of(name.trim_start_matches("instances_").trim_start_matches("annotations_"));
    let named = |(path, name): (PathBuf, String)| {
        let split = split_of(&name);
        let name = split.map_or(name, |split| split.name().to_owned());
        Entry { name, split, places: vec![path] }
    };
    let mut entries: Vec<Entry> = found.into_iter().map(named).collect();
    entries.sort_by_key(|entry| (entry.split.is_none(), entry.split));
    entries
}

fn stem_of(path: &Path) -> String {
    path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The clips of an annotations file.
pub(super) fn read(
    entry: &Entry,
    root: &Path,
    reading: &Reading,
    problems: &mut Problems,
    notes: &mut Vec<String>,
) -> Result<Vec<RawClip>> {
    let Some(file) = entry.places.first() else { return Ok(Vec::new()) };
    let bytes = files::read_bytes(file, ANNOTATIONS)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let data: Annotations = serde_json::from_slice(bytes).map_err(|error| DatasetError::Description {
        file: file.clone(),
        reason: format!("not an annotations file of COCO ({error}); expected images, annotations and categories"),
    })?;
    let classes = Classes::new(names_of(&data.categories), reading.ball_class.as_deref(), file)?;
    notes.extend(classes.note());
    let boxes = boxes_by_image(&data, &classes, file, problems);
    let search = Search::new(root, file, &entry.name);
    let (mut pictures, mut labels) = (Vec::new(), Vec::new());
    for image in &data.images {
        let Some(path) = search.find(&image.file_name, file, problems) else { continue };
        labels.push(label(boxes.get(&image.id), &image.file_name, file, problems));
        pictures.push(path);
    }
    Ok(clips_of(entry, &pictures, &labels, file, notes))
}

/// Categories without the groups that exports list beside their members.
fn names_of(categories: &[Category]) -> Vec<(i64, String)> {
    let is_group = |category: &&Category| {
        let none = category.supercategory.as_deref().is_none_or(|above| above == "none" || above.is_empty());
        let names_it = |other: &Category| {
            other.id != category.id
                && other.supercategory.as_ref() == Some(&category.name)
                && other.name != category.name
        };
        none && categories.iter().any(names_it)
    };
    let members = categories.iter().filter(|category| !is_group(category));
    members.map(|category| (category.id, category.name.clone())).collect()
}

/// The boxes of the ball by picture; `None` for a picture with a box that cannot be read.
fn boxes_by_image<'a>(
    data: &'a Annotations,
    classes: &Classes,
    file: &Path,
    problems: &mut Problems,
) -> HashMap<&'a Id, Option<Vec<BallBox>>> {
    let ids: HashSet<&Id> = data.images.iter().map(|image| &image.id).collect();
    let mut boxes: HashMap<&Id, Option<Vec<BallBox>>> = HashMap::new();
    for (number, annotation) in (1..).zip(&data.annotations) {
        let mut bad = |detail: String| {
            problems.push(ProblemKind::UnparsableRow, file, None, &format!("annotation {number}: {detail}"));
        };
        if !ids.contains(&annotation.image_id) {
            bad(format!("image_id {} is none of the images", annotation.image_id));
            continue;
        }
        let found = boxes.entry(&annotation.image_id).or_insert_with(|| Some(Vec::new()));
        let known = data.categories.iter().any(|category| category.id == annotation.category_id);
        match (known, annotation.bbox.as_slice()) {
            (false, _) => {
                bad(format!("category_id {} is none of the categories", annotation.category_id));
                *found = None;
            }
            (true, _) if classes.is_ball(annotation.category_id) != Ok(true) => {}
            (true, &[left, top, width, height]) if width > 0.0 && height > 0.0 && (left + top).is_finite() => {
                let middle = [left + 0.5 * width, top + 0.5 * height];
                found.iter_mut().for_each(|found| found.push(BallBox { middle, size: [width, height] }));
            }
            (true, other) => {
                let shown = format!("{other:?}");
                bad(format!(
                    "bbox {}, expected [left, top, width, height] of a box that is not empty",
                    excerpt(&shown, 80)
                ));
                *found = None;
            }
        }
    }
    boxes
}

/// The label of a picture, if its boxes say one clear thing.
fn label(boxes: Option<&Option<Vec<BallBox>>>, name: &str, file: &Path, problems: &mut Problems) -> Option<Label> {
    let found = match boxes {
        None => Ok(None),
        // Its box is named already.
        Some(None) => return None,
        Some(Some(boxes)) => ball_of(boxes),
    };
    match found {
        Ok(None) => Some(Label::ABSENT),
        Ok(Some(xy)) if xy.iter().all(|v| *v >= 0.0) => Some(Label { visibility: Visibility::Visible, xy: Some(xy) }),
        Ok(Some([x, y])) => {
            let detail = format!("{}: ({x}, {y}) is outside the frame", excerpt(name, 80));
            problems.push(ProblemKind::OutsideFrame, file, None, &detail);
            None
        }
        Err((kind, detail)) => {
            problems.push(kind, file, None, &format!("{}: {detail}", excerpt(name, 80)));
            None
        }
    }
}

/// Where the pictures of an annotations file may be.
struct Search {
    directories: Vec<PathBuf>,
}

impl Search {
    fn new(root: &Path, file: &Path, split: &str) -> Self {
        let beside = file.parent().map(PathBuf::from).unwrap_or_default();
        let images = child_directory(root, &["images", "data"]);
        let stem = stem_of(file).trim_start_matches("instances_").to_owned();
        let of_split = [split, stem.as_str()].map(|name| child_directory(root, &[name]));
        let in_images =
            images.iter().flat_map(|images| [split, stem.as_str()].map(|name| child_directory(images, &[name])));
        let in_images: Vec<Option<PathBuf>> = in_images.collect();
        let beside_images = child_directory(&beside, &["images"]);
        let all = [Some(beside), beside_images]
            .into_iter()
            .chain(of_split)
            .chain(in_images)
            .chain([images, Some(root.into())]);
        Self { directories: all.flatten().collect() }
    }

    /// The picture of this name; names that lead out of the data set are refused.
    fn find(&self, name: &str, file: &Path, problems: &mut Problems) -> Option<PathBuf> {
        let mut refuse = |kind, reason: &str| {
            problems.push(kind, file, None, &format!("{}: {reason}", excerpt(name, 120)));
            None
        };
        let text = name.replace('\\', "/");
        let relative = Path::new(&text);
        if relative.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
            return refuse(
                ProblemKind::MissingFile,
                "the name leads out of the data set; expected one below its pictures",
            );
        }
        if !is_frame_name(&name_of(relative)) {
            return refuse(ProblemKind::MissingFile, "frames are jpg, jpeg or png and not hidden");
        }
        let found = self.directories.iter().map(|dir| dir.join(relative)).find(|path| path.exists());
        if found.is_none() {
            let places = count(self.directories.len(), "place");
            return refuse(
                ProblemKind::MissingFile,
                &format!("no such image in any of {places}, the file's own first"),
            );
        }
        found
    }
}

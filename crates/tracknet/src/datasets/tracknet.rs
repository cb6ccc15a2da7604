//! The tennis format: `<root>/<game>/Clip*/NNNN.jpg` beside `Label.csv`
//! (`file name,visibility,x-coordinate,y-coordinate,status`).
//!
//! The files in circulation were edited by many tools, so the reader is tolerant about their form (byte-order mark,
//! CRLF, spaces, column order, the header of a common variant) and strict about their meaning: a row that does not say
//! one clear thing is skipped and reported with its line.

use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::report::{DataReport, Problem, ProblemKind};
use super::{Clip, Dataset, DatasetError, Frame, Game, Label, Visibility};
use crate::config::ExifOrientation;
use crate::error::{IoContext, Result};

/// Name of the label file of a clip; matched without regard to case.
pub const LABEL_FILE: &str = "Label.csv";

/// Reads the labels of `games`; see [`Dataset::open_split`].
pub(crate) fn open(key: &str, root: &Path, games: &[String], strict: bool) -> Result<Dataset> {
    let existing = available_games(root)?;
    check_games(key, root, games, existing)?;
    let mut problems = Vec::new();
    let mut read = Vec::with_capacity(games.len());
    for name in games {
        read.push(Game { name: name.clone(), clips: read_game(&root.join(name), &mut problems)? });
    }
    if strict && !problems.is_empty() {
        return Err(DatasetError::Strict { root: root.to_path_buf(), problems }.into());
    }
    if read.iter().flat_map(|game| &game.clips).all(|clip| clip.frames.is_empty()) {
        let (key, root, games) = (key.to_owned(), root.to_path_buf(), games.to_vec());
        return Err(DatasetError::NoFrames { key, root, games, problems }.into());
    }
    let report = DataReport::new(&read, problems);
    Ok(Dataset { root: root.to_path_buf(), games: read, report, exif_orientation: ExifOrientation::Apply })
}

/// Directories under `root` that look like games (they hold a clip), in natural order.
///
/// # Errors
/// A root that is not a directory or cannot be read.
pub fn available_games(root: &Path) -> Result<Vec<String>> {
    if !root.is_dir() {
        return Err(DatasetError::RootMissing { root: root.to_path_buf() }.into());
    }
    let mut games = Vec::new();
    for dir in directories(root)? {
        if !clip_directories(&dir)?.is_empty() {
            games.push(name_of(&dir));
        }
    }
    Ok(games)
}

fn check_games(key: &str, root: &Path, games: &[String], existing: Vec<String>) -> Result<()> {
    let (key, root_path) = (key.to_owned(), root.to_path_buf());
    if games.is_empty() {
        return Err(DatasetError::NoGames { key, root: root_path, existing }.into());
    }
    let missing: Vec<String> = games.iter().filter(|game| !root.join(game).is_dir()).cloned().collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let nearest = existing
        .iter()
        .map(|name| (strsim::damerau_levenshtein(&name.to_lowercase(), &first.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| name.clone());
    Err(DatasetError::GamesMissing { key, root: root_path, missing, nearest, existing }.into())
}

fn read_game(dir: &Path, problems: &mut Vec<Problem>) -> Result<Vec<Clip>> {
    let clips = clip_directories(dir)?;
    if clips.is_empty() {
        let detail = format!("no clip directory (expected Clip*/{LABEL_FILE})");
        problems.push(Problem { kind: ProblemKind::BadLabelFile, file: dir.to_path_buf(), line: None, detail });
    }
    clips.into_iter().map(|clip| read_clip(clip, problems)).collect()
}

/// Subdirectories named `Clip*`, or that hold a label file under another name.
fn clip_directories(game: &Path) -> Result<Vec<PathBuf>> {
    let is_clip =
        |dir: &PathBuf| name_of(dir).to_lowercase().starts_with("clip") || matches!(label_file(dir), Ok(Some(_)));
    Ok(directories(game)?.into_iter().filter(is_clip).collect())
}

fn read_clip(dir: PathBuf, problems: &mut Vec<Problem>) -> Result<Clip> {
    let name = name_of(&dir);
    let Some(label_file) = label_file(&dir)? else {
        let detail = format!("no {LABEL_FILE} in this clip");
        problems.push(Problem { kind: ProblemKind::BadLabelFile, file: dir.clone(), line: None, detail });
        return Ok(Clip { name, label_file: dir.join(LABEL_FILE), dir, frames: Vec::new() });
    };
    let bytes = fs::read(&label_file).at(&label_file)?;
    let frames = match parse_labels(&label_file, &String::from_utf8_lossy(&bytes), problems) {
        Some(table) => match_files(&dir, &label_file, table, problems)?,
        None => Vec::new(),
    };
    Ok(Clip { name, dir, label_file, frames })
}

/// A row of a label file that says one clear thing.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    line: usize,
    file_name: String,
    label: Label,
}

/// The rows of one label file.
#[derive(Debug, Default)]
struct Table {
    rows: Vec<Row>,
    /// Stems of the files whose row was skipped: each has its problem already, and is not also "without a label".
    skipped: HashSet<String>,
}

/// Columns of a label file, by name.
struct Columns {
    file: usize,
    visibility: usize,
    x: usize,
    y: usize,
    fields: usize,
}

impl Columns {
    fn from_header(header: &str) -> Result<Self, String> {
        let names: Vec<String> =
            split_fields(header).iter().map(|name| name.to_lowercase().replace(['-', '_'], " ")).collect();
        let find = |accepted: &[&str]| {
            names.iter().position(|name| accepted.contains(&name.as_str())).ok_or_else(|| {
                format!(
                    "header has no column {:?}; expected `file name,visibility,x-coordinate,y-coordinate,status` or \
                     `File Name,Visibility Class,X,Y,Trajectory Pattern`, found `{}`",
                    accepted[0],
                    header.trim()
                )
            })
        };
        Ok(Self {
            file: find(&["file name", "filename", "file"])?,
            visibility: find(&["visibility", "visibility class"])?,
            x: find(&["x coordinate", "x"])?,
            y: find(&["y coordinate", "y"])?,
            fields: names.len(),
        })
    }

    /// Reads one row; the error says what is wrong with it.
    fn row(&self, line: usize, text: &str) -> Result<Row, (ProblemKind, String)> {
        let unparsable = |detail| (ProblemKind::UnparsableRow, detail);
        let fields = split_fields(text);
        if fields.len() != self.fields {
            let found = super::count(fields.len(), "field");
            return Err(unparsable(format!("{found}, but the header has {}: `{}`", self.fields, text.trim())));
        }
        let file_name = fields[self.file];
        if file_name.is_empty() || file_name.contains(['/', '\\']) {
            return Err(unparsable(format!("`{file_name}` is not the name of a file in this clip")));
        }
        let visibility = parse_visibility(fields[self.visibility]).ok_or_else(|| {
            unparsable(format!("{file_name}: visibility `{}` is not 0, 1, 2 or 3", fields[self.visibility]))
        })?;
        let xy = if visibility == Visibility::Absent {
            None
        } else {
            Some(parse_position(file_name, visibility, fields[self.x], fields[self.y])?)
        };
        Ok(Row { line, file_name: file_name.to_owned(), label: Label { visibility, xy } })
    }
}

/// Fields of a line without surrounding spaces and quotes; no field of this format holds a comma.
fn split_fields(line: &str) -> Vec<&str> {
    line.split(',').map(|field| field.trim().trim_matches('"').trim()).collect()
}

fn parse_visibility(text: &str) -> Option<Visibility> {
    let number: f32 = text.parse().ok()?;
    Visibility::ALL.into_iter().find(|v| *v as u8 as f32 == number)
}

fn parse_position(name: &str, visibility: Visibility, x: &str, y: &str) -> Result<[f32; 2], (ProblemKind, String)> {
    if x.is_empty() || y.is_empty() {
        let detail = format!("{name}: visibility {} ({}) without coordinates", visibility as u8, visibility.name());
        return Err((ProblemKind::MissingCoordinates, detail));
    }
    let number = |axis: &str, text: &str| match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err((ProblemKind::UnparsableRow, format!("{name}: {axis} `{text}` is not a number"))),
    };
    let xy = [number("x", x)?, number("y", y)?];
    if xy.iter().any(|v| *v < 0.0) {
        return Err((ProblemKind::OutsideFrame, format!("{name}: ({x}, {y}) is outside the frame")));
    }
    Ok(xy)
}

/// Reads the text of a label file; `None` when it has no usable header. Lines count from 1.
fn parse_labels(file: &Path, text: &str, problems: &mut Vec<Problem>) -> Option<Table> {
    let mut problem = |kind, line, detail| {
        problems.push(Problem { kind, file: file.to_path_buf(), line: Some(line), detail });
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let columns = match lines.next().map(|(line, header)| (line, Columns::from_header(header))) {
        Some((_, Ok(columns))) => columns,
        Some((line, Err(detail))) => {
            problem(ProblemKind::BadLabelFile, line, detail);
            return None;
        }
        None => {
            problem(ProblemKind::BadLabelFile, 1, "the label file is empty".to_owned());
            return None;
        }
    };
    let mut table = Table::default();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (line, text) in lines {
        match columns.row(line, text) {
            Ok(row) => match seen.get(&row.file_name) {
                Some(first) => {
                    let detail = format!("{}: first labelled in line {first}", row.file_name);
                    problem(ProblemKind::DuplicateRow, line, detail);
                }
                None => {
                    seen.insert(row.file_name.clone(), line);
                    table.rows.push(row);
                }
            },
            Err((kind, detail)) => {
                table.skipped.extend(split_fields(text).get(columns.file).map(|name| stem(name).to_owned()));
                problem(kind, line, detail);
            }
        }
    }
    Some(table)
}

/// Joins rows with image files; a row may name the file with another image extension (`0000.jpg` for `0000.png`).
fn match_files(dir: &Path, label_file: &Path, table: Table, problems: &mut Vec<Problem>) -> Result<Vec<Frame>> {
    let files = image_files(dir)?;
    let by_name: HashMap<&str, usize> = files.iter().enumerate().map(|(i, f)| (f.as_str(), i)).collect();
    let by_stem: HashMap<&str, usize> = files.iter().enumerate().map(|(i, f)| (stem(f), i)).collect();
    let mut row_of: Vec<Option<usize>> = vec![None; files.len()];
    let mut frames = Vec::with_capacity(table.rows.len());
    for Row { line, file_name, label } in table.rows {
        let index = by_name.get(file_name.as_str()).or_else(|| by_stem.get(stem(&file_name))).copied();
        let problem = match index.map(|index| row_of[index].replace(line)) {
            Some(None) => None,
            Some(Some(first)) => {
                Some((ProblemKind::DuplicateRow, format!("{file_name}: its image was labelled in line {first}")))
            }
            None => Some((ProblemKind::MissingFile, format!("{file_name}: no such image in {}", dir.display()))),
        };
        if let Some((kind, detail)) = problem {
            problems.push(Problem { kind, file: label_file.to_path_buf(), line: Some(line), detail });
        } else if let Some(name) = index.map(|index| files[index].clone()) {
            frames.push(Frame { path: dir.join(&name), file_name: name, label, line });
        }
    }
    for (file, row) in files.iter().zip(row_of) {
        if row.is_none() && !table.skipped.contains(stem(file)) {
            let (file, detail) = (dir.join(file), format!("no row in {LABEL_FILE}"));
            problems.push(Problem { kind: ProblemKind::UnlabelledFile, file, line: None, detail });
        }
    }
    frames.sort_by(|a, b| natural_order(&a.file_name, &b.file_name));
    Ok(frames)
}

/// Names of the jpg, jpeg and png files of a directory, in natural order.
///
/// # Errors
/// A directory that cannot be read.
pub fn image_files(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).at(dir)? {
        let name = entry.at(dir)?.file_name().to_string_lossy().into_owned();
        if is_image_name(&name) {
            names.push(name);
        }
    }
    names.sort_by(|a, b| natural_order(a, b));
    Ok(names)
}

/// Whether a file name ends in jpg, jpeg or png, in any case; hidden files are not frames.
pub fn is_image_name(name: &str) -> bool {
    let extension = name.rsplit_once('.').map(|(_, extension)| extension.to_lowercase());
    !name.starts_with('.') && matches!(extension.as_deref(), Some("jpg" | "jpeg" | "png"))
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

fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

fn label_file(dir: &Path) -> Result<Option<PathBuf>> {
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        if entry.file_name().to_string_lossy().eq_ignore_ascii_case(LABEL_FILE) {
            return Ok(Some(entry.path()));
        }
    }
    Ok(None)
}

fn directories(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).at(dir)? {
        let path = entry.at(dir)?.path();
        if path.is_dir() && !name_of(&path).starts_with('.') {
            found.push(path);
        }
    }
    found.sort_by(|a, b| natural_order(&name_of(a), &name_of(b)));
    Ok(found)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::config::DataFormat;

    /// A dataset in a temporary directory; frames are 64×36 and differ in colour.
    pub(crate) struct Tree(tempfile::TempDir);

    impl Tree {
        pub(crate) fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        pub(crate) fn path(&self, relative: &str) -> PathBuf {
            self.0.path().join(relative)
        }

        /// A clip with `frames` images and the usual header before `rows`.
        pub(crate) fn clip(&self, game: &str, clip: &str, frames: usize, rows: &str) {
            self.raw_clip(
                game,
                clip,
                frames,
                &format!("file name,visibility,x-coordinate,y-coordinate,status\n{rows}"),
            );
        }

        pub(crate) fn raw_clip(&self, game: &str, clip: &str, frames: usize, labels: &str) {
            let dir = self.path(game).join(clip);
            fs::create_dir_all(&dir).unwrap();
            for index in 0..frames {
                let frame = image::RgbImage::from_fn(64, 36, |x, y| {
                    image::Rgb([(x * 4) as u8, (y * 7) as u8, (index * 40) as u8])
                });
                frame.save(dir.join(format!("{index:04}.jpg"))).unwrap();
            }
            fs::write(dir.join(LABEL_FILE), labels).unwrap();
        }

        pub(crate) fn open(&self, games: &[&str]) -> Result<Dataset> {
            self.open_strict(games, false)
        }

        fn open_strict(&self, games: &[&str], strict: bool) -> Result<Dataset> {
            let games: Vec<String> = games.iter().map(|g| g.to_string()).collect();
            Dataset::open_split("data.split.val_games", self.0.path(), DataFormat::Tracknet, &games, strict)
        }

        fn labels(&self) -> Vec<(String, Label)> {
            let dataset = self.open(&["game1"]).unwrap();
            assert!(dataset.report.problems.is_empty(), "{}", dataset.report);
            dataset.frames().iter().map(|f| (f.frame.file_name.clone(), f.frame.label)).collect()
        }

        /// The only problem of a one-clip game, as `kind, text without the directory`.
        fn problem(&self) -> (ProblemKind, String) {
            let dataset = self.open(&["game1"]).unwrap();
            assert_eq!(dataset.report.problems.len(), 1, "{}", dataset.report);
            let problem = &dataset.report.problems[0];
            let directory = format!("{}/", self.path("game1/Clip1").display());
            (problem.kind, problem.to_string().replace(&directory, ""))
        }
    }

    fn at(visibility: Visibility, x: f32, y: f32) -> Label {
        Label { visibility, xy: Some([x, y]) }
    }

    #[test]
    fn labels_are_read_with_all_four_visibilities() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 4, "0000.jpg,0,,,\n0001.jpg,1,10,20,0\n0002.jpg,2,1.5,2.5,1\n0003.jpg,3,7,8,2\n");
        let labels: Vec<Label> = tree.labels().into_iter().map(|(_, label)| label).collect();
        let expected = [
            Label::ABSENT,
            at(Visibility::Visible, 10.0, 20.0),
            at(Visibility::Hard, 1.5, 2.5),
            at(Visibility::Occluded, 7.0, 8.0),
        ];
        assert_eq!(labels, expected);
    }

    #[test]
    fn byte_order_mark_crlf_spaces_quotes_and_blank_lines_are_tolerated() {
        let tree = Tree::new();
        let text = "\u{feff}file name, visibility, x-coordinate, y-coordinate, status\r\n\r\n\"0000.jpg\", 1, 10, 20, 0\r\n0001.jpg, 0, , , \r\n";
        tree.raw_clip("game1", "Clip1", 2, text);
        let labels = tree.labels();
        assert_eq!(labels[0], ("0000.jpg".to_owned(), at(Visibility::Visible, 10.0, 20.0)));
        assert_eq!(labels[1].1, Label::ABSENT);
    }

    #[test]
    fn the_variant_header_and_any_column_order_are_read_by_name() {
        let tree = Tree::new();
        tree.raw_clip("game1", "Clip1", 1, "File Name,Visibility Class,X,Y,Trajectory Pattern\n0000.jpg,1,10,20,0\n");
        assert_eq!(tree.labels()[0].1, at(Visibility::Visible, 10.0, 20.0));
        tree.raw_clip(
            "game1",
            "Clip1",
            1,
            "STATUS,Y-Coordinate,x_coordinate,VISIBILITY,File Name\n0,20,10,2,0000.jpg\n",
        );
        assert_eq!(tree.labels()[0].1, at(Visibility::Hard, 10.0, 20.0));
    }

    #[test]
    fn clips_and_frames_come_in_natural_order() {
        let tree = Tree::new();
        for clip in ["Clip10", "Clip2", "Clip1"] {
            tree.clip("game1", clip, 2, "0001.jpg,0,,,\n0000.jpg,0,,,\n");
        }
        let dataset = tree.open(&["game1"]).unwrap();
        let clips: Vec<&str> = dataset.games[0].clips.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(clips, ["Clip1", "Clip2", "Clip10"]);
        let names: Vec<String> = dataset.frames().iter().map(ToString::to_string).collect();
        assert_eq!(names[..2], ["game1/Clip1/0000.jpg", "game1/Clip1/0001.jpg"]);
        assert_eq!(natural_order("9.jpg", "10.jpg"), Ordering::Less);
        assert_eq!(natural_order("a2b", "a2"), Ordering::Greater);
        assert_eq!(natural_order("007", "7"), Ordering::Less);
    }

    #[test]
    fn a_row_may_name_its_image_with_another_extension() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 1, "0000.jpg,1,10,20,0\n");
        let dir = tree.path("game1/Clip1");
        fs::rename(dir.join("0000.jpg"), dir.join("0000.JPEG")).unwrap();
        assert_eq!(tree.labels()[0].0, "0000.JPEG");
    }

    #[test]
    fn each_bad_row_is_skipped_and_named_with_its_line() {
        use ProblemKind::*;
        let good = "0000.jpg,1,10,20,0\n";
        let cases = [
            ("0001.jpg,1,10\n", UnparsableRow, "Label.csv:3: 3 fields, but the header has 5: `0001.jpg,1,10`"),
            ("0001.jpg,1,ten,20,0\n", UnparsableRow, "Label.csv:3: 0001.jpg: x `ten` is not a number"),
            ("0001.jpg,1,10,NaN,0\n", UnparsableRow, "Label.csv:3: 0001.jpg: y `NaN` is not a number"),
            ("0001.jpg,7,10,20,0\n", UnparsableRow, "Label.csv:3: 0001.jpg: visibility `7` is not 0, 1, 2 or 3"),
            ("0001.jpg,,10,20,0\n", UnparsableRow, "Label.csv:3: 0001.jpg: visibility `` is not 0, 1, 2 or 3"),
            (
                "0001.jpg,1,,,0\n",
                MissingCoordinates,
                "Label.csv:3: 0001.jpg: visibility 1 (visible) without coordinates",
            ),
            ("0001.jpg,1,-1,-1,0\n", OutsideFrame, "Label.csv:3: 0001.jpg: (-1, -1) is outside the frame"),
        ];
        for (row, kind, text) in cases {
            let tree = Tree::new();
            tree.clip("game1", "Clip1", 2, &format!("{good}{row}"));
            assert_eq!(tree.problem(), (kind, text.to_owned()));
            assert_eq!(tree.open(&["game1"]).unwrap().frames().len(), 1);
        }
    }

    #[test]
    fn missing_files_unlabelled_files_and_duplicate_rows_are_listed() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 1, "0000.jpg,0,,,\n0009.jpg,0,,,\n");
        let (kind, text) = tree.problem();
        assert_eq!(kind, ProblemKind::MissingFile);
        assert!(text.starts_with("Label.csv:3: 0009.jpg: no such image in "), "{text}");
        tree.clip("game1", "Clip1", 2, "0000.jpg,0,,,\n");
        assert_eq!(tree.problem(), (ProblemKind::UnlabelledFile, "0001.jpg: no row in Label.csv".to_owned()));
        tree.clip("game1", "Clip1", 2, "0000.jpg,0,,,\n0001.jpg,0,,,\n0000.jpg,1,3,4,0\n");
        let text = "Label.csv:4: 0000.jpg: first labelled in line 2".to_owned();
        assert_eq!(tree.problem(), (ProblemKind::DuplicateRow, text));
        tree.clip("game1", "Clip1", 2, "0000.jpg,0,,,\n0001.jpg,0,,,\n0000.png,1,3,4,0\n");
        assert_eq!(tree.problem().0, ProblemKind::DuplicateRow);
    }

    #[test]
    fn a_label_file_without_the_columns_says_what_was_found_and_expected() {
        let tree = Tree::new();
        tree.clip("game1", "Clip2", 1, "0000.jpg,0,,,\n");
        tree.raw_clip("game1", "Clip1", 1, "0000.jpg,1,10,20,0\n");
        let (kind, text) = tree.problem();
        assert_eq!(kind, ProblemKind::BadLabelFile);
        assert!(text.starts_with("Label.csv:1: header has no column \"file name\"; expected `file name,vis"), "{text}");
        assert!(text.ends_with("found `0000.jpg,1,10,20,0`"), "{text}");
        tree.raw_clip("game1", "Clip1", 1, "\n");
        assert_eq!(tree.problem().1, "Label.csv:1: the label file is empty");
        fs::remove_file(tree.path("game1/Clip1/Label.csv")).unwrap();
        assert!(tree.problem().1.ends_with("no Label.csv in this clip"));
    }

    #[test]
    fn strict_turns_problems_into_an_error_that_lists_them() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 2, "0000.jpg,1,10,20,0\n0001.jpg,1,,,0\n");
        let error = tree.open_strict(&["game1"], true).unwrap_err().to_string();
        assert!(error.starts_with("1 problem in ") && error.contains("(strict)\n  "), "{error}");
        assert!(error.contains("Label.csv:3: 0001.jpg: visibility 1 (visible) without coordinates"), "{error}");
    }

    #[test]
    fn a_missing_game_is_an_error_with_the_key_what_exists_and_the_nearest_name() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 1, "0000.jpg,0,,,\n");
        tree.clip("game2", "Clip1", 1, "0000.jpg,0,,,\n");
        let root = tree.path("").display().to_string();
        let error = tree.open(&["game1", "gmae2"]).unwrap_err().to_string();
        let root = root.trim_end_matches('/');
        let expected = format!(
            "data.split.val_games asks for gmae2, which {root} does not have (did you mean game2?); it has: game1, game2"
        );
        assert_eq!(error, expected);
        let error = tree.open(&[]).unwrap_err().to_string();
        assert!(error.starts_with("data.split.val_games is empty: name at least one game of "), "{error}");
    }

    #[test]
    fn a_missing_root_and_a_game_without_frames_say_what_to_do() {
        let tree = Tree::new();
        let error = Dataset::open(&tree.path("nowhere"), DataFormat::Auto, &["game1".into()], false).unwrap_err();
        assert!(error.to_string().contains("nowhere is not a directory; set data.root, or make a dataset"), "{error}");
        fs::create_dir_all(tree.path("game1")).unwrap();
        let error = tree.open(&["game1"]).unwrap_err().to_string();
        assert!(error.contains("data.split.val_games: no usable frame in game1 under "), "{error}");
        assert!(error.contains("no clip directory (expected Clip*/Label.csv)"), "{error}");
    }
}

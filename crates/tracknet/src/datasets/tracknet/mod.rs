//! The tennis format: `<root>/<game>/Clip*/NNNN.jpg` beside `Label.csv`
//! (`file name,visibility,x-coordinate,y-coordinate,status`).
//!
//! | module | what lives there |
//! |---|---|
//! | [`labels`] | a label file: from bytes to rows |
//! | `layout` | what a directory is that holds no games: a game, a clip, the layout of another program |

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::frames::{directories_in, frames_in, name_of};
use super::layouts::expected;
use super::report::{ProblemKind, Problems};
use super::{Clip, Dataset, DatasetError, Frame, Game, count};
use crate::config::DataFormat;
use crate::console::{excerpt, listing};
use crate::error::{IoContext, Result};
use crate::files;

pub mod labels;
mod layout;

use labels::{Row, Table, stem};
pub use layout::available_games;
pub(super) use layout::{check_root, describe};

/// Name of the label file of a clip; matched without regard to case.
pub const LABEL_FILE: &str = "Label.csv";

/// How many names a message lists.
pub(super) const LISTED_NAMES: usize = 20;

/// Reads the labels of `games`; see [`Dataset::open_split`].
pub(crate) fn open(key: &str, root: &Path, games: &[String], strict: bool) -> Result<Dataset> {
    layout::check_root(key, root)?;
    check_games(key, root, games)?;
    read(key, root, games, strict)
}

/// Reads games that are there.
fn read(key: &str, root: &Path, games: &[String], strict: bool) -> Result<Dataset> {
    let mut problems = Problems::default();
    let mut read = Vec::with_capacity(games.len());
    for name in games {
        read.push(Game { name: name.clone(), clips: read_game(&root.join(name), &mut problems)? });
    }
    if strict && !problems.is_empty() {
        return Err(DatasetError::Strict { root: root.to_path_buf(), problems: Box::new(problems) }.into());
    }
    if read.iter().flat_map(|game| &game.clips).all(|clip| clip.frames.is_empty()) {
        let (key, root, games) = (key.to_owned(), root.to_path_buf(), listing(games, LISTED_NAMES));
        let expected = expected(DataFormat::Tracknet);
        return Err(DatasetError::NoFrames { key, root, games, expected, problems: Box::new(problems) }.into());
    }
    Ok(Dataset::new(root, read, problems))
}

/// Reads the labels of every game under `root`; see [`Dataset::open_all`].
pub(crate) fn open_all(root: &Path) -> Result<Dataset> {
    let games = available_games(root)?;
    if games.is_empty() {
        return Err(DatasetError::NotARoot { root: root.to_path_buf(), found: layout::describe(root) }.into());
    }
    let mut data = read("labels", root, &games, false)?;
    let directories = directories_in(root).at(root)?;
    data.report.not_read = directories.iter().map(|dir| name_of(dir)).filter(|name| !games.contains(name)).collect();
    Ok(data)
}

fn check_games(key: &str, root: &Path, games: &[String]) -> Result<()> {
    let (key, root_path) = (key.to_owned(), root.to_path_buf());
    if games.is_empty() {
        return Err(DatasetError::NoGames { key, root: root_path, found: layout::describe(root) }.into());
    }
    let is_game = |name: &str| Path::new(name).file_name().is_some() && root.join(name).is_dir();
    let missing: Vec<&str> = games.iter().map(String::as_str).filter(|game| !is_game(game)).collect();
    let Some(first) = missing.first() else { return Ok(()) };
    let nearest = available_games(root)?
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&name.to_lowercase(), &first.to_lowercase()), name))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, name)| name);
    let (missing, found) = (listing(&missing, LISTED_NAMES), layout::describe(root));
    Err(DatasetError::GamesMissing { key, root: root_path, missing, nearest, found }.into())
}

fn read_game(dir: &Path, problems: &mut Problems) -> Result<Vec<Clip>> {
    let mut clips = Vec::new();
    for subdirectory in directories_in(dir).at(dir)? {
        if is_clip(&subdirectory).at(&subdirectory)? {
            clips.push(read_clip(subdirectory, problems)?);
        } else if let frames @ 1.. = frames_in(&subdirectory).at(&subdirectory)?.len() {
            let detail = format!("{} and no {LABEL_FILE}{}", count(frames, "frame"), other_tables(&subdirectory));
            problems.push(ProblemKind::BadLabelFile, &subdirectory, None, &detail);
        }
    }
    if clips.is_empty() {
        let detail = format!("no clip directory (expected Clip*/{LABEL_FILE}): {}", layout::describe(dir));
        problems.push(ProblemKind::BadLabelFile, dir, None, &detail);
    }
    Ok(clips)
}

/// Whether a directory is a clip: its name begins with `Clip`, or it holds a label file.
fn is_clip(dir: &Path) -> io::Result<bool> {
    Ok(name_of(dir).to_lowercase().starts_with("clip") || !label_files(dir)?.is_empty())
}

fn read_clip(dir: PathBuf, problems: &mut Problems) -> Result<Clip> {
    let label_file = label_files(&dir).at(&dir)?.into_iter().next().unwrap_or_else(|| dir.join(LABEL_FILE));
    let files = frames_in(&dir).at(&dir)?;
    let mut clip = Clip { name: name_of(&dir), label_file, files, ..Clip::default() };
    if let Some(table) = read_labels(&dir, &clip.label_file, problems)? {
        (clip.negative, clip.absent_with_position) = (table.negative, table.absent_with_position);
        clip.frames = match_files(&dir, &clip.label_file, &clip.files, table, problems);
    }
    clip.dir = dir;
    Ok(clip)
}

/// The rows of a clip; a label file that is missing or cannot be read is a problem of the clip, not the end.
fn read_labels(dir: &Path, label_file: &Path, problems: &mut Problems) -> Result<Option<Table>> {
    if let [_, others @ ..] = label_files(dir).at(dir)?.as_slice() {
        for other in others {
            let detail = format!("a second label file; {} is read", name_of(label_file));
            problems.push(ProblemKind::BadLabelFile, other, None, &detail);
        }
    }
    if fs::symlink_metadata(label_file).is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        let detail = format!("no {LABEL_FILE} in this clip{}", other_tables(dir));
        problems.push(ProblemKind::BadLabelFile, dir, None, &detail);
        return Ok(None);
    }
    Ok(read_table(label_file, problems))
}

/// The rows of a label file; one that cannot be read is a problem.
pub(super) fn read_table(label_file: &Path, problems: &mut Problems) -> Option<Table> {
    match files::read_bytes(label_file, files::read::LABELS) {
        Ok(bytes) => labels::parse(&bytes, &mut |kind, line, detail| {
            problems.push(kind, label_file, Some(line), &detail);
        }),
        Err(error) => {
            let text = error.to_string();
            // The problem names the file already.
            let detail = text.strip_prefix(&format!("{}: ", label_file.display())).unwrap_or(&text);
            problems.push(ProblemKind::BadLabelFile, label_file, None, detail);
            None
        }
    }
}

/// Label files of a directory: the one spelled as usual first.
pub(super) fn label_files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().eq_ignore_ascii_case(LABEL_FILE) {
            found.push(entry.path());
        }
    }
    found.sort_by_key(|path| (name_of(path) != LABEL_FILE, name_of(path)));
    Ok(found)
}

/// ` (it holds Labels.csv)`: what may be meant to be the label file.
fn other_tables(dir: &Path) -> String {
    let names = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| name_of(&entry.path()));
    let table = |name: &String| {
        let name = name.to_lowercase();
        !name.starts_with('.')
            && [".csv", ".txt", ".tsv", ".xlsx", ".xls", ".ods"].iter().any(|end| name.ends_with(end))
    };
    let mut names: Vec<String> = names.filter(table).collect();
    names.sort();
    if names.is_empty() { String::new() } else { format!(" (it holds {})", listing(names, 5)) }
}

/// The frames of a clip, to be found by the names in rows.
struct Files<'a> {
    dir: &'a Path,
    names: &'a [String],
    by_name: HashMap<&'a str, usize>,
    by_stem: HashMap<&'a str, usize>,
    by_number: HashMap<&'a str, usize>,
}

impl<'a> Files<'a> {
    fn new(dir: &'a Path, names: &'a [String]) -> Self {
        let index = |key: fn(&str) -> &str| names.iter().enumerate().map(|(i, name)| (key(name), i)).collect();
        Self {
            dir,
            names,
            by_name: index(|name| name),
            by_stem: index(stem),
            by_number: index(|name| stem(name).trim_start_matches('0')),
        }
    }

    /// The frame that a row names, perhaps with another extension (`0000.jpg` for `0000.png`) or none.
    fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).or_else(|| self.by_stem.get(stem(name))).copied()
    }

    /// Why a row has no frame.
    fn missing(&self, name: &str) -> String {
        let shown = excerpt(name, 80);
        let number = stem(name);
        let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        let padded = self.by_number.get(number.trim_start_matches('0')).filter(|_| digits);
        let hint = if let Some(index) = padded {
            format!("; {} is there: spreadsheets strip leading zeros from names", self.names[*index])
        } else if name.contains('\u{fffd}') {
            "; the name is not UTF-8: save the label file as UTF-8".to_owned()
        } else if fs::symlink_metadata(self.dir.join(name)).is_ok() {
            "; a file of that name is there, but frames are jpg, jpeg or png and not hidden".to_owned()
        } else if let (true, Some(place)) = (self.names.is_empty(), self.elsewhere()) {
            format!("; frames lie in {}: move them beside {LABEL_FILE}", place.display())
        } else {
            String::new()
        };
        format!("{shown}: no such image in {}{hint}", self.dir.display())
    }

    /// The first subdirectory with frames.
    fn elsewhere(&self) -> Option<PathBuf> {
        let has_frames = |dir: &PathBuf| frames_in(dir).is_ok_and(|frames| !frames.is_empty());
        directories_in(self.dir).ok()?.into_iter().find(has_frames)
    }
}

/// Joins rows with the frame files of a clip.
fn match_files(dir: &Path, label_file: &Path, paths: &[PathBuf], table: Table, problems: &mut Problems) -> Vec<Frame> {
    let names: Vec<String> = paths.iter().map(|path| name_of(path)).collect();
    let files = Files::new(dir, &names);
    let mut row_of: Vec<Option<Row>> = vec![None; names.len()];
    for row in table.rows {
        let (line, name) = (Some(row.line), excerpt(&row.file_name, 80).into_owned());
        match files.find(&row.file_name) {
            None => problems.push(ProblemKind::MissingFile, label_file, line, &files.missing(&row.file_name)),
            Some(index) => match &row_of[index] {
                None => row_of[index] = Some(row),
                Some(first) => {
                    let detail = format!("{name}: its image was labelled in line {}", first.line);
                    problems.push(ProblemKind::DuplicateRow, label_file, line, &detail);
                }
            },
        }
    }
    let mut frames = Vec::with_capacity(names.len());
    for ((path, name), row) in paths.iter().zip(&names).zip(row_of) {
        match row {
            Some(Row { line, label, .. }) => {
                frames.push(Frame { path: path.clone(), file_name: name.clone(), label, line });
            }
            None if table.skipped.contains(stem(name)) => {}
            None => problems.push(ProblemKind::UnlabelledFile, path, None, &format!("no row in {LABEL_FILE}")),
        }
    }
    frames
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::{Label, Visibility};
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
            assert_eq!(dataset.report.problems.total(), 1, "{}", dataset.report);
            let problem = dataset.report.problems.iter().next().unwrap();
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
    #[test]
    fn files_that_systems_add_are_neither_frames_nor_labels_nor_games() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 2, "0000.jpg,1,10,20,0\n0001.jpg,0,,,\n");
        for added in ["._0000.jpg", "._Label.csv", ".DS_Store", "Thumbs.db", "desktop.ini"] {
            fs::write(tree.path("game1/Clip1").join(added), [0, 5, 22, 7]).unwrap();
            for foreign in ["__MACOSX/Clip1", "@eaDir/Clip1", "$RECYCLE.BIN/Clip1", "game1/@eaDir", "game1/__MACOSX"] {
                fs::create_dir_all(tree.path(foreign)).unwrap();
                fs::write(tree.path(foreign).join(added), [0, 5, 22, 7]).unwrap();
                fs::write(tree.path(foreign).join("0000.jpg"), "").unwrap();
            }
        }
        let mut dataset = Dataset::open_all(&tree.path(""), DataFormat::Auto).unwrap();
        dataset.check_images();
        let games: Vec<&str> = dataset.games.iter().map(|game| game.name.as_str()).collect();
        assert_eq!((games.as_slice(), dataset.frames().len()), (["game1"].as_slice(), 2));
        assert!(dataset.report.is_clean() && dataset.report.not_read.is_empty(), "{}", dataset.report);
    }

    #[test]
    fn a_row_without_its_frame_says_what_is_there_instead() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 2, "0.jpg,1,10,20,0\n1.jpg,0,,,\n");
        let text = tree.open(&["game1"]).unwrap_err().to_string();
        assert!(text.contains("0000.jpg is there: spreadsheets strip leading zeros from names"), "{text}");
        tree.clip("game2", "Clip1", 1, "0000.jpg,0,,,\n0001.bmp,0,,,\n");
        fs::write(tree.path("game2/Clip1/0001.bmp"), "").unwrap();
        let text = tree.open(&["game2"]).unwrap().report.to_string();
        assert!(text.contains("0001.bmp: no such image") && text.contains("frames are jpg, jpeg or png"), "{text}");
        tree.clip("game3", "Clip1", 0, "0000.jpg,0,,,\n");
        fs::create_dir(tree.path("game3/Clip1/images")).unwrap();
        fs::write(tree.path("game3/Clip1/images/0000.jpg"), "").unwrap();
        let text = tree.open(&["game3"]).unwrap_err().to_string();
        assert!(text.contains("Clip1/images: move them beside Label.csv"), "{text}");
    }

    #[test]
    fn frames_without_labels_and_a_second_label_file_are_named() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 1, "0000.jpg,0,,,\n");
        tree.clip("game1", "rally2", 1, "0000.jpg,0,,,\n");
        fs::rename(tree.path("game1/rally2/Label.csv"), tree.path("game1/rally2/Labels.csv")).unwrap();
        let dataset = tree.open(&["game1"]).unwrap();
        let text = dataset.report.to_string();
        assert!(text.contains("rally2: 1 frame and no Label.csv (it holds Labels.csv)"), "{text}");
        tree.clip("game2", "Clip1", 1, "0000.jpg,0,,,\n");
        fs::write(tree.path("game2/Clip1/LABEL.CSV"), "old").unwrap();
        let text = tree.open(&["game2"]).unwrap().report.to_string();
        assert!(text.contains("LABEL.CSV: a second label file; Label.csv is read"), "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_a_device_or_too_much_under_the_name_of_a_label_file_is_a_problem_of_its_clip() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 1, "0000.jpg,0,,,\n");
        tree.clip("game1", "Clip2", 1, "0000.jpg,0,,,\n");
        let labels = tree.path("game1/Clip2/Label.csv");
        let text = || {
            let dataset = tree.open(&["game1"]).unwrap();
            assert_eq!((dataset.frames().len(), dataset.report.problems.total()), (1, 1));
            dataset.report.to_string()
        };
        let file = fs::File::options().write(true).open(&labels).unwrap();
        file.set_len(files::read::LABELS.bytes + 1).unwrap();
        assert!(text().contains("Clip2/Label.csv: 67108865 bytes are too many for a label file"), "{}", text());
        fs::remove_file(&labels).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &labels).unwrap();
        assert!(text().contains("Clip2/Label.csv: is a device, expected a regular file"), "{}", text());
        fs::remove_file(&labels).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&labels).status().unwrap().success());
        assert!(text().contains("Clip2/Label.csv: is a named pipe, expected a regular file"), "{}", text());
    }

    #[cfg(unix)]
    #[test]
    fn links_in_a_circle_are_followed_once() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 1, "0000.jpg,0,,,\n");
        for link in ["loop", "game1/loop", "game1/Clip1/loop"] {
            std::os::unix::fs::symlink(tree.path(""), tree.path(link)).unwrap();
        }
        let dataset = Dataset::open_all(&tree.path(""), DataFormat::Auto).unwrap();
        assert_eq!(dataset.frames().len(), 1, "{}", dataset.report);
    }
}

//! What a dataset holds and what is wrong with it: counts for a table, problems with file and line.
//!
//! Reading labels opens no image; the two checks here do, in parallel, when somebody asks for them.

use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::{Dataset, DatasetError, FrameRef, Geometry, Label, Visibility, count};
use crate::error::Result;

/// How many problems a text lists before it only counts.
pub const LISTED_PROBLEMS: usize = 20;

/// What is wrong with a row or a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProblemKind {
    /// A clip has no label file, or one without a usable header.
    BadLabelFile,
    /// A row cannot be read: wrong number of fields, not a number, unknown visibility.
    UnparsableRow,
    /// A second row for the same frame.
    DuplicateRow,
    /// A row says that the ball can be seen, but not where.
    MissingCoordinates,
    /// A position outside the image.
    OutsideFrame,
    /// A labelled frame has no image file.
    MissingFile,
    /// An image file has no row.
    UnlabelledFile,
    /// An image cannot be decoded.
    UndecodableImage,
}

impl ProblemKind {
    /// The heading of this kind in a report.
    pub fn title(self) -> &'static str {
        match self {
            Self::BadLabelFile => "clips without a usable label file",
            Self::UnparsableRow => "rows that cannot be read",
            Self::DuplicateRow => "duplicate rows",
            Self::MissingCoordinates => "visible rows without coordinates",
            Self::OutsideFrame => "coordinates outside the frame",
            Self::MissingFile => "labelled frames without a file",
            Self::UnlabelledFile => "image files without a label",
            Self::UndecodableImage => "images that cannot be decoded",
        }
    }
}

/// One skipped row or file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub kind: ProblemKind,
    /// The label file or the image.
    pub file: PathBuf,
    /// Line of the label file, from 1.
    pub line: Option<usize>,
    /// What was found and what was expected.
    pub detail: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.file.display(), self.detail),
            None => write!(f, "{}: {}", self.file.display(), self.detail),
        }
    }
}

/// What one game holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GameSummary {
    /// Name of the game.
    pub game: String,
    /// Clips with at least one usable frame.
    pub clips: usize,
    /// Usable frames by visibility number.
    pub by_visibility: [usize; 4],
}

impl GameSummary {
    /// All usable frames.
    pub fn frames(&self) -> usize {
        self.by_visibility.iter().sum()
    }
}

/// Counts and problems of a dataset; its `Display` is the table that `tracknet data check` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataReport {
    /// One row a game.
    pub games: Vec<GameSummary>,
    /// Everything that was skipped, in the order of the files.
    pub problems: Vec<Problem>,
}

impl DataReport {
    /// How many problems of a kind there are.
    pub fn count(&self, kind: ProblemKind) -> usize {
        self.problems.iter().filter(|p| p.kind == kind).count()
    }

    /// Counts the frames of `dataset` again, after some were removed.
    fn recount(games: &[super::Game]) -> Vec<GameSummary> {
        let summary = |game: &super::Game| {
            let mut by_visibility = [0; 4];
            for frame in game.clips.iter().flat_map(|clip| &clip.frames) {
                by_visibility[frame.label.visibility as usize] += 1;
            }
            let clips = game.clips.iter().filter(|clip| !clip.frames.is_empty()).count();
            GameSummary { game: game.name.clone(), clips, by_visibility }
        };
        games.iter().map(summary).collect()
    }

    /// The report of games that were just read.
    pub(crate) fn new(games: &[super::Game], problems: Vec<Problem>) -> Self {
        Self { games: Self::recount(games), problems }
    }
}

impl fmt::Display for DataReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.games.iter().map(|g| g.game.chars().count()).max().unwrap_or(0).max("total".len());
        writeln!(
            f,
            "{:width$}  {:>5}  {:>7}  {:>7}  {:>6}  {:>8}  {:>6}",
            "game", "clips", "frames", "visible", "hard", "occluded", "absent"
        )?;
        let mut total = GameSummary { game: "total".to_owned(), clips: 0, by_visibility: [0; 4] };
        for game in &self.games {
            write_row(f, game, width)?;
            total.clips += game.clips;
            for (sum, n) in total.by_visibility.iter_mut().zip(game.by_visibility) {
                *sum += n;
            }
        }
        if self.games.len() > 1 {
            write_row(f, &total, width)?;
        }
        write_problems(f, &self.problems)
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, game: &GameSummary, width: usize) -> fmt::Result {
    let of = |visibility: Visibility| game.by_visibility[visibility as usize];
    writeln!(
        f,
        "{:width$}  {:>5}  {:>7}  {:>7}  {:>6}  {:>8}  {:>6}",
        game.game,
        game.clips,
        game.frames(),
        of(Visibility::Visible),
        of(Visibility::Hard),
        of(Visibility::Occluded),
        of(Visibility::Absent)
    )
}

fn write_problems(f: &mut fmt::Formatter<'_>, problems: &[Problem]) -> fmt::Result {
    if problems.is_empty() {
        return writeln!(f, "no problems");
    }
    writeln!(f, "{}, skipped:", count(problems.len(), "problem"))?;
    let mut kinds: Vec<ProblemKind> = problems.iter().map(|p| p.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    for kind in kinds {
        writeln!(f, "  {:>6}  {}", problems.iter().filter(|p| p.kind == kind).count(), kind.title())?;
    }
    writeln!(f, "{}", super::Listing(problems).to_string().trim_start_matches('\n'))
}

/// What [`check_images`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageCheck {
    /// Images that were decoded.
    pub decoded: usize,
    /// Image sizes `[W, H]` with how many images have them, the most frequent first.
    pub sizes: Vec<([usize; 2], usize)>,
    /// Images that cannot be decoded, and labels outside their image.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ImageCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.sizes.iter().map(|([w, h], n)| format!("{n} of {w}×{h}")).collect();
        let sizes = if sizes.is_empty() { "none".to_owned() } else { sizes.join(", ") };
        writeln!(f, "images decoded: {} ({sizes})", self.decoded)?;
        write_problems(f, &self.problems)
    }
}

/// Decodes every image of the dataset, in parallel; the result does not depend on the number of threads.
pub fn check_images(dataset: &Dataset) -> ImageCheck {
    let decode = |frame: &FrameRef| {
        let size = |image: image::RgbImage| [image.width() as usize, image.height() as usize];
        super::image::decode_then(&frame.frame.path, dataset.exif_orientation, size)
    };
    check(dataset, decode)
}

impl Dataset {
    /// Reads the size of every image from its header, in parallel, and drops frames whose label lies outside the
    /// image or whose header cannot be read; they join [`Dataset::report`].
    ///
    /// # Errors
    /// With `strict`, any such frame.
    pub fn check_coordinates(&mut self, strict: bool) -> Result<()> {
        let check = check(self, |frame| super::image::dimensions(&frame.frame.path, self.exif_orientation));
        if strict && !check.problems.is_empty() {
            return Err(DatasetError::Strict { root: self.root.clone(), problems: check.problems }.into());
        }
        let bad: std::collections::HashSet<(&Path, Option<usize>)> =
            check.problems.iter().map(|p| (p.file.as_path(), p.line)).collect();
        for clip in self.games.iter_mut().flat_map(|game| &mut game.clips) {
            let label_file = clip.label_file.clone();
            clip.frames.retain(|frame| {
                !bad.contains(&(label_file.as_path(), Some(frame.line))) && !bad.contains(&(frame.path.as_path(), None))
            });
        }
        self.report.games = DataReport::recount(&self.games);
        self.report.problems.extend(check.problems);
        Ok(())
    }
}

fn check(dataset: &Dataset, size_of: impl Fn(&FrameRef) -> Result<[usize; 2], DatasetError> + Sync) -> ImageCheck {
    let frames = dataset.frames();
    let sizes: Vec<_> = frames.par_iter().map(&size_of).collect();
    let mut result = ImageCheck::default();
    let mut counts = std::collections::BTreeMap::new();
    for (frame, size) in frames.iter().zip(sizes) {
        match size {
            Ok(size) => {
                result.decoded += 1;
                *counts.entry(size).or_insert(0usize) += 1;
                result.problems.extend(outside(frame, size));
            }
            Err(error) => result.problems.push(Problem {
                kind: ProblemKind::UndecodableImage,
                file: frame.frame.path.clone(),
                line: None,
                detail: match error {
                    DatasetError::Image { reason, .. } => reason,
                    other => other.to_string(),
                },
            }),
        }
    }
    result.sizes = counts.into_iter().collect();
    result.sizes.sort_by_key(|(size, n)| (std::cmp::Reverse(*n), *size));
    result
}

/// The problem of a label outside its image, if it is.
fn outside(frame: &FrameRef, size: [usize; 2]) -> Option<Problem> {
    let Label { xy: Some([x, y]), .. } = frame.frame.label else { return None };
    let [width, height] = size;
    (!Geometry::whole(size, size, size).contains([x, y])).then(|| Problem {
        kind: ProblemKind::OutsideFrame,
        file: frame.label_file.to_path_buf(),
        line: Some(frame.frame.line),
        detail: format!("{}: ({x}, {y}) is outside the {width}×{height} image", frame.frame.file_name),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tracknet::tests::Tree;
    use super::*;

    #[test]
    fn every_image_is_decoded_and_broken_ones_are_named_with_the_reason() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 3, "0000.jpg,1,5,5,0\n0001.jpg,0,,,\n0002.jpg,1,500,5,0\n");
        std::fs::write(tree.path("game1/Clip1/0001.jpg"), b"\xff\xd8\xff\xe0 not a jpeg").unwrap();
        let check = check_images(&tree.open(&["game1"]).unwrap());
        assert_eq!(check.decoded, 2);
        assert_eq!(check.sizes, vec![([64, 36], 2)]);
        let text = check.to_string();
        assert!(text.contains("2 of 64×36"), "{text}");
        assert!(text.contains("0001.jpg: cannot decode: "), "{text}");
        assert!(text.contains("Label.csv:4: 0002.jpg: (500, 5) is outside the 64×36 image"), "{text}");
    }

    #[test]
    fn checking_coordinates_drops_the_frame_or_fails_when_strict() {
        let tree = Tree::new();
        tree.clip("game1", "Clip1", 2, "0000.jpg,1,5,5,0\n0001.jpg,2,5,36,0\n");
        let mut dataset = tree.open(&["game1"]).unwrap();
        let error = dataset.check_coordinates(true).unwrap_err().to_string();
        assert!(error.contains("1 problem in ") && error.contains("(5, 36) is outside the 64×36 image"), "{error}");
        assert_eq!(dataset.frames().len(), 2);
        dataset.check_coordinates(false).unwrap();
        assert_eq!(dataset.frames().len(), 1);
        assert_eq!(dataset.report.games[0].by_visibility, [0, 1, 0, 0]);
        assert_eq!(dataset.report.count(ProblemKind::OutsideFrame), 1);
    }

    #[test]
    fn the_text_has_a_row_a_game_a_total_and_the_first_twenty_problems() {
        let game = |name: &str| GameSummary { game: name.to_owned(), clips: 2, by_visibility: [1, 20, 3, 4] };
        let problem = |line| Problem {
            kind: ProblemKind::UnparsableRow,
            file: PathBuf::from("Label.csv"),
            line: Some(line),
            detail: "bad".to_owned(),
        };
        let report =
            DataReport { games: vec![game("game1"), game("game10")], problems: (1..=23).map(problem).collect() };
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "game1       2       28       20       3         4       1");
        assert_eq!(lines[3], "total       4       56       40       6         8       2");
        assert_eq!(lines[4], "23 problems, skipped:");
        assert!(text.contains("23  rows that cannot be read"), "{text}");
        assert!(text.contains("Label.csv:20: bad") && !text.contains("Label.csv:21"), "{text}");
        assert!(text.ends_with("  … and 3 more\n"), "{text}");
    }
}

//! What a dataset holds and what is wrong with it: counts for a table, problems with file and line.
//!
//! Reading labels opens no image; two of the checks here do, in parallel, when somebody asks for them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::plausibility::{Labels, smaller_frames};
use super::streak::placement;
use super::{Clip, Dataset, DatasetError, Frame, Game, Geometry, Label, Visibility, count};
use crate::console::{excerpt, listing};
use crate::error::Result;

/// How many problems a text lists before it only counts.
pub const LISTED_PROBLEMS: usize = 20;

/// How many problems of a kind are kept with their text; the rest is only counted.
const KEPT_PROBLEMS: usize = 200;

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
    /// Several balls in one frame, of which one cannot be told to be the ball in play.
    SeveralBalls,
    /// A labelled frame has no image file.
    MissingFile,
    /// An image file has no row.
    UnlabelledFile,
    /// An image cannot be decoded.
    UndecodableImage,
    /// The labels of a clip or game cannot be true as a whole.
    ImplausibleLabels,
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
            Self::SeveralBalls => "frames with several balls",
            Self::MissingFile => "labelled frames without a file",
            Self::UnlabelledFile => "image files without a label",
            Self::UndecodableImage => "images that cannot be decoded",
            Self::ImplausibleLabels => "clips or games whose labels cannot be true as a whole",
        }
    }
}

/// A skipped row or file, or labels that are in doubt.
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

/// Problems in the order in which they were found: all are counted, and the first of each kind kept. Its `Display` is the
/// first of them, each on a new line, and how many more there are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Problems {
    kept: Vec<Problem>,
    counts: BTreeMap<ProblemKind, usize>,
}

impl Problems {
    /// Adds a problem; of a long detail, the beginning is kept.
    pub fn push(&mut self, kind: ProblemKind, file: &Path, line: Option<usize>, detail: &str) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count <= KEPT_PROBLEMS {
            let detail = excerpt(detail, 800).into_owned();
            self.kept.push(Problem { kind, file: file.to_path_buf(), line, detail });
        }
    }

    /// Adds the problems of another list at the end.
    pub fn extend(&mut self, other: Self) {
        self.kept.extend(other.kept);
        for (kind, n) in other.counts {
            *self.counts.entry(kind).or_default() += n;
        }
    }

    /// How many there are.
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    /// How many there are of a kind.
    pub fn count(&self, kind: ProblemKind) -> usize {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// Those that were kept with their text.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.kept.iter()
    }

    fn write_section(&self, f: &mut fmt::Formatter<'_>, heading: &str) -> fmt::Result {
        writeln!(f, "{heading}:")?;
        for (kind, n) in &self.counts {
            writeln!(f, "  {n:>6}  {}", kind.title())?;
        }
        writeln!(f, "{}", self.to_string().trim_start_matches('\n'))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.kept.len().min(LISTED_PROBLEMS);
        for problem in &self.kept[..shown] {
            write!(f, "\n  {problem}")?;
        }
        match self.total() - shown {
            0 => Ok(()),
            more => write!(f, "\n  … and {more} more"),
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

/// The images of a dataset that were looked into.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageSizes {
    /// Images that could be read.
    pub readable: usize,
    /// Image sizes `[W, H]` with how many images have them, the most frequent first.
    pub sizes: Vec<([usize; 2], usize)>,
}

impl fmt::Display for ImageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes = listing(self.sizes.iter().map(|([w, h], n)| format!("{n} of {w}×{h}")), LISTED_PROBLEMS);
        write!(f, "images: {} ({})", self.readable, if sizes.is_empty() { "none" } else { &sizes })
    }
}

/// Counts and problems of a dataset; its `Display` is the table that `tracknet data check` prints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DataReport {
    /// One row a game.
    pub games: Vec<GameSummary>,
    /// What the images are, once they were looked into.
    pub images: Option<ImageSizes>,
    /// Everything that was skipped, in the order of the files.
    pub problems: Problems,
    /// Clips and games whose labels cannot be true as a whole, once that was looked into. Their frames are used.
    pub doubts: Problems,
    /// Directories beside the games that hold no clip, when every game was asked for.
    pub not_read: Vec<String>,
    /// What was decided and measured while reading: the layout, the class of the ball, where labels lie in streaks.
    pub notes: Vec<String>,
}

impl DataReport {
    /// How many problems of a kind there are.
    pub fn count(&self, kind: ProblemKind) -> usize {
        self.problems.count(kind) + self.doubts.count(kind)
    }

    /// Whether nothing was skipped and nothing is in doubt.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty() && self.doubts.is_empty()
    }

    /// Counts the frames of games.
    fn recount(games: &[Game]) -> Vec<GameSummary> {
        let summary = |game: &Game| {
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
    pub(crate) fn new(games: &[Game], problems: Problems) -> Self {
        Self { games: Self::recount(games), problems, ..Self::default() }
    }

    /// What was skipped and what is in doubt, as the report lists it.
    pub fn findings(&self) -> String {
        Findings(self).to_string()
    }
}

/// The last part of a report.
struct Findings<'a>(&'a DataReport);

impl fmt::Display for Findings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DataReport { problems, doubts, .. } = self.0;
        if self.0.is_clean() {
            return writeln!(f, "no problems");
        }
        if !doubts.is_empty() {
            doubts.write_section(
                f,
                &format!("{} about labels, which are used as they are", count(doubts.total(), "doubt")),
            )?;
        }
        if !problems.is_empty() {
            problems.write_section(f, &format!("{}, skipped", count(problems.total(), "problem")))?;
        }
        Ok(())
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
        if !self.not_read.is_empty() {
            writeln!(f, "not read, as they hold no clip: {}", listing(&self.not_read, LISTED_PROBLEMS))?;
        }
        if let Some(images) = &self.images {
            writeln!(f, "{images}")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
        write!(f, "{}", Findings(self))
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

impl Dataset {
    /// Looks for labels that cannot be true as a whole, without opening an image; they join [`DataReport::doubts`].
    pub fn check_labels(&mut self) {
        for clip in self.games.iter().flat_map(|game| &game.clips) {
            push_doubt(&mut self.report.doubts, &clip.label_file, Labels::of_clip(clip, None).doubt());
        }
    }

    /// Reads the size of every image from its header, in parallel, looks for labels that cannot be true as a whole, and
    /// drops frames whose label lies outside the image or whose header cannot be read; all of them join
    /// [`Dataset::report`].
    ///
    /// # Errors
    /// With `strict`, any such frame, and any doubt.
    pub fn check_coordinates(&mut self, strict: bool) -> Result<()> {
        let exif = self.exif_orientation;
        let found = examine(&self.games, |frame| super::image::dimensions(&frame.path, exif));
        if strict && !(found.problems.is_empty() && found.doubts.is_empty()) {
            let mut problems = Box::new(found.doubts);
            problems.extend(found.problems);
            return Err(DatasetError::Strict { root: self.root.clone(), problems }.into());
        }
        self.apply(found);
        Ok(())
    }

    /// [`Dataset::check_coordinates`] by decoding every image, in parallel, and where labels lie in the streaks of fast
    /// balls; what is found does not depend on the number of threads.
    pub fn check_images(&mut self) {
        let exif = self.exif_orientation;
        let size = |image: image::RgbImage| [image.width() as usize, image.height() as usize];
        let decode = |frame: &Frame| super::image::decode_then(&frame.path, exif, size);
        let found = examine(&self.games, decode);
        self.apply(found);
        self.check_label_points();
    }

    /// Looks whether labels mark the point of the streak that they are taken to mark.
    fn check_label_points(&mut self) {
        for game in &self.games {
            let Some(found) = placement(game, self.exif_orientation) else { continue };
            self.report.notes.push(found.note(&game.name));
            push_doubt(&mut self.report.doubts, &place_of(game), found.doubt(self.label_point));
        }
    }

    fn apply(&mut self, found: Examined) {
        let mut usable = found.usable.into_iter();
        for clip in self.games.iter_mut().flat_map(|game| &mut game.clips) {
            clip.frames.retain(|_| usable.next().unwrap_or_default());
        }
        self.report.games = DataReport::recount(&self.games);
        self.report.images = Some(found.images);
        self.report.problems.extend(found.problems);
        self.report.doubts.extend(found.doubts);
    }
}

/// What the sizes of images tell about a dataset.
#[derive(Default)]
struct Examined {
    images: ImageSizes,
    /// Images that cannot be read, and labels outside their image.
    problems: Problems,
    doubts: Problems,
    /// For every frame in order, whether it has no problem.
    usable: Vec<bool>,
}

fn examine(games: &[Game], size_of: impl Fn(&Frame) -> Result<[usize; 2], DatasetError> + Sync) -> Examined {
    let frames: Vec<&Frame> = games.iter().flat_map(|game| &game.clips).flat_map(|clip| &clip.frames).collect();
    let sizes: Vec<_> = frames.par_iter().map(|frame| size_of(frame)).collect();
    let mut sizes = sizes.into_iter();
    let mut found = Examined::default();
    let mut all = Vec::new();
    for game in games {
        let mut of_game = Vec::new();
        let doubts = found.doubts.total();
        for clip in &game.clips {
            let of_clip = examine_clip(clip, &mut sizes, &mut found);
            let size = by_frequency(&of_clip).first().map(|(size, _)| *size);
            push_doubt(&mut found.doubts, &clip.label_file, Labels::of_clip(clip, size).doubt());
            of_game.extend(of_clip);
        }
        if let ([(size, _), ..], true) = (by_frequency(&of_game).as_slice(), doubts == found.doubts.total()) {
            push_doubt(&mut found.doubts, &place_of(game), smaller_frames(game, *size));
        }
        all.extend(of_game);
    }
    found.images = ImageSizes { readable: all.len(), sizes: by_frequency(&all) };
    found
}

/// The directory of a game.
fn place_of(game: &Game) -> PathBuf {
    game.clips.first().and_then(|clip| clip.dir.parent()).unwrap_or(Path::new(&game.name)).to_path_buf()
}

/// Takes the sizes of a clip's frames; returns those that could be read.
fn examine_clip(
    clip: &Clip,
    sizes: &mut impl Iterator<Item = Result<[usize; 2], DatasetError>>,
    found: &mut Examined,
) -> Vec<[usize; 2]> {
    let mut readable = Vec::with_capacity(clip.frames.len());
    for (frame, size) in clip.frames.iter().zip(sizes) {
        let outside = match size {
            Ok(size) => {
                readable.push(size);
                outside(frame, size).inspect(|detail| {
                    found.problems.push(
                        ProblemKind::OutsideFrame,
                        &clip.label_file,
                        Some(frame.line).filter(|line| *line > 0),
                        detail,
                    );
                })
            }
            Err(error) => {
                let reason = match error {
                    DatasetError::Image { reason, .. } => reason,
                    other => other.to_string(),
                };
                found.problems.push(ProblemKind::UndecodableImage, &frame.path, None, &reason);
                Some(reason)
            }
        };
        found.usable.push(outside.is_none());
    }
    readable
}

fn push_doubt(doubts: &mut Problems, place: &Path, doubt: Option<String>) {
    if let Some(doubt) = doubt {
        doubts.push(ProblemKind::ImplausibleLabels, place, None, &doubt);
    }
}

/// Sizes with their number, the most frequent first.
fn by_frequency(sizes: &[[usize; 2]]) -> Vec<([usize; 2], usize)> {
    let mut counts = BTreeMap::new();
    for size in sizes {
        *counts.entry(*size).or_insert(0usize) += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(size, n)| (std::cmp::Reverse(*n), *size));
    counts
}

/// What is wrong with a label outside its image, if it is.
fn outside(frame: &Frame, size: [usize; 2]) -> Option<String> {
    let Label { xy: Some([x, y]), .. } = frame.label else { return None };
    let [width, height] = size;
    (!Geometry::whole(size, size, size).contains([x, y]))
        .then(|| format!("{}: ({x}, {y}) is outside the {width}×{height} image", frame.file_name))
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
        let mut dataset = tree.open(&["game1"]).unwrap();
        dataset.check_images();
        assert_eq!(dataset.report.images, Some(ImageSizes { readable: 2, sizes: vec![([64, 36], 2)] }));
        assert_eq!(dataset.frames().len(), 1);
        let text = dataset.report.to_string();
        assert!(text.contains("images: 2 (2 of 64×36)"), "{text}");
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
    fn labels_in_doubt_are_named_and_used_and_fail_a_strict_check() {
        let tree = Tree::new();
        let fractions = "0000.jpg,1,0.1,0.2,0\n0001.jpg,1,0.2,0.3,0\n0002.jpg,0,,,\n";
        tree.clip("game1", "Clip1", 3, fractions);
        tree.clip("game1", "Clip2", 3, "0000.jpg,1,5,5,0\n0001.jpg,1,6,5,0\n0002.jpg,0,,,\n");
        let mut dataset = tree.open(&["game1"]).unwrap();
        let error = dataset.check_coordinates(true).unwrap_err().to_string();
        assert!(error.contains("Clip1/Label.csv: 2 of 2 positions lie within 0..1"), "{error}");
        dataset.check_coordinates(false).unwrap();
        assert_eq!((dataset.frames().len(), dataset.report.count(ProblemKind::ImplausibleLabels)), (6, 1));
        let text = dataset.report.to_string();
        assert!(
            text.contains("1 doubt about labels, which are used as they are:") && !text.contains("no problems"),
            "{text}"
        );
        assert!(text.contains("multiply x by 64 and y by 36") && !text.contains("Clip2"), "{text}");
        let mut labels_only = tree.open(&["game1"]).unwrap();
        labels_only.check_labels();
        assert_eq!(labels_only.report.count(ProblemKind::ImplausibleLabels), 1);
    }

    #[test]
    fn labels_of_another_resolution_are_told_by_the_frames_beside_them() {
        let tree = Tree::new();
        let rows = |scale: usize| -> String {
            (0..6).map(|i| format!("000{i}.jpg,1,{},{},0\n", (8 + 10 * i) * scale, (4 + 5 * i) * scale)).collect()
        };
        tree.clip("game1", "Clip1", 6, &rows(20));
        tree.clip("game2", "Clip1", 6, &rows(1));
        let mut dataset = tree.open(&["game1", "game2"]).unwrap();
        dataset.check_coordinates(false).unwrap();
        let text = dataset.report.to_string();
        assert!(text.contains("game1/Clip1/Label.csv: 6 of 6 positions lie outside the 64×36 frames"), "{text}");
        assert!(text.contains("all inside 1280×720") && text.contains("0.0500"), "{text}");
        assert_eq!(dataset.report.doubts.total(), 1, "{text}");
    }

    #[test]
    fn the_text_has_a_row_a_game_a_total_and_the_first_twenty_problems() {
        let game = |name: &str| GameSummary { game: name.to_owned(), clips: 2, by_visibility: [1, 20, 3, 4] };
        let mut problems = Problems::default();
        for line in 1..=23 {
            problems.push(ProblemKind::UnparsableRow, Path::new("Label.csv"), Some(line), "bad");
        }
        let report = DataReport { games: vec![game("game1"), game("game10")], problems, ..DataReport::default() };
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], "game1       2       28       20       3         4       1");
        assert_eq!(lines[3], "total       4       56       40       6         8       2");
        assert_eq!(lines[4], "23 problems, skipped:");
        assert!(text.contains("23  rows that cannot be read"), "{text}");
        assert!(text.contains("Label.csv:20: bad") && !text.contains("Label.csv:21"), "{text}");
        assert!(text.ends_with("  … and 3 more\n"), "{text}");
    }

    #[test]
    fn a_million_bad_rows_are_counted_and_the_first_of_each_kind_kept() {
        let mut problems = Problems::default();
        for line in 1..=1_000_000 {
            problems.push(ProblemKind::UnparsableRow, Path::new("Label.csv"), Some(line), &"x".repeat(900));
        }
        problems.push(ProblemKind::MissingFile, Path::new("Label.csv"), None, "late");
        assert_eq!((problems.total(), problems.count(ProblemKind::UnparsableRow)), (1_000_001, 1_000_000));
        assert_eq!(problems.iter().count(), KEPT_PROBLEMS + 1);
        assert!(problems.to_string().len() < 20_000 && problems.to_string().ends_with("… and 999981 more"));
    }
}

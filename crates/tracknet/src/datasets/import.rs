//! A data set in any layout → the tennis layout: `<game>/<clip>/{0000.jpg, …, Label.csv}`.
//!
//! Pictures become hard links where the file system can, copies elsewhere; the frames of a video become JPEGs of quality
//! 95. Labels are written as pixels and as centres of streaks. The whole of it appears at once or not at all.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use image::RgbImage;
use image::codecs::jpeg::JpegEncoder;

use super::label_point::{Converted, to_center};
use super::layouts::{Frames, Layout, PlacedLabel, RawClip, RawDataset, RawGame, Split, expected};
use super::report::{DataReport, GameSummary, ProblemKind};
use super::tracknet::{LABEL_FILE, labels};
use super::{Dataset, DatasetError, Reading, count};
use crate::config::{DataFormat, SplitConfig};
use crate::error::{IoContext, Result};
use crate::files::{Destination, open_regular};

/// Quality of the JPEGs that frames of videos are written as.
const QUALITY: u8 = 95;

/// The frames of a video with their numbers from 0, in order.
pub type VideoFrames = Box<dyn Iterator<Item = Result<(u64, RgbImage)>>>;

/// What an import needs from outside.
pub struct ImportOptions<'a> {
    /// How the labels are to be read.
    pub reading: Reading,
    /// Opens a video; only asked for when there is one.
    pub open_video: &'a dyn Fn(&Path) -> Result<VideoFrames>,
    /// Ends the import between two frames; nothing is written then.
    pub stop: &'a AtomicBool,
    /// Gets the clips that are done and all of them.
    pub progress: &'a mut dyn FnMut(usize, usize),
}

/// What was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// The layout that was found.
    pub format: DataFormat,
    /// Games, frames by visibility, notes and everything that was left out.
    pub report: DataReport,
    /// Frames without a label, which are there for windows.
    pub unlabelled: usize,
    /// Pictures that are hard links to those of the source.
    pub linked: usize,
    /// Pictures that were copied.
    pub copied: usize,
    /// Frames out of videos.
    pub extracted: usize,
    /// The data set's own split, by the names that games have now.
    pub split: Option<SplitConfig>,
}

impl Imported {
    /// All frames that were written.
    pub fn frames(&self) -> usize {
        self.linked + self.copied + self.extracted
    }
}

/// Reads the data set at `source` and writes it to `destination` in the tennis layout; `None` when it was stopped.
///
/// # Errors
/// A source in no known layout, or without a usable label; a video that cannot be opened; a destination that exists or
/// cannot be written.
pub fn import(source: &Path, destination: &Destination, options: ImportOptions<'_>) -> Result<Option<Imported>> {
    let RawDataset { format, games, problems, notes } = read(source, &options.reading)?;
    let report = DataReport { problems, notes, ..DataReport::default() };
    let imported = Imported { format, report, unlabelled: 0, linked: 0, copied: 0, extracted: 0, split: None };
    let clips = games.iter().map(|game| game.clips.len()).sum();
    let mut writer = Writer { options, imported, converted: Converted::default(), done: 0, clips };
    let written = destination.write_plain(|root| writer.write(root, games));
    match written {
        Err(crate::Error::Dataset(DatasetError::Interrupted)) => return Ok(None),
        other => other?,
    }
    writer.imported.report.notes.extend(writer.converted.note());
    Ok(Some(writer.imported))
}

/// Everything that is at `source`.
fn read(source: &Path, reading: &Reading) -> Result<RawDataset> {
    let data = match Layout::find("--format", source, reading)? {
        Some(layout) => layout.read("--games", None)?,
        None => {
            // As they are: they become centres when they are written.
            let as_they_are = Reading { label_point: Default::default(), ..reading.clone() };
            let data = Dataset::open_all(source, as_they_are)?;
            let game = |game: super::Game| RawGame {
                split: None,
                name: game.name,
                clips: game.clips.into_iter().map(RawClip::from).collect(),
            };
            let games = data.games.into_iter().map(game).collect();
            let notes = vec![format!("layout: {}", DataFormat::Tracknet)];
            RawDataset { format: DataFormat::Tracknet, games, problems: data.report.problems, notes }
        }
    };
    if data.games.iter().flat_map(|game| &game.clips).all(|clip| clip.labels.is_empty()) {
        let (key, root, expected) = ("import".to_owned(), source.to_path_buf(), expected(data.format));
        let games = crate::console::listing(data.games.iter().map(|game| &game.name), 20);
        return Err(DatasetError::NoFrames { key, root, games, expected, problems: Box::new(data.problems) }.into());
    }
    Ok(data)
}

/// Writes clips and counts what it did.
struct Writer<'a> {
    options: ImportOptions<'a>,
    imported: Imported,
    converted: Converted,
    done: usize,
    clips: usize,
}

/// A frame that was written.
struct Written {
    name: String,
    size: Option<[usize; 2]>,
}

impl Writer<'_> {
    fn write(&mut self, root: &Path, games: Vec<RawGame>) -> Result<()> {
        let mut split =
            SplitConfig { train_games: Vec::new(), val_games: Vec::new(), val_share: 0.0, test_games: Vec::new() };
        let mut names = HashSet::new();
        for game in games {
            let name = free_name(&game.name, &mut names);
            let of_split = match game.split {
                Some(Split::Train) => Some(&mut split.train_games),
                Some(Split::Val) => Some(&mut split.val_games),
                Some(Split::Test) => Some(&mut split.test_games),
                None => None,
            };
            let mut summary = GameSummary { game: name.clone(), clips: 0, by_visibility: [0; 4] };
            let mut clip_names = HashSet::new();
            for clip in game.clips.iter().filter(|clip| !clip.labels.is_empty()) {
                let dir = root.join(&name).join(free_name(&clip.name, &mut clip_names));
                self.write_clip(&dir, clip, &mut summary)?;
                self.done += 1;
                (self.options.progress)(self.done, self.clips);
            }
            if summary.clips > 0 {
                self.imported.report.games.push(summary);
                of_split.into_iter().for_each(|games| games.push(name.clone()));
            }
        }
        self.imported.split = (!split.train_games.is_empty()).then_some(split);
        Ok(())
    }

    fn write_clip(&mut self, dir: &Path, clip: &RawClip, summary: &mut GameSummary) -> Result<()> {
        fs::create_dir_all(dir).at(dir)?;
        let mut labels = clip.labels.clone();
        let frames = match &clip.frames {
            Frames::Pictures(files) => self.pictures(dir, files)?,
            Frames::Video { path, fractions } => {
                let frames = self.video(dir, path)?;
                self.fit_to_video(&mut labels, &frames, clip, *fractions);
                frames
            }
        };
        labels.retain(|label| frames.get(label.place).is_some_and(Option::is_some));
        self.make_centres(&mut labels, frames.len());
        if labels.is_empty() {
            return fs::remove_dir_all(dir).at(dir).map_err(Into::into);
        }
        write_labels(&dir.join(LABEL_FILE), &labels, &frames)?;
        self.imported.unlabelled += frames.iter().flatten().count() - labels.len();
        summary.clips += 1;
        labels.iter().for_each(|label| summary.by_visibility[label.label.visibility as usize] += 1);
        Ok(())
    }

    fn check_stop(&self) -> Result<()> {
        if self.options.stop.load(Ordering::Relaxed) { Err(DatasetError::Interrupted.into()) } else { Ok(()) }
    }

    /// Links or copies pictures as `0000.jpg` and so on; what is no file is left out and keeps its number.
    fn pictures(&mut self, dir: &Path, files: &[PathBuf]) -> Result<Vec<Option<Written>>> {
        let mut written = Vec::with_capacity(files.len());
        for (place, file) in files.iter().enumerate() {
            self.check_stop()?;
            if let Err(error) = open_regular(file) {
                self.imported.report.problems.push(ProblemKind::UndecodableImage, file, None, &error.to_string());
                written.push(None);
                continue;
            }
            let extension = file.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
            let name = format!("{place:04}.{extension}");
            match link_or_copy(file, &dir.join(&name))? {
                true => self.imported.linked += 1,
                false => self.imported.copied += 1,
            }
            written.push(Some(Written { name, size: None }));
        }
        Ok(written)
    }

    /// Writes the frames of a video as JPEGs; of one that is damaged those that can be read.
    fn video(&mut self, dir: &Path, path: &Path) -> Result<Vec<Option<Written>>> {
        let mut written = Vec::new();
        for frame in (self.options.open_video)(path)? {
            self.check_stop()?;
            let picture = match frame {
                Ok((_, picture)) => picture,
                Err(error) => {
                    self.imported.report.problems.push(ProblemKind::UndecodableImage, path, None, &error.to_string());
                    break;
                }
            };
            let name = format!("{:04}.jpg", written.len());
            let place = dir.join(&name);
            write_jpeg(&place, &picture)?;
            self.imported.extracted += 1;
            written.push(Some(Written { name, size: Some([picture.width() as usize, picture.height() as usize]) }));
        }
        Ok(written)
    }

    /// Rows of a video are numbers of its frames, which only now are counted: from 1 if they are 1 to the last.
    fn fit_to_video(
        &mut self,
        labels: &mut Vec<PlacedLabel>,
        frames: &[Option<Written>],
        clip: &RawClip,
        fractions: bool,
    ) {
        let ends = labels.first().zip(labels.last()).map(|(first, last)| (first.place, last.place));
        if ends == Some((1, frames.len())) && labels.len() == frames.len() {
            labels.iter_mut().for_each(|label| label.place -= 1);
            self.imported
                .report
                .notes
                .push(format!("{}: rows are counted from 1; row 1 is the first frame", clip.name));
        }
        let problems = &mut self.imported.report.problems;
        labels.retain_mut(|label| {
            let Some(Some(frame)) = frames.get(label.place) else {
                let detail = format!("frame {}: the video has {}", label.place, count(frames.len(), "frame"));
                problems.push(ProblemKind::MissingFile, &clip.label_file, Some(label.line), &detail);
                return false;
            };
            if let (true, Some(size), Some(xy)) = (fractions, frame.size, label.label.xy) {
                label.label.xy = Some([0, 1].map(|axis| xy[axis] * size[axis] as f32));
            }
            true
        });
    }

    fn make_centres(&mut self, labels: &mut [PlacedLabel], frames: usize) {
        let mut points = vec![None; frames];
        labels.iter().for_each(|label| points[label.place] = label.label.xy);
        let Reading { label_point, shutter, .. } = self.options.reading;
        self.converted = self.converted.and(to_center(&mut points, label_point, shutter));
        labels.iter_mut().for_each(|label| label.label.xy = points[label.place]);
    }
}

/// Writes a frame of a video, in a quality that training bears.
///
/// # Errors
/// A file that cannot be written.
pub fn write_jpeg(path: &Path, picture: &RgbImage) -> Result<()> {
    let mut jpeg = Vec::new();
    picture
        .write_with_encoder(JpegEncoder::new_with_quality(&mut jpeg, QUALITY))
        .map_err(|error| DatasetError::Image { path: path.to_path_buf(), reason: format!("cannot encode: {error}") })?;
    Ok(fs::write(path, jpeg).at(path)?)
}

/// A name that is one directory and not taken yet.
fn free_name(name: &str, taken: &mut HashSet<String>) -> String {
    let plain = name.replace(['/', '\\'], "-");
    let candidates = (2..).map(|n| format!("{plain}-{n}"));
    let free = std::iter::once(plain.clone()).chain(candidates).find(|name| taken.insert(name.to_lowercase()));
    free.unwrap_or(plain)
}

/// Whether the picture is a link to the source; a source that nobody may write is copied, because a link shares its rights.
fn link_or_copy(source: &Path, place: &Path) -> Result<bool> {
    let source = fs::canonicalize(source).at(source)?;
    let writable = fs::metadata(&source).is_ok_and(|found| !found.permissions().readonly());
    if writable && fs::hard_link(&source, place).is_ok() {
        return Ok(true);
    }
    let (mut from, mut to) = (open_regular(&source)?, File::create(place).at(place)?);
    io::copy(&mut from, &mut to).at(place)?;
    Ok(false)
}

fn write_labels(path: &Path, placed: &[PlacedLabel], frames: &[Option<Written>]) -> Result<()> {
    let mut text = format!("{}\n", labels::HEADER);
    for PlacedLabel { place, label, .. } in placed {
        let Some(Some(frame)) = frames.get(*place) else { continue };
        text.push_str(&format!("{}\n", labels::line_of(&frame.name, label, "")));
    }
    let mut file = File::create(path).at(path)?;
    Ok(file.write_all(text.as_bytes()).at(path)?)
}

#[cfg(test)]
mod tests {
    use super::super::tracknet::tests::Tree;
    use super::*;
    use crate::config::LabelPoint;
    use crate::files::Existing;

    /// Imports with a video reader that gives `frames` pictures of 40×20, and then the error if there is one.
    fn run(source: &Path, to: &Path, reading: Reading, frames: u64, damaged: bool) -> Result<Option<Imported>> {
        let open_video = move |path: &Path| -> Result<VideoFrames> {
            let damage = || DatasetError::Image { path: path.to_path_buf(), reason: "cut off".to_owned() }.into();
            let pictures = (0..frames).map(|i| Ok((i, RgbImage::from_pixel(40, 20, image::Rgb([i as u8 * 50; 3])))));
            let end: Option<Result<(u64, RgbImage)>> = damaged.then(|| Err(damage()));
            Ok(Box::new(pictures.chain(end)))
        };
        let destination = Destination::directory(to, Existing::Nothing, &[source])?;
        let (stop, progress) = (&AtomicBool::new(false), &mut |_, _| {});
        import(source, &destination, ImportOptions { reading, open_video: &open_video, stop, progress })
    }

    fn positions(root: &Path) -> Vec<Option<[f32; 2]>> {
        let data = Dataset::open_all(root, DataFormat::Tracknet).unwrap();
        data.frames().iter().map(|frame| frame.frame.label.xy).collect()
    }

    fn badminton(rows: &str, table: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in [table, "in/match1/video/1_01.mp4"] {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
        }
        fs::write(dir.path().join(table), rows).unwrap();
        fs::write(dir.path().join("in/match1/video/1_01.mp4"), "").unwrap();
        dir
    }

    #[test]
    fn the_frames_of_a_video_are_taken_out_and_rows_beyond_it_named() {
        let rows = "Frame,Visibility,X,Y\n0,1,10,5\n2,0,0,0\n3,1,12,6\n9,1,1,1\n";
        let dir = badminton(rows, "in/match1/csv/1_01_ball.csv");
        let (source, to) = (dir.path().join("in"), dir.path().join("out"));
        let done = run(&source, &to, DataFormat::Auto.into(), 4, true).unwrap().unwrap();
        assert_eq!((done.extracted, done.unlabelled, done.frames()), (4, 1, 4));
        assert_eq!(positions(&to), [Some([10.0, 5.0]), None, Some([12.0, 6.0])]);
        let report = done.report.to_string();
        assert!(
            report.contains("csv:5: frame 9: the video has 4 frames") && report.contains("1_01.mp4: cut off"),
            "{report}"
        );
        let text = fs::read_to_string(to.join("match1/1_01/Label.csv")).unwrap();
        assert_eq!(text.lines().nth(1), Some("0000.jpg,1,10,5,"));
        assert!(run(&source, &to, DataFormat::Auto.into(), 4, false).unwrap_err().to_string().contains("out"));
    }

    #[test]
    fn rows_of_a_video_that_count_from_one_and_fractions_of_its_frames_become_what_they_mean() {
        let rows = "frame_num,visible,x,y\n1,1,0.5,0.25\n2,1,0.75,0.5\n";
        let dir = badminton(rows, "in/match1/labels/1_01.csv");
        let (source, to) = (dir.path().join("in"), dir.path().join("out"));
        let done = run(&source, &to, DataFormat::Normalized.into(), 2, false).unwrap().unwrap();
        assert_eq!(positions(&to), [Some([20.0, 5.0]), Some([30.0, 10.0])]);
        assert!(done.report.to_string().contains("rows are counted from 1"), "{}", done.report);
    }

    #[test]
    fn pictures_are_linked_and_leading_labels_become_centres() {
        let tree = Tree::new();
        let rows: String = (0..4).map(|i| format!("000{i}.jpg,1,{},9,0\n", 8 + 12 * i)).collect();
        tree.clip("in/game1", "Clip1", 4, &rows);
        let reading = Reading { label_point: LabelPoint::Leading, shutter: 0.5, ..DataFormat::Auto.into() };
        let done = run(&tree.path("in"), &tree.path("out"), reading, 0, false).unwrap().unwrap();
        assert_eq!((done.linked + done.copied, done.unlabelled, done.split.clone()), (4, 0, None));
        assert_eq!(positions(&tree.path("out")), [5.0, 17.0, 29.0, 41.0].map(|x| Some([x, 9.0])));
        assert!(
            done.report.to_string().contains("4 moved to the centre of the streak, by 3.0 pixels"),
            "{}",
            done.report
        );
        assert_eq!(
            fs::read(tree.path("out/game1/Clip1/0002.jpg")).unwrap(),
            fs::read(tree.path("in/game1/Clip1/0002.jpg")).unwrap()
        );
    }

    #[test]
    fn what_cannot_be_read_or_is_stopped_leaves_nothing() {
        let tree = Tree::new();
        tree.clip("in/game1", "Clip1", 1, "0000.jpg,1,5,5,0\n");
        let destination = Destination::new_directory(tree.path("out"));
        let options = ImportOptions {
            reading: DataFormat::Auto.into(),
            open_video: &|path| Err(DatasetError::Image { path: path.into(), reason: String::new() }.into()),
            stop: &AtomicBool::new(true),
            progress: &mut |_, _| {},
        };
        assert_eq!(import(&tree.path("in"), &destination, options).unwrap(), None);
        let error =
            run(&tree.path("in/game1/Clip1"), &tree.path("out"), DataFormat::Auto.into(), 0, false).unwrap_err();
        assert!(error.to_string().contains("it is a clip"), "{error}");
        assert_eq!(fs::read_dir(tree.path("")).unwrap().count(), 1);
    }
}

//! Where the results of a prediction go, and whether they may: checked before any work is done.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use tracknet::evaluation::overlay;
use tracknet::files::FileId;
use tracknet::files::destination::{check_file, refuse_inputs};
use tracknet::inference::{RowFormat, Source, VideoTools};

use super::PredictArgs;
use super::recipe::Recipe;

/// The files and folders that the prediction of a source writes.
pub(super) struct Places {
    pub(super) csv: PathBuf,
    /// What the rows were made with.
    pub(super) recipe: PathBuf,
    pub(super) jsonl: Option<PathBuf>,
    pub(super) video: Option<PathBuf>,
    pub(super) overlays: Option<PathBuf>,
    pub(super) heatmaps: Option<PathBuf>,
    /// Names of pictures by frame; `None` for a video, whose frames have numbers only.
    names: Option<Vec<String>>,
}

/// A name for each source that no other one has: that of its file, and a number where several have the same.
pub(super) fn names_of(sources: &[Source]) -> Vec<String> {
    let mut taken = HashSet::new();
    let mut unique = |source: &Source| {
        let name = source.name();
        let numbered = (2..).map(|number| format!("{name}-{number}"));
        // Some file systems take upper and lower case for the same.
        let free = std::iter::once(name.clone()).chain(numbered).find(|name| taken.insert(name.to_lowercase()));
        free.unwrap_or(name)
    };
    sources.iter().map(&mut unique).collect()
}

impl Places {
    /// The places of a source called `name`, in a folder of its own where it is one of `several`.
    pub(super) fn new(args: &PredictArgs, source: &Source, name: &str, several: bool) -> Self {
        let output = match &args.output {
            Some(output) if several => output.join(name),
            Some(output) => output.clone(),
            None => Path::new("predictions").join(name),
        };
        let file = |extension: &str| output.join(format!("{name}{extension}"));
        let names = match source {
            Source::Pictures(files) => Some(picture_names(files)),
            _ => None,
        };
        Self {
            csv: file(".csv"),
            recipe: file(".prediction.json"),
            jsonl: args.jsonl.then(|| file(".jsonl")),
            video: args.video.then(|| file(".mp4")),
            overlays: args.overlays.then(|| output.join("overlays")),
            heatmaps: args.heatmaps.then(|| output.join("heatmaps")),
            names,
        }
    }

    /// The files of rows.
    pub(super) fn rows(&self, csv: RowFormat) -> impl Iterator<Item = (&Path, RowFormat)> {
        let jsonl = self.jsonl.as_deref().map(|path| (path, RowFormat::JsonLines));
        std::iter::once((self.csv.as_path(), csv)).chain(jsonl)
    }

    /// The name of a frame's picture.
    pub(super) fn picture(&self, frame: u64) -> String {
        let known = self.names.as_ref().and_then(|names| names.get(usize::try_from(frame).ok()?));
        known.cloned().unwrap_or_else(|| format!("{frame:06}.png"))
    }

    /// Refuses inputs, and with `overwrite` unset also what this program did not write.
    ///
    /// # Errors
    /// Names the first that is in the way.
    pub(super) fn check(&self, overwrite: bool, inputs: &[PathBuf]) -> tracknet::Result<()> {
        let paths: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
        check_file(&self.csv, overwrite, |path| RowFormat::Csv.recognizes(path), &paths)?;
        check_file(&self.recipe, overwrite, Recipe::recognizes, &paths)?;
        if let Some(jsonl) = &self.jsonl {
            check_file(jsonl, overwrite, |path| RowFormat::JsonLines.recognizes(path), &paths)?;
        }
        if let Some(video) = &self.video {
            check_file(video, overwrite, |path| VideoTools::default().is_ours(path), &paths)?;
        }
        let inputs: HashSet<FileId> = inputs.iter().filter_map(|path| FileId::of(path)).collect();
        for folder in self.overlays.iter().chain(&self.heatmaps) {
            self.check_pictures(folder, overwrite, &inputs, &paths)?;
        }
        Ok(())
    }

    fn check_pictures(
        &self,
        folder: &Path,
        overwrite: bool,
        inputs: &HashSet<FileId>,
        paths: &[&Path],
    ) -> tracknet::Result<()> {
        let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
        let names: Option<HashSet<&str>> = self.names.as_ref().map(|n| n.iter().map(String::as_str).collect());
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let written = name.to_str().is_some_and(|name| match &names {
                Some(names) => names.contains(name),
                None => is_numbered(name),
            });
            if !written {
                continue;
            }
            // Most files are no input; only one that is has to be named.
            if FileId::of(&path).is_some_and(|id| inputs.contains(&id)) {
                refuse_inputs(&path, paths)?;
            }
            if !overwrite && !overlay::is_ours(&path) {
                check_file(&path, false, |_| false, &[])?;
            }
        }
        Ok(())
    }
}

/// Whether a name is that of a video's frame: six digits or more.
fn is_numbered(name: &str) -> bool {
    let digits = name.strip_suffix(".png").unwrap_or_default();
    digits.len() >= 6 && digits.bytes().all(|b| b.is_ascii_digit())
}

/// `0001.png` for `0001.jpg`; where two frames of a folder would share a name (`a.jpg`, `a.png`), all keep their
/// extension: `a.jpg.png`.
fn picture_names(files: &[PathBuf]) -> Vec<String> {
    let text = |part: Option<&std::ffi::OsStr>| part.map_or_else(String::new, |p| p.to_string_lossy().into_owned());
    // Some file systems take upper and lower case for the same.
    let differ =
        |names: &[String]| names.iter().map(|name| name.to_lowercase()).collect::<HashSet<_>>().len() == names.len();
    let stems: Vec<String> = files.iter().map(|file| text(file.file_stem()) + ".png").collect();
    if differ(&stems) {
        return stems;
    }
    let names: Vec<String> = files.iter().map(|file| text(file.file_name()) + ".png").collect();
    // Names that are no text, or that only case tells apart.
    if differ(&names) { names } else { (0..files.len()).map(|index| format!("{index:06}.png")).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_frames_share_a_picture() {
        let names = |files: &[&str]| picture_names(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["f/0001.jpg", "f/0002.png"]), ["0001.png", "0002.png"]);
        assert_eq!(names(&["f/a.jpg", "f/a.png", "f/a.jpg.png"]), ["a.jpg.png", "a.png.png", "a.jpg.png.png"]);
        assert_eq!(names(&["f/A.jpg", "f/a.png"]), ["A.jpg.png", "a.png.png"]);
        assert_eq!(names(&["f/A.jpg", "f/a.jpg"]), ["000000.png", "000001.png"]);
    }

    #[test]
    fn no_two_sources_share_a_name() {
        let video = |path: &str| Source::Video(path.into());
        let sources = [video("a/rally.mp4"), video("b/Rally.mov"), Source::StandardInput, video("rally-2.mp4")];
        assert_eq!(names_of(&sources), ["rally", "Rally-2", "stdin", "rally-2-2"]);
    }

    #[test]
    fn only_numbered_pictures_are_those_of_a_video() {
        assert!(is_numbered("000012.png") && is_numbered("1000000.png"));
        assert!(!is_numbered("0012.png") && !is_numbered("holiday.png") && !is_numbered("000012.jpg"));
    }
}

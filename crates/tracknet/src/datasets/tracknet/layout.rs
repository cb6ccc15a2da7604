//! What a directory holds: games, or what it is instead, so that an error can say which directory is meant.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::frames::{directories_in, frames_in, name_of};
use super::super::layouts::{Layout, expected};
use super::super::{DatasetError, count};
use super::{LABEL_FILE, LISTED_NAMES, is_clip, label_files};
use crate::console::listing;
use crate::error::{IoContext, Result};
use crate::files::parent_of;

/// Directories that are looked into for a description.
const SEEN: usize = 100;

/// Directories under `root` that look like games (they hold a clip), in natural order; those that cannot be read are
/// left out.
///
/// # Errors
/// A root that is not a directory or cannot be read.
pub fn available_games(root: &Path) -> Result<Vec<String>> {
    check_root("--games", root)?;
    let games = directories_in(root).at(root)?.into_iter().filter(|dir| !clips_of(dir).is_empty());
    Ok(games.map(|dir| name_of(&dir)).collect())
}

/// # Errors
/// A root that is not a directory, in the words of who asked: `key` is a flag or a key of the configuration.
pub(in crate::datasets) fn check_root(key: &str, root: &Path) -> Result<()> {
    let advice = if key.starts_with("--") { "give a directory that holds games" } else { "set data.root" };
    match fs::metadata(root) {
        Ok(found) if found.is_dir() => Ok(()),
        Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(Err(error).at(root)?)
        }
        _ => Err(DatasetError::RootMissing { root: root.to_path_buf(), advice }.into()),
    }
}

/// The clips of a game, none when it cannot be read.
fn clips_of(game: &Path) -> Vec<PathBuf> {
    let directories = directories_in(game).unwrap_or_default();
    directories.into_iter().filter(|dir| is_clip(dir).unwrap_or_default()).collect()
}

/// What a directory holds, as the end of a sentence about it: `it has: game1, game2`, or what it is instead of a
/// dataset root and which directory is meant.
pub(in crate::datasets) fn describe(root: &Path) -> String {
    let directories = directories_in(root).unwrap_or_default();
    let games = |dir: &Path| available_games(dir).unwrap_or_default();
    let found = games(root);
    if !found.is_empty() {
        return format!("it has: {}", listing(found, LISTED_NAMES));
    }
    if label_files(root).is_ok_and(|files| !files.is_empty()) {
        let meant = above(&above(root));
        return format!("it is a clip (it holds {LABEL_FILE}); give the directory above its game: {}", meant.display());
    }
    let inside: Vec<PathBuf> =
        directories.iter().take(SEEN).flat_map(|dir| directories_in(dir).unwrap_or_default()).collect();
    if let Some(meant) = directories.iter().chain(&inside).take(SEEN).find(|dir| !games(dir).is_empty()) {
        let held = listing(games(meant), LISTED_NAMES);
        return format!("it is a level too high: {} holds the games ({held}); give that directory", meant.display());
    }
    let mut candidates = std::iter::once(root).chain(directories.iter().chain(&inside).map(PathBuf::as_path));
    if let Some(layout) = candidates.by_ref().take(SEEN).find_map(other_layout) {
        return layout;
    }
    let clips = clips_of(root);
    if !clips.is_empty() {
        let clips = listing(clips.iter().map(|dir| name_of(dir)), LISTED_NAMES);
        return format!("it is a game (it holds {clips}); give the directory above it: {}", above(root).display());
    }
    holds(root, &directories)
}

/// The layouts of other programs, as the end of a sentence.
fn other_layout(dir: &Path) -> Option<String> {
    let format = Layout::name_of(dir)?;
    Some(format!(
        "{} has the layout `{format}` ({}): give that directory, with data.format (--format) {format} or auto",
        dir.display(),
        expected(format)
    ))
}

/// What lies in a directory that is nothing known.
fn holds(dir: &Path, directories: &[PathBuf]) -> String {
    let mut parts = Vec::new();
    if !directories.is_empty() {
        let names = listing(directories.iter().map(|dir| name_of(dir)), LISTED_NAMES);
        parts.push(format!("the directories {names}"));
    }
    if let frames @ 1.. = frames_in(dir).unwrap_or_default().len() {
        parts.push(count(frames, "frame"));
    }
    let found = if parts.is_empty() { "neither directories nor frames".to_owned() } else { parts.join(" and ") };
    format!("it holds {found}, and no <game>/<clip>/{LABEL_FILE}")
}

/// The directory above; also of `.` and of `..`.
fn above(dir: &Path) -> PathBuf {
    match dir.file_name() {
        Some(_) => parent_of(dir).to_path_buf(),
        None => dir.join(".."),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Tree;
    use super::*;
    use crate::config::DataFormat;
    use crate::datasets::Dataset;

    fn refusal(root: &Path) -> String {
        Dataset::open_all(root, DataFormat::Auto).unwrap_err().to_string()
    }

    /// `game1/Clip1` with two frames, moved to where another layout has them.
    fn tree(moves: &[(&str, &str)]) -> Tree {
        let tree = Tree::new();
        tree.raw_clip("game1", "Clip1", 2, "Frame,Visibility,X,Y\n0000,1,10,20\n0001,0,0,0\n");
        for (from, to) in moves {
            rename(&tree, from, to);
        }
        tree
    }

    fn rename(tree: &Tree, from: &str, to: &str) {
        fs::create_dir_all(parent_of(&tree.path(to))).unwrap();
        fs::rename(tree.path(from), tree.path(to)).unwrap();
    }

    #[test]
    fn a_clip_a_game_and_a_directory_too_high_are_answered_with_the_one_that_is_meant() {
        let tree = tree(&[("game1", "tennis/game1")]);
        let meant = tree.path("tennis").display().to_string();
        let text = refusal(&tree.path("tennis/game1/Clip1"));
        assert!(
            text.ends_with(&format!("it is a clip (it holds Label.csv); give the directory above its game: {meant}"))
        );
        let text = refusal(&tree.path("tennis/game1"));
        assert!(
            text.ends_with(&format!("it is a game (it holds Clip1); give the directory above it: {meant}")),
            "{text}"
        );
        for high in ["", "."] {
            let text = refusal(&tree.path(high));
            assert!(text.contains("it is a level too high: ") && text.contains("holds the games (game1)"), "{text}");
        }
        rename(&tree, "tennis", "a/tennis");
        assert!(refusal(&tree.path("")).contains("a/tennis holds the games (game1); give that directory"));
    }

    #[test]
    fn the_layout_of_another_program_is_named_where_the_tennis_layout_was_asked_for() {
        let grid = tree(&[("game1/Clip1/Label.csv", "game1/Labels.csv"), ("game1/Clip1", "game1/frames")]);
        let asked = grid.open(&["game1"]).unwrap_err().to_string();
        assert!(
            asked.contains("no usable frame in game1") && asked.contains("has the layout `gridtracknet`"),
            "{asked}"
        );
        let v3 = tree(&[("game1/Clip1/Label.csv", "game1/csv/1_01_ball.csv"), ("game1/Clip1", "game1/frame/1_01")]);
        let asked = v3.open(&["game1"]).unwrap_err().to_string();
        assert!(asked.contains("has the layout `badminton` (<match>/csv/<rally>_ball.csv with "), "{asked}");
        for tree in [grid, v3] {
            assert_eq!(Dataset::open_all(&tree.path(""), DataFormat::Auto).unwrap().frames().len(), 2);
        }
    }

    #[test]
    fn what_is_nothing_known_is_listed_and_a_directory_beside_games_is_not_passed_over_in_silence() {
        let tree = Tree::new();
        assert!(
            refusal(&tree.path("")).contains("it holds neither directories nor frames, and no <game>/<clip>/Label.csv")
        );
        fs::create_dir_all(tree.path("notes/deep")).unwrap();
        assert!(refusal(&tree.path("")).contains("it holds the directories notes, and no <game>"));
        tree.clip("game1", "Clip1", 1, "0000.jpg,0,,,\n");
        let data = Dataset::open_all(&tree.path(""), DataFormat::Auto).unwrap();
        assert!(data.report.to_string().contains("not read, as they hold no clip: notes"), "{}", data.report);
    }

    #[test]
    fn the_words_are_those_of_the_caller() {
        let tree = tree(&[]);
        let games = ["game2".to_owned()];
        let open =
            |key: &str, root: &Path| Dataset::open_split(key, root, DataFormat::Auto, &games, false).unwrap_err();
        let text = open("data.split.train_games", &tree.path("game1")).to_string();
        assert!(text.starts_with("data.split.train_games asks for game2, which "), "{text}");
        assert!(text.contains("; it is a game (it holds Clip1); give the directory above it"), "{text}");
        let text = open("--games", &tree.path("nowhere")).to_string();
        assert!(text.contains("nowhere is not a directory; give a directory that holds games, or make"), "{text}");
        assert!(open("data.split.train_games", &tree.path("nowhere")).to_string().contains("; set data.root, or make"));
        for none in ["", "..", "."] {
            let games = [none.to_owned()];
            let open = Dataset::open_split("--games", &tree.path(""), DataFormat::Auto, &games, false);
            assert!(open.unwrap_err().to_string().starts_with("--games asks for "), "{none}");
        }
    }
}

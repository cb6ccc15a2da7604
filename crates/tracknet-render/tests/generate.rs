//! Games, clips and label files on disk.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};
use tracknet_render::{GenerateOptions, GenerateReport, LookSet, RENDERER_VERSION, RenderError, generate};

fn small(seed: u64) -> GenerateOptions {
    GenerateOptions {
        seed,
        games: 1,
        clips_per_game: 1,
        frames_per_clip: 2,
        size: [160, 90],
        ..GenerateOptions::default()
    }
}

fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_path_buf()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Renders to the end.
fn render(root: &Path, options: &GenerateOptions) -> Result<GenerateReport, RenderError> {
    Ok(generate(root, options, &AtomicBool::new(false), &mut |_, _| {})?.unwrap())
}

#[test]
fn the_files_of_this_renderer_version_are_pinned() {
    let of_look = |look: LookSet| {
        let root = tempfile::tempdir().unwrap();
        render(root.path(), &GenerateOptions { games: 3, look, ..small(7) }).unwrap();
        let mut hasher = Sha256::new();
        for (name, bytes) in files(root.path()).into_iter().filter(|(name, _)| name != "generate.json") {
            hasher.update(name);
            hasher.update(bytes);
        }
        hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>()
    };
    let looks = [
        // These two are what version 3 rendered.
        (LookSet::Broadcast, "741174dd599aef1f"),
        (LookSet::Grass, "343d84c0256890e7"),
        (LookSet::Club, "eb235619554b7446"),
        (LookSet::Side, "b804835227f2056f"),
        (LookSet::Indoor, "1f3d17b6525e5b80"),
        (LookSet::Mixed, "e28bcc10aaa1fdd9"),
        (LookSet::Beach, "3c8565de74ae29aa"),
    ];
    assert_eq!(RENDERER_VERSION, 4);
    let found = looks.map(|(look, _)| (look, of_look(look)));
    let expected = looks.map(|(look, digest)| (look, digest.to_owned()));
    assert_eq!(found, expected, "other files are another version");
}

#[test]
fn one_thread_and_four_write_the_same_bytes() {
    let options = GenerateOptions { games: 2, clips_per_game: 2, ..small(5) };
    let (one, four) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut calls = Vec::new();
    let single = GenerateOptions { threads: 1, ..options.clone() };
    let mut progress = |done, all| calls.push((done, all));
    let report = generate(one.path(), &single, &AtomicBool::new(false), &mut progress).unwrap().unwrap();
    render(four.path(), &GenerateOptions { threads: 4, ..options }).unwrap();
    let (a, b) = (files(one.path()), files(four.path()));
    assert_eq!(a.len(), 2 * 2 * 3 + 1);
    assert!(a == b, "the files depend on the number of threads");
    assert_eq!((report.clips, report.frames), (4, 8));
    assert_eq!(report.visibility.iter().sum::<usize>(), 8);
    assert_eq!(calls.last(), Some(&(8, 8)));
}

#[test]
fn games_differ_and_a_game_depends_on_its_number_only() {
    let (both, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    render(both.path(), &GenerateOptions { games: 2, ..small(1) }).unwrap();
    render(second.path(), &GenerateOptions { first_game: 2, ..small(1) }).unwrap();
    let (both, second) = (files(both.path()), files(second.path()));
    let name = "game2/Clip1/0000.jpg";
    assert!(both[name] == second[name]);
    assert!(both[name] != both["game1/Clip1/0000.jpg"]);
}

#[test]
fn labels_parse_and_lie_inside_the_frame() {
    let root = tempfile::tempdir().unwrap();
    let options = GenerateOptions { frames_per_clip: 12, clips_per_game: 3, size: [64, 36], ..small(2) };
    render(root.path(), &options).unwrap();
    let mut rows = 0;
    for clip in 1..=3 {
        let directory = root.path().join(format!("game1/Clip{clip}"));
        let mut reader = csv::Reader::from_path(directory.join("Label.csv")).unwrap();
        let header = ["file name", "visibility", "x-coordinate", "y-coordinate", "status"];
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), header);
        for row in reader.records() {
            let row = row.unwrap();
            let frame = image::open(directory.join(&row[0])).unwrap();
            assert_eq!((frame.width(), frame.height()), (64, 36));
            if &row[1] == "0" {
                assert!(row[2].is_empty() && row[3].is_empty());
            } else {
                let (x, y): (f32, f32) = (row[2].parse().unwrap(), row[3].parse().unwrap());
                assert!((0.0..=63.0).contains(&x) && (0.0..=35.0).contains(&y), "{row:?}");
                assert!(["0", "1", "2"].contains(&&row[4]));
            }
            rows += 1;
        }
    }
    assert_eq!(rows, 36);
}

#[test]
fn a_stopped_rendering_leaves_whole_clips_only() {
    let root = tempfile::tempdir().unwrap();
    let options = GenerateOptions { clips_per_game: 40, frames_per_clip: 3, threads: 1, ..small(6) };
    let stop = AtomicBool::new(false);
    let mut done = 0;
    let report = generate(root.path(), &options, &stop, &mut |frames, _| {
        done = frames;
        // Within the second clip.
        stop.store(frames >= 4, Ordering::Relaxed);
    });
    assert_eq!(report.unwrap(), None);
    assert!((4..120).contains(&done), "{done} frames of 120");
    let files = files(root.path());
    assert!(!files.is_empty() && files.len().is_multiple_of(4) && files.len() < 160, "{:?}", files.keys());
    assert!(files.contains_key("game1/Clip1/Label.csv") && !files.contains_key("generate.json"));
}

#[test]
fn an_existing_game_is_never_overwritten() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("game1/Clip1")).unwrap();
    let error = render(root.path(), &small(1)).unwrap_err().to_string();
    assert!(error.contains("game1") && error.contains("not empty"), "{error}");
    assert!(!root.path().join("generate.json").exists());
}

#[test]
fn options_out_of_range_are_named() {
    let root = tempfile::tempdir().unwrap();
    for (options, key) in [
        (GenerateOptions { games: 0, ..small(1) }, "`games` is 0"),
        (GenerateOptions { size: [8, 90], ..small(1) }, "8x90"),
        (GenerateOptions { jpeg_quality: [90, 70], ..small(1) }, "[90, 70]"),
    ] {
        let error = render(root.path(), &options).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

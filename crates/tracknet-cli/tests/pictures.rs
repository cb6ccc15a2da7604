//! Pictures as users have them: turned by their camera, damaged, in the way of an output.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{TINY, ends, fixture, program, render_rallies};

fn picture(name: &str) -> PathBuf {
    fixture("pictures").join(name)
}

/// A clip of copies of a picture with one label for each.
fn clip(dir: &Path, pictures: &[&str], label: &str) {
    let clip = dir.join("data/game1/Clip1");
    fs::create_dir_all(&clip).unwrap();
    let mut labels = "file name,visibility,x-coordinate,y-coordinate,status\n".to_owned();
    for (index, name) in pictures.iter().enumerate() {
        let file = format!("{index:04}.{}", name.rsplit('.').next().unwrap());
        fs::copy(picture(name), clip.join(&file)).unwrap();
        labels.push_str(&format!("{file},1,{label},0\n"));
    }
    fs::write(clip.join("Label.csv"), labels).unwrap();
}

#[test]
fn labels_of_upright_pictures_lie_inside_and_those_of_stored_pixels_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    // Stored as 40×24, upright 24×40: the ball is at (16, 29) there.
    clip(dir.path(), &["turned_6.jpg", "turned_6.png"], "16,29");
    let [report, _] = ends(0, dir.path(), ["data", "check", "data"]);
    assert!(report.contains("2 of 24×40"), "{report}");
    let stored = ["--exif-orientation", "ignore"];
    let [report, _] = ends(0, dir.path(), ["data", "check", "data"].into_iter().chain(stored));
    assert!(report.contains("2 of 40×24") && report.contains("(16, 29) is outside the 40×24 image"), "{report}");
    ends(0, dir.path(), ["data", "preview", "data", "--output", "upright.png"]);
    ends(0, dir.path(), ["data", "preview", "data", "--output", "stored.png"].into_iter().chain(stored));
    assert_ne!(fs::read(dir.path().join("upright.png")).unwrap(), fs::read(dir.path().join("stored.png")).unwrap());
}

#[test]
fn a_preview_draws_what_can_be_drawn_and_never_over_anything() {
    let dir = tempfile::tempdir().unwrap();
    clip(dir.path(), &["full.jpg", "refused/webp.jpg", "rgba.png"], "3,4");
    let [_, notes] = ends(0, dir.path(), ["data", "preview", "data", "--output", "sheet.png"]);
    assert!(notes.contains("1 of 3 frames cannot be drawn:\n  game1/Clip1/0001.jpg: is a WebP picture"), "{notes}");
    // Its own sheet is drawn anew; another picture is not written over unasked.
    ends(0, dir.path(), ["data", "preview", "data", "--output", "sheet.png"]);
    fs::copy(dir.path().join("data/game1/Clip1/0002.png"), dir.path().join("mine.png")).unwrap();
    ends(1, dir.path(), ["data", "preview", "data", "--output", "mine.png"]);
    ends(0, dir.path(), ["data", "preview", "data", "--output", "mine.png", "--overwrite"]);
    let frame = "data/game1/Clip1/0000.jpg";
    let before = fs::read(dir.path().join(frame)).unwrap();
    let [_, error] = ends(1, dir.path(), ["data", "preview", "data", "--output", frame, "--overwrite"]);
    assert!(error.contains("never written over"), "{error}");
    assert_eq!(fs::read(dir.path().join(frame)).unwrap(), before);
    let none = tempfile::tempdir().unwrap();
    clip(none.path(), &["refused/webp.jpg", "refused/bmp.png"], "3,4");
    let [_, error] = ends(1, none.path(), ["data", "preview", "data", "--output", "sheet.png"]);
    assert!(error.contains("none of 2 frames can be drawn") && error.contains("is a BMP picture"), "{error}");
    assert!(!none.path().join("sheet.png").exists());
}

#[test]
fn a_run_leaves_damaged_frames_out_and_says_at_its_end_how_many() {
    let dir = tempfile::tempdir().unwrap();
    render_rallies(dir.path(), 3);
    for game in ["game1", "game2"] {
        let frame = dir.path().join(format!("rallies/{game}/Clip1/0001.jpg"));
        let bytes = fs::read(&frame).unwrap();
        fs::write(&frame, &bytes[..bytes.len() * 2 / 3]).unwrap();
    }
    let steps = ["training.epochs=2", "training.batch_size=1"];
    let train =
        |last: &'static str| ["train", "--output-dir", "runs"].into_iter().chain(TINY).chain(steps).chain([last]);
    let [_, notes] = ends(0, dir.path(), train("data.on_bad_frame=skip"));
    for game in ["game1", "game2"] {
        let note = format!("note: frame {game}/Clip1/0001.jpg (");
        assert_eq!(notes.matches(&note).count(), 1, "{notes}");
    }
    for split in ["training", "validation"] {
        assert!(notes.contains(&format!("{split}: 1 frame could not be read and was left out")), "{notes}");
    }
    let run = fs::read_dir(dir.path().join("runs")).unwrap().next().unwrap().unwrap().path();
    let run = run.to_str().unwrap();
    let [table, _] = ends(0, dir.path(), ["eval", run, "--games", "game2", "--json", "report.json"]);
    assert!(table.contains("1 frame could not be read and was left out\n  frame game2/Clip1/0001.jpg ("), "{table}");
    let report = fs::read_to_string(dir.path().join("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["bad_frames"]["count"], &report["total"]["frames"]), (&1.into(), &2.into()));
    let [_, error] = ends(1, dir.path(), train("data.on_bad_frame=error"));
    assert!(error.contains("game1/Clip1/0001.jpg") && error.contains("cut off"), "{error}");
}

#[cfg(unix)]
#[test]
fn an_interrupted_rendering_ends_with_130_and_leaves_whole_clips() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = program(dir.path())
        .args(["data", "generate", "data", "--games", "200", "--clips", "1", "--frames", "3", "--size", "160x96"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !dir.path().join("data/game1/Clip1").exists() {
        assert!(run.try_wait().unwrap().is_none(), "it ended before the first clip");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(Command::new("kill").args(["-INT", &run.id().to_string()]).status().unwrap().success());
    let output = run.wait_with_output().unwrap();
    let notes = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{notes}");
    assert!(notes.contains("interrupted; clips that were complete are in data"), "{notes}");
    assert!(!dir.path().join("data/game200").exists() && !dir.path().join("data/generate.json").exists());
    for game in fs::read_dir(dir.path().join("data")).unwrap() {
        for clip in fs::read_dir(game.unwrap().path()).unwrap() {
            let clip = clip.unwrap().path();
            assert_eq!(clip.file_name().unwrap(), "Clip1");
            assert_eq!(fs::read_dir(&clip).unwrap().count(), 4, "{}", clip.display());
        }
    }
}

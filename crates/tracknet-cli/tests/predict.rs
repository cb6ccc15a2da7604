//! `tracknet predict` on what goes wrong: damaged frames, cut videos, signals, destinations that are not its own.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use common::{contains_all, ends, program, render_rallies, train};

/// A run, and the frames of its games; made once.
fn run() -> (&'static str, PathBuf) {
    static MADE: OnceLock<(TempDir, String)> = OnceLock::new();
    let (dir, run) = MADE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        render_rallies(dir.path(), 4);
        let run = dir.path().join(train(dir.path(), "vit_heatmap", &[])).display().to_string();
        (dir, run)
    });
    (run, dir.path().join("rallies/game2/Clip1"))
}

/// A directory with copies of the frames of a clip in `frames`.
fn with_frames() -> (TempDir, &'static str) {
    let (run, clip) = run();
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("frames")).unwrap();
    for index in 0..4 {
        let name = format!("{index:04}.jpg");
        fs::copy(clip.join(&name), dir.path().join("frames").join(&name)).unwrap();
    }
    (dir, run)
}

fn rows(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.ends_with('\n'), "half a row at the end of {text}");
    text.lines().map(str::to_owned).collect()
}

/// Whether to leave out what needs ffmpeg: only where the environment says `TRACKNET_SKIP_FFMPEG=1`.
fn skipped() -> bool {
    std::env::var_os("TRACKNET_SKIP_FFMPEG").is_some_and(|value| value == "1")
}

/// The frames as a video whose index is in front, so that its end can be cut off.
fn encode(dir: &Path, name: &str) {
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-y", "-stream_loop", "9", "-i", "frames/%04d.jpg"])
        .args(["-pix_fmt", "yuv420p", "-g", "4", "-crf", "1", "-movflags", "faststart", name])
        .current_dir(dir)
        .status();
    assert!(status.unwrap().success());
}

#[test]
fn a_damaged_frame_costs_its_row_and_is_named() {
    let (dir, run) = with_frames();
    let path = dir.path().join("frames/0002.jpg");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let [told, named] = ends(0, dir.path(), ["predict", run, "frames", "--jsonl", "--overlays"]);
    contains_all(&told, &["of 4 frames; 1 frame is damaged", "predictions/frames/frames.csv"]);
    contains_all(&named, &["frame 2 is damaged", "frames/0002.jpg"]);
    let out = dir.path().join("predictions/frames");
    let csv = rows(&out.join("frames.csv"));
    assert_eq!((csv.len(), csv[3].as_str()), (5, "2,0,0,0,0.0000"));
    let json: serde_json::Value = serde_json::from_str(&rows(&out.join("frames.jsonl"))[2]).unwrap();
    assert!(json["error"].as_str().unwrap().contains("0002.jpg"), "{json}");
    assert!(out.join("overlays/0003.png").is_file() && !out.join("overlays/0002.png").exists());

    let [_, error] = ends(1, dir.path(), ["predict", run, "frames", "--strict"]);
    contains_all(&error, &["error: 1 of 4 frames could not be read"]);
    assert_eq!(rows(&out.join("frames.csv")), csv);
    let [_, error] = ends(1, dir.path(), ["predict", run, "frames/0002.jpg"]);
    contains_all(&error, &["error: 1 of 1 frames could not be read"]);
}

#[test]
fn a_tracked_ball_has_a_row_a_frame_that_says_where_it_comes_from() {
    let (dir, run) = with_frames();
    let flags = ["predict", run, "frames", "--track", "--threshold", "0.01", "--jsonl", "--overlays"];
    let [told, _] = ends(0, dir.path(), flags);
    contains_all(&told, &["ball found on", "of 4 frames"]);
    let out = dir.path().join("predictions/frames");
    let csv = rows(&out.join("frames.csv"));
    assert_eq!((csv.len(), csv[0].as_str()), (5, "Frame,Visibility,X,Y,Score,Source"));
    for (row, json) in csv[1..].iter().zip(rows(&out.join("frames.jsonl"))) {
        let fields: Vec<&str> = row.split(',').collect();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(fields.len(), 6, "{row}");
        let expected = if fields[1] == "1" { &["detected", "filled"][..] } else { &[""] };
        assert!(expected.contains(&fields[5]), "{row}");
        assert_eq!(json["source"].as_str().unwrap_or_default(), fields[5]);
    }
    assert!(csv.iter().any(|row| row.ends_with(",detected")), "{csv:?}");
    assert!(out.join("overlays/0003.png").is_file());
    // The rows of a tracked ball are those of an earlier prediction, too.
    let [_, noted] = ends(0, dir.path(), ["predict", run, "frames"]);
    contains_all(&noted, &["rows of an earlier prediction will be replaced"]);
    assert_eq!(rows(&out.join("frames.csv"))[0], "Frame,Visibility,X,Y,Score");

    let [_, error] = ends(2, dir.path(), ["predict", run, "frames", "--track-max-gap", "2"]);
    contains_all(&error, &["--track"]);
    let [_, error] = ends(2, dir.path(), ["predict", run, "frames", "--track", "--track-max-speed", "0"]);
    contains_all(&error, &["expected a number above 0"]);
}

#[test]
fn every_frame_has_a_score_and_a_picture_of_its_own() {
    let (dir, run) = with_frames();
    let picture = dir.path().join("frames/0001.png");
    fs::copy(dir.path().join("frames/0001.jpg"), &picture).unwrap();
    ends(0, dir.path(), ["predict", run, "frames", "--overlays", "--heatmaps", "--output", "found"]);
    for kind in ["overlays", "heatmaps"] {
        let mut names: Vec<_> =
            fs::read_dir(dir.path().join("found").join(kind)).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["0000.jpg.png", "0001.jpg.png", "0001.png.png", "0002.jpg.png", "0003.jpg.png"]);
    }
    for row in &rows(&dir.path().join("found/frames.csv"))[1..] {
        assert!(row.rsplit_once(',').unwrap().1.parse::<f32>().unwrap() > 0.0, "{row}");
    }
}

#[test]
fn no_input_is_written_over_by_whatever_name() {
    if skipped() {
        return;
    }
    let (dir, run) = with_frames();
    encode(dir.path(), "rally.mp4");
    let source = fs::read(dir.path().join("rally.mp4")).unwrap();
    fs::create_dir(dir.path().join("hard")).unwrap();
    fs::hard_link(dir.path().join("rally.mp4"), dir.path().join("hard/rally.mp4")).unwrap();
    let mut outputs = vec![".", "./frames/..", "hard"];
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(".", dir.path().join("here")).unwrap();
        outputs.push("here");
    }
    for output in outputs {
        for more in [&[][..], &["--overwrite"]] {
            let args = [&["predict", run, "rally.mp4", "--video", "--output", output][..], more].concat();
            let [_, error] = ends(1, dir.path(), args);
            contains_all(&error, &["is the input rally.mp4, which is never written over"]);
            assert_eq!(fs::read(dir.path().join("rally.mp4")).unwrap(), source);
        }
    }
    ends(0, dir.path(), ["predict", run, "rally.mp4", "--video"]);
    ends(0, dir.path(), ["predict", run, "rally.mp4", "--video"]);

    // Pictures of an earlier prediction as frames of the next.
    ends(0, dir.path(), ["predict", run, "frames", "--overlays", "--output", "found"]);
    let [_, error] =
        ends(1, dir.path(), ["predict", run, "found/overlays", "--overlays", "--output", "found", "--overwrite"]);
    contains_all(&error, &["overlays/000", "never written over"]);

    let config = Path::new(run).join("config.yaml").display().to_string();
    for report in [config, Path::new(run).join("checkpoints/best/state.json").display().to_string()] {
        let [_, error] = ends(1, dir.path(), ["eval", run, "--json", &report, "--overwrite"]);
        contains_all(&error, &["never written over"]);
    }
}

#[test]
fn what_this_program_did_not_write_is_replaced_only_when_asked() {
    let (dir, run) = with_frames();
    let at = |name: &str| dir.path().join("found").join(name);
    fs::create_dir_all(at("overlays")).unwrap();
    for (name, flag) in [("frames.csv", "--jsonl"), ("frames.jsonl", "--jsonl"), ("overlays/0001.png", "--overlays")] {
        fs::write(at(name), "mine\n").unwrap();
        let args = ["predict", run, "frames", flag, "--output", "found"];
        let [_, error] = ends(1, dir.path(), args);
        contains_all(&error, &[name, "tracknet did not write it", "--overwrite"]);
        assert_eq!(fs::read(at(name)).unwrap(), b"mine\n");
        // Pictures that no frame would be written to are nobody's business.
        fs::write(at("overlays/holiday.png"), "mine").unwrap();
        ends(0, dir.path(), [&args[..], &["--overwrite"]].concat());
        ends(0, dir.path(), args);
    }
    let data = run_data();
    for args in [["eval", run, "--json", "notes.json"], ["data", "preview", &data, "--output=notes.json"]] {
        fs::write(dir.path().join("notes.json"), "{}").unwrap();
        let root = format!("data.root={data}");
        let more: &[&str] = if args[0] == "eval" { &[&root] } else { &[] };
        let [_, error] = ends(1, dir.path(), [&args[..], more].concat());
        contains_all(&error, &["notes.json", "tracknet did not write it"]);
        ends(0, dir.path(), [&args[..], more, &["--overwrite"]].concat());
        ends(0, dir.path(), [&args[..], more].concat());
    }
}

/// The root of the games that the run was trained on.
fn run_data() -> String {
    let (_, clip) = run();
    clip.parent().and_then(Path::parent).unwrap().display().to_string()
}

#[test]
fn a_cut_video_keeps_its_rows_and_fails() {
    if skipped() {
        return;
    }
    let (dir, run) = with_frames();
    encode(dir.path(), "rally.mp4");
    let path = dir.path().join("rally.mp4");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() * 6 / 10]).unwrap();
    let [told, error] = ends(1, dir.path(), ["predict", run, "rally.mp4", "--video", "--output", "found"]);
    let csv = rows(&dir.path().join("found/rally.csv"));
    let read = csv.len() - 1;
    assert!((10..40).contains(&read), "{csv:?}");
    contains_all(&told, &[&format!("of {read} frames"), "rally.csv"]);
    contains_all(
        &error,
        &["rally.mp4 is cut off or damaged", &format!("{read} frames were read, about {} are missing", 40 - read)],
    );
    assert!(dir.path().join("found/rally.mp4").is_file());

    fs::write(&path, &whole[..40]).unwrap();
    let [_, error] = ends(1, dir.path(), ["predict", run, "rally.mp4", "--output", "none"]);
    contains_all(&error, &["rally.mp4: the file has no video stream"]);
    assert!(!dir.path().join("none").exists());
}

#[cfg(unix)]
#[test]
fn a_run_that_is_stopped_or_killed_leaves_every_row_until_then() {
    let (dir, run) = with_frames();
    for index in 4..20_000 {
        let frames = dir.path().join("frames");
        fs::hard_link(frames.join("0000.jpg"), frames.join(format!("{index:05}.jpg"))).unwrap();
    }
    for (signal, code) in [("-INT", Some(130)), ("-TERM", Some(143)), ("-HUP", Some(129)), ("-KILL", None)] {
        let folder = format!("out{signal}");
        let csv = dir.path().join(&folder).join("frames.csv");
        let child = program(dir.path())
            .args(["predict", run, "frames", "--output", &folder])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        while fs::read_to_string(&csv).map_or(0, |text| text.lines().count()) < 10 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), code, "{stderr}");
        let written = rows(&csv);
        assert!(written.len() >= 10 && written.len() < 20_000, "{signal} {}", written.len());
        for (index, row) in written[1..].iter().enumerate() {
            assert!(row.starts_with(&format!("{index},")) && row.split(',').count() == 5, "{row}");
        }
        if code.is_some() {
            contains_all(&stderr, &[&format!("interrupted after {} frames", written.len() - 1)]);
        }
    }
}

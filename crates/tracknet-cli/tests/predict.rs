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
    contains_all(&error, &["error: frame 2 cannot be read: ", "frames/0002.jpg"]);
    assert_eq!(rows(&out.join("frames.csv")), csv[..4], "it ends there");
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

/// The rows of the whole video, by frame.
fn all_rows(dir: &Path, run: &str, more: &[&str]) -> Vec<String> {
    ends(0, dir, [&["predict", run, "rally.mp4", "--output", "all"], more].concat());
    rows(&dir.join("all/rally.csv"))[1..].to_vec()
}

#[test]
fn a_part_of_a_video_has_the_rows_of_the_whole_and_its_numbers() {
    if skipped() {
        return;
    }
    let (dir, run) = with_frames();
    encode(dir.path(), "rally.mp4");
    let all = all_rows(dir.path(), run, &[]);
    assert_eq!(all.len(), 40);
    // 25 frames a second: 0.5 s is frame 13, and 1.2 s is frame 30.
    for (flags, frames) in [
        (&["--start", "17", "--end", "23"][..], (17..23).collect::<Vec<usize>>()),
        (&["--start", "0.5s", "--end", "0:01.2"], (13..30).collect()),
        (&["--start", "5", "--stride", "7"], vec![5, 12, 19, 26, 33]),
        (&["--end", "3", "--batch", "1"], vec![0, 1, 2]),
    ] {
        ends(0, dir.path(), [&["predict", run, "rally.mp4", "--output", "part"], flags].concat());
        let part = rows(&dir.path().join("part/rally.csv"));
        let expected: Vec<&String> = frames.iter().map(|frame| &all[*frame]).collect();
        assert_eq!(part[1..].iter().collect::<Vec<_>>(), expected, "{flags:?}");
    }
    for (flags, message) in [
        (&["--start", "40"][..], "no frame is selected"),
        (&["--start", "20", "--end", "20"], "no frame is selected: the first is 20, the end 20"),
    ] {
        let [_, error] = ends(1, dir.path(), [&["predict", run, "rally.mp4", "--output", "part"], flags].concat());
        contains_all(&error, &["rally.mp4", message]);
    }
    let [_, error] = ends(1, dir.path(), ["predict", run, "frames", "--start", "1s"]);
    contains_all(&error, &["expected the number of a frame"]);
    let [_, error] = ends(2, dir.path(), ["predict", run, "frames", "--start", "soon"]);
    contains_all(&error, &["expected a frame such as 1500, or a time"]);
}

#[test]
fn a_killed_prediction_goes_on_to_the_rows_of_an_unbroken_one() {
    if skipped() {
        return;
    }
    let (dir, run) = with_frames();
    encode(dir.path(), "rally.mp4");
    for more in [&["--jsonl"][..], &["--jsonl", "--track", "--threshold", "0.01"]] {
        let all = all_rows(dir.path(), run, more);
        let lines = rows(&dir.path().join("all/rally.jsonl"));
        let resume = [&["predict", run, "rally.mp4", "--output", "all", "--resume"], more].concat();
        let [told, _] = ends(0, dir.path(), resume.clone());
        contains_all(&told, &["complete already: all/rally.csv"]);
        // As a kill leaves it: one file a row ahead, half a row at the end.
        let recipe = dir.path().join("all/rally.prediction.json");
        let text = fs::read_to_string(&recipe).unwrap();
        fs::write(&recipe, text.replace("\"complete\": true", "\"complete\": false")).unwrap();
        let header = fs::read_to_string(dir.path().join("all/rally.csv")).unwrap().lines().next().unwrap().to_owned();
        fs::write(dir.path().join("all/rally.csv"), format!("{header}\n{}\n17,1,1", all[..17].join("\n"))).unwrap();
        fs::write(dir.path().join("all/rally.jsonl"), lines[..18].join("\n") + "\n").unwrap();
        let [told, _] = ends(0, dir.path(), resume.clone());
        contains_all(&told, &["of 23 frames"]);
        assert_eq!(rows(&dir.path().join("all/rally.csv"))[1..], all);
        assert_eq!(rows(&dir.path().join("all/rally.jsonl")), lines);

        let other = [&resume[..], &["--stride", "2"]].concat();
        let [_, error] = ends(1, dir.path(), other);
        contains_all(
            &error,
            &["all/rally.csv: the rows there were made with stride = 1, and now it is 2", "leave out --resume"],
        );
    }
}

#[test]
fn several_sources_get_a_folder_each_and_one_that_fails_does_not_end_the_others() {
    if skipped() {
        return;
    }
    let (dir, run) = with_frames();
    encode(dir.path(), "rally.mp4");
    fs::create_dir(dir.path().join("games")).unwrap();
    fs::copy(dir.path().join("rally.mp4"), dir.path().join("games/rally.mp4")).unwrap();
    fs::write(dir.path().join("games/broken.mp4"), b"no video").unwrap();
    let args = ["predict", run, "rally.mp4", "games/*.mp4", "frames", "--end", "4", "--output", "found"];
    let [told, error] = ends(1, dir.path(), args);
    contains_all(&error, &["games/broken.mp4: not a video", "error: 1 of 4 sources failed"]);
    contains_all(&told, &["found/rally/rally.csv", "found/rally-2/rally-2.csv", "found/frames/frames.csv"]);
    let of = |name: &str| rows(&dir.path().join(format!("found/{name}/{name}.csv")));
    assert_eq!((of("rally").len(), of("rally"), of("frames").len()), (5, of("rally-2"), 5));
    let [_, error] = ends(1, dir.path(), ["predict", run, "games/*.mkv"]);
    contains_all(&error, &["games/*.mkv: no picture, video or folder has a name of this pattern"]);
}

#[test]
fn standard_input_and_a_stream_have_the_rows_of_the_file() {
    if skipped() {
        return;
    }
    let (dir, run) = with_frames();
    encode(dir.path(), "rally.mp4");
    let all = all_rows(dir.path(), run, &[]);
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i", "rally.mp4", "-c", "copy", "rally.ts"])
        .current_dir(dir.path())
        .status();
    assert!(status.unwrap().success());
    let stream = fs::read(dir.path().join("rally.ts")).unwrap();
    let output = program(dir.path())
        .args(["predict", run, "-", "--output", "piped"])
        .stdin(fs::File::open(dir.path().join("rally.ts")).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(rows(&dir.path().join("piped/stdin.csv"))[1..], all);

    // A server of one connection, which says nothing of itself.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp://user:secret@{}", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut connection, &stream).unwrap();
    });
    let plain = address.replace("user:secret@", "");
    let [told, _] = ends(0, dir.path(), ["predict", run, &plain, "--no-live", "--output", "streamed"]);
    server.join().unwrap();
    contains_all(&told, &["of 40 frames"]);
    let csv = fs::read_dir(dir.path().join("streamed")).unwrap().map(|e| e.unwrap().path());
    let csv = csv.into_iter().find(|path| path.extension().is_some_and(|e| e == "csv")).unwrap();
    assert_eq!(rows(&csv)[1..], all);

    let [_, error] = ends(1, dir.path(), ["predict", run, "tcp://127.0.0.1:1", "--output", "none"]);
    contains_all(&error, &["tcp://127.0.0.1:1", "not a video that ffmpeg can read"]);
    assert!(!dir.path().join("none").exists());
    for trick in ["concat:rally.mp4|rally.mp4", "file:rally.mp4", "subfile,,start,0,end,99,,:rally.mp4"] {
        let [_, error] = ends(1, dir.path(), ["predict", run, trick]);
        contains_all(&error, &["no such file or directory"]);
    }
    let [_, error] = ends(1, dir.path(), ["predict", run, "gopher://host/a"]);
    contains_all(&error, &["expected the path of a file, or an address with one of rtsp://"]);
}

#[test]
fn a_live_stream_leaves_out_what_comes_too_fast_and_says_so() {
    if skipped() {
        return;
    }
    let (dir, run) = with_frames();
    encode(dir.path(), "rally.mp4");
    let [told, _] = ends(0, dir.path(), ["predict", run, "rally.mp4", "--live", "--output", "live"]);
    let written = rows(&dir.path().join("live/rally.csv"));
    let numbers: Vec<usize> = written[1..].iter().map(|row| row.split(',').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted() && numbers.first() < Some(&40) && *numbers.last().unwrap() == 39, "{numbers:?}");
    let between = 40 - numbers[0] - numbers.len();
    match between {
        0 => {}
        1 => contains_all(&told, &["1 frame came too fast"]),
        n => contains_all(&told, &[&format!("{n} frames came too fast and were not looked at")]),
    }
}

#[test]
fn the_video_is_as_long_as_its_source_and_sounds_like_it() {
    if skipped() {
        return;
    }
    let (dir, run) = with_frames();
    encode(dir.path(), "silent.mp4");
    // The second half plays at half the rate, with a tone below it.
    let status = Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-i", "silent.mp4", "-f", "lavfi", "-i", "sine=frequency=440:duration=2.4"])
        .args(["-vf", "setpts='if(lt(N,20),N,20+2*(N-20))/25/TB'", "-fps_mode", "vfr", "-c:a", "aac", "rally.mp4"])
        .current_dir(dir.path())
        .status();
    assert!(status.unwrap().success());
    ends(0, dir.path(), ["predict", run, "rally.mp4", "--video", "--zoom", "--output", "found"]);
    let probe = |path: &str, entries: &str| {
        let args = ["-v", "error", "-show_entries", entries, "-of", "csv=p=0", path];
        let output = Command::new("ffprobe").args(args).current_dir(dir.path()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let streams = probe("found/rally.mp4", "stream=codec_type");
    assert!(streams.contains("video") && streams.contains("audio"), "{streams}");
    let seconds = |path: &str| probe(path, "format=duration").trim().parse::<f64>().unwrap();
    assert!((seconds("found/rally.mp4") - seconds("rally.mp4")).abs() < 0.15);
    let [_, error] = ends(2, dir.path(), ["predict", run, "rally.mp4", "--zoom"]);
    contains_all(&error, &["--video"]);
}

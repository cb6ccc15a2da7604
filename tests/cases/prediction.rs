//! Prediction on folders with damage and on broken videos, with the detector that ships.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Place, input};

/// A run of the shipped detector, trained for one step that changes nothing.
fn run_of_the_shipped_detector(place: &Place) -> String {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../assets/vit-tiny-tennis");
    let model = fs::canonicalize(model).unwrap().display().to_string();
    let flags = ["--games", "2", "--clips", "1", "--frames", "2", "--seed", "3"];
    place.run(["data", "generate", "rallies"].iter().chain(&flags)).is(0, &[]);
    let words = [
        "train",
        "--data",
        "quickstart",
        "--model",
        "finetune",
        "--training",
        "quickstart",
        "--output-dir",
        "runs",
        "data.root=rallies",
        "data.split.train_games=[game1]",
        "data.split.val_games=[game2]",
        "data.split.test_games=[]",
        "training.epochs=1",
        "training.batch_size=2",
        "training.optimizer.lr=1e-12",
    ];
    let pretrained = [format!("model.pretrained_model_name={model}"), format!("model.decoder.pretrained={model}")];
    let answer = place.run(words.iter().map(|word| (*word).to_owned()).chain(pretrained));
    let run = answer.is(0, &[]).text.lines().find_map(|line| line.strip_prefix("run: ").map(str::to_owned));
    run.unwrap()
}

/// The rows of a prediction, without the header.
fn rows(place: &Place, csv: &str) -> Vec<Vec<f32>> {
    let text = fs::read_to_string(place.path(csv)).unwrap();
    text.lines().skip(1).map(|line| line.split(',').map(|cell| cell.parse().unwrap()).collect()).collect()
}

fn is_near(row: &[f32], [x, y]: [f32; 2]) -> bool {
    row[1] == 1.0 && (row[2] - x).abs() < 6.0 && (row[3] - y).abs() < 6.0
}

#[test]
fn damage_costs_one_row_and_is_said() {
    let place = Place::new();
    let run = run_of_the_shipped_detector(&place);
    let predict = |source: &str, flags: &[&str]| {
        place.run(["predict", run.as_str(), source].iter().chain(flags).map(|word| (*word).to_owned()))
    };

    // What an operating system adds is no frame.
    place.copy("frames", "frames");
    place.write("frames/._0004.jpg", b"\x00\x05\x16\x07");
    place.write("frames/.DS_Store", b"Bud1");
    predict("frames", &[]).is(0, &["of 3 frames"]);
    let found = rows(&place, "predictions/frames/frames.csv");
    assert!(is_near(&found[0], [682.0, 438.0]), "{found:?}");

    // Turned pictures are read as people see them.
    place.copy("frames/turned", "turned");
    predict("turned", &[]).is(0, &["of 2 frames"]);
    let found = rows(&place, "predictions/turned/turned.csv");
    assert!(is_near(&found[0], [682.0, 438.0]) && is_near(&found[1], [697.0, 374.0]), "{found:?}");

    // A cut frame among whole ones.
    place.copy("frames", "folder");
    let whole = fs::read(input("frames/0005.jpg")).unwrap();
    place.write("folder/0007.jpg", &whole[..whole.len() / 3]);
    place.write("folder/0008.jpg", &whole);
    let answer = predict("folder", &["--overlays"]);
    answer.is(answer.code.unwrap(), &["0007.jpg"]);
    let found = rows(&place, "predictions/folder/folder.csv");
    assert_eq!(found.len(), 5);
    assert_eq!(found[3][..4], [3.0, 0.0, 0.0, 0.0]);
    // The same picture among other neighbours.
    assert!(is_near(&found[4], [found[1][2], found[1][3]]), "{found:?}");

    // Videos: whole, cut at the end, without its index, and under the name of the result.
    let frames = place.path("frames/%04d.jpg").display().to_string();
    let ffmpeg = |arguments: &[&str]| {
        let status = Command::new("ffmpeg").args(["-v", "error"]).args(arguments).current_dir(place.path("")).status();
        assert!(status.unwrap().success(), "this test needs the ffmpeg program");
    };
    let input = ["-start_number", "4", "-stream_loop", "3", "-i", &frames, "-pix_fmt", "yuv420p", "-g", "1"];
    ffmpeg(&[&input[..], &["-movflags", "+faststart", "front.mp4"]].concat());
    ffmpeg(&[&input[..], &["rally.mp4"]].concat());
    predict("rally.mp4", &[]).is(0, &["of 12 frames"]);
    assert!(rows(&place, "predictions/rally/rally.csv").iter().step_by(3).all(|row| is_near(row, [682.0, 438.0])));
    let video = fs::read(place.path("front.mp4")).unwrap();
    place.write("tail_cut.mp4", &video[..video.len() * 3 / 4]);
    predict("tail_cut.mp4", &[]).is(1, &["tail_cut.mp4", "8 frames were read", "4 are missing"]);
    let found = rows(&place, "predictions/tail_cut/tail_cut.csv");
    assert!(found.len() == 8 && is_near(&found[0], [682.0, 438.0]), "{found:?}");
    let video = fs::read(place.path("rally.mp4")).unwrap();
    place.write("no_moov.mp4", &video[..video.len() / 2]);
    predict("no_moov.mp4", &[]).is(1, &["moov atom not found"]);
    predict("rally.mp4", &["--video", "--output", "."]).is(1, &["rally.mp4", "input"]);
    assert_eq!(fs::read(place.path("rally.mp4")).unwrap(), video);
}

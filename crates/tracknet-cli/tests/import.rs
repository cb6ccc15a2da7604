//! Data sets of other programs, from the export to a trained step.
#![allow(clippy::unwrap_used)] // Helpers beside the tests: a failure there is a failed test.

mod common;

use std::fs;
use std::path::Path;

use common::{TINY, contains_all, ends, failure, ok, render_rallies};
use tracknet::inference::{VideoTools, VideoWriter};

/// [`TINY`] without a root and a split.
fn tiny() -> impl Iterator<Item = &'static str> {
    TINY.into_iter().filter(|text| !text.starts_with("data.root") && !text.starts_with("data.split"))
}

/// Rallies as an export of boxes: game1 trains, game2 validates.
fn export(dir: &Path) {
    render_rallies(dir, 3);
    for (game, split) in [("game1", "train"), ("game2", "valid")] {
        let [images, labels] = ["images", "labels"].map(|name| dir.join("export").join(split).join(name));
        [&images, &labels].into_iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        let clip = dir.join("rallies").join(game).join("Clip1");
        for row in fs::read_to_string(clip.join("Label.csv")).unwrap().lines().skip(1) {
            let fields: Vec<&str> = row.split(',').collect();
            let name = format!("{game}-{}_jpg.rf.0a1b2c", &fields[0][..4]);
            fs::copy(clip.join(fields[0]), images.join(format!("{name}.jpg"))).unwrap();
            let boxed = |x: f64, y: f64| format!("0 {} {} 0.05 0.08\n", (x + 0.5) / 96.0, (y + 0.5) / 64.0);
            let text = if fields[1] == "0" {
                String::new()
            } else {
                boxed(fields[2].parse().unwrap(), fields[3].parse().unwrap())
            };
            fs::write(labels.join(format!("{name}.txt")), text).unwrap();
        }
    }
    fs::write(
        dir.join("export/data.yaml"),
        "train: ../train/images\nval: ../valid/images\nnc: 1\nnames: ['tennis ball']\n",
    )
    .unwrap();
}

#[test]
fn an_export_of_boxes_is_imported_checked_and_trained_on() {
    let dir = tempfile::tempdir().unwrap();
    export(dir.path());
    let printed = ok(dir.path(), ["data", "import", "export", "mine"]);
    contains_all(&printed, &["layout: yolo", "the ball is class 0 (tennis ball)", "wrote 6 frames to mine"]);
    contains_all(&printed, &["data.split.train_games=[train] data.split.val_games=[val]"]);
    let checked = ok(dir.path(), ["data", "check", "mine", "--strict"]);
    contains_all(&checked, &["train", "val", "6 of 96×64", "no problems"]);
    let [old, new] = ["rallies/game1/Clip1/Label.csv", "mine/train/Clip1/Label.csv"].map(|path| {
        let text = fs::read_to_string(dir.path().join(path)).unwrap();
        let fields =
            text.lines().skip(1).flat_map(|row| row.split(',').skip(2).take(2).map(str::to_owned).collect::<Vec<_>>());
        fields.filter_map(|field| field.parse::<f64>().ok()).collect::<Vec<f64>>()
    });
    assert!(old.len() == new.len() && old.iter().zip(&new).all(|(a, b)| (a - b).abs() < 0.02), "{old:?} {new:?}");
    let train =
        ["train", "--model", "vit_heatmap", "--output-dir", "runs", "training.limit_train_batches=1", "data.root=mine"];
    let split = ["data.split.train_games=[train]", "data.split.val_games=[val]"];
    ends(0, dir.path(), train.into_iter().chain(split).chain(tiny()));
    let again = failure(dir.path(), ["data", "import", "export", "mine"]);
    contains_all(&again, &["mine", "exists"]);
}

#[test]
fn an_export_of_boxes_is_trained_on_where_it_lies_by_its_own_split() {
    let dir = tempfile::tempdir().unwrap();
    export(dir.path());
    let train = [
        "train",
        "--model",
        "vit_heatmap",
        "--output-dir",
        "runs",
        "training.limit_train_batches=1",
        "data.root=export",
    ];
    let [printed, said] = ends(0, dir.path(), train.into_iter().chain(tiny()));
    contains_all(&format!("{printed}{said}"), &["training: ", "train ", "validation: ", "val ", "layout: yolo"]);
}

#[test]
fn a_rally_in_a_video_is_imported_and_a_marked_one_refused() {
    if std::env::var_os("TRACKNET_SKIP_FFMPEG").is_some_and(|value| value == "1") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rally = dir.path().join("shuttle/match1");
    fs::create_dir_all(rally.join("csv")).unwrap();
    fs::create_dir_all(rally.join("video")).unwrap();
    let marked = dir.path().join("marked.mp4");
    let mut writer = VideoWriter::create(&VideoTools::default(), &marked, [64, 48], 25.0).unwrap();
    for index in 0..4u8 {
        writer.write(&image::RgbImage::from_pixel(64, 48, image::Rgb([index * 50, 80, 90]))).unwrap();
    }
    writer.finish().unwrap();
    fs::write(rally.join("csv/1_01_ball.csv"), "Frame,Visibility,X,Y\n0,1,10,20\n1,1,20,24\n2,0,0,0\n3,1,40,32\n")
        .unwrap();
    fs::copy(&marked, rally.join("video/1_01.mp4")).unwrap();
    let message = failure(dir.path(), ["data", "import", "shuttle", "mine"]);
    contains_all(&message, &["1_01.mp4", "`tracknet predict --video` wrote it"]);
    assert!(!dir.path().join("mine").exists());

    let plain =
        ["-nostdin", "-v", "error", "-y", "-i", "marked.mp4", "-map_metadata", "-1", "shuttle/match1/video/1_01.mp4"];
    assert!(std::process::Command::new("ffmpeg").args(plain).current_dir(dir.path()).status().unwrap().success());
    let message = failure(dir.path(), ["data", "check", "shuttle"]);
    contains_all(&message, &["1_01 is the video 1_01.mp4", "tracknet data import shuttle DST"]);
    let printed = ok(dir.path(), ["data", "import", "shuttle", "mine"]);
    contains_all(&printed, &["layout: badminton", "match1", "wrote 4 frames to mine", "4 out of videos"]);
    contains_all(&ok(dir.path(), ["data", "check", "mine", "--strict"]), &["4 of 64×48", "no problems"]);
}

/// Moves the labels of a clip along the motion by a share of the way from frame to frame.
fn shift_labels(clip: &Path, share: f64) {
    let path = clip.join("Label.csv");
    let text = fs::read_to_string(&path).unwrap();
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|row| row.split(',').collect()).collect();
    let at = |i: usize| -> Option<[f64; 2]> { Some([rows.get(i)?[2].parse().ok()?, rows[i][3].parse().ok()?]) };
    let mut moved = text.lines().next().unwrap().to_owned() + "\n";
    for (i, row) in rows.iter().enumerate() {
        let way =
            at(i).zip(i.checked_sub(1).and_then(at)).map(|(here, before)| [here[0] - before[0], here[1] - before[1]]);
        let xy = at(i).zip(way).map(|(xy, way)| [xy[0] + share * way[0], xy[1] + share * way[1]]).or(at(i));
        let xy = xy.map_or([String::new(), String::new()], |xy| xy.map(|v| format!("{v:.2}")));
        moved += &format!("{},{},{},{},0\n", row[0], row[1], xy[0], xy[1]);
    }
    fs::write(path, moved).unwrap();
}

#[test]
fn labels_of_the_leading_end_are_told_from_centres_by_the_streaks_of_rendered_rallies() {
    let dir = tempfile::tempdir().unwrap();
    let generate = ["data", "generate", "rallies", "--games", "1", "--clips", "6", "--frames", "12", "--seed", "5"];
    ok(dir.path(), generate);
    let centres = ok(dir.path(), ["data", "check", "rallies"]);
    contains_all(&centres, &["game1: ", " streaks measured", "no problems"]);
    for clip in 1..=6 {
        shift_labels(&dir.path().join(format!("rallies/game1/Clip{clip}")), 0.3);
    }
    let leading = ok(dir.path(), ["data", "check", "rallies"]);
    contains_all(&leading, &["lie ahead of the middle of the ball's streak", "data.label_point=leading"]);
    ends(1, dir.path(), ["data", "check", "rallies", "--strict"]);
}

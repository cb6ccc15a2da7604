//! Label files as other tools write them, labels that cannot be true, and data sets of other shapes.

use crate::support::{Answer, Place};

fn numbered(extension: &str) -> impl Iterator<Item = String> {
    (0..6).map(move |n| if extension == "png" { format!("{n}.png") } else { format!("{n:04}.jpg") })
}

/// `data check` of one clip with this label file.
fn check(labels: &str, flags: &[&str]) -> Answer {
    let place = Place::new();
    let numbers_only = ["file_numbers", "renamed"].contains(&labels);
    place.frames("data/game1/Clip1", numbered(if numbers_only { "png" } else { "jpg" }));
    place.copy(&format!("labels/{labels}.csv"), "data/game1/Clip1/Label.csv");
    place.run(["data", "check", "data"].iter().chain(flags))
}

#[test]
fn label_files_that_say_one_clear_thing_are_read() {
    for labels in ["pandas_index", "pandas_nan", "short_rows", "short_rows2", "vis_zero_coords"] {
        let answer = check(labels, &[]);
        answer.is(0, &["game1"]).lacks("no usable frame");
    }
    for labels in ["pandas_index", "pandas_nan", "short_rows", "short_rows2"] {
        check(labels, &["--strict"]).is(0, &["no problems"]);
    }
}

#[test]
fn label_files_in_another_form_are_refused_with_the_reason() {
    for (labels, reason) in [
        ("semicolon", ";"),
        ("semicolon_decimalcomma", ";"),
        ("tab", "tab"),
        ("utf16", "UTF-16"),
        ("mac_cr", "CR"),
        ("relative_path", "is not the name of a file in this clip"),
        ("windows_path", "is not the name of a file in this clip"),
        ("stripped_zeros", "0.jpg"),
        ("visible_minus", "(-1, -1)"),
        ("absent_minus", "-1"),
    ] {
        let answer = check(labels, &["--strict"]);
        answer.is(1, &[reason]).lacks("no problems");
    }
}

#[test]
fn fractions_of_the_frame_are_no_pixels() {
    check("fractions", &[]).is(0, &["Clip1", "fraction"]).lacks("no problems");
    check("fractions", &["--strict"]).is(1, &["fraction"]);
}

#[test]
fn frame_numbers_in_place_of_names_are_read_or_named() {
    for (labels, column) in [("renamed", "Frame"), ("file_numbers", "file")] {
        let answer = check(labels, &["--strict"]);
        match answer.code {
            Some(0) => answer.is(0, &["no problems", "6"]),
            _ => answer.is(1, &[column]),
        };
    }
}

#[test]
fn other_layouts_are_read_and_frames_without_a_row_named() {
    let csv = "Frame,Visibility,X,Y\n0,1,40,60\n";
    let grid = Place::new();
    grid.frames("grid/match1/frames", numbered("png"));
    grid.write("grid/match1/Labels.csv", csv);
    grid.run(["data", "check", "grid"]).is(0, &["layout: gridtracknet", "match1", "no row in Labels.csv"]);
    let v3 = Place::new();
    v3.frames("v3/match1/frame/1_05_02", numbered("png"));
    v3.write("v3/match1/csv/1_05_02_ball.csv", csv);
    v3.run(["data", "check", "v3"]).is(0, &["layout: badminton", "match1", "no row in 1_05_02_ball.csv"]);
}

#[test]
fn a_game_or_a_clip_given_as_root_and_a_root_one_level_too_high_are_named_as_such() {
    let place = Place::new();
    place.frames("top/data/game1/Clip1", numbered("jpg"));
    place.copy("labels/pandas_nan.csv", "top/data/game1/Clip1/Label.csv");
    place.run(["data", "check", "top/data/game1"]).is(1, &["game", "top/data"]);
    place.run(["data", "check", "top/data/game1/Clip1"]).is(1, &["clip", "top/data"]);
    place.run(["data", "check", "top"]).is(1, &["top/data"]);
}

#[test]
fn what_operating_systems_add_is_no_frame_and_no_game() {
    let place = Place::new();
    place.frames("data/game1/Clip1", numbered("jpg"));
    place.copy("labels/pandas_nan.csv", "data/game1/Clip1/Label.csv");
    let double = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ";
    for name in [
        "data/game1/Clip1/._0004.jpg",
        "data/game1/Clip1/._Label.csv",
        "data/game1/Clip1/.DS_Store",
        "data/game1/Clip1/Thumbs.db",
        "data/game1/Clip1/desktop.ini",
        "data/__MACOSX/game1/Clip1/._0004.jpg",
        "data/__MACOSX/game1/Clip1/._Label.csv",
        "data/.DS_Store",
    ] {
        place.write(name, double);
    }
    place.run(["data", "check", "data", "--strict"]).is(0, &["no problems", "6"]).lacks("MACOSX");
}

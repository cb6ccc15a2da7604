//! A small data set in each layout, as its program writes it, and what goes wrong with such files.

use std::fs;
use std::path::PathBuf;

use super::super::{Dataset, Reading, Visibility, split_of};
use super::*;
use crate::config::{DataConfig, ExifOrientation};

/// A directory to build a layout in.
struct Tree(tempfile::TempDir);

impl Tree {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, with the directories above it.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a picture of 200×100 whose colour is its number.
    fn picture(&self, name: &str, number: u8) {
        let path = self.write(name, "");
        image::RgbImage::from_pixel(200, 100, image::Rgb([number * 20, 90, 60])).save(path).unwrap();
    }

    fn open(&self, format: DataFormat) -> Result<Dataset> {
        Dataset::open_all(self.root(), format)
    }

    /// The frames with their labels, `game/clip/file: x, y` in tenths or `absent`.
    fn labels(&self, format: DataFormat) -> Vec<String> {
        let data = self.open(format).unwrap();
        assert!(data.report.problems.is_empty(), "{}", data.report);
        let frames = data.frames();
        frames.iter().map(|frame| format!("{frame}: {}", shown(frame.frame.label))).collect()
    }

    fn refusal(&self, format: DataFormat) -> String {
        self.open(format).unwrap_err().to_string()
    }
}

fn shown(label: Label) -> String {
    match (label.visibility, label.xy) {
        (Visibility::Absent, _) => "absent".to_owned(),
        (_, Some([x, y])) => format!("{x:.1}, {y:.1}"),
        (_, None) => "nowhere".to_owned(),
    }
}

/// A Roboflow export: paths that lead above it, names with hashes, two classes.
fn roboflow() -> Tree {
    let tree = Tree::new();
    let yaml = "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['player', 'tennis-ball']\n\
                roboflow:\n  version: 6\n";
    tree.write("data.yaml", yaml);
    let picture = |split: &str, number: u8, labels: Option<&str>| {
        let name = format!("rally_mp4-{number}_jpg.rf.{:032x}", u64::from(number) * 7919);
        tree.picture(&format!("{split}/images/{name}.jpg"), number);
        labels.map(|labels| tree.write(&format!("{split}/labels/{name}.txt"), labels));
    };
    picture("train", 9, Some("1 0.5 0.5 0.05 0.1\n0 0.2 0.5 0.1 0.4\n"));
    picture("train", 10, Some("1 0.55 0.48 0.05 0.1"));
    picture("train", 12, Some(""));
    picture("valid", 11, Some("1 0.6 0.46 0.05 0.1 \r\n"));
    picture("test", 3, Some("0 0.2 0.5 0.1 0.4\n"));
    picture("test", 4, None);
    tree
}

#[test]
fn a_roboflow_export_is_read_with_its_splits_runs_of_frames_and_the_ball_among_its_classes() {
    let tree = roboflow();
    let hash = |number: u64| format!("rally_mp4-{number}_jpg.rf.{:032x}.jpg", number * 7919);
    for format in [DataFormat::Yolo, DataFormat::Auto] {
        let expected = [
            format!("train/Clip1/{}: 99.5, 49.5", hash(9)),
            format!("train/Clip1/{}: 109.5, 47.5", hash(10)),
            format!("train/Clip2/{}: absent", hash(12)),
            format!("val/Clip1/{}: 119.5, 45.5", hash(11)),
            format!("test/Clip1/{}: absent", hash(3)),
            format!("test/Clip1/{}: absent", hash(4)),
        ];
        assert_eq!(tree.labels(format), expected);
    }
    let report = tree.open(DataFormat::Auto).unwrap().report.to_string();
    for part in
        ["layout: yolo", "the ball is class 1 (tennis-ball) of 2", "test: 1 picture without a label file counts as"]
    {
        assert!(report.contains(part), "{report}");
    }
}

#[test]
fn the_split_of_an_export_is_that_of_the_configuration_unless_it_has_its_own() {
    let tree = roboflow();
    let data = DataConfig { root: tree.root().to_path_buf(), ..DataConfig::default() };
    let split = split_of(&data).unwrap();
    assert_eq!([split.train_games, split.val_games, split.test_games], [["train"], ["val"], ["test"]]);
    let mut own = data.clone();
    own.split.train_games = vec!["valid".to_owned()];
    assert_eq!(split_of(&own).unwrap(), own.split);
    let valid = Dataset::open(tree.root(), &own, &own.split.train_games, true).unwrap();
    assert_eq!(valid.games[0].name, "val");
    let error = Dataset::open(tree.root(), &data, &["trian".to_owned()], false).unwrap_err().to_string();
    assert!(error.contains("did you mean train?") && error.contains("it has: train, val, test"), "{error}");
    let mut asked = Reading::from(&data);
    asked.ball_class = Some("player".to_owned());
    assert_eq!(Dataset::open_all(tree.root(), asked).unwrap().frames()[0].frame.label.xy, Some([39.5, 49.5]));
}

#[test]
fn boxes_of_yolo_that_say_no_clear_thing_are_named_with_file_and_line_and_left_out() {
    let tree = Tree::new();
    tree.write("data.yaml", "path: /content/set\ntrain: images/train\nval: images/nowhere\nnames: {0: ball}\n");
    let lines = [
        ("1", "0 0.5 0.5 0.1 0.1"),
        ("2", "3 0.5 0.5 0.1 0.1"),
        ("3", "0 NaN 0.5 0.1 0.1"),
        ("4", "0 0.1 0.5 0.02 0.02\n0 0.9 0.5 0.02 0.02"),
        ("5", "0 120 50 8 8"),
        ("6", "0 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6"),
        ("7", "\u{feff}0 0,5 0,5 0,1 0,1"),
    ];
    for (name, text) in lines {
        tree.picture(&format!("images/train/{name}.png"), 1);
        tree.write(&format!("labels/train/{name}.txt"), text);
    }
    let data = tree.open(DataFormat::Auto).unwrap();
    let kept: Vec<String> = data.frames().iter().map(|frame| frame.frame.file_name.clone()).collect();
    assert_eq!(kept, ["1.png", "6.png"]);
    assert_eq!(data.frames()[1].files.len(), 7, "pictures without a label are in the windows");
    let report = data.report.to_string();
    for part in [
        "labels/train/2.txt:1: class 3, but the classes are 0",
        "labels/train/3.txt:1: `0 NaN 0.5 0.1 0.1` has a field that is not a number",
        "labels/train/4.txt: 2 boxes of the ball in 2 places",
        "labels/train/5.txt:1: `0 120 50 8 8`: expected fractions",
        "labels/train/7.txt:1: ",
        "data.yaml: val: `images/nowhere` is not below ",
    ] {
        assert!(report.contains(part), "no `{part}` in\n{report}");
    }
}

#[test]
fn yolo_without_a_description_has_the_classes_of_classes_txt_or_one() {
    let tree = Tree::new();
    tree.picture("images/a1.png", 1);
    tree.write("labels/a1.txt", "0 0.5 0.5 0.1 0.1");
    assert_eq!(tree.labels(DataFormat::Auto), ["all/Clip1/a1.png: 99.5, 49.5"]);
    tree.write("labels/a1.txt", "0 0.5 0.5 0.1 0.1\n4 0.1 0.1 0.1 0.1");
    let text = tree.refusal(DataFormat::Auto);
    assert!(
        text.contains("boxes of 2 classes without names; name the one that is the ball by data.ball_class"),
        "{text}"
    );
    tree.write("classes.txt", "net\nracket\nball\nline\nshuttlecock\n");
    let text = tree.refusal(DataFormat::Auto);
    assert!(text.contains("classes.txt: several of its classes are called like a ball"), "{text}");
    let reading = Reading { ball_class: Some("4".to_owned()), ..DataFormat::Auto.into() };
    assert_eq!(Dataset::open_all(tree.root(), reading).unwrap().frames()[0].frame.label.xy, Some([19.5, 9.5]));
}

#[test]
fn fractions_are_those_of_the_picture_that_the_labels_refer_to() {
    let tree = Tree::new();
    let path = tree.write("images/a1.jpg", "");
    super::super::image::tests::write_turned(&path, 200, 100, 6);
    tree.write("labels/a1.txt", "0 0.5 0.5 0.1 0.1");
    assert_eq!(tree.labels(DataFormat::Yolo), ["all/Clip1/a1.jpg: 49.5, 99.5"]);
    let stored = Reading { exif_orientation: ExifOrientation::Ignore, ..DataFormat::Yolo.into() };
    assert_eq!(Dataset::open_all(tree.root(), stored).unwrap().frames()[0].frame.label.xy, Some([99.5, 49.5]));
}

fn coco(names: [&str; 3], boxes: &str) -> String {
    let [a, b, c] = names;
    format!(
        r#"{{"info": {{}}, "categories": [{{"id": 0, "name": "ball", "supercategory": "none"}},
        {{"id": 1, "name": "tennis ball", "supercategory": "ball"}}, {{"id": 2, "name": "person", "supercategory": "ball"}}],
        "images": [{{"id": 1, "file_name": "{a}", "width": 200, "height": 100}}, {{"id": 7, "file_name": "{b}"}},
        {{"id": 8, "file_name": "{c}"}}], "annotations": [{boxes}]}}"#
    )
}

#[test]
fn coco_is_read_beside_its_pictures_and_in_a_folder_of_annotations() {
    let boxes = r#"{"id": 1, "image_id": 1, "category_id": 1, "bbox": [90, 40, 20, 10], "segmentation": [[1, 2]]},
                   {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 50, 90]}"#;
    let json = coco(["a_1.jpg", "a_2.jpg", "b_9.jpg"], boxes);
    let roboflow = Tree::new();
    let folder = Tree::new();
    for (number, name) in [(1, "a_1.jpg"), (2, "a_2.jpg"), (3, "b_9.jpg")] {
        roboflow.picture(&format!("valid/{name}"), number);
        folder.picture(&format!("images/train2017/{name}"), number);
    }
    roboflow.write("valid/_annotations.coco.json", &json);
    folder.write("annotations/instances_train2017.json", format!("\u{feff}{json}"));
    folder.write("annotations/captions_train2017.json", "{}");
    for (tree, split) in [(roboflow, "val"), (folder, "train")] {
        let expected = ["Clip1/a_1.jpg: 99.5, 44.5", "Clip1/a_2.jpg: absent", "Clip2/b_9.jpg: absent"];
        assert_eq!(tree.labels(DataFormat::Auto), expected.map(|end| format!("{split}/{end}")));
    }
}

#[test]
fn annotations_that_lead_out_of_the_data_set_or_make_no_sense_are_named_and_left_out() {
    let tree = Tree::new();
    let boxes = r#"{"image_id": 8, "category_id": 1, "bbox": [10, 10, -4, 4]}, {"image_id": 99, "category_id": 1, "bbox": []},
                   {"image_id": 8, "category_id": 5, "bbox": [1, 1, 4, 4]}, {"image_id": 1, "category_id": 1, "bbox": [1]}"#;
    tree.picture("set/a.jpg", 1);
    tree.picture("secret.jpg", 1);
    tree.picture("set/c.jpg", 1);
    let root = tree.root().join("set");
    for outside in ["../secret.jpg", "/etc/hostname.jpg", r"..\\..\\secret.jpg"] {
        tree.write("set/_annotations.coco.json", coco([outside, "gone.jpg", "c.jpg"], boxes));
        let text = Dataset::open_all(&root, DataFormat::Auto).unwrap_err().to_string();
        for part in [
            "the name leads out of the data set",
            "gone.jpg: no such image in any of ",
            "annotation 1: bbox [10.0, 10.0, -4.0, 4.0], expected [left, top, width, height]",
            "annotation 2: image_id 99 is none of the images",
            "annotation 3: category_id 5 is none of the categories",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
    }
    for (json, part) in
        [("{\"images\": [", "EOF while parsing"), ("[]", "expected"), ("{\"images\": []}", "missing field")]
    {
        tree.write("set/_annotations.coco.json", json);
        let text = Dataset::open_all(&root, DataFormat::Auto).unwrap_err().to_string();
        assert!(text.contains("not an annotations file of COCO") && text.contains(part), "{text}");
    }
    let file = fs::File::create(root.join("_annotations.coco.json")).unwrap();
    file.set_len(crate::files::read::ANNOTATIONS.bytes + 1).unwrap();
    let text = Dataset::open_all(&root, DataFormat::Auto).unwrap_err().to_string();
    assert!(text.contains("bytes are too many for an annotations file"), "{text}");
}

#[test]
fn track_net_v3_is_read_with_its_splits_and_a_video_is_answered_with_the_import() {
    let tree = Tree::new();
    for number in 0..3 {
        tree.picture(&format!("train/match1/frame/1_05_02/{number}.png"), number);
    }
    tree.write("train/match1/csv/1_05_02_ball.csv", "Frame,Visibility,X,Y\n0,1,40,60\n1,0,0,0\n2.0,1,52,66\n");
    tree.write("train/match1/median.npz", "");
    let expected = ["0.png: 40.0, 60.0", "1.png: absent", "2.png: 52.0, 66.0"];
    assert_eq!(tree.labels(DataFormat::Auto), expected.map(|end| format!("train/match1/1_05_02/{end}")));
    tree.write("test/match1/corrected_csv/1_07_03_ball.csv", "Frame,Visibility,X,Y\n0,1,40,60\n");
    tree.write("test/match1/csv/1_07_03_ball.csv", "Frame,Visibility,X,Y\n0,1,99,99\n");
    tree.write("test/match1/video/1_07_03.mp4", "");
    let data = tree.open(DataFormat::Badminton).unwrap();
    let report = data.report.to_string();
    let place = tree.root().join("test/match1/corrected_csv/1_07_03_ball.csv");
    let place = place.display();
    assert!(
        report.contains(&format!("{place}: 1_07_03 is the video 1_07_03.mp4, whose frames are not read")),
        "{report}"
    );
    assert!(report.contains("tracknet data import "), "{report}");
    let split = split_of(&DataConfig { root: tree.root().to_path_buf(), ..DataConfig::default() }).unwrap();
    assert_eq!([&split.train_games, &split.test_games], [&["train/match1"], &["test/match1"]]);
    let whole_split = Dataset::open(tree.root(), DataFormat::Auto, &["train".to_owned()], true).unwrap();
    assert_eq!(whole_split.games.len(), 1);
}

#[test]
fn grid_track_net_fractions_and_predictions_are_read() {
    let grid = Tree::new();
    let fractions = Tree::new();
    let predictions = Tree::new();
    for number in 0..2 {
        grid.picture(&format!("match1/frames/{number}.png"), number);
        fractions.picture(&format!("match1/images/1_10_12/{number}.jpg"), number);
        predictions.picture(&format!("rally/frame_{}.png", number + 7), number);
    }
    grid.write("match1/Labels.csv", "Frame,Visibility,X,Y\r\n0,1,40,60\r\n1,0,0,0\r\n");
    fractions.write("match1/labels/1_10_12.csv", "frame_num,visible,x,y\n0,1,0.25,0.5\n1,0,0,0\n");
    predictions.write("rally.csv", "Frame,Visibility,X,Y,Score\n0,1,40.25,60.50,0.9346\n1,0,0,0,0.2500\n");
    assert_eq!(grid.labels(DataFormat::Auto), ["match1/frames/0.png: 40.0, 60.0", "match1/frames/1.png: absent"]);
    let expected = ["match1/1_10_12/0.jpg: 50.0, 50.0", "match1/1_10_12/1.jpg: absent"];
    assert_eq!(fractions.labels(DataFormat::Auto), expected);
    let rows: Vec<String> = predictions.labels(DataFormat::Auto);
    assert!(
        rows[0].ends_with("/rally/frame_7.png: 40.2, 60.5") && rows[1].ends_with("frame_8.png: absent"),
        "{rows:?}"
    );
}

#[test]
fn rows_counted_from_one_are_told_where_nothing_else_fits_and_other_rows_without_a_frame_are_named() {
    let tree = Tree::new();
    for number in 0..3 {
        tree.picture(&format!("match1/frames/{number}.png"), number);
    }
    tree.write("match1/Labels.csv", "Frame,Visibility,X,Y\n1,1,10,10\n2,1,20,20\n3,1,30,30\n");
    let data = tree.open(DataFormat::Auto).unwrap();
    assert!(data.report.problems.is_empty(), "{}", data.report);
    assert_eq!(shown(data.frames()[0].frame.label), "10.0, 10.0");
    assert!(data.report.to_string().contains("rows are counted from 1 and frames from 0"), "{}", data.report);
    tree.write(
        "match1/Labels.csv",
        "Frame,Visibility,X,Y\n1,1,10,10\n2,1,20,20\n2,1,9,9\n7,0,0,0\n-1,0,0,0\nx,0,0,0\n",
    );
    let data = tree.open(DataFormat::Auto).unwrap();
    assert_eq!(shown(data.frames()[0].frame.label), "10.0, 10.0");
    assert_eq!(data.frames()[0].frame.file_name, "1.png");
    let report = data.report.to_string();
    for part in [
        "Labels.csv:4: 2: first labelled in line 3",
        "Labels.csv:5: frame 7: no such image among the 3 of frames",
        "Labels.csv:6: frame `-1` is not a whole number",
        "Labels.csv:7: frame `x` is not a whole number",
        "0.png: no row in Labels.csv",
    ] {
        assert!(report.contains(part), "no `{part}` in\n{report}");
    }
}

#[test]
fn another_layout_than_the_one_asked_for_says_what_is_there_and_what_belongs_there() {
    let tree = roboflow();
    let text = tree.refusal(DataFormat::Coco);
    assert!(text.contains("not in the layout `coco`: ") && text.contains("has the layout `yolo`"), "{text}");
    assert!(text.contains("expected <split>/_annotations.coco.json"), "{text}");
    let text = tree.refusal(DataFormat::Tracknet);
    assert!(text.contains("has the layout `yolo`") && text.contains("data.format (--format) yolo or auto"), "{text}");
    let above = Tree::new();
    above.write("one/two/note.txt", "");
    let text = above.refusal(DataFormat::Badminton);
    assert!(text.contains("not in the layout `badminton`: it holds the directories one"), "{text}");
    let nowhere = Dataset::open_all(&above.root().join("nowhere"), DataFormat::Yolo).unwrap_err().to_string();
    assert!(nowhere.contains("nowhere is not a directory"), "{nowhere}");
}

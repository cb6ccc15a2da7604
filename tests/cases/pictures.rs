//! Pictures of every kind, cut ones, and turned ones.

use std::fs;

use crate::support::{Place, input};

/// Frames that are read, by their names in the folder.
const WHOLE: [&str; 14] = [
    "0000 gray.jpg",
    "0001 progressive.JPG",
    "0002 cmyk.jpeg",
    "0003 rgba.png",
    "0004 palette.PNG",
    "0005 gray16.png",
    "0006 bild_ä é 球.png",
    "0010 mpo.jpg",
    "0011 la.png",
    "0012 one bit.png",
    "0013 no eoi.jpg",
    "0014 trailing.jpg",
    "0015 thumb.jpg",
    "0016 thumb cut.jpg",
];

fn clip_of_pictures(place: &Place) {
    place.copy("pictures", "data/game1/Clip 1 - Women's final #2");
}

#[test]
fn whole_pictures_are_read_and_cut_ones_named() {
    let place = Place::new();
    clip_of_pictures(&place);
    let answer = place.run(["data", "check", "data"]);
    answer.is(0, &["0016 thumb cut.jpg: ", "0017 cut.jpg: ", "cut off"]);
    for name in WHOLE.iter().filter(|name| !["0013 no eoi.jpg", "0016 thumb cut.jpg"].contains(*name)) {
        answer.lacks(&format!("{name}: "));
    }
    for (name, kind) in [("0007 webp.jpg", "WebP"), ("0008 bmp.png", "BMP"), ("0009 gif.png", "GIF")] {
        // Read, or refused naming what it is.
        let line = answer.text.lines().find(|line| line.contains(name));
        assert!(line.is_none_or(|line| line.to_lowercase().contains(&kind.to_lowercase())), "{line:?}");
    }
}

#[test]
fn a_preview_draws_what_can_be_drawn() {
    let place = Place::new();
    clip_of_pictures(&place);
    let answer = place.run(["data", "preview", "data", "--count", "30", "--output", "sheet.png"]);
    answer.is(0, &["sheet.png", "0017 cut.jpg"]);
    let sheet = image::open(place.path("sheet.png")).unwrap();
    assert!(sheet.width() > 400 && sheet.height() > 400);
}

#[test]
fn labels_refer_to_the_picture_as_people_see_it() {
    let place = Place::new();
    // Stored 320×180 with orientation 6: upright 180×320.
    let plain = {
        place.frames("plain", ["a.jpg".to_owned()]);
        fs::read(place.path("plain/a.jpg")).unwrap()
    };
    let turned = with_orientation(&plain, 6);
    let mut csv = "file name,visibility,x-coordinate,y-coordinate,status\n".to_owned();
    for n in 0..6 {
        place.write(&format!("data/game1/Clip1/{n:04}.jpg"), &turned);
        csv += &format!("{n:04}.jpg,1,{},{},0\n", 40 + 6 * n, 220 + 3 * n);
    }
    place.write("data/game1/Clip1/Label.csv", csv);
    place.run(["data", "check", "data", "--strict"]).is(0, &["180×320", "no problems"]);
    let upright = image::open(input("frames/0004.jpg")).unwrap();
    assert_eq!((upright.width(), upright.height()), (1280, 720));
}

/// A JPEG with an EXIF segment that says how it is to be turned.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let tiff = [
        b"Exif\0\0MM\0*\0\0\0\x08".as_slice(),
        // One entry: tag 0x0112, type SHORT, one value; no further directory.
        &[0, 1, 0x01, 0x12, 0, 3, 0, 0, 0, 1, 0, orientation, 0, 0, 0, 0, 0, 0],
    ]
    .concat();
    let length = u16::try_from(tiff.len() + 2).unwrap().to_be_bytes();
    [&jpeg[..2], &[0xff, 0xe1], &length, &tiff, &jpeg[2..]].concat()
}

//! Pictures are read as people see them, whatever kind of jpeg or png they are; halves and other kinds of file are refused.

// Helpers beside the tests: a failure there is a failed test.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use image::RgbImage;
use tracknet::config::ExifOrientation;
use tracknet::datasets::image::{decode, decode_then, dimensions};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pictures")
}

fn files_in(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Largest difference of two pictures of one size.
fn difference(a: &RgbImage, b: &RgbImage) -> u8 {
    assert_eq!(a.dimensions(), b.dimensions());
    a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
}

#[test]
fn every_kind_of_jpeg_and_png_is_read_as_pillow_reads_it() {
    let files = files_in(&fixtures());
    assert_eq!(files.len(), 25);
    for path in files {
        let picture = decode(&path).unwrap();
        let expected = image::open(fixtures().join("expected").join(name(&path) + ".png")).unwrap().into_rgb8();
        // JPEG decoders round differently; where colour is stored at half the size, they also smooth it differently.
        let tolerance = match name(&path).as_str() {
            "subsampled.jpg" | "progressive.jpg" | "restarts.jpg" | "several.jpg" | "thumbnail.jpg" => 6,
            other if other.ends_with("jpg") => 2,
            _ => 0,
        };
        let off = difference(&picture, &expected);
        assert!(off <= tolerance, "{}: off by {off}", path.display());
        let size = [picture.width() as usize, picture.height() as usize];
        assert_eq!(dimensions(&path, ExifOrientation::Apply).unwrap(), size, "{}", path.display());
    }
}

#[test]
fn a_data_set_that_says_so_gets_the_pixels_as_they_are_stored() {
    let plain = decode(&fixtures().join("turned_1.jpg")).unwrap();
    for orientation in 1..=8 {
        let path = fixtures().join(format!("turned_{orientation}.jpg"));
        let stored = decode_then(&path, ExifOrientation::Ignore, |picture| picture).unwrap();
        assert_eq!(stored, plain);
        assert_eq!(dimensions(&path, ExifOrientation::Ignore).unwrap(), [40, 24]);
        let upright = if orientation < 5 { [40, 24] } else { [24, 40] };
        assert_eq!(dimensions(&path, ExifOrientation::Apply).unwrap(), upright);
    }
}

#[test]
fn no_beginning_of_a_picture_passes_for_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    for path in files_in(&fixtures()) {
        let bytes = std::fs::read(&path).unwrap();
        let copy = dir.path().join(name(&path));
        let end = end_of_picture(&bytes);
        for cut in (0..end).step_by(37).chain([end - 1]) {
            std::fs::write(&copy, &bytes[..cut]).unwrap();
            let error = decode(&copy).expect_err(&format!("{} cut at {cut} of {end}", path.display())).to_string();
            assert!(error.contains(&name(&path)), "{error}");
        }
    }
}

/// Where the pixels of a fixture end: after the first picture's end marker, or with the last data chunk's checksum.
fn end_of_picture(bytes: &[u8]) -> usize {
    let find =
        |needle: &[u8], from: usize| from + bytes[from..].windows(needle.len()).position(|w| w == needle).unwrap();
    if bytes.starts_with(b"\x89PNG") {
        return find(b"IEND", 0) - 4;
    }
    // The last scan of the first picture begins at the last SOS before its EOI; fixtures have no such bytes elsewhere.
    let mut at = 2;
    loop {
        let marker = find(&[0xff], at) + 1;
        match bytes[marker] {
            0xd9 => return marker + 1,
            0x00 | 0xff | 0xd0..=0xd7 => at = marker,
            _ => at = marker + 1 + usize::from(u16::from_be_bytes([bytes[marker + 1], bytes[marker + 2]])),
        }
    }
}

#[test]
fn damage_inside_is_refused_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut png = std::fs::read(fixtures().join("rgba.png")).unwrap();
    let data = png.windows(4).position(|w| w == b"IDAT").unwrap();
    png[data + 40] ^= 0x10;
    let path = dir.path().join("0001.png");
    std::fs::write(&path, png).unwrap();
    assert!(decode(&path).unwrap_err().to_string().contains("0001.png: cannot decode: "));
    // A marker that has no business in scan data: decoders paint the rest of the picture grey.
    let mut jpeg = std::fs::read(fixtures().join("full.jpg")).unwrap();
    let middle = (jpeg.windows(2).position(|w| w == [0xff, 0xda]).unwrap() + jpeg.len()) / 2;
    jpeg[middle..middle + 2].copy_from_slice(&[0xff, 0xc8]);
    let path = dir.path().join("0002.jpg");
    std::fs::write(&path, jpeg).unwrap();
    let error = decode(&path).map(|_| "it was read").unwrap_err().to_string();
    assert!(error.contains("0002.jpg: cannot decode: "), "{error}");
}

#[test]
fn other_kinds_of_file_are_refused_by_their_names() {
    let dir = tempfile::tempdir().unwrap();
    for (file, content) in [
        ("lfs.jpg", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("page.jpg", "\n<!DOCTYPE html><html></html>"),
        ("empty.png", ""),
        ("text.png", "a,b\n"),
        ("photo.jpg", "\0\0\0\x18ftypheic\0\0\0\0"),
    ] {
        std::fs::write(dir.path().join(file), content).unwrap();
    }
    let refused = fixtures().join("refused");
    for (path, reason) in [
        (refused.join("webp.jpg"), "is a WebP picture, expected jpeg or png"),
        (refused.join("bmp.png"), "is a BMP picture, expected jpeg or png"),
        (refused.join("gif.png"), "is a GIF picture, expected jpeg or png"),
        (refused.join("tiff.jpg"), "is a TIFF picture, expected jpeg or png"),
        (dir.path().join("photo.jpg"), "is a HEIC picture, expected jpeg or png"),
        (dir.path().join("page.jpg"), "is a web page, expected jpeg or png"),
        (dir.path().join("lfs.jpg"), "is a pointer of Git LFS, the picture is not here; fetch it with `git lfs pull`"),
        (dir.path().join("empty.png"), "cannot decode: the file is empty"),
        (dir.path().join("text.png"), "cannot decode: is neither jpeg nor png"),
    ] {
        let expected = format!("image {}: {reason}", path.display());
        assert_eq!(decode(&path).unwrap_err().to_string(), expected);
        assert_eq!(dimensions(&path, ExifOrientation::Apply).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_huge_file_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("huge.jpg");
    // The start of a JPEG, and nothing but zeros behind it.
    std::fs::write(&path, [0xff, 0xd8, 0xff, 0xe0]).unwrap();
    std::fs::File::options().write(true).open(&path).unwrap().set_len(300 << 20).unwrap();
    let expected = format!("image {}: 314572800 bytes are too many for a picture (at most 268435456)", path.display());
    assert_eq!(decode(&path).unwrap_err().to_string(), expected);
    assert_eq!(dimensions(&path, ExifOrientation::Apply).unwrap_err().to_string(), expected);
}

#[cfg(unix)]
#[test]
fn pipes_devices_and_directories_are_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (pipe, link, folder) =
        (dir.path().join("pipe.jpg"), dir.path().join("link.jpg"), dir.path().join("folder.jpg"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    std::fs::create_dir(&folder).unwrap();
    for (path, found) in [(pipe, "a named pipe"), (link, "a device"), (folder, "a directory")] {
        let expected = format!("image {}: is {found}, expected a regular file", path.display());
        assert_eq!(decode(&path).unwrap_err().to_string(), expected);
        assert_eq!(dimensions(&path, ExifOrientation::Apply).unwrap_err().to_string(), expected);
    }
}

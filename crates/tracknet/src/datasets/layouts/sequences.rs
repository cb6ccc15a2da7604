//! Pictures of an export → clips of consecutive frames, by their names.
//!
//! Tools name frames of a video after it and count them: `rally_0012.png`, `rally_mp4-0012_jpg.rf.<hash>.jpg` (Roboflow).
//! Names whose last number counts up by one are one clip. Exports with augmented copies have a name several times; those
//! pictures are flipped, turned or cut differently, so each is a clip of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::super::frames::{Natural, name_of};
use super::super::{Label, count};
use super::{Entry, Frames, PlacedLabel, RawClip, Split};

/// What a name says: the name of the video, and the number of the frame in it.
fn parse(name: &str) -> (String, Option<u64>) {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    // Roboflow: `<name>_<extension>.rf.<hash>`.
    let stem = stem.split(".rf.").next().unwrap_or(stem);
    let stem = ["_jpg", "_jpeg", "_png", "_JPG", "_PNG"].iter().find_map(|end| stem.strip_suffix(end)).unwrap_or(stem);
    let [before, digits, after] = around_number(stem);
    (format!("{before}#{after}"), digits.parse().ok())
}

/// The last number in the name of a file.
pub(super) fn number_in(name: &str) -> Option<u64> {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    around_number(stem)[1].parse().ok()
}

/// What stands before the last number of a text, the number, and what stands after it.
fn around_number(text: &str) -> [&str; 3] {
    let end = text.trim_end_matches(|c: char| !c.is_ascii_digit()).len();
    let start = text[..end].trim_end_matches(|c: char| c.is_ascii_digit()).len();
    [&text[..start], &text[start..end], &text[end..]]
}

/// Clips, each a list of indices of `pictures` in the order of time; the clips in natural order of their first names.
/// Also how many pictures are one of several copies of a frame.
fn clips(pictures: &[PathBuf]) -> (Vec<Vec<usize>>, usize) {
    let mut numbered: BTreeMap<(PathBuf, String), BTreeMap<u64, Vec<usize>>> = BTreeMap::new();
    let mut clips: Vec<Vec<usize>> = Vec::new();
    for (index, path) in pictures.iter().enumerate() {
        match parse(&name_of(path)) {
            (video, Some(number)) => {
                let dir = path.parent().map(PathBuf::from).unwrap_or_default();
                numbered.entry((dir, video)).or_default().entry(number).or_default().push(index);
            }
            _ => clips.push(vec![index]),
        }
    }
    let mut copies = 0;
    for frames in numbered.into_values() {
        if frames.values().any(|same| same.len() > 1) {
            copies += frames.values().map(Vec::len).sum::<usize>();
            clips.extend(frames.into_values().flatten().map(|index| vec![index]));
            continue;
        }
        let mut last = None;
        for (number, index) in frames.into_iter().flat_map(|(number, same)| same.into_iter().map(move |i| (number, i)))
        {
            match clips.last_mut().filter(|_| last.is_some_and(|last: u64| last + 1 == number)) {
                Some(clip) => clip.push(index),
                None => clips.push(vec![index]),
            }
            last = Some(number);
        }
    }
    clips.sort_by_cached_key(|clip| Natural(clip.first().map(|i| name_of(&pictures[*i])).unwrap_or_default()));
    (clips, copies)
}

/// The videos that pictures are named after, those without a number left out.
fn videos(pictures: &[PathBuf]) -> BTreeSet<String> {
    pictures
        .iter()
        .map(|path| parse(&name_of(path)))
        .filter(|(_, number)| number.is_some())
        .map(|(video, _)| video)
        .collect()
}

/// Clips of the pictures of a split; pictures without a label are in them, for windows.
pub(super) fn clips_of(
    entry: &Entry,
    pictures: &[PathBuf],
    labels: &[Option<Label>],
    label_file: &Path,
    notes: &mut Vec<String>,
) -> Vec<RawClip> {
    let (clips, copies) = clips(pictures);
    if copies > 0 {
        notes.push(format!(
            "{}: {} are augmented copies of a frame, each a clip of its own: windows of frames find no motion in them",
            entry.name,
            count(copies, "picture")
        ));
    }
    let single = clips.iter().filter(|clip| clip.len() == 1).count();
    notes.push(format!(
        "{}: {} in {} of consecutive frames, and {} without a neighbour",
        entry.name,
        count(pictures.len(), "picture"),
        count(clips.len() - single, "run"),
        single
    ));
    let videos = videos(pictures);
    notes.extend((videos.len() == 1 && entry.split == Some(Split::Val)).then(|| {
        format!(
            "{}: all pictures are of one video; if training has it too, neighbouring frames make scores too good",
            entry.name
        )
    }));
    let clip = |(index, indices): (usize, &Vec<usize>)| RawClip {
        name: format!("Clip{}", index + 1),
        dir: indices.first().and_then(|i| pictures[*i].parent()).map(PathBuf::from).unwrap_or_default(),
        label_file: label_file.to_path_buf(),
        frames: Frames::Pictures(indices.iter().map(|i| pictures[*i].clone()).collect()),
        labels: (0..)
            .zip(indices)
            .filter_map(|(place, i)| Some(PlacedLabel { place, label: labels[*i]?, line: 0 }))
            .collect(),
        negative: 0,
        absent_with_position: 0,
    };
    clips.iter().enumerate().map(clip).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(clips: &[&str]) -> (Vec<Vec<String>>, usize) {
        let pictures: Vec<PathBuf> = clips.iter().map(PathBuf::from).collect();
        let (clips, copies) = super::clips(&pictures);
        (clips.iter().map(|clip| clip.iter().map(|i| name_of(&pictures[*i])).collect()).collect(), copies)
    }

    #[test]
    fn names_that_count_up_are_a_clip_and_a_gap_begins_another() {
        let (clips, copies) = names(&[
            "b-0002_jpg.rf.77ab.jpg",
            "b-0001_jpg.rf.90cd.jpg",
            "b-0005_jpg.rf.1.jpg",
            "a_mp4-9.png",
            "a_mp4-10.png",
            "logo.png",
        ]);
        let expected: [&[&str]; 4] = [
            &["a_mp4-9.png", "a_mp4-10.png"],
            &["b-0001_jpg.rf.90cd.jpg", "b-0002_jpg.rf.77ab.jpg"],
            &["b-0005_jpg.rf.1.jpg"],
            &["logo.png"],
        ];
        assert_eq!(clips, expected);
        assert_eq!(copies, 0);
    }

    #[test]
    fn augmented_copies_of_a_frame_make_no_clip() {
        let (clips, copies) =
            names(&["a-1_jpg.rf.aa.jpg", "a-1_jpg.rf.bb.jpg", "a-2_jpg.rf.cc.jpg", "c-1.jpg", "c-2.jpg"]);
        assert_eq!(clips.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 2]);
        assert_eq!(copies, 3);
    }

    #[test]
    fn a_name_says_its_video_and_its_number() {
        assert_eq!(parse("clip1_0007.jpg"), ("clip1_#".to_owned(), Some(7)));
        assert_eq!(parse("frame12-left_png.rf.0f3.jpg"), ("frame#-left".to_owned(), Some(12)));
        assert_eq!(parse("logo.png"), ("#logo".to_owned(), None));
        assert_eq!(parse("99999999999999999999999.png").1, None);
        assert_eq!(videos(&["a-1.jpg".into(), "a-2.jpg".into(), "x.png".into()]).len(), 1);
    }
}

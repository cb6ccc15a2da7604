//! Labels that can be read and cannot be true as a whole: another unit, swapped columns, another resolution.
//!
//! Each row for itself looks fine, so the labels of a clip are looked at together, and those of a game where a clip is
//! too short to tell. A doubt names the numbers that were seen, the likely cause and what to do. The bounds are wide:
//! a ball that lies still for a moment, or stays in one part of the picture, is no doubt.

use super::{Clip, Game, count};

/// What the labels of one clip or game say, for [`Doubt::ALL`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Labels {
    /// Positions of balls, native pixels; also those beyond the right and the lower edge.
    pub positions: Vec<[f32; 2]>,
    /// Balls at a negative position.
    pub negative: usize,
    /// Rows that call the ball absent and give a position.
    pub absent_with_position: usize,
    /// `[W, H]` of the frames, when it is known and the same for most of them.
    pub size: Option<[usize; 2]>,
}

/// A way in which the labels of a clip cannot be true, in the order in which they are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// No ball is visible, yet rows give positions.
    AbsentWithPositions,
    /// Several visible balls at exactly (0, 0).
    AtOrigin,
    /// Positions are fractions of the frame.
    Fractions,
    /// Positions are percentages of the frame.
    Percent,
    /// Every position is the same.
    AllAlike,
    /// Pixels are counted from 1.
    CountedFromOne,
    /// x and y are swapped.
    Swapped,
    /// The labels are those of larger frames.
    LargerFrames,
    /// Half of the balls lie outside the frame.
    MostlyOutside,
}

/// Frame sizes that labels are often made on, smallest first.
const COMMON_SIZES: [[usize; 2]; 12] = [
    [256, 144],
    [320, 180],
    [512, 288],
    [640, 360],
    [854, 480],
    [960, 540],
    [1024, 576],
    [1280, 720],
    [1920, 1080],
    [2560, 1440],
    [3840, 2160],
    [7680, 4320],
];

impl Doubt {
    /// Every doubt about a clip; the first that holds is the most particular.
    pub const ALL: [Self; 9] = [
        Self::AbsentWithPositions,
        Self::AtOrigin,
        Self::Fractions,
        Self::Percent,
        Self::AllAlike,
        Self::CountedFromOne,
        Self::Swapped,
        Self::LargerFrames,
        Self::MostlyOutside,
    ];

    /// The numbers that were seen, the likely cause and the remedy; `None` when there is no such doubt.
    pub fn about(self, labels: &Labels) -> Option<String> {
        match self {
            Self::AbsentWithPositions => absent_with_positions(labels),
            Self::AtOrigin => at_origin(labels),
            Self::Fractions => fractions(labels),
            Self::Percent => percent(labels),
            Self::AllAlike => all_alike(labels),
            Self::CountedFromOne => counted_from_one(labels),
            Self::Swapped => swapped(labels),
            Self::LargerFrames => larger_frames(labels),
            Self::MostlyOutside => mostly_outside(labels),
        }
    }
}

impl Labels {
    /// The labels of a clip whose frames have this size.
    pub fn of_clip(clip: &Clip, size: Option<[usize; 2]>) -> Self {
        Self {
            positions: clip.frames.iter().filter_map(|frame| frame.label.xy).collect(),
            negative: clip.negative,
            absent_with_position: clip.absent_with_position,
            size,
        }
    }

    /// The first doubt about the labels of a clip.
    pub fn doubt(&self) -> Option<String> {
        Doubt::ALL.into_iter().find_map(|doubt| doubt.about(self))
    }

    /// Smallest and largest value of an axis.
    fn range(&self, axis: usize) -> [f32; 2] {
        let values = self.positions.iter().map(|xy| xy[axis]);
        values.fold([f32::INFINITY, f32::NEG_INFINITY], |[low, high], v| [low.min(v), high.max(v)])
    }

    fn largest(&self) -> [f32; 2] {
        [self.range(0)[1], self.range(1)[1]]
    }

    fn outside(&self, [width, height]: [usize; 2]) -> impl Iterator<Item = [f32; 2]> {
        self.positions.iter().copied().filter(move |[x, y]| *x >= width as f32 || *y >= height as f32)
    }
}

fn absent_with_positions(labels: &Labels) -> Option<String> {
    let n = labels.absent_with_position;
    (labels.positions.is_empty() && labels.negative == 0 && n >= 3).then(|| {
        format!(
            "no ball is visible, but {n} rows give a position with visibility 0: the column may mean something else; \
             visibility is 1 visible, 2 hard to see, 3 occluded, 0 absent"
        )
    })
}

fn at_origin(labels: &Labels) -> Option<String> {
    let n = labels.positions.iter().filter(|xy| **xy == [0.0, 0.0]).count();
    (n >= 2).then(|| {
        format!(
            "{n} of {} lie at exactly (0, 0), which some tools write when there is no ball: give those rows visibility 0",
            balls(labels.positions.len())
        )
    })
}

fn fractions(labels: &Labels) -> Option<String> {
    let n = labels.positions.len();
    let is_fraction = |v: &f32| *v <= 1.0;
    let within = labels.positions.iter().filter(|xy| xy.iter().all(is_fraction)).count();
    let broken = labels.positions.iter().flatten().any(|v| is_fraction(v) && v.fract() != 0.0);
    let by_size =
        labels.size.map_or("by the frame's width and height".to_owned(), |[w, h]| format!("x by {w} and y by {h}"));
    (broken && 10 * within >= 9 * n).then(|| {
        format!(
            "{within} of {} lie within 0..1 (x to {}, y to {}): these are fractions of the frame and not pixels; multiply \
             {by_size}",
            positions(n),
            labels.largest()[0],
            labels.largest()[1]
        )
    })
}

fn percent(labels: &Labels) -> Option<String> {
    let [width, height] = labels.size?;
    let ([x0, x1], [y0, y1]) = (labels.range(0), labels.range(1));
    let corner = width >= 300 && height >= 300;
    let spread = x1 - x0 >= 30.0 && y1 - y0 >= 20.0 && x1.max(y1) >= 50.0 && x1 <= 100.0 && y1 <= 100.0;
    (corner && spread && labels.positions.len() >= 12).then(|| {
        format!(
            "all {} lie within 0..100 of {width}×{height} frames (x {x0} to {x1}, y {y0} to {y1}): these may be percent and \
             not pixels; multiply x by {} and y by {}",
            positions(labels.positions.len()),
            width as f64 / 100.0,
            height as f64 / 100.0
        )
    })
}

fn all_alike(labels: &Labels) -> Option<String> {
    let first = labels.positions.first()?;
    (labels.positions.len() >= 5 && labels.positions.iter().all(|xy| xy == first)).then(|| {
        format!(
            "all {} are ({}, {}): a ball that flies is not in one place; a value may have been filled down, or stand for \
             no ball (visibility 0)",
            positions(labels.positions.len()),
            first[0],
            first[1]
        )
    })
}

fn counted_from_one(labels: &Labels) -> Option<String> {
    let size = labels.size?;
    let limit = size.map(|n| n as f32);
    let fits = |xy: &[f32; 2]| (0..2).all(|axis| xy[axis].fract() == 0.0 && (1.0..=limit[axis]).contains(&xy[axis]));
    let beyond = labels.outside(size).count();
    (beyond >= 1 && labels.positions.len() >= 5 && labels.positions.iter().all(fits)).then(|| {
        format!(
            "{} from 1 up, and {beyond} exactly at the width or height of the {}×{} frames: pixels seem to be counted from \
             1; subtract 1 from x and y",
            whole_positions(labels.positions.len()),
            size[0],
            size[1]
        )
    })
}

fn swapped(labels: &Labels) -> Option<String> {
    let [width, height] = labels.size?;
    let outside = labels.outside([width, height]).count();
    let swapped_fit = labels.outside([height, width]).count() == 0;
    (swapped_fit && outside >= 2 && 5 * outside >= labels.positions.len()).then(|| {
        let [x, y] = labels.largest();
        format!(
            "{outside} of {} lie outside the {width}×{height} frames, and none if x and y are swapped (x to {x}, y to {y}): \
             swap the columns",
            positions(labels.positions.len())
        )
    })
}

fn larger_frames(labels: &Labels) -> Option<String> {
    let size = labels.size?;
    let (outside, n) = (labels.outside(size).count(), labels.positions.len());
    let holds_all = |larger: &&[usize; 2]| larger[0] > size[0] && labels.outside(**larger).count() == 0;
    let larger = COMMON_SIZES.iter().filter(|common| same_shape(**common, size)).find(holds_all)?;
    (outside >= 2 && 4 * outside >= n).then(|| {
        format!(
            "{outside} of {} lie outside the {}×{} frames, and all inside {}×{} (x to {}, y to {}): the labels may be those \
             of larger frames; multiply x and y by {:.4}, or use the frames that were labelled",
            positions(n),
            size[0],
            size[1],
            larger[0],
            larger[1],
            labels.largest()[0],
            labels.largest()[1],
            size[0] as f64 / larger[0] as f64
        )
    })
}

fn mostly_outside(labels: &Labels) -> Option<String> {
    let beyond = labels.size.map_or(0, |size| labels.outside(size).count());
    let (outside, n) = (beyond + labels.negative, labels.positions.len() + labels.negative);
    (outside >= 2 && 2 * outside >= n).then(|| match labels.size {
        Some([width, height]) if beyond > 0 => {
            let (balls, [x, y]) = (balls(n), labels.largest());
            format!(
                "{outside} of {balls} lie outside the {width}×{height} frames (x to {x}, y to {y}): these labels belong to \
                 other frames"
            )
        }
        _ => format!(
            "{outside} of {} lie at negative positions, which some tools write when there is no ball: give those rows \
             visibility 0",
            balls(n)
        ),
    })
}

/// Whether the labels of a game are those of smaller frames: all of them, far apart, fill the upper left part of the
/// frames that has a common size. One clip is too short to tell: a ball may well stay in one quarter for a while.
pub fn smaller_frames(game: &Game, size: [usize; 2]) -> Option<String> {
    let labels = Labels {
        positions: game.clips.iter().flat_map(|clip| &clip.frames).filter_map(|frame| frame.label.xy).collect(),
        ..Labels::default()
    };
    let [x, y] = labels.largest();
    let fills = |smaller: &&[usize; 2]| {
        let [width, height] = smaller.map(|n| n as f32);
        2 * smaller[0] <= size[0] && (0.7 * width..width).contains(&x) && (0.7 * height..height).contains(&y)
    };
    let smaller = COMMON_SIZES.iter().filter(|common| same_shape(**common, size)).find(fills)?;
    (labels.positions.len() >= 100).then(|| {
        format!(
            "all {} of the game lie within {}×{} of the {}×{} frames (x to {x}, y to {y}): the labels may be those of \
             smaller frames; multiply x and y by {:.4}, or use the frames that were labelled",
            positions(labels.positions.len()),
            smaller[0],
            smaller[1],
            size[0],
            size[1],
            size[0] as f64 / smaller[0] as f64
        )
    })
}

/// Whether two sizes have the same ratio of width to height, to 2 %.
fn same_shape(a: [usize; 2], b: [usize; 2]) -> bool {
    let ratio = (a[0] * b[1]) as f64 / (a[1] * b[0]).max(1) as f64;
    (0.98..=1.02).contains(&ratio)
}

fn positions(n: usize) -> String {
    count(n, "position")
}

fn whole_positions(n: usize) -> String {
    format!("all {} are whole numbers", positions(n))
}

fn balls(n: usize) -> String {
    count(n, "visible ball")
}

#[cfg(test)]
mod tests {
    use super::super::{Frame, Label, Visibility};
    use super::*;

    const SIZE: [usize; 2] = [320, 180];

    fn labels(positions: &[[f32; 2]]) -> Labels {
        Labels { positions: positions.to_vec(), size: Some(SIZE), ..Labels::default() }
    }

    /// A flight across the frame, in pixels of 320×180.
    fn flight() -> Vec<[f32; 2]> {
        (0..20).map(|t| t as f32 / 19.0).map(|t| [20.0 + 280.0 * t, 150.0 - 400.0 * t * (1.0 - t)]).collect()
    }

    fn mapped(change: impl Fn([f32; 2]) -> [f32; 2]) -> Vec<[f32; 2]> {
        flight().into_iter().map(change).collect()
    }

    /// Which doubt there is, and its words.
    fn doubt(labels: &Labels) -> Option<(Doubt, String)> {
        Doubt::ALL.into_iter().find_map(|doubt| Some((doubt, doubt.about(labels)?)))
    }

    #[track_caller]
    fn assert_doubt(labels: &Labels, expected: Doubt, words: &[&str]) {
        let (found, text) = doubt(labels).unwrap();
        assert_eq!(found, expected, "{text}");
        for word in words {
            assert!(text.contains(word), "no `{word}` in: {text}");
        }
    }

    #[test]
    fn honest_labels_raise_no_doubt() {
        let still = [[100.0, 90.0]; 3];
        let near_the_corner: Vec<[f32; 2]> = (0..30).map(|i| [i as f32 * 0.9, 20.0 - i as f32 * 0.5]).collect();
        for positions in [
            flight(),
            flight()[..1].to_vec(),
            still.to_vec(),
            near_the_corner,
            vec![],
            vec![[0.0, 0.0]],
            // One ball that was extrapolated beyond the edge.
            mapped(|[x, y]| if x > 299.0 { [321.0, y] } else { [x, y] }),
            mapped(|[x, y]| [x / 4.0, y / 4.0]),
        ] {
            assert_eq!(doubt(&labels(&positions)), None);
            assert_eq!(doubt(&Labels { size: None, ..labels(&positions) }), None);
        }
        let absent = Labels { absent_with_position: 3, ..labels(&flight()) };
        assert_eq!(doubt(&absent), None);
    }

    #[test]
    fn fractions_of_the_frame_are_told_from_pixels() {
        let fractions = mapped(|[x, y]| [x / 320.0, y / 180.0]);
        assert_doubt(
            &labels(&fractions),
            Doubt::Fractions,
            &["20 of 20 positions", "fractions", "x by 320 and y by 180"],
        );
        assert_doubt(&Labels { size: None, ..labels(&fractions) }, Doubt::Fractions, &["not pixels"]);
        // One ball beyond the edge, and one clip of one row.
        let beyond: Vec<_> = fractions.iter().copied().chain([[1.04, 0.5]]).collect();
        assert_doubt(&labels(&beyond), Doubt::Fractions, &["20 of 21 positions"]);
        assert_doubt(&labels(&[[0.5, 0.25]]), Doubt::Fractions, &["1 of 1 position "]);
    }

    #[test]
    fn percent_are_told_from_pixels_on_large_frames_only() {
        let percent = mapped(|[x, y]| [x / 3.2, y / 1.8]);
        let on = |size| Labels { size: Some(size), ..labels(&percent) };
        assert_doubt(&on([1280, 720]), Doubt::Percent, &["percent", "x by 12.8 and y by 7.2"]);
        assert_eq!(doubt(&on(SIZE)), None);
    }

    #[test]
    fn balls_at_the_origin_and_all_in_one_place_stand_for_something_else() {
        assert_doubt(&labels(&[[0.0, 0.0]; 6]), Doubt::AtOrigin, &["6 of 6 visible balls", "(0, 0)", "visibility 0"]);
        let half: Vec<_> = flight().into_iter().flat_map(|xy| [xy, [0.0, 0.0]]).collect();
        assert_doubt(&labels(&half), Doubt::AtOrigin, &["20 of 40 visible balls"]);
        assert_doubt(&labels(&[[100.0, 90.0]; 5]), Doubt::AllAlike, &["all 5 positions are (100, 90)"]);
    }

    #[test]
    fn swapped_columns_are_told_by_what_fits() {
        let swapped = mapped(|[x, y]| [y, x]);
        assert_doubt(&labels(&swapped), Doubt::Swapped, &["outside the 320×180 frames", "swap the columns"]);
        let portrait = Labels { size: Some([180, 320]), ..labels(&flight()) };
        assert_doubt(&portrait, Doubt::Swapped, &["180×320"]);
    }

    #[test]
    fn labels_of_larger_frames_are_told_with_the_size_that_fits() {
        let larger = mapped(|[x, y]| [x * 4.0, y * 4.0]);
        assert_doubt(&labels(&larger), Doubt::LargerFrames, &["all inside 1280×720", "multiply x and y by 0.2500"]);
        let full_hd = mapped(|[x, y]| [x * 6.0, y * 6.0]);
        let on_hd = Labels { size: Some([1280, 720]), ..labels(&full_hd) };
        assert_doubt(&on_hd, Doubt::LargerFrames, &["inside 1920×1080", "0.6667"]);
    }

    #[test]
    fn half_of_the_balls_outside_belong_to_other_frames() {
        let outside = mapped(|[x, y]| [x + 200.0, y + 4900.0]);
        assert_doubt(
            &labels(&outside),
            Doubt::MostlyOutside,
            &["20 of 20 visible balls lie outside the 320×180 frames"],
        );
        let negative = Labels { negative: 3, ..labels(&flight()[..3]) };
        assert_doubt(&negative, Doubt::MostlyOutside, &["3 of 6 visible balls", "negative", "visibility 0"]);
        assert_eq!(doubt(&Labels { negative: 3, ..labels(&flight()) }), None);
    }

    #[test]
    fn pixels_that_are_counted_from_one_reach_the_width() {
        let from_one = mapped(|[x, y]| [(x + 20.0).round(), y.round() + 1.0]);
        assert_doubt(&labels(&from_one), Doubt::CountedFromOne, &["counted from 1", "1 exactly at"]);
        assert_eq!(doubt(&labels(&mapped(|[x, y]| [(x + 19.0).round(), y.round()]))), None);
    }

    #[test]
    fn an_absent_ball_with_a_position_in_every_row_is_a_column_with_another_meaning() {
        let inverted = Labels { absent_with_position: 5, ..labels(&[]) };
        assert_doubt(&inverted, Doubt::AbsentWithPositions, &["5 rows", "visibility 0"]);
        assert_eq!(doubt(&Labels { absent_with_position: 2, ..labels(&[]) }), None);
    }

    #[test]
    fn labels_of_smaller_frames_are_told_over_a_whole_game_only() {
        let frame = |xy| Frame {
            path: "a.jpg".into(),
            file_name: "a.jpg".to_owned(),
            label: Label { visibility: Visibility::Visible, xy: Some(xy) },
            line: 2,
        };
        let game = |clips: usize, scale: f32| {
            let frames: Vec<Frame> = mapped(|[x, y]| [x * scale, y * scale]).into_iter().map(frame).collect();
            Game { name: "game1".to_owned(), clips: vec![Clip { frames, ..Clip::default() }; clips] }
        };
        let text = smaller_frames(&game(5, 1.6), [1280, 720]).unwrap();
        assert!(text.contains("all 100 positions of the game lie within 512×288 of the 1280×720 frames"), "{text}");
        assert!(text.contains("multiply x and y by 2.5000"), "{text}");
        assert_eq!(smaller_frames(&game(4, 1.6), [1280, 720]), None);
        assert_eq!(smaller_frames(&game(5, 4.0), [1280, 720]), None);
        assert_eq!(smaller_frames(&game(5, 1.6), [640, 360]), None);
    }
}

//! Where in its streak a label lies, measured on the pictures: a test of [`crate::config::LabelPoint`].
//!
//! The streak of a fast ball is what a frame has and neither the frame before nor the one after: the smaller of the two
//! absolute differences. Its profile along the motion, through the label, is cut at half of its height; half the length of
//! that piece less half of its width is the half-length `h` of the ball's way during the exposure, and its middle lies at
//! `m` from the label. `q = −m / h` is 0 for labels of the centre and 1 for those of the leading end. A single frame tells
//! little (players, nets and lines move, too), so a sign test over many decides: labels are ahead when `q > ½` in more than
//! half of the frames by three standard deviations of a fair coin, `k − n / 2 ≥ 3 · √n / 2`, and behind alike with `q < −½`.

use std::path::Path;

use image::RgbImage;
use rayon::prelude::*;

use super::image::decode_then;
use super::label_point::{length, steady_motion};
use super::{Clip, Frame, Game, Visibility, count};
use crate::config::{ExifOrientation, LabelPoint};

/// Frames a game that are looked at, those with the fastest balls.
const FRAMES: usize = 80;
/// Fewest streaks that are judged.
const FEWEST: usize = 12;
/// Slowest motion, in pixels a frame.
const SLOWEST: f32 = 10.0;
/// Fewest grey levels of a streak.
const CONTRAST: f32 = 16.0;
/// Shortest half-length of the ball's way, in pixels.
const SHORTEST: f32 = 2.0;
/// Pixels to each side of the motion in which the streak is looked for.
const SIDE: i32 = 6;

/// One streak.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Streak {
    /// Distance of its middle from the label along the motion, in pixels; negative when the label is ahead.
    middle: f32,
    /// Half of the ball's way during the exposure, in pixels.
    half: f32,
    /// What it is of the way from frame to frame.
    shutter: f32,
}

impl Streak {
    /// 0 for a label of the centre, 1 for one of the leading end.
    fn ahead(&self) -> f32 {
        -self.middle / self.half
    }
}

/// Where labels lie in the streaks of a game.
#[derive(Debug, Clone, PartialEq)]
pub struct Placement {
    /// Streaks that were measured.
    pub streaks: usize,
    /// Those whose label lies ahead of the middle by more than half of the way to the leading end.
    pub ahead: usize,
    /// Those whose label lies as far behind.
    pub behind: usize,
    /// Pixels from the middle to the label along the motion, the median; positive ahead.
    pub offset: f32,
    /// Share of a frame's time in which the shutter is open, the median.
    pub shutter: f32,
}

impl Placement {
    fn of(streaks: &[Streak]) -> Option<Self> {
        (streaks.len() >= FEWEST).then(|| Self {
            streaks: streaks.len(),
            ahead: streaks.iter().filter(|streak| streak.ahead() > 0.5).count(),
            behind: streaks.iter().filter(|streak| streak.ahead() < -0.5).count(),
            offset: median(streaks.iter().map(|streak| -streak.middle)),
            shutter: median(streaks.iter().map(|streak| streak.shutter)),
        })
    }

    /// Whether `k` of the streaks are more than half of them by three standard deviations of a fair coin.
    fn is_most(&self, k: usize) -> bool {
        let n = self.streaks as f32;
        k as f32 - 0.5 * n >= 1.5 * n.sqrt()
    }

    /// Why labels that were taken as `point` look like the other convention; `None` when they do not.
    pub fn doubt(&self, point: LabelPoint) -> Option<String> {
        let (k, place, remedy) = match point {
            LabelPoint::Center if self.is_most(self.ahead) => {
                let leading = "they seem to mark its leading end: set data.label_point=leading (--label-point leading)";
                (self.ahead, "ahead of", format!("{leading} and data.shutter={:.2}", self.shutter))
            }
            LabelPoint::Leading if self.is_most(self.behind) => {
                let centre = "they seem to mark its centre already: set data.label_point=center (--label-point center)";
                (self.behind, "behind", centre.to_owned())
            }
            _ => return None,
        };
        let taken = if point == LabelPoint::Leading { ", once converted from leading ends," } else { "" };
        Some(format!(
            "labels of fast balls{taken} lie {place} the middle of the ball's streak in {k} of {} frames, by {:.1} pixels in \
             the median; {remedy}",
            self.streaks,
            self.offset.abs()
        ))
    }

    /// The measurement in a sentence.
    pub fn note(&self, game: &str) -> String {
        format!(
            "{game}: {} measured: labels lie {:.1} pixels {} the middle in the median, and the shutter is open for {:.2} of a \
             frame's time",
            count(self.streaks, "streak"),
            self.offset.abs(),
            if self.offset < 0.0 { "behind" } else { "ahead of" },
            self.shutter
        )
    }
}

fn median(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// Measures the streaks of the fastest balls of a game; `None` when too few can be told.
pub fn placement(game: &Game, exif: ExifOrientation) -> Option<Placement> {
    let mut fast: Vec<Candidate<'_>> = game.clips.iter().flat_map(candidates).collect();
    fast.sort_by(|a, b| length(b.motion).total_cmp(&length(a.motion)));
    fast.truncate(FRAMES);
    let streaks: Vec<Streak> = fast.par_iter().filter_map(|candidate| candidate.streak(exif)).collect();
    Placement::of(&streaks)
}

/// A frame whose ball flies fast and straight.
struct Candidate<'a> {
    /// The frame before, the frame, the frame after.
    files: [&'a Path; 3],
    label: [f32; 2],
    /// Pixels a frame.
    motion: [f32; 2],
}

fn candidates(clip: &Clip) -> Vec<Candidate<'_>> {
    let places = clip.places();
    let points = clip.points();
    let of_frame = |(frame, place): (&Frame, &usize)| {
        let motion = steady_motion(&points, *place)?;
        let files = [place.checked_sub(1)?, *place, place + 1].map(|place| clip.files.get(place).map(|f| f.as_path()));
        let [Some(before), Some(at), Some(after)] = files else { return None };
        let seen = frame.label.visibility == Visibility::Visible && length(motion) >= SLOWEST;
        Some(Candidate { files: [before, at, after], label: frame.label.xy?, motion }).filter(|_| seen)
    };
    clip.frames.iter().zip(&places).filter_map(of_frame).collect()
}

impl Candidate<'_> {
    fn streak(&self, exif: ExifOrientation) -> Option<Streak> {
        let reach = length(self.motion).ceil() as i32 + 12;
        let [before, at, after] =
            self.files.map(|file| decode_then(file, exif, |picture| Patch::cut(&picture, self.label, reach)).ok()?);
        measure(&Patch::only_in(&at?, &before?, &after?)?, self.motion)
    }
}

/// A square of grey values around a label.
struct Patch {
    /// `[2 · reach + 1]²` values of 0..255, row by row.
    grey: Vec<f32>,
    reach: i32,
    /// Where the label lies from the middle of the square, in pixels.
    label: [f32; 2],
}

impl Patch {
    /// The square around the pixel of the label; `None` where it leaves the picture.
    fn cut(picture: &RgbImage, label: [f32; 2], reach: i32) -> Option<Self> {
        let centre = label.map(|v| v.round() as i32);
        let (width, height) = (picture.width() as i32, picture.height() as i32);
        if centre[0] < reach || centre[1] < reach || centre[0] + reach >= width || centre[1] + reach >= height {
            return None;
        }
        let grey = |dx: i32, dy: i32| {
            let [r, g, b] = picture.get_pixel((centre[0] + dx) as u32, (centre[1] + dy) as u32).0.map(f32::from);
            0.299 * r + 0.587 * g + 0.114 * b
        };
        let range = -reach..=reach;
        let grey = range.clone().flat_map(|dy| range.clone().map(move |dx| (dx, dy))).map(|(dx, dy)| grey(dx, dy));
        Some(Self { grey: grey.collect(), reach, label: [0, 1].map(|axis| label[axis] - centre[axis] as f32) })
    }

    /// What is in this picture and neither in the one before nor in the one after; `None` where one repeats another.
    fn only_in(at: &Self, before: &Self, after: &Self) -> Option<Self> {
        if at.grey == before.grey || at.grey == after.grey || before.grey == after.grey {
            return None;
        }
        let difference = at.grey.iter().zip(&before.grey).zip(&after.grey);
        let grey = difference.map(|((at, before), after)| (at - before).abs().min((at - after).abs())).collect();
        Some(Self { grey, reach: at.reach, label: at.label })
    }

    /// The value at a place from the label, between the four nearest pixels; 0 outside.
    fn at(&self, place: [f32; 2]) -> f32 {
        let [x, y] = [0, 1].map(|axis| place[axis] + self.label[axis] + self.reach as f32);
        let (left, top) = (x.floor(), y.floor());
        let side = 2 * self.reach + 1;
        let pixel = |dx: i32, dy: i32| {
            let (x, y) = (left as i32 + dx, top as i32 + dy);
            let inside = (0..side).contains(&x) && (0..side).contains(&y);
            if inside { self.grey[(y * side + x) as usize] } else { 0.0 }
        };
        let (fx, fy) = (x - left, y - top);
        let row = |dy: i32| pixel(0, dy) * (1.0 - fx) + pixel(1, dy) * fx;
        row(0) * (1.0 - fy) + row(1) * fy
    }
}

/// Measures the streak nearest to the label in what is new in a frame.
fn measure(new: &Patch, motion: [f32; 2]) -> Option<Streak> {
    let speed = length(motion);
    let along = motion.map(|v| v / speed);
    let value = |t: i32, n: i32| {
        let (t, n) = (t as f32, n as f32);
        new.at([t * along[0] - n * along[1], t * along[1] + n * along[0]])
    };
    let reach = speed.ceil() as i32 + 8;
    let profile: Vec<f32> = (-reach..=reach).map(|t| (-SIDE..=SIDE).map(|n| value(t, n)).fold(0.0, f32::max)).collect();
    let near = (0.7 * speed).ceil() as usize + 4;
    let [start, end] = piece(&profile, reach as usize, near)?;
    let middle = 0.5 * (start + end) - reach as f32;
    let core = [0.75 * start + 0.25 * end, 0.25 * start + 0.75 * end].map(|t| t.round() as i32 - reach);
    let across = |n: i32| (core[0]..=core[1]).map(|t| value(t, n)).sum::<f32>() / (core[1] - core[0] + 1) as f32;
    let across: Vec<f32> = (-SIDE..=SIDE).map(across).collect();
    let [left, right] = piece(&across, SIDE as usize, SIDE as usize)?;
    let half = 0.5 * ((end - start) - (right - left));
    let plausible = half >= SHORTEST && 2.0 * half <= 1.1 * speed;
    plausible.then_some(Streak { middle, half, shutter: 2.0 * half / speed })
}

/// The piece of a profile around its highest value within `near` of `centre` that is above half of it, with fractional
/// ends; `None` when it is too low or reaches the end of the profile.
fn piece(profile: &[f32], centre: usize, near: usize) -> Option<[f32; 2]> {
    let window = centre.saturating_sub(near)..(centre + near + 1).min(profile.len());
    let peak = window.max_by(|a, b| profile[*a].total_cmp(&profile[*b]))?;
    let half = 0.5 * profile[peak];
    let end = |step: isize| {
        let mut at = peak;
        loop {
            let next = at.checked_add_signed(step).filter(|next| *next < profile.len())?;
            if profile[next] < half {
                let part = (profile[at] - half) / (profile[at] - profile[next]);
                return Some(at as f32 + step as f32 * part);
            }
            at = next;
        }
    };
    (profile[peak] >= CONTRAST).then_some([end(-1)?, end(1)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is new in a frame: a ball of radius `r` that moves from `−half` to `half` along `motion`, seen from a label that
    /// lies `ahead` pixels ahead of the middle.
    fn streak(motion: [f32; 2], half: f32, radius: f32, ahead: f32) -> Patch {
        let reach = length(motion).ceil() as i32 + 12;
        let along = motion.map(|v| v / length(motion));
        let grey = |dx: i32, dy: i32| {
            let (x, y) = (dx as f32 + ahead * along[0], dy as f32 + ahead * along[1]);
            let (t, n) = (x * along[0] + y * along[1], y * along[0] - x * along[1]);
            let beyond = length([(t.abs() - half).max(0.0), n]);
            120.0 * (radius + 0.5 - beyond).clamp(0.0, 1.0)
        };
        let range = -reach..=reach;
        let grey = range.clone().flat_map(|dy| range.clone().map(move |dx| (dx, dy))).map(|(dx, dy)| grey(dx, dy));
        Patch { grey: grey.collect(), reach, label: [0.0, 0.0] }
    }

    #[test]
    fn middle_length_and_shutter_of_a_streak_are_measured_in_any_direction() {
        for motion in [[40.0, 0.0], [0.0, -40.0], [24.0, 32.0], [-32.0, 24.0]] {
            for ahead in [0.0, 5.0, 10.0, -6.0] {
                let found = measure(&streak(motion, 10.0, 3.0, ahead), motion).unwrap();
                assert!((found.middle + ahead).abs() < 0.6, "{motion:?} {ahead} {found:?}");
                assert!((found.half - 10.0).abs() < 1.0 && (found.shutter - 0.5).abs() < 0.05, "{found:?}");
            }
        }
        // A ball that hardly moves has no two ends, and one of low contrast none at all.
        assert_eq!(measure(&streak([12.0, 0.0], 0.5, 3.0, 0.0), [12.0, 0.0]), None);
        let mut faint = streak([40.0, 0.0], 10.0, 3.0, 0.0);
        faint.grey.iter_mut().for_each(|grey| *grey *= 0.1);
        assert_eq!(measure(&faint, [40.0, 0.0]), None);
    }

    #[test]
    fn the_sign_test_needs_three_standard_deviations() {
        let of = |ahead: usize, n: usize| {
            let streaks: Vec<Streak> = (0..n)
                .map(|i| Streak { middle: if i < ahead { -9.0 } else { 0.0 }, half: 10.0, shutter: 0.5 })
                .collect();
            Placement::of(&streaks)
        };
        assert_eq!(of(11, 11), None);
        for (ahead, n, doubted) in [(12, 12, true), (11, 12, false), (16, 20, false), (17, 20, true), (53, 80, false)] {
            assert_eq!(of(ahead, n).unwrap().doubt(LabelPoint::Center).is_some(), doubted, "{ahead} of {n}");
        }
        let text = of(70, 80).unwrap().doubt(LabelPoint::Center).unwrap();
        assert!(text.contains("ahead of the middle of the ball's streak in 70 of 80 frames, by 9.0 pixels"), "{text}");
        assert!(text.contains("data.label_point=leading") && text.contains("data.shutter=0.50"), "{text}");
        assert_eq!(of(70, 80).unwrap().doubt(LabelPoint::Leading), None);
    }
}

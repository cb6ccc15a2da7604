//! Candidates of successive frames → the trajectory of one ball.
//!
//! Frames come in order, each with its candidates ([`decode_candidates`](super::decode::decode_candidates)); the [`Tracker`] says
//! of each whether and where it has the ball. It looks at a window of about one second and decides its older half, so that a stream
//! of any length is tracked with a bounded delay:
//!
//! | module | what it does |
//! |---|---|
//! | `scene` | another scene ends a track; a repeated picture is no time that passes |
//! | `standing` | what never moves while a ball moves elsewhere is no candidate |
//! | `path` | the best path through the candidates: scores, speed, free flight, hits and bounces |
//! | `fill` | short gaps, where both sides agree |
//!
//! A position that was measured is given as it was measured. Related: WASB's online tracker (Tarashima et al., "Widely applicable
//! strong baseline for sports ball detection and tracking", BMVC 2023) predicts from three frames and takes the nearest candidate
//! within a largest distance; here whole paths compete, hits and gaps included.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{Detection, EvaluationError};
use crate::datasets::window::MOST_REPEATS;

mod fill;
mod path;
mod scene;
mod standing;

pub use scene::{Change, SceneWatch};

use path::{Motion, Node, Picture, Point, REACH_STEPS, best_path, distance};
use standing::Places;

/// Candidates of a frame that are looked at.
pub const CANDIDATES: usize = 5;

/// Deviation of the acceleration of a ball in free flight, in widths of the frame per second². In the labels of broadcasts three
/// quarters of the second differences are below 1.6, in rendered rallies below 0.9; hits and bounces are far above.
const FLIGHT_ACCELERATION: f64 = 1.5;

/// A window's length, in seconds, and the fewest and most frames of it.
const WINDOW_SECONDS: f64 = 1.0;
const WINDOW_FRAMES: [usize; 2] = [12, 64];

/// The largest worth of one score: heatmaps are surer of themselves than they are right.
const MOST_GAIN: f64 = 3.0;

/// A ball has moved that was farther from where it was first seen, in widths of the frame.
const MOVED: f64 = 0.02;

/// How far a candidate may lie from where the ball is known to be, in widths of the frame: 2 pixels of 512.
const SAME_PLACE: f64 = 0.004;

/// Points that are kept of the track that is decided: what a gap is filled from, and two that a path goes on from.
const KEPT_POINTS: usize = 3;

/// How candidates become a trajectory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrackOptions {
    /// The score at which a candidate alone says neither that it is the ball nor that it is not.
    pub threshold: f32,
    /// Frames a second.
    pub fps: f64,
    /// The fastest that a ball can be, in widths of the frame per second.
    pub max_speed: f64,
    /// The most pictures of a gap that is filled; 0 = none.
    pub max_gap: usize,
}

impl Default for TrackOptions {
    /// Score 0.5, 25 frames a second, 3 widths a second (154 pixels of 1280 from frame to frame), gaps of up to 4 pictures.
    ///
    /// The fastest labelled balls of broadcasts make 1.5 widths a second, those of rendered rallies 1.6.
    fn default() -> Self {
        Self { threshold: 0.5, fps: 25.0, max_speed: 3.0, max_gap: 4 }
    }
}

impl TrackOptions {
    /// # Errors
    /// The first value that makes no sense.
    fn check(&self) -> Result<(), EvaluationError> {
        let check = |good: bool, name, found: String, expected| {
            if good { Ok(()) } else { Err(EvaluationError::Option { name, found, expected }) }
        };
        check((0.0..=1.0).contains(&self.threshold), "threshold", self.threshold.to_string(), "a score from 0 to 1")?;
        let positive = |value: f64| value.is_finite() && value > 0.0;
        check(positive(self.fps), "track fps", self.fps.to_string(), "frames a second, above 0")?;
        let expected = "widths of the frame per second, above 0";
        check(positive(self.max_speed), "track max speed", self.max_speed.to_string(), expected)
    }

    fn window(&self) -> usize {
        ((self.fps * WINDOW_SECONDS) as usize).clamp(WINDOW_FRAMES[0], WINDOW_FRAMES[1])
    }

    /// What a score is worth: its log-odds less those of the threshold.
    fn gain(&self, score: f32) -> f64 {
        let log_odds = |score: f32| {
            let p = f64::from(score).clamp(1e-3, 1.0 - 1e-3);
            (p / (1.0 - p)).ln()
        };
        (log_odds(score) - log_odds(self.threshold)).clamp(-MOST_GAIN, MOST_GAIN)
    }
}

/// Where a position comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TrackSource {
    /// Measured on the frame.
    Detected,
    /// Computed from the frames around it.
    Filled,
}

impl TrackSource {
    /// `detected` or `filled`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Detected => "detected",
            Self::Filled => "filled",
        }
    }
}

/// A ball on a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Tracked {
    /// Where it is, in native pixels. Its score is the candidate's; that of a filled position is the best on its frame.
    pub detection: Detection,
    /// Whether it was measured.
    pub source: TrackSource,
}

/// What is known of a frame.
#[derive(Debug, Clone, PartialEq)]
pub struct TrackFrame {
    /// Its candidates in native pixels, the likeliest first; none if it could not be read.
    pub candidates: Vec<Detection>,
    /// Its size in native pixels, `[W, H]`.
    pub size: [usize; 2],
    /// How it follows the frame before it.
    pub change: Change,
    /// Frames that are missing before it.
    pub skipped: usize,
}

/// Tracks one ball through a stream. Each frame that is [pushed](Tracker::push) is decided once, in order.
#[derive(Debug, Clone)]
pub struct Tracker {
    options: TrackOptions,
    frames: VecDeque<Waiting>,
    /// The distinct pictures of these frames.
    pictures: VecDeque<Picture>,
    /// The last points of the track that is decided.
    before: Vec<Point>,
    places: Places,
    /// The step of the last picture, and the time of the last frame in frames; both from the last cut.
    step: i64,
    time: usize,
    /// The last frames that showed the same picture, beyond the first.
    repeats: usize,
}

/// A frame that is not yet decided.
#[derive(Debug, Clone)]
struct Waiting {
    frame: TrackFrame,
    /// Its picture's step.
    step: i64,
}

/// What is decided of a picture, in widths of the frame.
#[derive(Debug, Clone, Copy)]
struct Decided {
    xy: [f64; 2],
    is_measured: bool,
}

impl Tracker {
    /// # Errors
    /// An option that makes no sense.
    pub fn new(options: TrackOptions) -> Result<Self, EvaluationError> {
        options.check()?;
        Ok(Self {
            options,
            frames: VecDeque::new(),
            pictures: VecDeque::new(),
            before: Vec::new(),
            places: Places::default(),
            step: 0,
            time: 0,
            repeats: 0,
        })
    }

    /// Takes the next frame; returns what is decided by it of the oldest frames that are not decided yet, in order (often
    /// nothing). No more frames wait than last a second, or 64.
    pub fn push(&mut self, frame: TrackFrame) -> Vec<Option<Tracked>> {
        let mut decided = if frame.change == Change::Cut { self.finish() } else { Vec::new() };
        let is_repeated = frame.change == Change::Repeated && self.repeats < MOST_REPEATS && !self.pictures.is_empty();
        self.repeats = if is_repeated { self.repeats + 1 } else { 0 };
        self.time += 1 + frame.skipped;
        if !is_repeated {
            self.step += 1 + frame.skipped as i64;
            let picture = self.picture(&frame);
            self.places.see(&picture, self.seconds());
            self.pictures.push_back(picture);
        }
        self.frames.push_back(Waiting { frame, step: self.step });
        if self.frames.len() >= self.options.window() {
            decided.extend(self.decide(self.pictures.len().div_ceil(2)));
        }
        decided
    }

    /// Decides all frames that wait, and begins a new stream.
    pub fn finish(&mut self) -> Vec<Option<Tracked>> {
        let decided = self.decide(self.pictures.len());
        self.before.clear();
        self.places.clear();
        (self.step, self.time, self.repeats) = (0, 0, 0);
        decided
    }

    fn picture(&self, frame: &TrackFrame) -> Picture {
        let width = frame.size[0].max(1) as f64;
        let node = |found: &Detection| Node {
            xy: [f64::from(found.x) / width, f64::from(found.y) / width],
            gain: self.options.gain(found.score),
        };
        Picture { step: self.step, nodes: frame.candidates.iter().take(CANDIDATES).map(node).collect() }
    }

    /// How long a step takes: longer than a frame if frames are repeated.
    fn seconds(&self) -> f64 {
        self.time as f64 / self.step.max(1) as f64 / self.options.fps
    }

    fn motion(&self) -> Motion {
        let seconds = self.seconds();
        Motion { reach: self.options.max_speed * seconds, drift: FLIGHT_ACCELERATION * seconds * seconds }
    }

    /// Decides the oldest `count` pictures, with all of their frames.
    fn decide(&mut self, count: usize) -> Vec<Option<Tracked>> {
        let pictures: Vec<Picture> = self.pictures.iter().cloned().collect();
        let path = self.choose(&pictures);
        let mut found: Vec<Option<Decided>> = pictures
            .iter()
            .zip(&path)
            .map(|(picture, node)| node.map(|node| Decided { xy: picture.nodes[node].xy, is_measured: true }))
            .collect();
        self.fill(&pictures, &mut found);
        for (picture, found) in pictures.iter().zip(&found).take(count) {
            let measured = found.filter(|found| found.is_measured);
            self.before.extend(measured.map(|found| Point { step: picture.step, xy: found.xy }));
        }
        self.before.drain(..self.before.len().saturating_sub(KEPT_POINTS));
        self.pictures.drain(..count);
        let mut decided = Vec::new();
        for (picture, found) in pictures.iter().zip(found).take(count) {
            while let Some(waiting) = self.frames.pop_front_if(|waiting| waiting.step == picture.step) {
                decided.push(found.and_then(|found| found.on(&waiting.frame)));
            }
        }
        decided
    }

    /// The best path, without what stands while a ball moves.
    fn choose(&mut self, pictures: &[Picture]) -> Vec<Option<usize>> {
        let (motion, seconds) = (self.motion(), self.seconds());
        let track = |is_left_out: &dyn Fn([f64; 2]) -> bool| self.path_without(pictures, &motion, is_left_out);
        let moving = track(&|xy| self.places.is_false(xy) || self.places.stands(xy, seconds));
        if moves(pictures, &moving) {
            self.places.learn(pictures, &moving, seconds);
        }
        self.path_without(pictures, &motion, &|xy| self.places.is_false(xy))
    }

    fn path_without(
        &self,
        pictures: &[Picture],
        motion: &Motion,
        is_left_out: &dyn Fn([f64; 2]) -> bool,
    ) -> Vec<Option<usize>> {
        let kept: Vec<Vec<usize>> = pictures
            .iter()
            .map(|picture| (0..picture.nodes.len()).filter(|node| !is_left_out(picture.nodes[*node].xy)).collect())
            .collect();
        let reduced: Vec<Picture> = pictures
            .iter()
            .zip(&kept)
            .map(|(picture, kept)| Picture {
                step: picture.step,
                nodes: kept.iter().map(|n| picture.nodes[*n]).collect(),
            })
            .collect();
        let path = best_path(&reduced, &self.before, motion);
        path.into_iter().zip(kept).map(|(node, kept)| node.map(|node| kept[node])).collect()
    }

    /// Fills the gaps; a candidate that lies where the ball must be is what was measured.
    fn fill(&self, pictures: &[Picture], found: &mut [Option<Decided>]) {
        let measured: Vec<usize> = (0..found.len()).filter(|index| found[*index].is_some()).collect();
        let point = |index: &usize| found[*index].map(|found| Point { step: pictures[*index].step, xy: found.xy });
        let points: Vec<Point> = self.before.iter().copied().chain(measured.iter().filter_map(point)).collect();
        for split in 1..points.len() {
            let (left, right) = points.split_at(split);
            let missing = right[0].step - left[left.len() - 1].step - 1;
            if missing < 1 || missing > (self.options.max_gap as i64).min(REACH_STEPS - 1) {
                continue;
            }
            let steps: Vec<i64> = (right[0].step - missing..right[0].step).collect();
            let Some(places) = fill::fill(left, right, &steps, self.motion().drift) else { continue };
            for (step, xy) in steps.into_iter().zip(places) {
                // A frame that is missing has no picture.
                let Some(index) = pictures.iter().position(|picture| picture.step == step) else { continue };
                let nearest = nearest(&pictures[index].nodes, |node| node.xy, xy);
                found[index] = Some(Decided { xy: nearest.map_or(xy, |node| node.xy), is_measured: nearest.is_some() });
            }
        }
    }
}

/// The nearest of `items` to `xy`, if it is in the same place.
fn nearest<T>(items: &[T], place: impl Fn(&T) -> [f64; 2], xy: [f64; 2]) -> Option<&T> {
    let off = |item: &T| distance(place(item), xy);
    items.iter().filter(|item| off(item) <= SAME_PLACE).min_by(|a, b| off(a).total_cmp(&off(b)))
}

/// Whether a path leads anywhere.
fn moves(pictures: &[Picture], path: &[Option<usize>]) -> bool {
    let places: Vec<[f64; 2]> =
        pictures.iter().zip(path).filter_map(|(picture, node)| Some(picture.nodes[(*node)?].xy)).collect();
    places.iter().any(|place| distance(*place, places[0]) > MOVED)
}

impl Decided {
    /// What that means for a frame of the picture: its own candidate, or the position; `None` outside the frame.
    fn on(self, frame: &TrackFrame) -> Option<Tracked> {
        let [width, height] = frame.size.map(|n| n as f32);
        let scaled = |found: &Detection| [found.x, found.y].map(|v| f64::from(v) / f64::from(width.max(1.0)));
        if let (Some(own), true) = (nearest(&frame.candidates, scaled, self.xy), self.is_measured) {
            return Some(Tracked { detection: *own, source: TrackSource::Detected });
        }
        let [x, y] = self.xy.map(|v| (v * f64::from(width)) as f32);
        let score = frame.candidates.first().map_or(0.0, |found| found.score);
        let is_inside = (0.0..width).contains(&x) && (0.0..height).contains(&y);
        is_inside.then_some(Tracked { detection: Detection { x, y, score }, source: TrackSource::Filled })
    }
}

#[cfg(test)]
mod tests;

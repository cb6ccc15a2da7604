//! The best path through the candidates of a window: the Viterbi algorithm over pairs of candidates.
//!
//! A path takes at most one candidate of each picture. Its value is a sum of log-likelihood ratios between "this is the ball" and
//! "this is a false alarm" (the track score of Blackman, "Multiple-target tracking with radar applications", 1986):
//!
//! * each candidate's gain, from its score;
//! * [`LINK`] for each pair of successive candidates, less what the step costs: for the third and later ones how far they lie
//!   from where constant velocity leads, up to what a hit or bounce costs; nothing links what is faster than the ball can be;
//! * [`MISS`] for each picture that is passed over within a track, [`BIRTH`] for each track.
//!
//! No candidate at all is worth nothing, so that only what is worth more is taken. A track whose gains sum up to less than nothing is
//! left out all the same: what moves as a ball does and is never taken for one is a shoe or a racket. The state is the pair of the last two candidates:
//! the result is the best of all paths, not the best of greedy choices.

/// Cost of beginning a track: what stands alone must be this much surer than the threshold asks.
pub(super) const BIRTH: f64 = 2.0;
/// Gain of a candidate that lies where the track leads.
const LINK: f64 = 0.9;
/// Cost of each picture in which a track has no candidate.
const MISS: f64 = 0.6;
/// Cost of a change of direction that free flight does not explain: a hit, a bounce, or a false alarm.
const KINK: f64 = 0.8;
/// The most steps from one candidate of a track to the next.
pub(super) const REACH_STEPS: i64 = 8;
/// Deviation of a measured position in widths: 1 pixel of 512.
const NOISE: f64 = 0.002;

/// A candidate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// Position, in widths of the frame.
    pub(super) xy: [f64; 2],
    /// What its score is worth.
    pub(super) gain: f64,
}

/// The candidates of a picture.
#[derive(Debug, Clone, Default)]
pub(super) struct Picture {
    /// Its time, in steps.
    pub(super) step: i64,
    pub(super) nodes: Vec<Node>,
}

/// A point of a track that is decided.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Point {
    pub(super) step: i64,
    pub(super) xy: [f64; 2],
}

/// What the ball can do from one picture to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Motion {
    /// Longest way, in widths a step.
    pub(super) reach: f64,
    /// Deviation of the acceleration in free flight, in widths a step².
    pub(super) drift: f64,
}

pub(super) fn distance(a: [f64; 2], b: [f64; 2]) -> f64 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

impl Motion {
    /// Gain of going from `a` to `b`, the two being all that is known; `None` = too fast.
    fn pair(&self, a: Point, b: Point) -> Option<f64> {
        let steps = (b.step - a.step) as f64;
        let share = distance(a.xy, b.xy) / (self.reach * steps);
        // A ball is rarely as fast as it can be.
        (share <= 1.0).then_some(LINK - KINK * share - MISS * (steps - 1.0))
    }

    /// Gain of going on from `before` and `a` to `b`.
    fn triple(&self, before: Point, a: Point, b: Point) -> Option<f64> {
        let pair = self.pair(a, b)?;
        let (t0, t1) = ((a.step - before.step) as f64, (b.step - a.step) as f64);
        let ratio = t1 / t0;
        let ahead = [0, 1].map(|axis| a.xy[axis] + ratio * (a.xy[axis] - before.xy[axis]));
        let noise = NOISE * (1.0 + ratio * ratio + (1.0 + ratio) * (1.0 + ratio)).sqrt();
        let deviation = noise.hypot(0.5 * self.drift * t1 * (t0 + t1));
        let off = distance(ahead, b.xy) / deviation;
        let smooth = LINK - MISS * (t1 - 1.0) - 0.5 * off * off;
        Some(smooth.max(pair - KINK))
    }
}

/// How a path comes to a candidate.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    value: f64,
    /// The candidate before it, and how the path came there.
    from: Option<Place>,
    /// Whether that one belongs to the same track.
    linked: bool,
}

/// A candidate and one of its arrivals: picture, node, arrival.
type Place = (usize, usize, usize);

/// The best path through `pictures`, in order of time: for each the index of its candidate. `before` holds the last decided
/// points of a track that may go on, at most two count.
pub(super) fn best_path(pictures: &[Picture], before: &[Point], motion: &Motion) -> Vec<Option<usize>> {
    let mut search = Search::new(pictures, before, motion);
    (search.known..search.pictures.len()).for_each(|picture| search.advance(picture));
    let mut path = search.path();
    for track in path.chunk_by_mut(|_, next| next.is_linked) {
        if track.iter().map(|step| pictures[step.picture].nodes[step.node].gain).sum::<f64>() < 0.0 {
            track.iter_mut().for_each(|step| step.is_believed = false);
        }
    }
    let mut chosen = vec![None; pictures.len()];
    path.iter().filter(|step| step.is_believed).for_each(|step| chosen[step.picture] = Some(step.node));
    chosen
}

/// A candidate on the best path.
#[derive(Debug, Clone, Copy)]
struct Step {
    picture: usize,
    node: usize,
    /// Whether it goes on a track.
    is_linked: bool,
    /// Whether its track is taken for a ball.
    is_believed: bool,
}

/// The table of the search. The decided points are pictures of one candidate each at its beginning.
struct Search<'a> {
    pictures: Vec<Picture>,
    known: usize,
    motion: &'a Motion,
    /// For each picture and candidate, the ways to it.
    arrivals: Vec<Vec<Vec<Arrival>>>,
    /// The value of the best path so far, and its end.
    best: (f64, Option<Place>),
}

impl<'a> Search<'a> {
    fn new(pictures: &[Picture], before: &[Point], motion: &'a Motion) -> Self {
        let before = &before[before.len().saturating_sub(2)..];
        let known = before.iter().map(|point| {
            let nodes = vec![Node { xy: point.xy, gain: 0.0 }];
            Picture { step: point.step, nodes }
        });
        let linked = before.iter().enumerate().map(|(index, _)| {
            let from = index.checked_sub(1).map(|last| (last, 0, 0));
            vec![vec![Arrival { value: 0.0, from, linked: from.is_some() }]]
        });
        Self {
            known: before.len(),
            arrivals: linked.collect(),
            pictures: known.chain(pictures.iter().cloned()).collect(),
            motion,
            best: (0.0, None),
        }
    }

    fn point(&self, (picture, node, _): Place) -> Point {
        let Picture { step, nodes } = &self.pictures[picture];
        Point { step: *step, xy: nodes[node].xy }
    }

    /// Finds the ways to the candidates of a picture.
    fn advance(&mut self, picture: usize) {
        let mut found = Vec::with_capacity(self.pictures[picture].nodes.len());
        for node in 0..self.pictures[picture].nodes.len() {
            let gain = self.pictures[picture].nodes[node].gain;
            let (value, from) = self.best;
            let mut arrivals = vec![Arrival { value: value - BIRTH + gain, from, linked: false }];
            let here = self.point((picture, node, 0));
            for earlier in (0..picture).rev() {
                if here.step - self.pictures[earlier].step > REACH_STEPS {
                    break;
                }
                let ways = (0..self.pictures[earlier].nodes.len()).filter_map(|from| self.link(here, (earlier, from)));
                arrivals.extend(ways.map(|arrival| Arrival { value: arrival.value + gain, ..arrival }));
            }
            found.push(arrivals);
        }
        self.arrivals.push(found);
        for (node, arrivals) in self.arrivals[picture].iter().enumerate() {
            for (index, arrival) in arrivals.iter().enumerate() {
                if arrival.value > self.best.0 {
                    self.best = (arrival.value, Some((picture, node, index)));
                }
            }
        }
    }

    /// The best way to `here` through a candidate of an earlier picture.
    fn link(&self, here: Point, (earlier, node): (usize, usize)) -> Option<Arrival> {
        let mut best: Option<Arrival> = None;
        for (index, arrival) in self.arrivals[earlier][node].iter().enumerate() {
            let place = (earlier, node, index);
            let there = self.point(place);
            let gain = match arrival.from.filter(|_| arrival.linked) {
                Some(before) => self.motion.triple(self.point(before), there, here),
                None => self.motion.pair(there, here),
            };
            let value = arrival.value + gain?;
            if best.is_none_or(|best| value > best.value) {
                best = Some(Arrival { value, from: Some(place), linked: true });
            }
        }
        best
    }

    /// The candidates of the best path, in order of time, without the decided points.
    fn path(&self) -> Vec<Step> {
        let mut path = Vec::new();
        let mut end = self.best.1;
        while let Some((picture, node, arrival)) = end.filter(|(picture, ..)| *picture >= self.known) {
            let Arrival { from, linked, .. } = self.arrivals[picture][node][arrival];
            path.push(Step { picture: picture - self.known, node, is_linked: linked, is_believed: true });
            end = from;
        }
        path.reverse();
        path
    }
}

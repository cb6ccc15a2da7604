//! What a label marks of a moving ball: the middle of its streak, or where it is when the exposure ends.
//!
//! While the shutter is open the ball draws a streak. Detectors of heatmaps answer with its centre, and so do boxes and
//! most labelling tools; the TrackNet data set marks "the latest position of the ball in its trace" (Huang et al. 2019,
//! <https://arxiv.org/abs/1907.03698>). With `v` pixels from frame to frame and a shutter that is open for the share `s` of
//! a frame's time, the two lie `s · v / 2` apart, along the motion. Models are trained and measured on centres.

use crate::config::LabelPoint;

/// Two steps are one motion when they differ by no more than this share of the larger one, and [`SLACK`] pixels.
const BEND: f32 = 0.35;
/// Pixels by which labels of one motion may be off.
const SLACK: f32 = 2.0;
/// Frames to the next label that a step may span: one frame without a label, or one that repeats the picture before it.
const REACH: usize = 2;

/// What [`to_center`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Converted {
    /// Labels that were moved, or would not move.
    pub moved: usize,
    /// Labels that stay where they are, because neighbours are missing or the motion bends on both sides.
    pub left: usize,
    /// Sum of the distances, in pixels.
    pub distance: f64,
}

impl Converted {
    /// The sum of two.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let (moved, left) = (self.moved + other.moved, self.left + other.left);
        Self { moved, left, distance: self.distance + other.distance }
    }

    /// What to tell a person; `None` when there was nothing to convert.
    pub fn note(&self) -> Option<String> {
        (self.moved + self.left > 0).then(|| {
            format!(
                "labels of the leading end: {} moved to the centre of the streak, by {:.1} pixels in the mean; {} left \
                 where they are, as neighbours are missing or the motion bends",
                self.moved,
                self.distance / self.moved.max(1) as f64,
                self.left
            )
        })
    }
}

/// Makes centres of the labels of a clip, pixels by the place of their frame, `None` without a ball.
///
/// A label of [`LabelPoint::Leading`] goes back by `s · v / 2`, where `v` is the [`motion`] at its frame. Where that is not
/// known the label stays as it is.
pub fn to_center(points: &mut [Option<[f32; 2]>], point: LabelPoint, shutter: f32) -> Converted {
    let mut converted = Converted::default();
    if point == LabelPoint::Center {
        return converted;
    }
    let given = points.to_vec();
    for (place, point) in points.iter_mut().enumerate() {
        let Some([x, y]) = *point else { continue };
        match motion(&given, place) {
            Some(v) => {
                let [dx, dy] = v.map(|v| 0.5 * shutter * v);
                *point = Some([x - dx, y - dy]);
                converted.moved += 1;
                converted.distance += f64::from(length([dx, dy]));
            }
            None => converted.left += 1,
        }
    }
    converted
}

/// Pixels that the ball moves in the time of a frame, from the labels around `place`.
///
/// Where both steps are one motion it is their mean. At a hit or a bounce it is that of the side whose motion goes on
/// straight, the side before when both do: an exposure lies before the label at its end. `None` where neither does.
pub fn motion(points: &[Option<[f32; 2]>], place: usize) -> Option<[f32; 2]> {
    if let Some(steady) = steady_motion(points, place) {
        return Some(steady);
    }
    let straight = |back: bool| {
        let (step, next) = step(points, place, back)?;
        let (further, _) = self::step(points, next, back)?;
        is_one_motion(step, further).then_some(step)
    };
    straight(true).or_else(|| straight(false))
}

/// [`motion`] where the ball flies on as it came.
pub fn steady_motion(points: &[Option<[f32; 2]>], place: usize) -> Option<[f32; 2]> {
    let ((before, _), (after, _)) = (step(points, place, true)?, step(points, place, false)?);
    is_one_motion(before, after).then(|| [0, 1].map(|axis| 0.5 * (before[axis] + after[axis])))
}

/// The motion from one label to the next or the one before, in pixels a frame and in the direction of time, and the place
/// of that label. Frames that repeat the picture before them take no time.
fn step(points: &[Option<[f32; 2]>], place: usize, back: bool) -> Option<([f32; 2], usize)> {
    let here = (*points.get(place)?)?;
    let mut time = 0.0;
    let mut last = None;
    for distance in 1..=REACH {
        let next = if back { place.checked_sub(distance)? } else { place + distance };
        let Some(there) = *points.get(next)? else {
            time += 1.0;
            continue;
        };
        let repeated = there == here;
        time += if repeated { 0.0 } else { 1.0 };
        let sign = if back { -1.0 } else { 1.0 };
        last = Some(([0, 1].map(|axis| sign * (there[axis] - here[axis]) / f32::max(time, 1.0)), next));
        if !repeated {
            break;
        }
    }
    last
}

fn is_one_motion(a: [f32; 2], b: [f32; 2]) -> bool {
    length([a[0] - b[0], a[1] - b[1]]) <= SLACK + BEND * length(a).max(length(b))
}

/// Length of a vector.
pub(super) fn length([x, y]: [f32; 2]) -> f32 {
    (x * x + y * y).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ball that is at `place` at the end of each exposure, and flies on with the same motion.
    fn flight(v: [f32; 2], frames: usize) -> Vec<Option<[f32; 2]>> {
        (0..frames).map(|i| Some([100.0 + v[0] * i as f32, 50.0 + v[1] * i as f32])).collect()
    }

    fn converted(mut points: Vec<Option<[f32; 2]>>) -> (Vec<Option<[f32; 2]>>, Converted) {
        let done = to_center(&mut points, LabelPoint::Leading, 0.5);
        (points, done)
    }

    #[test]
    fn a_leading_label_goes_back_by_half_of_what_the_ball_moves_in_the_exposure() {
        let given = flight([40.0, -8.0], 5);
        let (points, done) = converted(given.clone());
        for (point, given) in points.iter().zip(&given) {
            let (point, given) = (point.unwrap(), given.unwrap());
            assert_eq!(point, [given[0] - 10.0, given[1] + 2.0]);
        }
        assert_eq!((done.moved, done.left), (5, 0));
        assert!((done.distance / 5.0 - 104f64.sqrt()).abs() < 1e-5);
        let mut centres = given.clone();
        assert_eq!(to_center(&mut centres, LabelPoint::Center, 0.5), Converted::default());
        assert_eq!(centres, given);
    }

    #[test]
    fn at_a_bounce_each_side_keeps_its_own_motion() {
        // Down until place 3, up from there.
        let y = [0.0, 30.0, 60.0, 90.0, 66.0, 42.0, 18.0];
        let given: Vec<_> = y.iter().enumerate().map(|(i, y)| Some([10.0 * i as f32, *y])).collect();
        let (points, done) = converted(given);
        let moved: Vec<f32> = points.iter().zip(y).map(|(point, y)| y - point.unwrap()[1]).collect();
        assert_eq!(moved, [7.5, 7.5, 7.5, 7.5, -6.0, -6.0, -6.0]);
        assert_eq!(done.left, 0);
    }

    #[test]
    fn without_neighbours_or_where_every_step_is_another_a_label_stays() {
        let lone = vec![None, None, None, Some([5.0, 5.0]), None, None, None];
        assert_eq!(converted(lone.clone()), (lone, Converted { left: 1, ..Converted::default() }));
        let pair = vec![Some([5.0, 5.0]), Some([45.0, 5.0])];
        assert_eq!(converted(pair.clone()).0, pair);
        let wild = vec![Some([0.0, 0.0]), Some([200.0, 0.0]), Some([0.0, 90.0]), Some([9.0, 300.0])];
        assert_eq!(converted(wild.clone()).0, wild);
    }

    #[test]
    fn a_gap_and_a_repeated_frame_do_not_change_the_motion() {
        let mut gap = flight([20.0, 0.0], 6);
        gap[2] = None;
        let repeated: Vec<_> = [0, 1, 1, 2, 3, 4].iter().map(|&i| flight([20.0, 0.0], 5)[i]).collect();
        for given in [gap, repeated] {
            let (points, done) = converted(given.clone());
            for (point, given) in points.iter().zip(&given) {
                assert_eq!(point.map(|xy| xy[0]), given.map(|xy| xy[0] - 5.0), "{given:?}");
            }
            assert_eq!(done.left, 0);
        }
        let (still, done) = converted(vec![Some([7.0, 7.0]); 6]);
        assert_eq!((still, done.distance), (vec![Some([7.0, 7.0]); 6], 0.0));
    }
}

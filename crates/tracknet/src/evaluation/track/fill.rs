//! Short gaps of a track: filled where both sides agree.

use super::path::{Point, distance};

/// The most points of each side that a gap is filled from.
const SIDE: usize = 3;

/// How far a point may lie from the curve through both sides, in widths of the frame: 1.5 pixels of 512.
const AGREEMENT: f64 = 0.003;

/// Where the ball was at `steps`, which lie between `left` and `right` (each in order of time): on the parabola with the least
/// squares through the three points nearest to the gap on either side, or the two nearest if the third does not fit. `None` if
/// two points of a side are missing, one lies off the parabola, or it bends more than `acceleration` (in widths a step²): then the
/// ball was hit, or bounced, or it is another ball.
pub(super) fn fill(left: &[Point], right: &[Point], steps: &[i64], acceleration: f64) -> Option<Vec<[f64; 2]>> {
    (2..=SIDE).rev().find_map(|side| {
        let left = left.get(left.len().checked_sub(side)?..)?;
        let points: Vec<Point> = left.iter().chain(right.get(..side)?).copied().collect();
        // Time from the middle of the gap, in units of the whole: a well-conditioned fit.
        let (first, last) = (points[0].step as f64, points[points.len() - 1].step as f64);
        let time = |step: i64| (2.0 * step as f64 - first - last) / (last - first).max(1.0);
        let fit = |axis: usize| parabola(&points.iter().map(|p| [time(p.step), p.xy[axis]]).collect::<Vec<_>>());
        let curves = [fit(0)?, fit(1)?];
        let at = |step: i64| curves.map(|[a, b, c]| a + time(step) * (b + time(step) * c));
        let bend = 8.0 * curves[0][2].hypot(curves[1][2]) / (last - first).max(1.0).powi(2);
        let agrees = points.iter().all(|point| distance(at(point.step), point.xy) <= AGREEMENT);
        (agrees && bend <= acceleration).then(|| steps.iter().map(|step| at(*step)).collect())
    })
}

/// `a + b·t + c·t²` with the least squares through points `[t, value]`; `None` if fewer than three differ in t.
fn parabola(points: &[[f64; 2]]) -> Option<[f64; 3]> {
    // Normal equations, by Cramer's rule.
    let moment = |power: i32| points.iter().map(|[t, _]| t.powi(power)).sum::<f64>();
    let product = |power: i32| points.iter().map(|[t, value]| t.powi(power) * value).sum::<f64>();
    let m = [0, 1, 2, 3, 4].map(moment);
    let matrix = [[m[0], m[1], m[2]], [m[1], m[2], m[3]], [m[2], m[3], m[4]]];
    let right = [0, 1, 2].map(product);
    let whole = determinant(&matrix);
    if whole.abs() < 1e-9 {
        return None;
    }
    Some([0, 1, 2].map(|column| {
        let mut replaced = matrix;
        (0..3).for_each(|row| replaced[row][column] = right[row]);
        determinant(&replaced) / whole
    }))
}

fn determinant(m: &[[f64; 3]; 3]) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(steps: impl IntoIterator<Item = i64>, at: impl Fn(f64) -> [f64; 2]) -> Vec<Point> {
        steps.into_iter().map(|step| Point { step, xy: at(step as f64) }).collect()
    }

    #[test]
    fn a_gap_in_free_flight_is_filled_exactly_and_one_over_a_bounce_is_not() {
        let flight = |t: f64| [0.2 + 0.01 * t, 0.3 - 0.02 * t + 0.0005 * t * t];
        let filled = fill(&points(0..5, flight), &points(8..12, flight), &[5, 6, 7], 0.002).unwrap();
        for (xy, step) in filled.iter().zip([5.0, 6.0, 7.0]) {
            assert!(distance(*xy, flight(step)) < 1e-9, "{xy:?} {:?}", flight(step));
        }
        let bounce = |t: f64| [0.2 + 0.01 * t, 0.3 + 0.01 * (t - 6.0).abs()];
        assert_eq!(fill(&points(0..5, bounce), &points(8..12, bounce), &[5, 6, 7], 0.002), None);
    }

    #[test]
    fn a_side_needs_two_points_and_a_bounce_before_the_nearest_two_does_no_harm() {
        let flight = |t: f64| [0.01 * t, 0.4];
        assert_eq!(fill(&points([4], flight), &points(6..9, flight), &[5], 0.002), None);
        assert_eq!(fill(&points(2..5, flight), &[], &[5], 0.002), None);
        let mut left = points(2..5, flight);
        left[0].xy[1] = 0.5;
        let filled = fill(&left, &points(6..9, flight), &[5], 0.002).unwrap();
        assert!(distance(filled[0], flight(5.0)) < 1e-9);
    }
}

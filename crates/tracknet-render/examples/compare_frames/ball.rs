//! What one frame and its neighbours show of the ball.

use crate::picture::Picture;

/// Half the side of the window that is looked at, pixels at 720 lines.
const REACH: f32 = 30.0;
/// Differences below this, in levels, are no ball.
const FAINT: f32 = 8.0;
/// The blob is what differs by at least this share of its peak.
const EDGE: f32 = 0.35;

/// A ball as the difference between a frame and the median of its neighbours.
pub(crate) struct Ball {
    /// Four standard deviations of the difference along and across the streak: the diameter of a disc. Pixels at 720 lines.
    pub(crate) along: f32,
    pub(crate) across: f32,
    /// Largest difference of luma, with its sign; mean differences of colour. Levels.
    pub(crate) contrast: f32,
    pub(crate) chroma: [f32; 2],
    /// Distance from the label to the blob's centre, pixels at 720 lines.
    pub(crate) offset: f32,
    /// Mean difference around the blob over the peak: below 0 where sharpening leaves a halo.
    pub(crate) halo: f32,
    /// Steepest step from pixel to pixel over the peak: 1 is a hard edge.
    pub(crate) edge: f32,
    /// Deviation of the median's luma around the ball, levels.
    pub(crate) background: f32,
}

/// Differences of luma in a square window.
struct Window {
    left: i32,
    top: i32,
    side: i32,
    difference: Vec<f32>,
}

impl Window {
    fn at(&self, x: i32, y: i32) -> f32 {
        let inside = (0..self.side).contains(&x) && (0..self.side).contains(&y);
        let index = if inside { (y * self.side + x) as usize } else { usize::MAX };
        self.difference.get(index).copied().unwrap_or(0.0)
    }
}

/// The ball near a label; `None` where it does not stand out, or runs into something else that moves.
pub(crate) fn measure(frame: &Picture, neighbours: &[&Picture], label: [f32; 2]) -> Option<Ball> {
    let scale = frame.scale();
    let reach = (REACH / scale).round() as i32;
    let [cx, cy] = label.map(|v| v.round() as i32);
    let side = 2 * reach + 1;
    let (left, top) = (cx - reach, cy - reach);
    let mut difference = Vec::with_capacity((side * side) as usize);
    let mut still = Vec::with_capacity((side * side) as usize);
    for y in top..top + side {
        for x in left..left + side {
            let background = median(neighbours.iter().map(|n| n.at(x, y)));
            still.push(background);
            difference.push(frame.at(x, y) - background);
        }
    }
    let window = Window { left, top, side, difference };
    let (peak, [px, py]) = peak(&window, reach, (7.0 / scale) as i32)?;
    let blob = flood(&window, peak, [px, py])?;
    let moments = Moments::of(&window, &blob, peak.signum());
    let center = [left as f32 + moments.x, top as f32 + moments.y];
    let offset = ((center[0] - label[0]).powi(2) + (center[1] - label[1]).powi(2)).sqrt();
    Some(Ball {
        along: 4.0 * moments.major * scale,
        across: 4.0 * moments.minor * scale,
        contrast: peak,
        chroma: chroma(frame, neighbours, &window, &blob),
        offset: offset * scale,
        halo: halo(&window, &blob) / peak,
        edge: steepest(&window, &blob) / peak.abs(),
        background: deviation(&still),
    })
}

/// The largest difference near the middle and where it is.
fn peak(window: &Window, middle: i32, reach: i32) -> Option<(f32, [i32; 2])> {
    let mut best = (0.0_f32, [0, 0]);
    for y in middle - reach..=middle + reach {
        for x in middle - reach..=middle + reach {
            let d = window.at(x, y);
            if d.abs() > best.0.abs() {
                best = (d, [x, y]);
            }
        }
    }
    (best.0.abs() >= FAINT).then_some(best)
}

/// The pixels connected with the peak that differ like it; `None` if they reach the window's edge.
fn flood(window: &Window, peak: f32, start: [i32; 2]) -> Option<Vec<[i32; 2]>> {
    let mut seen = vec![false; window.difference.len()];
    let mut open = vec![start];
    let mut blob = Vec::new();
    while let Some([x, y]) = open.pop() {
        let index = (y * window.side + x) as usize;
        if seen.get(index).copied().unwrap_or(true) {
            continue;
        }
        if let Some(flag) = seen.get_mut(index) {
            *flag = true;
        }
        if window.at(x, y) / peak < EDGE {
            continue;
        }
        if x == 0 || y == 0 || x + 1 == window.side || y + 1 == window.side {
            return None;
        }
        blob.push([x, y]);
        open.extend([[x - 1, y], [x + 1, y], [x, y - 1], [x, y + 1]]);
    }
    Some(blob)
}

/// Centre and deviations of a blob, weighted by its difference.
struct Moments {
    x: f32,
    y: f32,
    major: f32,
    minor: f32,
}

impl Moments {
    fn of(window: &Window, blob: &[[i32; 2]], sign: f32) -> Self {
        let weighted = || blob.iter().map(|&[x, y]| (window.at(x, y) * sign, x as f32, y as f32));
        let mass: f32 = weighted().map(|(w, _, _)| w).sum();
        let x = weighted().map(|(w, x, _)| w * x).sum::<f32>() / mass;
        let y = weighted().map(|(w, _, y)| w * y).sum::<f32>() / mass;
        let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
        for (w, px, py) in weighted() {
            xx += w * (px - x) * (px - x) / mass;
            xy += w * (px - x) * (py - y) / mass;
            yy += w * (py - y) * (py - y) / mass;
        }
        let (middle, spread) = ((xx + yy) * 0.5, (((xx - yy) * 0.5).powi(2) + xy * xy).sqrt());
        Self { x, y, major: (middle + spread).sqrt(), minor: (middle - spread).max(0.0).sqrt() }
    }
}

fn chroma(frame: &Picture, neighbours: &[&Picture], window: &Window, blob: &[[i32; 2]]) -> [f32; 2] {
    let mut sum = [0.0; 2];
    for &[x, y] in blob {
        let (x, y) = (window.left + x, window.top + y);
        let here = frame.chroma_at(x, y);
        for (channel, total) in sum.iter_mut().enumerate() {
            let of = |pair: [f32; 2]| if channel == 0 { pair[0] } else { pair[1] };
            *total += of(here) - median(neighbours.iter().map(|n| of(n.chroma_at(x, y))));
        }
    }
    sum.map(|s| s / blob.len().max(1) as f32)
}

/// Mean difference of the pixels that are 2 or 3 away from the blob.
fn halo(window: &Window, blob: &[[i32; 2]]) -> f32 {
    let (mut sum, mut count) = (0.0, 0.0_f32);
    for y in 0..window.side {
        for x in 0..window.side {
            let away = blob.iter().map(|[bx, by]| (bx - x).abs().max((by - y).abs())).min().unwrap_or(0);
            if (2..=3).contains(&away) {
                sum += window.at(x, y);
                count += 1.0;
            }
        }
    }
    sum / count.max(1.0)
}

fn steepest(window: &Window, blob: &[[i32; 2]]) -> f32 {
    let steps = blob.iter().flat_map(|&[x, y]| {
        [[1, 0], [-1, 0], [0, 1], [0, -1]].map(|[dx, dy]| (window.at(x, y) - window.at(x + dx, y + dy)).abs())
    });
    steps.fold(0.0, f32::max)
}

/// The median; of an even count the mean of the middle two.
pub(crate) fn median(values: impl Iterator<Item = f32>) -> f32 {
    let mut sorted: Vec<f32> = values.collect();
    sorted.sort_by(f32::total_cmp);
    let middle = sorted.len() / 2;
    let upper = sorted.get(middle).copied().unwrap_or(0.0);
    let lower = sorted.get(middle.saturating_sub(1)).copied().unwrap_or(upper);
    if sorted.len().is_multiple_of(2) { (lower + upper) * 0.5 } else { upper }
}

pub(crate) fn deviation(values: &[f32]) -> f32 {
    let count = values.len().max(1) as f32;
    let mean = values.iter().sum::<f32>() / count;
    (values.iter().map(|v| (v - mean) * (v - mean)).sum::<f32>() / count).sqrt()
}

//! What the frames of a clip show as a whole, and the balls that its labels name.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use crate::ball::{self, deviation, median};
use crate::picture::{Label, Picture, Problem, frames, labels};
use crate::table::Samples;

/// Differences of luma above this are motion, levels.
const MOVED: f32 = 14.0;
/// Side of the blocks in which noise is measured, pixels.
const BLOCK: usize = 16;

/// Frames before and after a ball's own that tell what lies behind it.
const AROUND: usize = 2;

/// All measures of a clip.
pub(crate) fn measure(directory: &Path) -> Result<Samples, Problem> {
    let paths = frames(directory)?;
    let labels = labels(directory)?;
    let name = |index: usize| paths.get(index).and_then(|p| p.file_name()).map(|n| n.to_string_lossy().into_owned());
    let label = |index: usize| name(index).and_then(|name| labels.get(&name)).copied();
    let mut samples = Samples::default();
    let mut changes = Vec::new();
    let mut window: VecDeque<(usize, Picture)> = VecDeque::new();
    for index in 0..paths.len() + AROUND {
        if let Some(path) = paths.get(index) {
            let picture = Picture::open(path)?;
            if let Some((_, before)) = window.back().filter(|(_, b)| b.size() == picture.size()) {
                changes.push(change(before, &picture));
                pair(before, &picture, &mut samples);
            }
            if index % 6 == 0 {
                still(&picture, &mut samples);
            }
            window.push_back((index, picture));
        }
        let Some(middle) = index.checked_sub(AROUND) else { continue };
        window.retain(|(i, _)| i + AROUND >= middle);
        if let Some((1 | 2, Some(xy))) = label(middle) {
            let moved = displacement([middle.checked_sub(1), Some(middle + 1)].map(|i| i.and_then(&label)));
            one_ball(&window, middle, xy, moved, &mut samples);
        }
    }
    repeats(&changes, &mut samples);
    rows((0..paths.len()).filter_map(&label), paths.first(), &mut samples);
    Ok(samples)
}

/// Mean absolute difference of two frames, over every third row.
fn change(a: &Picture, b: &Picture) -> f32 {
    let rows = a.luma.chunks(a.width).zip(b.luma.chunks(b.width)).step_by(3);
    let (mut sum, mut count) = (0.0_f64, 0_usize);
    for (a, b) in rows {
        sum += a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum::<f64>();
        count += a.len();
    }
    (sum / count.max(1) as f64) as f32
}

/// The share of frames that hardly differ from the one before, where there are enough to tell.
fn repeats(changes: &[f32], samples: &mut Samples) {
    if changes.len() < 8 {
        return;
    }
    let usual = median(changes.iter().copied());
    let repeated = changes.iter().filter(|c| **c < 0.2 * usual).count();
    samples.push("clip: repeated frames, share", repeated as f32 / changes.len() as f32);
}

/// How the labels run: distances from frame to frame, frames without a ball.
fn rows(labels: impl Iterator<Item = Label>, frame: Option<&PathBuf>, samples: &mut Samples) {
    let scale =
        frame.and_then(|path| image::image_dimensions(path).ok()).map_or(1.0, |(_, height)| 720.0 / height as f32);
    let (mut before, mut absent, mut count): (Option<[f32; 2]>, f32, f32) = (None, 0.0, 0.0);
    for (visibility, xy) in labels {
        count += 1.0;
        absent += f32::from(u8::from(visibility == 0));
        if let (Some(a), Some(b)) = (before, xy) {
            samples.push("label: step between frames, px", length(a, b) * scale);
        }
        before = xy;
    }
    if count >= 8.0 {
        samples.push("clip: frames without a ball, share", absent / count);
    }
}

fn length(a: [f32; 2], b: [f32; 2]) -> f32 {
    ((a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)).sqrt()
}

/// Pixels that the ball moves in a frame's time, from its neighbours' labels.
fn displacement([before, after]: [Option<Label>; 2]) -> Option<f32> {
    match (before, after) {
        (Some((_, Some(a))), Some((_, Some(b)))) => Some(length(a, b) * 0.5),
        _ => None,
    }
}

/// The ball of frame `middle` against the frames around it.
fn one_ball(
    window: &VecDeque<(usize, Picture)>,
    middle: usize,
    xy: [f32; 2],
    moved: Option<f32>,
    samples: &mut Samples,
) {
    let Some((_, frame)) = window.iter().find(|(i, _)| *i == middle) else { return };
    let others = window.iter().filter(|(i, p)| *i != middle && p.size() == frame.size());
    let neighbours: Vec<&Picture> = others.map(|(_, p)| p).collect();
    if neighbours.len() < 3 {
        return;
    }
    let found = ball::measure(frame, &neighbours, xy);
    samples.push("ball: stands out, share", f32::from(u8::from(found.is_some())));
    let Some(ball) = found else { return };
    samples.push("ball: along, px", ball.along);
    samples.push("ball: across, px", ball.across);
    samples.push("ball: contrast of luma", ball.contrast);
    samples.push("ball: contrast of Cb", ball.chroma[0]);
    samples.push("ball: contrast of Cr", ball.chroma[1]);
    samples.push("ball: centre to label, px", ball.offset);
    samples.push("ball: halo over peak", ball.halo);
    samples.push("ball: steepest edge over peak", ball.edge);
    samples.push("ball: deviation around it", ball.background);
    match moved.map(|m| m * frame.scale()) {
        Some(m) if m < 6.0 => samples.push("ball: contrast of luma, slow (< 6 px a frame)", ball.contrast),
        Some(m) if m > 14.0 => {
            samples.push("ball: contrast of luma, fast (> 14 px a frame)", ball.contrast);
            samples.push("ball: shutter share, fast", (ball.along - ball.across) / m);
        }
        _ => {}
    }
}

/// Measures of one frame alone.
fn still(picture: &Picture, samples: &mut Samples) {
    let mut sorted = picture.luma.clone();
    sorted.sort_by(f32::total_cmp);
    let at = |share: f32| sorted.get((share * (sorted.len() - 1) as f32) as usize).copied().unwrap_or(0.0);
    samples.push("frame: luma, mean", sorted.iter().map(|v| f64::from(*v)).sum::<f64>() as f32 / sorted.len() as f32);
    samples.push("frame: luma, 5 %", at(0.05));
    samples.push("frame: luma, 95 %", at(0.95));
    let colour: f64 = picture.chroma.iter().map(|[b, r]| f64::from((b * b + r * r).sqrt())).sum();
    samples.push("frame: saturation, mean", (colour / picture.chroma.len() as f64) as f32);
    let mut near = 0.0_f64;
    let mut far = 0.0_f64;
    // Steps between flat neighbours, on the borders of 8 pixel blocks and elsewhere: count and sum.
    let mut borders = [[0.0_f64; 2]; 2];
    for row in picture.luma.chunks(picture.width) {
        for (x, v) in row.windows(3).enumerate() {
            let (step, double) = ((v[1] - v[0]).abs(), (v[2] - v[0]).abs());
            near += f64::from(step);
            far += f64::from(double);
            if step < 8.0
                && let Some(sum) = borders.get_mut(usize::from(x % 8 == 7))
            {
                sum[0] += 1.0;
                sum[1] += f64::from(step);
            }
        }
    }
    let [[n, s], [bn, bs]] = borders;
    samples.push("frame: steps at 8 px borders over elsewhere", ((bs / bn) / (s / n)) as f32);
    samples.push("frame: step of 1 px over step of 2 px", (near / far) as f32);
    samples.push("frame: step of 1 px, mean", (near / picture.luma.len() as f64) as f32);
}

/// Measures of two frames in a row: noise where nothing moves, combs where something does.
fn pair(before: &Picture, now: &Picture, samples: &mut Samples) {
    let (mut noise, mut frozen) = (Vec::new(), 0.0_f32);
    for top in (0..now.height.saturating_sub(BLOCK)).step_by(2 * BLOCK) {
        for left in (0..now.width.saturating_sub(BLOCK)).step_by(2 * BLOCK) {
            let cells = || (top..top + BLOCK).flat_map(|y| (left..left + BLOCK).map(move |x| (x as i32, y as i32)));
            let values: Vec<f32> = cells().map(|(x, y)| now.at(x, y)).collect();
            let difference: Vec<f32> = cells().map(|(x, y)| now.at(x, y) - before.at(x, y)).collect();
            let largest = difference.iter().fold(0.0_f32, |m, d| m.max(d.abs()));
            // Flat enough that a moving camera does not count as noise.
            if deviation(&values) < 8.0 && largest < 20.0 {
                let spread = deviation(&difference);
                frozen += f32::from(u8::from(spread < 0.4));
                noise.push(spread / 2.0_f32.sqrt());
            }
        }
    }
    if noise.len() > 20 {
        samples.push("pair: frozen blocks, share", frozen / noise.len() as f32);
        samples.push("pair: noise in time, levels", median(noise.into_iter()));
    }
    let (mut one, mut two, mut count) = (0.0_f64, 0.0_f64, 0);
    for y in 2..now.height.saturating_sub(2) as i32 {
        for x in 0..now.width as i32 {
            if (now.at(x, y) - before.at(x, y)).abs() > MOVED {
                let bend = |d: i32| f64::from((now.at(x, y - d) + now.at(x, y + d) - 2.0 * now.at(x, y)).abs());
                one += bend(1);
                two += bend(2);
                count += 1;
            }
        }
    }
    if count > 300 {
        samples.push("pair: combs in motion (above 1 interlaced)", (one / two.max(1.0)) as f32);
    }
}

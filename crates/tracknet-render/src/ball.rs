//! The ball in the picture: a streak of sub-frames, its shadow, and how well it can be seen.

use crate::camera::Camera;
use crate::flight::RADIUS;
use crate::look::Look;
use crate::math::*;
use crate::raster::{Canvas, Layer, Light, Target, area_around, clip};

/// A drawn ball and its label.
#[derive(Debug, Clone)]
pub(crate) struct Streak {
    pub(crate) layer: Layer,
    /// Centre of the streak, pixels.
    pub(crate) center: [f32; 2],
    /// Distance along the view axis, metres; of the middle of the shutter.
    pub(crate) depth: f32,
}

/// Averages the ball over the shutter in linear light; at least 8 sub-frames, two to a pixel of streak.
///
/// `at(s)` is the ball's place for `s` from 0 (opening) to 1 (closing). `None` when no sub-frame shows it.
pub(crate) fn draw_streak(
    at: impl Fn(f32) -> Option<V3>,
    camera: &Camera,
    look: &Look,
    light: &Light,
    frame: [i32; 4],
) -> Option<Streak> {
    let project = |s: f32| at(s).and_then(|p| camera.project(p));
    let ends = [0.02, 0.5, 0.98].map(project);
    let length = match ends {
        [Some(a), _, Some(b)] => ((a.x - b.x) * (a.x - b.x) + (a.y - b.y) * (a.y - b.y)).sqrt(),
        _ => 8.0,
    };
    let count = ((length * 2.0).ceil() as usize).clamp(8, 160);
    let discs: Vec<_> = (0..count).filter_map(|i| project((i as f32 + 0.5) / count as f32)).collect();
    if discs.is_empty() {
        return None;
    }
    let smallest = look.ball.smallest * (frame[3] - frame[1]) as f32 / 720.0;
    let radius = |depth: f32| (RADIUS * look.ball.bloom * camera.focal / depth).max(smallest);
    let widest = discs.iter().map(|d| radius(d.depth)).fold(0.0, f32::max);
    let mut layer = Layer::new(clip(area_around(discs.iter().map(|d| (d.x, d.y)), widest + 2.0), frame));
    let (mut sum, mut depth) = ([0.0_f32; 2], 0.0);
    for disc in &discs {
        sum = [sum[0] + disc.x, sum[1] + disc.y];
        depth += disc.depth;
        let r = radius(disc.depth);
        add_disc(&mut layer, [disc.x, disc.y, r], look.ball.color, light, 1.0 / count as f32);
    }
    let n = discs.len() as f32;
    Some(Streak { layer, center: [sum[0] / n, sum[1] / n], depth: depth / n })
}

fn add_disc(layer: &mut Layer, [cx, cy, r]: [f32; 3], color: Rgb, light: &Light, weight: f32) {
    let [x0, y0, x1, y1] = clip(area_around([(cx, cy)], r + 1.0), layer.bounds());
    let (left, top, width) = (layer.left, layer.top, layer.width);
    // A felt edge of more than a pixel keeps small balls from ringing.
    let edge = 0.65;
    for y in y0..y1 {
        for x in x0..x1 {
            let (dx, dy) = (x as f32 - cx, y as f32 - cy);
            let distance = (dx * dx + dy * dy).sqrt();
            let coverage = ((r + edge - distance) / (2.0 * edge)).clamp(0.0, 1.0) * weight;
            if coverage <= 0.0 {
                continue;
            }
            let (nx, ny) = (dx / r * 0.9, dy / r * 0.9);
            let lit = light.on(v3(nx, ny, (1.0 - nx * nx - ny * ny).max(0.0).sqrt()));
            if let Some(p) = layer.pixels.get_mut((y - top) as usize * width + (x - left) as usize) {
                *p = [
                    p[0] + color[0] * lit[0] * coverage,
                    p[1] + color[1] * lit[1] * coverage,
                    p[2] + color[2] * lit[2] * coverage,
                    p[3] + coverage,
                ];
            }
        }
    }
}

/// The ball's shadow on the ground, softer and paler the higher it flies.
pub(crate) fn draw_shadow(at: impl Fn(f32) -> Option<V3>, camera: &Camera, look: &Look, frame: [i32; 4]) -> Layer {
    let lights: Vec<(V3, f32)> = if look.light.lamps.is_empty() {
        vec![(look.light.sun, 1.0)]
    } else {
        look.light.lamps.iter().map(|&(d, w)| (d, w * 0.4)).collect()
    };
    let mut spots: Vec<[f32; 4]> = Vec::new();
    for (sun, weight) in lights {
        for i in 0..8 {
            let Some(p) = at((i as f32 + 0.5) / 8.0) else { continue };
            let ground = v3(p.x - sun.x / sun.z * p.z, p.y - sun.y / sun.z * p.z, 0.0);
            let Some(q) = camera.project(ground) else { continue };
            let grown = RADIUS * look.ball.bloom + p.z * (0.006 + look.light.shadow_soft * 0.15);
            let scale = camera.focal / q.depth;
            let faded = (RADIUS * look.ball.bloom / grown) * (RADIUS * look.ball.bloom / grown);
            spots.push([q.x, q.y, grown * scale, weight * faded.max(0.25) / 8.0]);
        }
    }
    let widest = spots.iter().map(|s| s[2]).fold(0.0, f32::max);
    let mut layer = Layer::new(clip(area_around(spots.iter().map(|s| (s[0], s[1])), widest + 2.0), frame));
    let (left, top, width) = (layer.left, layer.top, layer.width);
    for [cx, cy, r, weight] in spots {
        let [x0, y0, x1, y1] = clip(area_around([(cx, cy)], r + 1.5), layer.bounds());
        for y in y0..y1 {
            for x in x0..x1 {
                let (dx, dy) = (x as f32 - cx, (y as f32 - cy) * 2.2);
                let coverage = (r + 0.6 - (dx * dx + dy * dy).sqrt()).clamp(0.0, 1.0);
                if let Some(p) = layer.pixels.get_mut((y - top) as usize * width + (x - left) as usize) {
                    p[3] += coverage * weight;
                }
            }
        }
    }
    layer
}

/// How much the streak stands out of what is behind it: the largest change of an 8-bit level that it makes, less
/// what the background varies by itself (its mean deviation).
pub(crate) fn contrast(canvas: &Canvas, layer: &Layer, level: impl Fn(f32) -> f32) -> f32 {
    let [x0, y0, x1, y1] = clip(layer.bounds(), canvas.bounds());
    let mut largest = 0.0_f32;
    let mut greens = Vec::new();
    for y in y0..y1 {
        for x in x0..x1 {
            let over = layer.pixels.get((y - layer.top) as usize * layer.width + (x - layer.left) as usize);
            let under = canvas.pixels.get(y as usize * canvas.width + x as usize);
            if let (Some(over), Some(under)) = (over, under) {
                greens.push(level(under[1]));
                for (o, u) in over.iter().zip(under) {
                    largest = largest.max((level(u * (1.0 - over[3]) + o) - level(*u)).abs());
                }
            }
        }
    }
    let count = greens.len().max(1) as f32;
    let mean = greens.iter().sum::<f32>() / count;
    largest - greens.iter().map(|g| (g - mean).abs()).sum::<f32>() / count
}

/// The share of the streak, 0..1, that no later layer covers; and its coverage inside the frame, summed over pixels.
pub(crate) fn unhidden(streak: &Layer, covers: &[&Layer]) -> (f32, f32) {
    let (mut mass, mut left) = (0.0, 0.0);
    let [x0, y0, x1, y1] = streak.bounds();
    for y in y0..y1 {
        for x in x0..x1 {
            let alpha = streak.alpha(x, y);
            mass += alpha;
            left += covers.iter().fold(alpha, |a, cover| a * (1.0 - cover.alpha(x, y).min(1.0)));
        }
    }
    (if mass > 0.0 { left / mass } else { 0.0 }, mass)
}

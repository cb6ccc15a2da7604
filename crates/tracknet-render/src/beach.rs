//! What lies around a beach court: sky, sea or dunes, palms, parasols, flags and banners.

use crate::camera::Camera;
use crate::club::sky;
use crate::draw::{Draw, Stream, stream};
use crate::look::Look;
use crate::math::*;
use crate::raster::{Canvas, Disc, Rect3, fill_convex, limb, stripe, stroke};
use crate::scenery::{board, cuboid, light};

/// How far the sky is, and the sea reaches, metres: within a pixel of the horizon.
const HORIZON: f32 = 4000.0;

/// Sky, sea or dunes, and what stands on the sand, farthest first.
pub(crate) fn beach(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let [depth, side, height] = look.surroundings.walls;
    let mut rng = stream(u64::from(look.seed), &[0xbeac]);
    sky(canvas, camera, look, HORIZON, 60.0);
    haze(canvas, camera, look);
    if rng.chance(0.65) {
        sea(canvas, camera, look, depth + rng.range(8.0, 30.0));
    } else {
        dunes(canvas, camera, look, depth + rng.range(12.0, 24.0));
    }
    let mut places: Vec<(V3, Piece)> = Vec::new();
    let mut put = |count: usize, piece: Piece, rng: &mut Stream| {
        for _ in 0..count {
            let behind = v3(rng.range(-24.0, 24.0), depth + rng.range(1.0, 8.0), 0.0);
            let beside = v3(rng.sign() * (side + rng.range(1.0, 8.0)), rng.range(-6.0, depth), 0.0);
            places.push((if rng.chance(0.65) { behind } else { beside }, piece));
        }
    };
    let [parasols, palms, flags] = [4 + rng.index(9), rng.index(8), rng.index(5)];
    put(parasols, Piece::Parasol, &mut rng);
    put(palms, Piece::Palm, &mut rng);
    put(flags, Piece::Flag, &mut rng);
    places.sort_by(|(a, _), (b, _)| camera.depth(*b).total_cmp(&camera.depth(*a)));
    for (at, piece) in places {
        match piece {
            Piece::Parasol => parasol(canvas, camera, look, at, &mut rng),
            Piece::Palm => palm(canvas, camera, look, at, &mut rng),
            Piece::Flag => flag(canvas, camera, look, at, &mut rng),
        }
    }
    if rng.chance(0.7) {
        let up = v3(0.0, 0.0, 1.0);
        let wall = Rect3 { origin: v3(-side, depth, 0.0), u: v3(1.0, 0.0, 0.0), v: up, size: (2.0 * side, height) };
        board(canvas, camera, look, &wall, 3.6, 0.0);
    }
}

#[derive(Debug, Clone, Copy)]
enum Piece {
    Parasol,
    Palm,
    Flag,
}

/// The sky is paler towards the horizon.
fn haze(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let height = 0.25 * HORIZON;
    let rect = Rect3 {
        origin: v3(-2.0 * HORIZON, HORIZON, 0.0),
        u: v3(1.0, 0.0, 0.0),
        v: v3(0.0, 0.0, 1.0),
        size: (4.0 * HORIZON, height),
    };
    let pale = mix_rgb(look.surroundings.sky, [0.95, 0.93, 0.9], 0.7);
    rect.paint(canvas, camera, |(_, v), _| (pale, 0.85 * (1.0 - v / height).max(0.0)));
}

/// From the foam at y = `shore` to a bright horizon.
fn sea(canvas: &mut Canvas, camera: &Camera, look: &Look, shore: f32) {
    let rect = Rect3 {
        origin: v3(-2.0 * HORIZON, shore - 3.0, 0.0),
        u: v3(1.0, 0.0, 0.0),
        v: v3(0.0, 1.0, 0.0),
        size: (4.0 * HORIZON, HORIZON),
    };
    let seed = look.seed;
    let deep = look.surroundings.seats;
    // Against the sun the water glitters.
    let glitter = 0.6 * smoothstep(-0.2, 0.9, look.light.sun.y);
    rect.paint(canvas, camera, |(u, v), (_, fv)| {
        let edge = v - 2.0 + 1.5 * noise(u * 0.13, 0.0, seed);
        let wet = smoothstep(-2.5, 0.0, edge);
        if edge < 0.0 {
            return (look.court.worn, 0.8 * wet);
        }
        let swell = fbm(u * 0.08, v * 0.35, 3, seed ^ 0x5ea) / (1.0 + 0.15 * fv);
        let far = smoothstep(20.0, 900.0, v);
        let mut color = scale_rgb(deep, 1.15 + 0.35 * swell);
        color = mix_rgb(color, look.surroundings.sky, 0.15 + 0.4 * far);
        let sparkle = (smoothstep(0.3, 0.8, noise(u * 1.3, v * 0.5, seed ^ 0x91)) / (1.0 + 2.0 * fv)).max(0.3 * far);
        color = mix_rgb(color, scale_rgb(look.light.sun_color, 1.2), glitter * sparkle);
        let breaker = (1..=3).map(|i| {
            let line = i as f32 * 4.5 - 4.0 + 1.2 * noise(u * 0.09, i as f32, seed ^ 0xf0a);
            let broken = smoothstep(-0.25, 0.2, noise(u * 0.25, i as f32 * 3.0, seed ^ 0xf0b));
            stripe(edge, fv, line, line + 1.1) * if i == 1 { 1.0 } else { broken }
        });
        (mix_rgb(color, [0.9, 0.92, 0.92], 0.85 * breaker.fold(0.0, f32::max)), 1.0)
    });
}

/// Ridges of sand with tufts of grass on them.
fn dunes(canvas: &mut Canvas, camera: &Camera, look: &Look, start: f32) {
    for ridge in (0..3).rev() {
        let seed = look.seed ^ (0xd0 + ridge);
        let top = 2.6 + ridge as f32 * 1.7;
        let rect = Rect3 {
            origin: v3(-160.0, start + ridge as f32 * 9.0, 0.0),
            u: v3(1.0, 0.0, 0.0),
            v: v3(0.0, 0.0, 1.0),
            size: (320.0, top + 1.2),
        };
        rect.paint(canvas, camera, |(u, v), (fu, fv)| {
            let crest = top * (0.62 + 0.38 * fbm(u * 0.07, ridge as f32, 3, seed));
            let tuft = smoothstep(-0.1, 0.35, fbm(u * 0.3, v * 0.6, 3, seed ^ 9) + 0.5 * v / top);
            let blade = noise(u * 11.0, v * 2.5, seed ^ 5) / (1.0 + 4.0 * (fu + fv));
            let ragged = crest + tuft * (0.25 + 0.16 * noise(u * 9.0, 0.0, seed ^ 3));
            let grass = scale_rgb(look.surroundings.foliage, 1.0 + 0.5 * blade);
            let sand = scale_rgb(look.court.surround, 0.82 + 0.2 * noise(u * 0.5, v * 1.5, seed ^ 7));
            (mix_rgb(sand, grass, 0.85 * tuft), stripe(v, fv, -1.0, ragged))
        });
    }
}

/// Segments of two colours on a pole, with its shade on the sand, a lounger beside it.
fn parasol(canvas: &mut Canvas, camera: &Camera, look: &Look, at: V3, rng: &mut Stream) {
    const SEGMENTS: usize = 8;
    let (radius, top) = (rng.range(1.0, 1.5), rng.range(2.0, 2.6));
    let cloth = [0xf2f0ea, 0xe8b830, 0xd83a34, 0x2a70c0, 0x28a090, 0xf07830, 0xd8c8a0];
    let colors = [hex(rng.pick(&cloth)), hex(rng.pick(&cloth))];
    let project = |p: V3| camera.project(p).map(|p| (p.x, p.y));
    let lit = light(camera, look);
    let sun = look.light.sun;
    let rim = |i: usize, shrunk: f32| {
        let angle = i as f32 * (2.0 * PI / SEGMENTS as f32);
        at + v3(cos(angle) * radius * shrunk, sin(angle) * radius * shrunk, top - 0.5)
    };
    let shade: Vec<(f32, f32)> = (0..SEGMENTS)
        .filter_map(|i| {
            let p = rim(i, 1.0);
            project(p - sun * (p.z / sun.z))
        })
        .collect();
    fill_convex(canvas, &shade, |_, _| ([0.0, 0.0, 0.008], look.light.shadow_depth));
    cuboid(canvas, camera, at + v3(rng.range(-1.4, 1.4), 0.4, 0.0), v3(0.65, 1.8, 0.35), colors[0], look);
    if let (Some(low), Some(high)) = (camera.project(at), camera.project(at + v3(0.0, 0.0, top))) {
        let r = 0.025 * camera.focal / low.depth;
        limb(canvas, Disc { x: low.x, y: low.y, r }, Disc { x: high.x, y: high.y, r }, [0.6; 3], &lit);
    }
    let mut order: Vec<usize> = (0..SEGMENTS).collect();
    order.sort_by(|a, b| camera.depth(rim(*b, 1.0)).total_cmp(&camera.depth(rim(*a, 1.0))));
    for i in order {
        let color = if i % 2 == 0 { colors[0] } else { colors[1] };
        let (a, b, peak) = (rim(i, 1.0), rim(i + 1, 1.0), at + v3(0.0, 0.0, top));
        let normal = (b - peak).cross(a - peak).unit();
        let normal = if normal.z < 0.0 { -normal } else { normal };
        let glow = lit.on(camera.view_direction(normal));
        let color = [color[0] * glow[0], color[1] * glow[1], color[2] * glow[2]];
        let corners: Vec<(f32, f32)> = [a, b, peak].into_iter().filter_map(project).collect();
        if corners.len() == 3 {
            fill_convex(canvas, &corners, |_, _| (color, 1.0));
        }
    }
}

/// A bent trunk under a crown of hanging fronds.
fn palm(canvas: &mut Canvas, camera: &Camera, look: &Look, at: V3, rng: &mut Stream) {
    let (tall, lean) = (rng.range(4.5, 9.0), v3(rng.bell() * 0.6, rng.bell() * 0.4, 0.0));
    let lit = light(camera, look);
    let disc = |p: V3, r: f32| camera.project(p).map(|q| Disc { x: q.x, y: q.y, r: r * camera.focal / q.depth });
    let trunk = |t: f32| at + lean * (t * t) + v3(0.0, 0.0, tall * t);
    for i in 0..12 {
        let t = i as f32 / 12.0;
        if let (Some(a), Some(b)) = (disc(trunk(t), 0.16 - 0.06 * t), disc(trunk(t + 1.0 / 12.0), 0.13 - 0.06 * t)) {
            limb(canvas, a, b, scale_rgb(hex(0x8a7558), rng.range(0.7, 1.0)), &lit);
        }
    }
    let crown = trunk(1.0);
    for _ in 0..22 {
        let (angle, rise, length) = (rng.range(-PI, PI), rng.range(-0.3, 1.1), rng.range(1.6, 2.6));
        let out = v3(cos(angle), sin(angle), 0.0);
        let rib =
            |t: f32| crown + out * (length * t * cos(rise) + 0.2) + v3(0.0, 0.0, length * (rise * t - 0.95 * t * t));
        let tint = scale_rgb(look.surroundings.foliage, rng.range(0.55, 1.25) * (0.8 + 0.3 * rise));
        for i in 1..14 {
            let t = i as f32 / 14.0;
            let across = v3(-out.y, out.x, 0.0) * (0.5 * (1.0 - t * t) + 0.08);
            for side in [across, -across] {
                let tip = rib(t) + side + out * 0.25 - v3(0.0, 0.0, 0.25 + 0.1 * t);
                if let (Some(a), Some(b)) = (disc(rib(t), 0.05), disc(tip, 0.012)) {
                    stroke(canvas, a, b, scale_rgb(tint, rng.range(0.8, 1.2)), 0.95);
                }
            }
        }
    }
}

/// A sail on a mast, as sponsors put up.
fn flag(canvas: &mut Canvas, camera: &Camera, look: &Look, at: V3, rng: &mut Stream) {
    let (height, width) = (rng.range(2.6, 3.8), rng.range(0.5, 0.75));
    let color = scale_rgb(look.surroundings.wall, rng.range(1.0, 1.4));
    let outline = [(0.0, 0.9), (0.0, height), (0.5 * width, height + 0.15), (width, height - 0.4), (width * 0.8, 0.9)];
    let corners: Vec<(f32, f32)> =
        outline.into_iter().filter_map(|(x, z)| camera.project(at + v3(x, 0.0, z)).map(|p| (p.x, p.y))).collect();
    if let (Some(low), Some(high)) = (camera.project(at), camera.project(at + v3(0.0, 0.0, height))) {
        let r = 0.03 * camera.focal / low.depth;
        stroke(canvas, Disc { x: low.x, y: low.y, r }, Disc { x: high.x, y: high.y, r }, [0.2; 3], 1.0);
    }
    if corners.len() == outline.len() {
        fill_convex(canvas, &corners, |x, y| {
            (scale_rgb(color, 0.85 + 0.2 * noise(x * 0.05, y * 0.03, look.seed)), 1.0)
        });
    }
}

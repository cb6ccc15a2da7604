//! A tennis hall from the inside: roof with beams and lamps, cladding, curtains before the walls.

use crate::camera::Camera;
use crate::draw::stream;
use crate::look::Look;
use crate::math::*;
use crate::raster::{Canvas, Rect3, stripe};

/// Roof, walls and curtains, farthest first.
pub(crate) fn hall(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let [depth, side, curtain] = look.surroundings.walls;
    let mut rng = stream(u64::from(look.seed), &[0x4a11]);
    let top = rng.range(8.0, 11.0);
    let (reach, near) = (side + 6.0, depth + 30.0);
    roof(canvas, camera, look, top, [reach, depth + 3.0]);
    let up = v3(0.0, 0.0, 1.0);
    let back = Rect3 { origin: v3(-reach, depth + 3.0, 0.0), u: v3(1.0, 0.0, 0.0), v: up, size: (2.0 * reach, top) };
    cladding(canvas, camera, look, &back);
    for sign in [-1.0, 1.0] {
        let wall =
            Rect3 { origin: v3(sign * reach, depth + 3.0, 0.0), u: v3(0.0, -1.0, 0.0), v: up, size: (near, top) };
        cladding(canvas, camera, look, &wall);
    }
    let front = Rect3 { origin: v3(-side, depth, 0.0), u: v3(1.0, 0.0, 0.0), v: up, size: (2.0 * side, curtain) };
    drape(canvas, camera, look, &front);
    for sign in [-1.0, 1.0] {
        let net =
            Rect3 { origin: v3(sign * side, depth, 0.0), u: v3(0.0, -1.0, 0.0), v: up, size: (near, curtain * 0.7) };
        drape(canvas, camera, look, &net);
    }
}

/// A flat roof with beams across and rows of lamps along the court; `size` is half its width and its far end's |y|.
fn roof(canvas: &mut Canvas, camera: &Camera, look: &Look, top: f32, [reach, end]: [f32; 2]) {
    let rect = Rect3 {
        origin: v3(-reach, end, top),
        u: v3(1.0, 0.0, 0.0),
        v: v3(0.0, -1.0, 0.0),
        size: (2.0 * reach, end + 34.0),
    };
    let across = 3.0 + (look.seed % 3) as f32;
    let along = 4.0 + (look.seed / 3 % 4) as f32;
    let bright = scale_rgb([1.5, 1.5, 1.45], look.surroundings.crowd_light);
    rect.paint(canvas, camera, |(u, v), (fu, fv)| {
        let local = |t: f32, period: f32| t - (t / period).floor() * period;
        let beam = stripe(local(v, along), fv, 0.0, 0.35);
        let lamp = stripe(local(u + 0.5, across), fu, 0.4, 0.75) * stripe(local(v, along), fv, 1.2, 2.7);
        let tone = 0.85 + 0.1 * noise(u * 0.6, v * 0.3, look.seed);
        let roof = scale_rgb(look.surroundings.sky, tone * (1.0 - 0.45 * beam));
        (mix_rgb(roof, bright, lamp), 1.0)
    });
}

/// Ribbed sheet metal.
fn cladding(canvas: &mut Canvas, camera: &Camera, look: &Look, wall: &Rect3) {
    wall.paint(canvas, camera, |(u, v), (fu, _)| {
        let rib = stripe(u - (u / 0.9).floor() * 0.9, fu, 0.0, 0.08);
        let post = stripe(u - (u / 6.0).floor() * 6.0, fu, 0.0, 0.3);
        let tone = look.surroundings.crowd_light * (0.5 + 0.03 * v) * (1.0 - 0.15 * rib) * (1.0 - 0.3 * post);
        (scale_rgb(look.surroundings.seats, tone), 1.0)
    });
}

/// A curtain with folds.
fn drape(canvas: &mut Canvas, camera: &Camera, look: &Look, wall: &Rect3) {
    let height = wall.size.1;
    wall.paint(canvas, camera, |(u, v), (_, fv)| {
        let fold = 0.8 + 0.25 * noise(u * 2.2, 0.15 * v, look.seed) + 0.1 * noise(u * 7.0, 0.0, look.seed ^ 3);
        let hem = stripe(v, fv, height - 0.08, height);
        let color = scale_rgb(look.surroundings.wall, look.surroundings.crowd_light * fold);
        (mix_rgb(color, look.surroundings.wall_text, 0.4 * hem), 1.0)
    });
}

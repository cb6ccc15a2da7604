//! The stands and their crowd: people with heads, hats and knees, for a detector must learn that bright specks among
//! them are not the ball.

use crate::camera::Camera;
use crate::draw::{Draw, Stream, stream};
use crate::look::Look;
use crate::math::*;
use crate::raster::{Canvas, Disc, Light, Rect3, Target, limb, stroke};
use crate::scenery::light;

/// A dark wall behind the top rows.
pub(crate) fn backdrop(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let [depth, ..] = look.surroundings.walls;
    let rect =
        Rect3 { origin: v3(-90.0, depth + 0.2, 0.0), u: v3(1.0, 0.0, 0.0), v: v3(0.0, 0.0, 1.0), size: (180.0, 60.0) };
    rect.paint(canvas, camera, |(u, v), _| {
        (
            scale_rgb(
                look.surroundings.seats,
                (0.25 + 0.1 * noise(u * 0.2, v * 0.4, 3)) * look.surroundings.crowd_light,
            ),
            1.0,
        )
    });
}

/// Tiers of seats behind the far wall and along both sides, filled with people from the last row to the first.
pub(crate) fn stands(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Stream) {
    let [depth, side, height] = look.surroundings.walls;
    let mut seat_rng = stream(u64::from(look.seed), &[0x5ea7]);
    let lower = height + 0.15;
    let rows = 26;
    for row in (0..rows).rev() {
        let back = row as f32 * 0.85;
        let z = lower + row as f32 * 0.46;
        let y = depth + 0.9 + back;
        let step =
            Rect3 { origin: v3(-60.0, y - 0.85, z), u: v3(1.0, 0.0, 0.0), v: v3(0.0, 1.0, 0.0), size: (120.0, 0.85) };
        tier(canvas, camera, look, &step, row);
        let mut x = -34.0 + (row % 2) as f32 * 0.26;
        while x < 34.0 {
            let place = [v3(x, y - 0.35, z), v3(0.0, -1.0, 0.0)];
            seat(canvas, camera, look, place, aisle(x, look), &mut seat_rng, rng);
            x += 0.55;
        }
    }
    for row in (0..rows - 4).rev() {
        let z = lower + row as f32 * 0.46;
        for sign in [-1.0, 1.0] {
            let x = sign * (side + 0.9 + row as f32 * 0.85);
            let step = Rect3 {
                origin: v3(x - sign * 0.85, depth + 3.0, z),
                u: v3(0.0, -1.0, 0.0),
                v: v3(sign, 0.0, 0.0),
                size: (depth + 40.0, 0.85),
            };
            tier(canvas, camera, look, &step, row);
            let mut y = depth - 0.5;
            while y > -34.0 {
                let place = [v3(x - sign * 0.35, y, z), v3(-sign, 0.0, 0.0)];
                seat(canvas, camera, look, place, aisle(y, look), &mut seat_rng, rng);
                y -= 0.58;
            }
        }
    }
}

pub(crate) fn aisle(along: f32, look: &Look) -> bool {
    let span = 7.5 + (look.seed % 5) as f32;
    let t = along / span + 0.37;
    (t - t.floor()) * span < 1.3
}

/// A row's floor and the riser in front of it.
fn tier(canvas: &mut Canvas, camera: &Camera, look: &Look, floor: &Rect3, row: usize) {
    let tone = look.surroundings.crowd_light * (0.55 + 0.06 * (row % 3) as f32);
    let concrete = mix_rgb(look.surroundings.seats, [0.3, 0.3, 0.31], 0.5);
    let shade = |u: f32| {
        let along = if floor.u.x.abs() > 0.5 { floor.origin.x + u } else { floor.origin.y - u };
        if aisle(along, look) { scale_rgb([0.36, 0.36, 0.37], tone) } else { scale_rgb(concrete, tone * 0.7) }
    };
    floor.paint(canvas, camera, |(u, _), _| (shade(u), 1.0));
    // The first row's front reaches down to the ground.
    let drop = if row == 0 { floor.origin.z } else { 0.46 };
    let riser = Rect3 {
        origin: floor.origin - v3(0.0, 0.0, drop),
        u: floor.u,
        v: v3(0.0, 0.0, 1.0),
        size: (floor.size.0, drop),
    };
    riser.paint(canvas, camera, |(u, v), _| (scale_rgb(shade(u), 0.55 + 0.5 * v / drop), 1.0));
}

/// Mostly dark and neutral, as a real crowd is; few bright ones.
pub(crate) const CLOTHES: [u32; 24] = [
    0xe6e6e4, 0xd8d4cc, 0x20242c, 0x2c3648, 0x14161a, 0x8a3438, 0x44608a, 0x7a7c80, 0xb8aa90, 0x4a4038, 0x2c584c,
    0xb8a850, 0x54405a, 0x9a6a4a, 0x8ca4bc, 0x384028, 0xeeeeee, 0x5a5e66, 0x1a1c22, 0x30343c, 0x262a34, 0x443a3a,
    0x6a6a70, 0x1e2a3e,
];
pub(crate) const SKINS: [u32; 4] = [0xd8a988, 0xc08a64, 0x8a5a3a, 0xe6bea0];
pub(crate) const HAIRS: [u32; 6] = [0x1a1410, 0x3a2a1c, 0x6a4a2a, 0xb09060, 0x909090, 0x100e0c];

/// An empty seat, or someone in it.
fn seat(
    canvas: &mut Canvas,
    camera: &Camera,
    look: &Look,
    [at, forward]: [V3; 2],
    aisle: bool,
    own: &mut Stream,
    clip: &mut Stream,
) {
    let taken = own.chance(look.surroundings.crowd) && !aisle;
    let person = stream(own.next_u64(), &[]);
    if aisle {
        return;
    }
    let Some(p) = camera.project(at + v3(0.0, 0.0, 0.5)) else { return };
    let [x0, y0, x1, y1] = canvas.bounds().map(|b| b as f32);
    let s = camera.focal / p.depth;
    if p.x < x0 - s || p.x > x1 + s || p.y < y0 - s || p.y > y1 + s {
        return;
    }
    if taken {
        let sway = v3(clip.bell() * 0.02, clip.bell() * 0.02, 0.0);
        spectator(canvas, camera, look, [at, forward], person, sway);
    } else {
        let color = scale_rgb(look.surroundings.seats, look.surroundings.crowd_light * (0.6 + 0.2 * own.uniform()));
        let right = v3(forward.y, -forward.x, 0.0) * 0.16;
        let back = at + v3(0.0, 0.0, 0.62) - forward * 0.2;
        for (middle, tone) in [(back, 1.0), (at + v3(0.0, 0.0, 0.42), 1.35)] {
            if let (Some(a), Some(b)) = (camera.project(middle - right), camera.project(middle + right)) {
                let r = 0.09 * s;
                stroke(canvas, Disc { x: a.x, y: a.y, r }, Disc { x: b.x, y: b.y, r }, scale_rgb(color, tone), 1.0);
            }
        }
    }
}

/// The place of a seat behind the far wall and its forward direction, and where it lies along its row.
pub(crate) fn place_behind(look: &Look, row: usize, seat: usize) -> ([V3; 2], f32) {
    let [depth, _, height] = look.surroundings.walls;
    let x = -34.0 + (row % 2) as f32 * 0.26 + seat as f32 * 0.55;
    let place = v3(x, depth + 0.55 + row as f32 * 0.85, height + 0.15 + row as f32 * 0.46);
    ([place, v3(0.0, -1.0, 0.0)], x)
}

/// The same of a seat beside the court, on the side of `sign`.
pub(crate) fn place_beside(look: &Look, row: usize, seat: usize, sign: f32) -> ([V3; 2], f32) {
    let [depth, side, height] = look.surroundings.walls;
    let y = depth - 0.5 - seat as f32 * 0.58;
    let place = v3(sign * (side + 0.55 + row as f32 * 0.85), y, height + 0.15 + row as f32 * 0.46);
    ([place, v3(-sign, 0.0, 0.0)], y)
}

/// Head, hair or hat, torso, arms and knees: enough at ten to forty pixels.
pub(crate) fn spectator(
    canvas: &mut Canvas,
    camera: &Camera,
    look: &Look,
    [at, forward]: [V3; 2],
    mut own: Stream,
    sway: V3,
) {
    let right = v3(forward.y, -forward.x, 0.0);
    let dim = 0.72 + 0.4 * fbm(at.x * 0.11, at.y * 0.11 + at.z * 0.3, 2, look.seed ^ 0xc0);
    let glow = look.surroundings.crowd_light * own.range(0.65, 1.05) * dim;
    let lit = Light {
        sun: scale_rgb(look.light.sun_color, 0.5 * glow),
        sky: scale_rgb(look.light.sky_color, 1.2 * glow),
        ground: scale_rgb(look.light.ground_color, 0.7 * glow),
        ..light(camera, look)
    };
    let cloth = scale_rgb(hex(own.pick(&CLOTHES)), own.range(0.7, 1.1));
    let trousers = scale_rgb(hex(own.pick(&[0x1c2028, 0x2a3448, 0x4a4a4c, 0xb0a890, 0x101216])), own.range(0.7, 1.2));
    let skin = hex(own.pick(&SKINS));
    let sway = sway + right * (own.bell() * 0.05);
    let tall = own.range(0.92, 1.08);
    let part = |canvas: &mut Canvas, a: V3, b: V3, ra: f32, rb: f32, color: Rgb| {
        if let (Some(p), Some(q)) = (camera.project(a), camera.project(b)) {
            let s = camera.focal / p.depth;
            limb(canvas, Disc { x: p.x, y: p.y, r: ra * s }, Disc { x: q.x, y: q.y, r: rb * s }, color, &lit);
        }
    };
    let hip = at + sway + v3(0.0, 0.0, 0.45);
    let neck = hip + v3(0.0, 0.0, 0.46 * tall) + forward * 0.05;
    let head = neck + v3(0.0, 0.0, 0.2) + forward * 0.03;
    part(canvas, hip, neck, 0.17, 0.15, cloth);
    part(canvas, neck - right * 0.17, neck + right * 0.17, 0.07, 0.07, cloth);
    for side in [-1.0, 1.0] {
        let knee = hip + forward * 0.42 + right * (side * 0.11) + v3(0.0, 0.0, 0.04);
        part(canvas, hip + right * (side * 0.09), knee, 0.09, 0.07, trousers);
        part(canvas, knee, knee - v3(0.0, 0.0, 0.42), 0.065, 0.05, trousers);
        let reach = [own.range(0.2, 0.4), own.range(0.02, 0.16), own.range(0.05, 0.3)];
        let hand = hip + forward * reach[0] + right * (side * reach[1]) + v3(0.0, 0.0, reach[2]);
        let elbow = neck - v3(0.0, 0.0, 0.28) + right * (side * 0.24);
        part(canvas, neck + right * (side * 0.18), elbow, 0.055, 0.05, cloth);
        part(canvas, elbow, hand, 0.045, 0.04, if own.chance(0.5) { skin } else { cloth });
    }
    let hat = own.chance(0.2);
    let color = if hat { hex(own.pick(&[0xe8e8e8, 0xd8d4c8, 0x1c2c50, 0x8a2a30])) } else { hex(own.pick(&HAIRS)) };
    let (top, face) = if hat { (0.05, 0.09) } else { (0.03, 0.088) };
    let crown = head + v3(0.0, 0.0, top);
    part(canvas, crown - forward * 0.03, crown, 0.112, 0.108, color);
    let brow = head + forward * 0.06 - v3(0.0, 0.0, 0.025);
    part(canvas, brow, head + forward * 0.05 - v3(0.0, 0.0, 0.05), face, 0.075, skin);
}

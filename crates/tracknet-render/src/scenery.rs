//! Everything around the court that stands still, from the farthest to the nearest: stands and crowd, or trees; walls and
//! banners, furniture, people.

use crate::beach::beach;
use crate::camera::Camera;
use crate::club::{fence, trees};
use crate::court::{BASELINE, NET_HALF};
use crate::draw::{Draw, Stream, stream};
use crate::hall::hall;
use crate::look::{Look, Surface, Venue};
use crate::math::*;
use crate::officials::{chair, officials};
use crate::raster::{Canvas, Disc, Layer, Light, Rect3, Target, clip, limb, stripe, stroke};
use crate::stands::{backdrop, stands};
use crate::text::Text;

/// The light of a look in a camera's axes.
pub(crate) fn light(camera: &Camera, look: &Look) -> Light {
    Light {
        direction: camera.view_direction(look.light.sun),
        up: camera.view_direction(v3(0.0, 0.0, 1.0)),
        sun: look.light.sun_color,
        sky: look.light.sky_color,
        ground: look.light.ground_color,
    }
}

/// Draws the surroundings onto the plate, over the ground; `rng` is the clip's own so that people shift between clips.
pub(crate) fn paint(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Stream) {
    match look.venue {
        Venue::Stadium => {
            backdrop(canvas, camera, look);
            stands(canvas, camera, look, rng);
            walls(canvas, camera, look);
        }
        Venue::Club => {
            trees(canvas, camera, look);
            fence(canvas, camera, look);
        }
        Venue::Hall => hall(canvas, camera, look),
        Venue::Beach => beach(canvas, camera, look),
    }
    furniture(canvas, camera, look);
    officials(canvas, camera, look, rng);
    loose_balls(canvas, camera, look, rng);
}

/// The low walls with their sponsors, a rail above them.
fn walls(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let [depth, side, height] = look.surroundings.walls;
    for sign in [-1.0, 1.0] {
        let low = height.min(1.3);
        let wall = Rect3 {
            origin: v3(sign * side, depth, 0.0),
            u: v3(0.0, -1.0, 0.0),
            v: v3(0.0, 0.0, 1.0),
            size: (depth + 34.0, low),
        };
        board(canvas, camera, look, &wall, 4.2, 0.0);
        if look.surroundings.flowers {
            flowers(canvas, camera, look, v3(sign * (side + 0.25), depth, low), v3(0.0, -1.0, 0.0), depth + 25.0);
        } else {
            rail(canvas, camera, look, v3(sign * side, depth, low), v3(0.0, -1.0, 0.0), depth + 30.0);
        }
    }
    let back = Rect3 {
        origin: v3(-side - 0.2, depth, 0.0),
        u: v3(1.0, 0.0, 0.0),
        v: v3(0.0, 0.0, 1.0),
        size: (2.0 * side + 0.4, height),
    };
    // The clocks stand before the ends of the wall.
    board(canvas, camera, look, &back, 4.4, 4.0);
    rail(canvas, camera, look, v3(-side, depth, height), v3(1.0, 0.0, 0.0), 2.0 * side);
    clock(canvas, camera, look);
}

/// A wall with sponsors, one every `spacing` metres and none within `free` of its ends.
pub(crate) fn board(canvas: &mut Canvas, camera: &Camera, look: &Look, wall: &Rect3, spacing: f32, free: f32) {
    let height = wall.size.1;
    wall.paint(canvas, camera, |(u, v), (_, fv)| {
        let fold = 1.0 + 0.05 * noise(u * 0.8, v * 1.5, look.seed);
        let foot = stripe(v, fv, -1.0, 0.1);
        let tone = (0.55 + 0.25 * v / height) * fold * (1.0 - 0.4 * foot);
        let edge = stripe(v, fv, height - 0.06, height);
        (mix_rgb(scale_rgb(look.surroundings.wall, tone * 1.5), look.surroundings.wall_text, 0.25 * edge), 1.0)
    });
    let count = (wall.size.0 / spacing) as usize;
    for i in 0..count {
        let Some(name) = look.surroundings.sponsors.get((i * 7 + i / 3) % look.surroundings.sponsors.len().max(1))
        else {
            continue;
        };
        let text = Text::new(name);
        let letter = (height * 0.42).min(0.62);
        let size = (letter * text.aspect(), letter);
        let at = (i as f32 + 0.5) * spacing - size.0 * 0.5;
        let down = -wall.v;
        if at < free || at + size.0 > wall.size.0 - free {
            continue;
        }
        let origin = wall.origin + wall.u * at + wall.v * (height * 0.52 + letter * 0.5) - wall.u.cross(wall.v) * 0.02;
        // Seen from inside the court, a wall on the left runs the other way: mirror its u so that letters read.
        let to_camera = camera.position - origin;
        let mirrored = wall.u.cross(down).dot(to_camera) > 0.0;
        let rect = if mirrored {
            Rect3 { origin: origin + wall.u * size.0, u: -wall.u, v: down, size }
        } else {
            Rect3 { origin, u: wall.u, v: down, size }
        };
        if i % 4 == 2 {
            let patch = Rect3 {
                origin: rect.origin - rect.u * 0.15 - rect.v * 0.08,
                size: (size.0 + 0.3, size.1 + 0.16),
                ..rect
            };
            patch.paint(canvas, camera, |_, _| (look.surroundings.wall_text, 0.95));
            text.paint(canvas, camera, &rect, look.surroundings.wall, 1.0);
        } else {
            text.paint(canvas, camera, &rect, look.surroundings.wall_text, 0.92);
        }
    }
}

fn rail(canvas: &mut Canvas, camera: &Camera, look: &Look, from: V3, along: V3, length: f32) {
    if !look.surroundings.rails {
        return;
    }
    let up = v3(0.0, 0.0, 0.85);
    let color = scale_rgb([0.55, 0.56, 0.58], look.surroundings.crowd_light);
    let bar = |canvas: &mut Canvas, a: V3, b: V3, r: f32| {
        if let (Some(p), Some(q)) = (camera.project(a), camera.project(b)) {
            let thickness = |depth: f32| (r * camera.focal / depth).max(0.35);
            stroke(
                canvas,
                Disc { x: p.x, y: p.y, r: thickness(p.depth) },
                Disc { x: q.x, y: q.y, r: thickness(q.depth) },
                color,
                0.85,
            );
        }
    };
    let mut t = 0.0;
    while t < length {
        let a = from + along * t;
        bar(canvas, a, a + up, 0.02);
        let b = from + along * (t + 1.5).min(length);
        bar(canvas, a + up, b + up, 0.03);
        bar(canvas, a + up * 0.5, b + up * 0.5, 0.015);
        t += 1.5;
    }
}

fn flowers(canvas: &mut Canvas, camera: &Camera, look: &Look, from: V3, along: V3, length: f32) {
    let mut rng = stream(u64::from(look.seed), &[0xf10]);
    let bloom = hex(rng.pick(&[0xf0f0e8, 0xd03040, 0xe8b0c0, 0xf0d050]));
    for _ in 0..(length * 55.0) as usize {
        let p = from + along * (rng.uniform() * length) + v3(rng.bell() * 0.1, 0.0, rng.range(0.0, 0.4));
        let color = if rng.chance(0.35) { bloom } else { scale_rgb(look.surroundings.foliage, rng.range(0.5, 1.4)) };
        if let Some(q) = camera.project(p) {
            let d = Disc { x: q.x, y: q.y, r: rng.range(0.03, 0.08) * camera.focal / q.depth };
            stroke(canvas, d, d, scale_rgb(color, 0.8 * look.surroundings.crowd_light), 0.9);
        }
    }
}

/// A lit clock and speed display on the back wall.
fn clock(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let [depth, side, height] = look.surroundings.walls;
    let mut rng = stream(u64::from(look.seed), &[0xc10c]);
    for (sign, color) in [(-1.0, hex(0x0f4a30)), (1.0, hex(rng.pick(&[0x0f4a30, 0xe87a20, 0x101418])))] {
        if rng.chance(0.3) {
            continue;
        }
        let size = (1.7, height.min(1.2));
        let origin = v3(sign * (side - 1.1) - 0.85, depth - 0.4, size.1 + 0.05);
        let rect = Rect3 { origin, u: v3(1.0, 0.0, 0.0), v: v3(0.0, 0.0, -1.0), size };
        rect.paint(canvas, camera, |_, _| (color, 1.0));
        let text = Text::new(&format!("{}:{:02}", rng.index(3), rng.index(60)));
        let inner = Rect3 { origin: origin + v3(0.3, -0.02, -0.5), size: (0.5 * text.aspect(), 0.5), ..rect };
        text.paint(canvas, camera, &inner, hex(0xf0e040), 1.0);
    }
}

/// Cuboids on the ground, farthest first: benches, coolers, towel boxes; the umpire's chair.
fn furniture(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let mut rng = stream(u64::from(look.seed), &[0xb0c5]);
    let side = look.surroundings.umpire_side;
    let x = side * (NET_HALF + 1.6);
    let mut boxes: Vec<(V3, V3, Rgb)> = Vec::new();
    for along in [-4.6, -3.4, 3.6, 5.0] {
        let color = vary_box(&mut rng, look);
        boxes.push((
            v3(x + side * rng.range(0.0, 0.8), along, 0.0),
            v3(0.5, rng.range(0.5, 1.6), rng.range(0.35, 0.8)),
            color,
        ));
    }
    boxes.push((v3(-side * (NET_HALF + 0.9), 0.0, 0.0), v3(0.9, 0.4, 0.5), vary_box(&mut rng, look)));
    boxes.sort_by(|a, b| b.0.y.total_cmp(&a.0.y));
    for (at, size, color) in boxes {
        cuboid(canvas, camera, at, size, color, look);
    }
    if rng.chance(0.3) {
        for i in 0..2 {
            let at = v3(x + side * 0.4, 2.2 + i as f32 * 0.7, 0.35);
            if let Some(p) = camera.project(at) {
                let d = Disc { x: p.x, y: p.y, r: 0.34 * camera.focal / p.depth };
                limb(canvas, d, d, look.ball.color, &light(camera, look));
            }
        }
    }
    if look.venue != Venue::Beach {
        chair(canvas, camera, look, v3(x, 0.0, 0.0));
    }
}

fn vary_box(rng: &mut Stream, look: &Look) -> Rgb {
    let other = hex(rng.pick(&[0xe8e8e8, 0x1a1c20, 0x2a4a8a, 0x8a2430]));
    if rng.chance(0.5) { look.surroundings.wall } else { other }
}

pub(crate) fn cuboid(canvas: &mut Canvas, camera: &Camera, at: V3, size: V3, color: Rgb, look: &Look) {
    let low = at - v3(size.x * 0.5, size.y * 0.5, 0.0);
    let toward = if camera.position.x < at.x { 0.0 } else { size.x };
    let faces = [
        (
            Rect3 {
                origin: low + v3(toward, 0.0, 0.0),
                u: v3(0.0, 1.0, 0.0),
                v: v3(0.0, 0.0, 1.0),
                size: (size.y, size.z),
            },
            0.5,
        ),
        (Rect3 { origin: low, u: v3(1.0, 0.0, 0.0), v: v3(0.0, 0.0, 1.0), size: (size.x, size.z) }, 0.7),
        (
            Rect3 {
                origin: low + v3(0.0, 0.0, size.z),
                u: v3(1.0, 0.0, 0.0),
                v: v3(0.0, 1.0, 0.0),
                size: (size.x, size.y),
            },
            1.0,
        ),
    ];
    let base = Rect3 {
        origin: low - v3(0.12, 0.15, 0.0),
        u: v3(1.0, 0.0, 0.0),
        v: v3(0.0, 1.0, 0.0),
        size: (size.x + 0.24, size.y + 0.3),
    };
    base.paint(canvas, camera, |_, _| ([0.0; 3], 0.35 * look.light.shadow_depth));
    for (rect, tone) in faces {
        rect.paint(canvas, camera, |(u, v), _| {
            (scale_rgb(color, tone * (0.92 + 0.1 * noise(u * 4.0, v * 4.0, 5))), 1.0)
        });
    }
}

/// Multiplies the picture by `1 − depth·coverage`.
pub(crate) fn darken(canvas: &mut Canvas, shadow: &Layer, depth: f32) {
    let [x0, y0, x1, y1] = clip(shadow.bounds(), canvas.bounds());
    for y in y0..y1 {
        for x in x0..x1 {
            let alpha = shadow.alpha(x, y).min(1.0) * depth;
            if alpha > 0.002 {
                canvas.blend(x, y, [0.0, 0.0, 0.008], alpha);
            }
        }
    }
}

/// Balls that are not in play: by the walls, at the ball kids' feet.
fn loose_balls(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Stream) {
    let [depth, side, _] = look.surroundings.walls;
    let lit = light(camera, look);
    let count = rng.index(if look.court.surface == Surface::Grass { 6 } else { 3 });
    let mut places = Vec::new();
    for _ in 0..count {
        places.push(if rng.chance(0.6) {
            v3(rng.range(-side, side), depth - rng.range(0.1, 0.5), 0.035)
        } else {
            v3(rng.sign() * (side - rng.range(0.1, 0.6)), rng.range(-12.0, depth), 0.035)
        });
    }
    for _ in 0..rng.index(look.court.loose_balls + 1) {
        // At the net, or behind the baselines where nobody steps on them.
        let y = if rng.chance(0.3) { rng.range(-0.8, 0.8) } else { rng.sign() * (BASELINE + rng.range(0.5, 5.0)) };
        places.push(v3(rng.range(-side, side), y, 0.035));
    }
    for at in places {
        if let Some(p) = camera.project(at) {
            let r = 0.034 * look.ball.bloom * camera.focal / p.depth;
            let shadow = Disc { x: p.x + r * 0.4, y: p.y + r * 0.7, r: r * 0.9 };
            stroke(canvas, shadow, shadow, [0.0; 3], 0.4 * look.light.shadow_depth);
            limb(canvas, Disc { x: p.x, y: p.y, r }, Disc { x: p.x, y: p.y, r }, look.ball.color, &lit);
        }
    }
}

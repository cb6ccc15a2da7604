//! What lies around a club's court: sky, trees, hedges, wire fences.

use crate::camera::Camera;
use crate::draw::{Draw, stream};
use crate::look::Look;
use crate::math::*;
use crate::raster::{Canvas, Disc, Rect3, fill_convex, stripe, stroke};

/// Sky with clouds on a plane at y = `depth` that is 300 × 90 m, `grown` times.
pub(crate) fn sky(canvas: &mut Canvas, camera: &Camera, look: &Look, depth: f32, grown: f32) {
    let rect = Rect3 {
        origin: v3(-150.0 * grown, depth, 0.0),
        u: v3(1.0, 0.0, 0.0),
        v: v3(0.0, 0.0, 1.0),
        size: (300.0 * grown, 90.0 * grown),
    };
    rect.paint(canvas, camera, |(u, v), _| {
        let (u, v) = (u / grown, v / grown);
        let cloud = smoothstep(-0.1, 0.6, fbm(u * 0.03, v * 0.08, 4, look.seed));
        (
            mix_rgb(
                scale_rgb(look.surroundings.sky, 0.85 + 0.15 * (v / 60.0).min(1.0)),
                [0.85, 0.86, 0.88],
                0.4 * cloud,
            ),
            1.0,
        )
    });
}

/// Sky, then tree crowns as clouds of lit leaves.
pub(crate) fn trees(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let [depth, side, _] = look.surroundings.walls;
    sky(canvas, camera, look, depth + 14.0, 1.0);
    let mut rng = stream(u64::from(look.seed), &[0x73ee]);
    let mut places: Vec<V3> = (0..26).map(|_| v3(rng.range(-55.0, 55.0), depth + rng.range(2.5, 12.0), 0.0)).collect();
    for i in 0..16 {
        places.push(v3(rng.sign() * (side + rng.range(3.5, 9.0)), depth - i as f32 * 2.0, 0.0));
    }
    if camera.looks_across() {
        // Beyond the far sideline, too.
        let far = -camera.position.x.signum();
        places.extend((0..22).map(|_| v3(far * (side + rng.range(3.0, 14.0)), rng.range(-30.0, 30.0), 0.0)));
        places.sort_by(|a, b| camera.depth(*b).total_cmp(&camera.depth(*a)));
    } else {
        places.sort_by(|a, b| b.y.total_cmp(&a.y));
    }
    for at in places {
        let (tall, wide) = (rng.range(3.5, 11.0), rng.range(1.6, 3.6));
        let tint = scale_rgb(look.surroundings.foliage, rng.range(0.6, 1.25));
        for i in 0..900 {
            let level = (i as f32 + 1.0) / 900.0;
            let angle = rng.range(-PI, PI);
            let spread = wide * rng.uniform().sqrt();
            let z = tall * (0.25 + 0.75 * rng.uniform());
            let round = (1.0 - ((z / tall - 0.6) / 0.55) * ((z / tall - 0.6) / 0.55)).max(0.05).sqrt();
            let p = at + v3(cos(angle) * spread * round, -level * wide * 0.5, z);
            if let Some(q) = camera.project(p) {
                let d = Disc { x: q.x, y: q.y, r: rng.range(0.05, 0.24) * camera.focal / q.depth };
                let tip = Disc { x: d.x + rng.bell() * d.r * 1.2, y: d.y + rng.bell() * d.r * 1.2, r: d.r * 0.3 };
                // Crowns are dark inside and lit where they face the sun.
                let facing = 0.5 + 0.5 * (cos(angle) * look.light.sun.x).clamp(-1.0, 1.0);
                let tone = rng.range(0.5, 1.3) * (0.35 + 0.6 * level) * (0.6 + 0.8 * facing) * (0.7 + 0.4 * z / tall);
                let sunny = rng.chance(0.3 * facing);
                let leaf = if sunny { mix_rgb(tint, look.light.sun_color, 0.12) } else { tint };
                stroke(canvas, d, tip, scale_rgb(leaf, tone), 0.95);
            }
        }
    }
}

/// A hedge or windscreen at the back, wire fences at the sides.
pub(crate) fn fence(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let [depth, side, height] = look.surroundings.walls;
    let hedge = look.seed.is_multiple_of(2);
    let panel = |canvas: &mut Canvas, origin: V3, u: V3, length: f32| {
        let rect = Rect3 { origin, u, v: v3(0.0, 0.0, 1.0), size: (length, height) };
        rect.paint(canvas, camera, |(u, v), (fu, fv)| {
            let leaf =
                fbm(u * 5.0, v * 5.0, 3, look.seed ^ 9) + 0.6 * noise(u * 19.0, v * 19.0, 4) / (1.0 + 6.0 * (fu + fv));
            if hedge {
                let ragged = smoothstep(0.0, 0.25, height - v + 0.3 * noise(u * 3.0, 0.0, 8) - 0.15);
                (scale_rgb(look.surroundings.foliage, (0.55 + 0.45 * leaf) * (0.5 + 0.5 * v / height)), ragged)
            } else {
                let post = stripe(u - (u / 3.0).floor() * 3.0, fu, 0.0, 0.07).max(stripe(v, fv, height - 0.05, height));
                let fold = 0.8 + 0.35 * noise(u * 1.3, v * 0.4, 6) + 0.1 * leaf;
                (mix_rgb(scale_rgb(look.surroundings.wall, fold), [0.25; 3], post), 1.0)
            }
        });
    };
    let hut: Vec<(f32, f32)> = [(-0.9, 0.0), (-0.45, 0.0), (-0.45, 4.6), (-0.9, 4.6)]
        .into_iter()
        .filter_map(|(x, z)| camera.project(v3(x * side * 1.6, depth + 1.5, z)).map(|p| (p.x, p.y)))
        .collect();
    if hut.len() == 4 && look.seed.is_multiple_of(3) {
        fill_convex(canvas, &hut, |x, y| (scale_rgb(hex(0x8a6a4a), 0.8 + 0.2 * noise(x * 0.05, y * 0.6, 2)), 1.0));
    }
    panel(canvas, v3(-side, depth, 0.0), v3(1.0, 0.0, 0.0), 2.0 * side);
    // From beside the court its whole length is in sight.
    let length = depth + if camera.looks_across() { 34.0 } else { 8.0 };
    for sign in [-1.0, 1.0] {
        panel(canvas, v3(sign * side, depth, 0.0), v3(0.0, -1.0, 0.0), length);
    }
    // Lamp posts break the line of trees.
    for x in [-side * 0.6, side * 0.75] {
        if let (Some(p), Some(q)) = (camera.project(v3(x, depth + 0.5, 0.0)), camera.project(v3(x, depth + 0.5, 9.0))) {
            let r = 0.07 * camera.focal / p.depth;
            stroke(canvas, Disc { x: p.x, y: p.y, r }, Disc { x: q.x, y: q.y, r }, [0.2, 0.21, 0.2], 1.0);
        }
    }
}

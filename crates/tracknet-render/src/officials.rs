//! People beside the court: umpire, line judges and ball kids, or a club's onlookers.

use crate::body::{body_shadow, draw_body};
use crate::camera::Camera;
use crate::court::{BASELINE, NET_HALF};
use crate::draw::{Draw, Stream, stream};
use crate::look::{Look, Outfit, Venue, in_swimwear};
use crate::math::*;
use crate::motion::{Rest, resting};
use crate::raster::{Canvas, Disc, Target, limb};
use crate::scenery::{cuboid, darken, light};
use crate::stands::{CLOTHES, HAIRS, SKINS};

/// The umpire's high chair, with the umpire.
pub(crate) fn chair(canvas: &mut Canvas, camera: &Camera, look: &Look, at: V3) {
    let lit = light(camera, look);
    let frame = if look.venue == Venue::Club { hex(0x3a5a3a) } else { look.net.post_color };
    let inward = -at.x.signum();
    let post = |canvas: &mut Canvas, a: V3, b: V3, r: f32| {
        if let (Some(p), Some(q)) = (camera.project(at + a), camera.project(at + b)) {
            let s = camera.focal / p.depth;
            limb(canvas, Disc { x: p.x, y: p.y, r: r * s }, Disc { x: q.x, y: q.y, r: r * s }, frame, &lit);
        }
    };
    for y in [0.4, -0.4] {
        post(canvas, v3(inward * 0.7, y, 0.0), v3(inward * 0.3, y * 0.8, 1.7), 0.035);
        post(canvas, v3(-inward * 0.6, y, 0.0), v3(-inward * 0.3, y * 0.8, 2.5), 0.035);
    }
    for step in 0..5 {
        let z = 0.25 + step as f32 * 0.3;
        post(canvas, v3(inward * (0.7 - z * 0.23), 0.38, z), v3(inward * (0.7 - z * 0.23), -0.38, z), 0.025);
    }
    post(canvas, v3(-inward * 0.3, 0.35, 1.65), v3(-inward * 0.3, -0.35, 1.65), 0.09);
    let outfit = official(look, 1);
    let body = resting(at + v3(-inward * 0.15, 0.0, 1.3), v3(inward, 0.0, 0.0), 1.0, Rest::Sitting);
    draw_body(canvas, camera, &body, &outfit, &lit);
}

pub(crate) fn official(look: &Look, which: usize) -> Outfit {
    let mut rng = stream(u64::from(look.seed), &[0x0ff1, which as u64 % 7]);
    let [color, dark] = look.surroundings.uniform;
    let umpire = which == 1;
    let person = Outfit {
        skin: hex(rng.pick(&SKINS)),
        hair: hex(rng.pick(&HAIRS)),
        cap: rng.chance(0.5).then_some(if rng.chance(0.5) { color } else { [0.8; 3] }),
        shirt: if umpire { dark } else { color },
        shorts: if rng.chance(0.5) { dark } else { hex(0xb0a890) },
        long_legs: rng.chance(0.6),
        long_sleeves: umpire,
        socks: [0.8; 3],
        shoes: if rng.chance(0.6) { [0.85; 3] } else { [0.05; 3] },
        racket: [0.0; 3],
        paddle: false,
        scale: rng.range(0.88, 1.02),
    };
    if look.venue == Venue::Beach { in_swimwear(person, &mut rng) } else { person }
}

/// Someone beside the court: where, which way they look, how they wait.
type Person = (V3, V3, Rest);

/// Line judges and ball kids, or a club's onlookers; farthest first.
pub(crate) fn officials(canvas: &mut Canvas, camera: &Camera, look: &Look, rng: &mut Stream) {
    let mut people = match look.venue {
        Venue::Stadium => {
            let lowest = canvas.height as f32 * 0.87;
            stadium_officials(look, |at| camera.project(at).is_some_and(|p| p.y > lowest), rng)
        }
        Venue::Club | Venue::Hall | Venue::Beach => onlookers(look, rng),
    };
    if camera.looks_across() {
        people.sort_by(|a, b| (camera.depth(b.0)).total_cmp(&camera.depth(a.0)));
    } else {
        people.sort_by(|a, b| b.0.y.total_cmp(&a.0.y));
    }
    let lit = light(camera, look);
    for (i, (at, forward, rest)) in people.into_iter().enumerate() {
        let outfit = official(look, i + 2);
        let mut body = resting(at, forward, outfit.scale, rest);
        body.racket = None;
        darken(canvas, &body_shadow(camera, &body, look, canvas.bounds()), look.light.shadow_depth);
        if rest == Rest::Sitting {
            cuboid(canvas, camera, at - forward * 0.1, v3(0.42, 0.42, 0.4), look.surroundings.wall, look);
        }
        let outfit = if matches!(look.venue, Venue::Club | Venue::Hall) {
            Outfit { shirt: hex(rng.pick(&CLOTHES)), shorts: hex(rng.pick(&CLOTHES)), long_legs: true, ..outfit }
        } else {
            outfit
        };
        draw_body(canvas, camera, &body, &outfit, &lit);
    }
}

/// `at_edge` tells whether a head is at the lower edge of the frame.
fn stadium_officials(look: &Look, at_edge: impl Fn(V3) -> bool, rng: &mut Stream) -> Vec<Person> {
    let [depth, side, _] = look.surroundings.walls;
    let umpire = look.surroundings.umpire_side;
    let back = (depth - 0.6).min(BASELINE + 6.0);
    let front = v3(0.0, -1.0, 0.0);
    let mut people: Vec<Person> = Vec::new();
    for x in [-4.1, 4.1] {
        let at = v3(x + rng.bell() * 0.1, back - 0.2, 0.0);
        people.push((at, front, if rng.chance(0.7) { Rest::Bending } else { Rest::Standing }));
    }
    for x in [-side + 2.6, side - 2.6] {
        people.push((v3(x * 0.95, back, 0.0), front, Rest::Standing));
    }
    for (x, y) in [(-side + 0.8, 5.5), (side - 0.8, 6.5), (side - 0.8, -4.0), (-side + 0.8, -7.5), (side - 0.8, -9.0)] {
        people.push((v3(x, y, 0.0), v3(-x.signum(), 0.0, 0.0), Rest::Sitting));
    }
    people.push((v3(-umpire * (NET_HALF + 0.7), -0.5, 0.0), v3(umpire, 0.0, 0.0), Rest::Kneeling));
    if rng.chance(0.4) {
        people.push((v3(0.0, back, 0.0), front, Rest::Sitting));
    }
    // Backs of those at the camera's end.
    for x in [-side + 2.2, -4.1, 0.0, 4.1, side - 2.2] {
        let at = v3(x, -back - rng.range(0.0, 1.0), 0.0);
        let rest = if rng.chance(0.5) { Rest::Standing } else { Rest::Bending };
        if rng.chance(0.5) && at_edge(at + v3(0.0, 0.0, 1.4)) {
            people.push((at, v3(0.0, 1.0, 0.0), rest));
        }
    }
    people
}

fn onlookers(look: &Look, rng: &mut Stream) -> Vec<Person> {
    let [depth, side, _] = look.surroundings.walls;
    let count = 4 + rng.index(6);
    let person = |_| {
        let x = rng.range(-side, side);
        let rest = if rng.chance(0.5) { Rest::Standing } else { Rest::Sitting };
        (v3(x, depth - rng.range(0.5, 1.2), 0.0), v3(0.0, -1.0, 0.0), rest)
    };
    (0..count).map(person).collect()
}

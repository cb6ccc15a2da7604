//! Club grass, the second domain: another surface, light, lens, height, surroundings, ball and grading at once. What stays
//! is drawn as for a broadcast.

use super::{BallLook, Court, Lighting, Look, Net, Outfit, Recording, Surface, Surroundings, Venue};
use super::{broadcast, direction, outfit, vary};
use crate::camera::{Framing, Pose};
use crate::court::{BASELINE, Cord, DOUBLES};
use crate::draw::{Draw, Stream};
use crate::flight::Ground;
use crate::math::*;

pub(super) fn sample(rng: &mut Stream) -> Look {
    let stadium = broadcast::sample(rng);
    let green = vary(hex(rng.pick(&[0x5f8a3a, 0x6f9440, 0x557f38, 0x7a9a4a])), 0.12, rng);
    let white = Outfit {
        shirt: hex(0xf4f2ea),
        shorts: hex(0xf0eee6),
        socks: hex(0xf6f4ee),
        shoes: hex(0xf4f2ec),
        ..outfit(rng)
    };
    Look {
        seed: stadium.seed,
        venue: Venue::Club,
        court: court(green, stadium.court, rng),
        lettering: None,
        net: Net {
            board: None,
            name: None,
            color: hex(0x1c2a1c),
            post_color: hex(rng.pick(&[0x2c4a30, 0x6a5a40, 0xd8d4c8])),
            shadow: 0.9,
            ..stadium.net
        },
        light: light(rng),
        surroundings: surroundings(stadium.surroundings, rng),
        players: [
            Outfit { cap: outfit(rng).cap, ..white },
            Outfit { skin: outfit(rng).skin, hair: outfit(rng).hair, ..white },
        ],
        // Bright balls through a soft lens: larger than the broadcast's.
        ball: BallLook {
            color: vary(hex(rng.pick(&[0xf2f25a, 0xe6f060, 0xf6ee7a, 0xeef29a])), 0.05, rng),
            bloom: rng.range(1.25, 1.6),
            smallest: rng.range(2.8, 3.5),
            bounce: Ground { restitution: 0.7, friction: 0.5, walls: [17.5, 10.5], net: Cord::TENNIS },
        },
        camera: Pose::Behind(Framing {
            behind: [6.5, 11.0],
            slope: [0.34, 0.56],
            near_line: [0.78, 0.93],
            far_line: [0.27, 0.37],
            court_width: [0.75, 1.25],
            sideways: 2.5,
        }),
        second_camera: stadium.second_camera,
        graphics: None,
        recording: recording(stadium.recording, rng),
    }
}

fn court(green: Rgb, stadium: Court, rng: &mut Stream) -> Court {
    Court {
        surface: Surface::Grass,
        color: green,
        surround: scale_rgb(green, rng.range(0.78, 0.98)),
        worn: vary(hex(0xb09a62), 0.1, rng),
        inner: [DOUBLES + 3.0, BASELINE + 5.0],
        texture: rng.range(0.3, 0.5),
        mowing: rng.range(0.14, 0.3),
        line: hex(0xf2efe0),
        line_width: rng.range(0.06, 0.085),
        line_wear: rng.range(0.25, 0.5),
        scuffs: 250,
        slides: 0.35,
        bright_scuffs: 0.8,
        ..stadium
    }
}

/// Low and warm, from the side: shadows two to four times a player's height.
fn light(rng: &mut Stream) -> Lighting {
    let sun = direction(rng.range(0.25, 0.48), rng.sign() * rng.range(0.9, 2.4));
    Lighting {
        sun,
        lamps: Vec::new(),
        sun_color: [1.05, 0.82, 0.5],
        sky_color: [0.36, 0.42, 0.52],
        ground_color: [0.2, 0.22, 0.14],
        shadow_depth: rng.range(0.52, 0.7),
        shadow_soft: 0.03,
        roof_shadow: rng.chance(0.7).then(|| [sun.x.signum(), rng.range(-0.2, 0.2), -rng.range(3.0, 8.0)]),
        roof_edge: 0.5,
        leaf_shade: 0.0,
    }
}

fn surroundings(stadium: Surroundings, rng: &mut Stream) -> Surroundings {
    Surroundings {
        walls: [rng.range(17.5, 21.0), rng.range(10.5, 15.0), rng.range(2.2, 3.4)],
        wall: vary(hex(rng.pick(&[0x1c3a26, 0x203020, 0x4a3a28])), 0.2, rng),
        crowd: rng.range(0.1, 0.4),
        crowd_light: 0.9,
        foliage: vary(hex(rng.pick(&[0x33521f, 0x47602a, 0x2a4a26, 0x6a6a2c])), 0.2, rng),
        sky: vary(hex(rng.pick(&[0xd8e2ea, 0xf0dcc0, 0xa8c8e8])), 0.06, rng),
        ..stadium
    }
}

fn recording(stadium: Recording, rng: &mut Stream) -> Recording {
    Recording {
        shutter: [0.08, 0.35],
        exposure: rng.range(0.8, 1.05),
        saturation: rng.range(0.75, 1.0),
        tint: [rng.range(1.06, 1.16), 1.0, rng.range(0.68, 0.82)],
        noise: rng.range(2.0, 4.5),
        sharpen: rng.range(-0.5, 0.2),
        vignette: rng.range(0.15, 0.35),
        shake: rng.range(0.6, 1.6),
        pan: rng.range(0.03, 0.09),
        ..stadium
    }
}

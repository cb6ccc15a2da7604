//! Halls: hard floors and carpets, curtains before the walls, rows of lamps under the roof.

use super::{Court, Lighting, Look, Recording, Surface, Surroundings, Venue, direction, vary};
use super::{broadcast, club};
use crate::camera::{Framing, Pose};
use crate::draw::{Draw, Stream};
use crate::math::*;

pub(super) fn sample(rng: &mut Stream) -> Look {
    let stadium = broadcast::sample(rng);
    let level = rng.range(0.65, 1.05);
    let warm = rng.range(-0.06, 0.14);
    let lamp = scale_rgb([1.0 + warm, 1.0, 1.0 - 1.4 * warm], level);
    let high = Pose::Behind(Framing {
        behind: [6.0, 11.0],
        slope: [0.3, 0.52],
        near_line: [0.74, 0.95],
        far_line: [0.26, 0.4],
        court_width: [0.6, 1.3],
        sideways: 2.0,
    });
    let phone = rng.chance(0.5);
    let graphics = rng.chance(0.3);
    Look {
        venue: Venue::Hall,
        court: court(stadium.court, rng),
        light: light(lamp, rng),
        surroundings: Surroundings {
            walls: [rng.range(17.2, 19.0), rng.range(8.6, 14.0), rng.range(2.4, 4.0)],
            wall: vary(hex(rng.pick(&[0x1c3a2a, 0x1f2c50, 0x2a2a2e, 0x3a4a6a, 0x6a6c70])), 0.25, rng),
            // Cladding above the curtains, and the roof.
            seats: vary(hex(rng.pick(&[0x9aa0a6, 0xc8c8c0, 0x6a7078, 0x8a7a60])), 0.2, rng),
            sky: scale_rgb(vary(hex(rng.pick(&[0x8a8e92, 0xb8b4a8, 0x4a4e54])), 0.2, rng), 0.8 * level),
            crowd_light: level,
            restless: rng.index(3),
            doubles: rng.chance(0.15),
            ..stadium.surroundings
        },
        camera: if phone { club::at_body_height() } else { high },
        second_camera: high,
        graphics: stadium.graphics.filter(|_| graphics),
        recording: Recording {
            shutter: [0.15, 0.9],
            exposure: rng.range(0.8, 1.1),
            saturation: rng.range(0.6, 1.05),
            noise: rng.range(0.8, 4.0),
            shake: if rng.chance(0.6) { 0.0 } else { rng.range(0.1, 0.8) },
            pan: 0.0,
            ..stadium.recording
        },
        ..stadium
    }
}

/// Rows of lamps under the roof: light from everywhere, faint soft shadows.
fn light(lamp: Rgb, rng: &mut Stream) -> Lighting {
    Lighting {
        sun: direction(rng.range(1.1, 1.4), rng.range(-PI, PI)),
        lamps: (0..4).map(|i| (direction(rng.range(0.8, 1.3), i as f32 * 1.57 + 0.4), 0.7)).collect(),
        sun_color: scale_rgb(lamp, 0.45),
        sky_color: scale_rgb(lamp, 0.62),
        ground_color: scale_rgb(lamp, 0.28),
        shadow_depth: rng.range(0.12, 0.35),
        shadow_soft: 0.2,
        roof_shadow: None,
        roof_edge: 0.5,
        leaf_shade: 0.0,
    }
}

/// Smoother than outdoors, unless it is clay.
fn court(stadium: Court, rng: &mut Stream) -> Court {
    let clay = stadium.surface == Surface::Clay;
    Court { texture: if clay { stadium.texture } else { rng.range(0.02, 0.1) }, loose_balls: 6, ..stadium }
}

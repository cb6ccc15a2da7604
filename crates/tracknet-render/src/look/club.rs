//! Public courts as a phone on the fence sees them: hard, clay, grass, artificial turf; sun, clouds, hard shade, floodlights.

use super::{BallLook, Court, Lighting, Look, Recording, Surface, Surroundings, direction, vary};
use super::{broadcast, grass};
use crate::camera::{Framing, Pose};
use crate::court::{BASELINE, DOUBLES};
use crate::draw::{Draw, Stream};
use crate::math::*;

pub(super) fn sample(rng: &mut Stream) -> Look {
    let (lawn, stadium) = (grass::sample(rng), broadcast::sample(rng));
    let court = if rng.chance(0.2) { lawn.court } else { court(stadium.court, rng) };
    let night = rng.chance(0.25);
    let light = if night { floodlights(rng) } else { daylight(rng) };
    let Surroundings { foliage, sky, .. } = lawn.surroundings;
    let dark = if night { rng.range(0.05, 0.3) } else { 1.0 };
    Look {
        surroundings: Surroundings {
            foliage: scale_rgb(foliage, dark.sqrt()),
            sky: if night { [0.004, 0.005, 0.009] } else { sky },
            wall: scale_rgb(lawn.surroundings.wall, 0.4 + 0.6 * dark),
            restless: rng.index(4),
            doubles: rng.chance(0.3),
            ..lawn.surroundings
        },
        lettering: None,
        ball: BallLook {
            smallest: rng.range(1.2, 2.2),
            bounce: if court.surface == Surface::Grass { lawn.ball.bounce } else { stadium.ball.bounce },
            ..stadium.ball
        },
        players: stadium.players,
        camera: at_body_height(),
        second_camera: lawn.camera,
        recording: recording(lawn.recording, night, rng),
        court,
        light,
        ..lawn
    }
}

/// On the fence behind the baseline, 1 to 3.5 m above the ground.
pub(super) fn at_body_height() -> Pose {
    Pose::Behind(Framing {
        behind: [4.5, 8.5],
        slope: [0.22, 0.42],
        near_line: [0.74, 1.2],
        far_line: [0.36, 0.5],
        court_width: [0.9, 2.6],
        sideways: 3.5,
    })
}

/// A stadium's court without its care: painted asphalt, clay, or turf with sand in it.
fn court(stadium: Court, rng: &mut Stream) -> Court {
    let turf = stadium.surface == Surface::Hard && rng.chance(0.3);
    let red = vary(hex(rng.pick(&[0x9a4a44, 0x8a4038, 0x3f6a4a, 0x4a7a58])), 0.15, rng);
    let green = vary(hex(rng.pick(&[0x3f6a4a, 0x4a7a58, 0x5a7a50])), 0.15, rng);
    Court {
        color: if turf { red } else { stadium.color },
        surround: if turf { green } else { stadium.surround },
        inner: [DOUBLES + rng.range(0.0, 0.4), BASELINE + rng.range(0.0, 0.4)],
        texture: if turf { rng.range(0.2, 0.4) } else { stadium.texture + rng.range(0.0, 0.15) },
        line_wear: stadium.line_wear + rng.range(0.0, 0.2),
        loose_balls: 8,
        ..stadium
    }
}

/// Sun from any height, or clouds; walls and trees that throw hard shade over the court.
fn daylight(rng: &mut Stream) -> Lighting {
    let cloudy = rng.chance(0.35);
    let height = rng.range(0.3, 1.2);
    let low = 1.0 - smoothstep(0.3, 0.9, height);
    let sun = direction(height, rng.range(-PI, PI));
    let shaded = !cloudy && rng.chance(0.5);
    let angle = rng.range(-PI, PI);
    Lighting {
        sun,
        lamps: Vec::new(),
        sun_color: if cloudy { [0.16, 0.16, 0.17] } else { [0.95, 0.92 - 0.12 * low, 0.86 - 0.34 * low] },
        sky_color: if cloudy { [0.78, 0.8, 0.84] } else { [0.38, 0.44, 0.54] },
        ground_color: [0.22, 0.22, 0.19],
        shadow_depth: if cloudy { rng.range(0.08, 0.25) } else { rng.range(0.55, 0.82) },
        shadow_soft: if cloudy { 0.2 } else { 0.02 },
        roof_shadow: shaded.then(|| [cos(angle), sin(angle) * 0.6, -rng.range(-2.0, 6.0)]),
        roof_edge: rng.range(0.06, 0.4),
        leaf_shade: if !cloudy && rng.chance(0.3) { rng.range(0.6, 1.0) } else { 0.0 },
    }
}

/// Four masts: several faint shadows, dim and of one colour.
fn floodlights(rng: &mut Stream) -> Lighting {
    let warm = rng.range(0.0, 0.18);
    let level = rng.range(0.55, 1.0);
    let lamp = scale_rgb([1.0 + warm, 1.0, 1.0 - 1.5 * warm], 0.42 * level);
    let lamps = (0..4)
        .map(|i| (direction(rng.range(0.45, 0.9), i as f32 * 1.57 + rng.range(0.4, 1.1)), rng.range(0.5, 1.0)))
        .collect();
    Lighting {
        sun: direction(rng.range(0.6, 1.0), rng.range(-PI, PI)),
        lamps,
        sun_color: lamp,
        sky_color: scale_rgb(lamp, 1.3),
        ground_color: scale_rgb(lamp, 0.5),
        shadow_depth: rng.range(0.25, 0.5),
        shadow_soft: 0.06,
        roof_shadow: None,
        roof_edge: 0.5,
        leaf_shade: 0.0,
    }
}

/// A phone: short exposures by day, long and noisy ones at night, its own white balance.
fn recording(lawn: Recording, night: bool, rng: &mut Stream) -> Recording {
    Recording {
        fps: rng.pick(&[30.0, 30.0, 60.0, 24.0]),
        shutter: if night { [0.3, 0.9] } else { [0.05, 0.5] },
        exposure: rng.range(0.85, 1.15),
        saturation: rng.range(0.7, 1.15),
        tint: [rng.range(0.92, 1.1), 1.0, rng.range(0.85, 1.1)],
        noise: if night { rng.range(2.0, 6.0) } else { rng.range(0.6, 2.5) },
        sharpen: rng.range(-0.3, 1.2),
        vignette: rng.range(0.0, 0.2),
        // On a fence or a tripod, or in the hand.
        shake: if rng.chance(0.6) { 0.0 } else { rng.range(0.2, 1.6) },
        pan: 0.0,
        ..lawn
    }
}

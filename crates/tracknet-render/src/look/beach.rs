//! Beach tennis: sand within a coloured tape, a high net, high or late sun, sea or dunes, swimwear, soft orange balls. What
//! stays is drawn as for club grass.

use super::{
    BallLook, CodecLook, Court, Lighting, Lines, Look, Net, Outfit, Recording, Surface, Surroundings, Venue, direction,
    footage, grass, in_swimwear, vary,
};
use crate::camera::{Framing, Pose};
use crate::court::{BASELINE, Cord, DOUBLES};
use crate::draw::{Draw, Stream};
use crate::flight::Ground;
use crate::math::*;

/// Already footage, though cleaner, and of a ball of its own.
pub(super) fn sample(rng: &mut Stream) -> Look {
    let lawn = grass::sample(rng);
    let is_late = rng.chance(0.4);
    let on_pole = Pose::Behind(Framing {
        behind: [5.5, 8.5],
        slope: [0.36, 0.52],
        near_line: [0.76, 1.08],
        far_line: [0.33, 0.44],
        court_width: [0.85, 1.9],
        sideways: 5.5,
    });
    let players = lawn.players.map(|player| player_of(player, rng));
    let look = Look {
        venue: Venue::Beach,
        court: court(rng),
        net: net(lawn.net, rng),
        light: light(is_late, rng),
        surroundings: surroundings(lawn.surroundings, is_late, rng),
        players,
        camera: on_pole,
        second_camera: on_pole,
        recording: recording(lawn.recording, rng),
        ..lawn
    };
    let filmed = footage::of(look, rng);
    Look { ball: ball(rng), recording: cleaner(filmed.recording), ..filmed }
}

fn player_of(person: Outfit, rng: &mut Stream) -> Outfit {
    let racket = hex(rng.pick(&[0x18191c, 0x20262e, 0xd8303c, 0x2a6ac8, 0xe8e8e8, 0x38b0a0]));
    Outfit { racket, paddle: true, ..in_swimwear(person, rng) }
}

/// Pale to golden, raked before the play.
fn court(rng: &mut Stream) -> Court {
    let dry = vary(hex(rng.pick(&[0xd2bc94, 0xc8ac7c, 0xbf9c68, 0xc9b8a0, 0xb89464])), 0.1, rng);
    Court {
        surface: Surface::Sand,
        color: dry,
        surround: scale_rgb(dry, rng.range(0.9, 1.06)),
        worn: mix_rgb(dry, scale_rgb(dry, 0.45), rng.range(0.2, 1.0)),
        inner: [DOUBLES + rng.range(0.5, 2.0), BASELINE + rng.range(0.5, 3.0)],
        texture: rng.range(0.25, 0.5),
        mowing: if rng.chance(0.6) { rng.range(0.03, 0.1) } else { 0.0 },
        lines: Lines::Boundary,
        line: vary(hex(rng.pick(&[0x1e4fb8, 0x1e4fb8, 0xc8202c, 0xe86a20, 0x16171a])), 0.15, rng),
        line_width: rng.range(0.05, 0.08),
        line_wear: rng.range(0.05, 0.4),
        scuffs: 500,
        slides: 0.3,
        bright_scuffs: 0.25,
        scuff_strength: 0.6,
        loose_balls: 5,
    }
}

/// Between coloured hems.
fn net(lawn: Net, rng: &mut Stream) -> Net {
    Net {
        color: scale_rgb(hex(rng.pick(&[0x101216, 0x16202c, 0x2a2a2c])), rng.range(0.7, 1.4)),
        density: rng.range(0.02, 0.1),
        threads: rng.range(0.25, 0.45),
        lifted: rng.range(0.6, 0.85),
        band_height: rng.range(0.06, 0.1),
        band_color: vary(hex(rng.pick(&[0xf0d830, 0xf07020, 0x2a60c8, 0xe8e8e4, 0xd02838])), 0.1, rng),
        post_color: hex(rng.pick(&[0xa8acb0, 0x8a6a44, 0x1e4fb8, 0xe0e0dc])),
        ..lawn
    }
}

/// High and white, or late and golden; the sand sends much of it back.
fn light(is_late: bool, rng: &mut Stream) -> Lighting {
    let height = if is_late { rng.range(0.2, 0.42) } else { rng.range(0.65, 1.25) };
    Lighting {
        sun: direction(height, rng.range(-PI, PI)),
        lamps: Vec::new(),
        sun_color: if is_late { [1.05, 0.8, 0.5] } else { [0.98, 0.94, 0.86] },
        sky_color: if is_late { [0.36, 0.4, 0.5] } else { [0.4, 0.47, 0.58] },
        ground_color: [0.4, 0.34, 0.25],
        shadow_depth: rng.range(0.48, 0.7),
        shadow_soft: 0.02,
        roof_shadow: None,
        roof_edge: 0.5,
        leaf_shade: 0.0,
    }
}

fn surroundings(lawn: Surroundings, is_late: bool, rng: &mut Stream) -> Surroundings {
    let sky =
        if is_late { rng.pick(&[0xe8cfa8, 0xc8c4c8, 0xa8bcd4]) } else { rng.pick(&[0x7fb0e4, 0x9cc4ec, 0xc8dcec]) };
    Surroundings {
        walls: [rng.range(17.5, 20.0), rng.range(10.5, 14.0), rng.range(0.7, 1.1)],
        wall: vary(hex(rng.pick(&[0x1e4fa0, 0xe86a28, 0x18898c, 0xe8e4d8, 0xc82838, 0x20242c])), 0.2, rng),
        wall_text: hex(rng.pick(&[0xf4f4f0, 0xf0e060, 0xf4f4f0, 0x30343c])),
        // The sea.
        seats: vary(hex(rng.pick(&[0x2f8fa8, 0x2a6f9c, 0x49a8a8, 0x3f7488])), 0.15, rng),
        foliage: vary(hex(rng.pick(&[0x3a6a2c, 0x56743a, 0x7a7c48])), 0.15, rng),
        sky: vary(hex(sky), 0.06, rng),
        restless: rng.index(4),
        doubles: rng.chance(0.5),
        ..lawn
    }
}

/// Soft, and half the pressure: larger than a tennis ball, orange with yellow, without its glow.
fn ball(rng: &mut Stream) -> BallLook {
    let color = mix_rgb(hex(0xf47418), hex(0xf4e038), rng.range(0.0, 0.7));
    BallLook {
        color: scale_rgb(vary(color, 0.1, rng), rng.range(1.05, 1.55)),
        bloom: rng.range(1.15, 1.6),
        smallest: rng.range(2.0, 3.0),
        bounce: Ground { restitution: 0.66, friction: 0.85, walls: [17.5, 10.5], net: Cord::BEACH },
    }
}

/// A phone or an action camera on a pole.
fn recording(lawn: Recording, rng: &mut Stream) -> Recording {
    Recording {
        fps: rng.pick(&[30.0, 30.0, 60.0, 25.0]),
        shutter: [0.05, 0.3],
        exposure: rng.range(0.82, 1.0),
        saturation: rng.range(0.85, 1.15),
        tint: [rng.range(0.96, 1.08), 1.0, rng.range(0.88, 1.08)],
        noise: rng.range(0.6, 2.5),
        sharpen: rng.range(-0.3, 0.8),
        vignette: rng.range(0.0, 0.2),
        shake: if rng.chance(0.6) { 0.0 } else { rng.range(0.2, 1.4) },
        pan: 0.0,
        ..lawn
    }
}

/// Recorded by whoever shows it: one light encoding, little softness.
fn cleaner(filmed: Recording) -> Recording {
    let light = |codec: CodecLook| CodecLook { step: codec.step.min(9.0), chroma: codec.chroma.min(1.2), ..codec };
    Recording { codec: filmed.codec.map(light), soft: filmed.soft * 0.7, ..filmed }
}

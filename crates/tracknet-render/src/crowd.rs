//! People beside the play who move while a clip runs: fans who stand up and sway, walkers and ball kids, partners in doubles.

use crate::camera::Camera;
use crate::draw::{Draw, Stream, stream};
use crate::look::{Look, Outfit, Venue};
use crate::math::*;
use crate::motion::Player;
use crate::officials::official;
use crate::rally::Track;
use crate::raster::Canvas;
use crate::stands::{aisle, place_behind, place_beside, spectator};

/// Someone in the stands who moves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fan {
    place: [V3; 2],
    number: u64,
    /// Radians a second, and at time 0.
    rate: f32,
    phase: f32,
    /// Metres to the side and up.
    reach: [f32; 2],
}

/// Someone on the ground beside the two players.
pub(crate) struct Extra {
    pub(crate) player: Player,
    pub(crate) outfit: Outfit,
    pub(crate) has_racket: bool,
}

/// Draws which seats hold someone who moves; in the rows that a camera sees.
pub(crate) fn fans(look: &Look, rng: &mut Stream) -> Vec<Fan> {
    if look.venue != Venue::Stadium {
        return Vec::new();
    }
    let mut fans = Vec::new();
    for _ in 0..look.surroundings.restless {
        let (row, seat, sign) = (rng.index(12), rng.index(60), rng.sign());
        let (place, along) =
            if rng.chance(0.3) { place_behind(look, row, seat + 32) } else { place_beside(look, row, seat, sign) };
        let fan = Fan {
            place,
            number: rng.next_u64(),
            rate: rng.range(1.5, 9.0),
            phase: rng.range(0.0, 2.0 * PI),
            reach: [rng.range(0.03, 0.2), if rng.chance(0.4) { rng.range(0.1, 0.4) } else { 0.0 }],
        };
        if !aisle(along, look) {
            fans.push(fan);
        }
    }
    // The rows behind first.
    fans.sort_by(|a, b| b.place[0].z.total_cmp(&a.place[0].z));
    fans
}

/// Draws the fans as they are at a time.
pub(crate) fn draw_fans(canvas: &mut Canvas, camera: &Camera, look: &Look, fans: &[Fan], time: f32) {
    for fan in fans {
        let wave = sin(time * fan.rate + fan.phase);
        let [_, forward] = fan.place;
        let sway = v3(forward.y, -forward.x, 0.0) * (wave * fan.reach[0]) + v3(0.0, 0.0, wave.max(0.0) * fan.reach[1]);
        spectator(canvas, camera, look, fan.place, stream(fan.number, &[]), sway);
    }
}

/// Partners at the net and people who walk or run along the walls.
pub(crate) fn extras(look: &Look, seconds: f32, rng: &mut Stream) -> Vec<Extra> {
    let [depth, side, _] = look.surroundings.walls;
    let mut extras = Vec::new();
    if look.surroundings.doubles {
        for (end, outfit) in [-1.0, 1.0].into_iter().zip(look.players) {
            let (x, y) = (rng.sign() * rng.range(1.5, 3.0), end * rng.range(2.5, 5.0));
            let track = Track::around(end, [x, y], 0.6, seconds, rng);
            extras.push(Extra { player: Player::new(track, outfit.scale, seconds), outfit, has_racket: true });
        }
    }
    for i in 0..look.surroundings.restless.min(3) {
        let outfit = official(look, i + 3);
        let (from, to) = (rng.range(-side, side), rng.range(-side, side));
        // Along the wall at the far end or, less often, beside the court.
        let (from, to) = if rng.chance(0.7) {
            let y = depth - rng.range(0.4, 1.6);
            ([from, y], [to, y])
        } else {
            let x = rng.sign() * (side - rng.range(0.4, 1.2));
            ([x, from], [x, to])
        };
        let track = Track::walk(1.0, [from, to], rng.range(1.0, 4.5), seconds);
        extras.push(Extra { player: Player::new(track, outfit.scale, seconds), outfit, has_racket: false });
    }
    extras
}

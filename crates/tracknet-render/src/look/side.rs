//! The court from beside it: a stadium's courtside camera, or a phone on a club's or a hall's side fence.

use super::{Look, Recording, Surroundings, broadcast, club, indoor};
use crate::camera::{Pose, Sideline};
use crate::draw::{Draw, Stream};

pub(super) fn sample(rng: &mut Stream) -> Look {
    let base = match rng.index(4) {
        0 => broadcast::sample(rng),
        1 => indoor::sample(rng),
        _ => club::sample(rng),
    };
    let side = rng.sign();
    let wall = base.surroundings.walls[1];
    let camera = Pose::Side(Sideline {
        side,
        away: [(wall - 2.5).max(8.2), wall - 0.4],
        along: [-3.0, 9.0],
        height: [1.5, 4.8],
        court_length: [0.85, 1.4],
    });
    Look {
        // The umpire faces the camera.
        surroundings: Surroundings { umpire_side: -side, ..base.surroundings },
        camera,
        second_camera: base.camera,
        recording: Recording { pan: 0.0, ..base.recording },
        ..base
    }
}

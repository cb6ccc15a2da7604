//! How players move: running, waiting, hitting and serving poses as functions of time.

use crate::body::{Body, Pose, Stance};
use crate::math::*;
use crate::rally::{Stroke, Swing, Track};

/// Metres per full run cycle of two steps.
const STRIDE: f32 = 2.3;

/// A player along a timeline.
#[derive(Debug, Clone)]
pub(crate) struct Player {
    track: Track,
    scale: f32,
    /// Distance run since time 0, every [`Player::TICK`] seconds: the phase of the steps.
    path: Vec<f32>,
}

impl Player {
    const TICK: f32 = 1.0 / 60.0;

    pub(crate) fn new(track: Track, scale: f32, seconds: f32) -> Self {
        let mut path = vec![0.0];
        let mut last = track.place(0.0);
        let mut sum = 0.0;
        for i in 1..(seconds / Self::TICK) as usize + 2 {
            let here = track.place(i as f32 * Self::TICK);
            sum += ((here.0 - last.0) * (here.0 - last.0) + (here.1 - last.1) * (here.1 - last.1)).sqrt();
            path.push(sum);
            last = here;
        }
        Self { track, scale, path }
    }

    /// The body at a time.
    pub(crate) fn body(&self, time: f32) -> Body {
        let forward = v3(0.0, -self.track.side, 0.0);
        let (x, y) = self.track.place(time);
        let (x1, y1) = self.track.place(time + 0.02);
        let right = v3(forward.y, -forward.x, 0.0);
        let velocity = v3((x1 - x) / 0.02, (y1 - y) / 0.02, 0.0);
        let local = v3(velocity.dot(right), velocity.dot(forward), 0.0);
        let mut pose = self.moving(time, local);
        let swing = self.track.swings.iter().find(|s| time > s.time - 1.1 && time < s.time + 0.55);
        if let Some(swing) = swing {
            pose = self.swinging(pose, swing, time - swing.time, v3(x, y, 0.0), right, forward);
        }
        // Turn into the run, but keep the chest to the net while hitting.
        let speed = local.length();
        let turn = if swing.is_some() { 0.25 } else { 0.65 } * smoothstep(1.0, 4.0, speed);
        let facing = if speed > 0.2 { (forward * (1.0 - turn) + velocity * (turn / speed)).unit() } else { forward };
        let stance = Stance { at: v3(x, y, 0.0), forward: facing, scale: self.scale };
        Body::new(&stance, &pose)
    }

    /// Waiting on the toes, or running with the phase of the distance covered.
    fn moving(&self, time: f32, local: V3) -> Pose {
        let speed = local.length();
        let run = smoothstep(0.4, 2.5, speed);
        let tick = (time / Self::TICK).max(0.0);
        let at = |i: usize| self.path.get(i).or(self.path.last()).copied().unwrap_or(0.0);
        let covered = mix(at(tick as usize), at(tick as usize + 1), tick - tick.floor());
        let phase = covered / STRIDE * 2.0 * PI + self.track.side;
        let bob = 0.015 * sin(time * 9.0 + self.track.side * 2.0) * (1.0 - run);
        let along = if speed > 0.1 { local * (1.0 / speed) } else { v3(0.0, 1.0, 0.0) };
        let length = 0.42 * (speed / 4.0).min(1.25);
        let foot = |side: f32, phase: f32| {
            let ready = v3(side * 0.27, 0.02 * side, 0.0);
            let lift = sin(phase).max(0.0) * 0.3 * run;
            let swing = along * (-cos(phase) * length);
            ready.lerp(v3(side * 0.12, -0.05, 0.0) + swing, run) + v3(0.0, 0.0, lift)
        };
        let arm = |side: f32, phase: f32| {
            let ready = v3(side * 0.12 + 0.06, 0.38, 1.02);
            let pumping = v3(side * 0.3, 0.12 - 0.3 * cos(phase), 1.08 + 0.1 * sin(phase));
            ready.lerp(pumping, run * 0.9)
        };
        Pose {
            pelvis: v3(0.0, -0.06, mix(0.8, 0.87, run) + bob + 0.04 * run * sin(phase * 2.0)),
            lean: v3(0.0, mix(0.2, 0.16, run), -0.03),
            twist: 0.25 * run * cos(phase),
            hands: [arm(-1.0, phase + PI), arm(1.0, phase)],
            feet: [foot(-1.0, phase), foot(1.0, phase + PI)],
            racket: Some(v3(-0.35, 0.7, 0.5).lerp(v3(0.2, 0.8, 0.4), run)),
        }
    }

    /// Blends a stroke into the pose; `t` is the time from the contact.
    fn swinging(&self, base: Pose, swing: &Swing, t: f32, at: V3, right: V3, forward: V3) -> Pose {
        let d = swing.point - at;
        let contact = v3(d.dot(right) / self.scale, d.dot(forward) / self.scale, d.z / self.scale);
        let keys = match swing.stroke {
            Stroke::Serve => serve_keys(contact),
            Stroke::Forehand => ground_keys(contact, 1.0),
            Stroke::Backhand => ground_keys(contact, -1.0),
        };
        let [first, .., last] = &keys;
        let weight = smoothstep(first.t, first.t + 0.18, t) * (1.0 - smoothstep(last.t - 0.15, last.t + 0.15, t));
        let key = keyed(&keys, t);
        let contact_weight = 1.0 - smoothstep(0.03, 0.12, t.abs());
        let racket_at_contact = (contact - key.hand).unit();
        let direction = key.racket.lerp(racket_at_contact, contact_weight);
        let other = match swing.stroke {
            Stroke::Serve => key.other,
            // Two hands on a backhand; the free arm balances a forehand.
            Stroke::Backhand => key.hand + v3(-0.04, 0.03, 0.03) + key.racket * 0.1,
            Stroke::Forehand => key.other,
        };
        let [left, right_hand] = base.hands;
        Pose {
            pelvis: v3(base.pelvis.x, base.pelvis.y, base.pelvis.z + key.rise * weight),
            lean: base.lean.lerp(v3(key.lean, 0.12, 0.0), weight),
            twist: mix(base.twist, key.twist, weight),
            hands: [left.lerp(other, weight), right_hand.lerp(key.hand, weight)],
            feet: base.feet,
            racket: base.racket.map(|r| r.lerp(direction, weight)),
        }
    }
}

/// A moment of a swing: hands and racket in the player's axes (right, forwards, up), metres.
#[derive(Debug, Clone, Copy)]
struct Key {
    /// Seconds from the contact.
    t: f32,
    /// The hand that holds the racket, and the other.
    hand: V3,
    other: V3,
    /// The racket's direction.
    racket: V3,
    /// Turn of the shoulders, radians; rise of the pelvis and lean of the trunk, metres.
    twist: f32,
    rise: f32,
    lean: f32,
}

fn key(t: f32, [hand, other, racket]: [V3; 3], [twist, rise, lean]: [f32; 3]) -> Key {
    Key { t, hand, other, racket, twist, rise, lean }
}

/// Backswing, drop, contact, follow-through over the other shoulder; `side` 1 is the forehand.
fn ground_keys(contact: V3, side: f32) -> [Key; 6] {
    let at = |x: f32, y: f32, z: f32| v3(x * side, y, z);
    let hand = contact - v3(side * 0.42, 0.02, 0.08);
    let other = at(-0.35, 0.35, 1.15);
    [
        key(-0.62, [at(0.15, 0.3, 1.1), other, at(0.2, 0.3, 0.9)], [0.0, 0.0, 0.0]),
        key(-0.24, [at(0.5, -0.32, 1.15), other, at(0.35, -0.7, 0.6)], [-0.9 * side, -0.07, 0.06 * side]),
        key(-0.08, [at(0.52, -0.15, 0.8), other, at(0.4, -0.9, -0.2)], [-0.6 * side, -0.05, 0.1 * side]),
        key(0.0, [hand, at(-0.4, 0.1, 1.1), at(1.0, 0.1, 0.1)], [0.1 * side, 0.03, 0.05 * side]),
        key(0.24, [at(-0.25, 0.25, 1.5), at(-0.35, 0.0, 1.2), at(-0.6, -0.6, 0.3)], [0.8 * side, 0.02, 0.0]),
        key(0.48, [at(-0.1, 0.3, 1.3), at(-0.25, 0.2, 1.15), at(-0.5, 0.1, 0.8)], [0.4 * side, 0.0, 0.0]),
    ]
}

/// Toss with the left arm, trophy, contact overhead, follow-through to the left hip.
fn serve_keys(contact: V3) -> [Key; 6] {
    let hand = contact - v3(0.08, 0.05, 0.5);
    [
        key(-1.05, [v3(0.1, 0.35, 1.0), v3(-0.05, 0.4, 1.0), v3(0.0, 0.8, 0.4)], [-0.3, 0.05, 0.0]),
        key(-0.8, [v3(0.35, -0.2, 0.9), v3(-0.25, 0.35, 1.6), v3(0.3, -0.5, -0.4)], [-0.8, 0.02, -0.05]),
        key(-0.35, [v3(0.42, -0.25, 1.55), v3(-0.15, 0.25, 2.1), v3(-0.1, -0.2, 1.0)], [-1.1, -0.1, -0.1]),
        key(-0.1, [v3(0.32, -0.25, 1.75), v3(-0.25, 0.2, 1.5), v3(0.1, -0.4, -0.9)], [-0.4, 0.1, -0.05]),
        key(0.0, [hand, v3(-0.2, 0.2, 1.2), v3(0.05, 0.1, 1.0)], [0.2, 0.2, -0.1]),
        key(0.3, [v3(-0.3, 0.35, 0.75), v3(-0.3, 0.0, 1.15), v3(-0.6, -0.2, -0.6)], [0.9, -0.05, 0.0]),
    ]
}

/// The swing at a time: cubic steps between its keys, which stop at each; a swing is too fast for that to be seen.
fn keyed<const N: usize>(keys: &[Key; N], t: f32) -> Key {
    let mut last = keys[0];
    for key in keys {
        if key.t >= t && key.t > last.t {
            let s = smoothstep(last.t, key.t, t);
            return Key {
                t,
                hand: last.hand.lerp(key.hand, s),
                other: last.other.lerp(key.other, s),
                racket: last.racket.lerp(key.racket, s),
                twist: mix(last.twist, key.twist, s),
                rise: mix(last.rise, key.rise, s),
                lean: mix(last.lean, key.lean, s),
            };
        }
        if key.t < t {
            last = *key;
        }
    }
    last
}

/// Someone who stays where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    Sitting,
    Standing,
    /// Hands on knees, as line judges wait.
    Bending,
    Kneeling,
}

/// A body at rest on the ground point (or seat) `at`.
pub(crate) fn resting(at: V3, forward: V3, scale: f32, rest: Rest) -> Body {
    let hands = |x: f32, y: f32, z: f32| [v3(-x, y, z), v3(x, y, z)];
    let feet = |x: f32, y: f32| [v3(-x, y, 0.0), v3(x, y, 0.0)];
    let (pelvis, lean, hands, feet) = match rest {
        Rest::Sitting => (v3(0.0, 0.0, 0.5), v3(0.0, 0.06, 0.0), hands(0.14, 0.36, 0.58), feet(0.14, 0.42)),
        Rest::Standing => (v3(0.0, 0.0, 0.9), v3(0.0, 0.0, 0.0), hands(0.08, -0.16, 0.86), feet(0.16, 0.0)),
        Rest::Bending => (v3(0.0, -0.18, 0.78), v3(0.0, 0.34, -0.14), hands(0.2, 0.26, 0.55), feet(0.22, 0.0)),
        Rest::Kneeling => {
            (v3(0.0, 0.0, 0.42), v3(0.0, 0.24, -0.05), hands(0.2, 0.4, 0.4), [v3(-0.1, 0.34, 0.0), v3(0.1, -0.35, 0.0)])
        }
    };
    let stance = Stance { at, forward, scale };
    Body::new(&stance, &Pose { pelvis, lean, twist: 0.0, hands, feet, racket: None })
}

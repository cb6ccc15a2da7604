//! The flight of a tennis ball: gravity, drag, lift from spin, bounces, the net.

use crate::court::{Cord, NET_HALF};
use crate::math::*;

const GRAVITY: f32 = 9.81;
/// ITF ball: 58 g, 67 mm.
pub(crate) const RADIUS: f32 = 0.0335;
const MASS: f32 = 0.058;
const AIR: f32 = 1.21;
/// Drag of a tennis ball, nearly constant over its speeds (Mehta, Alam, Subic: "Review of tennis ball aerodynamics",
/// Sports Technology 1, 2008).
const DRAG: f32 = 0.55;
/// ½ρA/m, 1/m.
const AREA_PER_MASS: f32 = 0.5 * AIR * PI * RADIUS * RADIUS / MASS;
/// Moment of inertia over m·r², a thin hollow sphere with felt (Brody: "Bounce of a tennis ball", 1984).
const INERTIA: f32 = 0.55;
/// Seconds between stored positions.
pub(crate) const STEP: f32 = 1.0 / 480.0;

/// How the ground returns the ball, and what stands on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ground {
    /// Vertical speed after over before; about 0.75.
    pub(crate) restitution: f32,
    /// Sliding friction; clay 0.8, hard 0.65, grass 0.5.
    pub(crate) friction: f32,
    /// Depth (|y|) and width (|x|) of the enclosing walls, metres.
    pub(crate) walls: [f32; 2],
    pub(crate) net: Cord,
}

/// Place, velocity and spin (rad/s, axis by the right-hand rule).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ball {
    pub(crate) position: V3,
    pub(crate) velocity: V3,
    pub(crate) spin: V3,
}

/// What happened within a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Contact {
    None,
    Ground,
    Net,
    Wall,
}

impl Ball {
    /// Gravity + drag + Magnus lift with `C_L = 1 / (2 + v / (r·ω))` (Stepanek: "The aerodynamics of tennis balls",
    /// American Journal of Physics 56, 1988).
    fn acceleration(&self) -> V3 {
        let speed = self.velocity.length();
        let rim = RADIUS * self.spin.length();
        let mut a = v3(0.0, 0.0, -GRAVITY) - self.velocity * (AREA_PER_MASS * DRAG * speed);
        if rim > 0.1 && speed > 0.5 {
            let lift = 1.0 / (2.0 + speed / rim);
            a = a + self.spin.cross(self.velocity).unit() * (AREA_PER_MASS * lift * speed * speed);
        }
        a
    }

    /// One midpoint step of [`STEP`] seconds, then contacts.
    pub(crate) fn advance(&mut self, ground: &Ground) -> Contact {
        let before = self.position;
        let half = Ball { velocity: self.velocity + self.acceleration() * (STEP * 0.5), ..*self };
        self.position = self.position + half.velocity * STEP;
        self.velocity = self.velocity + half.acceleration() * STEP;
        self.net(before, &ground.net).or(self.walls(ground)).or(self.bounce(ground))
    }

    /// Restitution upwards; along the ground, friction until the ball would roll: an impulse of at most μ(1+e)|v_z|,
    /// and no more than `slip·α/(1+α)`, which makes it roll (Brody 1984).
    fn bounce(&mut self, ground: &Ground) -> Contact {
        if self.position.z > RADIUS || self.velocity.z >= 0.0 {
            return Contact::None;
        }
        let down = -self.velocity.z;
        self.position.z = RADIUS;
        // A slow ball stops hopping and rolls out.
        self.velocity.z = if down < 0.35 { 0.0 } else { ground.restitution * down };
        let along = v3(self.velocity.x, self.velocity.y, 0.0);
        // The rim's velocity at the lowest point is ω × (0, 0, −r).
        let slip = along + v3(-self.spin.y, self.spin.x, 0.0) * RADIUS;
        let amount = slip.length();
        if amount > 1e-4 {
            let impulse = (ground.friction * (1.0 + ground.restitution) * down).min(amount * INERTIA / (1.0 + INERTIA));
            let push = slip * (-impulse / amount);
            self.velocity = self.velocity + push;
            // Torque of the push at (0, 0, −r): Δω = (−r ẑ) × Δv / (α r²).
            self.spin = self.spin + v3(0.0, 0.0, -1.0).cross(push) * (1.0 / (INERTIA * RADIUS));
        }
        if down < 0.35 {
            self.velocity = self.velocity * 0.995;
        }
        Contact::Ground
    }

    /// The cord takes nearly all the speed.
    fn net(&mut self, before: V3, cord: &Cord) -> Contact {
        let crosses = (before.y > 0.0) != (self.position.y > 0.0);
        if !crosses || self.position.x.abs() > NET_HALF || self.position.z > cord.height(self.position.x) + RADIUS {
            return Contact::None;
        }
        self.position.y = before.y.signum() * RADIUS;
        self.velocity = v3(self.velocity.x * 0.15, -self.velocity.y * 0.06, self.velocity.z * 0.2);
        self.spin = v3(0.0, 0.0, 0.0);
        Contact::Net
    }

    fn walls(&mut self, ground: &Ground) -> Contact {
        let mut contact = Contact::None;
        let [depth, width] = ground.walls;
        if self.position.y.abs() > depth {
            self.position.y = depth * self.position.y.signum();
            self.velocity = v3(self.velocity.x * 0.7, -self.velocity.y * 0.35, self.velocity.z * 0.6);
            contact = Contact::Wall;
        }
        if self.position.x.abs() > width {
            self.position.x = width * self.position.x.signum();
            self.velocity = v3(-self.velocity.x * 0.35, self.velocity.y * 0.7, self.velocity.z * 0.6);
            contact = Contact::Wall;
        }
        contact
    }

    /// Kinetic and potential energy over mass, J/kg.
    #[cfg(test)]
    fn energy(&self) -> f32 {
        let rim = self.spin.length() * RADIUS;
        0.5 * self.velocity.dot(self.velocity) + 0.5 * INERTIA * rim * rim + GRAVITY * self.position.z
    }
}

impl Contact {
    fn or(self, other: Contact) -> Contact {
        if self == Contact::None { other } else { self }
    }
}

/// A shot to solve: from a racket to a spot on the other side.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shot {
    pub(crate) from: V3,
    pub(crate) to: V3,
    /// Mean horizontal speed to try first, m/s.
    pub(crate) speed: f32,
    /// Topspin (negative: slice), rad/s.
    pub(crate) topspin: f32,
    /// Wanted height over the cord, metres; negative aims into the net.
    pub(crate) clearance: f32,
}

/// Finds the launch: shoots, compares the landing with the target, corrects the aim; slows down until the cord is
/// cleared. The landing is within about 0.3 m of the target whenever the shot is possible.
pub(crate) fn solve(shot: &Shot, ground: &Ground) -> Ball {
    let mut speed = shot.speed;
    let mut best = launch(shot, shot.to, speed);
    let mut aim = shot.to;
    for _ in 0..14 {
        let mut over_net = f32::MAX;
        for _ in 0..12 {
            best = launch(shot, aim, speed);
            let (landing, height) = land(best, ground);
            over_net = height;
            let miss = shot.to - landing;
            if miss.x.abs() + miss.y.abs() < 0.15 {
                break;
            }
            // Drag and topspin shorten a correction, slice lengthens it: a little more than the miss converges.
            aim = aim + v3(miss.x, miss.y, 0.0) * 1.15;
        }
        if over_net > shot.clearance {
            break;
        }
        speed *= 0.92;
    }
    best
}

fn launch(shot: &Shot, aim: V3, speed: f32) -> Ball {
    let d = aim - shot.from;
    let distance = (d.x * d.x + d.y * d.y).sqrt().max(0.5);
    let time = distance / speed.max(3.0);
    let velocity = v3(d.x / time, d.y / time, (RADIUS - shot.from.z + 0.5 * GRAVITY * time * time) / time);
    let axis = v3(-d.y, d.x, 0.0) * (shot.topspin / distance);
    Ball { position: shot.from, velocity, spin: axis }
}

/// Where a ball comes down without net and walls, and its height over the cord on the way.
fn land(mut ball: Ball, ground: &Ground) -> (V3, f32) {
    let mut over_net = f32::MAX;
    for _ in 0..2400 {
        let before = ball.position;
        let half = Ball { velocity: ball.velocity + ball.acceleration() * (STEP * 0.5), ..ball };
        ball.position = ball.position + half.velocity * STEP;
        ball.velocity = ball.velocity + half.acceleration() * STEP;
        if (before.y > 0.0) != (ball.position.y > 0.0) {
            over_net = ball.position.z - ground.net.height(ball.position.x);
        }
        if ball.position.z <= RADIUS && ball.velocity.z < 0.0 || ball.position.y.abs() > ground.walls[0] * 2.0 {
            break;
        }
    }
    (ball.position, over_net)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARD: Ground = Ground { restitution: 0.75, friction: 0.65, walls: [18.0, 9.0], net: Cord::TENNIS };

    #[test]
    fn a_dropped_ball_rises_to_the_square_of_the_restitution() {
        let mut ball = Ball { position: v3(3.0, 5.0, 2.54), velocity: V3::default(), spin: V3::default() };
        let (mut bounced, mut top) = (false, 0.0_f32);
        for _ in 0..720 {
            if ball.advance(&HARD) == Contact::Ground {
                if bounced {
                    break;
                }
                bounced = true;
            }
            if bounced {
                top = top.max(ball.position.z);
            }
        }
        let expected = 0.75 * 0.75 * 2.5;
        // Drag takes a few per cent of the height.
        assert!(top < expected + 0.04 && top > expected * 0.9, "{top}");
    }

    #[test]
    fn energy_never_grows_and_stays_finite() {
        for topspin in [-250.0, 0.0, 300.0] {
            let shot = Shot { from: v3(1.0, -12.0, 1.0), to: v3(-2.0, 9.0, 0.0), speed: 30.0, topspin, clearance: 0.1 };
            let mut ball = solve(&shot, &HARD);
            let mut energy = ball.energy();
            for _ in 0..3000 {
                ball.advance(&HARD);
                let now = ball.energy();
                // The spin axis is held in flight, and the contact lifts the ball back to its radius: 1e-2 J/kg.
                assert!(now.is_finite() && now <= energy + 0.02, "{energy} -> {now}");
                energy = now;
            }
        }
    }

    #[test]
    fn a_solved_shot_clears_the_net_and_lands_on_target() {
        for (speed, topspin, y) in [(35.0, 200.0, 10.0), (25.0, 250.0, 7.0), (12.0, 50.0, 11.0), (20.0, -120.0, 8.0)] {
            let shot = Shot { from: v3(2.0, -12.5, 0.9), to: v3(-3.0, y, 0.0), speed, topspin, clearance: 0.15 };
            for ground in [HARD, Ground { net: Cord::BEACH, ..HARD }] {
                let (landing, over_net) = land(solve(&shot, &ground), &ground);
                assert!(over_net > 0.15, "{over_net}");
                assert!((landing - shot.to).length() < 0.4, "{landing:?} {shot:?}");
            }
        }
    }

    #[test]
    fn the_net_stops_a_low_ball() {
        let mut ball = Ball { position: v3(0.0, -3.0, 0.5), velocity: v3(0.0, 30.0, 0.0), spin: V3::default() };
        for _ in 0..480 {
            ball.advance(&HARD);
        }
        assert!(ball.position.y < 0.0);
    }
}

//! A rally as a timeline: where the ball is, who runs where, when each swing meets it.

use crate::court::{BASELINE, SERVICE, SINGLES};
use crate::draw::{Draw, Stream};
use crate::flight::{Ball, Contact, Ground, RADIUS, STEP, Shot, solve};
use crate::math::*;

/// How a player meets the ball.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stroke {
    Forehand,
    Backhand,
    Serve,
}

/// A swing: the racket's centre is at `point` at `time`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Swing {
    pub(crate) time: f32,
    pub(crate) point: V3,
    pub(crate) stroke: Stroke,
}

/// One player's track: keyed positions (time, x, y) and swings, both in order of time.
#[derive(Debug, Clone)]
pub(crate) struct Track {
    /// −1 at the camera's end, 1 at the far end.
    pub(crate) side: f32,
    keys: Vec<(f32, f32, f32)>,
    pub(crate) swings: Vec<Swing>,
}

/// The `status` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    Hit,
    Bounce,
}

/// The ball, the players and what happened, from time 0 to [`Rally::duration`].
#[derive(Debug, Clone)]
pub(crate) struct Rally {
    ball: Vec<Option<V3>>,
    pub(crate) events: Vec<(f32, Event)>,
    pub(crate) tracks: [Track; 2],
}

impl Rally {
    /// Plays points until at least `seconds` are filled.
    pub(crate) fn play(seconds: f32, ground: &Ground, rng: &mut Stream) -> Self {
        let track = |side: f32| Track { side, keys: vec![(0.0, side * 0.5, side * 12.4)], swings: Vec::new() };
        let mut rally = Self { ball: Vec::new(), events: Vec::new(), tracks: [track(-1.0), track(1.0)] };
        while rally.duration() < seconds {
            rally.point(ground, rng);
        }
        rally
    }

    /// Seconds covered.
    pub(crate) fn duration(&self) -> f32 {
        self.ball.len() as f32 * STEP
    }

    /// The ball's centre; `None` while it is in a pocket or gone.
    pub(crate) fn ball_at(&self, time: f32) -> Option<V3> {
        let place = (time / STEP).max(0.0);
        let index = place as usize;
        let here = self.ball.get(index).copied().flatten()?;
        match self.ball.get(index + 1).copied().flatten() {
            Some(next) => Some(here.lerp(next, place - index as f32)),
            None => Some(here),
        }
    }

    /// One point: wait, toss, serve, strokes until a fault, the ball running out.
    fn point(&mut self, ground: &Ground, rng: &mut Stream) {
        let server = rng.index(2);
        let receiver = 1 - server;
        let (side, box_side) = (self.side(server), rng.sign());
        let stand = (side * -box_side * rng.range(0.4, 2.2), side * (BASELINE + 0.25));
        let wait = rng.range(0.6, 1.0);
        let start = self.duration();
        self.interrupt(server, start);
        self.interrupt(receiver, start);
        self.run(server, start + wait - 0.2, stand.0, stand.1);
        self.run(receiver, start + wait, side * box_side * rng.range(2.6, 4.0), -side * rng.range(12.2, 14.2));
        self.hide(wait);
        let contact = self.toss(server, stand, rng);
        let first = Shot {
            from: contact,
            to: v3(
                side * box_side * rng.range(0.6, SINGLES - 0.3),
                -side * rng.range(SERVICE - 2.2, SERVICE - 0.3),
                0.0,
            ),
            speed: rng.range(32.0, 52.0),
            topspin: rng.range(20.0, 300.0),
            clearance: 0.06,
        };
        let mut ball = solve(&first, ground);
        let mut hitter = server;
        for _ in 0..rng.index(9) + 3 {
            let Some((time, at)) = self.find_contact(1 - hitter, ball, ground, rng) else { break };
            let reaction = self.duration() + 0.15;
            self.interrupt(1 - hitter, reaction);
            self.fly(&mut ball, time, ground);
            hitter = 1 - hitter;
            self.meet(hitter, at, rng);
            ball = solve(&self.choose_shot(hitter, at, rng), ground);
        }
        let rest = rng.range(1.0, 2.2);
        self.fly(&mut ball, rest, ground);
        self.hide(rng.range(0.1, 0.3));
    }

    fn side(&self, player: usize) -> f32 {
        if player == 0 { -1.0 } else { 1.0 }
    }

    fn track(&mut self, player: usize) -> &mut Track {
        let [near, far] = &mut self.tracks;
        if player == 0 { near } else { far }
    }

    fn run(&mut self, player: usize, time: f32, x: f32, y: f32) {
        self.track(player).keys.push((time, x, y));
    }

    /// Drops what the player had planned after `time`: a new plan starts from where that leaves them.
    fn interrupt(&mut self, player: usize, time: f32) {
        let track = self.track(player);
        let (x, y) = track.place(time);
        track.keys.retain(|key| key.0 < time);
        track.keys.push((time, x, y));
    }

    fn hide(&mut self, seconds: f32) {
        let count = (seconds / STEP) as usize;
        self.ball.extend(std::iter::repeat_n(None, count));
    }

    /// The toss: up from the hand, met on its way down.
    fn toss(&mut self, server: usize, stand: (f32, f32), rng: &mut Stream) -> V3 {
        let side = self.side(server);
        let (low, top, high) = (1.55, rng.range(3.1, 3.7), rng.range(2.65, 2.85));
        let up = (2.0_f32 * 9.81 * (top - low)).sqrt();
        let time = up / 9.81 + (2.0_f32 * (top - high) / 9.81).sqrt();
        let count = (time / STEP) as usize;
        let from = v3(stand.0 + side * 0.25, stand.1 - side * 0.35, low);
        let to = v3(stand.0 - side * 0.25, stand.1 - side * 0.55, high);
        for i in 0..count {
            let t = i as f32 * STEP;
            let p = from.lerp(to, t / time);
            self.ball.push(Some(v3(p.x, p.y, low + up * t - 0.5 * 9.81 * t * t)));
        }
        let now = self.duration();
        self.track(server).swings.push(Swing { time: now, point: to, stroke: Stroke::Serve });
        self.run(server, now, stand.0, stand.1 - side * 0.1);
        self.run(server, now + 0.35, stand.0, stand.1 - side * 0.7);
        self.recover(server, now + 0.35, rng);
        self.events.push((now, Event::Hit));
        to
    }

    /// When and where the player can reach the ball after one bounce; `None` for a winner or a fault.
    fn find_contact(&self, player: usize, mut ball: Ball, ground: &Ground, rng: &mut Stream) -> Option<(f32, V3)> {
        let side = self.side(player);
        let now = self.duration();
        let preferred = rng.range(0.5, 1.25);
        let track = if player == 0 { &self.tracks[0] } else { &self.tracks[1] };
        let mut bounces = 0;
        let mut best: Option<(f32, f32, V3)> = None;
        for step in 1..1400 {
            let contact = ball.advance(ground);
            let time = step as f32 * STEP;
            match contact {
                Contact::Ground if ball.position.y * side < 0.2 => break,
                Contact::Ground => bounces += 1,
                Contact::Net | Contact::Wall => break,
                Contact::None => {}
            }
            if bounces > 1 {
                break;
            }
            let p = ball.position;
            if bounces == 1 && step % 6 == 0 && p.z > 0.3 && p.z < 1.7 && p.y * side > 1.5 {
                let (x, y) = track.place(now + 0.15);
                let distance = ((p.x - x) * (p.x - x) + (p.y - y) * (p.y - y)).sqrt() - 0.9;
                let speed = distance / (time - 0.1).max(0.1);
                // Late contacts are easier to reach; a player prefers a comfortable height behind the baseline.
                let cost = (p.z - preferred).abs() + (speed - 4.5).max(0.0) * 0.8 + (p.y.abs() - 12.5).abs() * 0.08;
                if speed < 7.5 && best.is_none_or(|(c, _, _)| cost < c) {
                    best = Some((cost, time, p));
                }
            }
        }
        best.map(|(_, time, p)| (time, p))
    }

    /// Sends the player so that the swing's centre is at `at` now, and back to the middle afterwards.
    fn meet(&mut self, player: usize, at: V3, rng: &mut Stream) {
        let side = self.side(player);
        let now = self.duration();
        let (x, _) = (if player == 0 { &self.tracks[0] } else { &self.tracks[1] }).place(now - 0.4);
        // The right hand of the near player is at +x, of the far player at −x.
        let right = -side;
        let forehand = (at.x - x) * right > -0.35;
        let reach = if forehand { 0.8 } else { -0.7 };
        let stroke = if forehand { Stroke::Forehand } else { Stroke::Backhand };
        self.track(player).swings.push(Swing { time: now, point: at, stroke });
        self.run(player, now, at.x - right * reach, at.y + side * 0.35);
        self.run(player, now + 0.22, at.x - right * reach * 0.9, at.y + side * 0.25);
        self.recover(player, now + 0.22, rng);
        self.events.push((now, Event::Hit));
    }

    fn recover(&mut self, player: usize, time: f32, rng: &mut Stream) {
        let side = self.side(player);
        let (x, y) = (rng.range(-1.0, 1.0), side * rng.range(12.0, 13.6));
        let from = self.track(player).place(time);
        let distance = ((from.0 - x) * (from.0 - x) + (from.1 - y) * (from.1 - y)).sqrt();
        self.run(player, time + (distance / 3.6).max(0.4), x, y);
    }

    fn choose_shot(&self, player: usize, from: V3, rng: &mut Stream) -> Shot {
        let side = self.side(player);
        let error = rng.chance(0.08);
        let (deep, wide) = if error && rng.chance(0.5) { (13.0, 5.5) } else { (11.2, SINGLES - 0.4) };
        let spot = v3(rng.range(-wide, wide), -side * rng.range(5.5, deep), 0.0);
        let clearance = if error { -0.4 } else { rng.range(0.1, 0.9) };
        match rng.index(20) {
            0 | 1 => Shot {
                from,
                to: v3(spot.x, -side * rng.range(9.0, 11.3), 0.0),
                speed: rng.range(8.5, 11.5),
                topspin: rng.range(-50.0, 150.0),
                clearance: 1.5,
            },
            2..=4 => {
                Shot { from, to: spot, speed: rng.range(13.0, 20.0), topspin: rng.range(-280.0, -100.0), clearance }
            }
            5 => Shot {
                from,
                to: v3(spot.x, -side * rng.range(2.0, 4.5), 0.0),
                speed: rng.range(9.0, 13.0),
                topspin: -120.0,
                clearance: 0.25,
            },
            _ => Shot { from, to: spot, speed: rng.range(19.0, 34.0), topspin: rng.range(100.0, 350.0), clearance },
        }
    }

    /// Lets the ball fly and writes its path.
    fn fly(&mut self, ball: &mut Ball, seconds: f32, ground: &Ground) {
        for _ in 0..(seconds / STEP).round() as usize {
            self.ball.push(Some(ball.position));
            let down = ball.velocity.z;
            if ball.advance(ground) == Contact::Ground && down < -0.8 {
                self.events.push((self.duration(), Event::Bounce));
            }
            ball.position.z = ball.position.z.max(RADIUS);
        }
    }
}

impl Track {
    /// Someone who waits around a place, `reach` metres of it, for `seconds`.
    pub(crate) fn around(side: f32, [x, y]: [f32; 2], reach: f32, seconds: f32, rng: &mut Stream) -> Self {
        let mut keys = vec![(0.0, x, y)];
        let mut time = 0.0;
        while time < seconds {
            time += rng.range(0.7, 1.8);
            keys.push((time, x + rng.range(-reach, reach), y + rng.range(-reach, reach)));
        }
        Self { side, keys, swings: Vec::new() }
    }

    /// Someone who goes to and fro between two places at a mean `speed` in m/s.
    pub(crate) fn walk(side: f32, [from, to]: [[f32; 2]; 2], speed: f32, seconds: f32) -> Self {
        let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
        let duration = ((dx * dx + dy * dy).sqrt() / speed).max(0.5);
        let count = (seconds / duration) as usize + 2;
        let place = |i: usize| if i.is_multiple_of(2) { from } else { to };
        let keys = (0..count).map(|i| (i as f32 * duration, place(i)[0], place(i)[1])).collect();
        Self { side, keys, swings: Vec::new() }
    }

    /// Ground position at a time: eased between the keys.
    pub(crate) fn place(&self, time: f32) -> (f32, f32) {
        let mut last = self.keys.first().copied().unwrap_or((0.0, 0.0, self.side * 12.0));
        for &key in &self.keys {
            if key.0 >= time {
                // A key set while the one before it was still under way: start from there.
                let t =
                    if key.0 - last.0 > 1e-3 { smoothstep(0.0, 1.0, (time - last.0) / (key.0 - last.0)) } else { 1.0 };
                return (mix(last.1, key.1, t), mix(last.2, key.2, t));
            }
            last = key;
        }
        (last.1, last.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::court::Cord;
    use crate::draw::stream;

    const CLAY: Ground = Ground { restitution: 0.78, friction: 0.8, walls: [18.5, 9.5], net: Cord::TENNIS };

    #[test]
    fn rallies_stay_finite_and_inside_the_walls() {
        for seed in 0..12 {
            let rally = Rally::play(12.0, &CLAY, &mut stream(seed, &[]));
            assert!(rally.duration() >= 12.0);
            for ball in rally.ball.iter().flatten() {
                assert!(ball.x.is_finite() && ball.y.abs() <= 18.5 && ball.x.abs() <= 9.5 && ball.z >= 0.0, "{ball:?}");
            }
        }
    }

    #[test]
    fn swings_meet_the_ball() {
        let mut met = 0;
        for seed in 0..6 {
            let rally = Rally::play(10.0, &CLAY, &mut stream(seed, &[]));
            for swing in rally.tracks.iter().flat_map(|p| &p.swings) {
                let ball = rally.ball_at(swing.time).or(rally.ball_at(swing.time - STEP)).unwrap();
                // One step of the fastest serve is 0.12 m.
                assert!((ball - swing.point).length() < 0.2, "{ball:?} {swing:?}");
                met += 1;
            }
        }
        assert!(met > 20, "only {met} strokes in a minute of play");
    }
}

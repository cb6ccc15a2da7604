//! What only the inside shows: visibility classes, where the drawn ball lies, where the court lies.

use std::sync::atomic::AtomicBool;

use crate::camera::{Pose, sample_camera};
use crate::clip::{ClipKey, Truth, render_clip};
use crate::court::{BASELINE, DOUBLES};
use crate::draw::stream;
use crate::look::{CodecLook, Look, LookSet, Scan, Surface, Venue};
use crate::math::v3;

const SMALL: [usize; 2] = [320, 180];

/// The frames of a clip as RGB, and their labels.
fn frames(look: &Look, game: u64, count: usize) -> Vec<(Vec<u8>, Truth)> {
    let key = ClipKey { seed: 5, game, clip: 0, frames: count, size: SMALL };
    render_clip(key, look.clone(), &AtomicBool::new(false), |_, rgb| rgb.to_vec()).unwrap()
}

/// A broadcast that nothing moves in but what plays.
fn still_broadcast(game: u64) -> Look {
    let mut look = Look::sample(LookSet::Broadcast, 5, game);
    let recording = &mut look.recording;
    (recording.noise, recording.duplicates, recording.shake, recording.pan) = (0.0, 0.0, 0.0, 0.0);
    look
}

/// The share of green samples that are the same in both frames.
fn same(a: &[u8], b: &[u8]) -> f32 {
    let equal = a.chunks(3).zip(b.chunks(3)).filter(|(a, b)| a[1] == b[1]).count();
    equal as f32 / (a.len() / 3) as f32
}

#[test]
fn every_visibility_class_occurs() {
    let mut counts = [0; 4];
    for game in 1..=10 {
        let key = ClipKey { seed: 3, game, clip: 0, frames: 30, size: [160, 90] };
        let look = Look::sample(LookSet::Broadcast, 3, game);
        for (_, truth) in render_clip(key, look, &AtomicBool::new(false), |_, _| ()).unwrap() {
            assert_eq!(truth.xy.is_some(), truth.visibility > 0);
            counts[usize::from(truth.visibility)] += 1;
        }
    }
    assert!(counts.iter().all(|&n| n > 0), "{counts:?}");
    assert!(counts[1] > counts[0] + counts[3], "most balls are visible: {counts:?}");
}

#[test]
fn the_ball_is_where_the_label_says() {
    for set in [LookSet::Broadcast, LookSet::Club, LookSet::Side, LookSet::Indoor, LookSet::Mixed, LookSet::Beach] {
        let mut checked = 0;
        for game in 1..=15 {
            checked += balls_that_lie_on_their_labels(set, game);
            if checked > 5 {
                break;
            }
        }
        assert!(checked > 5, "{set:?}: only {checked} frames showed the ball");
    }
}

/// A frame with the ball, less the same frame of a ball that reflects nothing: what differs is the ball, whose middle must
/// be the label's, also where a frame shows two moments.
fn balls_that_lie_on_their_labels(set: LookSet, game: u64) -> usize {
    let mut look = Look::sample(set, 9, game);
    (look.recording.noise, look.recording.duplicates, look.recording.codec) = (0.0, 0.0, None);
    let mut dark = look.clone();
    dark.ball.color = [0.0; 3];
    let key = ClipKey { seed: 9, game, clip: 0, frames: 3, size: [640, 360] };
    let [bright, dark] =
        [look, dark].map(|look| render_clip(key, look, &AtomicBool::new(false), |_, rgb| rgb.to_vec()).unwrap());
    let mut checked = 0;
    for ((a, truth), (b, _)) in bright.iter().zip(&dark) {
        let (Some([x, y]), 1) = (truth.xy, truth.visibility) else { continue };
        let (mut sum, mut sx, mut sy, mut around) = (0.0, 0.0, 0.0, 0.0_f32);
        for (i, (p, q)) in a.chunks(3).zip(b.chunks(3)).enumerate() {
            let (px, py) = ((i % 640) as f32, (i / 640) as f32);
            let near = (px - x).abs() < 30.0 && (py - y).abs() < 30.0;
            let weight = if near { f32::from(p[1]) - f32::from(q[1]) } else { 0.0 };
            sum += weight;
            sx += weight * px;
            sy += weight * py;
            around += if (px - x).abs() > 20.0 || (py - y).abs() > 20.0 { weight.abs() } else { 0.0 };
        }
        // Another ball, which is as dark, or a streak that is longer than the window.
        if around > 0.05 * sum {
            continue;
        }
        // Shading is brighter above, the transfer curve skews the mean.
        let off = [sx / sum - x, sy / sum - y];
        assert!(off[0].abs() < 1.5 && off[1].abs() < 1.5, "{set:?} game {game}: {off:?} from {x} {y}");
        checked += 1;
    }
    checked
}

#[test]
fn a_codec_freezes_what_stands_still() {
    let mut look = still_broadcast(1);
    look.recording.noise = 1.5;
    let share = |look: &Look| {
        let frames = frames(look, 1, 4);
        frames.windows(2).map(|pair| same(&pair[0].0, &pair[1].0)).fold(1.0, f32::min)
    };
    let raw = share(&look);
    look.recording.codec = Some(CodecLook { step: 8.0, chroma: 1.2, interval: 12, deblock: true });
    let coded = share(&look);
    assert!(raw < 0.4 && coded > 0.55, "{raw} of the samples are the same before, {coded} after");
}

#[test]
fn a_codec_starts_anew_at_each_key_frame() {
    let of_interval = |interval: usize| {
        let mut look = still_broadcast(1);
        look.recording.noise = 1.5;
        look.recording.codec = Some(CodecLook { step: 8.0, chroma: 1.2, interval, deblock: true });
        frames(&look, 1, 5)
    };
    let (short, long) = (of_interval(3), of_interval(12));
    let equal: Vec<bool> = short.iter().zip(&long).map(|(a, b)| a.0 == b.0).collect();
    assert_eq!(equal, [true, true, true, false, false]);
}

#[test]
fn frames_repeat_at_the_cadence_of_the_conversion() {
    for (every, expected) in [(6, 4), (2, 12), (0, 0)] {
        let mut look = still_broadcast(2);
        look.recording.repeat_every = every;
        let frames = frames(&look, 2, 24);
        let repeated: Vec<usize> = (1..24).filter(|i| frames[*i].0 == frames[i - 1].0).collect();
        assert_eq!(repeated.len(), expected, "{every}: {repeated:?}");
        assert!(repeated.iter().all(|i| (i + 1) % every == 0 && frames[*i].1.xy == frames[i - 1].1.xy));
    }
}

/// How much rows differ from their neighbours, over how much from the next but one, where two frames differ.
fn combs(frames: &[(Vec<u8>, Truth)]) -> f32 {
    let [width, height] = SMALL;
    let (mut one, mut two) = (0.0, 0.0);
    for pair in frames.windows(2) {
        let at = |frame: &[u8], x: usize, y: usize| f32::from(frame[(y * width + x) * 3 + 1]);
        for (x, y) in (2..height - 2).flat_map(|y| (0..width).map(move |x| (x, y))) {
            let now = &pair[1].0;
            if (at(now, x, y) - at(&pair[0].0, x, y)).abs() > 14.0 {
                let bend = |d: usize| (at(now, x, y - d) + at(now, x, y + d) - 2.0 * at(now, x, y)).abs();
                one += bend(1);
                two += bend(2);
            }
        }
    }
    one / two
}

#[test]
fn fields_leave_combs_and_blending_takes_detail() {
    let combs_of = |scan: Scan| {
        let mut look = still_broadcast(3);
        // The whole picture moves, a pixel or two in a field's time, so that there is much to comb.
        (look.recording.scan, look.recording.shake, look.recording.fps) = (scan, 20.0, 8.0);
        combs(&frames(&look, 3, 6))
    };
    let [progressive, interlaced, blended] = [Scan::Progressive, Scan::Interlaced, Scan::Blended].map(combs_of);
    assert!(interlaced > 1.3 * progressive && blended < progressive, "{progressive} {interlaced} {blended}");
}

#[test]
fn the_label_of_two_fields_lies_between_them() {
    let of = |scan: Scan| {
        let mut look = still_broadcast(3);
        (look.recording.scan, look.recording.fps) = (scan, 30.0);
        frames(&look, 3, 8)
    };
    let (progressive, interlaced) = (of(Scan::Progressive), of(Scan::Interlaced));
    let mut checked = 0;
    for (pair, (_, both)) in progressive.windows(2).zip(&interlaced) {
        let (Some(a), Some(b), Some(both)) = (pair[0].1.xy, pair[1].1.xy, both.xy) else { continue };
        for ((a, b), both) in a.into_iter().zip(b).zip(both) {
            // The second field is halfway to the next frame, the middle of both a quarter; hits and bounces bend the path.
            let quarter = a + (b - a) * 0.25;
            assert!((both - quarter).abs() < 0.5 + 0.25 * (b - a).abs(), "{a} {b} {both}");
        }
        checked += 1;
    }
    assert!(checked >= 4, "{checked}");
}

#[test]
fn a_cut_changes_the_whole_picture_once() {
    let mut look = still_broadcast(4);
    look.recording.cuts = 1.0;
    let frames = frames(&look, 4, 8);
    let cuts = frames.windows(2).filter(|pair| same(&pair[0].0, &pair[1].0) < 0.3).count();
    assert_eq!(cuts, 1);
}

#[test]
fn spectators_move_when_they_are_restless() {
    let moved = |restless: usize| {
        let mut look = still_broadcast(5);
        look.surroundings.restless = restless;
        let frames = frames(&look, 5, 2);
        1.0 - same(&frames[0].0, &frames[1].0)
    };
    let (calm, restless) = (moved(0), moved(200));
    assert!(restless > calm + 0.002, "{calm} {restless}");
}

/// What must be so in at least a share of the games.
type Least<'a> = (&'static str, f32, &'a dyn Fn(&Look) -> bool);

#[test]
fn mixed_games_cover_what_footage_shows() {
    let looks: Vec<Look> = (0..400).map(|game| Look::sample(LookSet::Mixed, 2, game)).collect();
    let share = |of: &dyn Fn(&Look) -> bool| looks.iter().filter(|look| of(look)).count() as f32 / 400.0;
    let at_least: [Least<'_>; 16] = [
        ("hard", 0.35, &|l| l.court.surface == Surface::Hard),
        ("clay", 0.15, &|l| l.court.surface == Surface::Clay),
        ("grass", 0.08, &|l| l.court.surface == Surface::Grass),
        ("halls", 0.08, &|l| l.venue == Venue::Hall),
        ("stadiums", 0.4, &|l| l.venue == Venue::Stadium),
        ("beside the court", 0.05, &|l| matches!(l.camera, Pose::Side(_))),
        ("body height", 0.12, &|l| matches!(l.camera, Pose::Behind(f) if f.behind[1] * f.slope[1] < 4.0)),
        ("doubles", 0.03, &|l| l.surroundings.doubles),
        ("repeats", 0.1, &|l| l.recording.repeat_every > 0),
        ("fields", 0.05, &|l| l.recording.scan != Scan::Progressive),
        ("codecs", 0.8, &|l| l.recording.codec.is_some()),
        ("cuts", 0.3, &|l| l.recording.cuts > 0.1),
        ("watermarks", 0.08, &|l| l.graphics.as_ref().is_some_and(|g| g.watermark.is_some())),
        ("hard shade", 0.05, &|l| l.light.roof_shadow.is_some() && l.light.shadow_depth > 0.6),
        ("lamps", 0.3, &|l| !l.light.lamps.is_empty()),
        ("orange balls", 0.01, &|l| l.ball.color[0] > 2.0 * l.ball.color[1]),
    ];
    assert_eq!(share(&|l| l.venue == Venue::Beach || l.court.surface == Surface::Sand), 0.0);
    for (what, least, of) in at_least {
        assert!(share(of) >= least, "{what}: {} of the games", share(of));
    }
}

#[test]
fn phones_stand_at_body_height() {
    for game in 0..20 {
        let look = Look::sample(LookSet::Club, 4, game);
        let camera = sample_camera(&look.camera, [1280, 720], &mut stream(4, &[game]));
        let (z, behind) = (camera.position.z, -camera.position.y - BASELINE);
        assert!((0.9..3.7).contains(&z) && (4.4..8.6).contains(&behind), "game {game}: {z} m high, {behind} m behind");
    }
}

#[test]
fn beaches_are_seen_from_a_pole_and_have_orange_balls() {
    for game in 0..40 {
        let look = Look::sample(LookSet::Beach, 4, game);
        let z = sample_camera(&look.camera, [1280, 720], &mut stream(4, &[game])).position.z;
        assert!((1.9..4.5).contains(&z), "game {game}: {z} m high");
        let [red, green, blue] = look.ball.color;
        assert!(red > 1.1 * green && green > 2.0 * blue, "game {game}: {:?}", look.ball.color);
    }
}

#[test]
fn the_whole_court_is_in_a_broadcast_frame() {
    for game in 0..20 {
        let look = Look::sample(LookSet::Broadcast, 4, game);
        let camera = sample_camera(&look.camera, [1280, 720], &mut stream(4, &[game]));
        for (x, y) in [(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)] {
            let corner = v3(x * DOUBLES, y * BASELINE, 0.0);
            let p = camera.project(corner).unwrap();
            assert!(p.x > 0.0 && p.x < 1279.0 && p.y > 0.0 && p.y < 719.0, "game {game}: {p:?}");
        }
    }
}

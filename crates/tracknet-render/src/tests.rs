//! What only the inside shows: visibility classes, where the drawn ball lies, where the court lies.

use std::sync::atomic::AtomicBool;

use crate::camera::sample_camera;
use crate::clip::{ClipKey, render_clip};
use crate::court::{BASELINE, DOUBLES};
use crate::draw::stream;
use crate::look::{Look, LookSet};
use crate::math::v3;

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
    // A frame with the ball, less the same frame of a ball that reflects nothing: what differs is the ball.
    let mut checked = 0;
    for game in 1..=6 {
        let mut look = Look::sample(LookSet::Broadcast, 9, game);
        (look.recording.noise, look.recording.duplicates) = (0.0, 0.0);
        let mut dark = look.clone();
        dark.ball.color = [0.0; 3];
        let key = ClipKey { seed: 9, game, clip: 0, frames: 3, size: [640, 360] };
        let [bright, dark] =
            [look, dark].map(|look| render_clip(key, look, &AtomicBool::new(false), |_, rgb| rgb.to_vec()).unwrap());
        for ((a, truth), (b, _)) in bright.iter().zip(&dark) {
            let (Some([x, y]), 1) = (truth.xy, truth.visibility) else { continue };
            let (mut sum, mut sx, mut sy) = (0.0, 0.0, 0.0);
            for (i, (p, q)) in a.chunks(3).zip(b.chunks(3)).enumerate() {
                let (px, py) = ((i % 640) as f32, (i / 640) as f32);
                let near = (px - x).abs() < 30.0 && (py - y).abs() < 30.0;
                let weight = if near { f32::from(p[1]) - f32::from(q[1]) } else { 0.0 };
                sum += weight;
                sx += weight * px;
                sy += weight * py;
            }
            // Shading is brighter above, the transfer curve and the clipping of loose balls skew the mean.
            assert!((sx / sum - x).abs() < 1.5 && (sy / sum - y).abs() < 1.5, "{} {} {x} {y}", sx / sum, sy / sum);
            checked += 1;
        }
    }
    assert!(checked > 5, "only {checked} frames showed the ball");
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

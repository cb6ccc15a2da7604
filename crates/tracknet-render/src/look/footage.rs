//! What footage from the net has over a clean recording: balls of all brands, people who move, and the chain of cameras,
//! converters and codecs that it went through. Ranges follow measurements of real frames (docs/rendering.md).

use super::{BallLook, CodecLook, Look, Recording, Scan, Venue, Watermark, vary};
use crate::draw::{Draw, Stream};
use crate::math::*;

/// The look as it comes out of that chain.
pub(super) fn of(look: Look, rng: &mut Stream) -> Look {
    let is_broadcast = look.venue == Venue::Stadium;
    let restless = if is_broadcast { rng.index(60) } else { look.surroundings.restless };
    let mut look = Look {
        ball: ball(look.ball.clone(), rng),
        recording: recording(look.recording.clone(), is_broadcast, rng),
        ..look
    };
    look.surroundings.restless = restless;
    if is_broadcast && look.court.loose_balls == 0 && rng.chance(0.2) {
        look.court.loose_balls = 2;
    }
    if is_broadcast && look.light.roof_shadow.is_some() {
        look.light.shadow_depth = rng.range(0.5, 0.82);
        look.light.roof_edge = rng.range(0.08, 0.6);
    }
    if let Some(graphics) = &mut look.graphics {
        graphics.watermark = rng.chance(0.25).then(|| watermark(rng));
    }
    look
}

/// Mostly yellow and near its true size: the camera's colour is soft, and bright cloth in the light comes out pale. Some are
/// old, some white, some for children.
fn ball(ball: BallLook, rng: &mut Stream) -> BallLook {
    let color = match rng.uniform() {
        u if u < 0.82 => mix_rgb(ball.color, hex(0xe8ecd0), rng.range(0.0, 0.6)),
        u if u < 0.88 => vary(hex(0xa8a860), 0.2, rng),
        u if u < 0.93 => vary(hex(0xf0f0ea), 0.05, rng),
        u if u < 0.97 => vary(hex(0xf08a38), 0.15, rng),
        _ => vary(hex(0xe0d838), 0.15, rng),
    };
    BallLook {
        color: scale_rgb(color, rng.range(1.15, 1.9)),
        bloom: rng.range(0.85, 1.45),
        smallest: ball.smallest * rng.range(0.7, 1.0),
        ..ball
    }
}

fn recording(recording: Recording, is_broadcast: bool, rng: &mut Stream) -> Recording {
    let [low, high] = recording.shutter;
    // Broadcast cameras open longer than those of action shots.
    let shutter = if is_broadcast { [0.2, 0.85] } else { [low, (high * 1.3).min(0.95)] };
    let scan = match rng.uniform() {
        u if !is_broadcast || u > 0.2 => Scan::Progressive,
        u if u < 0.06 => Scan::Interlaced,
        u if u < 0.12 => Scan::Blended,
        _ => Scan::Bob,
    };
    let halved = matches!(scan, Scan::Interlaced | Scan::Blended);
    let repeat_every = match rng.uniform() {
        u if u < 0.08 => 6,
        u if u < 0.12 => 5,
        u if u < 0.16 => 2,
        _ => 0,
    };
    let fast = repeat_every == 0 && rng.chance(0.15);
    Recording {
        fps: match repeat_every {
            0 if fast => rng.pick(&[50.0, 60.0]),
            0 => recording.fps,
            _ => rng.pick(&[24.0, 25.0]),
        },
        // A field is open for at most half of a frame's time.
        shutter: if halved { shutter.map(|s| s * 0.5) } else { shutter },
        exposure: recording.exposure * rng.range(1.0, 1.25),
        saturation: recording.saturation * rng.range(0.9, 1.25),
        // Encoders and cameras take most of the noise out before.
        noise: recording.noise * rng.range(0.1, 0.8),
        sharpen: recording.sharpen + rng.range(0.2, 1.2),
        soft: rng.range(0.3, 1.0),
        shake: if rng.chance(0.5) { 0.0 } else { recording.shake },
        pan: if rng.chance(0.5) { 0.0 } else { recording.pan },
        repeat_every,
        scan,
        chroma_blur: rng.pick(&[0, 0, 1, 1, 2, 3]),
        codec: rng.chance(0.9).then(|| codec(rng)),
        cuts: if is_broadcast { 0.12 } else { 0.03 },
        ..recording
    }
}

/// Steps from 4 (nearly clean) to 20 (a bad stream), most of them small.
fn codec(rng: &mut Stream) -> CodecLook {
    CodecLook {
        step: 4.0 * powf(5.0, rng.uniform()),
        chroma: rng.range(0.8, 1.6),
        interval: rng.pick(&[12, 16, 24]),
        deblock: rng.chance(0.8),
    }
}

fn watermark(rng: &mut Stream) -> Watermark {
    let text = rng.pick(&["SAMPLE", "REPLAY ZONE", "courtcam.example", "HIGHLIGHTS", "@rallyclips", "00:14:27"]);
    let (corner, x, y) = (rng.chance(0.7), rng.range(0.06, 0.94), rng.pick(&[0.05, 0.93]));
    Watermark {
        text: text.to_owned(),
        at: if corner { [x, y] } else { [rng.range(0.3, 0.7), rng.range(0.35, 0.65)] },
        height: rng.range(0.02, 0.06),
        alpha: rng.range(0.12, 0.6),
    }
}

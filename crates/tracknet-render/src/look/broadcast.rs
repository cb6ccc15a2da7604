//! Stadium broadcasts: hard courts in two tones and clay, by day and by night.

use super::words::{CHANNELS, CITIES, NAMES, SPONSORS};
use super::{
    BallLook, Court, Graphics, Lettering, Lighting, Lines, Look, Net, Recording, Scan, Surface, Surroundings, Venue,
    direction, outfit, vary,
};
use crate::camera::{Framing, Pose};
use crate::court::{BASELINE, Cord, DOUBLES};
use crate::draw::{Draw, Stream};
use crate::flight::Ground;
use crate::math::*;

/// What is drawn before the rest of the look.
struct Base {
    color: Rgb,
    surround: Rgb,
    surface: Surface,
    night: bool,
    sun: V3,
    lamps: Vec<(V3, f32)>,
    wall: Rgb,
    sponsors: Vec<String>,
    roof_shadow: Option<[f32; 3]>,
}

pub(super) fn sample(rng: &mut Stream) -> Look {
    let base = base(rng);
    let clay = base.surface == Surface::Clay;
    let (night, seed) = (base.night, rng.next_u64() as u32);
    let court = court(&base, rng);
    let lettering = lettering(rng);
    let net = net(night, rng);
    let Base { sun, lamps, roof_shadow, wall, sponsors, .. } = base;
    Look {
        seed,
        venue: Venue::Stadium,
        court,
        lettering,
        net,
        light: Lighting {
            sun,
            lamps,
            sun_color: if night { [0.42, 0.43, 0.45] } else { [0.78, 0.74, 0.66] },
            sky_color: if night { [0.62, 0.62, 0.64] } else { [0.48, 0.52, 0.6] },
            ground_color: [0.26, 0.25, 0.25],
            shadow_depth: if night { rng.range(0.25, 0.4) } else { rng.range(0.45, 0.68) },
            shadow_soft: if night { 0.12 } else { 0.02 },
            roof_shadow,
            roof_edge: 0.5,
            leaf_shade: 0.0,
        },
        surroundings: surroundings(wall, sponsors, night, rng),
        players: [outfit(rng), outfit(rng)],
        ball: ball(clay, rng),
        camera: Pose::Behind(Framing {
            behind: [15.0, 38.0],
            slope: [0.3, 0.52],
            near_line: [0.71, 0.83],
            far_line: [0.22, 0.34],
            court_width: [0.5, 0.76],
            sideways: 0.6,
        }),
        // Closer, on the far half.
        second_camera: Pose::Behind(Framing {
            behind: [15.0, 38.0],
            slope: [0.3, 0.52],
            near_line: [1.3, 1.9],
            far_line: [0.4, 0.6],
            court_width: [0.9, 3.0],
            sideways: 0.6,
        }),
        graphics: rng.chance(0.92).then(|| graphics(rng)),
        recording: recording(rng),
    }
}

fn base(rng: &mut Stream) -> Base {
    let (color, surround, surface) = colors(rng);
    let night = rng.chance(0.5);
    let elevation = rng.range(0.7, 1.2);
    let sun = direction(elevation, rng.range(-PI, PI));
    let lamps = (0..if night { 3 + rng.index(2) } else { 0 })
        .map(|i| (direction(rng.range(0.6, 1.0), i as f32 * 1.7 + rng.range(0.0, 0.8)), rng.range(0.5, 1.0)))
        .collect();
    let wall = hex(rng.pick(&[0x1f2c50, 0x0f4a34, 0x1c1a1c, 0x14604a, 0x22304a, 0x3a1a4a, 0x104a7a, 0x2a2a30]));
    let sponsors = sponsors(rng);
    let has_roof_shadow = !night && rng.chance(0.35);
    let roof_shadow = has_roof_shadow.then(|| {
        let angle = rng.range(-PI, PI);
        [cos(angle), sin(angle) * 0.6, -rng.range(2.0, 7.0)]
    });
    Base { color, surround, surface, night, sun, lamps, wall, sponsors, roof_shadow }
}

/// The court, what surrounds it, and what they are made of.
fn colors(rng: &mut Stream) -> (Rgb, Rgb, Surface) {
    let hard = [
        (0x4f6a98, 0x5ca0a2),
        (0x5a4f8f, 0x8fbf78),
        (0x3f7f70, 0x4c4a52),
        (0x3a64a8, 0x6a9ad0),
        (0x3c6ea8, 0x4f8a5c),
        (0x2f5f9f, 0x2f7f9f),
        (0x45659c, 0x9a5a48),
        (0x6a5a9a, 0x4a5a8a),
        (0x3f8a5a, 0x8a4038),
        (0x2e6fae, 0x3a4f7c),
        (0x5f7fb0, 0x7fa8a0),
        (0x4a8ab8, 0x5a6068),
        (0x58498a, 0x3f6fa0),
        (0x3d7c62, 0x35608a),
    ];
    let (court, surround, surface) = if rng.chance(0.3) {
        let base = rng.pick(&[0xb5603a, 0xc06a42, 0xa8583a, 0xb86a4c, 0xc2764a]);
        (hex(base), hex(base), Surface::Clay)
    } else {
        let (court, surround) = rng.pick(&hard);
        (hex(court), hex(surround), Surface::Hard)
    };
    let court = vary(court, 0.16, rng);
    let surround =
        if surface == Surface::Clay { scale_rgb(court, rng.range(0.94, 1.02)) } else { vary(surround, 0.16, rng) };
    (court, surround, surface)
}

fn court(base: &Base, rng: &mut Stream) -> Court {
    let clay = base.surface == Surface::Clay;
    Court {
        surface: base.surface,
        color: base.color,
        surround: base.surround,
        worn: scale_rgb(base.color, 1.25),
        inner: if rng.chance(0.8) {
            [DOUBLES, BASELINE]
        } else {
            [DOUBLES + rng.range(0.8, 1.6), BASELINE + rng.range(1.5, 3.0)]
        },
        texture: if clay { rng.range(0.25, 0.5) } else { rng.range(0.06, 0.22) },
        mowing: 0.0,
        line: if clay { hex(0xe6d3c2) } else { hex(0xf0f2f2) },
        lines: Lines::Tennis,
        line_width: rng.range(0.05, 0.075),
        line_wear: if clay { rng.range(0.3, 0.6) } else { rng.range(0.0, 0.18) },
        scuffs: if clay { 500 } else { 60 + rng.index(180) },
        slides: if clay { 0.5 } else { 0.1 },
        bright_scuffs: if clay { 0.6 } else { 0.5 },
        scuff_strength: if clay { 0.8 } else { 0.5 },
        loose_balls: 0,
    }
}

fn lettering(rng: &mut Stream) -> Option<Lettering> {
    let city = rng.chance(0.7).then(|| rng.pick(&CITIES));
    let (stretch, offset, beside) = (rng.range(1.0, 1.6), rng.range(2.4, 3.6), rng.chance(0.3));
    city.map(|city| Lettering { city: city.to_owned(), stretch, offset, beside })
}

fn net(night: bool, rng: &mut Stream) -> Net {
    Net {
        color: scale_rgb(hex(0x10151a), rng.range(0.5, 1.5)),
        density: rng.range(0.14, 0.36),
        threads: 0.55,
        lifted: 0.0,
        band_height: 0.06,
        band_color: hex(0xdfe3e6),
        post_radius: rng.range(0.05, 0.09),
        post_color: hex(rng.pick(&[0x181a1e, 0x20242a, 0xd8dadc, 0x123a2a])),
        board: rng.chance(0.75).then(|| {
            let (back, front) =
                rng.pick(&[(0xb81830, 0xf2f2f2), (0x14386a, 0xf2f2f2), (0xe8e8e8, 0x1a2440), (0x0f5a3a, 0xf0e8b0)]);
            (rng.pick(&SPONSORS).to_owned(), hex(back), hex(front))
        }),
        name: rng.chance(0.6).then(|| rng.pick(&["CITY OPEN", "GRAND TOUR", "WORLD SERIES", "MASTERS CUP"]).to_owned()),
        shadow: if night { 0.35 } else { 0.8 },
    }
}

fn surroundings(wall: Rgb, sponsors: Vec<String>, night: bool, rng: &mut Stream) -> Surroundings {
    Surroundings {
        walls: [rng.range(17.2, 19.6), rng.range(9.0, 11.0), rng.range(1.2, 2.6)],
        wall: vary(wall, 0.3, rng),
        wall_text: hex(rng.pick(&[0xe8eaec, 0xf2f2f2, 0xe8c860, 0xcfe0f0])),
        sponsors,
        seats: vary(hex(rng.pick(&[0x22304a, 0x303236, 0x23443a, 0x6a6c70, 0x5a2a2c, 0x3a4a7a])), 0.3, rng),
        crowd: rng.range(0.45, 0.97),
        crowd_light: if night { rng.range(0.18, 0.5) } else { rng.range(0.4, 0.85) },
        rails: rng.chance(0.5),
        flowers: rng.chance(0.25),
        umpire_side: rng.sign(),
        uniform: [
            vary(hex(rng.pick(&[0xd8482c, 0x20a0a0, 0xc02848, 0x3a4a9a, 0x8a8c90, 0xe88a2a])), 0.15, rng),
            vary(hex(0x22262e), 0.3, rng),
        ],
        foliage: hex(0x3a5a2a),
        sky: [0.02, 0.022, 0.028],
        restless: 0,
        doubles: false,
    }
}

fn ball(clay: bool, rng: &mut Stream) -> BallLook {
    let [restitution, friction] = if clay { [0.78, 0.8] } else { [0.75, 0.65] };
    BallLook {
        color: vary(hex(rng.pick(&[0xd8f050, 0xe2f46a, 0xc8e840, 0xe6f090])), 0.08, rng),
        bloom: rng.range(1.0, 1.7),
        smallest: rng.range(1.2, 1.8),
        bounce: Ground { restitution, friction, walls: [17.2, 9.0], net: Cord::TENNIS },
    }
}

fn graphics(rng: &mut Stream) -> Graphics {
    let first = rng.index(NAMES.len());
    let second = (first + 1 + rng.index(NAMES.len() - 1)) % NAMES.len();
    let name = |i: usize| NAMES.get(i).copied().unwrap_or("Varga").to_owned();
    let (a, b) = rng.pick(&CHANNELS);
    let at = rng.pick(&[[0.1, 0.84], [0.05, 0.88], [0.07, 0.06], [0.68, 0.86], [0.05, 0.8]]);
    Graphics {
        names: [name(first), name(second)],
        style: rng.index(3),
        at,
        back: hex(rng.pick(&[0x0b0d10, 0x10183a, 0x24102e, 0x0c2a22, 0xe8eaee])),
        accent: hex(rng.pick(&[0xe8b82c, 0x2ab3e8, 0xd8303c, 0x60d060])),
        logo: rng.chance(0.85).then(|| (a.to_owned(), b.to_owned())),
        logo_right: at[1] < 0.3 || rng.chance(0.4),
        watermark: None,
    }
}

fn sponsors(rng: &mut Stream) -> Vec<String> {
    let start = rng.index(SPONSORS.len());
    let step = rng.pick(&[1, 3, 7]);
    (0..5).filter_map(|i| SPONSORS.get((start + i * step) % SPONSORS.len())).map(|s| (*s).to_owned()).collect()
}

fn recording(rng: &mut Stream) -> Recording {
    Recording {
        fps: rng.pick(&[25.0, 30.0, 30.0]),
        shutter: [0.12, 0.75],
        exposure: rng.range(0.85, 1.12),
        saturation: rng.range(0.62, 0.95),
        tint: [rng.range(0.95, 1.06), 1.0, rng.range(0.93, 1.07)],
        noise: rng.range(0.4, 2.6),
        sharpen: rng.range(-0.35, 1.3),
        vignette: rng.range(0.0, 0.22),
        shake: rng.range(0.05, 0.5),
        pan: rng.range(0.0, 0.05),
        duplicates: if rng.chance(0.25) { 0.06 } else { 0.0 },
        repeat_every: 0,
        scan: Scan::Progressive,
        soft: 0.0,
        chroma_blur: 0,
        codec: None,
        cuts: 0.0,
    }
}

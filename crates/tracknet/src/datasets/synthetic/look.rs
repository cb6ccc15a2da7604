//! The look of a game: everything that is drawn once per game, so that no colour, stadium, lens or outfit is shared
//! between games and a split by game leaks nothing.

use super::camera::CameraWish;
use super::court::{BASELINE, DOUBLES};
use super::flight::Ground;
use super::math::*;
use super::rng::Rng;

/// Which distribution of looks to draw from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LookSet {
    /// Stadium broadcasts: hard courts in two tones and clay, seen from high behind the baseline.
    #[default]
    Broadcast,
    /// Club grass: low camera, low warm sun, hedges and trees. A detector trained on `Broadcast` degrades here.
    Grass,
    /// Each game draws one of the others, `Broadcast` three times in four.
    Mixed,
}

/// What the court is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Surface {
    Hard,
    Clay,
    Grass,
}

/// What surrounds the court.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Venue {
    Stadium,
    Club,
}

/// A player's clothes and build.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outfit {
    pub(super) skin: Rgb,
    pub(super) hair: Rgb,
    pub(super) cap: Option<Rgb>,
    pub(super) shirt: Rgb,
    pub(super) shorts: Rgb,
    pub(super) long_legs: bool,
    pub(super) long_sleeves: bool,
    pub(super) socks: Rgb,
    pub(super) shoes: Rgb,
    pub(super) racket: Rgb,
    pub(super) scale: f32,
}

/// The scoreboard's and the channel logo's style.
#[derive(Debug, Clone)]
pub(super) struct Graphics {
    pub(super) names: [String; 2],
    pub(super) style: usize,
    pub(super) at: [f32; 2],
    pub(super) back: Rgb,
    pub(super) accent: Rgb,
    pub(super) logo: Option<(String, String)>,
    pub(super) logo_right: bool,
}

/// Everything about a game's appearance.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) seed: u32,
    pub(super) surface: Surface,
    pub(super) venue: Venue,
    pub(super) court: Rgb,
    pub(super) surround: Rgb,
    pub(super) worn: Rgb,
    /// Half extents of the inner tone, metres.
    pub(super) inner: [f32; 2],
    pub(super) texture: f32,
    pub(super) mowing: f32,
    pub(super) line: Rgb,
    pub(super) line_width: f32,
    pub(super) line_wear: f32,
    pub(super) scuffs: usize,
    pub(super) slides: f32,
    pub(super) bright_scuffs: f32,
    pub(super) scuff_strength: f32,
    pub(super) city: Option<String>,
    pub(super) city_stretch: f32,
    pub(super) city_offset: f32,
    pub(super) city_beside: bool,
    pub(super) net_color: Rgb,
    pub(super) net_density: f32,
    pub(super) band_height: f32,
    pub(super) band_color: Rgb,
    pub(super) post_radius: f32,
    pub(super) post_color: Rgb,
    pub(super) net_board: Option<(String, Rgb, Rgb)>,
    pub(super) net_name: Option<String>,
    pub(super) net_shadow: f32,
    /// Towards the main light.
    pub(super) sun: V3,
    /// Further lights of a stadium at night: direction and weight.
    pub(super) lamps: Vec<(V3, f32)>,
    pub(super) sun_color: Rgb,
    pub(super) sky_color: Rgb,
    pub(super) ground_color: Rgb,
    /// How dark a shadow is, 0..1, and how far its edge spreads, metres.
    pub(super) shadow_depth: f32,
    pub(super) shadow_soft: f32,
    /// Line of the roof's shadow: shaded where a·x + b·y + c > 0.
    pub(super) roof_shadow: Option<[f32; 3]>,
    /// Back wall's |y|, side walls' |x|, height; metres.
    pub(super) walls: [f32; 3],
    pub(super) wall: Rgb,
    pub(super) wall_text: Rgb,
    pub(super) sponsors: Vec<String>,
    pub(super) seats: Rgb,
    pub(super) crowd: f32,
    pub(super) crowd_light: f32,
    pub(super) rails: bool,
    pub(super) flowers: bool,
    pub(super) umpire_side: f32,
    pub(super) uniform: [Rgb; 2],
    pub(super) foliage: Rgb,
    pub(super) sky: Rgb,
    pub(super) players: [Outfit; 2],
    pub(super) ball: Rgb,
    /// How much larger than its 67 mm the ball appears through lens bloom and sharpening.
    pub(super) ball_bloom: f32,
    /// Smallest apparent radius of the ball at 720 lines, pixels: no lens resolves less.
    pub(super) ball_smallest: f32,
    pub(super) bounce: Ground,
    pub(super) camera: CameraWish,
    pub(super) graphics: Option<Graphics>,
    pub(super) fps: f32,
    /// Fraction of the frame time that the shutter is open.
    pub(super) shutter: [f32; 2],
    pub(super) exposure: f32,
    pub(super) saturation: f32,
    /// White balance: gains of the three channels.
    pub(super) tint: Rgb,
    pub(super) noise: f32,
    /// Unsharp mask amount; negative blurs.
    pub(super) sharpen: f32,
    pub(super) vignette: f32,
    pub(super) shake: f32,
    pub(super) pan: f32,
    pub(super) duplicates: f32,
}

const CITIES: [&str; 14] = [
    "VELMORA",
    "PORT ARDEN",
    "LUMERA",
    "KASTELL",
    "NORHAVEN",
    "SAN TELO",
    "BRIGANT",
    "OSTRAVIA",
    "MIRADOR",
    "TALUNA",
    "EASTGATE",
    "CORVIN",
    "SOLENTO",
    "HALDEN",
];
const SPONSORS: [&str; 20] = [
    "NOVARIS",
    "Kelpa",
    "AEROLUX",
    "Brightmark",
    "FENWICK",
    "Orbita",
    "VOLTERRA",
    "Castor",
    "MERIDIA",
    "Tavel & Co",
    "SILVANE",
    "Quorra",
    "HELIOR",
    "Pinewater",
    "ZENTIA",
    "Marlow",
    "ARKTEL",
    "Bonavida",
    "TRIVANT",
    "Ullmar",
];
const NAMES: [&str; 20] = [
    "Varga",
    "Okafor",
    "Lindqvist",
    "Moretti",
    "Sato",
    "Duarte",
    "Petrov",
    "Hollis",
    "Nyberg",
    "Castellan",
    "Ruiz",
    "Adeyemi",
    "Kovac",
    "Tanaka",
    "Brandt",
    "Leclair",
    "Osei",
    "Marek",
    "Silva",
    "Whitford",
];
const CHANNELS: [(&str, &str); 6] =
    [("ARC", "SPORT"), ("TENNIS", "ONE"), ("NETWORK", "9"), ("COURT", "TV"), ("LIVE", "PLAY"), ("MATCH", "+")];

impl Look {
    /// Draws the look of one game.
    pub(super) fn sample(set: LookSet, seed: u64, game: u64) -> Self {
        let mut rng = Rng::keyed(seed, &[game, 0x100c]);
        match set {
            LookSet::Broadcast => broadcast(&mut rng),
            LookSet::Grass => grass(&mut rng),
            LookSet::Mixed if rng.chance(0.75) => broadcast(&mut rng),
            LookSet::Mixed => grass(&mut rng),
        }
    }
}

fn vary(color: Rgb, amount: f32, rng: &mut Rng) -> Rgb {
    let gain = 1.0 + amount * rng.range(-1.0, 1.0);
    color.map(|c| (c * gain * (1.0 + 0.4 * amount * rng.range(-1.0, 1.0))).clamp(0.0, 1.0))
}

fn outfit(rng: &mut Rng) -> Outfit {
    let cloth = [
        0xf2f2f2, 0xeeeeee, 0xd9202e, 0x1a2440, 0x111214, 0x2f7fd0, 0x20b3a8, 0xe8e04a, 0xff7040, 0x5b2d82, 0x9ad0f0,
        0x2c6e49,
    ];
    let dark = [0xf4f4f4, 0x14161c, 0x1d2746, 0x303238, 0xd8d8dc, 0x203a2c];
    let skin = vary(hex(rng.pick(&[0xe3b899, 0xd19f7a, 0xb67f58, 0x8a5a3a, 0x5c3a26])), 0.1, rng);
    let light_hair = vary(hex(rng.pick(&[0x1a1310, 0x2c1d14, 0x5a3d22, 0x9a7a48, 0x0d0c0c])), 0.2, rng);
    Outfit {
        skin,
        hair: if skin[0] < 0.35 { hex(0x14100e) } else { light_hair },
        cap: rng.chance(0.5).then(|| hex(rng.pick(&[0xf5f5f5, 0xf0f0f0, 0x15181f, 0xc81f2d, 0x1e3c7a]))),
        shirt: vary(hex(rng.pick(&cloth)), 0.12, rng),
        shorts: vary(hex(rng.pick(&dark)), 0.12, rng),
        long_legs: rng.chance(0.08),
        long_sleeves: rng.chance(0.15),
        socks: hex(rng.pick(&[0xf4f4f4, 0xf0f0f0, 0x16181c, 0xe8e8ea])),
        shoes: hex(rng.pick(&[0xf6f6f6, 0xf2f2ee, 0xe94f37, 0x202226, 0xd8f04a, 0x3f8fd8])),
        racket: hex(rng.pick(&[0x16181c, 0xc8242e, 0x2a5fc0, 0xe0c020, 0xe8e8e8])),
        scale: rng.range(0.95, 1.06),
    }
}

fn graphics(rng: &mut Rng) -> Graphics {
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
    }
}

fn sponsors(rng: &mut Rng) -> Vec<String> {
    let start = rng.index(SPONSORS.len());
    let step = rng.pick(&[1, 3, 7]);
    (0..5).filter_map(|i| SPONSORS.get((start + i * step) % SPONSORS.len())).map(|s| (*s).to_owned()).collect()
}

/// Towards a light at the given height and compass angle (0: from behind the far end).
fn direction(elevation: f32, azimuth: f32) -> V3 {
    v3(sin(azimuth) * cos(elevation), cos(azimuth) * cos(elevation), sin(elevation))
}

/// Two-tone hard courts and clay as (court, surround, worn, surface).
fn broadcast_colors(rng: &mut Rng) -> (Rgb, Rgb, Rgb, Surface) {
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
    (court, surround, scale_rgb(court, 1.25), surface)
}

fn broadcast(rng: &mut Rng) -> Look {
    let (court, surround, worn, surface) = broadcast_colors(rng);
    let clay = surface == Surface::Clay;
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
    Look {
        seed: rng.next() as u32,
        surface,
        venue: Venue::Stadium,
        court,
        surround,
        worn,
        inner: if rng.chance(0.8) {
            [DOUBLES, BASELINE]
        } else {
            [DOUBLES + rng.range(0.8, 1.6), BASELINE + rng.range(1.5, 3.0)]
        },
        texture: if clay { rng.range(0.25, 0.5) } else { rng.range(0.06, 0.22) },
        mowing: 0.0,
        line: if clay { hex(0xe6d3c2) } else { hex(0xf0f2f2) },
        line_width: rng.range(0.05, 0.075),
        line_wear: if clay { rng.range(0.3, 0.6) } else { rng.range(0.0, 0.18) },
        scuffs: if clay { 500 } else { 60 + rng.index(180) },
        slides: if clay { 0.5 } else { 0.1 },
        bright_scuffs: if clay { 0.6 } else { 0.5 },
        scuff_strength: if clay { 0.8 } else { 0.5 },
        city: rng.chance(0.7).then(|| rng.pick(&CITIES).to_owned()),
        city_stretch: rng.range(1.0, 1.6),
        city_offset: rng.range(2.4, 3.6),
        city_beside: rng.chance(0.3),
        net_color: scale_rgb(hex(0x10151a), rng.range(0.5, 1.5)),
        net_density: rng.range(0.14, 0.36),
        band_height: 0.06,
        band_color: hex(0xdfe3e6),
        post_radius: rng.range(0.05, 0.09),
        post_color: hex(rng.pick(&[0x181a1e, 0x20242a, 0xd8dadc, 0x123a2a])),
        net_board: rng.chance(0.75).then(|| {
            let (back, front) =
                rng.pick(&[(0xb81830, 0xf2f2f2), (0x14386a, 0xf2f2f2), (0xe8e8e8, 0x1a2440), (0x0f5a3a, 0xf0e8b0)]);
            (rng.pick(&SPONSORS).to_owned(), hex(back), hex(front))
        }),
        net_name: rng
            .chance(0.6)
            .then(|| rng.pick(&["CITY OPEN", "GRAND TOUR", "WORLD SERIES", "MASTERS CUP"]).to_owned()),
        net_shadow: if night { 0.35 } else { 0.8 },
        sun,
        lamps,
        sun_color: if night { [0.42, 0.43, 0.45] } else { [0.78, 0.74, 0.66] },
        sky_color: if night { [0.62, 0.62, 0.64] } else { [0.48, 0.52, 0.6] },
        ground_color: [0.26, 0.25, 0.25],
        shadow_depth: if night { rng.range(0.25, 0.4) } else { rng.range(0.45, 0.68) },
        shadow_soft: if night { 0.12 } else { 0.02 },
        roof_shadow,
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
        players: [outfit(rng), outfit(rng)],
        ball: vary(hex(rng.pick(&[0xd8f050, 0xe2f46a, 0xc8e840, 0xe6f090])), 0.08, rng),
        ball_bloom: rng.range(1.0, 1.7),
        ball_smallest: rng.range(1.2, 1.8),
        bounce: if clay {
            Ground { restitution: 0.78, friction: 0.8, walls: [17.2, 9.0] }
        } else {
            Ground { restitution: 0.75, friction: 0.65, walls: [17.2, 9.0] }
        },
        camera: CameraWish {
            behind: [15.0, 38.0],
            slope: [0.3, 0.52],
            near_line: [0.71, 0.83],
            far_line: [0.22, 0.34],
            court_width: [0.5, 0.76],
            sideways: 0.6,
        },
        graphics: rng.chance(0.92).then(|| graphics(rng)),
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
    }
}

/// The second domain: changed in surface, light, lens, height, surroundings, ball and grading at once.
fn grass(rng: &mut Rng) -> Look {
    let mut look = broadcast(rng);
    let green = vary(hex(rng.pick(&[0x5f8a3a, 0x6f9440, 0x557f38, 0x7a9a4a])), 0.12, rng);
    let white = Outfit {
        shirt: hex(0xf4f2ea),
        shorts: hex(0xf0eee6),
        socks: hex(0xf6f4ee),
        shoes: hex(0xf4f2ec),
        ..outfit(rng)
    };
    look.surface = Surface::Grass;
    look.venue = Venue::Club;
    look.court = green;
    look.surround = scale_rgb(green, rng.range(0.78, 0.98));
    look.worn = vary(hex(0xb09a62), 0.1, rng);
    look.inner = [DOUBLES + 3.0, BASELINE + 5.0];
    look.texture = rng.range(0.3, 0.5);
    look.mowing = rng.range(0.14, 0.3);
    look.line = hex(0xf2efe0);
    look.line_width = rng.range(0.06, 0.085);
    look.line_wear = rng.range(0.25, 0.5);
    look.scuffs = 250;
    look.slides = 0.35;
    look.bright_scuffs = 0.8;
    look.city = None;
    look.net_board = None;
    look.net_name = None;
    look.net_color = hex(0x1c2a1c);
    look.post_color = hex(rng.pick(&[0x2c4a30, 0x6a5a40, 0xd8d4c8]));
    // Low and warm, from the side: shadows two to four times a player's height.
    look.sun = direction(rng.range(0.25, 0.48), rng.sign() * rng.range(0.9, 2.4));
    look.lamps = Vec::new();
    look.sun_color = [1.05, 0.82, 0.5];
    look.sky_color = [0.36, 0.42, 0.52];
    look.ground_color = [0.2, 0.22, 0.14];
    look.shadow_depth = rng.range(0.52, 0.7);
    look.shadow_soft = 0.03;
    look.roof_shadow = rng.chance(0.7).then(|| [look.sun.x.signum(), rng.range(-0.2, 0.2), -rng.range(3.0, 8.0)]);
    look.net_shadow = 0.9;
    look.walls = [rng.range(17.5, 21.0), rng.range(10.5, 15.0), rng.range(2.2, 3.4)];
    look.wall = vary(hex(rng.pick(&[0x1c3a26, 0x203020, 0x4a3a28])), 0.2, rng);
    look.crowd = rng.range(0.1, 0.4);
    look.crowd_light = 0.9;
    look.foliage = vary(hex(rng.pick(&[0x33521f, 0x47602a, 0x2a4a26, 0x6a6a2c])), 0.2, rng);
    look.sky = vary(hex(rng.pick(&[0xd8e2ea, 0xf0dcc0, 0xa8c8e8])), 0.06, rng);
    look.players =
        [Outfit { cap: outfit(rng).cap, ..white }, Outfit { skin: outfit(rng).skin, hair: outfit(rng).hair, ..white }];
    // Bright balls through a soft lens: larger than the broadcast's.
    look.ball = vary(hex(rng.pick(&[0xf2f25a, 0xe6f060, 0xf6ee7a, 0xeef29a])), 0.05, rng);
    look.ball_bloom = rng.range(1.25, 1.6);
    look.ball_smallest = rng.range(2.8, 3.5);
    look.bounce = Ground { restitution: 0.7, friction: 0.5, walls: [17.5, 10.5] };
    look.camera = CameraWish {
        behind: [6.5, 11.0],
        slope: [0.34, 0.56],
        near_line: [0.78, 0.93],
        far_line: [0.27, 0.37],
        court_width: [0.75, 1.25],
        sideways: 2.5,
    };
    look.graphics = None;
    look.shutter = [0.08, 0.35];
    look.exposure = rng.range(0.8, 1.05);
    look.saturation = rng.range(0.75, 1.0);
    look.tint = [rng.range(1.06, 1.16), 1.0, rng.range(0.68, 0.82)];
    look.noise = rng.range(2.0, 4.5);
    look.sharpen = rng.range(-0.5, 0.2);
    look.vignette = rng.range(0.15, 0.35);
    look.shake = rng.range(0.6, 1.6);
    look.pan = rng.range(0.03, 0.09);
    look
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn games_of_one_seed_look_different() {
        let looks: Vec<Look> = (0..12).map(|game| Look::sample(LookSet::Broadcast, 3, game)).collect();
        for (i, a) in looks.iter().enumerate() {
            for b in looks.iter().skip(i + 1) {
                assert!(a.court != b.court && a.seed != b.seed && a.ball != b.ball);
            }
        }
    }

    #[test]
    fn grass_lies_outside_the_broadcast_distribution() {
        for game in 0..20 {
            let grass = Look::sample(LookSet::Grass, 1, game);
            let stadium = Look::sample(LookSet::Broadcast, 1, game);
            assert!(grass.surface == Surface::Grass && stadium.surface != Surface::Grass);
            assert!(grass.camera.behind[1] < stadium.camera.behind[0]);
            assert!(grass.sun.z < stadium.sun.z);
        }
    }
}

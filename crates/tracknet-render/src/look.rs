//! The look of a game: everything that is drawn once per game, so that no colour, stadium, lens or outfit is shared
//! between games and a split by game leaks nothing.
//!
//! Colours are linear RGB, lengths metres, positions in the axes of [`V3`]. Rendered files are pinned to the order in which
//! values are drawn: it is the order of the fields.

mod beach;
mod broadcast;
mod club;
mod footage;
mod grass;
mod indoor;
mod side;
mod words;

use crate::camera::Pose;
use crate::draw::{Draw, Stream, stream};
use crate::flight::Ground;
use crate::math::*;

/// Which distribution of looks to draw from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LookSet {
    /// Stadium broadcasts: hard courts in two tones and clay, seen from high behind the baseline.
    #[default]
    Broadcast,
    /// Club grass: low camera, low warm sun, hedges and trees. A detector trained on `Broadcast` degrades here.
    Grass,
    /// Public hard, clay and grass courts, filmed by a phone at body height behind the baseline, by day, in hard shade and
    /// under floodlights.
    Club,
    /// Any of these courts from beside it, near the net or from a corner.
    Side,
    /// Halls with hard floors and lamps under the roof, seen from behind, high or at body height.
    Indoor,
    /// Each game draws one of those above, `Broadcast` every second time, with wider ranges of balls and light, and goes
    /// through a recording chain as footage from the net has: codecs, repeated frames, fields, cuts.
    Mixed,
    /// Beach tennis: sand within a tape, a high net, sea or dunes, orange balls. No part of `Mixed`: what is trained on that
    /// has never seen it.
    Beach,
}

/// Everything about a game's appearance.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    /// Of the textures and everything else that is the same in all clips of the game.
    pub(crate) seed: u32,
    pub(crate) venue: Venue,
    pub(crate) court: Court,
    pub(crate) lettering: Option<Lettering>,
    pub(crate) net: Net,
    pub(crate) light: Lighting,
    pub(crate) surroundings: Surroundings,
    /// The near player and the far one.
    pub(crate) players: [Outfit; 2],
    pub(crate) ball: BallLook,
    pub(crate) camera: Pose,
    /// Of the shots that some clips cut to.
    pub(crate) second_camera: Pose,
    pub(crate) graphics: Option<Graphics>,
    pub(crate) recording: Recording,
}

/// What surrounds the court.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Venue {
    Stadium,
    Club,
    Hall,
    Beach,
}

/// What the court is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Surface {
    Hard,
    Clay,
    Grass,
    Sand,
}

/// Which lines a court has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    Tennis,
    /// The outer ones only.
    Boundary,
}

/// The ground, its lines and marks.
#[derive(Debug, Clone)]
pub(crate) struct Court {
    pub(crate) surface: Surface,
    pub(crate) color: Rgb,
    /// Beyond [`Court::inner`].
    pub(crate) surround: Rgb,
    /// Where feet have worn it; of sand, where it is damp.
    pub(crate) worn: Rgb,
    /// Half extents of the inner tone.
    pub(crate) inner: [f32; 2],
    /// Contrast of the surface's texture.
    pub(crate) texture: f32,
    /// Contrast of the stripes that a mower or a rake leaves.
    pub(crate) mowing: f32,
    pub(crate) lines: Lines,
    pub(crate) line: Rgb,
    pub(crate) line_width: f32,
    /// How much of the lines is rubbed off, 0..1.
    pub(crate) line_wear: f32,
    /// Number of marks of shoes and balls.
    pub(crate) scuffs: usize,
    /// Share of them that are long slides.
    pub(crate) slides: f32,
    /// Share of them that are brighter than the ground.
    pub(crate) bright_scuffs: f32,
    /// Their coverage.
    pub(crate) scuff_strength: f32,
    /// Most balls that lie about on the ground.
    pub(crate) loose_balls: usize,
}

/// The city's name on the ground.
#[derive(Debug, Clone)]
pub(crate) struct Lettering {
    pub(crate) city: String,
    /// Width over that of the font.
    pub(crate) stretch: f32,
    /// Distance behind the baselines.
    pub(crate) offset: f32,
    /// Whether it stands beside the net, too.
    pub(crate) beside: bool,
}

/// The net and what hangs on it.
#[derive(Debug, Clone)]
pub(crate) struct Net {
    pub(crate) color: Rgb,
    /// Coverage of the mesh where its threads are too fine to be seen.
    pub(crate) density: f32,
    /// Opacity of a thread.
    pub(crate) threads: f32,
    /// How far it hangs above the ground, metres; one that does has a hem below in place of the strap.
    pub(crate) lifted: f32,
    pub(crate) band_height: f32,
    pub(crate) band_color: Rgb,
    pub(crate) post_radius: f32,
    pub(crate) post_color: Rgb,
    /// A sponsor's board at both ends: name, background, letters.
    pub(crate) board: Option<(String, Rgb, Rgb)>,
    /// Woven into the middle.
    pub(crate) name: Option<String>,
    /// How dark its shadow is, 0..1.
    pub(crate) shadow: f32,
}

/// Sun or floodlights.
#[derive(Debug, Clone)]
pub(crate) struct Lighting {
    /// Towards the main light.
    pub(crate) sun: V3,
    /// Further lights of a stadium at night: direction and weight.
    pub(crate) lamps: Vec<(V3, f32)>,
    pub(crate) sun_color: Rgb,
    /// Of the light from above, and from the ground.
    pub(crate) sky_color: Rgb,
    pub(crate) ground_color: Rgb,
    /// How dark a shadow is, 0..1, and how far its edge spreads.
    pub(crate) shadow_depth: f32,
    pub(crate) shadow_soft: f32,
    /// Line of the roof's shadow: shaded where a·x + b·y + c > 0.
    pub(crate) roof_shadow: Option<[f32; 3]>,
    /// Half the width of its edge, metres.
    pub(crate) roof_edge: f32,
    /// How dark the shade of leaves is that lies over the court in patches, 0..1.
    pub(crate) leaf_shade: f32,
}

/// Walls, crowd, officials and plants.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    /// Back wall's |y|, side walls' |x|, height.
    pub(crate) walls: [f32; 3],
    pub(crate) wall: Rgb,
    pub(crate) wall_text: Rgb,
    pub(crate) sponsors: Vec<String>,
    pub(crate) seats: Rgb,
    /// Share of the seats that are taken.
    pub(crate) crowd: f32,
    /// How bright the stands are, 0..1.
    pub(crate) crowd_light: f32,
    /// Whether a rail runs above the walls.
    pub(crate) rails: bool,
    /// Whether flowers stand on the side walls in place of it.
    pub(crate) flowers: bool,
    /// −1 or 1: the umpire's x.
    pub(crate) umpire_side: f32,
    /// Of line judges and ball kids: bright and dark.
    pub(crate) uniform: [Rgb; 2],
    pub(crate) foliage: Rgb,
    pub(crate) sky: Rgb,
    /// Number of people beside the court who move while the clip runs.
    pub(crate) restless: usize,
    /// Whether each player has a partner at the net who waits.
    pub(crate) doubles: bool,
}

/// A person's clothes and build.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outfit {
    pub(crate) skin: Rgb,
    pub(crate) hair: Rgb,
    pub(crate) cap: Option<Rgb>,
    pub(crate) shirt: Rgb,
    pub(crate) shorts: Rgb,
    pub(crate) long_legs: bool,
    pub(crate) long_sleeves: bool,
    pub(crate) socks: Rgb,
    pub(crate) shoes: Rgb,
    pub(crate) racket: Rgb,
    /// Whether the racket is a board without strings.
    pub(crate) paddle: bool,
    /// Height over the average.
    pub(crate) scale: f32,
}

/// The ball, as it looks and as it bounces.
#[derive(Debug, Clone)]
pub(crate) struct BallLook {
    pub(crate) color: Rgb,
    /// How much larger than its 67 mm the ball appears through lens bloom and sharpening.
    pub(crate) bloom: f32,
    /// Smallest apparent radius at 720 lines, pixels: no lens resolves less.
    pub(crate) smallest: f32,
    pub(crate) bounce: Ground,
}

/// The scoreboard's and the channel logo's style.
#[derive(Debug, Clone)]
pub(crate) struct Graphics {
    pub(crate) names: [String; 2],
    /// One of three layouts.
    pub(crate) style: usize,
    /// Left and top, as fractions of the frame.
    pub(crate) at: [f32; 2],
    pub(crate) back: Rgb,
    pub(crate) accent: Rgb,
    /// The channel's name in two parts.
    pub(crate) logo: Option<(String, String)>,
    pub(crate) logo_right: bool,
    /// A half transparent mark over the picture.
    pub(crate) watermark: Option<Watermark>,
}

/// A half transparent mark over the picture.
#[derive(Debug, Clone)]
pub(crate) struct Watermark {
    pub(crate) text: String,
    /// Middle, as fractions of the frame.
    pub(crate) at: [f32; 2],
    /// Height of its letters, fraction of the frame's.
    pub(crate) height: f32,
    pub(crate) alpha: f32,
}

/// The camera's electronics and its operator.
#[derive(Debug, Clone)]
pub(crate) struct Recording {
    /// Frames per second.
    pub(crate) fps: f32,
    /// Range of the fraction of the frame time that the shutter is open.
    pub(crate) shutter: [f32; 2],
    /// Gain of all channels.
    pub(crate) exposure: f32,
    /// Gain of the chroma, 1 leaves it.
    pub(crate) saturation: f32,
    /// White balance: gains of the three channels.
    pub(crate) tint: Rgb,
    /// Deviation of the grain, levels of 255.
    pub(crate) noise: f32,
    /// Unsharp mask amount; negative blurs.
    pub(crate) sharpen: f32,
    /// How much darker the corners are, 0..1.
    pub(crate) vignette: f32,
    /// Amplitude of the hand's movement at 720 lines, pixels.
    pub(crate) shake: f32,
    /// How far the camera follows the near player, fraction of the frame's width.
    pub(crate) pan: f32,
    /// Share of frames that repeat the one before.
    pub(crate) duplicates: f32,
    /// Every so many frames one repeats the one before, as where 25 frames are shown as 30 (6) or as 50 (2); 0 never.
    pub(crate) repeat_every: usize,
    pub(crate) scan: Scan,
    /// How much of its sharpness the picture lost before it was sharpened, as by a change of resolution, 0..1.
    pub(crate) soft: f32,
    /// Number of times that colour is blurred after 4:2:0.
    pub(crate) chroma_blur: usize,
    pub(crate) codec: Option<CodecLook>,
    /// Share of clips that cut to the second camera or begin there.
    pub(crate) cuts: f32,
}

/// How a frame is put together from moments in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scan {
    Progressive,
    /// Two fields, half a frame's time apart, row by row: combs where something moves.
    Interlaced,
    /// The mean of the two fields: everything that moves is seen twice.
    Blended,
    /// One field, stretched to a frame.
    Bob,
}

/// How hard a codec squeezes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CodecLook {
    /// Quantizer step of the lowest frequency, levels of 255 in an orthonormal transform.
    pub(crate) step: f32,
    /// That of colour, over it.
    pub(crate) chroma: f32,
    /// Frames from key frame to key frame.
    pub(crate) interval: usize,
    /// Whether the borders of blocks are smoothed.
    pub(crate) deblock: bool,
}

impl Look {
    /// Draws the look of one game.
    pub(crate) fn sample(set: LookSet, seed: u64, game: u64) -> Self {
        let mut rng = stream(seed, &[game, 0x100c]);
        match set {
            LookSet::Broadcast => broadcast::sample(&mut rng),
            LookSet::Grass => grass::sample(&mut rng),
            LookSet::Club => footage::of(club::sample(&mut rng), &mut rng),
            LookSet::Side => footage::of(side::sample(&mut rng), &mut rng),
            LookSet::Indoor => footage::of(indoor::sample(&mut rng), &mut rng),
            LookSet::Mixed => footage::of(mixed(&mut rng), &mut rng),
            LookSet::Beach => beach::sample(&mut rng),
        }
    }
}

/// One of the looks of tennis.
fn mixed(rng: &mut Stream) -> Look {
    match rng.uniform() {
        u if u < 0.5 => broadcast::sample(rng),
        u if u < 0.6 => grass::sample(rng),
        u if u < 0.76 => club::sample(rng),
        u if u < 0.86 => side::sample(rng),
        _ => indoor::sample(rng),
    }
}

/// A colour near another: brightness and channels vary by up to `amount`.
fn vary(color: Rgb, amount: f32, rng: &mut Stream) -> Rgb {
    let gain = 1.0 + amount * rng.range(-1.0, 1.0);
    color.map(|c| (c * gain * (1.0 + 0.4 * amount * rng.range(-1.0, 1.0))).clamp(0.0, 1.0))
}

fn outfit(rng: &mut Stream) -> Outfit {
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
        paddle: false,
        scale: rng.range(0.95, 1.06),
    }
}

/// The same person in swimwear: bare legs and feet, a bare torso or a shirt.
pub(crate) fn in_swimwear(person: Outfit, rng: &mut Stream) -> Outfit {
    let cloth = [0xf0f0ee, 0xf26a3a, 0x20a8b8, 0xe8d040, 0xd8304a, 0x2a4a9a, 0x18191c, 0x7ac060, 0xe878a8];
    let [shirt, shorts] = [(); 2].map(|()| vary(hex(rng.pick(&cloth)), 0.15, rng));
    let is_bare = rng.chance(0.4);
    Outfit {
        shirt: if is_bare { person.skin } else { shirt },
        shorts,
        long_legs: false,
        long_sleeves: false,
        socks: person.skin,
        shoes: person.skin,
        ..person
    }
}

/// Towards a light at the given height and compass angle (0: from behind the far end).
fn direction(elevation: f32, azimuth: f32) -> V3 {
    v3(sin(azimuth) * cos(elevation), cos(azimuth) * cos(elevation), sin(elevation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn games_of_one_seed_look_different() {
        let looks: Vec<Look> = (0..12).map(|game| Look::sample(LookSet::Broadcast, 3, game)).collect();
        for (i, a) in looks.iter().enumerate() {
            for b in looks.iter().skip(i + 1) {
                assert!(a.court.color != b.court.color && a.seed != b.seed && a.ball.color != b.ball.color);
            }
        }
    }

    #[test]
    fn grass_lies_outside_the_broadcast_distribution() {
        for game in 0..20 {
            let grass = Look::sample(LookSet::Grass, 1, game);
            let stadium = Look::sample(LookSet::Broadcast, 1, game);
            assert!(grass.court.surface == Surface::Grass && stadium.court.surface != Surface::Grass);
            let behind = |look: &Look| match look.camera {
                Pose::Behind(framing) => framing.behind,
                Pose::Side(_) => panic!("a camera beside the court"),
            };
            assert!(behind(&grass)[1] < behind(&stadium)[0]);
            assert!(grass.light.sun.z < stadium.light.sun.z);
        }
    }
}

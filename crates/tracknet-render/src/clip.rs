//! One clip: the plate is drawn once, each frame crops it and adds what moves.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::ball::{Streak, contrast, draw_shadow, draw_streak, unhidden};
use crate::body::{body_shadow, draw_body, draw_racket};
use crate::camera::{Camera, Pose, sample_camera};
use crate::codec::Coder;
use crate::court::{paint_ground, paint_net};
use crate::crowd::{Extra, Fan, draw_fans, extras, fans};
use crate::develop::{Developer, Signal, Window, resample, sources};
use crate::draw::{Draw, stream};
use crate::look::{Look, Outfit, Scan};
use crate::math::*;
use crate::motion::Player;
use crate::overlay::paint_graphics;
use crate::rally::{Event, Rally};
use crate::raster::{Canvas, Layer, Light, Target, clip};
use crate::scenery;

/// What determines a clip.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClipKey {
    pub(crate) seed: u64,
    pub(crate) game: u64,
    pub(crate) clip: u64,
    pub(crate) frames: usize,
    pub(crate) size: [usize; 2],
}

/// The label of a frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Truth {
    /// 0 absent, 1 visible, 2 hard, 3 occluded.
    pub(crate) visibility: u8,
    pub(crate) xy: Option<[f32; 2]>,
    /// 0 flying, 1 hit, 2 bounce.
    pub(crate) status: u8,
}

/// What is to be seen of the ball in one frame; the label follows from this and the frames around it.
#[derive(Debug, Clone, Copy)]
enum Seen {
    Nothing,
    Ball { xy: [f32; 2], left: f32, contrast: f32 },
}

impl Seen {
    /// What a frame of two moments shows: the middle of both; of each alone, `share` of the contrast.
    fn with(self, later: Self, share: f32) -> Self {
        match (self, later) {
            (Self::Ball { xy: a, left, contrast }, Self::Ball { xy: b, left: left_b, contrast: contrast_b }) => {
                // A moment that is hidden does not pull the label.
                let [wa, wb] = [left, left_b].map(|left| if left < HIDDEN { 1e-3 } else { 1.0 });
                let xy = [0, 1].map(|i| if i == 0 { (a[0], b[0]) } else { (a[1], b[1]) });
                let xy = xy.map(|(a, b)| (a * wa + b * wb) / (wa + wb));
                Self::Ball { xy, left: left.max(left_b), contrast: contrast.max(contrast_b) * share }
            }
            (Self::Ball { xy, left, contrast }, Self::Nothing) | (Self::Nothing, Self::Ball { xy, left, contrast }) => {
                Self::Ball { xy, left, contrast: contrast * share }
            }
            (Self::Nothing, Self::Nothing) => Self::Nothing,
        }
    }
}

/// Someone as drawn: how far away, and whether beyond the net's plane.
struct Item {
    depth: f32,
    beyond: bool,
    layer: Layer,
}

/// Share of the ball that is in front: above the first it is visible, below the second hidden.
const PARTLY: f32 = 0.7;
const HIDDEN: f32 = 0.12;
/// Contrast, in levels of 255, above which a ball is easy to see.
const EASY: f32 = 50.0;
/// Contrast below which it cannot be seen at all.
const UNSEEN: f32 = 6.0;
/// Frames that a labeller can interpolate across: a ball hidden for longer is absent.
const LONGEST_GAP: usize = 5;
/// Plate border on each side, as a fraction of the frame, for pan and shake.
const BORDER: f32 = 0.07;

/// A shot of a clip: one camera, one stretch of a rally.
struct Stage {
    key: ClipKey,
    look: Look,
    camera: Camera,
    light: Light,
    plate: Canvas,
    net: Layer,
    graphics: Option<Layer>,
    rally: Rally,
    players: [Player; 2],
    extras: Vec<Extra>,
    fans: Vec<Fan>,
    developer: Developer,
    start: f32,
    shutter: f32,
}

/// Renders all frames of a clip, in order; `encode` turns a frame's 8-bit RGB into a file. `None` if `stop` was set before
/// the last frame was begun.
pub(crate) fn render_clip<T: Send + Clone>(
    key: ClipKey,
    look: Look,
    stop: &AtomicBool,
    encode: impl Fn(usize, &[u8]) -> T + Sync,
) -> Option<Vec<(T, Truth)>> {
    let mut frames = Vec::with_capacity(key.frames);
    let moments = moments(&key, &look);
    for (shot, (camera, range)) in shots(&key, &look).into_iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let stage = Stage::new(key, look.clone(), shot, &camera);
        frames.extend(render_shot(&stage, moments.get(range).unwrap_or_default(), stop, &encode)?);
    }
    Some(frames)
}

/// The moment that each frame of the clip shows, in frame times: frames that repeat the one before show the same.
fn moments(key: &ClipKey, look: &Look) -> Vec<usize> {
    let mut style = stream(key.seed, &[key.game, key.clip, 6]);
    // The first draw of this stream is the shutter's.
    style.uniform();
    let mut shown: Vec<usize> = Vec::with_capacity(key.frames);
    for index in 0..key.frames {
        let moment = match look.recording.repeat_every {
            0 => index,
            every => index - (index + 1) / every,
        };
        let repeat = style.chance(look.recording.duplicates);
        shown.push(if repeat { shown.last().copied().unwrap_or(moment) } else { moment });
    }
    shown
}

/// The clip's shots: which camera, and which of the frames.
fn shots(key: &ClipKey, look: &Look) -> Vec<(Pose, Range<usize>)> {
    let mut rng = stream(key.seed, &[key.game, key.clip, 9]);
    let whole = vec![(look.camera, 0..key.frames)];
    if key.frames < 4 || !rng.chance(look.recording.cuts) {
        return whole;
    }
    let cut = 1 + rng.index(key.frames - 2);
    let [first, second] =
        if rng.chance(0.5) { [look.camera, look.second_camera] } else { [look.second_camera, look.camera] };
    vec![(first, 0..cut), (second, cut..key.frames)]
}

/// Renders the frames of a shot that show the given moments.
fn render_shot<T: Send + Clone>(
    stage: &Stage,
    moments: &[usize],
    stop: &AtomicBool,
    encode: &(impl Fn(usize, &[u8]) -> T + Sync),
) -> Option<Vec<(T, Truth)>> {
    let mut unique = moments.to_vec();
    unique.dedup();
    let codec = stage.look.recording.codec;
    // A codec predicts frames from the ones before, back to a key frame.
    let groups = unique.chunks(codec.map_or(1, |codec| codec.interval));
    let render = |group: &[usize]| {
        let mut coder = codec.map(Coder::new);
        let mut before = None;
        let mut done = Vec::with_capacity(group.len());
        for &index in group {
            if stop.load(Ordering::Relaxed) {
                return None;
            }
            let (mut signal, seen) = stage.frame(index);
            if let Some(coder) = &mut coder {
                let shift = stage.window(stage.time(index)).shift;
                let [dx, dy] = before.replace(shift).map_or([0.0; 2], |[x, y]: [f32; 2]| [shift[0] - x, shift[1] - y]);
                coder.code(&mut signal, [dx.round() as i32, dy.round() as i32]);
            }
            done.push((index, encode(index, &signal.rgb()), seen));
        }
        Some(done)
    };
    let groups: Vec<Vec<(usize, T, Seen)>> =
        groups.collect::<Vec<_>>().into_par_iter().map(render).collect::<Option<_>>()?;
    let rendered = groups.concat();
    let seen: Vec<Seen> = rendered.iter().map(|(_, _, seen)| *seen).collect();
    let truths: Vec<Truth> = (0..seen.len()).map(|i| judge(&seen, i)).collect();
    let place = |index: usize| rendered.iter().zip(&truths).find(|((at, _, _), _)| *at == index);
    let frames = moments
        .iter()
        .filter_map(|&index| place(index))
        .map(|((index, file, _), truth)| (file.clone(), Truth { status: stage.status(*index), ..*truth }));
    Some(frames.collect())
}

/// Visibility from what the frame measured; short gaps in hiding are "occluded", long ones "absent".
fn judge(seen: &[Seen], index: usize) -> Truth {
    let absent = Truth { visibility: 0, xy: None, status: 0 };
    let hidden = |s: &Seen| matches!(s, Seen::Ball { left, contrast, .. } if *left < HIDDEN || *contrast < UNSEEN);
    let Some(Seen::Ball { xy, left, contrast }) = seen.get(index).copied() else { return absent };
    let visibility = if left < HIDDEN || contrast < UNSEEN {
        let before = seen.iter().take(index).rev().take_while(|s| hidden(s)).count();
        let after = seen.iter().skip(index).take_while(|s| hidden(s)).count();
        if before + after > LONGEST_GAP { 0 } else { 3 }
    } else if left < PARTLY {
        3
    } else if contrast < EASY {
        2
    } else {
        1
    };
    if visibility == 0 { absent } else { Truth { visibility, xy: Some(xy), status: 0 } }
}

impl Stage {
    /// Shot 0 is the clip's first; later ones see another stretch of play.
    fn new(key: ClipKey, look: Look, shot: usize, pose: &Pose) -> Self {
        let clip = key.clip ^ ((shot as u64) << 32);
        let rng = |purpose: u64| stream(key.seed, &[key.game, clip, purpose]);
        let [width, height] = key.size;
        let plate_size = key.size.map(|s| s + 2 * (s as f32 * BORDER).ceil() as usize);
        let frame_camera = sample_camera(pose, key.size, &mut rng(1));
        let plate_center = plate_size.map(|s| (s as f32 - 1.0) * 0.5);
        let camera = frame_camera.window(plate_center, 1.0);
        // What a camera beside the court sees above the ground where nothing stands.
        let behind_all = if camera.looks_across() { look.surroundings.sky } else { look.court.surround };
        let mut plate = Canvas::new(plate_size[0], plate_size[1], behind_all);
        paint_ground(&mut plate, &camera, &look);
        scenery::paint(&mut plate, &camera, &look, &mut rng(2));
        let net = paint_net(&camera, &look, plate.bounds());
        let seconds = key.frames as f32 / look.recording.fps;
        let mut play = rng(3);
        let rally = Rally::play(seconds + 7.0, &look.ball.bounce, &mut play);
        // Most clips begin within the play, some with the wait before the serve.
        let latest = (rally.duration() - seconds - 0.2).max(0.1);
        let start = if play.chance(0.18) { play.range(0.4, 1.7) } else { play.range(0.3, latest) };
        let [near, far] = rally.tracks.clone();
        let total = rally.duration() + 1.0;
        let [a, b] = look.players;
        let players = [Player::new(near, a.scale, total), Player::new(far, b.scale, total)];
        let graphics = look.graphics.as_ref().map(|g| paint_graphics(g, [width, height], &mut rng(4)));
        let developer = Developer::new(&look, key.size, &mut rng(5));
        let mut style = rng(6);
        let shutter = style.range(look.recording.shutter[0], look.recording.shutter[1]) / look.recording.fps;
        let extras = extras(&look, total, &mut rng(10));
        let fans = fans(&look, &mut rng(11));
        let light = scenery::light(&camera, &look);
        Self { key, look, camera, light, plate, net, graphics, rally, players, extras, fans, developer, start, shutter }
    }

    fn time(&self, index: usize) -> f32 {
        self.start + index as f32 / self.look.recording.fps
    }

    /// The nearest hit or bounce, if this frame is the one closest to it.
    fn status(&self, index: usize) -> u8 {
        let (time, half) = (self.time(index), 0.5 / self.look.recording.fps);
        let event = self.rally.events.iter().find(|(t, _)| *t >= time - half && *t < time + half);
        match event {
            Some((_, Event::Hit)) => 1,
            Some((_, Event::Bounce)) => 2,
            None => 0,
        }
    }

    /// Pan after the play, slow drift of the zoom, shake.
    fn window(&self, time: f32) -> Window {
        let [width, height] = self.key.size.map(|s| s as f32);
        let mut phases = stream(self.key.seed, &[self.key.game, self.key.clip, 7]);
        let mut wave = |rate: f32| sin(time * rate * phases.range(0.8, 1.2) + phases.range(0.0, 2.0 * PI));
        let shake = self.look.recording.shake * height / 720.0;
        // The near player's x over the last second, smoothed: an operator follows late.
        let follow: f32 = (0..8)
            .map(|i| {
                let body = self.players[0].body(time - i as f32 * 0.12 - 0.1);
                body.pelvis.x / 8.0
            })
            .sum();
        let pan = -self.look.recording.pan * follow.clamp(-5.0, 5.0) / 5.0;
        let (slow, fast) = ([wave(1.1), wave(0.9)], [wave(7.0), wave(8.5)]);
        let drift = wave(0.4);
        let limit = BORDER * 0.85;
        Window {
            shift: [
                (width * pan + shake * (1.5 * slow[0] + 0.5 * fast[0])).clamp(-width * limit, width * limit),
                (shake * (1.2 * slow[1] + 0.5 * fast[1])).clamp(-height * limit, height * limit),
            ],
            zoom: 1.0 + 0.004 * drift * self.look.recording.shake.min(1.0),
        }
    }

    /// The signal of the frame that shows a moment, and what is to be seen of the ball in it.
    fn frame(&self, index: usize) -> (Signal, Seen) {
        let time = self.time(index);
        let field = |number: u64| {
            let (canvas, seen) = self.picture(time + number as f32 * 0.5 / self.look.recording.fps);
            let mut key = vec![self.key.game, self.key.clip, 8, index as u64];
            key.extend((number > 0).then_some(number));
            (self.developer.develop(&canvas, &mut stream(self.key.seed, &key)), seen)
        };
        let (mut signal, first) = field(0);
        match self.look.recording.scan {
            Scan::Progressive => (signal, first),
            Scan::Bob => {
                signal.bob();
                (signal, first)
            }
            Scan::Interlaced => {
                let (later, second) = field(1);
                signal.weave(&later);
                (signal, first.with(second, 1.0))
            }
            Scan::Blended => {
                let (later, second) = field(1);
                signal.blend(&later);
                (signal, first.with(second, 0.5))
            }
        }
    }

    /// The scene at a time, in linear light.
    fn picture(&self, time: f32) -> (Canvas, Seen) {
        let [width, height] = self.key.size;
        let frame = [0, 0, width as i32, height as i32];
        let window = self.window(time);
        let center = [0, 1].map(|axis| {
            let shift = if axis == 0 { window.shift[0] } else { window.shift[1] };
            (if axis == 0 { width } else { height } as f32 - 1.0) * 0.5 + shift
        });
        let camera = self.camera.window(center, window.zoom);
        let plate_size = [self.plate.width, self.plate.height];
        let (columns, rows) = sources(&window, frame, self.key.size, plate_size);
        let mut canvas = Canvas { width, height, pixels: resample(&self.plate.pixels, plate_size, &columns, &rows) };

        draw_fans(&mut canvas, &camera, &self.look, &self.fans, time);
        let mut people: Vec<(&Player, Outfit, bool)> =
            self.players.iter().zip(self.look.players).map(|(player, outfit)| (player, outfit, true)).collect();
        people.extend(self.extras.iter().map(|extra| (&extra.player, extra.outfit, extra.has_racket)));
        let layers = people.iter().map(|person| self.person_layer(*person, time, &camera, frame)).collect();
        for (player, _, _) in &people {
            let shadow = body_shadow(&camera, &player.body(time), &self.look, frame);
            scenery::darken(&mut canvas, &shadow, self.look.light.shadow_depth);
        }
        let place = |s: f32| self.rally.ball_at(time + (s - 0.5) * self.shutter);
        let shadow = draw_shadow(place, &camera, &self.look, frame);
        scenery::darken(&mut canvas, &shadow, self.look.light.shadow_depth);
        let light = place(0.5).map_or(self.light, |p| self.light_at(p));
        let streak = draw_streak(place, &camera, &self.look, &light, frame);
        let net = self.net_layer(&window, frame);
        let beyond = place(0.5).is_some_and(|p| p.y * self.camera.position.y < 0.0);
        let seen = self.compose(&mut canvas, layers, (streak, beyond), net, &camera);
        (canvas, seen)
    }

    /// Puts people, net and ball over each other, the graphics over all. From behind the court depth alone decides; a camera
    /// beside it sees the net along its length, so that what lies beyond the net's plane (the flag of people and of the ball)
    /// comes first, then the net.
    fn compose(
        &self,
        canvas: &mut Canvas,
        people: Vec<Item>,
        (streak, streak_beyond): (Option<Streak>, bool),
        net: Layer,
        camera: &Camera,
    ) -> Seen {
        let net_depth = camera.project(v3(0.0, 0.0, 0.5)).map_or(0.0, |p| p.depth);
        let across = camera.looks_across();
        let order = |beyond: bool, depth: f32| (if across && !beyond { 1.0 } else { -1.0 }, -depth);
        let mut items: Vec<((f32, f32), Layer)> =
            people.into_iter().map(|item| (order(item.beyond, item.depth), item.layer)).collect();
        items.push((if across { (0.0, 0.0) } else { order(true, net_depth) }, net));
        items.sort_by(|(a, _), (b, _)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
        let Some(streak) = streak else {
            items.iter().for_each(|(_, layer)| canvas.composite(layer));
            self.graphics.iter().for_each(|g| canvas.composite(g));
            return Seen::Nothing;
        };
        let ball = order(streak_beyond, streak.depth);
        let behind = items.iter().take_while(|(order, _)| *order < ball).count();
        let (back, front) = items.split_at(behind);
        back.iter().for_each(|(_, layer)| canvas.composite(layer));
        let contrast = contrast(canvas, &streak.layer, |v| self.developer.level(v));
        canvas.composite(&streak.layer);
        front.iter().for_each(|(_, layer)| canvas.composite(layer));
        self.graphics.iter().for_each(|g| canvas.composite(g));
        let covers: Vec<&Layer> = front.iter().map(|(_, layer)| layer).chain(&self.graphics).collect();
        let (left, mass) = unhidden(&streak.layer, &covers);
        let [x, y] = streak.center;
        let [x0, y0, x1, y1] = canvas.bounds().map(|b| b as f32);
        let inside = x >= x0 && y >= y0 && x <= x1 - 1.0 && y <= y1 - 1.0;
        if inside && mass > 0.2 { Seen::Ball { xy: [x, y], left, contrast: contrast * left } } else { Seen::Nothing }
    }

    /// A person averaged over the shutter.
    fn person_layer(
        &self,
        (player, outfit, has_racket): (&Player, Outfit, bool),
        time: f32,
        camera: &Camera,
        frame: [i32; 4],
    ) -> Item {
        // One sub-frame for every few pixels that the fastest joint or the racket moves.
        let moved = player.body(time - 0.5 * self.shutter).moved(&player.body(time + 0.5 * self.shutter), camera);
        let count = ((moved / 2.5).ceil() as usize).clamp(1, 16);
        let bodies: Vec<_> =
            (0..count).map(|i| player.body(time + ((i as f32 + 0.5) / count as f32 - 0.5) * self.shutter)).collect();
        let area = bodies
            .iter()
            .map(|b| b.area(camera, frame))
            .reduce(|a, b| [a[0].min(b[0]), a[1].min(b[1]), a[2].max(b[2]), a[3].max(b[3])]);
        let area = clip(area.unwrap_or_default(), frame);
        let depth = bodies.first().and_then(|b| camera.project(b.pelvis)).map_or(0.0, |p| p.depth);
        let mut sum = Layer::new(area);
        for body in &bodies {
            let mut one = Layer::new(area);
            let light = self.light_at(body.pelvis);
            let away = body.racket.is_some_and(|r| (r[1] - camera.position).dot(camera.forward) > depth);
            if away && has_racket {
                draw_racket(&mut one, camera, body, &outfit);
            }
            draw_body(&mut one, camera, body, &outfit, &light);
            if !away && has_racket {
                draw_racket(&mut one, camera, body, &outfit);
            }
            sum.accumulate(&one, 1.0 / count as f32);
        }
        let beyond = bodies.first().is_some_and(|b| b.pelvis.y * camera.position.y < 0.0);
        Item { depth, beyond, layer: sum }
    }

    /// The sun does not reach into the roof's shadow.
    fn light_at(&self, p: V3) -> Light {
        let edge = self.look.light.roof_edge;
        let shaded =
            self.look.light.roof_shadow.map_or(0.0, |[a, b, c]| smoothstep(-edge, edge, a * p.x + b * p.y + c));
        self.light.shaded(1.0 - 0.85 * shaded)
    }

    /// The net through the frame's window.
    fn net_layer(&self, window: &Window, frame: [i32; 4]) -> Layer {
        let net = &self.net;
        let [x0, y0, x1, y1] = net.bounds();
        let plate = [self.plate.width, self.plate.height];
        // Where the plate's area lies in the frame, with the kernel's reach.
        let to_frame = |v: i32, axis: usize| {
            let (size, plate, shift) = if axis == 0 {
                (self.key.size[0], plate[0], window.shift[0])
            } else {
                (self.key.size[1], plate[1], window.shift[1])
            };
            (v as f32 - (plate as f32 - 1.0) * 0.5) * window.zoom + (size as f32 - 1.0) * 0.5 + shift
        };
        let area = clip(
            [
                to_frame(x0, 0).floor() as i32 - 1,
                to_frame(y0, 1).floor() as i32 - 1,
                to_frame(x1, 0).ceil() as i32 + 1,
                to_frame(y1, 1).ceil() as i32 + 1,
            ],
            frame,
        );
        let mut layer = Layer::new(area);
        let (columns, rows) =
            sources(window, [area[0], area[1], area[2].max(area[0]), area[3].max(area[1])], self.key.size, plate);
        let columns: Vec<f32> = columns.iter().map(|x| x - net.left as f32).collect();
        let rows: Vec<f32> = rows.iter().map(|y| y - net.top as f32).collect();
        layer.pixels = resample(&net.pixels, [net.width, net.height], &columns, &rows);
        for pixel in &mut layer.pixels {
            // The kernel overshoots; coverage cannot.
            *pixel = pixel.map(|v| v.clamp(0.0, 1.0));
        }
        layer
    }
}

//! A person: a skeleton posed by targets for hands and feet, drawn as shaded limbs.

use crate::camera::{Camera, Pixel};
use crate::look::{Look, Outfit};
use crate::math::*;
use crate::raster::{Disc, Layer, Light, Target, area_around, clip, cloth, fill_convex, limb, stroke};

/// Joints in world metres. Index 0 is the left limb, 1 the right.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body {
    pub(crate) pelvis: V3,
    pub(crate) chest: V3,
    pub(crate) head: V3,
    pub(crate) facing: V3,
    pub(crate) hips: [V3; 2],
    pub(crate) knees: [V3; 2],
    pub(crate) feet: [V3; 2],
    pub(crate) shoulders: [V3; 2],
    pub(crate) elbows: [V3; 2],
    pub(crate) hands: [V3; 2],
    /// Grip and centre of the head, and the direction across the strings.
    pub(crate) racket: Option<[V3; 3]>,
}

/// What a pose fixes; lengths in metres of a person of 1.83 m, in the person's own axes (right, forward, up).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pose {
    pub(crate) pelvis: V3,
    pub(crate) lean: V3,
    /// Turn of the shoulders, radians, positive to the left.
    pub(crate) twist: f32,
    pub(crate) hands: [V3; 2],
    pub(crate) feet: [V3; 2],
    pub(crate) racket: Option<V3>,
}

/// Where a person stands and looks: ground point, forward direction, size.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stance {
    pub(crate) at: V3,
    pub(crate) forward: V3,
    pub(crate) scale: f32,
}

impl Stance {
    fn world(&self, p: V3) -> V3 {
        let right = v3(self.forward.y, -self.forward.x, 0.0);
        self.at + (right * p.x + self.forward * p.y + v3(0.0, 0.0, p.z)) * self.scale
    }
}

/// Middle joint of a two-bone limb: on the circle of reachable points, towards `bend`.
fn joint(from: V3, to: &mut V3, upper: f32, lower: f32, bend: V3) -> V3 {
    let mut d = *to - from;
    let longest = (upper + lower) * 0.999;
    let mut length = d.length();
    if length > longest {
        d = d * (longest / length);
        *to = from + d;
        length = longest;
    }
    let along = d.unit();
    let a = (length * length + upper * upper - lower * lower) / (2.0 * length.max(1e-3));
    let h = (upper * upper - a * a).max(0.0).sqrt();
    let side = (bend - along * bend.dot(along)).unit();
    from + along * a + side * h
}

impl Body {
    /// Solves the joints by inverse kinematics.
    pub(crate) fn new(stance: &Stance, pose: &Pose) -> Self {
        let world = |p: V3| stance.world(p);
        let s = stance.scale;
        let (ct, st) = (cos(pose.twist), sin(pose.twist));
        let chest_local = pose.pelvis + pose.lean + v3(0.0, 0.0, 0.5);
        let across = v3(ct, st, 0.0);
        let hips_across = v3(cos(pose.twist * 0.4), sin(pose.twist * 0.4), 0.0);
        let pelvis = world(pose.pelvis);
        let chest = world(chest_local);
        let shoulders = [world(chest_local - across * 0.19), world(chest_local + across * 0.19)];
        let hips = [world(pose.pelvis - hips_across * 0.1), world(pose.pelvis + hips_across * 0.1)];
        let head = world(chest_local + pose.lean * 0.35 + v3(0.0, 0.04, 0.24));
        let mut hands = pose.hands.map(world);
        let mut feet = pose.feet.map(|f| world(f + v3(0.0, 0.0, 0.08)));
        let down = v3(0.0, 0.0, -1.0);
        let out = world(across) - world(V3::default());
        let elbow = |i: usize, hands: &mut [V3; 2]| {
            let bend = down + out * if i == 0 { -0.7 } else { 0.7 } - stance.forward * 0.4;
            let [left, right] = hands;
            joint(
                if i == 0 { shoulders[0] } else { shoulders[1] },
                if i == 0 { left } else { right },
                0.3 * s,
                0.28 * s,
                bend,
            )
        };
        let elbows = [elbow(0, &mut hands), elbow(1, &mut hands)];
        let knee_bend = stance.forward + out * 0.1;
        let [left_foot, right_foot] = &mut feet;
        let knees = [
            joint(hips[0], left_foot, 0.45 * s, 0.45 * s, knee_bend),
            joint(hips[1], right_foot, 0.45 * s, 0.45 * s, knee_bend),
        ];
        let racket = pose.racket.map(|direction| {
            let d = (world(direction) - world(V3::default())).unit();
            let across = d.cross(v3(0.3, 0.2, 1.0)).unit();
            [hands[1], hands[1] + d * (0.5 * s), across]
        });
        Self { pelvis, chest, head, facing: stance.forward, hips, knees, feet, shoulders, elbows, hands, racket }
    }

    fn points(&self) -> impl Iterator<Item = V3> + '_ {
        let racket = self.racket.iter().flat_map(|r| {
            let d = (r[1] - r[0]) * 0.4;
            [r[1] + d, r[1] - r[2] * 0.15, r[1] + r[2] * 0.15]
        });
        [self.pelvis, self.chest, self.head]
            .into_iter()
            .chain(self.knees)
            .chain(self.feet)
            .chain(self.elbows)
            .chain(self.hands)
            .chain(racket)
    }

    /// The farthest that any joint lies from its counterpart, pixels.
    pub(crate) fn moved(&self, other: &Self, camera: &Camera) -> f32 {
        let apart = |(a, b)| match (camera.project(a), camera.project(b)) {
            (Some(p), Some(q)) => ((p.x - q.x) * (p.x - q.x) + (p.y - q.y) * (p.y - q.y)).sqrt(),
            _ => 0.0,
        };
        self.points().zip(other.points()).map(apart).fold(0.0, f32::max)
    }

    /// The pixels that the body may touch, clipped to `frame`.
    pub(crate) fn area(&self, camera: &Camera, frame: [i32; 4]) -> [i32; 4] {
        let depth = camera.project(self.pelvis).map_or(1.0, |p| p.depth);
        let around = self.points().filter_map(|p| camera.project(p).map(|p| (p.x, p.y)));
        clip(area_around(around, 0.22 * camera.focal / depth + 2.0), frame)
    }
}

/// A limb as it lies on the picture.
struct Part {
    depth: f32,
    a: Disc,
    b: Disc,
    color: Rgb,
    cloth: bool,
}

/// The parts of a body, in no order of depth yet.
struct Parts<'a> {
    camera: &'a Camera,
    outfit: &'a Outfit,
    all: Vec<Part>,
}

impl Parts<'_> {
    /// A limb from `a` to `b` with radii in metres; `nudge` moves it away from the camera in the order of drawing.
    fn add(&mut self, a: V3, b: V3, [ra, rb]: [f32; 2], color: Rgb, nudge: f32) {
        let (camera, outfit) = (self.camera, self.outfit);
        if let (Some(p), Some(q)) = (camera.project(a), camera.project(b)) {
            let disc = |p: Pixel, r: f32| Disc { x: p.x, y: p.y, r: r * outfit.scale * camera.focal / p.depth };
            let cloth = color == outfit.shirt || color == outfit.shorts;
            let depth = (p.depth + q.depth) * 0.5 + nudge;
            self.all.push(Part { depth, a: disc(p, ra), b: disc(q, rb), color, cloth });
        }
    }

    /// Legs and arms.
    fn limbs(&mut self, body: &Body) {
        let outfit = self.outfit;
        let legs = if outfit.long_legs { outfit.shorts } else { outfit.skin };
        let sleeve = if outfit.long_sleeves { outfit.shirt } else { outfit.skin };
        for i in 0..2 {
            let at = |pair: &[V3; 2]| if i == 0 { pair[0] } else { pair[1] };
            let (hip, knee, foot) = (at(&body.hips), at(&body.knees), at(&body.feet));
            let (shoulder, elbow, hand) = (at(&body.shoulders), at(&body.elbows), at(&body.hands));
            self.add(hip, knee, [0.085, 0.058], legs, 0.02);
            self.add(hip, hip.lerp(knee, 0.62), [0.105, 0.095], outfit.shorts, 0.0);
            self.add(knee, foot, [0.06, 0.038], legs, 0.01);
            self.add(knee.lerp(foot, 0.72), foot, [0.044, 0.042], outfit.socks, 0.0);
            let toe = foot + body.facing * 0.17 - v3(0.0, 0.0, 0.045);
            let heel = foot - body.facing * 0.05 - v3(0.0, 0.0, 0.035);
            self.add(heel, toe, [0.05, 0.042], outfit.shoes, -0.02);
            self.add(shoulder, elbow, [0.052, 0.042], sleeve, 0.0);
            self.add(shoulder, shoulder.lerp(elbow, 0.55), [0.068, 0.066], outfit.shirt, -0.1);
            self.add(elbow, hand, [0.042, 0.03], sleeve, 0.0);
            self.add(hand, hand, [0.045, 0.045], outfit.skin, -0.01);
        }
    }

    /// Wider than deep: its outline depends on where it is seen from.
    fn trunk(&mut self, body: &Body) {
        let Outfit { shirt, shorts, .. } = *self.outfit;
        let across = (body.shoulders[1] - body.shoulders[0]).unit();
        let side_on = across.dot((body.chest - self.camera.position).unit());
        let wide =
            |half: f32, deep: f32| (half * half * (1.0 - side_on * side_on) + deep * deep * side_on * side_on).sqrt();
        let waist = body.pelvis.lerp(body.chest, 0.06);
        let (hip_width, breast) = (wide(0.16, 0.125), wide(0.188, 0.135));
        self.add(body.pelvis - v3(0.0, 0.0, 0.05), waist, [hip_width * 0.95, hip_width * 0.9], shorts, 0.02);
        self.add(waist, body.chest - v3(0.0, 0.0, 0.17), [wide(0.158, 0.125), breast], shirt, 0.0);
        let [left, right] = body.shoulders.map(|shoulder| shoulder.lerp(body.chest, 0.3));
        self.add(left, right, [0.085, 0.085], shirt, 0.01);
    }

    fn head(&mut self, body: &Body) {
        let Outfit { skin, hair, cap, .. } = *self.outfit;
        let Body { head, facing, .. } = *body;
        let away = facing.dot(self.camera.forward);
        self.add(body.chest.lerp(head, 0.3), head, [0.055, 0.05], skin, 0.0);
        self.add(head, head - v3(0.0, 0.0, 0.05), [0.098, 0.085], skin, 0.0);
        let back = head - facing * 0.035 + v3(0.0, 0.0, 0.035);
        self.add(back, back, [0.105, 0.105], hair, away * -0.05);
        if away < 0.3 {
            let face = head + facing * 0.045 - v3(0.0, 0.0, 0.025);
            self.add(face, face - v3(0.0, 0.0, 0.03), [0.085, 0.075], skin, -0.2);
        }
        if let Some(cap) = cap {
            let top = head + v3(0.0, 0.0, 0.075);
            self.add(top - facing * 0.03, top + facing * 0.02, [0.096, 0.098], cap, -0.16);
            self.add(top, top + facing * 0.15 - v3(0.0, 0.0, 0.02), [0.05, 0.04], cap, -0.02);
        }
    }
}

/// Draws the body's limbs, farthest first.
pub(crate) fn draw_body<T: Target>(target: &mut T, camera: &Camera, body: &Body, outfit: &Outfit, light: &Light) {
    let mut parts = Parts { camera, outfit, all: Vec::with_capacity(32) };
    parts.limbs(body);
    parts.trunk(body);
    parts.head(body);
    parts.all.sort_by(|p, q| q.depth.total_cmp(&p.depth));
    for part in parts.all {
        let paint = if part.cloth { cloth } else { limb };
        paint(target, part.a, part.b, part.color, light);
    }
}

/// Frame, throat, handle and strings.
pub(crate) fn draw_racket<T: Target>(target: &mut T, camera: &Camera, body: &Body, outfit: &Outfit) {
    let Some([grip, center, across]) = body.racket else { return };
    let along = (center - grip).unit();
    let ring: Vec<(f32, f32)> = (0..20)
        .filter_map(|i| {
            let angle = i as f32 * (2.0 * PI / 20.0);
            camera.project(center + along * (cos(angle) * 0.17) + across * (sin(angle) * 0.13)).map(|p| (p.x, p.y))
        })
        .collect();
    let Some(at) = camera.project(center) else { return };
    let scale = camera.focal / at.depth;
    let (face, cover, cords) =
        if outfit.paddle { (outfit.racket, 1.0, 0..0) } else { ([0.75, 0.76, 0.7], 0.22, -2..3) };
    fill_convex(target, &ring, |_, _| (face, cover));
    for i in cords {
        let t = i as f32 * 0.045;
        for (a, b) in [
            (along * 0.16 + across * t, along * -0.16 + across * t),
            (across * 0.12 + along * t, across * -0.12 + along * t),
        ] {
            line(target, camera, center + a, center + b, 0.0025 * scale, [0.8, 0.8, 0.74], 0.6);
        }
    }
    for (a, b) in ring.iter().zip(ring.iter().cycle().skip(1)) {
        let r = (0.013 * scale).max(0.4);
        stroke(target, Disc { x: a.0, y: a.1, r }, Disc { x: b.0, y: b.1, r }, outfit.racket, 1.0);
    }
    let throat = center - along * 0.17;
    line(target, camera, throat, grip + along * 0.14, 0.016 * scale, outfit.racket, 1.0);
    line(target, camera, grip + along * 0.14, grip - along * 0.08, 0.018 * scale, [0.02; 3], 1.0);
}

fn line<T: Target>(target: &mut T, camera: &Camera, a: V3, b: V3, r: f32, color: Rgb, alpha: f32) {
    if let (Some(a), Some(b)) = (camera.project(a), camera.project(b)) {
        stroke(target, Disc { x: a.x, y: a.y, r }, Disc { x: b.x, y: b.y, r }, color, alpha);
    }
}

/// Coverage of the body's shadows on the ground: one per light, and a soft one under the feet.
pub(crate) fn body_shadow(camera: &Camera, body: &Body, look: &Look, frame: [i32; 4]) -> Layer {
    let mut lights: Vec<(V3, f32)> = look.light.lamps.clone();
    let total: f32 = lights.iter().map(|(_, w)| w).sum();
    if lights.is_empty() {
        lights.push((look.light.sun, 1.0));
    } else {
        lights.iter_mut().for_each(|(_, w)| *w *= 1.1 / total);
    }
    let fall = |p: V3, sun: V3| v3(p.x - sun.x / sun.z * p.z, p.y - sun.y / sun.z * p.z, 0.0);
    let on_ground: Vec<(f32, f32)> = lights
        .iter()
        .flat_map(|&(sun, _)| body.points().filter_map(move |p| camera.project(fall(p, sun)).map(|p| (p.x, p.y))))
        .collect();
    let scale = camera.project(body.pelvis).map_or(1.0, |p| camera.focal / p.depth);
    let area = clip(area_around(on_ground, 0.3 * scale + 2.0), frame);
    let mut sum = Layer::new(area);
    for (sun, weight) in lights {
        let mut one = Layer::new(area);
        let mut bar = |a: V3, b: V3, r: f32| {
            if let (Some(p), Some(q)) = (camera.project(fall(a, sun)), camera.project(fall(b, sun))) {
                // Seen at a slant, a round shadow is flat; the mean of both radii does.
                let r = r * scale * 0.75;
                shadow_bar(&mut one, (p.x, p.y), (q.x, q.y), r, look.light.shadow_soft * scale);
            }
        };
        for i in 0..2 {
            let at = |pair: &[V3; 2]| if i == 0 { pair[0] } else { pair[1] };
            bar(at(&body.hips), at(&body.knees), 0.1);
            bar(at(&body.knees), at(&body.feet), 0.06);
            bar(at(&body.shoulders), at(&body.elbows), 0.06);
            bar(at(&body.elbows), at(&body.hands), 0.04);
        }
        bar(body.pelvis, body.chest, 0.18);
        bar(body.head, body.head, 0.11);
        if let Some([grip, center, _]) = body.racket {
            bar(grip, center, 0.02);
            bar(center, center, 0.11);
        }
        sum.accumulate(&one, weight);
    }
    for foot in body.feet {
        if let Some(p) = camera.project(v3(foot.x, foot.y, 0.0)) {
            let near = (1.0 - foot.z * 2.0).clamp(0.0, 1.0) * 0.6;
            let mut one = Layer::new(area);
            shadow_bar(&mut one, (p.x - 0.08 * scale, p.y), (p.x + 0.08 * scale, p.y), 0.05 * scale, 0.1 * scale);
            sum.accumulate(&one, near);
        }
    }
    sum
}

/// Raises the layer's coverage (fourth channel only) to that of a soft bar.
fn shadow_bar(layer: &mut Layer, a: (f32, f32), b: (f32, f32), r: f32, soft: f32) {
    let edge = soft.max(0.7);
    let [x0, y0, x1, y1] = clip(area_around([a, b], r + edge + 1.0), layer.bounds());
    let (dx, dy) = (b.0 - a.0, b.1 - a.1);
    let inverse = 1.0 / (dx * dx + dy * dy).max(1e-6);
    let (left, top, width) = (layer.left, layer.top, layer.width);
    for y in y0..y1 {
        let start = (y - top) as usize * width + (x0 - left) as usize;
        let Some(row) = layer.pixels.get_mut(start..start + (x1 - x0).max(0) as usize) else { continue };
        for (x, pixel) in (x0..).zip(row) {
            let (px, py) = (x as f32 - a.0, y as f32 - a.1);
            let t = ((px * dx + py * dy) * inverse).clamp(0.0, 1.0);
            let (ox, oy) = (px - t * dx, py - t * dy);
            // Twice as flat as wide.
            let distance = (ox * ox + 2.5 * oy * oy).sqrt();
            let coverage = ((r + edge - distance) / (2.0 * edge)).clamp(0.0, 1.0);
            pixel[3] = pixel[3].max(coverage * (2.0 * r).min(1.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limbs_keep_their_length_whatever_the_target() {
        for reach in [0.1, 0.4, 0.57, 2.0] {
            let mut hand = v3(reach, 0.1, 0.2);
            let elbow = joint(V3::default(), &mut hand, 0.3, 0.28, v3(0.0, 0.0, -1.0));
            // f32 rounding of lengths below 1 m.
            assert!((elbow.length() - 0.3).abs() < 1e-3 && ((hand - elbow).length() - 0.28).abs() < 1e-2, "{reach}");
        }
    }
}

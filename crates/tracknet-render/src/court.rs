//! The court: its measures, the painted ground, the net. Measures from the ITF rules of tennis.

use crate::camera::Camera;
use crate::draw::{Draw, stream};
use crate::look::{Lines, Look, Surface};
use crate::math::*;
use crate::raster::{Canvas, Disc, Layer, Rect3, area_around, clip, stripe, stroke};
use crate::text::Text;

/// Net to baseline, metres (23.77 m in all).
pub(crate) const BASELINE: f32 = 11.885;
/// Centre line to doubles sideline (10.97 m in all).
pub(crate) const DOUBLES: f32 = 5.485;
/// Centre line to singles sideline (8.23 m in all).
pub(crate) const SINGLES: f32 = 4.115;
/// Net to service line.
pub(crate) const SERVICE: f32 = 6.40;
/// Centre line to net post.
pub(crate) const NET_HALF: f32 = DOUBLES + 0.914;

/// Heights of the net's cord, metres; straight from the middle to the posts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cord {
    pub(crate) middle: f32,
    pub(crate) posts: f32,
}

impl Cord {
    /// Held down by the strap.
    pub(crate) const TENNIS: Self = Self { middle: 0.914, posts: 1.07 };
    /// ITF rules of beach tennis.
    pub(crate) const BEACH: Self = Self { middle: 1.7, posts: 1.7 };

    /// At a distance from the middle.
    pub(crate) fn height(&self, x: f32) -> f32 {
        self.middle + (self.posts - self.middle) * (x.abs() / NET_HALF).min(1.0)
    }
}

/// Painted lines as (x from, x to, y from, y to), by the outer edges of the rules; the centre line is 5 cm wide.
fn lines(look: &Look) -> Vec<[f32; 4]> {
    let w = look.court.line_width;
    let base = look.court.line_width * 1.5;
    let mut lines = vec![
        [-DOUBLES, -DOUBLES + w, -BASELINE, BASELINE],
        [DOUBLES - w, DOUBLES, -BASELINE, BASELINE],
        [-DOUBLES, DOUBLES, -BASELINE, -BASELINE + base],
        [-DOUBLES, DOUBLES, BASELINE - base, BASELINE],
    ];
    let inner = [
        [-SINGLES, -SINGLES + w, -BASELINE, BASELINE],
        [SINGLES - w, SINGLES, -BASELINE, BASELINE],
        [-SINGLES, SINGLES, -SERVICE - w * 0.5, -SERVICE + w * 0.5],
        [-SINGLES, SINGLES, SERVICE - w * 0.5, SERVICE + w * 0.5],
        [-w * 0.5, w * 0.5, -SERVICE, SERVICE],
        [-w * 0.5, w * 0.5, -BASELINE, -BASELINE + base + 0.1],
        [-w * 0.5, w * 0.5, BASELINE - base - 0.1, BASELINE],
    ];
    if look.court.lines == Lines::Tennis {
        lines.extend(inner);
    }
    lines
}

/// Paints the ground of the whole plate: two tones, noise, wear, lines, the stadium's and the net's shadow.
pub(crate) fn paint_ground(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let painter = GroundPainter { look, lines: lines(look) };
    let width = canvas.width;
    for (row, pixels) in canvas.pixels.chunks_mut(width).enumerate() {
        for (column, pixel) in pixels.iter_mut().enumerate() {
            let (x, y) = (column as f32, row as f32);
            let (Some(here), Some(below)) = (ground_point(camera, x, y), ground_point(camera, x, y + 1.0)) else {
                continue;
            };
            let Some(right) = ground_point(camera, x + 1.0, y) else { continue };
            let footprint = (
                (right.0 - here.0).abs() + (below.0 - here.0).abs(),
                (right.1 - here.1).abs() + (below.1 - here.1).abs(),
            );
            *pixel = painter.color(here, footprint);
        }
    }
    scuffs(canvas, camera, look);
    lettering(canvas, camera, look);
}

fn ground_point(camera: &Camera, x: f32, y: f32) -> Option<(f32, f32)> {
    let ray = camera.ray(x, y);
    let t = -camera.position.z / ray.z;
    (ray.z < -1e-4 && t < 400.0).then_some((camera.position.x + ray.x * t, camera.position.y + ray.y * t))
}

struct GroundPainter<'a> {
    look: &'a Look,
    lines: Vec<[f32; 4]>,
}

impl GroundPainter<'_> {
    fn color(&self, (x, y): (f32, f32), (fx, fy): (f32, f32)) -> Rgb {
        let look = self.look;
        let seed = look.seed;
        let inside = stripe(x, fx, -look.court.inner[0], look.court.inner[0])
            * stripe(y, fy, -look.court.inner[1], look.court.inner[1]);
        let mut color = mix_rgb(look.court.surround, look.court.color, inside);
        let broad = fbm(x * 0.14, y * 0.14, 3, seed);
        let blotch = fbm(x * 0.9, y * 0.55, 3, seed ^ 0x51);
        // Detail fades where a pixel spans more than it.
        let grain = fbm(x * 9.0, y * 9.0, 2, seed ^ 0xa3) / (1.0 + 8.0 * (fx + fy));
        let mut tone = 1.0 + look.court.texture * (0.35 * broad + 0.3 * blotch + 0.6 * grain);
        let worn = self.wear(x, y, blotch);
        match look.court.surface {
            Surface::Hard => tone *= 1.0 + 0.10 * worn,
            Surface::Clay => {
                tone *= 1.0 + 0.12 * worn * blotch + 0.05 * fbm(x * 0.35, y * 2.6, 2, seed ^ 0x77);
                color = mix_rgb(color, look.court.worn, 0.35 * worn * (0.5 + 0.5 * broad));
            }
            Surface::Grass => {
                let band = ((x / 1.25).floor() as i32 & 1) as f32;
                let edge = ((x / 1.25 - (x / 1.25).floor()) * 20.0).min(1.0);
                tone *= 1.0 + look.court.mowing * (mix(1.0 - band, band, edge) - 0.5);
                tone *= 1.0 + 0.35 * fbm(x * 22.0, y * 12.0, 2, seed ^ 0x19) / (1.0 + 12.0 * (fx + fy));
                let bare = (worn * (0.75 + 1.1 * blotch)).clamp(0.0, 1.0);
                color = mix_rgb(color, look.court.worn, bare * 0.85);
            }
            Surface::Sand => {
                let damp = smoothstep(-0.05, 0.45, broad + 0.35 * blotch);
                color = mix_rgb(color, look.court.worn, 0.75 * damp);
                tone += self.sand_relief((x, y), (fx, fy), 0.6 + 0.4 * worn);
            }
        }
        color = scale_rgb(color, tone.max(0.2));
        let (along, across) = if look.court.surface == Surface::Sand {
            // Tape that nothing but its corners holds.
            (x + 0.04 * noise(y * 0.4, 1.0, seed ^ 0x7a), y + 0.04 * noise(x * 0.4, 2.0, seed ^ 0x7a))
        } else {
            (x, y)
        };
        let mut paint: f32 = 0.0;
        for [x0, x1, y0, y1] in &self.lines {
            paint = paint.max(stripe(along, fx, *x0, *x1) * stripe(across, fy, *y0, *y1));
        }
        if paint > 0.0 {
            let dust = fbm(x * 3.0, y * 3.0, 2, seed ^ 0xee);
            let kept = (1.0 - look.court.line_wear * (0.55 + 0.6 * dust + 0.35 * worn)).clamp(0.15, 1.0);
            color = mix_rgb(color, look.court.line, paint * kept);
        }
        let light = 1.0 - look.light.shadow_depth * self.shade(x, y, fy);
        [color[0] * light, color[1] * mix(1.0, light, 0.98), color[2] * mix(1.0, light, 0.93)]
    }

    /// What footprints and a rake add to the brightness: slopes towards the sun are brighter. `trodden` is the share of
    /// the footprints.
    fn sand_relief(&self, (x, y): (f32, f32), (fx, fy): (f32, f32), trodden: f32) -> f32 {
        let Look { seed, court, light, .. } = self.look;
        let sharp = 1.0 - smoothstep(0.4, 2.0, fx + fy);
        if sharp <= 0.0 {
            return 0.0;
        }
        let sun = v3(light.sun.x, light.sun.y, 0.0).unit() * 0.07;
        // Dents of feet, a third of a metre apart, with rims between them.
        let height = |x: f32, y: f32| smoothstep(-0.75, 0.1, fbm(x * 4.3, y * 3.4, 2, seed ^ 0xf007));
        let here = height(x, y);
        let slope = here - height(x + sun.x, y + sun.y);
        let prints = 1.1 * slope - 0.25 * (1.0 - here);
        // The rake went across in strips that feet have broken up.
        let raked = smoothstep(-0.2, 0.3, noise(x * 0.3, y * 0.5, seed ^ 0x4a6e)) * here;
        let tines = sin(2.0 * PI / 0.16 * (y + 0.1 * noise(x * 0.5, y * 0.5, seed ^ 0x4a)));
        1.5 * court.texture * trodden * prints * sharp / (1.0 + fx + fy)
            + court.mowing * raked * tines * sharp / (1.0 + 30.0 * fy * fy + 400.0 * fy * fy * fy)
    }

    /// How much feet have worn the place, 0..1: behind the baselines, less at the service lines' middle.
    fn wear(&self, x: f32, y: f32, ragged: f32) -> f32 {
        let behind = y.abs() - BASELINE - 0.3 + 0.5 * ragged;
        let along = x + 0.6 * ragged;
        let base = bell_curve(behind * 0.9) * bell_curve(along * 0.24);
        let service = 0.4 * bell_curve((y.abs() - SERVICE + 1.5) * 0.5) * bell_curve(x * 0.35);
        (base + service).min(1.0)
    }

    /// 1 in full shadow: of the stadium's roof, and of the net.
    fn shade(&self, x: f32, y: f32, footprint: f32) -> f32 {
        let mut shade: f32 = 0.0;
        if let Some([a, b, c]) = self.look.light.roof_shadow {
            let edge = self.look.light.roof_edge;
            let ragged = 0.5 * edge * noise(x * 0.7, y * 0.7, self.look.seed ^ 0x33);
            shade = smoothstep(-edge, edge, a * x + b * y + c + ragged);
        }
        if self.look.light.leaf_shade > 0.0 {
            let leaves = smoothstep(0.0, 0.12, fbm(x * 0.4, y * 0.4, 4, self.look.seed ^ 0x1eaf));
            shade = shade.max(self.look.light.leaf_shade * leaves);
        }
        let sun = self.look.light.sun;
        // From the ground towards the sun: where does the ray pass the net's plane, and how high?
        if sun.y.abs() > 0.05 && -y / sun.y > 0.0 {
            let t = -y / sun.y;
            let (at, height) = (x + sun.x * t, sun.z * t);
            let top = self.look.ball.bounce.net.height(at);
            if at.abs() < NET_HALF {
                let reach = footprint.max(0.02) * sun.z / sun.y.abs();
                let mesh = 0.4 * stripe(height, reach, self.look.net.lifted, top - 0.06);
                let band = 0.85 * stripe(height, reach, top - 0.06, top);
                shade = shade.max((mesh + band) * self.look.net.shadow);
            }
        }
        shade
    }
}

/// A bell of height 1: rational, since only its rough shape matters.
fn bell_curve(x: f32) -> f32 {
    let q = 1.0 + x * x;
    1.0 / (q * q)
}

/// Slide marks, ball marks and shoe scuffs, mostly behind the baselines.
fn scuffs(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let mut rng = stream(u64::from(look.seed), &[0x5c]);
    for _ in 0..look.court.scuffs {
        let y = rng.sign() * if rng.chance(0.75) { BASELINE + rng.bell() * 1.3 } else { rng.range(0.0, 14.0) };
        let at = v3(rng.bell() * 2.8, y, 0.0);
        let angle = rng.bell() * 0.6;
        let length = rng.range(0.05, 0.2) + if rng.chance(look.court.slides) { rng.range(0.2, 0.9) } else { 0.0 };
        let to = at + v3(cos(angle), sin(angle), 0.0) * length;
        let tone = if rng.chance(look.court.bright_scuffs) { 1.35 } else { 0.72 };
        let alpha = rng.range(0.1, 0.45) * look.court.scuff_strength;
        if let (Some(a), Some(b)) = (camera.project(at), camera.project(to)) {
            let r = camera.focal * rng.range(0.012, 0.045) / a.depth;
            // Foreshortened: a mark on the ground is thinner than long across the view.
            let color =
                scale_rgb(if look.court.surface == Surface::Grass { look.court.worn } else { look.court.color }, tone);
            stroke(canvas, Disc { x: a.x, y: a.y, r }, Disc { x: b.x, y: b.y, r: r * 0.6 }, color, alpha);
        }
    }
}

/// The city's name behind both baselines, and beside the net on some courts.
fn lettering(canvas: &mut Canvas, camera: &Camera, look: &Look) {
    let Some(letters) = &look.lettering else { return };
    let text = Text::new(&letters.city);
    let height = 0.62;
    let width = text.aspect() * height * letters.stretch;
    let mut put = |center: V3, scale: f32| {
        let size = (width * scale, height * scale);
        let origin = center - v3(size.0 * 0.5, -size.1 * 0.5, 0.0);
        let rect = Rect3 { origin, u: v3(1.0, 0.0, 0.0), v: v3(0.0, -1.0, 0.0), size };
        text.paint(canvas, camera, &rect, look.court.line, 0.9);
    };
    put(v3(0.0, -BASELINE - letters.offset, 0.0), 1.4);
    put(v3(0.0, BASELINE + letters.offset, 0.0), 1.3);
    if letters.beside {
        put(v3(-DOUBLES - 1.4, -2.2, 0.0), 0.7);
        put(v3(DOUBLES + 1.4, -2.2, 0.0), 0.7);
    }
}

/// The net as a layer on the plate: it covers the far side, the near side covers it.
pub(crate) fn paint_net(camera: &Camera, look: &Look, plate: [i32; 4]) -> Layer {
    let cord = look.ball.bounce.net;
    let above = (cord.posts + 0.1).max(1.3);
    let corners = [(-NET_HALF - 0.5, 0.0), (NET_HALF + 0.5, 0.0), (-NET_HALF - 0.5, above), (NET_HALF + 0.5, above)];
    let around = corners.into_iter().filter_map(|(x, z)| camera.project(v3(x, 0.0, z)).map(|p| (p.x, p.y)));
    let mut layer = Layer::new(clip(area_around(around, 4.0), plate));
    let rect = Rect3 {
        origin: v3(-NET_HALF, 0.0, 0.0),
        u: v3(1.0, 0.0, 0.0),
        v: v3(0.0, 0.0, 1.0),
        size: (2.0 * NET_HALF, cord.posts + 0.05),
    };
    let mesh = look.net.color;
    rect.paint(&mut layer, camera, |(u, z), (fu, fz)| {
        let x = u - NET_HALF;
        let (top, low) = (cord.height(x), 0.03 + look.net.lifted);
        let body = stripe(z, fz, low, top);
        // Cord squares of 45 mm; the threads look thicker than their 3 mm through a lens.
        let thread = |t: f32, f: f32| stripe(t - (t / 0.045).floor() * 0.045 - 0.0225, f.max(0.012), -0.006, 0.006);
        let threads = thread(u, fu).max(thread(z + 0.01, fz));
        let alpha = body * (look.net.density + look.net.threads * threads).min(0.95);
        let band = stripe(z, fz, top - look.net.band_height, top);
        let second = if look.net.lifted > 0.0 {
            stripe(z, fz, low, low + look.net.band_height)
        } else {
            stripe(x, fu, -0.03, 0.03) * body
        };
        let white = band.max(second);
        let fold = 0.92 + 0.08 * noise(u * 3.0, z * 8.0, 9);
        let white_color = scale_rgb(look.net.band_color, fold);
        let total = white + alpha * (1.0 - white);
        if total <= 0.0 {
            return (mesh, 0.0);
        }
        (mix_rgb(mesh, white_color, white / total), total)
    });
    net_signs(&mut layer, camera, look);
    for side in [-1.0, 1.0] {
        let at = |z: f32| camera.project(v3(side * NET_HALF, 0.0, z));
        if let (Some(low), Some(high)) = (at(0.0), at(cord.posts + 0.02)) {
            let r = camera.focal * look.net.post_radius / low.depth;
            stroke(
                &mut layer,
                Disc { x: low.x, y: low.y, r },
                Disc { x: high.x, y: high.y, r },
                look.net.post_color,
                1.0,
            );
        }
    }
    layer
}

/// Sponsor boards at the net's ends and a name woven into its middle.
fn net_signs(layer: &mut Layer, camera: &Camera, look: &Look) {
    let sign = |x: f32, z: f32, size: (f32, f32)| Rect3 {
        origin: v3(x - size.0 * 0.5, -0.01, z + size.1),
        u: v3(1.0, 0.0, 0.0),
        v: v3(0.0, 0.0, -1.0),
        size,
    };
    if let Some((name, back, front)) = &look.net.board {
        let text = Text::new(name);
        for side in [-1.0, 1.0] {
            let board = sign(side * (NET_HALF - 0.75), 0.22, (1.05, 0.55));
            board.paint(layer, camera, |_, _| (*back, 0.95));
            let height = (0.9 / text.aspect()).min(0.3);
            text.paint(
                layer,
                camera,
                &sign(side * (NET_HALF - 0.75), 0.5 - height * 0.5, (height * text.aspect(), height)),
                *front,
                0.95,
            );
        }
    }
    if let Some(name) = &look.net.name {
        let text = Text::new(name);
        text.paint(layer, camera, &sign(0.0, 0.16, (0.3 * text.aspect(), 0.3)), [0.75; 3], 0.45);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::look::{Lighting, LookSet};

    #[test]
    fn shade_ends_within_its_edge_and_leaves_lie_in_patches() {
        let mut look = Look::sample(LookSet::Broadcast, 1, 1);
        look.light.sun = v3(0.0, 0.0, 1.0);
        let shades = |look: &Look, spacing: f32| -> Vec<f32> {
            let painter = GroundPainter { look, lines: lines(look) };
            (-400..400).map(|i| painter.shade(i as f32 * spacing, 3.0, 0.01)).collect()
        };
        look.light.roof_shadow = Some([1.0, 0.0, 0.0]);
        let width = |edge: f32| {
            let look = Look { light: Lighting { roof_edge: edge, ..look.light.clone() }, ..look.clone() };
            let between = shades(&look, 0.01).iter().filter(|s| **s > 0.02 && **s < 0.98).count();
            between as f32 * 0.01
        };
        assert!(width(0.06) < 0.14 && width(0.5) > 0.6 && width(0.5) < 1.4, "{} {}", width(0.06), width(0.5));
        look.light.roof_shadow = None;
        look.light.leaf_shade = 0.9;
        // Over 80 m: many patches.
        let leaves = shades(&look, 0.1);
        let dark = leaves.iter().filter(|s| **s > 0.8).count();
        assert!((80..720).contains(&dark) && leaves.iter().all(|s| *s <= 0.9), "{dark} of 800");
    }

    #[test]
    fn a_beach_has_the_outer_lines_only() {
        let paint = |set: LookSet, x: f32, y: f32| {
            let look = Look::sample(set, 1, 1);
            lines(&look).iter().any(|[x0, x1, y0, y1]| (*x0..=*x1).contains(&x) && (*y0..=*y1).contains(&y))
        };
        for (x, y) in [(DOUBLES - 0.01, 3.0), (0.5, 0.01 - BASELINE)] {
            assert!(paint(LookSet::Club, x, y) && paint(LookSet::Beach, x, y), "{x} {y}");
        }
        for (x, y) in [(SINGLES - 0.01, 3.0), (0.0, 2.0), (1.0, SERVICE)] {
            assert!(paint(LookSet::Club, x, y) && !paint(LookSet::Beach, x, y), "{x} {y}");
        }
    }

    #[test]
    fn the_net_is_lowest_in_the_middle() {
        let height = |x| Cord::TENNIS.height(x);
        assert_eq!(height(0.0), 0.914);
        assert!((height(NET_HALF) - 1.07).abs() < 1e-6 && (height(-NET_HALF) - 1.07).abs() < 1e-6);
    }
}

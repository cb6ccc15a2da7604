//! Anti-aliased drawing in linear light: convex polygons, rectangles in space, shaded round limbs.

use crate::camera::{Camera, NEAR};
use crate::math::*;

/// Anything pixels can be blended onto.
pub(crate) trait Target {
    /// First and past-the-end column and row.
    fn bounds(&self) -> [i32; 4];
    /// Blends `color` with coverage `alpha` in `0..=1`; the pixel is inside the bounds.
    fn blend(&mut self, x: i32, y: i32, color: Rgb, alpha: f32);
}

/// An opaque picture, row by row.
#[derive(Debug, Clone)]
pub(crate) struct Canvas {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<Rgb>,
}

impl Canvas {
    pub(crate) fn new(width: usize, height: usize, color: Rgb) -> Self {
        Self { width, height, pixels: vec![color; width * height] }
    }

    /// Puts a layer over the picture, clipped to it.
    pub(crate) fn composite(&mut self, layer: &Layer) {
        let [x0, y0, x1, y1] = clip(layer.bounds(), self.bounds());
        for y in y0..y1 {
            let from = layer.index(x0, y);
            let to = y as usize * self.width + x0 as usize;
            let count = (x1 - x0).max(0) as usize;
            let (Some(source), Some(target)) =
                (layer.pixels.get(from..from + count), self.pixels.get_mut(to..to + count))
            else {
                continue;
            };
            for (out, over) in target.iter_mut().zip(source) {
                let keep = 1.0 - over[3];
                for (o, v) in out.iter_mut().zip(over) {
                    *o = *o * keep + v;
                }
            }
        }
    }
}

impl Target for Canvas {
    fn bounds(&self) -> [i32; 4] {
        [0, 0, self.width as i32, self.height as i32]
    }

    #[inline]
    fn blend(&mut self, x: i32, y: i32, color: Rgb, alpha: f32) {
        if let Some(p) = self.pixels.get_mut(y as usize * self.width + x as usize) {
            for (o, c) in p.iter_mut().zip(color) {
                *o += (c - *o) * alpha;
            }
        }
    }
}

/// A transparent picture that covers a part of the frame; colours are premultiplied by the fourth channel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layer {
    pub(crate) left: i32,
    pub(crate) top: i32,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) pixels: Vec<[f32; 4]>,
}

impl Layer {
    /// Covers `area` (first and past-the-end column and row); empty when the area is.
    pub(crate) fn new(area: [i32; 4]) -> Self {
        let width = (area[2] - area[0]).max(0) as usize;
        let height = (area[3] - area[1]).max(0) as usize;
        Self { left: area[0], top: area[1], width, height, pixels: vec![[0.0; 4]; width * height] }
    }

    fn index(&self, x: i32, y: i32) -> usize {
        (y - self.top) as usize * self.width + (x - self.left) as usize
    }

    /// The coverage at a pixel, 0 outside.
    pub(crate) fn alpha(&self, x: i32, y: i32) -> f32 {
        let [x0, y0, x1, y1] = self.bounds();
        if x < x0 || y < y0 || x >= x1 || y >= y1 {
            return 0.0;
        }
        self.pixels.get(self.index(x, y)).map_or(0.0, |p| p[3])
    }

    /// Adds `weight` times another layer that covers the same area: the average of sub-frames.
    pub(crate) fn accumulate(&mut self, other: &Self, weight: f32) {
        for (out, add) in self.pixels.iter_mut().zip(&other.pixels) {
            for (o, a) in out.iter_mut().zip(add) {
                *o += a * weight;
            }
        }
    }
}

impl Target for Layer {
    fn bounds(&self) -> [i32; 4] {
        [self.left, self.top, self.left + self.width as i32, self.top + self.height as i32]
    }

    #[inline]
    fn blend(&mut self, x: i32, y: i32, color: Rgb, alpha: f32) {
        let index = self.index(x, y);
        if let Some(p) = self.pixels.get_mut(index) {
            let keep = 1.0 - alpha;
            for (o, c) in p.iter_mut().zip([color[0], color[1], color[2], 1.0]) {
                *o = *o * keep + c * alpha;
            }
        }
    }
}

/// The common part of two areas.
pub(crate) fn clip(a: [i32; 4], b: [i32; 4]) -> [i32; 4] {
    [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]
}

/// The smallest area of whole pixels around points, grown by `margin`.
pub(crate) fn area_around(points: impl IntoIterator<Item = (f32, f32)>, margin: f32) -> [i32; 4] {
    let mut area = [f32::MAX, f32::MAX, f32::MIN, f32::MIN];
    for (x, y) in points {
        area = [area[0].min(x), area[1].min(y), area[2].max(x), area[3].max(y)];
    }
    if area[0] > area[2] {
        return [0; 4];
    }
    // Saturating casts keep far-away points harmless.
    let limit = |v: f32| v.clamp(-1e6, 1e6) as i32;
    [
        limit((area[0] - margin).floor()),
        limit((area[1] - margin).floor()),
        limit((area[2] + margin).ceil() + 1.0),
        limit((area[3] + margin).ceil() + 1.0),
    ]
}

/// Fills a convex polygon; `shade` gives colour and opacity at a pixel.
///
/// Coverage is 1 minus what each edge cuts off, which is exact along a strip thinner than a pixel.
pub(crate) fn fill_convex<T: Target>(
    target: &mut T,
    points: &[(f32, f32)],
    mut shade: impl FnMut(f32, f32) -> (Rgb, f32),
) {
    let area: f32 = edges(points).map(|(a, b)| a.0 * b.1 - b.0 * a.1).sum();
    if area.abs() < 1e-6 {
        return;
    }
    let lines: Vec<[f32; 3]> = edges(points)
        .filter_map(|(a, b)| {
            let (dx, dy) = (b.0 - a.0, b.1 - a.1);
            let length = (dx * dx + dy * dy).sqrt();
            (length > 1e-5).then(|| {
                let s = area.signum() / length;
                [-dy * s, dx * s, (dy * a.0 - dx * a.1) * s]
            })
        })
        .collect();
    let [x0, y0, x1, y1] = clip(area_around(points.iter().copied(), 1.0), target.bounds());
    for y in y0..y1 {
        for x in x0..x1 {
            let (fx, fy) = (x as f32, y as f32);
            let mut coverage = 1.0;
            for [a, b, c] in &lines {
                coverage -= 1.0 - (a * fx + b * fy + c + 0.5).clamp(0.0, 1.0);
            }
            if coverage > 0.003 {
                let (color, alpha) = shade(fx, fy);
                if alpha > 0.003 {
                    target.blend(x, y, color, coverage * alpha);
                }
            }
        }
    }
}

fn edges(points: &[(f32, f32)]) -> impl Iterator<Item = ((f32, f32), (f32, f32))> + '_ {
    points.iter().copied().zip(points.iter().copied().cycle().skip(1))
}

/// A rectangle in space: `origin + u·[0, size.0] + v·[0, size.1]`, metres.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rect3 {
    pub(crate) origin: V3,
    pub(crate) u: V3,
    pub(crate) v: V3,
    pub(crate) size: (f32, f32),
}

impl Rect3 {
    pub(crate) fn corners(&self) -> [V3; 4] {
        let (u, v) = (self.u * self.size.0, self.v * self.size.1);
        [self.origin, self.origin + u, self.origin + u + v, self.origin + v]
    }

    /// Paints the visible part; `shade` gets (u, v) in metres and the metres that a pixel spans along u and v.
    pub(crate) fn paint<T: Target>(
        &self,
        target: &mut T,
        camera: &Camera,
        mut shade: impl FnMut((f32, f32), (f32, f32)) -> (Rgb, f32),
    ) {
        let visible: Vec<(f32, f32)> = clip_near(&self.corners(), camera)
            .into_iter()
            .filter_map(|p| camera.project(p).map(|p| (p.x, p.y)))
            .collect();
        if visible.len() < 3 {
            return;
        }
        let normal = self.u.cross(self.v);
        let distance = (self.origin - camera.position).dot(normal);
        let at = |x: f32, y: f32| {
            let ray = camera.ray(x, y);
            let facing = ray.dot(normal);
            let t = distance / if facing.abs() < 1e-6 { 1e-6 } else { facing };
            let p = camera.position + ray * t - self.origin;
            (p.dot(self.u), p.dot(self.v))
        };
        fill_convex(target, &visible, |x, y| {
            let (here, right, below) = (at(x, y), at(x + 1.0, y), at(x, y + 1.0));
            let du = (right.0 - here.0).abs() + (below.0 - here.0).abs();
            let dv = (right.1 - here.1).abs() + (below.1 - here.1).abs();
            shade(here, (du, dv))
        });
    }
}

/// Sutherland–Hodgman against the camera's near plane.
fn clip_near(points: &[V3], camera: &Camera) -> Vec<V3> {
    let depth = |p: V3| (p - camera.position).dot(camera.forward) - NEAR * 1.5;
    let mut out = Vec::with_capacity(points.len() + 1);
    for (a, b) in points.iter().copied().zip(points.iter().copied().cycle().skip(1)) {
        let (da, db) = (depth(a), depth(b));
        if da > 0.0 {
            out.push(a);
        }
        if (da > 0.0) != (db > 0.0) {
            out.push(a.lerp(b, da / (da - db)));
        }
    }
    out
}

/// The part of `[t − w/2, t + w/2]` inside `[low, high]`: box-filtered coverage of a stripe.
pub(crate) fn stripe(t: f32, w: f32, low: f32, high: f32) -> f32 {
    let w = w.max(1e-6);
    (((t + w * 0.5).min(high) - (t - w * 0.5).max(low)) / w).clamp(0.0, 1.0)
}

/// The light on a rounded thing, in view axes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Light {
    /// Towards the sun: right, down, towards the viewer.
    pub(crate) direction: V3,
    /// Upwards.
    pub(crate) up: V3,
    pub(crate) sun: Rgb,
    pub(crate) sky: Rgb,
    pub(crate) ground: Rgb,
}

impl Light {
    /// What a surface of the given normal sends back: Lambert's sun, and a hemisphere between ground and sky.
    pub(crate) fn on(&self, normal: V3) -> Rgb {
        let lambert = normal.dot(self.direction).max(0.0);
        let above = 0.5 + 0.5 * normal.dot(self.up);
        let mut out = [0.0; 3];
        for (i, o) in out.iter_mut().enumerate() {
            *o = self.sun[i] * lambert + mix(self.ground[i], self.sky[i], above);
        }
        out
    }

    /// The same light without its sun.
    pub(crate) fn shaded(&self, keep: f32) -> Self {
        Self { sun: scale_rgb(self.sun, keep), ..*self }
    }
}

/// A disc in the picture: centre and radius, pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Disc {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) r: f32,
}

/// A round limb from `a` to `b`, shaded as a cone with round ends.
pub(crate) fn limb<T: Target>(target: &mut T, a: Disc, b: Disc, color: Rgb, light: &Light) {
    sweep(target, a, b, 1.0, |n| {
        let lit = light.on(n);
        [color[0] * lit[0], color[1] * lit[1], color[2] * lit[2]]
    });
}

/// A limb in loose cloth: flatter than a cone, with folds.
pub(crate) fn cloth<T: Target>(target: &mut T, a: Disc, b: Disc, color: Rgb, light: &Light) {
    let size = 1.0 / a.r.max(1.0);
    sweep(target, a, b, 1.0, |n| {
        let n = v3(n.x * 0.62, n.y * 0.62, n.z + 0.35).unit();
        let fold = 1.0 + 0.09 * noise(n.x * 7.0 + a.r, n.y * 3.5 + size, 17);
        let lit = light.on(n);
        [color[0] * lit[0] * fold, color[1] * lit[1] * fold, color[2] * lit[2] * fold]
    });
}

/// A flat line of round ends.
pub(crate) fn stroke<T: Target>(target: &mut T, a: Disc, b: Disc, color: Rgb, alpha: f32) {
    sweep(target, a, b, alpha, |_| color);
}

fn sweep<T: Target>(target: &mut T, a: Disc, b: Disc, alpha: f32, mut shade: impl FnMut(V3) -> Rgb) {
    let reach = a.r.max(b.r) + 1.0;
    let [x0, y0, x1, y1] = clip(area_around([(a.x, a.y), (b.x, b.y)], reach), target.bounds());
    let (dx, dy) = (b.x - a.x, b.y - a.y);
    let inverse = 1.0 / (dx * dx + dy * dy).max(1e-6);
    for y in y0..y1 {
        for x in x0..x1 {
            let (px, py) = (x as f32 - a.x, y as f32 - a.y);
            let t = ((px * dx + py * dy) * inverse).clamp(0.0, 1.0);
            let r = mix(a.r, b.r, t);
            let (ox, oy) = (px - t * dx, py - t * dy);
            let squared = ox * ox + oy * oy;
            if squared > (r + 0.5) * (r + 0.5) {
                continue;
            }
            // A limb thinner than a pixel covers its width of it.
            let coverage = (r + 0.5 - squared.sqrt()).clamp(0.0, 1.0) * (2.0 * r).min(1.0);
            if coverage > 0.003 {
                let (nx, ny) = (ox / r.max(0.3), oy / r.max(0.3));
                let nz = (1.0 - nx * nx - ny * ny).max(0.0).sqrt();
                target.blend(x, y, shade(v3(nx, ny, nz)), coverage * alpha);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mass(canvas: &Canvas) -> f32 {
        canvas.pixels.iter().map(|p| p[0]).sum()
    }

    #[test]
    fn a_strip_thinner_than_a_pixel_covers_its_area() {
        for offset in [0.0, 0.3, 0.77] {
            let mut canvas = Canvas::new(32, 32, [0.0; 3]);
            let (left, right) = (10.0 + offset, 10.25 + offset);
            let strip = [(left, 4.5), (right, 4.5), (right, 24.5), (left, 24.5)];
            fill_convex(&mut canvas, &strip, |_, _| ([1.0; 3], 1.0));
            // Pixels below 0.3 % coverage are dropped: 20 rows of them.
            assert!((mass(&canvas) - 5.0).abs() < 0.06, "{}", mass(&canvas));
        }
    }

    #[test]
    fn layers_composite_like_direct_drawing() {
        let draw = |target: &mut dyn FnMut(i32, i32, Rgb, f32)| {
            target(2, 2, [0.8, 0.1, 0.2], 0.5);
            target(2, 2, [0.1, 0.9, 0.2], 0.25);
        };
        let mut direct = Canvas::new(4, 4, [0.3; 3]);
        draw(&mut |x, y, c, a| direct.blend(x, y, c, a));
        let mut layer = Layer::new([1, 1, 4, 4]);
        draw(&mut |x, y, c, a| layer.blend(x, y, c, a));
        let mut composed = Canvas::new(4, 4, [0.3; 3]);
        composed.composite(&layer);
        for (a, b) in direct.pixels.iter().flatten().zip(composed.pixels.iter().flatten()) {
            // Two f32 roundings.
            assert!((a - b).abs() < 1e-6);
        }
    }

    #[test]
    fn a_rectangle_behind_the_camera_paints_nothing() {
        let camera = Camera::new(v3(0.0, -30.0, 10.0), [0.0, 0.3, 0.0], 100.0, [16.0, 16.0]);
        let rect = Rect3 { origin: v3(0.0, -60.0, 0.0), u: v3(1.0, 0.0, 0.0), v: v3(0.0, 1.0, 0.0), size: (5.0, 5.0) };
        let mut canvas = Canvas::new(32, 32, [0.0; 3]);
        rect.paint(&mut canvas, &camera, |_, _| ([1.0; 3], 1.0));
        assert_eq!(mass(&canvas), 0.0);
    }
}

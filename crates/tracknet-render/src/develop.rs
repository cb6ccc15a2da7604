//! From linear light to a video signal as a broadcast chain would: resampling, transfer curve, sharpening, 4:2:0, noise,
//! fields.

use crate::draw::{Draw, Stream};
use crate::look::Look;
use crate::math::*;
use crate::raster::Canvas;

/// How the frame looks at the plate: `plate = (frame − center − shift) / zoom + plate_center`, pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) shift: [f32; 2],
    pub(crate) zoom: f32,
}

impl Window {
    /// Plate coordinate of a frame coordinate along one axis.
    fn source(&self, axis: usize, frame: f32, frame_size: usize, plate_size: usize) -> f32 {
        let shift = if axis == 0 { self.shift[0] } else { self.shift[1] };
        (frame - (frame_size as f32 - 1.0) * 0.5 - shift) / self.zoom + (plate_size as f32 - 1.0) * 0.5
    }
}

/// Catmull–Rom weights for a fraction between the second and third of four samples (Keys: "Cubic convolution
/// interpolation for digital image processing", 1981, a = −½).
fn cubic(t: f32) -> [f32; 4] {
    let (t2, t3) = (t * t, t * t * t);
    [-0.5 * t + t2 - 0.5 * t3, 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, 0.5 * (t3 - t2)]
}

/// Resamples `source` (`width` columns) to the frame area `[x0, y0, x1, y1]`; separable, edges repeated.
pub(crate) fn resample<const N: usize>(
    source: &[[f32; N]],
    [width, height]: [usize; 2],
    columns: &[f32],
    rows: &[f32],
) -> Vec<[f32; N]> {
    let mut out = Vec::with_capacity(columns.len() * rows.len());
    if width == 0 || height == 0 {
        return vec![[0.0; N]; columns.len() * rows.len()];
    }
    let taps: Vec<(usize, [f32; 4])> = columns
        .iter()
        .map(|&x| {
            // The line below carries two extra samples on the left and three on the right.
            let base = x.floor().clamp(-1.0, width as f32);
            ((base + 1.0) as usize, cubic((x - base).clamp(0.0, 1.0)))
        })
        .collect();
    let mut line = vec![[0.0_f32; N]; width + 5];
    for &y in rows {
        let base = y.floor();
        let weights = cubic(y - base);
        line.fill([0.0; N]);
        for (k, weight) in weights.into_iter().enumerate() {
            let row = (base + k as f32 - 1.0).clamp(0.0, height as f32 - 1.0) as usize;
            if let (Some(from), Some(to)) = (source.get(row * width..(row + 1) * width), line.get_mut(2..2 + width)) {
                for (o, v) in to.as_flattened_mut().iter_mut().zip(from.as_flattened()) {
                    *o += weight * v;
                }
            }
        }
        if let (Some(&first), Some(&last)) = (line.get(2), line.get(1 + width)) {
            line[..2].fill(first);
            line[2 + width..].fill(last);
        }
        for &(at, w) in &taps {
            let mut pixel = [0.0; N];
            if let Some([a, b, c, d]) = line.get(at..at + 4) {
                for (i, p) in pixel.iter_mut().enumerate() {
                    *p = a[i] * w[0] + b[i] * w[1] + c[i] * w[2] + d[i] * w[3];
                }
            }
            out.push(pixel);
        }
    }
    out
}

/// Plate columns and rows of a frame area.
pub(crate) fn sources(window: &Window, area: [i32; 4], frame: [usize; 2], plate: [usize; 2]) -> (Vec<f32>, Vec<f32>) {
    let columns = (area[0]..area[2]).map(|x| window.source(0, x as f32, frame[0], plate[0])).collect();
    let rows = (area[1]..area[3]).map(|y| window.source(1, y as f32, frame[1], plate[1])).collect();
    (columns, rows)
}

/// Everything about the camera's electronics that a clip needs once.
pub(crate) struct Developer {
    curve: Vec<f32>,
    grain: Vec<f32>,
    gains: Vec<f32>,
    tint: Rgb,
    exposure: f32,
    saturation: f32,
    sharpen: f32,
    noise: f32,
    soft: f32,
    chroma_blur: usize,
}

const GRAIN: usize = 512;
const CURVE: usize = 8192;

impl Developer {
    pub(crate) fn new(look: &Look, size: [usize; 2], rng: &mut Stream) -> Self {
        // Values of 0.85 and above roll off gently to white, as a camera's knee does.
        let knee = |v: f32| if v < 0.8 { v } else { 0.8 + 0.2 * (1.0 - 1.0 / (1.0 + (v - 0.8) / 0.2)) };
        let curve = (0..=CURVE).map(|i| linear_to_srgb(knee(i as f32 * 1.6 / CURVE as f32)) * 255.0).collect();
        let white: Vec<f32> = (0..GRAIN * GRAIN).map(|_| rng.bell()).collect();
        // Neighbours share a part of their noise after a codec.
        let grain = (0..GRAIN * GRAIN)
            .map(|i| {
                let at = |j: usize| white.get(j % (GRAIN * GRAIN)).copied().unwrap_or(0.0);
                0.8 * at(i) + 0.45 * at(i + 1) + 0.4 * at(i + GRAIN)
            })
            .collect();
        let [width, height] = size.map(|s| s as f32);
        let mut gains = Vec::with_capacity(size[0] * size[1]);
        for y in 0..size[1] {
            for x in 0..size[0] {
                let (dx, dy) = (x as f32 / width - 0.5, y as f32 / height - 0.5);
                gains.push(look.recording.exposure * (1.0 - look.recording.vignette * 2.0 * (dx * dx + dy * dy)));
            }
        }
        Self {
            curve,
            grain,
            gains,
            tint: look.recording.tint,
            exposure: look.recording.exposure,
            saturation: look.recording.saturation,
            sharpen: look.recording.sharpen,
            noise: look.recording.noise,
            soft: look.recording.soft,
            chroma_blur: look.recording.chroma_blur,
        }
    }

    /// The 8-bit level of a linear value at the middle of the frame.
    pub(crate) fn level(&self, value: f32) -> f32 {
        self.tone(value * self.exposure)
    }

    #[inline]
    fn tone(&self, value: f32) -> f32 {
        let index = (value.clamp(0.0, 1.6) * (CURVE as f32 / 1.6)) as usize;
        self.curve.get(index).copied().unwrap_or(255.0)
    }

    /// The signal of a frame; `rng` places the grain.
    pub(crate) fn develop(&self, canvas: &Canvas, rng: &mut Stream) -> Signal {
        let (width, height) = (canvas.width, canvas.height);
        let mut luma = Vec::with_capacity(width * height);
        let mut chroma = Vec::with_capacity(width * height);
        for (pixel, gain) in canvas.pixels.iter().zip(&self.gains) {
            let tone = |v: f32, tint: f32| self.tone(v * gain * tint);
            let [r, g, b] = [tone(pixel[0], self.tint[0]), tone(pixel[1], self.tint[1]), tone(pixel[2], self.tint[2])];
            // BT.601, full range, as in JFIF.
            let y = 0.299 * r + 0.587 * g + 0.114 * b;
            luma.push(y);
            chroma.push([(b - y) * 0.564, (r - y) * 0.713]);
        }
        if self.soft > 0.0 {
            blur(&mut luma, width, 0.25 * self.soft);
        }
        let mut luma = sharpened(&luma, width, height, self.sharpen);
        let mut chroma = halved(&chroma, width, height);
        for plane in &mut chroma {
            plane.iter_mut().for_each(|v| *v *= self.saturation);
            (0..self.chroma_blur).for_each(|_| blur(plane, width.div_ceil(2), 0.25));
        }
        let (gx, gy) = (rng.index(GRAIN), rng.index(GRAIN));
        for (y, row) in luma.chunks_mut(width).enumerate() {
            let grain_row = ((y + gy) % GRAIN) * GRAIN;
            for (x, value) in row.iter_mut().enumerate() {
                *value += self.grain.get(grain_row + (x + gx) % GRAIN).copied().unwrap_or(0.0) * self.noise;
            }
        }
        Signal { width, height, luma, chroma }
    }
}

/// A frame as video carries it: luma, and the two colour differences at half the size (4:2:0); levels of 255, row by row.
#[derive(Debug, Clone)]
pub(crate) struct Signal {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) luma: Vec<f32>,
    /// Cb and Cr.
    pub(crate) chroma: [Vec<f32>; 2],
}

impl Signal {
    /// 8-bit RGB, as in JFIF.
    pub(crate) fn rgb(&self) -> Vec<u8> {
        let half = self.width.div_ceil(2);
        let [blue, red] = &self.chroma;
        let mut out = Vec::with_capacity(self.width * self.height * 3);
        for (y, row) in self.luma.chunks(self.width).enumerate() {
            let start = (y / 2) * half;
            let (blue, red) = (blue.get(start..).unwrap_or_default(), red.get(start..).unwrap_or_default());
            for (x, &v) in row.iter().enumerate() {
                let (cb, cr) = (blue.get(x / 2).copied().unwrap_or(0.0), red.get(x / 2).copied().unwrap_or(0.0));
                let byte = |v: f32| (v + 0.5).clamp(0.0, 255.0) as u8;
                out.extend([byte(v + 1.402 * cr), byte(v - 0.344 * cb - 0.714 * cr), byte(v + 1.772 * cb)]);
            }
        }
        out
    }

    /// The frame of two fields: every second row comes from `later`.
    pub(crate) fn weave(&mut self, later: &Self) {
        let half = self.width.div_ceil(2);
        let odd_rows = |to: &mut [f32], from: &[f32], width: usize| {
            for (to, from) in to.chunks_mut(width).zip(from.chunks(width)).skip(1).step_by(2) {
                to.copy_from_slice(from);
            }
        };
        odd_rows(&mut self.luma, &later.luma, self.width);
        self.chroma.iter_mut().zip(&later.chroma).for_each(|(to, from)| odd_rows(to, from, half));
    }

    /// Replaces every second row of the luma by the mean of its neighbours: one field, stretched to a frame.
    pub(crate) fn bob(&mut self) {
        let width = self.width;
        for y in (1..self.height).step_by(2) {
            let (above, rest) = self.luma.split_at_mut(y * width);
            let (row, below) = rest.split_at_mut(width.min(rest.len()));
            let above = above.get((y - 1) * width..).unwrap_or_default();
            let below = if below.is_empty() { above } else { &*below };
            row.iter_mut().zip(above).zip(below).for_each(|((v, a), b)| *v = (a + b) * 0.5);
        }
    }

    /// The mean of two moments, as a deinterlacer that blends the fields leaves it.
    pub(crate) fn blend(&mut self, later: &Self) {
        let mean = |to: &mut Vec<f32>, from: &[f32]| to.iter_mut().zip(from).for_each(|(a, b)| *a = (*a + b) * 0.5);
        mean(&mut self.luma, &later.luma);
        self.chroma.iter_mut().zip(&later.chroma).for_each(|(to, from)| mean(to, from));
    }
}

/// A blur of three samples along rows and columns, in place; `weight` is that of the outer ones, 0.25 is 1-2-1.
fn blur(plane: &mut [f32], width: usize, weight: f32) {
    let own = 1.0 - 2.0 * weight;
    for row in plane.chunks_mut(width) {
        let mut left = row.first().copied().unwrap_or(0.0);
        for x in 0..row.len() {
            let right = row.get(x + 1).or(row.get(x)).copied().unwrap_or(0.0);
            if let Some(v) = row.get_mut(x) {
                (*v, left) = ((left + right) * weight + *v * own, *v);
            }
        }
    }
    let mut above: Vec<f32> = plane.get(..width).unwrap_or_default().to_vec();
    for start in (0..plane.len()).step_by(width) {
        let (head, tail) = plane.split_at_mut((start + width).min(plane.len()));
        let row = head.get_mut(start..).unwrap_or_default();
        let before: Vec<f32> = row.to_vec();
        let below = if tail.is_empty() { before.as_slice() } else { &*tail };
        for ((v, a), b) in row.iter_mut().zip(&above).zip(below) {
            *v = (a + b) * weight + *v * own;
        }
        above = before;
    }
}

/// Unsharp mask with a 1-4-6-4-1 blur: `v + amount·(v − blur)`.
fn sharpened(luma: &[f32], width: usize, height: usize, amount: f32) -> Vec<f32> {
    let mut across = Vec::with_capacity(luma.len());
    for row in luma.chunks(width) {
        let at = |x: usize| row.get(x.min(width - 1)).copied().unwrap_or(0.0);
        for x in 0..width {
            let sum = at(x.saturating_sub(2)) + at(x + 2) + 4.0 * (at(x.saturating_sub(1)) + at(x + 1)) + 6.0 * at(x);
            across.push(sum / 16.0);
        }
    }
    let row = |y: usize| across.get(y * width..(y + 1) * width).unwrap_or_default();
    let last = height.saturating_sub(1);
    let mut out = Vec::with_capacity(luma.len());
    for (y, values) in luma.chunks(width).enumerate() {
        let rows = [
            row(y.saturating_sub(2)),
            row(y.saturating_sub(1)),
            row(y),
            row((y + 1).min(last)),
            row((y + 2).min(last)),
        ];
        let [a, b, c, d, e] = rows;
        for (((((v, a), b), c), d), e) in values.iter().zip(a).zip(b).zip(c).zip(d).zip(e) {
            let blur = (a + e + 4.0 * (b + d) + 6.0 * c) / 16.0;
            out.push(v + amount * (v - blur));
        }
    }
    out
}

/// Means of 2×2 blocks: 4:2:0.
fn halved(chroma: &[[f32; 2]], width: usize, height: usize) -> [Vec<f32>; 2] {
    let capacity = width.div_ceil(2) * height.div_ceil(2);
    let mut out = [Vec::with_capacity(capacity), Vec::with_capacity(capacity)];
    for y in (0..height).step_by(2) {
        let top = chroma.get(y * width..(y + 1) * width).unwrap_or_default();
        let below = chroma.get((y + 1) * width..(y + 2) * width).unwrap_or(top);
        for (a, b) in top.chunks(2).zip(below.chunks(2)) {
            let mut sum = [0.0; 2];
            for p in a.iter().chain(b) {
                sum = [sum[0] + p[0], sum[1] + p[1]];
            }
            let count = (a.len() + b.len()) as f32;
            out.iter_mut().zip(sum).for_each(|(plane, sum)| plane.push(sum / count));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unmoved_window_copies_the_plate() {
        let plate: Vec<[f32; 1]> = (0..30).map(|i| [(i * i % 7) as f32]).collect();
        let window = Window { shift: [0.0; 2], zoom: 1.0 };
        let (columns, rows) = sources(&window, [0, 0, 6, 5], [6, 5], [6, 5]);
        assert_eq!(resample(&plate, [6, 5], &columns, &rows), plate);
    }

    #[test]
    fn a_shifted_window_moves_the_picture_by_the_shift() {
        let mut plate = vec![[0.0]; 20 * 20];
        plate[10 * 20 + 10] = [1.0];
        let window = Window { shift: [3.0, -2.0], zoom: 1.0 };
        let (columns, rows) = sources(&window, [0, 0, 20, 20], [20, 20], [20, 20]);
        let moved = resample(&plate, [20, 20], &columns, &rows);
        assert_eq!(moved[8 * 20 + 13], [1.0]);
    }

    fn flat(level: f32) -> Signal {
        let chroma = [vec![level; 4 * 3], vec![-level; 4 * 3]];
        Signal { width: 7, height: 5, luma: vec![level; 7 * 5], chroma }
    }

    #[test]
    fn fields_are_woven_blended_and_stretched() {
        let (mut woven, mut blended, later) = (flat(10.0), flat(10.0), flat(30.0));
        woven.weave(&later);
        let rows: Vec<f32> = woven.luma.chunks(7).map(|row| row[3]).collect();
        assert_eq!(rows, [10.0, 30.0, 10.0, 30.0, 10.0]);
        blended.blend(&later);
        assert!(blended.luma.iter().all(|v| *v == 20.0) && blended.chroma[1].iter().all(|v| *v == -20.0));
        woven.bob();
        assert!(woven.luma.iter().all(|v| *v == 10.0), "{:?}", woven.luma);
    }

    #[test]
    fn a_blur_spreads_a_spot_and_keeps_its_sum() {
        let mut plane = vec![0.0; 9 * 7];
        plane[3 * 9 + 4] = 16.0;
        blur(&mut plane, 9, 0.25);
        assert_eq!((plane[3 * 9 + 4], plane[3 * 9 + 3], plane[2 * 9 + 4], plane[2 * 9 + 3]), (4.0, 2.0, 2.0, 1.0));
        assert_eq!(plane.iter().sum::<f32>(), 16.0);
    }

    #[test]
    fn cubic_weights_sum_to_one() {
        for t in [0.0, 0.2, 0.5, 0.99] {
            // Four f32 roundings.
            assert!((cubic(t).iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}

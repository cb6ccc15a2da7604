//! What a video codec leaves of a picture: blocks that are predicted from the frame before, transformed and quantized.
//!
//! The parts of H.264 that can be seen: 8×8 transform, a quantizer that grows with the frequency, a dead zone, blocks that
//! repeat the frame before when little has changed (most of a broadcast), key frames at intervals, and a filter across the
//! borders of blocks. Not the entropy coding, which loses nothing.

use crate::develop::Signal;
use crate::look::CodecLook;
use crate::math::*;

const SIDE: usize = 8;
type Block = [[f32; SIDE]; SIDE];

/// Codes the frames of a group one after the other; the first is the key frame.
pub(crate) struct Coder {
    look: CodecLook,
    /// Orthonormal DCT-II, a row for each frequency; and its transpose.
    forward: Block,
    inverse: Block,
    before: Option<Signal>,
}

/// A plane of samples, row by row.
struct Plane<'a> {
    values: &'a mut [f32],
    width: usize,
    height: usize,
}

/// How the blocks of a plane are coded.
struct Quantizer {
    step: f32,
    /// Share of the step that is rounded up, in key frames and in others (H.264: a third, a sixth).
    rounding: [f32; 2],
    deblock: bool,
}

impl Coder {
    pub(crate) fn new(look: CodecLook) -> Self {
        let mut forward = [[0.0; SIDE]; SIDE];
        for (u, row) in forward.iter_mut().enumerate() {
            let norm = if u == 0 { (1.0_f32 / SIDE as f32).sqrt() } else { (2.0_f32 / SIDE as f32).sqrt() };
            for (x, value) in row.iter_mut().enumerate() {
                *value = norm * cos(PI * (2 * x + 1) as f32 * u as f32 / (2 * SIDE) as f32);
            }
        }
        Self { look, forward, inverse: transposed(&forward), before: None }
    }

    /// Replaces a frame by what a decoder would show. `motion` is how far the picture moved since the frame before, whole
    /// pixels.
    pub(crate) fn code(&mut self, signal: &mut Signal, motion: [i32; 2]) {
        let before = self.before.take();
        let (width, height) = (signal.width, signal.height);
        let luma = Quantizer { step: self.look.step, rounding: [0.33, 0.17], deblock: self.look.deblock };
        let plane = Plane { values: &mut signal.luma, width, height };
        self.plane(plane, before.as_ref().map(|b| b.luma.as_slice()), motion, &luma);
        let chroma = Quantizer { step: self.look.step * self.look.chroma, deblock: false, ..luma };
        let (half, low) = (width.div_ceil(2), height.div_ceil(2));
        for (channel, values) in signal.chroma.iter_mut().enumerate() {
            let old = before.as_ref().and_then(|b| b.chroma.get(channel)).map(Vec::as_slice);
            self.plane(Plane { values, width: half, height: low }, old, motion.map(|m| m / 2), &chroma);
        }
        self.before = Some(signal.clone());
    }

    fn plane(&self, plane: Plane<'_>, before: Option<&[f32]>, motion: [i32; 2], quantizer: &Quantizer) {
        let columns = plane.width.div_ceil(SIDE);
        let mut coded = vec![false; columns * plane.height.div_ceil(SIDE)];
        for (index, coded) in coded.iter_mut().enumerate() {
            let at = [(index % columns * SIDE) as i32, (index / columns * SIDE) as i32];
            let block = load(plane.values, plane.width, plane.height, at);
            let mut guess = before.map(|b| load(b, plane.width, plane.height, at));
            if let (Some(still), Some(before), true) = (guess, before, motion != [0, 0]) {
                let moved = load(before, plane.width, plane.height, [at[0] - motion[0], at[1] - motion[1]]);
                if energy(&minus(&block, &moved)) < energy(&minus(&block, &still)) {
                    guess = Some(moved);
                }
            }
            let (decoded, changed) = self.block(&block, guess.as_ref(), quantizer);
            *coded = changed;
            store(plane.values, plane.width, plane.height, at, &decoded);
        }
        if quantizer.deblock {
            deblock(plane, &coded, columns, quantizer.step);
        }
    }

    /// The decoded block, and whether it is more than its prediction.
    fn block(&self, block: &Block, guess: Option<&Block>, quantizer: &Quantizer) -> (Block, bool) {
        let (step, [key, other]) = (quantizer.step, quantizer.rounding);
        let is_key = guess.is_none();
        let guess = guess.copied().unwrap_or_default();
        let rest = minus(block, &guess);
        // An encoder drops what costs more bits than it is worth: noise, mostly.
        if !is_key && energy(&rest) < 2.5 * step * step {
            return (guess, false);
        }
        let mut levels = product(&product(&self.forward, &rest), &self.inverse);
        let rounding = if is_key { key } else { other };
        let mut kept = false;
        for (u, row) in levels.iter_mut().enumerate() {
            for (v, value) in row.iter_mut().enumerate() {
                let step = step * (1.0 + 0.12 * (u + v) as f32);
                let level = (value.abs() / step + rounding).floor();
                kept |= level > 0.0;
                *value = level * step * value.signum();
            }
        }
        if !kept {
            return (guess, is_key);
        }
        let mut decoded = product(&product(&self.inverse, &levels), &self.forward);
        for (out, guess) in decoded.as_flattened_mut().iter_mut().zip(guess.as_flattened()) {
            *out += guess;
        }
        (decoded, true)
    }
}

/// The block at a place; samples outside repeat the nearest.
fn load(values: &[f32], width: usize, height: usize, [left, top]: [i32; 2]) -> Block {
    let mut block = [[0.0; SIDE]; SIDE];
    let inside = left >= 0 && left as usize + SIDE <= width;
    for (y, row) in block.iter_mut().enumerate() {
        let line = (top + y as i32).clamp(0, height as i32 - 1) as usize * width;
        if inside && let Some(from) = values.get(line + left as usize..line + left as usize + SIDE) {
            row.copy_from_slice(from);
            continue;
        }
        for (x, value) in row.iter_mut().enumerate() {
            let column = (left + x as i32).clamp(0, width as i32 - 1) as usize;
            *value = values.get(line + column).copied().unwrap_or(0.0);
        }
    }
    block
}

fn store(values: &mut [f32], width: usize, height: usize, [left, top]: [i32; 2], block: &Block) {
    let (left, top) = (left as usize, top as usize);
    for (y, row) in (top..height.min(top + SIDE)).zip(block) {
        if let Some(to) = values.get_mut(y * width + left..y * width + width.min(left + SIDE)) {
            to.iter_mut().zip(row).for_each(|(to, v)| *to = *v);
        }
    }
}

fn minus(a: &Block, b: &Block) -> Block {
    let mut out = *a;
    out.as_flattened_mut().iter_mut().zip(b.as_flattened()).for_each(|(o, b)| *o -= b);
    out
}

fn energy(block: &Block) -> f32 {
    block.iter().map(|row| row.iter().map(|v| v * v).sum::<f32>()).sum()
}

/// Matrix product.
fn product(a: &Block, b: &Block) -> Block {
    let mut out = [[0.0; SIDE]; SIDE];
    for (out, a) in out.iter_mut().zip(a) {
        for (a, b) in a.iter().zip(b) {
            for (o, b) in out.iter_mut().zip(b) {
                *o += a * b;
            }
        }
    }
    out
}

fn transposed(a: &Block) -> Block {
    let mut out = [[0.0; SIDE]; SIDE];
    for (i, row) in a.iter().enumerate() {
        for (out, v) in out.iter_mut().zip(row) {
            if let Some(o) = out.get_mut(i) {
                *o = *v;
            }
        }
    }
    out
}

/// Smooths the borders between blocks of which one was coded, where the step is small enough to be the quantizer's.
fn deblock(plane: Plane<'_>, coded: &[bool], columns: usize, step: f32) {
    let Plane { values, width, height } = plane;
    let is_coded = |x: usize, y: usize| coded.get(y / SIDE * columns + x / SIDE).copied().unwrap_or(false);
    for y in 0..height {
        for x in (SIDE..width.saturating_sub(1)).step_by(SIDE) {
            if is_coded(x, y) || is_coded(x - 1, y) {
                smooth(values, y * width + x, 1, step);
            }
        }
    }
    for y in (SIDE..height.saturating_sub(1)).step_by(SIDE) {
        for x in 0..width {
            if is_coded(x, y) || is_coded(x, y - 1) {
                smooth(values, y * width + x, width, step);
            }
        }
    }
}

/// H.264's filter of two samples on each side of a border: `at` is the first sample behind it, `stride` the way across.
fn smooth(values: &mut [f32], at: usize, stride: usize, step: f32) {
    let get = |i: usize| values.get(i).copied().unwrap_or(0.0);
    let [p1, p0, q0, q1] = [get(at - 2 * stride), get(at - stride), get(at), get(at + stride)];
    if (p0 - q0).abs() < step && (p1 - p0).abs() < 0.5 * step && (q1 - q0).abs() < 0.5 * step {
        let change = (((q0 - p0) * 4.0 + (p1 - q1)) / 8.0).clamp(-0.5 * step, 0.5 * step);
        if let Some(p) = values.get_mut(at - stride) {
            *p += change;
        }
        if let Some(q) = values.get_mut(at) {
            *q -= change;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::{Draw, stream};

    const LOOK: CodecLook = CodecLook { step: 10.0, chroma: 1.2, interval: 12, deblock: true };

    /// A textured picture with noise of 1.5 levels of its own, and a bright spot at `x`.
    fn picture(number: u64, x: usize) -> Signal {
        let mut rng = stream(number, &[]);
        let (width, height) = (64, 48);
        let texture = |i: usize| 100.0 + 30.0 * noise((i % width) as f32 * 0.2, (i / width) as f32 * 0.2, 5);
        let mut luma: Vec<f32> = (0..width * height).map(|i| texture(i) + 1.5 * rng.bell()).collect();
        for y in 20..23 {
            luma[y * width + x..y * width + x + 3].fill(190.0);
        }
        Signal { width, height, luma, chroma: [vec![-6.0; 32 * 24], vec![4.0; 32 * 24]] }
    }

    #[test]
    fn what_stands_still_is_frozen_and_a_ball_moves_on() {
        let mut coder = Coder::new(LOOK);
        let (mut first, mut second) = (picture(1, 10), picture(2, 30));
        coder.code(&mut first, [0, 0]);
        coder.code(&mut second, [0, 0]);
        let same = first.luma.iter().zip(&second.luma).filter(|(a, b)| a == b).count();
        // All blocks but those around the two places of the ball.
        assert!(same > 64 * 48 * 3 / 4 && same < 64 * 48, "{same} of {}", 64 * 48);
        let at = |s: &Signal, x: usize| s.luma[21 * 64 + x + 1];
        assert!(at(&second, 30) > 165.0 && at(&second, 10) < 150.0 && at(&first, 10) > 165.0);
    }

    #[test]
    fn a_coarser_quantizer_is_farther_from_the_picture() {
        let error = |step: f32| {
            let (mut coded, original) = (picture(3, 10), picture(3, 10));
            Coder::new(CodecLook { step, ..LOOK }).code(&mut coded, [0, 0]);
            let sum: f32 = coded.luma.iter().zip(&original.luma).map(|(a, b)| (a - b) * (a - b)).sum();
            (sum / coded.luma.len() as f32).sqrt()
        };
        let errors = [0.5, 4.0, 12.0, 30.0].map(error);
        assert!(errors[0] < 0.5 && errors.is_sorted() && errors[3] > 2.0 && errors[3] < 30.0, "{errors:?}");
    }

    #[test]
    fn a_picture_that_moves_as_a_whole_is_predicted_from_where_it_was() {
        let mut coder = Coder::new(LOOK);
        let mut first = picture(1, 10);
        coder.code(&mut first, [0, 0]);
        let mut moved = first.clone();
        for (row, old) in moved.luma.chunks_mut(64).zip(first.luma.chunks(64)) {
            row[4..].copy_from_slice(&old[..60]);
        }
        let expected = moved.luma.clone();
        coder.code(&mut moved, [4, 0]);
        let inner = |y: usize| y * 64 + 16..y * 64 + 56;
        assert!(
            (0..48).all(|y| moved.luma[inner(y)] == expected[inner(y)]),
            "an exact prediction leaves nothing to code"
        );
    }
}

//! Vectors, colours and noise. Transcendental functions come from `libm` only: the system's differ in the last
//! bit between machines, and one bit is another JPEG.

use std::ops::{Add, Mul, Neg, Sub};

pub(crate) use libm::{atan2f as atan2, cosf as cos, powf, sinf as sin, tanf as tan};
pub(crate) const PI: f32 = std::f32::consts::PI;

/// A point or direction; metres. x: right, y: away from the camera (0 is the net), z: up.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct V3 {
    pub(crate) x: f32,
    pub(crate) y: f32,
    pub(crate) z: f32,
}

pub(crate) const fn v3(x: f32, y: f32, z: f32) -> V3 {
    V3 { x, y, z }
}

impl Add for V3 {
    type Output = Self;
    fn add(self, o: Self) -> Self {
        v3(self.x + o.x, self.y + o.y, self.z + o.z)
    }
}

impl Sub for V3 {
    type Output = Self;
    fn sub(self, o: Self) -> Self {
        v3(self.x - o.x, self.y - o.y, self.z - o.z)
    }
}

impl Mul<f32> for V3 {
    type Output = Self;
    fn mul(self, s: f32) -> Self {
        v3(self.x * s, self.y * s, self.z * s)
    }
}

impl Neg for V3 {
    type Output = Self;
    fn neg(self) -> Self {
        self * -1.0
    }
}

impl V3 {
    pub(crate) fn dot(self, o: Self) -> f32 {
        self.x * o.x + self.y * o.y + self.z * o.z
    }

    pub(crate) fn cross(self, o: Self) -> Self {
        v3(self.y * o.z - self.z * o.y, self.z * o.x - self.x * o.z, self.x * o.y - self.y * o.x)
    }

    pub(crate) fn length(self) -> f32 {
        self.dot(self).sqrt()
    }

    /// Length 1; a zero vector stays zero.
    pub(crate) fn unit(self) -> Self {
        let length = self.length();
        if length > 1e-9 { self * (1.0 / length) } else { self }
    }

    pub(crate) fn lerp(self, o: Self, t: f32) -> Self {
        self + (o - self) * t
    }
}

pub(crate) fn mix(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

/// The cubic step 3t² − 2t³ between `low` and `high`.
pub(crate) fn smoothstep(low: f32, high: f32, value: f32) -> f32 {
    let t = ((value - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Linear-light RGB, 1 is white.
pub(crate) type Rgb = [f32; 3];

pub(crate) fn mix_rgb(a: Rgb, b: Rgb, t: f32) -> Rgb {
    [mix(a[0], b[0], t), mix(a[1], b[1], t), mix(a[2], b[2], t)]
}

pub(crate) fn scale_rgb(a: Rgb, s: f32) -> Rgb {
    [a[0] * s, a[1] * s, a[2] * s]
}

/// sRGB's decoding curve (IEC 61966-2-1), `0..=1` to linear light.
pub(crate) fn srgb_to_linear(value: f32) -> f32 {
    if value <= 0.040_45 { value / 12.92 } else { powf((value + 0.055) / 1.055, 2.4) }
}

/// The inverse of [`srgb_to_linear`].
pub(crate) fn linear_to_srgb(value: f32) -> f32 {
    if value <= 0.003_130_8 { value * 12.92 } else { 1.055 * powf(value, 1.0 / 2.4) - 0.055 }
}

/// A colour written as `0xRRGGBB` in sRGB.
pub(crate) fn hex(code: u32) -> Rgb {
    [16, 8, 0].map(|shift| srgb_to_linear(((code >> shift) & 255) as f32 / 255.0))
}

fn lattice(x: i32, y: i32, seed: u32) -> f32 {
    let mut h = (x as u32).wrapping_mul(0x8da6_b343) ^ (y as u32).wrapping_mul(0xd816_3841) ^ seed;
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    ((h ^ (h >> 16)) >> 8) as f32 / 16_777_216.0
}

/// Value noise in `[-1, 1]` on the unit lattice.
pub(crate) fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (fx, fy) = (x.floor(), y.floor());
    let (ix, iy) = (fx as i32, fy as i32);
    let (tx, ty) = (x - fx, y - fy);
    let (tx, ty) = (tx * tx * (3.0 - 2.0 * tx), ty * ty * (3.0 - 2.0 * ty));
    let top = mix(lattice(ix, iy, seed), lattice(ix + 1, iy, seed), tx);
    let bottom = mix(lattice(ix, iy + 1, seed), lattice(ix + 1, iy + 1, seed), tx);
    mix(top, bottom, ty) * 2.0 - 1.0
}

/// `octaves` of [`noise`], each of half the size and weight, in about `[-1, 1]`.
pub(crate) fn fbm(x: f32, y: f32, octaves: u32, seed: u32) -> f32 {
    let (mut sum, mut weight, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
    for octave in 0..octaves {
        sum += weight * noise(x * scale, y * scale, seed.wrapping_add(octave.wrapping_mul(0x9e37_79b9)));
        total += weight;
        weight *= 0.5;
        scale *= 2.03;
    }
    sum / total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transfer_curve_and_its_inverse_agree() {
        for level in 0..=255 {
            let value = level as f32 / 255.0;
            // The published constants join the two branches to about 1e-7 only.
            assert!((linear_to_srgb(srgb_to_linear(value)) - value).abs() < 1e-5);
        }
    }

    #[test]
    fn noise_is_continuous_across_lattice_cells() {
        for i in -3..3 {
            let edge = i as f32;
            // A step of 2e-4 moves a cubic of slope 3 at most by 6e-4.
            assert!((noise(edge - 1e-4, 0.3, 5) - noise(edge + 1e-4, 0.3, 5)).abs() < 1e-3);
        }
    }
}

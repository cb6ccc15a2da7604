//! Activations of blocks of 16 values: values and slopes, without branches.

use crate::simd::{F32x16, Kernel, LANES, Simd, mul_add};

/// An activation that a kernel can be compiled with.
pub(crate) trait Activate: Sync {
    /// `f(x)`.
    fn value<S: Simd>(x: F32x16) -> F32x16;

    /// `f'(x)`.
    fn slope<S: Simd>(x: F32x16) -> F32x16;
}

/// No activation: `x`.
pub(crate) struct Identity;

/// `max(x, 0)`; NaN stays NaN.
pub(crate) struct Relu;

/// `x · Φ(x)`.
pub(crate) struct Gelu;

impl Activate for Identity {
    #[inline(always)]
    fn value<S: Simd>(x: F32x16) -> F32x16 {
        x
    }

    #[inline(always)]
    fn slope<S: Simd>(_x: F32x16) -> F32x16 {
        F32x16::splat(1.0)
    }
}

impl Activate for Relu {
    #[inline(always)]
    fn value<S: Simd>(mut x: F32x16) -> F32x16 {
        for x in &mut x.0 {
            *x = if *x < 0.0 { 0.0 } else { *x };
        }
        x
    }

    #[inline(always)]
    fn slope<S: Simd>(mut x: F32x16) -> F32x16 {
        for x in &mut x.0 {
            *x = if *x <= 0.0 { 0.0 } else { 1.0 };
        }
        x
    }
}

impl Activate for Gelu {
    #[inline(always)]
    fn value<S: Simd>(mut x: F32x16) -> F32x16 {
        for x in &mut x.0 {
            *x *= normal::<S>(*x).0;
        }
        x
    }

    #[inline(always)]
    fn slope<S: Simd>(mut x: F32x16) -> F32x16 {
        for x in &mut x.0 {
            let (cumulative, density) = normal::<S>(*x);
            *x = mul_add::<S>(*x, density, cumulative);
        }
        x
    }
}

/// The normal distribution at `x`: cumulative and density.
///
/// The error function is formula 7.1.26 of Abramowitz and Stegun, Handbook of Mathematical Functions (after Hastings,
/// 1955), `erfc(z) = t · (a₁ + a₂ t + … + a₅ t⁴) · exp(−z²)` with `t = 1 / (1 + p z)`, whose error is at most 1.5e-7;
/// f32 arithmetic adds about as much. Its exponential is also that of the density, and where the distribution is small
/// it is a product and not a difference from 1.
#[inline(always)]
#[allow(clippy::excessive_precision)] // Constants as published.
fn normal<S: Simd>(x: f32) -> (f32, f32) {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    // Halves, because Φ(x) = erfc(−x / √2) / 2.
    const HALF_A: [f32; 5] =
        [0.254_829_592 * 0.5, -0.284_496_736 * 0.5, 1.421_413_741 * 0.5, -1.453_152_027 * 0.5, 1.061_405_429 * 0.5];
    // 1 / √(2π).
    const PEAK: f32 = 0.398_942_28;
    let bell = exp::<S>(-0.5 * x * x);
    let t = 1.0 / mul_add::<S>(x.abs(), P, 1.0);
    let [a1, a2, a3, a4, a5] = HALF_A;
    let series = mul_add::<S>(mul_add::<S>(mul_add::<S>(mul_add::<S>(a5, t, a4), t, a3), t, a2), t, a1);
    let tail = series * t * bell;
    (if x < 0.0 { tail } else { 1.0 - tail }, PEAK * bell)
}

/// `eˣ` for `x ≤ 0`, relative error below 2e-7; `e⁻⁸⁷` (1.6e-38) for anything smaller.
///
/// `x = n ln 2 + r`, `|r| ≤ ln 2 / 2`: the Taylor polynomial of degree 7 in r errs by at most 6e-9, and `2ⁿ` is an
/// exponent. Adding 1.5 · 2²³ rounds to an integer, which is then in the low bits.
#[inline(always)]
#[allow(clippy::excessive_precision)] // The first part of ln 2 is exact so.
fn exp<S: Simd>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; products of the first with small integers are exact.
    const LN2: [f32; 2] = [0.693_359_375, -2.121_944_4e-4];
    const TAYLOR: [f32; 8] = [1.0, 1.0, 1.0 / 2.0, 1.0 / 6.0, 1.0 / 24.0, 1.0 / 120.0, 1.0 / 720.0, 1.0 / 5040.0];
    let x = if x < -87.0 { -87.0 } else { x };
    let rounded = mul_add::<S>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = mul_add::<S>(n, -LN2[1], mul_add::<S>(n, -LN2[0], x));
    let mut series = TAYLOR[7];
    for coefficient in TAYLOR[..7].iter().rev() {
        series = mul_add::<S>(series, r, *coefficient);
    }
    let power = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    series * power
}

/// `y = gelu(x)`; slices of one length.
pub(super) struct Forward<'a> {
    pub(super) x: &'a [f32],
    pub(super) y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ((x, x_rest), (y, y_rest)) = (self.x.as_chunks::<LANES>(), self.y.as_chunks_mut::<LANES>());
        for (x, y) in x.iter().zip(y) {
            *y = Gelu::value::<S>(F32x16(*x)).0;
        }
        Gelu::value::<S>(F32x16::load_or(x_rest, 0.0)).store(y_rest);
    }
}

/// `out = gradient · gelu'(x)`; slices of one length.
pub(super) struct Backward<'a> {
    pub(super) x: &'a [f32],
    pub(super) gradient: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ((x, x_rest), (g, g_rest)) = (self.x.as_chunks::<LANES>(), self.gradient.as_chunks::<LANES>());
        let (out, out_rest) = self.out.as_chunks_mut::<LANES>();
        for ((x, g), out) in x.iter().zip(g).zip(out) {
            *out = (Gelu::slope::<S>(F32x16(*x)) * F32x16(*g)).0;
        }
        (Gelu::slope::<S>(F32x16::load_or(x_rest, 0.0)) * F32x16::load_or(g_rest, 0.0)).store(out_rest);
    }
}

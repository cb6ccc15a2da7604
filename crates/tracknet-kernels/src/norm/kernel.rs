//! The CPU kernels: a group of feature maps, or a row of channels, at a time.
//!
//! What a kernel reads several times fits a cache: mean, variance and result are three passes over it, which keeps
//! means far from zero from spoiling the variance.

use std::marker::PhantomData;

use crate::gelu::kernel::Activate;
use crate::simd::{F32x16, Kernel, Simd, each_block};

/// Mean and reciprocal deviation.
pub(crate) type Statistics = [f32; 2];

/// Two passes, the second of which corrects the first's rounding (Chan, Golub and LeVeque 1983, formula 1.7).
#[inline(always)]
pub(crate) fn statistics<S: Simd>(values: &[f32], epsilon: f32) -> Statistics {
    let count = values.len() as f32;
    let mut sum = F32x16::ZERO;
    each_block!(values, 0.0, (_at, x) {
        sum = sum + x;
    });
    let mean = sum.sum() / count;
    let (centre, mut sum, mut squares) = (F32x16::splat(mean), F32x16::ZERO, F32x16::ZERO);
    each_block!(values, mean, (_at, x) {
        let distance = x - centre;
        sum = sum + distance;
        squares = distance.mul_add::<S>(distance, squares);
    });
    let shift = sum.sum() / count;
    let variance = (squares.sum() / count - shift * shift).max(0.0);
    [mean + shift, 1.0 / (variance + epsilon).sqrt()]
}

/// Normalizes a group: `x` and `y` are `[channels of the group, space]`.
pub(super) struct NormalizeGroup<'a, F> {
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) epsilon: f32,
    pub(super) y: &'a mut [f32],
    pub(super) activation: PhantomData<F>,
}

impl<F: Activate> Kernel for NormalizeGroup<'_, F> {
    type Output = Statistics;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Statistics {
        let [mean, inverse] = statistics::<S>(self.x, self.epsilon);
        let space = self.x.len() / self.weight.len();
        let planes = self.x.chunks_exact(space).zip(self.y.chunks_exact_mut(space));
        for ((x, y), (weight, bias)) in planes.zip(self.weight.iter().zip(self.bias)) {
            let (centre, scale, bias) = (F32x16::splat(mean), F32x16::splat(inverse * weight), F32x16::splat(*bias));
            each_block!(x, 0.0, (at, x) {
                F::value::<S>((x - centre).mul_add::<S>(scale, bias)).store(&mut y[at..]);
            });
        }
        [mean, inverse]
    }
}

/// The gradient of a group's `x`, and for each of its channels those of weight and bias.
pub(super) struct NormalizeGroupGradient<'a, F> {
    pub(super) x: &'a [f32],
    pub(super) weight: &'a [f32],
    pub(super) bias: &'a [f32],
    pub(super) statistics: Statistics,
    pub(super) gradient: &'a [f32],
    pub(super) of_x: &'a mut [f32],
    pub(super) activation: PhantomData<F>,
}

impl<F: Activate> Kernel for NormalizeGroupGradient<'_, F> {
    type Output = Vec<[f32; 2]>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<[f32; 2]> {
        let [mean, inverse] = self.statistics;
        let (centre, scale) = (F32x16::splat(mean), F32x16::splat(inverse));
        let space = self.x.len() / self.weight.len();

        // First the gradient before the activation, kept in `of_x`, and its sums.
        let planes = self.x.chunks_exact(space).zip(self.gradient.chunks_exact(space));
        let planes = planes.zip(self.of_x.chunks_exact_mut(space)).zip(self.weight.iter().zip(self.bias));
        let mut sums = Vec::with_capacity(self.weight.len());
        for (((x, gradient), of_x), (weight, bias)) in planes {
            let (weight, bias) = (F32x16::splat(*weight), F32x16::splat(*bias));
            let (mut products, mut sum) = (F32x16::ZERO, F32x16::ZERO);
            each_block!(x, 0.0, (at, x) {
                let normal = (x - centre) * scale;
                let slope = F::slope::<S>(normal.mul_add::<S>(weight, bias));
                let gradient = slope * F32x16::load_up_to(gradient, at);
                gradient.store(&mut of_x[at..]);
                products = gradient.mul_add::<S>(normal, products);
                sum = sum + gradient;
            });
            sums.push([products.sum(), sum.sum()]);
        }

        // Then what the mean and the deviation of the group take away.
        let count = self.x.len() as f32;
        let total = |at: usize| sums.iter().zip(self.weight).map(|(sums, weight)| sums[at] * weight).sum::<f32>();
        let (slant, level) = (F32x16::splat(-total(0) / count * inverse), F32x16::splat(-total(1) / count * inverse));
        let planes = self.x.chunks_exact(space).zip(self.of_x.chunks_exact_mut(space));
        for ((x, of_x), weight) in planes.zip(self.weight) {
            let weight = F32x16::splat(weight * inverse);
            each_block!(x, 0.0, (at, x) {
                let normal = (x - centre) * scale;
                let gradient = F32x16::load_up_to(of_x, at);
                gradient.mul_add::<S>(weight, normal.mul_add::<S>(slant, level)).store(&mut of_x[at..]);
            });
        }
        sums
    }
}

/// Normalizes rows of channels: `x` and `y` are `[rows, channels]`.
pub(crate) struct NormalizeRows<'a, F> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) epsilon: f32,
    pub(crate) y: &'a mut [f32],
    pub(crate) activation: PhantomData<F>,
}

impl<F: Activate> Kernel for NormalizeRows<'_, F> {
    type Output = Vec<Statistics>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<Statistics> {
        let channels = self.weight.len();
        let rows = self.x.chunks_exact(channels).zip(self.y.chunks_exact_mut(channels));
        let mut all = Vec::with_capacity(self.x.len() / channels);
        for (x, y) in rows {
            let [mean, inverse] = statistics::<S>(x, self.epsilon);
            let (centre, scale) = (F32x16::splat(mean), F32x16::splat(inverse));
            each_block!(x, 0.0, (at, x) {
                let (weight, bias) = (F32x16::load_up_to(self.weight, at), F32x16::load_up_to(self.bias, at));
                F::value::<S>(((x - centre) * scale).mul_add::<S>(weight, bias)).store(&mut y[at..]);
            });
            all.push([mean, inverse]);
        }
        all
    }
}

/// The gradient of the `x` of rows, and if asked for, their sums of the gradients of weight, then of bias.
pub(crate) struct NormalizeRowsGradient<'a, F> {
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) statistics: &'a [Statistics],
    pub(crate) gradient: &'a [f32],
    pub(crate) of_x: &'a mut [f32],
    pub(crate) parameters: bool,
    pub(crate) activation: PhantomData<F>,
}

impl<F: Activate> Kernel for NormalizeRowsGradient<'_, F> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Vec<f32> {
        let channels = self.weight.len();
        let mut sums = vec![0.0; if self.parameters { 2 * channels } else { 0 }];
        let (of_weight, of_bias) = sums.split_at_mut(if self.parameters { channels } else { 0 });
        let rows = self.x.chunks_exact(channels).zip(self.gradient.chunks_exact(channels));
        let rows = rows.zip(self.of_x.chunks_exact_mut(channels)).zip(self.statistics);
        for (((x, gradient), of_x), [mean, inverse]) in rows {
            let (centre, scale) = (F32x16::splat(*mean), F32x16::splat(*inverse));
            let (mut products, mut sum) = (F32x16::ZERO, F32x16::ZERO);
            each_block!(x, *mean, (at, x) {
                let (weight, bias) = (F32x16::load_up_to(self.weight, at), F32x16::load_up_to(self.bias, at));
                let normal = (x - centre) * scale;
                let gradient = F::slope::<S>(normal.mul_add::<S>(weight, bias)) * F32x16::load_up_to(gradient, at);
                if self.parameters {
                    let of_weight = &mut of_weight[at..];
                    gradient.mul_add::<S>(normal, F32x16::load_up_to(of_weight, 0)).store(of_weight);
                    let of_bias = &mut of_bias[at..];
                    (F32x16::load_up_to(of_bias, 0) + gradient).store(of_bias);
                }
                let gradient = gradient * weight;
                gradient.store(&mut of_x[at..]);
                products = gradient.mul_add::<S>(normal, products);
                sum = sum + gradient;
            });
            let count = channels as f32;
            let slant = F32x16::splat(-products.sum() / count * inverse);
            let level = F32x16::splat(-sum.sum() / count * inverse);
            each_block!(x, *mean, (at, x) {
                let normal = (x - centre) * scale;
                let gradient = F32x16::load_up_to(of_x, at);
                gradient.mul_add::<S>(scale, normal.mul_add::<S>(slant, level)).store(&mut of_x[at..]);
            });
        }
        sums
    }
}

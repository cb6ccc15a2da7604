//! The CPU backend: planes are shared out to threads.

use burn::backend::Flex;
use burn::backend::TensorMetadata;
use burn::backend::flex::FlexTensor;

use super::kernel::{Convolve, Padded, WeightGradient};
use super::ops::DepthwiseOps;
use super::reference;
use crate::chunks;
use crate::host::{are_f32, contiguous, slice, tensor};
use crate::simd::Level;

/// Planes that share one border of zeros.
const PLANES_PER_TASK: usize = 4;

impl DepthwiseOps for Flex {
    fn depthwise_conv3x3(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        if !are_f32([&x, &weight]) {
            return reference::forward::<Flex>(x, weight);
        }
        convolve(Level::best(), x, weight)
    }

    fn depthwise_conv3x3_weight_gradient(x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        if !are_f32([&x, &gradient]) {
            return reference::weight_gradient::<Flex>(x, gradient);
        }
        weight_gradient(Level::best(), x, gradient)
    }
}

fn convolve(level: Level, x: FlexTensor, weight: FlexTensor) -> FlexTensor {
    let (x, weight) = (contiguous(x), contiguous(weight));
    let shape = x.shape();
    let [_, channels, height, width] = shape.dims();
    let plane = height * width;
    let filters = slice(&weight).as_chunks::<9>().0;
    let values = slice(&x);
    let (y, _) = chunks::fill(values.len(), PLANES_PER_TASK * plane, |task, y| {
        let mut scratch = Padded::new([height, width]);
        for (at, y) in y.chunks_exact_mut(plane).enumerate() {
            let number = task * PLANES_PER_TASK + at;
            let x = &values[number * plane..][..plane];
            level.run(Convolve { scratch: &mut scratch, x, weight: filters[number % channels], y });
        }
    });
    tensor(y, shape)
}

fn weight_gradient(level: Level, x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
    let (x, gradient) = (contiguous(x), contiguous(gradient));
    let [batch, channels, height, width] = x.shape().dims();
    let plane = height * width;
    let (x, gradient) = (slice(&x), slice(&gradient));
    let filter = |channel: usize, sums: &mut [f32]| {
        let mut scratch = Padded::new([height, width]);
        for frame in 0..batch {
            let at = (frame * channels + channel) * plane..(frame * channels + channel + 1) * plane;
            let scratch = &mut scratch;
            let of_frame = level.run(WeightGradient { scratch, x: &x[at.clone()], gradient: &gradient[at] });
            for (sum, value) in sums.iter_mut().zip(of_frame) {
                *sum += value;
            }
        }
    };
    tensor(chunks::fill_from(channels * 9, 9, x.len(), filter).0, [channels, 1, 3, 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    /// The sums that both operations are made of, in f64: `visit(channel, tap, value of x, place of the output)`.
    fn for_each_product(
        [batch, channels, height, width]: [usize; 4],
        mut visit: impl FnMut(usize, usize, usize, usize),
    ) {
        for plane in 0..batch * channels {
            for (row, column) in (0..height).flat_map(|row| (0..width).map(move |column| (row, column))) {
                for tap in 0..9 {
                    let (y, x) = (row + tap / 3, column + tap % 3);
                    if (1..=height).contains(&y) && (1..=width).contains(&x) {
                        let from = (plane * height + y - 1) * width + x - 1;
                        visit(plane % channels, tap, from, (plane * height + row) * width + column);
                    }
                }
            }
        }
    }

    fn assert_close(found: FlexTensor, expected: &[f64], what: &str) {
        let largest = expected.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
        assert_eq!(slice(&found).len(), expected.len(), "{what}");
        for (at, (found, expected)) in slice(&found).iter().zip(expected).enumerate() {
            // At most 2210 additions in f32, in 16 sums.
            let distance = (f64::from(*found) - expected).abs();
            assert!(distance <= 2e-6 * largest.max(1.0), "{what}: {at} is {found}, expected {expected}");
        }
    }

    #[test]
    fn every_instruction_set_agrees_with_float64_on_odd_shapes() {
        for width in [1, 2, 3, 5, 15, 16, 17, 33, 130] {
            for [batch, channels, height] in [[1, 1, 1], [2, 3, 5], [3, 2, 17]] {
                let shape = [batch, channels, height, width];
                let count = shape.iter().product();
                let (x, gradient, weight) = (values(count, 7919), values(count, 7877), values(channels * 9, 37));
                let (mut y, mut of_weight) = (vec![0.0; count], vec![0.0; channels * 9]);
                for_each_product(shape, |channel, tap, from, to| {
                    y[to] += f64::from(x[from]) * f64::from(weight[channel * 9 + tap]);
                    of_weight[channel * 9 + tap] += f64::from(x[from]) * f64::from(gradient[to]);
                });
                let [x, gradient] = [x, gradient].map(|values| tensor(values, shape));
                let weight = tensor(weight, [channels, 1, 3, 3]);
                for level in Level::available() {
                    let what = format!("{level:?} {shape:?}");
                    assert_close(convolve(level, x.clone(), weight.clone()), &y, &what);
                    assert_close(weight_gradient(level, x.clone(), gradient.clone()), &of_weight, &what);
                }
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let shape = [2, 5, 61, 67];
        let [x, gradient] = [7919, 7877].map(|step| tensor(values(shape.iter().product(), step), shape));
        let weight = tensor(values(45, 37), [5, 1, 3, 3]);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = convolve(Level::best(), x.clone(), weight.clone());
                let of_weight = weight_gradient(Level::best(), x.clone(), gradient.clone());
                [y, of_weight].map(|tensor| slice(&tensor).iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn tensors_that_are_views_are_read_in_their_order() {
        let (x, weight) = (tensor(values(90, 7919), [1, 5, 6, 3]), tensor(values(45, 37), [5, 1, 3, 3]));
        let view = x.transpose(2, 3);
        assert!(!view.is_contiguous());
        let found = convolve(Level::best(), view.clone(), weight.clone());
        assert_eq!(slice(&found), slice(&convolve(Level::best(), view.to_contiguous(), weight)));
    }
}

//! The CPU backend: planes are shared out to threads.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::axis::Axis;
use super::kernel::{Resize, ResizeGradient};
use super::ops::ResizeOps;
use super::reference;
use crate::chunks;
use crate::host::{are_f32, contiguous, slice, tensor};
use crate::simd::Level;

impl ResizeOps for Flex {
    fn bilinear(x: FlexTensor, size: [usize; 2]) -> FlexTensor {
        if are_f32([&x]) { resize(Level::best(), x, size) } else { reference::resize::<Flex>(x, size) }
    }

    fn bilinear_gradient(gradient: FlexTensor, size: [usize; 2]) -> FlexTensor {
        if are_f32([&gradient]) {
            resize_gradient(Level::best(), gradient, size)
        } else {
            reference::gradient::<Flex>(gradient, size)
        }
    }
}

fn resize(level: Level, x: FlexTensor, [out_height, out_width]: [usize; 2]) -> FlexTensor {
    let x = contiguous(x);
    let [batch, channels, height, width] = x.shape().dims();
    let (vertical, horizontal) = (&Axis::new(height, out_height), &Axis::new(width, out_width));
    let (values, plane) = (slice(&x), height * width);
    let shape = [batch, channels, out_height, out_width];
    let (y, _) = chunks::fill(shape.iter().product(), out_height * out_width, |number, y| {
        level.run(Resize { vertical, horizontal, x: &values[number * plane..][..plane], width, y });
    });
    tensor(y, shape)
}

fn resize_gradient(level: Level, gradient: FlexTensor, [height, width]: [usize; 2]) -> FlexTensor {
    let gradient = contiguous(gradient);
    let [batch, channels, out_height, out_width] = gradient.shape().dims();
    let (vertical, horizontal) = (&Axis::new(height, out_height), &Axis::new(width, out_width));
    let (values, plane) = (slice(&gradient), out_height * out_width);
    let shape = [batch, channels, height, width];
    let (of_x, _) = chunks::fill_from(shape.iter().product(), height * width, values.len(), |number, of_x| {
        level.run(ResizeGradient { vertical, horizontal, gradient: &values[number * plane..][..plane], width, of_x });
    });
    tensor(of_x, shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(shape: [usize; 4], step: usize) -> FlexTensor {
        let count = shape.iter().product();
        tensor((0..count).map(|i| ((i * step) % 1009) as f32 / 500.0 - 1.0).collect(), shape)
    }

    /// Doubling around a block, other factors, one row or column, smaller, and one axis only.
    const SIZES: [([usize; 2], [usize; 2]); 14] = [
        ([1, 1], [2, 2]),
        ([1, 2], [3, 4]),
        ([3, 5], [6, 10]),
        ([2, 15], [4, 30]),
        ([5, 16], [10, 32]),
        ([3, 17], [6, 34]),
        ([4, 33], [8, 66]),
        ([2, 49], [7, 98]),
        ([4, 7], [9, 5]),
        ([9, 33], [4, 17]),
        ([1, 17], [1, 51]),
        ([17, 1], [34, 1]),
        ([6, 5], [6, 10]),
        ([3, 4], [1, 1]),
    ];

    fn assert_close(found: &FlexTensor, expected: &FlexTensor, what: &str) {
        assert_eq!(found.shape(), expected.shape(), "{what}");
        for (at, (found, expected)) in slice(found).iter().zip(slice(expected)).enumerate() {
            // Values of magnitude 1 to 4, two orders of a few additions, positions rounded in f32.
            assert!((found - expected).abs() <= 1e-5, "{what}: {at} is {found}, expected {expected}");
        }
    }

    #[test]
    fn every_instruction_set_agrees_with_the_composed_operations() {
        for (from, to) in SIZES {
            let x = values([2, 3, from[0], from[1]], 7919);
            let gradient = values([2, 3, to[0], to[1]], 7877);
            let forward = contiguous(reference::resize::<Flex>(x.clone(), to));
            let backward = contiguous(reference::gradient::<Flex>(gradient.clone(), from));
            for level in Level::available() {
                let what = format!("{level:?} {from:?} to {to:?}");
                assert_close(&resize(level, x.clone(), to), &forward, &what);
                assert_close(&resize_gradient(level, gradient.clone(), from), &backward, &what);
            }
        }
    }

    #[test]
    fn the_gradient_is_the_transpose() {
        for (from, to) in SIZES {
            let (x, g) = (values([1, 2, from[0], from[1]], 7919), values([1, 2, to[0], to[1]], 7877));
            let product = |a: &FlexTensor, b: &FlexTensor| -> f64 {
                slice(a).iter().zip(slice(b)).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
            };
            let (y, of_x) = (resize(Level::best(), x.clone(), to), resize_gradient(Level::best(), g.clone(), from));
            // ⟨resize x, g⟩ = ⟨x, gradient g⟩ up to the rounding of at most 1400 products.
            let (one, other) = (product(&y, &g), product(&x, &of_x));
            assert!((one - other).abs() <= 1e-4, "{from:?} to {to:?}: {one} and {other}");
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let (x, g) = (values([2, 5, 31, 37], 7919), values([2, 5, 62, 74], 7877));
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = resize(Level::best(), x.clone(), [62, 74]);
                let of_x = resize_gradient(Level::best(), g.clone(), [31, 37]);
                [y, of_x].map(|tensor| slice(&tensor).iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            })
        };
        assert_eq!(run(1), run(3));
    }
}

//! The CPU backend: bands of rows are shared out to threads.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::kernel::{BlockChannels, Convolve, Filters, Planes, WeightGradient};
use super::ops::Conv3x3Ops;
use super::reference;
use crate::chunks;
use crate::host::{are_f32, contiguous, slice, tensor};
use crate::parallel::Threads;
use crate::product::filled;
use crate::simd::Level;

/// Rows of the outputs of a frame that one task computes.
const BAND: usize = 16;

/// Rows of a frame whose share of the gradient of the weight is one sum. Fixed, so that the number of threads changes no bit.
const GRADIENT_BAND: usize = 64;

/// Products below which a call takes less time than handing it to other threads.
const SERIAL_PRODUCTS: usize = 1 << 20;

impl Conv3x3Ops for Flex {
    fn conv3x3(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        if !are_f32([&x, &weight]) {
            return reference::forward::<Flex>(x, weight);
        }
        convolve(Level::best(), x, weight)
    }

    fn conv3x3_weight_gradient(x: FlexTensor, weight: FlexTensor, gradient: FlexTensor) -> FlexTensor {
        if !are_f32([&x, &weight, &gradient]) {
            return reference::weight_gradient::<Flex>(x, weight, gradient);
        }
        weight_gradient(Level::best(), x, gradient)
    }
}

fn convolve(level: Level, x: FlexTensor, weight: FlexTensor) -> FlexTensor {
    let (x, weight) = (contiguous(x), contiguous(weight));
    let [batch, inputs, height, width] = x.shape().dims();
    let outputs = weight.shape()[0];
    let shape = [batch, outputs, height, width];
    if shape.contains(&0) || inputs == 0 {
        return tensor(vec![0.0; shape.iter().product()], shape);
    }
    let filters = Filters::new(slice(&weight), [outputs, inputs], level.run(BlockChannels));
    let frame = inputs * height * width;
    let bands = height.div_ceil(BAND);
    let threads = Threads::of_caller().if_worth(batch * frame * outputs * 9 > SERIAL_PRODUCTS);
    let values = slice(&x);
    // SAFETY: the bands of all frames are all rows of all planes, and a band writes each value of its rows.
    let (y, ()) = unsafe {
        filled([batch * outputs * height, width], |y| {
            threads.for_each(0..batch * bands, |task| {
                let (number, first) = (task / bands, task % bands * BAND);
                let x = Planes { values: &values[number * frame..][..frame], channels: inputs, size: [height, width] };
                let rows = first..(first + BAND).min(height);
                level.run(Convolve { x, filters: &filters, rows, y: &y, first_plane: number * outputs });
            });
        })
    };
    tensor(y, shape)
}

fn weight_gradient(level: Level, x: FlexTensor, gradient: FlexTensor) -> FlexTensor {
    let (x, gradient) = (contiguous(x), contiguous(gradient));
    let [batch, inputs, height, width] = x.shape().dims();
    let outputs = gradient.shape()[1];
    let count = outputs * inputs * 9;
    let bands = height.div_ceil(GRADIENT_BAND);
    let planes = |tensor, number: usize, channels: usize| {
        let frame = channels * height * width;
        Planes { values: &slice(tensor)[number * frame..][..frame], channels, size: [height, width] }
    };
    let (parts, _) = chunks::fill_from(batch * bands * count, count, batch * inputs * height * width, |task, sums| {
        let (number, first) = (task / bands, task % bands * GRADIENT_BAND);
        let (x, gradient) = (planes(&x, number, inputs), planes(&gradient, number, outputs));
        level.run(WeightGradient { x, gradient, rows: first..(first + GRADIENT_BAND).min(height), sums });
    });
    let mut sums = vec![0.0; count];
    for part in parts.chunks_exact(count.max(1)) {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    tensor(sums, [outputs, inputs, 3, 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    /// The products that both operations sum, in f64: `visit(place in the filters, place of the input, place of the output)`.
    fn for_each_product(
        [batch, inputs, outputs, height, width]: [usize; 5],
        mut visit: impl FnMut(usize, usize, usize),
    ) {
        for (frame, output, row, column) in (0..batch * outputs * height * width)
            .map(|at| (at / width / height / outputs, at / width / height % outputs, at / width % height, at % width))
        {
            for (input, tap) in (0..inputs).flat_map(|input| (0..9).map(move |tap| (input, tap))) {
                let (y, x) = (row + tap / 3, column + tap % 3);
                if (1..=height).contains(&y) && (1..=width).contains(&x) {
                    let from = ((frame * inputs + input) * height + y - 1) * width + x - 1;
                    let to = ((frame * outputs + output) * height + row) * width + column;
                    visit((output * inputs + input) * 9 + tap, from, to);
                }
            }
        }
    }

    fn assert_close(found: &FlexTensor, expected: &[f64], what: &str) {
        let largest = expected.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
        assert_eq!(slice(found).len(), expected.len(), "{what}");
        for (at, (found, expected)) in slice(found).iter().zip(expected).enumerate() {
            // At most 3000 additions in f32, in several sums.
            let distance = (f64::from(*found) - expected).abs();
            assert!(distance <= 3e-6 * largest.max(1.0), "{what}: {at} is {found}, expected {expected}");
        }
    }

    /// Channels on both sides of a block, widths on both sides of a register, of a strip and of a tile, heights on both sides of
    /// a band of either kind.
    const SHAPES: [[usize; 5]; 9] = [
        [1, 1, 1, 1, 1],
        [2, 3, 5, 2, 2],
        [1, 2, 9, 3, 17],
        [3, 1, 8, 1, 33],
        [1, 9, 4, 5, 47],
        [1, 4, 7, 18, 49],
        [2, 2, 3, 9, 130],
        [1, 2, 2, 67, 3],
        [1, 17, 12, 6, 16],
    ];

    #[test]
    fn every_instruction_set_agrees_with_float64_on_odd_shapes() {
        for shape in SHAPES {
            let [batch, inputs, outputs, height, width] = shape;
            let space = height * width;
            let x = values(batch * inputs * space, 7919);
            let gradient = values(batch * outputs * space, 7877);
            let weight = values(outputs * inputs * 9, 37);
            let (mut y, mut of_weight) = (vec![0.0; gradient.len()], vec![0.0; weight.len()]);
            for_each_product(shape, |tap, from, to| {
                y[to] += f64::from(x[from]) * f64::from(weight[tap]);
                of_weight[tap] += f64::from(x[from]) * f64::from(gradient[to]);
            });
            let x = tensor(x, [batch, inputs, height, width]);
            let gradient = tensor(gradient, [batch, outputs, height, width]);
            let weight = tensor(weight, [outputs, inputs, 3, 3]);
            for level in Level::available() {
                let what = format!("{level:?} {shape:?}");
                assert_close(&convolve(level, x.clone(), weight.clone()), &y, &what);
                assert_close(&weight_gradient(level, x.clone(), gradient.clone()), &of_weight, &what);
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let [x, gradient] =
            [[2, 9, 131, 67], [2, 5, 131, 67]].map(|shape| tensor(values(shape.iter().product(), 7919), shape));
        let weight = tensor(values(9 * 5 * 9, 37), [5, 9, 3, 3]);
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
    fn tensors_that_are_views_are_read_in_their_order_and_empty_ones_are_empty() {
        let (x, weight) = (tensor(values(90, 7919), [1, 5, 6, 3]), tensor(values(90, 37), [2, 5, 3, 3]));
        let view = x.transpose(2, 3);
        assert!(!view.is_contiguous());
        let found = convolve(Level::best(), view.clone(), weight.clone());
        assert_eq!(slice(&found), slice(&convolve(Level::best(), view.to_contiguous(), weight.clone())));
        let empty = convolve(Level::best(), tensor(Vec::new(), [0, 5, 6, 3]), weight);
        assert_eq!(empty.shape().dims(), [0, 2, 6, 3]);
    }
}

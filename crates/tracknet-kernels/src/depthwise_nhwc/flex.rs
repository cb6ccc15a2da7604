//! The CPU backend: sixteen channels of a band of rows are one task.

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};

use super::kernel::{Convolve, Filters, Frame, WeightGradient};
use super::ops::DepthwiseNhwcOps;
use super::reference;
use crate::chunks;
use crate::host::{are_f32, contiguous, slice, tensor};
use crate::parallel::Threads;
use crate::product::filled;
use crate::simd::{LANES, Level};

/// Rows of a frame that one task computes. Fixed, so that the number of threads changes no bit of a gradient.
const BAND: usize = 24;

/// Products below which a call takes less time than handing it to other threads.
const SERIAL_PRODUCTS: usize = 1 << 20;

impl DepthwiseNhwcOps for Flex {
    fn depthwise_conv_nhwc(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, grid: [usize; 2]) -> FlexTensor {
        if !are_f32([&x, &weight, &bias]) {
            return reference::forward::<Flex>(x, weight, bias, grid);
        }
        convolve(Level::best(), x, [weight, bias], grid)
    }

    fn depthwise_conv_nhwc_weight_gradient(
        x: FlexTensor,
        weight: FlexTensor,
        gradient: FlexTensor,
        grid: [usize; 2],
    ) -> FlexTensor {
        if !are_f32([&x, &weight, &gradient]) {
            return reference::weight_gradient::<Flex>(x, weight, gradient, grid);
        }
        weight_gradient(Level::best(), [x, gradient], weight.shape()[2], grid)
    }
}

/// How a batch is cut in tasks: frames, bands of rows and blocks of channels, blocks first.
struct Tasks {
    batch: usize,
    bands: usize,
    blocks: usize,
    rows: usize,
}

impl Tasks {
    fn new(batch: usize, rows: usize, channels: usize) -> Self {
        Self { batch, bands: rows.div_ceil(BAND), blocks: channels.div_ceil(LANES), rows }
    }

    fn count(&self) -> usize {
        self.batch * self.bands * self.blocks
    }

    /// The frame, its rows and the block of channels of a task.
    fn at(&self, task: usize) -> (usize, std::ops::Range<usize>, usize) {
        let (block, band) = (task % self.blocks, task / self.blocks);
        let first = band % self.bands * BAND;
        (band / self.bands, first..(first + BAND).min(self.rows), block)
    }
}

fn frame(tensor: &FlexTensor, number: usize, grid: [usize; 2]) -> Frame<'_> {
    let [_, cells, channels] = tensor.shape().dims();
    Frame { values: &slice(tensor)[number * cells * channels..][..cells * channels], channels, grid }
}

fn convolve(level: Level, x: FlexTensor, [weight, bias]: [FlexTensor; 2], grid: [usize; 2]) -> FlexTensor {
    let [x, weight, bias] = [x, weight, bias].map(contiguous);
    let shape @ [batch, cells, channels] = x.shape().dims();
    if shape.contains(&0) {
        return tensor(Vec::new(), shape);
    }
    let kernel = weight.shape()[2];
    let filters = Filters::new(slice(&weight), slice(&bias), kernel);
    let tasks = Tasks::new(batch, grid[0], channels);
    let threads = Threads::of_caller().if_worth(batch * cells * channels * kernel * kernel > SERIAL_PRODUCTS);
    // SAFETY: the tasks are all channels of all rows of all frames, and a task writes each value of its own.
    let (y, ()) = unsafe {
        filled([batch * cells, channels], |y| {
            threads.for_each(0..tasks.count(), |task| {
                let (number, rows, block) = tasks.at(task);
                let x = frame(&x, number, grid);
                level.run(Convolve { x, filters: &filters, block, rows, y: &y, first_cell: number * cells });
            });
        })
    };
    tensor(y, shape)
}

fn weight_gradient(level: Level, [x, gradient]: [FlexTensor; 2], kernel: usize, grid: [usize; 2]) -> FlexTensor {
    let [x, gradient] = [x, gradient].map(contiguous);
    let [batch, cells, channels] = x.shape().dims();
    let tasks = Tasks::new(batch, grid[0], channels);
    let taps = kernel * kernel;
    let work = batch * cells * channels * taps;
    let (parts, _) = chunks::fill_from(tasks.count() * taps * LANES, taps * LANES, work, |task, sums| {
        let (number, rows, block) = tasks.at(task);
        let [x, gradient] = [&x, &gradient].map(|tensor| frame(tensor, number, grid));
        level.run(WeightGradient { x, gradient, kernel, block, rows, sums });
    });
    let mut sums = vec![0.0; channels * taps];
    for (task, part) in parts.chunks_exact(taps * LANES).enumerate() {
        let filters = &mut sums[tasks.at(task).2 * LANES * taps..];
        for (lane, filter) in filters.chunks_exact_mut(taps).take(LANES).enumerate() {
            filter.iter_mut().zip(part.iter().skip(lane).step_by(LANES)).for_each(|(sum, value)| *sum += value);
        }
    }
    tensor(sums, [channels, 1, kernel, kernel])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    /// Frames, rows, columns, channels, kernel: channels on both sides of a line, columns on both sides of a strip of either
    /// kind, rows on both sides of a band, maps smaller than the kernel.
    const SHAPES: [[usize; 5]; 12] = [
        [1, 1, 1, 1, 7],
        [2, 3, 5, 3, 7],
        [1, 9, 16, 16, 7],
        [1, 5, 17, 17, 7],
        [3, 2, 4, 33, 7],
        [1, 25, 9, 15, 7],
        [2, 7, 35, 5, 5],
        [1, 49, 2, 4, 7],
        [1, 6, 31, 31, 3],
        [2, 4, 3, 18, 1],
        [1, 13, 33, 2, 9],
        [1, 3, 12, 20, 17],
    ];

    /// The products that both operations sum, in f64: `visit(channel, tap, place of the input, place of the output)`.
    fn for_each_product(
        [batch, rows, columns, channels, kernel]: [usize; 5],
        mut visit: impl FnMut(usize, usize, usize, usize),
    ) {
        let reach = kernel / 2;
        for to in 0..batch * rows * columns * channels {
            let (channel, column) = (to % channels, to / channels % columns);
            let (row, frame) = (to / channels / columns % rows, to / channels / columns / rows);
            for tap in 0..kernel * kernel {
                let (y, x) = (row + tap / kernel, column + tap % kernel);
                if (reach..reach + rows).contains(&y) && (reach..reach + columns).contains(&x) {
                    let from = (((frame * rows) + y - reach) * columns + x - reach) * channels + channel;
                    visit(channel, tap, from, to);
                }
            }
        }
    }

    fn assert_close(found: &FlexTensor, expected: &[f64], what: &str) {
        let largest = expected.iter().fold(0.0_f64, |max, value| max.max(value.abs()));
        assert_eq!(slice(found).len(), expected.len(), "{what}");
        for (at, (found, expected)) in slice(found).iter().zip(expected).enumerate() {
            // At most 500 additions in f32, in several sums.
            let distance = (f64::from(*found) - expected).abs();
            assert!(distance <= 2e-6 * largest.max(1.0), "{what}: {at} is {found}, expected {expected}");
        }
    }

    #[test]
    fn every_instruction_set_agrees_with_float64_on_odd_shapes() {
        for shape in SHAPES {
            let [batch, rows, columns, channels, kernel] = shape;
            let (count, taps) = (batch * rows * columns * channels, kernel * kernel);
            let (x, gradient) = (values(count, 7919), values(count, 7877));
            let (weight, bias) = (values(channels * taps, 37), values(channels, 101));
            let mut y: Vec<f64> = (0..count).map(|at| f64::from(bias[at % channels])).collect();
            let mut of_weight = vec![0.0; weight.len()];
            for_each_product(shape, |channel, tap, from, to| {
                y[to] += f64::from(x[from]) * f64::from(weight[channel * taps + tap]);
                of_weight[channel * taps + tap] += f64::from(x[from]) * f64::from(gradient[to]);
            });
            let [x, gradient] = [x, gradient].map(|values| tensor(values, [batch, rows * columns, channels]));
            let parameters = [tensor(weight, [channels, 1, kernel, kernel]), tensor(bias, [channels])];
            let grid = [rows, columns];
            for level in Level::available() {
                let what = format!("{level:?} {shape:?}");
                assert_close(&convolve(level, x.clone(), parameters.clone(), grid), &y, &what);
                let found = weight_gradient(level, [x.clone(), gradient.clone()], kernel, grid);
                assert_close(&found, &of_weight, &what);
            }
        }
    }

    #[test]
    fn the_number_of_threads_changes_no_bit() {
        let [x, gradient] = [7919, 7877].map(|step| tensor(values(2 * 61 * 37 * 35, step), [2, 61 * 37, 35]));
        let parameters = [tensor(values(35 * 49, 37), [35, 1, 7, 7]), tensor(values(35, 101), [35])];
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let y = convolve(Level::best(), x.clone(), parameters.clone(), [61, 37]);
                let of_weight = weight_gradient(Level::best(), [x.clone(), gradient.clone()], 7, [61, 37]);
                [y, of_weight].map(|tensor| slice(&tensor).iter().map(|v| v.to_bits()).collect::<Vec<_>>())
            })
        };
        assert_eq!(run(1), run(3));
    }

    #[test]
    fn tensors_that_are_views_are_read_in_their_order_and_empty_ones_are_empty() {
        let parameters = [tensor(values(5 * 9, 37), [5, 1, 3, 3]), tensor(values(5, 101), [5])];
        let view = tensor(values(90, 7919), [1, 5, 18]).transpose(1, 2);
        assert!(!view.is_contiguous());
        let run = |x| convolve(Level::best(), x, parameters.clone(), [6, 3]);
        assert_eq!(slice(&run(view.clone())), slice(&run(view.to_contiguous())));
        assert_eq!(run(tensor(Vec::new(), [0, 18, 5])).shape().dims(), [0, 18, 5]);
    }
}

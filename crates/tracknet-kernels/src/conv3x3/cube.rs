//! Dense 3×3 convolutions on GPUs, as matrix products, which matrix units compute: what lies below the taps is copied into
//! columns first. The copies are nine times the input, and still a small part of the time; frames go in pieces so that the
//! copies stay small beside the features that training keeps.

use burn::backend::TensorMetadata;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape, Slice};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use super::ops::Conv3x3Ops;
use super::reference;
use crate::cube::{cast, contiguous, elem, grid, launch, product, unwritten, vector_size};
use crate::matmul::MatmulOps;

/// Values of the columns that are in memory at once, at most, unless a single frame has more.
const MOST_VALUES: usize = 1 << 26;

/// Taps are filled up to a multiple of this with zeros: matrix units and bulk copies want whole runs of 16 bytes.
const ROUND_TAPS: usize = 8;

/// Values of a row of the columns from which on a frame is cut, so that the sums of the gradient of the weight, which are as long
/// as a frame has values, become many shorter ones.
const LONG_SUM: usize = 4096;

impl Conv3x3Ops for CubeBackend {
    fn conv3x3(x: CubeTensor, weight: CubeTensor) -> CubeTensor {
        let [batch, inputs, height, width] = x.shape().dims();
        let outputs = weight.shape()[0];
        if batch * inputs * outputs * height * width == 0 {
            return reference::forward::<Self>(x, weight);
        }
        let taps = filled_taps(inputs);
        let rows = Self::float_reshape(cast(weight, x.dtype), Shape::from([1, outputs, 9 * inputs]));
        let rows = match taps - 9 * inputs {
            0 => rows,
            missing => {
                let zeros = Self::float_zeros(Shape::from([1, outputs, missing]), &rows.device, rows.dtype.into());
                Self::float_cat(vec![rows, zeros], 2)
            }
        };
        let products = pieces(batch, taps * height * width).map(|frames| {
            let columns = columns(frames_of(&x, frames), height);
            Self::matrix_products(rows.clone(), columns)
        });
        Self::float_reshape(joined(products.collect()), Shape::from([batch, outputs, height, width]))
    }

    fn conv3x3_weight_gradient(x: CubeTensor, weight: CubeTensor, gradient: CubeTensor) -> CubeTensor {
        let [batch, inputs, height, width] = x.shape().dims();
        let outputs = weight.shape()[0];
        if batch * inputs * outputs * height * width == 0 {
            return reference::weight_gradient::<Self>(x, weight, gradient);
        }
        let (dtype, taps, rows) = (x.dtype, filled_taps(inputs), rows_of_a_part(height, width));
        let sums = pieces(batch, taps * height * width).map(|frames| {
            let parts = frames.len() * (height / rows);
            let columns = Self::float_swap_dims(columns(frames_of(&x, frames.clone()), rows), 1, 2);
            let gradient = cast(frames_of(&gradient, frames.clone()), dtype);
            let cut = Shape::from([frames.len(), outputs, height / rows, rows * width]);
            let gradient = contiguous(Self::float_swap_dims(Self::float_reshape(gradient, cut), 1, 2));
            let gradient = Self::float_reshape(gradient, Shape::from([parts, outputs, rows * width]));
            Self::float_sum_dim(product(gradient, columns, DType::F32), 0)
        });
        let sum = sums.reduce(Self::float_add).unwrap_or_else(|| unreachable!("a batch without frames was left above"));
        let of_inputs = [0..1, 0..outputs, 0..9 * inputs].map(Slice::from);
        cast(Self::float_reshape(Self::float_slice(sum, &of_inputs), Shape::from([outputs, inputs, 3, 3])), dtype)
    }
}

/// Nine taps for each input, and zeros.
fn filled_taps(inputs: usize) -> usize {
    (9 * inputs).next_multiple_of(ROUND_TAPS)
}

/// Runs of frames whose columns, `values` for each frame, are in memory together.
fn pieces(batch: usize, values: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    let frames = (MOST_VALUES / values.max(1)).max(1);
    (0..batch).step_by(frames).map(move |first| first..(first + frames).min(batch))
}

/// So many rows of a frame that they divide it and are not longer than a sum should be; a single row may be.
fn rows_of_a_part(height: usize, width: usize) -> usize {
    (1..=height).rev().find(|rows| height.is_multiple_of(*rows) && rows * width <= LONG_SUM).unwrap_or(1)
}

fn frames_of(x: &CubeTensor, frames: std::ops::Range<usize>) -> CubeTensor {
    let [batch, channels, height, width] = x.shape().dims();
    if frames.len() == batch {
        return x.clone();
    }
    CubeBackend::float_slice(x.clone(), &[frames, 0..channels, 0..height, 0..width].map(Slice::from))
}

fn joined(mut pieces: Vec<CubeTensor>) -> CubeTensor {
    match pieces.len() {
        1 => pieces.remove(0),
        _ => CubeBackend::float_cat(pieces, 0),
    }
}

/// The values that each tap meets, `[batch · height / rows, filled taps, rows · width]` from `[batch, inputs, height, width]`:
/// frames are cut in parts of so many rows, which divide the height.
fn columns(x: CubeTensor, rows: usize) -> CubeTensor {
    let x = contiguous(x);
    let [batch, inputs, height, width] = x.shape().dims();
    let taps = filled_taps(inputs);
    let out = unwritten(&x, [batch * (height / rows), taps, rows * width], x.dtype);
    let vector = vector_size(&x, x.dtype, [width]);
    let units = batch * taps * height * width / vector;
    // SAFETY: a unit writes the vector of its position if that is below their count; it reads values of the row above, at or
    // below its own, and of the columns left, at and right of its own, that lie within the map.
    unsafe {
        launch!(
            copy,
            grid(&x, units),
            [vector],
            [x, out],
            units,
            MapsLaunch::new(inputs, taps, height, width, rows),
            elem(out.dtype)
        );
    }
    out
}

/// The sizes of the copy.
#[derive(CubeType, CubeLaunch, Clone, Copy)]
struct Maps {
    inputs: usize,
    taps: usize,
    height: usize,
    width: usize,
    /// Of a part.
    rows: usize,
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn copy<F: Float, N: Size>(x: &[F], out: &mut [Vector<F, N>], units: usize, maps: Maps, #[define(F)] _dtype: ElemType) {
    if ABSOLUTE_POS >= units {
        terminate!();
    }
    let vectors = maps.width / N::value();
    let left = ABSOLUTE_POS % vectors * N::value();
    let rest = ABSOLUTE_POS / vectors;
    let row_of_part = rest % maps.rows;
    let rest = rest / maps.rows;
    let tap = rest % maps.taps;
    let part = rest / maps.taps;
    let parts = maps.height / maps.rows;
    let input = tap / 9;
    // One more than the row and the column that the tap meets, which may be −1.
    let row = part % parts * maps.rows + row_of_part + tap % 9 / 3;
    let column = left + tap % 3;

    let mut values = Vector::<F, N>::new(F::new(0.0f32));
    if input < maps.inputs && row >= 1 && row <= maps.height {
        let start = ((part / parts * maps.inputs + input) * maps.height + row - 1) * maps.width;
        #[unroll]
        for i in 0..N::value() {
            if column + i >= 1 && column + i <= maps.width {
                values.insert(i, x[start + column + i - 1]);
            }
        }
    }
    out[ABSOLUTE_POS] = values;
}

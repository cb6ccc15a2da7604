//! Floats to 4 bits.

// A kernel's loops run over indices: CubeCL has no iterators of slices.
#![allow(clippy::needless_range_loop)]

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, TensorData};
use burn_cubecl::CubeBackend;
use burn_cubecl::cubecl::{self, prelude::*};
use burn_cubecl::tensor::CubeTensor;

use crate::cube::{cast, contiguous, count, expect, grid, launch, unwritten, vector_size};
use crate::fourbit::QuantType;

/// Borders between neighbouring codes; the codes in their order lie behind them in the table.
const BORDERS: usize = 15;

/// The largest magnitude of each block, `[blocks]`.
pub(super) fn block_maxima(weight: CubeTensor, blocksize: usize) -> CubeTensor {
    let weight = contiguous(cast(weight, DType::F32));
    let values = count(&weight);
    let blocks = values.div_ceil(blocksize);
    let maxima = unwritten(&weight, [blocks], DType::F32);
    // Block sizes are multiples of 32, so vectors cross no border of a block.
    let width = vector_size(&weight, DType::F32, [values]);
    // SAFETY: a unit reads from the start of its block to its end or that of the weight, and writes one maximum, if its
    // position is below the count of blocks.
    unsafe {
        launch!(maximum, grid(&weight, blocks), [width], [weight, maxima], blocks, values / width, blocksize / width);
    }
    maxima
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn maximum<N: Size>(
    weight: &[Vector<f32, N>],
    maxima: &mut [f32],
    blocks: usize,
    vectors: usize,
    vectors_per_block: usize,
) {
    let block = ABSOLUTE_POS;
    if block >= blocks {
        terminate!();
    }
    let start = block * vectors_per_block;
    let end = min(start + vectors_per_block, vectors);
    // As integers, magnitudes of floats sort like the floats, with infinity and NaN above all.
    let mut largest = 0u32;
    for at in start..end {
        let values = Vector::<u32, N>::reinterpret(weight[at]);
        #[unroll]
        for i in 0..N::value() {
            largest = max(largest, values.extract(i) & 0x7fff_ffffu32);
        }
    }
    maxima[block] = f32::reinterpret(largest);
}

/// The codes of all values, `[ceil(values / 2)]`: those nearest to `value · reciprocal` of their block.
pub(super) fn block_codes(
    weight: CubeTensor,
    reciprocals: CubeTensor,
    quant_type: QuantType,
    blocksize: usize,
) -> CubeTensor {
    let [weight, reciprocals] = [weight, reciprocals].map(|tensor| contiguous(cast(tensor, DType::F32)));
    let values = count(&weight);
    let bytes = values.div_ceil(2);
    expect([(&reciprocals, values.div_ceil(blocksize), DType::F32)]);
    let table: Vec<f32> =
        quant_type.midpoints().iter().copied().chain(quant_type.order().iter().map(|code| f32::from(*code))).collect();
    let entries = table.len();
    let table = CubeBackend::float_from_data(TensorData::new(table, [entries]), &weight.device);
    let packed = unwritten(&weight, [bytes], DType::U8);
    // SAFETY: a unit reads at most two values, the second only if the weight has it, the reciprocal of their block
    // (there is one for each, checked), and writes one byte, if its position is below the count of bytes.
    unsafe {
        launch!(
            codes,
            grid(&weight, bytes),
            [],
            [weight, reciprocals, table, packed],
            values,
            blocksize,
            u32::from(quant_type.zero_code())
        );
    }
    packed
}

#[cube(launch_unchecked, address_type = "dynamic")]
#[allow(clippy::too_many_arguments)]
fn codes(
    weight: &[f32],
    reciprocals: &[f32],
    table: &[f32],
    packed: &mut [u8],
    values: usize,
    blocksize: usize,
    #[comptime] zero: u32,
) {
    let first = 2 * ABSOLUTE_POS;
    if first >= values {
        terminate!();
    }
    // Block sizes are even: both values lie in one block.
    let reciprocal = reciprocals[first / blocksize];
    let high = code(weight[first], reciprocal, table, zero);
    let low = if first + 1 < values { code(weight[first + 1], reciprocal, table, zero) } else { zero.runtime() };
    packed[ABSOLUTE_POS] = u8::cast_from((high << 4u32) | low);
}

/// The code nearest to `value · reciprocal`, the lower one on a border; that of zero in a block of zeros.
#[cube]
fn code(value: f32, reciprocal: f32, table: &[f32], #[comptime] zero: u32) -> u32 {
    let scaled = value * reciprocal;
    let mut rank = 0u32;
    #[unroll]
    for border in 0..BORDERS {
        rank += u32::cast_from(scaled > table[border]);
    }
    select(reciprocal == 0.0f32, zero.runtime(), u32::cast_from(table[BORDERS + rank as usize]))
}

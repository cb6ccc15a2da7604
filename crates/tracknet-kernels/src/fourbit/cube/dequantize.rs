//! 4 bits to floats.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, TensorData};
use burn_cubecl::cubecl::ir::ElemType;
use burn_cubecl::cubecl::{self, calculate_cube_count_elemwise, prelude::*};
use burn_cubecl::tensor::CubeTensor;
use burn_cubecl::{CubeBackend, CubeDevice};

use crate::cube::{contiguous, elem, expect, launch, unwritten, vector_size};
use crate::fourbit::codebook::dynamic_map;
use crate::fourbit::nested::NESTED_BLOCKSIZE;
use crate::fourbit::ops::PackedFormat;
use crate::fourbit::{ComputeDtype, QuantType};

/// Units of a cube; the number of scales that are shared at once.
const UNITS: usize = 256;
/// Values of the 4-bit code; the 8-bit map lies behind them in the table.
const CODES: usize = 16;

/// A weight whose rows can be unpacked.
pub(super) struct Unpacker {
    packed: CubeTensor,
    scales: CubeTensor,
    scale_codes: CubeTensor,
    /// The 4-bit code, then the 8-bit map.
    table: CubeTensor,
    pub(super) format: PackedFormat,
}

impl Unpacker {
    pub(super) fn new(packed: CubeTensor, scales: CubeTensor, scale_codes: CubeTensor, format: PackedFormat) -> Self {
        let table = table(format.quant_type, &packed.device);
        let [packed, scales, scale_codes] = [packed, scales, scale_codes].map(contiguous);
        let values = format.shape[0] * format.shape[1];
        let blocks = values.div_ceil(format.blocksize);
        expect([(&packed, values.div_ceil(2), DType::U8)]);
        match format.offset {
            Some(_) => {
                expect([(&scale_codes, blocks, DType::U8), (&scales, blocks.div_ceil(NESTED_BLOCKSIZE), DType::F32)])
            }
            None => expect([(&scales, blocks, DType::F32)]),
        }
        Self { packed, scales, scale_codes, table, format }
    }

    /// Rows of the weight, `[rows, in]`, rounded to the compute dtype, as `dtype`, which holds such values exactly.
    ///
    /// The range must begin at an even value of the weight.
    pub(super) fn rows(&self, rows: Range<usize>, dtype: DType) -> CubeTensor {
        let [out_features, in_features] = self.format.shape;
        assert!(rows.start <= rows.end && rows.end <= out_features, "rows {rows:?} of {out_features}");
        let (first, values) = (rows.start * in_features, rows.len() * in_features);
        debug_assert!(first.is_multiple_of(2), "a byte holds two values");
        let (first, bytes) = (first / 2, values.div_ceil(2));
        // Of an odd count, the last byte holds one value and padding; there must be room for both.
        let room = unwritten(&self.packed, [2 * bytes], dtype);
        let width = vector_size(&self.packed, dtype, [2 * first, 2 * bytes]) / 2;
        let units = bytes / width;
        let dim = CubeDim::new_1d(UNITS as u32);
        let cubes = calculate_cube_count_elemwise(&self.packed.client, units, dim);
        // SAFETY: a unit reads the bytes and writes the values of its position only if that is below `units`, whose
        // vectors fill `room` and end within `packed`; blocks, and codes of blocks, follow from the position of a value
        // of the weight, whose lengths are those of its format (checked in `new`).
        unsafe {
            launch!(
                unpack,
                (cubes, dim),
                [width, 2 * width],
                [self.packed, self.scales, self.scale_codes, self.table, room],
                units,
                first / width,
                self.format.offset.unwrap_or(0.0),
                self.format.blocksize,
                self.format.offset.is_some(),
                self.format.compute_dtype,
                elem(dtype)
            );
        }
        CubeTensor::new_contiguous(room.client, room.device, [rows.len(), in_features].into(), room.handle, dtype)
    }
}

/// The 4-bit code, then the 8-bit map, on a device; copied there once.
fn table(quant_type: QuantType, device: &CubeDevice) -> CubeTensor {
    static TABLES: Mutex<Vec<(QuantType, CubeDevice, CubeTensor)>> = Mutex::new(Vec::new());
    let mut tables = TABLES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, _, table)) = tables.iter().find(|(code, place, _)| *code == quant_type && place == device) {
        return table.clone();
    }
    let values: Vec<f32> = quant_type.codes().iter().chain(dynamic_map()).copied().collect();
    let count = values.len();
    let table = CubeBackend::float_from_data(TensorData::new(values, [count]), device);
    tables.push((quant_type, device.clone(), table.clone()));
    table
}

#[cube(launch_unchecked, address_type = "dynamic")]
fn unpack<F: Float, NB: Size, NV: Size>(
    packed: &[Vector<u8, NB>],
    scales: &[f32],
    scale_codes: &[u8],
    table: &[f32],
    values: &mut [Vector<F, NV>],
    units: usize,
    first: usize,
    offset: f32,
    #[comptime] blocksize: usize,
    #[comptime] nested: bool,
    #[comptime] compute_dtype: ComputeDtype,
    #[define(F)] _dtype: ElemType,
) {
    // All units reach the barrier; those past the end repeat the last.
    let inside = ABSOLUTE_POS < units;
    let at = first + select(inside, ABSOLUTE_POS, units - 1);
    let width = NB::value();
    let block = at * comptime!(2 * width) / blocksize;
    let scale = if comptime!(nested) {
        // The product is rounded before the offset is added. Through shared memory no compiler fuses the two.
        let mut products = Shared::<[f32]>::new_slice(UNITS);
        let level = table[CODES + usize::cast_from(scale_codes[block])];
        products[UNIT_POS as usize] = level * scales[block / NESTED_BLOCKSIZE];
        sync_cube();
        products[UNIT_POS as usize] + offset
    } else {
        scales[block]
    };
    if inside {
        let bytes = packed[at];
        let mut out = Vector::<F, NV>::empty();
        #[unroll]
        for i in 0..width {
            let byte = u32::cast_from(bytes.extract(i));
            let high = table[(byte >> 4u32) as usize] * scale;
            let low = table[(byte & 15u32) as usize] * scale;
            out.insert(2 * i, F::cast_from(round(high, compute_dtype)));
            out.insert(2 * i + 1, F::cast_from(round(low, compute_dtype)));
        }
        values[ABSOLUTE_POS] = out;
    }
}

/// The value rounded to a type, to nearest with ties to even, whatever the device's own conversion does.
#[cube]
pub(super) fn round(value: f32, #[comptime] dtype: ComputeDtype) -> f32 {
    match dtype {
        ComputeDtype::F32 => value,
        ComputeDtype::Bf16 => round_bits(value, 16u32),
        ComputeDtype::F16 => {
            // Below 2^-14 the values of float16 are the multiples of 2^-24. Counted as integers: a compiler may reorder sums of
            // floats that were to round.
            let steps = min(value.abs() * 16_777_216.0f32, 2048.0f32);
            let whole = u32::cast_from(steps);
            let rest = steps - f32::cast_from(whole);
            let up = select(whole & 1u32 == 1u32, rest >= 0.5f32, rest > 0.5f32);
            let small = f32::cast_from(whole + select(up, 1u32, 0u32)) * 5.960_464_5e-8_f32;
            let small = select(value < 0.0f32, -small, small);
            select(value.abs() < 6.103_515_6e-5_f32, small, round_bits(value, 13u32))
        }
    }
}

/// Without the lowest `bits` of the significand.
#[cube]
fn round_bits(value: f32, #[comptime] bits: u32) -> f32 {
    let all = u32::reinterpret(value);
    let half = comptime!((1u32 << (bits - 1)) - 1);
    let mask = comptime!(!((1u32 << bits) - 1));
    f32::reinterpret((all + half + ((all >> bits) & 1u32)) & mask)
}

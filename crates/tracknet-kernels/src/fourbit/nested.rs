//! Double quantization: the block scales in 8 bits (QLoRA, section 3).

use std::sync::LazyLock;

use super::Absmax;
use super::codebook::dynamic_map;

/// Scales that share one second-level scale.
pub const NESTED_BLOCKSIZE: usize = 256;

/// Quantizes block scales: subtract their mean, then blocks of 256 take the nearest value of the signed dynamic map.
pub(super) fn quantize_scales(scales: &[f32]) -> Absmax {
    let offset = mean(scales);
    let mut codes = Vec::with_capacity(scales.len());
    let mut absmax = Vec::with_capacity(scales.len().div_ceil(NESTED_BLOCKSIZE));
    for block in scales.chunks(NESTED_BLOCKSIZE) {
        let max = block.iter().fold(0.0_f32, |max, scale| max.max((scale - offset).abs()));
        absmax.push(max);
        let reciprocal = 1.0 / max;
        codes.extend(block.iter().map(|scale| match max {
            0.0 => 0,
            _ if reciprocal.is_finite() => nearest_code((scale - offset) * reciprocal),
            _ => nearest_code((scale - offset) / max),
        }));
    }
    Absmax::Nested { codes, absmax, offset }
}

/// The scale of block `block`: two roundings, never a fused multiply-add.
pub(super) fn nested_scale(code: u8, absmax: f32, offset: f32) -> f32 {
    let product = dynamic_map()[usize::from(code)] * absmax;
    product + offset
}

/// The nearest code of a value in `[-1, 1]`.
///
/// bitsandbytes looks the code up in a table of 65536 evenly spaced values; the value is therefore snapped to that grid
/// first. This moves a code only when the value lies within half a grid step of a border.
fn nearest_code(value: f32) -> u8 {
    static CODES: LazyLock<Vec<u8>> = LazyLock::new(codes_of_cells);
    let cell = ((value.clamp(-1.0, 1.0) + 1.0) * 0.5 * CELLS_BELOW_ONE + 0.5) as usize;
    CODES[cell]
}

/// The last cell of the grid: that of 1.
const CELLS_BELOW_ONE: f32 = 65535.0;

/// The nearest code of each cell; both rise together.
fn codes_of_cells() -> Vec<u8> {
    let map = dynamic_map();
    let mut code = 0;
    (0..=CELLS_BELOW_ONE as u32)
        .map(|cell| {
            let snapped = (-1.0 + 2.0 * f64::from(cell) / f64::from(CELLS_BELOW_ONE)) as f32;
            while code < 255 && snapped > (map[code] + map[code + 1]) / 2.0 {
                code += 1;
            }
            code as u8
        })
        .collect()
}

/// The mean of the scales in f32, in the order in which PyTorch adds (8 lanes, 4 rows of them, pairwise over 4 levels):
/// the offset is stored in files, so its last bit matters.
///
/// PyTorch splits more than 32768 scales over its threads, so above that its own last bits depend on the machine.
fn mean(scales: &[f32]) -> f32 {
    cascade_sum(scales) / scales.len() as f32
}

const LANES: usize = 8;
const ROWS: usize = 4;
const LEVELS: usize = 4;
type Row = [f32; LANES];

fn cascade_sum(values: &[f32]) -> f32 {
    let (vectors, rest) = values.as_chunks::<LANES>();
    let (groups, single) = vectors.as_chunks::<ROWS>();
    let [mut total, others @ ..] = sum_groups(groups);
    single.iter().chain(&others).for_each(|row| add(&mut total, row));
    rest.iter().chain(&total).fold(0.0, |sum, value| sum + value)
}

/// Column sums of groups of four rows. Runs of `2^power` groups are summed apart and carried up like digits.
fn sum_groups(groups: &[[Row; ROWS]]) -> [Row; ROWS] {
    let power = (groups.len().next_power_of_two().trailing_zeros() as usize / LEVELS).max(4);
    let mask = (1 << power) - 1;
    let mut levels = [[[0.0; LANES]; ROWS]; LEVELS];
    let (runs, tail) = groups.split_at(groups.len() >> power << power);
    for (run, groups) in runs.chunks(1 << power).enumerate() {
        groups.iter().for_each(|group| add_group(&mut levels[0], group));
        let summed = (run + 1) << power;
        for level in 1..LEVELS {
            let carried = std::mem::take(&mut levels[level - 1]);
            add_group(&mut levels[level], &carried);
            if summed & (mask << (level * power)) != 0 {
                break;
            }
        }
    }
    tail.iter().for_each(|group| add_group(&mut levels[0], group));
    let [mut sum, higher @ ..] = levels;
    higher.iter().for_each(|group| add_group(&mut sum, group));
    sum
}

fn add_group(sum: &mut [Row; ROWS], group: &[Row; ROWS]) {
    sum.iter_mut().zip(group).for_each(|(sum, row)| add(sum, row));
}

fn add(sum: &mut Row, row: &Row) {
    sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cascade_adds_every_value_once_whatever_the_length() {
        // Small integers add exactly in f32, so any lost or doubled value shows.
        for length in [1, 7, 8, 31, 32, 33, 511, 512, 513, 1100, 9000, 20_011] {
            let values: Vec<f32> = (0..length).map(|i| (i % 13) as f32).collect();
            let expected: u32 = (0..length).map(|i| i % 13).sum();
            assert_eq!(cascade_sum(&values), expected as f32, "length {length}");
        }
    }

    #[test]
    fn every_value_of_the_map_is_its_own_nearest_code() {
        // Values closer to their neighbour than the snapping grid (2/65535) cannot be told apart by it.
        let coarse = 2.0 / 65535.0;
        let map = dynamic_map();
        for (code, value) in map.iter().enumerate().filter(|(_, v)| v.abs() > 100.0 * coarse) {
            assert_eq!(usize::from(nearest_code(*value)), code);
        }
        assert_eq!((nearest_code(-1.0), nearest_code(1.0)), (0, 255));
    }

    #[test]
    fn scales_come_back_within_the_widest_step_of_the_map() {
        let scales: Vec<f32> = (0..700).map(|i| 0.02 + ((i * 7919) % 701) as f32 / 701.0).collect();
        let Absmax::Nested { codes, absmax, offset } = quantize_scales(&scales) else { panic!("nested") };
        assert_eq!((codes.len(), absmax.len()), (700, 3));
        for (i, scale) in scales.iter().enumerate() {
            let max = absmax[i / NESTED_BLOCKSIZE];
            // The widest step is 0.9/64 of a block's largest value; half of it, and half a snapping step.
            let bound = max * (0.9 / 128.0 + 1.0 / 65535.0) + 1e-6;
            assert!((nested_scale(codes[i], max, offset) - scale).abs() <= bound);
        }
    }
}

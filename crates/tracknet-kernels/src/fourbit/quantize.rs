//! f32 weights to 4 bits, bit for bit as bitsandbytes does it on the CPU.

use super::nested::quantize_scales;
use super::packed::{Layout, QuantizeOptions};
use super::{Absmax, PackedWeight, QuantType, QuantizeError};
use crate::parallel::Threads;
use crate::simd::{Kernel, Level, Simd};

/// Blocks that one task takes; it only sets the grain of the work, never a result.
const BLOCKS_PER_TASK: usize = 256;

impl PackedWeight {
    /// Quantizes a row-major weight `[out_features, in_features]`. Values of bf16 or f16 sources are passed widened.
    ///
    /// The result does not depend on the number of threads.
    ///
    /// # Errors
    /// A length that does not fit the shape, a block size outside of the format, or a value that is not finite (the
    /// first one is named).
    pub fn quantize(weight: &[f32], shape: [usize; 2], options: &QuantizeOptions) -> Result<Self, QuantizeError> {
        Self::quantize_with(Level::best(), weight, shape, options)
    }

    /// [`Self::quantize`] on a level of choice; all give the same bits.
    fn quantize_with(
        level: Level,
        weight: &[f32],
        shape: [usize; 2],
        options: &QuantizeOptions,
    ) -> Result<Self, QuantizeError> {
        let QuantizeOptions { quant_type, blocksize, double_quant } = *options;
        let layout = Layout::new(shape, blocksize)?;
        layout.check("weight", weight.len(), layout.elements)?;

        let mut packed = vec![0_u8; layout.bytes];
        let mut scales = vec![0.0_f32; layout.blocks];
        let tasks: Vec<_> = packed
            .chunks_mut(blocksize / 2 * BLOCKS_PER_TASK)
            .zip(scales.chunks_mut(BLOCKS_PER_TASK))
            .zip(weight.chunks(blocksize * BLOCKS_PER_TASK))
            .map(|((packed, scales), values)| Blocks { quant_type, blocksize, values, packed, scales })
            .collect();
        if Threads::of_caller().map(tasks, |blocks| level.run(blocks)).contains(&false) {
            let index = weight.iter().position(|v| !v.is_finite()).unwrap_or_default();
            let value = weight.get(index).copied().unwrap_or(f32::NAN);
            return Err(QuantizeError::NonFinite { index, value });
        }

        let absmax = if double_quant { quantize_scales(&scales) } else { Absmax::Plain(scales) };
        Self::from_parts(shape, quant_type, blocksize, packed, absmax)
    }
}

/// Some blocks with the places of their codes and scales. Returns whether all values are finite.
struct Blocks<'a> {
    quant_type: QuantType,
    blocksize: usize,
    values: &'a [f32],
    packed: &'a mut [u8],
    scales: &'a mut [f32],
}

impl Kernel for Blocks<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        let Self { quant_type, blocksize, values, packed, scales } = self;
        let steps = Steps::of(quant_type);
        let blocks = packed.chunks_mut(blocksize / 2).zip(scales).zip(values.chunks(blocksize));
        let mut finite = true;
        for ((packed, scale), values) in blocks {
            let absmax = absmax(values);
            *scale = absmax;
            finite &= absmax.is_finite();
            pack_block(&steps, values, absmax, values.len() == blocksize, packed);
        }
        finite
    }
}

/// A code as a function of the value: where it changes and by how much, so that no table is looked up for each value.
pub(super) struct Steps {
    lowest: u32,
    /// Border between neighbouring codes, and what the code above it has more than the one below, modulo 2³².
    borders: [(f32, u32); 15],
    zero: u8,
}

impl Steps {
    pub(super) fn of(quant_type: QuantType) -> Self {
        let order = quant_type.order();
        let step = |i: usize| u32::from(order[i + 1]).wrapping_sub(u32::from(order[i]));
        let borders = std::array::from_fn(|i| (quant_type.midpoints()[i], step(i)));
        Self { lowest: u32::from(order[0]), borders, zero: quant_type.zero_code() }
    }
}

/// The largest magnitude; not finite if any value is not.
#[inline(always)]
fn absmax(values: &[f32]) -> f32 {
    // As integers, magnitudes of floats sort like the floats, with infinity and NaN above all.
    let mut max = 0;
    for value in values {
        max = max.max(value.to_bits() & 0x7fff_ffff);
    }
    f32::from_bits(max)
}

/// Whether values of a block are multiplied by the reciprocal of its largest magnitude. Full blocks are, a short last block
/// divides: the last bit decides at code borders. The reciprocal of a subnormal overflows, so those divide too.
pub(super) fn multiplies(absmax: f32, full: bool) -> bool {
    full && (1.0 / absmax).is_finite()
}

/// Writes the codes of one block of at most 4096 values.
#[inline(always)]
pub(super) fn pack_block(steps: &Steps, values: &[f32], absmax: f32, full: bool, packed: &mut [u8]) {
    if absmax == 0.0 {
        // 0/0 has no nearest code. The code of 0 stays zero whatever scale double quantization gives back.
        packed.fill(steps.zero << 4 | steps.zero);
        return;
    }
    let reciprocal = 1.0 / absmax;
    let multiply = multiplies(absmax, full);
    for (values, packed) in values.chunks(GROUP).zip(packed.chunks_mut(GROUP / 2)) {
        let mut scaled = [0.0_f32; GROUP];
        if let (true, Some(values)) = (multiply, values.first_chunk::<GROUP>()) {
            for (scaled, value) in scaled.iter_mut().zip(values) {
                *scaled = value * reciprocal;
            }
        } else {
            for (scaled, value) in scaled.iter_mut().zip(values) {
                *scaled = if multiply { value * reciprocal } else { value / absmax };
            }
        }
        let bytes = pack_group(steps, &scaled);
        match packed.first_chunk_mut() {
            Some(packed) => *packed = bytes,
            None => packed.copy_from_slice(&bytes[..packed.len()]),
        }
    }
    if values.len() % 2 == 1
        && let Some(last) = packed.last_mut()
    {
        *last = (*last & 0xf0) | steps.zero;
    }
}

/// Values that are packed at once.
const GROUP: usize = 32;

/// The codes of values in `[-1, 1]`, two a byte.
#[inline(always)]
fn pack_group(steps: &Steps, scaled: &[f32; GROUP]) -> [u8; GROUP / 2] {
    let mut codes = [steps.lowest; GROUP];
    for (border, step) in steps.borders {
        for (code, scaled) in codes.iter_mut().zip(scaled) {
            *code = code.wrapping_add(if *scaled > border { step } else { 0 });
        }
    }
    let mut bytes = [0; GROUP / 2];
    for (byte, pair) in bytes.iter_mut().zip(codes.as_chunks::<2>().0) {
        *byte = (pair[0] << 4 | pair[1]) as u8;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize(values: &[f32], double_quant: bool, quant_type: QuantType) -> PackedWeight {
        let options = QuantizeOptions { quant_type, blocksize: 64, double_quant };
        PackedWeight::quantize(values, [1, values.len()], &options).unwrap()
    }

    #[test]
    fn the_first_value_goes_to_the_high_nibble() {
        assert_eq!(quantize(&[1.0, -1.0], false, QuantType::Nf4).packed(), [0xf0]);
        assert_eq!(quantize(&[1.0, -1.0], false, QuantType::Fp4).packed(), [0x3b]);
    }

    #[test]
    fn an_odd_count_is_padded_with_the_code_of_zero() {
        assert_eq!(quantize(&[-1.0, 1.0, 1.0], false, QuantType::Nf4).packed(), [0x0f, 0xf7]);
        assert_eq!(quantize(&[-1.0, 1.0, 1.0], false, QuantType::Fp4).packed(), [0xb3, 0x30]);
    }

    #[test]
    fn minus_zero_takes_the_code_that_zero_takes() {
        for quant_type in [QuantType::Nf4, QuantType::Fp4] {
            let (plus, minus) = (quantize(&[1.0, 0.0], false, quant_type), quantize(&[1.0, -0.0], false, quant_type));
            assert_eq!(plus, minus);
        }
    }

    #[test]
    fn all_zero_blocks_read_back_as_zero_even_with_quantized_scales() {
        for quant_type in [QuantType::Nf4, QuantType::Fp4] {
            for double_quant in [false, true] {
                let mut values = vec![0.0; 64 * 5 + 3];
                values[70] = 3.0;
                let weight = quantize(&values, double_quant, quant_type);
                let back = weight.dequantize();
                assert!(back.iter().enumerate().all(|(i, v)| i == 70 || *v == 0.0), "{quant_type} {double_quant}");
                if let Absmax::Plain(scales) = weight.absmax() {
                    assert_eq!(scales, &[0.0, 3.0, 0.0, 0.0, 0.0, 0.0]);
                }
            }
        }
    }

    #[test]
    fn a_constant_absmax_survives_double_quantization() {
        let values: Vec<f32> = (0..64 * 300).map(|i| if i % 2 == 0 { 0.3 } else { -0.3 }).collect();
        let back = quantize(&values, true, QuantType::Nf4).dequantize();
        // The mean of equal scales may be a few rounding steps off; nothing else is lost.
        assert!(values.iter().zip(&back).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn subnormal_blocks_are_scaled_without_overflow() {
        let tiny = f32::from_bits(1000);
        let back = quantize(&[&[tiny, -tiny, 0.0, tiny][..], &[0.0; 60]].concat(), false, QuantType::Nf4).dequantize();
        assert_eq!(back[..4], [tiny, -tiny, 0.0, tiny]);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits_at_any_length() {
        let mut values = tracknet_testing::values(9001, 1);
        // A block of zeros, a block of subnormal numbers, and values on the borders.
        values[128..256].fill(0.0);
        values[256..320].iter_mut().for_each(|v| *v = f32::from_bits(v.to_bits() >> 9));
        for quant_type in [QuantType::Nf4, QuantType::Fp4] {
            values[64] = 1.0;
            values[65..80].copy_from_slice(quant_type.midpoints());
            for (blocksize, double_quant) in [(64, true), (128, false), (4096, true)] {
                let options = QuantizeOptions { quant_type, blocksize, double_quant };
                for length in [1, 2, 31, 33, 63, 65, 127, 321, 4097, 9001] {
                    let with =
                        |level| PackedWeight::quantize_with(level, &values[..length], [1, length], &options).unwrap();
                    let expected = with(Level::PORTABLE);
                    for level in Level::available() {
                        assert_eq!(with(level), expected, "{level:?} {quant_type} {blocksize} {length}");
                    }
                }
            }
        }
    }

    #[test]
    fn codes_are_those_whose_borders_enclose_the_value() {
        for quant_type in [QuantType::Nf4, QuantType::Fp4] {
            let values: Vec<f32> = (0..=2000).map(|i| i as f32 / 1000.0 - 1.0).collect();
            let packed = PackedWeight::quantize(
                &values,
                [1, 2001],
                &QuantizeOptions { quant_type, blocksize: 4096, double_quant: false },
            );
            let packed = packed.unwrap();
            for (i, value) in values.iter().enumerate() {
                let byte = packed.packed()[i / 2];
                let rank = quant_type.midpoints().iter().filter(|border| *value > **border).count();
                let found = if i % 2 == 0 { byte >> 4 } else { byte & 15 };
                assert_eq!(found, quant_type.order()[rank], "{quant_type} {value}");
            }
        }
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_named() {
        for (bad, at) in [(f32::NAN, 65), (f32::INFINITY, 0), (f32::NEG_INFINITY, 129)] {
            let mut values = vec![0.5; 130];
            values[at] = bad;
            values[129] = f32::NEG_INFINITY;
            let error = PackedWeight::quantize(&values, [2, 65], &QuantizeOptions::default()).unwrap_err();
            let QuantizeError::NonFinite { index, value } = error else { panic!("{error}") };
            assert_eq!((index, value.to_bits()), (at, bad.to_bits()));
        }
    }

    #[test]
    fn a_length_that_does_not_fit_the_shape_is_refused() {
        let error = PackedWeight::quantize(&[0.0; 5], [2, 3], &QuantizeOptions::default()).unwrap_err();
        assert!(error.to_string().contains("holds 5 elements; shape [2, 3] needs 6"), "{error}");
    }
}

//! f32 weights to 4 bits, bit for bit as bitsandbytes does it on the CPU.

use rayon::prelude::*;

use super::nested::quantize_scales;
use super::packed::{Layout, QuantizeOptions};
use super::{Absmax, PackedWeight, QuantType, QuantizeError};

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
        let QuantizeOptions { quant_type, blocksize, double_quant } = *options;
        let layout = Layout::new(shape, blocksize)?;
        layout.check("weight", weight.len(), layout.elements)?;

        let mut packed = vec![0_u8; layout.bytes];
        let mut scales = vec![0.0_f32; layout.blocks];
        let finite = packed
            .par_chunks_mut(blocksize / 2 * BLOCKS_PER_TASK)
            .zip(scales.par_chunks_mut(BLOCKS_PER_TASK))
            .zip(weight.par_chunks(blocksize * BLOCKS_PER_TASK))
            .map(|((packed, scales), values)| {
                let blocks = packed.chunks_mut(blocksize / 2).zip(scales).zip(values.chunks(blocksize));
                let mut finite = true;
                for ((packed, scale), values) in blocks {
                    let absmax = absmax(values);
                    *scale = absmax;
                    finite &= absmax.is_finite();
                    pack_block(quant_type, values, absmax, values.len() == blocksize, packed);
                }
                finite
            })
            .reduce(|| true, |a, b| a && b);
        if !finite {
            let index = weight.iter().position(|v| !v.is_finite()).unwrap_or_default();
            let value = weight.get(index).copied().unwrap_or(f32::NAN);
            return Err(QuantizeError::NonFinite { index, value });
        }

        let absmax = if double_quant { quantize_scales(&scales) } else { Absmax::Plain(scales) };
        Self::from_parts(shape, quant_type, blocksize, packed, absmax)
    }
}

/// The largest magnitude; not finite if any value is not.
fn absmax(values: &[f32]) -> f32 {
    // As integers, magnitudes of floats sort like the floats, with infinity and NaN above all.
    f32::from_bits(values.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff)))
}

/// Whether values of a block are multiplied by the reciprocal of its largest magnitude. Full blocks are, a short last block
/// divides: the last bit decides at code borders. The reciprocal of a subnormal overflows, so those divide too.
pub(super) fn multiplies(absmax: f32, full: bool) -> bool {
    full && (1.0 / absmax).is_finite()
}

/// Writes the codes of one block of at most 4096 values.
pub(super) fn pack_block(quant_type: QuantType, values: &[f32], absmax: f32, full: bool, packed: &mut [u8]) {
    let zero = quant_type.zero_code();
    if absmax == 0.0 {
        // 0/0 has no nearest code. The code of 0 stays zero whatever scale double quantization gives back.
        packed.fill(zero << 4 | zero);
        return;
    }
    let reciprocal = 1.0 / absmax;
    let multiply = multiplies(absmax, full);
    let mut ranks = [0_u32; 64];
    let order = quant_type.order();
    let code = |rank: u32| order[(rank & 15) as usize];
    for (values, packed) in values.chunks(64).zip(packed.chunks_mut(32)) {
        let mut scaled = [0.0_f32; 64];
        for (scaled, value) in scaled.iter_mut().zip(values) {
            *scaled = if multiply { value * reciprocal } else { value / absmax };
        }
        ranks.fill(0);
        for border in quant_type.midpoints() {
            for (rank, scaled) in ranks.iter_mut().zip(&scaled) {
                *rank += u32::from(scaled > border);
            }
        }
        for (byte, pair) in packed.iter_mut().zip(ranks.chunks_exact(2)) {
            if let [first, second] = pair {
                *byte = code(*first) << 4 | code(*second);
            }
        }
    }
    if values.len() % 2 == 1
        && let Some(last) = packed.last_mut()
    {
        *last = (*last & 0xf0) | zero;
    }
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

//! 4 bits back to floats.

use half::{bf16, f16};

use super::nested::{NESTED_BLOCKSIZE, nested_scale};
use super::{PackedWeight, QuantType};
use crate::parallel::Threads;

/// Values that one task writes; it only sets the grain of the work, never a result.
const VALUES_PER_TASK: usize = 1 << 15;

/// The type that dequantized weights are rounded to before they multiply.
///
/// With bfloat16 the activations are rounded too, right before the product; otherwise they keep their own type. Products
/// accumulate in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ComputeDtype {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// No rounding.
    F32,
}

impl ComputeDtype {
    /// The value after one rounding to this type (to nearest, ties to even).
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::Bf16 => bf16::from_f32(value).to_f32(),
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::F32 => value,
        }
    }
}

/// Borrowed block scales.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AbsmaxView<'a> {
    Plain(&'a [f32]),
    Nested { codes: &'a [u8], absmax: &'a [f32], offset: f32 },
}

impl AbsmaxView<'_> {
    pub(super) fn scale(&self, block: usize) -> f32 {
        match self {
            Self::Plain(scales) => scales[block],
            Self::Nested { codes, absmax, offset } => {
                nested_scale(codes[block], absmax[block / NESTED_BLOCKSIZE], *offset)
            }
        }
    }
}

/// A 4-bit weight as borrowed slices, for kernels that read it in pieces.
#[derive(Debug, Clone, Copy)]
pub struct PackedView<'a> {
    packed: &'a [u8],
    absmax: AbsmaxView<'a>,
    quant_type: QuantType,
    blocksize: usize,
    elements: usize,
}

impl<'a> PackedView<'a> {
    /// The caller has checked the lengths against each other.
    pub(super) fn new_checked(
        packed: &'a [u8],
        absmax: AbsmaxView<'a>,
        quant_type: QuantType,
        blocksize: usize,
        elements: usize,
    ) -> Self {
        Self { packed, absmax, quant_type, blocksize, elements }
    }

    /// The codes, two a byte.
    #[cfg(all(feature = "flex", target_arch = "x86_64"))]
    pub(crate) fn packed(&self) -> &'a [u8] {
        self.packed
    }

    /// What the codes stand for.
    #[cfg(all(feature = "flex", target_arch = "x86_64"))]
    pub(crate) fn quant_type(&self) -> QuantType {
        self.quant_type
    }

    /// Values that share a scale.
    #[cfg(all(feature = "flex", target_arch = "x86_64"))]
    pub(crate) fn blocksize(&self) -> usize {
        self.blocksize
    }

    /// Values in the flattened weight.
    pub fn num_elements(&self) -> usize {
        self.elements
    }

    /// Scale of one block.
    pub fn scale(&self, block: usize) -> f32 {
        self.absmax.scale(block)
    }

    /// Writes the values `start..start + out.len()` of the flattened weight, rounded once to `dtype`. Single-threaded.
    ///
    /// # Panics
    /// If the range ends past the weight.
    pub fn dequantize_range(&self, start: usize, out: &mut [f32], dtype: ComputeDtype) {
        assert!(start <= self.elements && out.len() <= self.elements - start, "range ends past the weight");
        let mut at = start;
        let mut rest = out;
        while !rest.is_empty() {
            let block = at / self.blocksize;
            let take = ((block + 1) * self.blocksize - at).min(rest.len());
            let (now, later) = rest.split_at_mut(take);
            // A block has 16 possible values: rounding them is cheaper than rounding every element.
            let scale = self.absmax.scale(block);
            let values = self.quant_type.codes().map(|code| dtype.round(code * scale));
            self.unpack(at, now, &values);
            at += take;
            rest = later;
        }
    }

    /// Writes `values[code]` for the codes from `start` on.
    fn unpack(&self, start: usize, out: &mut [f32], values: &[f32; 16]) {
        let (first, out) = out.split_at_mut((start % 2).min(out.len()));
        if let [first] = first {
            *first = values[usize::from(self.packed[start / 2] & 15)];
        }
        let byte = start.div_ceil(2);
        let bytes = &self.packed[byte..byte + out.len().div_ceil(2)];
        let (pairs, single) = out.as_chunks_mut::<2>();
        for (pair, byte) in pairs.iter_mut().zip(bytes) {
            *pair = [values[usize::from(byte >> 4)], values[usize::from(byte & 15)]];
        }
        if let ([last], Some(byte)) = (single, bytes.last()) {
            *last = values[usize::from(byte >> 4)];
        }
    }

    /// [`Self::dequantize_range`] on all threads; the result does not depend on their number.
    ///
    /// # Panics
    /// If the range ends past the weight.
    pub fn dequantize_into(&self, start: usize, out: &mut [f32], dtype: ComputeDtype) {
        Threads::of_caller().for_each_chunk(out, VALUES_PER_TASK, |task, out| {
            self.dequantize_range(start + task * VALUES_PER_TASK, out, dtype);
        });
    }

    /// All values, row-major, rounded once to `dtype`.
    pub fn dequantize(&self, dtype: ComputeDtype) -> Vec<f32> {
        let mut out = vec![0.0; self.elements];
        self.dequantize_into(0, &mut out, dtype);
        out
    }
}

impl PackedWeight {
    /// All values in f32, row-major `[out_features, in_features]`.
    pub fn dequantize(&self) -> Vec<f32> {
        self.view().dequantize(ComputeDtype::F32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fourbit::QuantizeOptions;

    fn weight(double_quant: bool) -> PackedWeight {
        let values: Vec<f32> = (0..33 * 65).map(|i| ((i * 37) % 101) as f32 / 50.0 - 1.0).collect();
        let options = QuantizeOptions { double_quant, ..QuantizeOptions::default() };
        PackedWeight::quantize(&values, [33, 65], &options).unwrap()
    }

    #[test]
    fn any_range_equals_the_same_range_of_the_whole() {
        for double_quant in [false, true] {
            let weight = weight(double_quant);
            let whole = weight.dequantize();
            for start in [0, 1, 63, 64, 65, 129, 2144] {
                for length in [0, 1, 2, 63, 64, 65, 200] {
                    let end = (start + length).min(whole.len());
                    let mut piece = vec![f32::NAN; end - start];
                    weight.view().dequantize_range(start, &mut piece, ComputeDtype::F32);
                    assert_eq!(piece, whole[start..end], "{start}..{end}");
                }
            }
        }
    }

    #[test]
    fn rounding_a_blocks_values_equals_rounding_each_element() {
        let weight = weight(true);
        for dtype in [ComputeDtype::Bf16, ComputeDtype::F16, ComputeDtype::F32] {
            let rounded: Vec<f32> = weight.dequantize().into_iter().map(|v| dtype.round(v)).collect();
            assert_eq!(weight.view().dequantize(dtype), rounded);
        }
    }

    #[test]
    #[should_panic(expected = "range ends past the weight")]
    fn a_range_past_the_end_is_not_read() {
        weight(false).view().dequantize_range(33 * 65 - 1, &mut [0.0; 2], ComputeDtype::F32);
    }
}

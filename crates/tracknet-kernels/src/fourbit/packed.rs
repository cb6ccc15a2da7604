//! A 4-bit weight in host memory, bytes as bitsandbytes has them.

use super::QuantType;
use super::QuantizeError;
use super::dequantize::{AbsmaxView, PackedView};
use super::nested::NESTED_BLOCKSIZE;

/// The block sizes of the format.
pub const BLOCKSIZES: [usize; 8] = [32, 64, 128, 256, 512, 1024, 2048, 4096];

/// How to quantize.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantizeOptions {
    /// The code.
    pub quant_type: QuantType,
    /// Values that share a scale, one of [`BLOCKSIZES`].
    pub blocksize: usize,
    /// Whether the scales are themselves quantized to 8 bits ("double quantization").
    pub double_quant: bool,
}

impl Default for QuantizeOptions {
    fn default() -> Self {
        Self { quant_type: QuantType::Nf4, blocksize: 64, double_quant: true }
    }
}

/// The scale of each block.
#[derive(Debug, Clone, PartialEq)]
pub enum Absmax {
    /// One f32 per block.
    Plain(Vec<f32>),
    /// One byte per block: `dynamic_map[code] * absmax[block / 256] + offset`.
    Nested {
        /// Codes into [`super::dynamic_map`], one per block.
        codes: Vec<u8>,
        /// Scale of each run of 256 codes.
        absmax: Vec<f32>,
        /// Mean of the scales, subtracted before they were quantized.
        offset: f32,
    },
}

impl Absmax {
    /// The same scales as borrowed slices.
    pub(super) fn view(&self) -> AbsmaxView<'_> {
        match self {
            Self::Plain(scales) => AbsmaxView::Plain(scales),
            Self::Nested { codes, absmax, offset } => AbsmaxView::Nested { codes, absmax, offset: *offset },
        }
    }
}

/// A weight `[out_features, in_features]` in 4 bits.
///
/// Its parts always fit each other: the constructors check every length against shape and block size.
#[derive(Debug, Clone, PartialEq)]
pub struct PackedWeight {
    shape: [usize; 2],
    packed: Vec<u8>,
    absmax: Absmax,
    quant_type: QuantType,
    blocksize: usize,
}

impl PackedWeight {
    /// Assembles a weight from stored parts, e.g. those of a checkpoint.
    ///
    /// # Errors
    /// A shape, block size or length that does not fit, or a scale that is not finite. Nothing is allocated.
    pub fn from_parts(
        shape: [usize; 2],
        quant_type: QuantType,
        blocksize: usize,
        packed: Vec<u8>,
        absmax: Absmax,
    ) -> Result<Self, QuantizeError> {
        let layout = Layout::new(shape, blocksize)?;
        layout.check("packed", packed.len(), layout.bytes)?;
        match &absmax {
            Absmax::Plain(scales) => {
                layout.check("absmax", scales.len(), layout.blocks)?;
                check_finite("absmax", scales)?;
            }
            Absmax::Nested { codes, absmax, offset } => {
                layout.check("absmax", codes.len(), layout.blocks)?;
                layout.check("nested_absmax", absmax.len(), layout.nested_blocks)?;
                check_finite("nested_absmax", absmax)?;
                check_finite("nested_offset", std::slice::from_ref(offset))?;
            }
        }
        Ok(Self { shape, packed, absmax, quant_type, blocksize })
    }

    /// `[out_features, in_features]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// Two codes a byte, the first in the high nibble; an odd count is padded with the code of 0.
    pub fn packed(&self) -> &[u8] {
        &self.packed
    }

    /// The block scales.
    pub fn absmax(&self) -> &Absmax {
        &self.absmax
    }

    /// The code.
    pub fn quant_type(&self) -> QuantType {
        self.quant_type
    }

    /// Values per block.
    pub fn blocksize(&self) -> usize {
        self.blocksize
    }

    /// The options that produce this layout.
    pub fn options(&self) -> QuantizeOptions {
        QuantizeOptions {
            quant_type: self.quant_type,
            blocksize: self.blocksize,
            double_quant: matches!(self.absmax, Absmax::Nested { .. }),
        }
    }

    /// Weights counted, not bytes: `out_features * in_features`.
    pub fn num_elements(&self) -> usize {
        self.shape[0] * self.shape[1]
    }

    /// Bytes of codes and scales together.
    pub fn storage_bytes(&self) -> usize {
        let scales = match &self.absmax {
            Absmax::Plain(scales) => scales.len() * 4,
            Absmax::Nested { codes, absmax, .. } => codes.len() + absmax.len() * 4 + 4,
        };
        self.packed.len() + scales
    }

    /// The same weight as borrowed slices.
    pub fn view(&self) -> PackedView<'_> {
        PackedView::new_checked(&self.packed, self.absmax.view(), self.quant_type, self.blocksize, self.num_elements())
    }

    /// Takes the parts apart: `(packed, absmax)`.
    pub fn into_parts(self) -> (Vec<u8>, Absmax) {
        (self.packed, self.absmax)
    }
}

/// The lengths that follow from a shape and a block size.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    shape: [usize; 2],
    pub(super) elements: usize,
    pub(super) bytes: usize,
    pub(super) blocks: usize,
    pub(super) nested_blocks: usize,
}

impl Layout {
    pub(super) fn new(shape: [usize; 2], blocksize: usize) -> Result<Self, QuantizeError> {
        if !BLOCKSIZES.contains(&blocksize) {
            return Err(QuantizeError::Blocksize(blocksize));
        }
        let [out_features, in_features] = shape;
        let bad = |reason| QuantizeError::Shape { out_features, in_features, reason };
        // Dense f32 copies must be addressable too, so the count is limited like any allocation.
        let elements = out_features
            .checked_mul(in_features)
            .filter(|n| *n <= isize::MAX as usize / size_of::<f32>())
            .ok_or(bad("too many elements"))?;
        if elements == 0 {
            return Err(bad("no elements"));
        }
        let blocks = elements.div_ceil(blocksize);
        Ok(Self {
            shape,
            elements,
            bytes: elements.div_ceil(2),
            blocks,
            nested_blocks: blocks.div_ceil(NESTED_BLOCKSIZE),
        })
    }

    pub(super) fn check(&self, part: &'static str, found: usize, expected: usize) -> Result<(), QuantizeError> {
        let [out_features, in_features] = self.shape;
        if found == expected {
            Ok(())
        } else {
            Err(QuantizeError::Length { part, found, expected, out_features, in_features })
        }
    }
}

fn check_finite(part: &'static str, values: &[f32]) -> Result<(), QuantizeError> {
    match values.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(QuantizeError::BadScale { part, index, value: values[index], expected: "a finite number" }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(shape: [usize; 2], blocksize: usize, bytes: usize, blocks: usize) -> Result<PackedWeight, QuantizeError> {
        PackedWeight::from_parts(shape, QuantType::Nf4, blocksize, vec![0; bytes], Absmax::Plain(vec![1.0; blocks]))
    }

    #[test]
    fn parts_that_fit_are_accepted_and_counted() {
        let weight = plain([3, 43], 64, 65, 3).unwrap();
        assert_eq!((weight.num_elements(), weight.storage_bytes()), (129, 65 + 12));
    }

    #[test]
    fn lengths_that_do_not_follow_from_the_shape_are_refused() {
        assert!(matches!(plain([3, 43], 64, 64, 3), Err(QuantizeError::Length { part: "packed", expected: 65, .. })));
        assert!(matches!(plain([3, 43], 64, 65, 2), Err(QuantizeError::Length { part: "absmax", expected: 3, .. })));
        let nested = Absmax::Nested { codes: vec![0; 3], absmax: vec![1.0; 2], offset: 0.0 };
        let found = PackedWeight::from_parts([3, 43], QuantType::Fp4, 64, vec![0; 65], nested);
        assert!(matches!(found, Err(QuantizeError::Length { part: "nested_absmax", found: 2, expected: 1, .. })));
    }

    #[test]
    fn hostile_shapes_are_refused_before_anything_is_allocated() {
        for shape in [[usize::MAX, 2], [usize::MAX / 2, 1], [1 << 33, 1 << 33]] {
            assert!(matches!(plain(shape, 64, 1, 1), Err(QuantizeError::Shape { reason: "too many elements", .. })));
        }
        assert!(matches!(plain([0, 7], 64, 0, 0), Err(QuantizeError::Shape { reason: "no elements", .. })));
    }

    #[test]
    fn block_sizes_outside_of_the_format_are_refused() {
        for blocksize in [0, 1, 16, 48, 65, 8192, usize::MAX] {
            assert_eq!(plain([2, 64], blocksize, 64, 2), Err(QuantizeError::Blocksize(blocksize)));
        }
    }

    #[test]
    fn scales_that_are_not_finite_are_refused_by_position() {
        let scales = Absmax::Plain(vec![1.0, f32::NAN]);
        let found = PackedWeight::from_parts([2, 64], QuantType::Nf4, 64, vec![0; 64], scales);
        assert!(matches!(found, Err(QuantizeError::BadScale { part: "absmax", index: 1, .. })));
        let nested = Absmax::Nested { codes: vec![0; 2], absmax: vec![1.0], offset: f32::INFINITY };
        let found = PackedWeight::from_parts([2, 64], QuantType::Nf4, 64, vec![0; 64], nested);
        assert!(matches!(found, Err(QuantizeError::BadScale { part: "nested_offset", .. })));
    }
}

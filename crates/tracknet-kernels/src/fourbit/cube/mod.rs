//! 4-bit weights on GPUs.
//!
//! A product unpacks a panel of the weight into a bounded scratch tensor and hands it to the matrix product of choice for
//! the device (tensor cores where it has them). A panel is read by every row of the input, and there are many:
//! unpacked once, it costs a small part of its product, while a product that unpacks on the way to the multipliers would
//! unpack it again for each of its row tiles.

mod dequantize;
mod product;
mod quantize;

use burn::tensor::DType;
use burn_cubecl::CubeBackend;
use burn_cubecl::tensor::CubeTensor;

use super::QuantType;
use super::ops::{FourBitOps, PackedFormat, Product};

use dequantize::Unpacker;

impl FourBitOps for CubeBackend {
    fn linear_4bit(
        x: CubeTensor,
        bias: CubeTensor,
        packed: CubeTensor,
        scales: CubeTensor,
        scale_codes: CubeTensor,
        format: PackedFormat,
        product: Product,
    ) -> CubeTensor {
        product::multiply(x, bias, &Unpacker::new(packed, scales, scale_codes, format), product)
    }

    fn dequantize_4bit(
        packed: CubeTensor,
        scales: CubeTensor,
        scale_codes: CubeTensor,
        format: PackedFormat,
    ) -> CubeTensor {
        Unpacker::new(packed, scales, scale_codes, format).rows(0..format.shape[0], DType::F32)
    }

    fn block_maxima(weight: CubeTensor, blocksize: usize) -> CubeTensor {
        quantize::block_maxima(weight, blocksize)
    }

    fn block_codes(weight: CubeTensor, reciprocals: CubeTensor, quant_type: QuantType, blocksize: usize) -> CubeTensor {
        quantize::block_codes(weight, reciprocals, quant_type, blocksize)
    }
}

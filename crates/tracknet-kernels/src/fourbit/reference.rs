//! The operations written with ordinary tensor operations: what every backend without an own kernel runs, and the oracle
//! that kernels are tested against.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, TensorMetadata, get_device_settings};
use burn::tensor::{FloatDType, IntDType, Scalar, Shape, Slice, TensorData};

use super::codebook::dynamic_map;
use super::nested::NESTED_BLOCKSIZE;
use super::ops::{PackedFormat, Product};
use super::{ComputeDtype, QuantType};

/// The dense weight `[out, in]` in f32, rounded to the compute dtype.
pub(super) fn dequantize<B: Backend>(
    packed: IntTensor<B>,
    scales: FloatTensor<B>,
    scale_codes: IntTensor<B>,
    format: PackedFormat,
) -> FloatTensor<B> {
    let [out_features, in_features] = format.shape;
    let elements = out_features * in_features;
    let bytes = elements.div_ceil(2);
    let device = packed.device();

    let packed = B::int_reshape(B::int_cast(packed, IntDType::I32), Shape::from([bytes, 1]));
    let high = B::bitwise_right_shift_scalar(packed.clone(), Scalar::from(4));
    let low = B::bitwise_and_scalar(packed, Scalar::from(15));
    let codes = B::int_reshape(B::int_cat(vec![high, low], 1), Shape::from([2 * bytes]));
    let codes = B::int_slice(codes, &[Slice::from(0..elements)]);
    let table = TensorData::new(format.quant_type.codes().to_vec(), [16]);
    let values = B::float_select(B::float_from_data(table, &device), 0, codes);

    let blocks = elements.div_ceil(format.blocksize);
    let scales = match format.offset {
        Some(offset) => nested_scales::<B>(scales, scale_codes, offset, blocks),
        None => scales,
    };
    let values = B::float_mul(values, spread::<B>(scales, blocks, format.blocksize, elements));
    let rounded = match format.compute_dtype {
        ComputeDtype::Bf16 => B::float_cast(B::float_cast(values, FloatDType::BF16), FloatDType::F32),
        ComputeDtype::F16 => B::float_cast(B::float_cast(values, FloatDType::F16), FloatDType::F32),
        ComputeDtype::F32 => values,
    };
    B::float_reshape(rounded, Shape::from([out_features, in_features]))
}

/// The product, accumulated in f32, with `x` rounded as the operation promises.
pub(super) fn linear<B: Backend>(
    x: FloatTensor<B>,
    bias: FloatTensor<B>,
    weight: FloatTensor<B>,
    compute_dtype: ComputeDtype,
    product: Product,
) -> FloatTensor<B> {
    let dtype = FloatDType::from(x.dtype());
    let x = match compute_dtype {
        ComputeDtype::Bf16 => B::float_cast(x, FloatDType::BF16),
        ComputeDtype::F16 | ComputeDtype::F32 => x,
    };
    let x = B::float_cast(x, FloatDType::F32);
    let y = match product {
        Product::Transposed => B::float_matmul(x, weight),
        Product::Forward => B::float_matmul(x, B::float_transpose(weight)),
        Product::ForwardWithBias => {
            let bias = B::float_reshape(B::float_cast(bias, FloatDType::F32), Shape::from([1, weight.shape()[0]]));
            B::float_add(B::float_matmul(x, B::float_transpose(weight)), bias)
        }
    };
    B::float_cast(y, dtype)
}

/// The largest magnitude of each block.
pub(super) fn block_maxima<B: Backend>(weight: FloatTensor<B>, blocksize: usize) -> FloatTensor<B> {
    let blocks = in_blocks::<B>(weight, blocksize);
    let count = blocks.shape()[0];
    B::float_reshape(B::float_max_dim(B::float_abs(blocks), 1), Shape::from([count]))
}

/// The codes of all values: how many borders between codes lie below it gives the rank of a value.
pub(super) fn block_codes<B: Backend>(
    weight: FloatTensor<B>,
    reciprocals: FloatTensor<B>,
    quant_type: QuantType,
    blocksize: usize,
) -> IntTensor<B> {
    let device = weight.device();
    let elements = weight.shape().num_elements();
    let bytes = elements.div_ceil(2);
    let blocks = in_blocks::<B>(weight, blocksize);
    let count = blocks.shape()[0];
    let reciprocals = B::float_reshape(reciprocals, Shape::from([count, 1]));
    let scaled = B::float_mul(blocks, reciprocals.clone());
    let bools = get_device_settings::<B>(&device).bool_dtype;
    let ranks = quant_type
        .midpoints()
        .iter()
        .map(|border| {
            let above = B::float_greater_elem(scaled.clone(), Scalar::from(*border), bools);
            B::bool_into_int(above, IntDType::I32)
        })
        .reduce(B::int_add);
    let Some(ranks) = ranks else { return B::int_zeros(Shape::from([bytes]), &device, IntDType::U8) };
    let order = TensorData::new(quant_type.order().map(i32::from).to_vec(), [16]);
    let ranks = B::int_reshape(ranks, Shape::from([count * blocksize]));
    let codes =
        B::int_reshape(B::int_select(B::int_from_data(order, &device), 0, ranks), Shape::from([count, blocksize]));
    let empty = B::float_equal_elem(reciprocals, Scalar::from(0.0_f32), bools);
    let empty = B::bool_expand(empty, Shape::from([count, blocksize]));
    let codes = B::int_mask_fill(codes, empty, Scalar::from(i32::from(quant_type.zero_code())));

    // Block sizes are even: cut to whole bytes, the padding of an odd count is the zero of `in_blocks`.
    let codes = B::int_slice(B::int_reshape(codes, Shape::from([count * blocksize])), &[Slice::from(0..2 * bytes)]);
    let codes = B::int_reshape(codes, Shape::from([bytes, 2]));
    let nibble = |at: usize| {
        let one = B::int_slice(codes.clone(), &[0..bytes, at..at + 1].map(Slice::from));
        B::int_reshape(one, Shape::from([bytes]))
    };
    let packed = B::int_add(B::bitwise_left_shift_scalar(nibble(0), Scalar::from(4)), nibble(1));
    B::int_cast(packed, IntDType::U8)
}

/// `[blocks, blocksize]` in f32, the last filled up with zeros.
fn in_blocks<B: Backend>(weight: FloatTensor<B>, blocksize: usize) -> FloatTensor<B> {
    let device = weight.device();
    let elements = weight.shape().num_elements();
    let blocks = elements.div_ceil(blocksize);
    let flat = B::float_reshape(B::float_cast(weight, FloatDType::F32), Shape::from([elements]));
    let missing = blocks * blocksize - elements;
    let flat = match missing {
        0 => flat,
        _ => B::float_cat(vec![flat, B::float_zeros(Shape::from([missing]), &device, FloatDType::F32)], 0),
    };
    B::float_reshape(flat, Shape::from([blocks, blocksize]))
}

fn nested_scales<B: Backend>(
    absmax: FloatTensor<B>,
    codes: IntTensor<B>,
    offset: f32,
    blocks: usize,
) -> FloatTensor<B> {
    let device = absmax.device();
    let map = B::float_from_data(TensorData::new(dynamic_map().to_vec(), [256]), &device);
    let values = B::float_select(map, 0, B::int_cast(codes, IntDType::I32));
    let absmax = spread::<B>(absmax, blocks.div_ceil(NESTED_BLOCKSIZE), NESTED_BLOCKSIZE, blocks);
    B::float_add_scalar(B::float_mul(values, absmax), Scalar::from(offset))
}

/// `[blocks]` to `[elements]`, each value repeated `blocksize` times.
fn spread<B: Backend>(values: FloatTensor<B>, blocks: usize, blocksize: usize, elements: usize) -> FloatTensor<B> {
    let column = B::float_reshape(values, Shape::from([blocks, 1]));
    let repeated = B::float_repeat_dim(column, 1, blocksize);
    let flat = B::float_reshape(repeated, Shape::from([blocks * blocksize]));
    B::float_slice(flat, &[Slice::from(0..elements)])
}

#[cfg(feature = "flex")]
#[cfg(test)]
mod tests {
    use burn::backend::Flex;
    use burn::tensor::{Device, Tensor};

    use super::*;
    use crate::fourbit::ops::FourBitOps;
    use crate::fourbit::{Linear4bitWeight, PackedWeight, QuantType, QuantizeOptions};

    fn values(count: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 7919) % 1009) as f32 / 500.0 - 1.0).collect()
    }

    fn weight(shape: [usize; 2], quant_type: QuantType, blocksize: usize, double_quant: bool) -> PackedWeight {
        let options = QuantizeOptions { quant_type, blocksize, double_quant };
        PackedWeight::quantize(&values(shape[0] * shape[1]), shape, &options).unwrap()
    }

    /// Odd element counts, blocks that cross rows, and more than 256 blocks.
    const SHAPES: [[usize; 2]; 4] = [[1, 1], [33, 65], [7, 128], [97, 301]];

    #[test]
    fn composed_dequantization_equals_the_host_codec_bit_for_bit() {
        for shape in SHAPES {
            for (quant_type, double_quant) in [(QuantType::Nf4, true), (QuantType::Nf4, false), (QuantType::Fp4, true)]
            {
                for dtype in [ComputeDtype::F32, ComputeDtype::Bf16, ComputeDtype::F16] {
                    let packed = weight(shape, quant_type, 32, double_quant);
                    let device = Linear4bitWeight::from_packed(&packed, dtype, &Device::flex()).unwrap();
                    let (packed_tensor, scales, codes, format) = device.primitives::<Flex>();
                    let dense =
                        Tensor::<2>::from_primitive::<Flex>(dequantize::<Flex>(packed_tensor, scales, codes, format));
                    assert_eq!(dense.into_data().try_to_vec::<f32>().unwrap(), packed.view().dequantize(dtype));
                }
            }
        }
    }

    #[test]
    fn the_kernel_agrees_with_the_composed_operations_in_both_directions() {
        for [n, k] in SHAPES {
            let packed = weight([n, k], QuantType::Nf4, 64, true);
            let weight = Linear4bitWeight::from_packed(&packed, ComputeDtype::Bf16, &Device::flex()).unwrap();
            for (product, width) in [(Product::Forward, k), (Product::ForwardWithBias, k), (Product::Transposed, n)] {
                let x = Tensor::<2>::from_data(TensorData::new(values(5 * width), [5, width]), &Device::flex());
                let x = x.try_into_primitive::<Flex>().unwrap();
                let bias = Tensor::<1>::from_data(TensorData::new(values(n), [n]), &Device::flex());
                let bias = bias.try_into_primitive::<Flex>().unwrap();
                let (packed, scales, codes, format) = weight.primitives::<Flex>();
                let dense = dequantize::<Flex>(packed.clone(), scales.clone(), codes.clone(), format);
                let composed = linear::<Flex>(x.clone(), bias.clone(), dense, format.compute_dtype, product);
                let kernel = Flex::linear_4bit(x, bias, packed, scales, codes, format, product);
                let [kernel, composed] = [kernel, composed].map(Tensor::<2>::from_primitive::<Flex>);
                let scale: f32 = composed.clone().abs().max().into_scalar();
                let distance: f32 = (kernel - composed).abs().max().into_scalar();
                // Both add at most 302 numbers in f32, in different orders.
                assert!(distance <= 1e-5 * scale, "{n}x{k} {product:?}: {distance} of {scale}");
            }
        }
    }
}

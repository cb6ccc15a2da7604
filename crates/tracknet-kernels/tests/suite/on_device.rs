//! Quantizing and unpacking where the tensors are, against the host codec: every byte and every bit.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Tensor, TensorData};
use tracknet_kernels::fourbit::BLOCKSIZES;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, PackedWeight, QuantType, QuantizeError, QuantizeOptions};

use crate::common::device;

/// Values over many magnitudes that look random and are the same everywhere; a run of zeros, and one of subnormals.
fn values(count: usize) -> Vec<f32> {
    let random = tracknet_testing::values(count, 1).into_iter().enumerate();
    random
        .map(|(i, value)| match i / 64 % 9 {
            3 => 0.0,
            5 => f32::from_bits(i as u32 % 977),
            other => value * 10_f32.powi(other as i32 - 4),
        })
        .collect()
}

/// Odd counts, a single value, short last blocks, blocks across rows, more than 256 blocks.
const SHAPES: [[usize; 2]; 6] = [[1, 1], [33, 65], [7, 128], [96, 200], [97, 301], [384, 130]];

fn all_options() -> impl Iterator<Item = QuantizeOptions> {
    BLOCKSIZES.into_iter().flat_map(|blocksize| {
        [(QuantType::Nf4, true), (QuantType::Nf4, false), (QuantType::Fp4, true)]
            .map(|(quant_type, double_quant)| QuantizeOptions { quant_type, blocksize, double_quant })
    })
}

#[test]
fn quantized_bytes_and_scales_are_those_of_the_host_codec() {
    for shape in SHAPES {
        let values = values(shape[0] * shape[1]);
        let weight = Tensor::<2>::from_data(TensorData::new(values.clone(), shape), &device());
        for options in all_options() {
            let expected = PackedWeight::quantize(&values, shape, &options).unwrap();
            let found = Linear4bitWeight::quantize(weight.clone(), &options, ComputeDtype::Bf16).unwrap();
            assert!(found.to_packed().unwrap() == expected, "{shape:?} {options:?}");
            assert_eq!(found.storage_bytes(), expected.storage_bytes());
        }
    }
}

#[test]
fn a_weight_that_trains_is_quantized_as_well() {
    let (shape, values) = ([5, 70], values(350));
    let weight = Tensor::<2>::from_data(TensorData::new(values.clone(), shape), &device().autodiff()).require_grad();
    let options = QuantizeOptions::default();
    let found = Linear4bitWeight::quantize(weight, &options, ComputeDtype::Bf16).unwrap().to_packed().unwrap();
    assert_eq!(found, PackedWeight::quantize(&values, shape, &options).unwrap());
}

#[test]
fn unpacked_values_are_those_of_the_host_codec_to_the_bit() {
    for shape in SHAPES {
        let values = values(shape[0] * shape[1]);
        for options in all_options() {
            let packed = PackedWeight::quantize(&values, shape, &options).unwrap();
            for dtype in [ComputeDtype::F32, ComputeDtype::Bf16, ComputeDtype::F16] {
                let weight = Linear4bitWeight::from_packed(&packed, dtype, &device()).unwrap();
                let found: Vec<f32> = weight.dequantize().into_data().try_to_vec().unwrap();
                let expected = packed.view().dequantize(dtype);
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    // A GPU may read subnormals as zero.
                    let same =
                        found.to_bits() == expected.to_bits() || (*found == 0.0 && expected.abs() < f32::MIN_POSITIVE);
                    assert!(same, "{shape:?} {options:?} {dtype:?}: value {i} is {found:e}, expected {expected:e}");
                }
            }
        }
    }
}

#[test]
fn the_first_value_that_is_not_finite_is_named() {
    for (bad, at) in [(f32::NAN, 65), (f32::INFINITY, 0), (f32::NEG_INFINITY, 129)] {
        let mut values = vec![0.5; 130];
        values[at] = bad;
        values[129] = f32::NEG_INFINITY;
        let weight = Tensor::<2>::from_data(TensorData::new(values, [2, 65]), &device());
        let error = Linear4bitWeight::quantize(weight, &QuantizeOptions::default(), ComputeDtype::Bf16).unwrap_err();
        let QuantizeError::NonFinite { index, value } = error else { panic!("{error}") };
        assert_eq!((index, value.to_bits()), (at, bad.to_bits()));
    }
}

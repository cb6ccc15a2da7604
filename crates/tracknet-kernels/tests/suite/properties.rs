//! Properties of the codec for any shape, block size and code.

use proptest::prelude::*;
use tracknet_kernels::fourbit::{BLOCKSIZES, ComputeDtype};
use tracknet_kernels::{Absmax, PackedWeight, QuantType, QuantizeOptions};

fn any_options() -> impl Strategy<Value = QuantizeOptions> {
    (prop_oneof![Just(QuantType::Nf4), Just(QuantType::Fp4)], prop::sample::select(&BLOCKSIZES[..]), any::<bool>())
        .prop_map(|(quant_type, blocksize, double_quant)| QuantizeOptions { quant_type, blocksize, double_quant })
}

/// A weight of up to 41 x 97 values over many magnitudes, some zero.
fn any_weight() -> impl Strategy<Value = ([usize; 2], Vec<f32>)> {
    let value =
        prop_oneof![8 => -1.0_f32..1.0, 1 => -1e4_f32..1e4, 1 => -1e-6_f32..1e-6, 1 => Just(0.0), 1 => Just(-0.0)];
    (1_usize..=41, 1_usize..=97).prop_flat_map(move |(rows, columns)| {
        prop::collection::vec(value.clone(), rows * columns).prop_map(move |values| ([rows, columns], values))
    })
}

/// Any bytes as the codes of any shape, one positive scale a block; the first code of each block is that of 1.
fn any_codes() -> impl Strategy<Value = ([usize; 2], QuantizeOptions, Vec<u8>, Vec<f32>)> {
    (any_options(), 1_usize..=41, 1_usize..=97).prop_flat_map(|(options, rows, columns)| {
        let (count, options) = (rows * columns, QuantizeOptions { double_quant: false, ..options });
        let bytes = prop::collection::vec(any::<u8>(), count.div_ceil(2));
        let scales = prop::collection::vec(1e-6_f32..1e6, count.div_ceil(options.blocksize));
        (Just([rows, columns]), Just(options), bytes, scales)
    })
}

proptest! {
    #[test]
    fn any_codes_unpack_to_values_that_pack_to_the_same_codes((shape, options, mut bytes, scales) in any_codes()) {
        let count = shape[0] * shape[1];
        let (one, zero) = match options.quant_type {
            QuantType::Nf4 => (15, 7),
            QuantType::Fp4 => (3, 0),
        };
        for (i, byte) in bytes.iter_mut().enumerate() {
            // Block sizes are even, so a block begins in a high nibble.
            if (2 * i) % options.blocksize == 0 {
                *byte = one << 4 | (*byte & 15);
            }
            // The second zero of FP4 reads back as the first.
            if options.quant_type == QuantType::Fp4 {
                *byte = if *byte >> 4 == 8 { *byte & 15 } else { *byte };
                *byte = if *byte & 15 == 8 { *byte & 0xf0 } else { *byte };
            }
            if count % 2 == 1 && i == count / 2 {
                *byte = (*byte & 0xf0) | zero;
            }
        }
        let absmax = Absmax::Plain(scales);
        let weight =
            PackedWeight::from_parts(shape, options.quant_type, options.blocksize, bytes, absmax).unwrap();
        let again = PackedWeight::quantize(&weight.dequantize(), shape, &options).unwrap();
        prop_assert_eq!(again, weight);
    }

    #[test]
    fn values_come_back_within_half_the_widest_gap((shape, values) in any_weight(), options in any_options()) {
        let options = QuantizeOptions { double_quant: false, ..options };
        let weight = PackedWeight::quantize(&values, shape, &options).unwrap();
        let half = f64::from(options.quant_type.widest_gap()) / 2.0;
        for (i, (value, kept)) in values.iter().zip(weight.dequantize()).enumerate() {
            let scale = weight.view().scale(i / options.blocksize);
            // Scaling there and back rounds twice in f32.
            let bound = f64::from(scale) * (half + 1e-6);
            prop_assert!(f64::from((value - kept).abs()) <= bound, "{value} became {kept}, scale {scale}");
        }
    }

    #[test]
    fn double_quantization_changes_scales_only((shape, values) in any_weight(), options in any_options()) {
        let plain = PackedWeight::quantize(&values, shape, &QuantizeOptions { double_quant: false, ..options }).unwrap();
        let nested = PackedWeight::quantize(&values, shape, &QuantizeOptions { double_quant: true, ..options }).unwrap();
        prop_assert_eq!(plain.packed(), nested.packed());
        let Absmax::Nested { absmax, .. } = nested.absmax() else { panic!("nested") };
        let Absmax::Plain(scales) = plain.absmax() else { panic!("plain") };
        for (block, scale) in scales.iter().enumerate() {
            let largest = f64::from(absmax[block / 256]);
            // Half the widest step of the 8-bit map (0.9/64), a step of its lookup grid, and f32 rounding of the offset.
            let bound = largest * (0.9 / 128.0 + 2.0 / 65535.0) + f64::from(*scale) * 1e-5 + 1e-3 * 1e-3;
            prop_assert!(f64::from((nested.view().scale(block) - scale).abs()) <= bound);
        }
    }

    #[test]
    fn quantizing_dequantized_values_changes_nothing((shape, values) in any_weight(), options in any_options()) {
        let options = QuantizeOptions { double_quant: false, ..options };
        let once = PackedWeight::quantize(&values, shape, &options).unwrap().dequantize();
        let twice = PackedWeight::quantize(&once, shape, &options).unwrap().dequantize();
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn parts_go_around_and_keep_their_lengths((shape, values) in any_weight(), options in any_options()) {
        let weight = PackedWeight::quantize(&values, shape, &options).unwrap();
        prop_assert_eq!(weight.options(), options);
        let (packed, absmax) = weight.clone().into_parts();
        prop_assert_eq!(packed.len(), values.len().div_ceil(2));
        let again = PackedWeight::from_parts(shape, options.quant_type, options.blocksize, packed, absmax).unwrap();
        prop_assert_eq!(&again, &weight);
        prop_assert!(again.view().dequantize(ComputeDtype::Bf16).iter().all(|v| v.is_finite()));
    }

    #[test]
    fn threads_do_not_change_a_byte((shape, values) in any_weight(), options in any_options()) {
        let run = || {
            let weight = PackedWeight::quantize(&values, shape, &options).unwrap();
            let dense = weight.dequantize();
            (weight, dense)
        };
        let with_threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run);
        prop_assert_eq!(with_threads(1), with_threads(3));
    }
}

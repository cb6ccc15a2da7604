//! The codec against bitsandbytes: every byte and every bit.

// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};
use tracknet_kernels::fourbit::dynamic_map;
use tracknet_kernels::{Absmax, PackedWeight, QuantType, QuantizeOptions};

struct Fixture(Vec<u8>);

impl Fixture {
    fn open(name: &str) -> Self {
        let path = format!("{}/tests/fixtures/{name}.safetensors", env!("CARGO_MANIFEST_DIR"));
        Self(std::fs::read(path).unwrap())
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).unwrap().data().to_vec()
    }

    fn has(&self, name: &str) -> bool {
        SafeTensors::deserialize(&self.0).unwrap().tensor(name).is_ok()
    }

    /// Values widened to f32.
    fn floats(&self, name: &str) -> Vec<f32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).unwrap();
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Dtype::BF16 => data.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::F16 => data.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            other => panic!("{name} is {other:?}"),
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Calls `check(fixture, name of the source, shape, name of the combination, options)` for all combinations.
fn each_combination(mut check: impl FnMut(&Fixture, &str, [usize; 2], &str, QuantizeOptions)) {
    let mut count = 0;
    for quant_type in [QuantType::Nf4, QuantType::Fp4] {
        let fixture = Fixture::open(&format!("bnb_{quant_type}"));
        for shape in [[128, 64], [96, 200], [33, 65]] {
            for dtype in ["f32", "bf16", "f16"] {
                let source = format!("{}x{}.{dtype}", shape[0], shape[1]);
                for blocksize in [64, 128] {
                    for double_quant in [false, true] {
                        let kind = if double_quant { "nested" } else { "plain" };
                        let name = format!("{source}.bs{blocksize}.{kind}");
                        let options = QuantizeOptions { quant_type, blocksize, double_quant };
                        check(&fixture, &source, shape, &name, options);
                        count += 1;
                    }
                }
            }
        }
    }
    assert_eq!(count, 72);
}

#[test]
fn tables_equal_those_of_bitsandbytes() {
    for quant_type in [QuantType::Nf4, QuantType::Fp4] {
        let golden = Fixture::open(&format!("bnb_{quant_type}")).floats("code");
        assert_eq!(bits(quant_type.codes()), bits(&golden));
    }
    assert_eq!(bits(dynamic_map()), bits(&Fixture::open("bnb_source").floats("nested_code")));
}

#[test]
fn quantized_bytes_and_scales_equal_those_of_bitsandbytes() {
    let sources = Fixture::open("bnb_source");
    each_combination(|fixture, source, shape, name, options| {
        let weight = PackedWeight::quantize(&sources.floats(&format!("{source}.weight")), shape, &options).unwrap();
        let packed = fixture.bytes(&format!("{}.packed", name.replace("nested", "plain")));
        assert!(weight.packed() == packed, "{name}: codes differ");
        match weight.absmax() {
            Absmax::Plain(scales) => {
                assert_eq!(bits(scales), bits(&fixture.floats(&format!("{name}.absmax"))), "{name}");
            }
            Absmax::Nested { codes, absmax, offset } => {
                assert_eq!(offset.to_bits(), fixture.floats(&format!("{name}.offset"))[0].to_bits(), "{name}");
                assert_eq!(bits(absmax), bits(&fixture.floats(&format!("{name}.nested_absmax"))), "{name}");
                assert_eq!(codes, &fixture.bytes(&format!("{name}.absmax")), "{name}");
            }
        }
    });
}

#[test]
fn dequantized_values_equal_those_of_bitsandbytes() {
    let mut compared = 0;
    each_combination(|fixture, source, shape, name, options| {
        if !fixture.has(&format!("{name}.dequant")) {
            return;
        }
        let packed = fixture.bytes(&format!("{}.packed", name.replace("nested", "plain")));
        let absmax = if options.double_quant {
            Absmax::Nested {
                codes: fixture.bytes(&format!("{name}.absmax")),
                absmax: fixture.floats(&format!("{name}.nested_absmax")),
                offset: fixture.floats(&format!("{name}.offset"))[0],
            }
        } else {
            Absmax::Plain(fixture.floats(&format!("{name}.absmax")))
        };
        let weight = PackedWeight::from_parts(shape, options.quant_type, options.blocksize, packed, absmax).unwrap();
        // bitsandbytes rounds to the type of the source.
        let dtype = match source.rsplit('.').next() {
            Some("bf16") => tracknet_kernels::fourbit::ComputeDtype::Bf16,
            Some("f16") => tracknet_kernels::fourbit::ComputeDtype::F16,
            _ => tracknet_kernels::fourbit::ComputeDtype::F32,
        };
        let golden = fixture.floats(&format!("{name}.dequant"));
        assert!(weight.view().dequantize(dtype) == golden, "{name}: values differ");
        compared += 1;
    });
    // One shape, three types, two block sizes, plain and nested, two codes.
    assert_eq!(compared, 24);
}

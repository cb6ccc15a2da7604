//! Which implementations ran, counted where their instructions begin; and what a machine with the instructions must run.
#![allow(clippy::unwrap_used)]
// Helpers of tests; in the tests themselves it is allowed anyway.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// A family of kernels and one of its implementations.
pub(crate) type Name = (&'static str, &'static str);

thread_local! {
    static ENTERED: RefCell<BTreeMap<Name, usize>> = RefCell::default();
}

/// Called by every implementation, first thing.
pub(crate) fn count(name: Name) {
    ENTERED.with_borrow_mut(|entered| *entered.entry(name).or_default() += 1);
}

/// What `work` returns, and the implementations that it entered. It gets one thread of its own, so that nothing of it is
/// counted elsewhere, and nothing else is counted here.
pub(crate) fn during<T: Send>(work: impl FnOnce() -> T + Send) -> (T, BTreeMap<Name, usize>) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
    pool.install(|| (work(), ENTERED.take()))
}

/// The implementations of a family that `work` entered.
fn of_family(family: &'static str, work: impl FnOnce() + Send) -> Vec<&'static str> {
    during(work).1.into_keys().filter(|(found, _)| *found == family).map(|(_, name)| name).collect()
}

pub(crate) mod tests {
    use std::fs;

    use burn::tensor::{Device, Tensor, TensorData};

    use super::{during, of_family};
    use crate::attention::attention;
    use crate::attention::kernel::{AttentionShape, Inputs};
    use crate::fourbit::{ComputeDtype, Linear4bitWeight, PackedWeight, QuantizeOptions};
    use crate::product::{self, Side, Storage, Weight, levels};
    use crate::simd::{F32x16, InstructionSet, Kernel, Level, Simd, mul_add};
    use crate::{
        FusedActivation, NormSpec, depthwise_conv3x3, gelu, group_norm, layer_norm, linear_4bit, resize_bilinear,
    };

    /// The processor's features as the system lists them: another way to know them than the kernels'. `None` where there
    /// is no such list.
    pub(crate) fn features() -> Option<Vec<String>> {
        let text = fs::read_to_string("/proc/cpuinfo").ok()?;
        let flags = text.lines().find_map(|line| line.strip_prefix("flags"))?;
        Some(flags.split_whitespace().map(str::to_owned).collect())
    }

    /// Implementations and what each needs, those of every machine first.
    type Needs = &'static [(&'static str, &'static [&'static str])];

    const SIMD: Needs =
        &[("portable", &[]), ("AVX2", &["avx2", "fma"]), ("AVX-512", AVX512), ("AVX512-BF16", AVX512_BF16)];
    const AVX512: &[&str] = &["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl"];
    const AVX512_BF16: &[&str] = &["avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16"];
    const PRODUCT: Needs = &[
        ("f32", &[]),
        ("AVX512-BF16", AVX512_BF16),
        ("AMX", &["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_bf16", "amx_tile", "amx_bf16"]),
    ];

    /// The implementations that this machine must have, in the order of the list; all that it has where the system does
    /// not tell.
    fn expected(needs: Needs, available: usize) -> Vec<&'static str> {
        match features() {
            Some(features) => {
                let has = |needed: &&str| features.iter().any(|feature| feature == needed);
                needs.iter().filter(|(_, needed)| needed.iter().all(has)).map(|(name, _)| *name).collect()
            }
            None => needs.iter().take(available).map(|(name, _)| *name).collect(),
        }
    }

    fn values(count: usize, seed: u32) -> Vec<f32> {
        (0..count as u32)
            .map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / 8_388_608.0 - 1.0)
            .collect()
    }

    fn tensor<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values(shape.iter().product(), 7), shape), &Device::flex())
    }

    /// Whether values are those expected, within a tolerance that is small beside them.
    fn agree(found: &[f32], expected: &[f32], tolerance: f32) -> bool {
        found.len() == expected.len()
            && found.iter().zip(expected).all(|(x, y)| (x - y).abs() < tolerance)
            && expected.iter().any(|x| x.abs() > 10.0 * tolerance)
    }

    /// The copies of a kernel that this machine must have.
    fn copies(multiplies_bf16: bool) -> Vec<&'static str> {
        let mut copies = expected(SIMD, Level::available().filter(|level| !level.has(InstructionSet::AmxBf16)).count());
        copies.retain(|name| multiplies_bf16 || *name != "AVX512-BF16");
        copies
    }

    #[test]
    fn operations_run_the_best_vectors_that_the_processor_has() {
        let copies = copies(false);
        let best = &copies[copies.len() - 1..];
        let image = || tensor([1, 4, 6, 5]);
        let spec = NormSpec { groups: 2, epsilon: 1e-5, activation: FusedActivation::Gelu };
        let operations: [(&str, &(dyn Fn() + Sync)); 6] = [
            ("gelu", &|| drop(gelu(image()))),
            ("layer_norm", &|| drop(layer_norm(tensor([3, 20]), tensor([20]), tensor([20]), 1e-5))),
            ("group_norm", &|| drop(group_norm(image(), tensor([4]), tensor([4]), spec))),
            ("resize", &|| drop(resize_bilinear(image(), [9, 11]))),
            ("depthwise", &|| drop(depthwise_conv3x3(image(), tensor([4, 1, 3, 3])))),
            ("quantize", &|| {
                drop(PackedWeight::quantize(&values(640, 1), [10, 64], &QuantizeOptions::default()).unwrap())
            }),
        ];
        for (name, operation) in operations {
            assert_eq!(of_family("simd", operation), best, "{name}");
        }
    }

    #[test]
    fn attention_runs_the_best_instructions_that_the_processor_has_for_its_factors() {
        let run = |compute| {
            of_family("simd", move || {
                let [query, key, value] = [(); 3].map(|()| tensor([1, 9, 32]));
                drop(attention(query, key, value, 2, 0.25, None, compute));
            })
        };
        for (compute, copies) in [(ComputeDtype::Bf16, copies(true)), (ComputeDtype::F32, copies(false))] {
            assert_eq!(run(compute), copies[copies.len() - 1..], "{compute:?}");
        }
    }

    #[test]
    fn products_run_the_best_unit_that_the_processor_has_for_their_factors() {
        let units = expected(PRODUCT, levels().len());
        let packed = PackedWeight::quantize(&values(64 * 96, 1), [64, 96], &QuantizeOptions::default()).unwrap();
        let run = |compute| {
            of_family("product", || {
                let weight = Linear4bitWeight::from_packed(&packed, compute, &Device::flex()).unwrap();
                drop(linear_4bit(tensor([40, 96]), &weight, None));
            })
        };
        assert_eq!(run(ComputeDtype::Bf16), units[units.len() - 1..]);
        assert_eq!(run(ComputeDtype::F32), ["f32"]);
    }

    /// `a · b − 1` where the product needs more bits than an f32 has: what is left shows whether it was rounded first.
    struct Probe<const MULTIPLIES_BF16: bool>;

    impl<const MULTIPLIES_BF16: bool> Kernel for Probe<MULTIPLIES_BF16> {
        type Output = [f32; 2];
        const MULTIPLIES_BF16: bool = MULTIPLIES_BF16;

        #[inline(always)]
        fn run<S: Simd>(self, _: S) -> [f32; 2] {
            let near = std::hint::black_box(1.0 + f32::EPSILON);
            let lanes = F32x16::splat(near).mul_add::<S>(F32x16::splat(near), F32x16::splat(-1.0));
            [mul_add::<S>(near, near, -1.0), lanes.0[15]]
        }
    }

    /// Runs a probe on every level; the copies that ran, each counted once.
    fn probed<const MULTIPLIES_BF16: bool>() -> Vec<&'static str> {
        let mut found: Vec<_> = Level::available()
            .map(|level| {
                let (rest, entered) = during(|| level.run(Probe::<MULTIPLIES_BF16>));
                // (1 + ε)² = 1 + 2ε + ε², of which rounding takes ε².
                let fused = 2.0 * f32::EPSILON + f32::EPSILON * f32::EPSILON;
                let expected = if level == Level::PORTABLE { 2.0 * f32::EPSILON } else { fused };
                assert_eq!(rest, [expected; 2], "{level:?}");
                let names: Vec<_> = entered.into_iter().collect();
                assert!(names.len() == 1 && names[0].1 == 1, "{level:?}: {names:?}");
                names[0].0.1
            })
            .collect();
        found.dedup();
        found
    }

    #[test]
    fn every_set_of_vectors_that_is_forced_runs_and_fuses_what_it_can() {
        assert_eq!(probed::<false>(), copies(false));
        assert_eq!(probed::<true>(), copies(true));
    }

    #[test]
    fn every_attention_that_is_forced_runs_and_agrees_with_the_portable_one() {
        let shape = AttentionShape { batch: 1, tokens: 37, heads: 2, head_dim: 16 };
        let [query, key, value] = [1, 2, 3].map(|seed| values(37 * 32, seed << 20));
        let run = |level: Level, compute| {
            let inputs = Inputs { query: &query, key: &key, value: &value, shape, scale: 0.25, rotary: None, compute };
            during(|| inputs.forward::<f32>(level).0)
        };
        let (expected, _) = run(Level::PORTABLE, ComputeDtype::Bf16);
        let found = Level::available().map(|level| {
            let (found, entered) = run(level, ComputeDtype::Bf16);
            // Outputs are means of values below 1; another order of a sum can round one factor to the other side, 2⁻⁸ of it.
            assert!(agree(&found, &expected, 1e-3), "{level:?}: {found:?}");
            let names: Vec<_> = entered.into_keys().collect();
            assert!(names.len() == 1, "{level:?}: {names:?}");
            names[0].1
        });
        let mut found: Vec<_> = found.collect();
        found.dedup();
        assert_eq!(found, copies(true));
    }

    #[test]
    fn every_product_that_is_forced_runs_and_agrees_with_that_of_f32() {
        let packed = PackedWeight::quantize(&values(70 * 45, 1), [70, 45], &QuantizeOptions::default()).unwrap();
        let weight =
            Weight { values: Storage::Packed(packed.view()), shape: [70, 45], compute_dtype: ComputeDtype::Bf16 };
        let x = values(33 * 45, 9);
        let run = |level: Level| during(|| product::multiply(level, &x, weight, Side::In, None));
        let (expected_values, _) = run(Level::PORTABLE);
        let found = levels().into_iter().map(|level| {
            let (found, entered) = run(level);
            // Sums in f32 of 45 products below 1, in another order.
            assert!(agree(&found, &expected_values, 45.0 * 45.0 * f32::EPSILON), "{level:?}: {found:?}");
            let names: Vec<_> = entered.into_keys().filter(|(family, _)| *family == "product").collect();
            assert!(names.len() == 1, "{level:?}: {names:?}");
            names[0].1
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found, expected(PRODUCT, found.len()));
    }
}

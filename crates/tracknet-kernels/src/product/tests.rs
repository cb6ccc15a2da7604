//! Every level against float64 products.

use std::mem::MaybeUninit;

use tracknet_testing::values;

use super::{self as product, LowRank, Mask, PackedLhs, Product, Shared, Side, Storage, Store, Weight, levels};
use crate::dropout::KeepMask;
use crate::fourbit::{BLOCKSIZES, ComputeDtype, PackedWeight, QuantType, QuantizeOptions};
use crate::simd::Level;

const FEATURES: [usize; 7] = [1, 7, 33, 65, 96, 200, 256];
const ROWS: [usize; 6] = [1, 5, 17, 63, 65, 581];

fn pack(shape: [usize; 2], quant_type: QuantType, blocksize: usize, double_quant: bool) -> PackedWeight {
    let options = QuantizeOptions { quant_type, blocksize, double_quant };
    PackedWeight::quantize(&values(shape[0] * shape[1], 7), shape, &options).unwrap()
}

fn weight(packed: &PackedWeight, compute_dtype: ComputeDtype) -> Weight<'_> {
    Weight { values: Storage::Packed(packed.view()), shape: packed.shape(), compute_dtype }
}

/// `x · op(W) + bias` and the sums of the magnitudes of what is added, in f64.
fn expected(x: &[f32], packed: &PackedWeight, side: Side, bias: Option<&[f32]>) -> (Vec<f64>, Vec<f64>) {
    let dense = packed.view().dequantize(ComputeDtype::Bf16);
    let [out_features, in_features] = packed.shape();
    let (summed, columns) = if side == Side::In { (in_features, out_features) } else { (out_features, in_features) };
    let mut right = vec![0.0; summed * columns];
    for k in 0..summed {
        for j in 0..columns {
            let at = if side == Side::In { j * in_features + k } else { k * in_features + j };
            right[k * columns + j] = f64::from(dense[at]);
        }
    }
    let start: Vec<f64> = (0..columns).map(|j| bias.map_or(0.0, |bias| f64::from(bias[j]))).collect();
    let (mut sums, mut magnitudes) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(summed) {
        let mut sum = start.clone();
        let mut magnitude: Vec<f64> = start.iter().map(|v| v.abs()).collect();
        for (x, right) in row.iter().zip(right.chunks_exact(columns)) {
            for ((sum, magnitude), w) in sum.iter_mut().zip(&mut magnitude).zip(right) {
                *sum += f64::from(*x) * w;
                *magnitude += (f64::from(*x) * w).abs();
            }
        }
        sums.append(&mut sum);
        magnitudes.append(&mut magnitude);
    }
    (sums, magnitudes)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

#[test]
fn forward_and_input_gradient_equal_the_float64_product_at_odd_sizes() {
    let codes = [
        (QuantType::Nf4, 64, true),
        (QuantType::Fp4, 32, false),
        (QuantType::Nf4, 128, false),
        (QuantType::Fp4, 64, true),
    ];
    let mut case = 0;
    for (i, in_features) in FEATURES.into_iter().enumerate() {
        for (o, out_features) in FEATURES.into_iter().enumerate() {
            for side in [Side::In, Side::Out] {
                let rows = ROWS[(i + 2 * o + 3 * usize::from(side == Side::In) + case / 7) % ROWS.len()];
                let (quant_type, blocksize, double_quant) = codes[case % codes.len()];
                let packed = pack([out_features, in_features], quant_type, blocksize, double_quant);
                check(&packed, rows, side, case.is_multiple_of(3));
                case += 1;
            }
        }
    }
}

fn check(packed: &PackedWeight, rows: usize, side: Side, biased: bool) {
    let weight = weight(packed, ComputeDtype::Bf16);
    let [summed, columns] = weight.sizes(side);
    let x = values(rows * summed, 3);
    let bias = biased.then(|| values(columns, 4));
    let bias = bias.as_deref();
    let exact = expected(&x, packed, side, bias).0;
    let rounded: Vec<f32> = x.iter().map(|x| ComputeDtype::Bf16.round(*x)).collect();
    let (sums, magnitudes) = expected(&rounded, packed, side, bias);
    for level in levels() {
        let what = format!("{level:?} {side:?} {rows} rows {:?} {biased}", packed.shape());
        let found = product::multiply(level, &x, weight, side, bias);
        assert_eq!(found.len(), sums.len(), "{what}");
        for (at, found) in found.iter().enumerate() {
            let distance = (f64::from(*found) - sums[at]).abs();
            // f32 sums of at most 257 exact products.
            assert!(distance <= 1e-5 * magnitudes[at], "{what}: value {at} is {found}, expected {}", sums[at]);
        }
        let distance = norm(found.iter().zip(&exact).map(|(found, exact)| f64::from(*found) - exact));
        // Rounding x to bfloat16 moves it by up to 1/512.
        assert!(distance <= 1e-2 * norm(exact.iter().copied()), "{what}: {distance}");
    }
}

#[test]
fn the_identity_reads_the_weight_back_bit_for_bit() {
    for (at, shape) in [[1, 1], [33, 65], [65, 33], [7, 129], [130, 47], [3, 4099]].into_iter().enumerate() {
        for (number, blocksize) in BLOCKSIZES.into_iter().enumerate() {
            let quant_type = if (at + number) % 2 == 0 { QuantType::Nf4 } else { QuantType::Fp4 };
            let packed = pack(shape, quant_type, blocksize, number % 3 != 0);
            let dense = packed.view().dequantize(ComputeDtype::Bf16);
            let rows = shape[0];
            let identity: Vec<f32> = (0..rows * rows).map(|i| f32::from(u8::from(i / rows == i % rows))).collect();
            for level in levels() {
                let found = product::multiply(level, &identity, weight(&packed, ComputeDtype::Bf16), Side::Out, None);
                assert_eq!(found, dense, "{level:?} {shape:?} {blocksize}");
            }
            let rows = shape[1].min(150);
            let identity: Vec<f32> =
                (0..rows * shape[1]).map(|i| f32::from(u8::from(i / shape[1] == i % shape[1]))).collect();
            for level in levels() {
                let found = product::multiply(level, &identity, weight(&packed, ComputeDtype::Bf16), Side::In, None);
                for (i, found) in found.iter().enumerate() {
                    let expected = dense[i % shape[0] * shape[1] + i / shape[0]];
                    assert_eq!(*found, expected, "{level:?} {shape:?} {blocksize} value {i}");
                }
            }
        }
    }
}

#[test]
fn other_compute_dtypes_leave_the_activations_alone() {
    let packed = pack([33, 65], QuantType::Nf4, 64, true);
    let x = values(17 * 65, 5);
    for dtype in [ComputeDtype::F32, ComputeDtype::F16] {
        let weight = weight(&packed, dtype);
        let dense = packed.view().dequantize(dtype);
        let reference = |x: &[f32], j: usize| -> f64 {
            x.iter().zip(&dense[j * 65..]).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum()
        };
        for level in levels() {
            let found = product::multiply(level, &x, weight, Side::In, None);
            for (at, found) in found.into_iter().enumerate() {
                let expected = reference(&x[at / 33 * 65..][..65], at % 33);
                // 65 f32 products of magnitude 1; rounding x to bfloat16 would show as 1e-2.
                assert!((f64::from(found) - expected).abs() < 1e-5, "{found} {expected}");
            }
        }
    }
}

#[test]
fn results_depend_neither_on_threads_nor_on_callers_side_by_side() {
    let packed = pack([513, 301], QuantType::Nf4, 64, true);
    let x = values(581 * 513, 5);
    for level in levels() {
        for side in [Side::In, Side::Out] {
            let run = || {
                let weight = weight(&packed, ComputeDtype::Bf16);
                let [summed, _] = weight.sizes(side);
                product::multiply(level, &x[..581 * summed], weight, side, None)
            };
            let with_threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run);
            let one = with_threads(1);
            assert!(one == with_threads(3), "{level:?}");
            std::thread::scope(|scope| {
                for thread in [(); 4].map(|()| scope.spawn(run)) {
                    assert!(thread.join().unwrap() == one, "{level:?}");
                }
            });
        }
    }
}

#[test]
fn what_is_not_finite_shows_in_its_row_and_in_no_other() {
    let packed = pack([65, 33], QuantType::Nf4, 64, true);
    for level in levels() {
        for side in [Side::In, Side::Out] {
            let weight = weight(&packed, ComputeDtype::Bf16);
            let [summed, columns] = weight.sizes(side);
            let clean = values(40 * summed, 5);
            let expected = product::multiply(level, &clean, weight, side, None);
            for (row, poison) in [(0, f32::NAN), (17, f32::INFINITY), (33, f32::NEG_INFINITY), (39, f32::NAN)] {
                let mut x = clean.clone();
                x[row * summed + summed - 1] = poison;
                let found = product::multiply(level, &x, weight, side, None);
                for (at, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let what = format!("{level:?} {side:?} {poison} value {at}");
                    if at / columns == row {
                        assert!(!found.is_finite() && (found.is_nan() || !poison.is_nan()), "{what}: {found}");
                    } else {
                        assert!(found == expected, "{what}: {found}");
                    }
                }
            }
        }
    }
}

/// A product over a matrix of NaN: what it does not write shows.
fn stored(level: Level, product: &Product<'_>) -> Vec<f32> {
    let columns = product.columns();
    let mut y = vec![MaybeUninit::new(f32::NAN); product.lhs.rows() * columns];
    product::run(level, product, Store { out: Shared::new(&mut y, columns) });
    // SAFETY: all had a value from the begin.
    y.into_iter().map(|value| unsafe { value.assume_init() }).collect()
}

#[test]
fn a_matrix_of_another_shape_than_the_product_is_refused() {
    let weight = vec![1.0; 12];
    for level in levels() {
        let left = PackedLhs::new(level, [3, 4], |_, values| values.fill(1.0));
        for (len, columns) in [(9, 1), (6, 3), (12, 3), (9, 9), (0, 3)] {
            let refused = std::panic::catch_unwind(|| {
                let mut y = vec![MaybeUninit::new(0.0); len];
                let weight = Weight::dense(&weight, [3, 4]);
                let product = Product { lhs: &left, weight, side: Side::In, bias: None, low_rank: None };
                product::run(level, &product, Store { out: Shared::new(&mut y, columns) });
            });
            assert!(refused.is_err(), "{level:?}: {len} values in rows of {columns}");
        }
    }
}

#[test]
fn no_rows_give_no_values() {
    let packed = pack([5, 12], QuantType::Nf4, 32, true);
    for level in levels() {
        assert!(product::multiply(level, &[], weight(&packed, ComputeDtype::Bf16), Side::In, None).is_empty());
    }
}

/// A product with everything it can have, in f64, from factors that are exact in bfloat16.
struct Adapted {
    rows: usize,
    summed: usize,
    columns: usize,
    rank: usize,
}

impl Adapted {
    fn matrix(&self, rows: usize, columns: usize, seed: u32) -> Vec<f32> {
        values(rows * columns, seed).into_iter().map(|x| ComputeDtype::Bf16.round(x)).collect()
    }

    fn rows(&self, level: Level, count: usize, columns: usize, values: &[f32]) -> PackedLhs {
        PackedLhs::new(level, [count, columns], |first, out| {
            out.copy_from_slice(&values[first * columns..][..out.len()])
        })
    }
}

/// Sizes that are multiples of nothing, ranks below, at and above a tile.
const ADAPTED: [Adapted; 5] = [
    Adapted { rows: 1, summed: 1, columns: 1, rank: 1 },
    Adapted { rows: 37, summed: 45, columns: 70, rank: 5 },
    Adapted { rows: 290, summed: 64, columns: 33, rank: 16 },
    Adapted { rows: 65, summed: 130, columns: 161, rank: 33 },
    Adapted { rows: 17, summed: 31, columns: 257, rank: 70 },
];

#[test]
fn a_low_rank_product_rides_along_with_and_without_a_mask_on_either_side_of_a_dense_weight() {
    for case in &ADAPTED {
        let Adapted { rows, summed, columns, rank } = *case;
        let [x, t] = [case.matrix(rows, summed, 1), case.matrix(rows, rank, 2)];
        for side in [Side::In, Side::Out] {
            let shape = |summed| if side == Side::In { [columns, summed] } else { [summed, columns] };
            let at =
                |k: usize, j: usize, summed: usize| if side == Side::In { j * summed + k } else { k * columns + j };
            let [w, b] = [case.matrix(summed, columns, 3), case.matrix(rank, columns, 4)];
            for keep in [None, Some(KeepMask { keep: 0.6, seed: 5 })] {
                let bias = keep.is_none().then(|| values(columns, 6));
                let factors = keep.map(|keep| keep.factors(rows * columns));
                for level in levels() {
                    let mask = keep.map(|keep| Mask::draw(keep, rows, columns));
                    let [left, thin] = [(&x, summed), (&t, rank)].map(|(x, c)| case.rows(level, rows, c, x));
                    let low_rank =
                        LowRank { lhs: &thin, weight: Weight::dense(&b, shape(rank)), side, mask: mask.as_ref() };
                    let product = Product {
                        lhs: &left,
                        weight: Weight::dense(&w, shape(summed)),
                        side,
                        bias: bias.as_deref(),
                        low_rank: Some(low_rank),
                    };
                    let y = stored(level, &product);
                    assert_eq!(y.len(), rows * columns);
                    for (index, found) in y.iter().enumerate() {
                        let (i, j) = (index / columns, index % columns);
                        let mut sum = bias.as_ref().map_or(0.0, |bias| f64::from(bias[j]));
                        if factors.as_ref().is_none_or(|factors| factors[index] > 0.0) {
                            sum += (0..rank)
                                .map(|k| f64::from(t[i * rank + k]) * f64::from(b[at(k, j, rank)]))
                                .sum::<f64>();
                        }
                        sum += (0..summed)
                            .map(|k| f64::from(x[i * summed + k]) * f64::from(w[at(k, j, summed)]))
                            .sum::<f64>();
                        // f32 sums of at most 200 exact products of magnitude 1.
                        let distance = (f64::from(*found) - sum).abs();
                        assert!(distance < 2e-5, "{level:?} {side:?} {keep:?}: {found} at {index}, not {sum}");
                    }
                }
            }
        }
    }
}

#[test]
fn thin_products_and_their_gradients_equal_float64_sums() {
    for case in &ADAPTED {
        let Adapted { rows, summed, rank, .. } = *case;
        let x = case.matrix(rows, summed, 1);
        let a = case.matrix(rank, summed, 2);
        let u = case.matrix(rows, rank, 3);
        for keep in [None, Some(KeepMask { keep: 0.7, seed: 8 })] {
            let factors = keep.map(|keep| keep.factors(rows * summed));
            let kept = |index: usize| match &factors {
                Some(factors) if factors[index] == 0.0 => 0.0,
                _ => f64::from(x[index]),
            };
            for level in levels() {
                let mask = keep.map(|keep| Mask::draw(keep, rows, summed));
                let [left, thin] = [(&x, summed), (&u, rank)].map(|(x, c)| case.rows(level, rows, c, x));
                let found =
                    product::thin(level, &left, mask.as_ref(), (Weight::dense(&a, [rank, summed]), Side::In), 0.5);
                // Read back through a product with the identity.
                let identity: Vec<f32> = (0..rank * rank).map(|i| f32::from(u8::from(i / rank == i % rank))).collect();
                let product = Product {
                    lhs: &found,
                    weight: Weight::dense(&identity, [rank, rank]),
                    side: Side::In,
                    bias: None,
                    low_rank: None,
                };
                let read = stored(level, &product);
                assert_eq!(read.len(), rows * rank);
                for (index, found) in read.iter().enumerate() {
                    let (i, r) = (index / rank, index % rank);
                    let sum: f64 = (0..summed).map(|k| kept(i * summed + k) * f64::from(a[r * summed + k])).sum();
                    let distance = (f64::from(*found) - 0.5 * sum).abs();
                    // One rounding to bfloat16.
                    assert!(distance <= 0.5 * sum.abs() / 256.0 + 1e-5, "{level:?} {keep:?}: {found}, {sum}");
                }
                let found = product::outer(level, &thin, &left, mask.as_ref());
                assert_eq!(found.len(), rank * summed);
                for (index, found) in found.iter().enumerate() {
                    let (r, k) = (index / summed, index % summed);
                    let sum: f64 = (0..rows).map(|i| f64::from(u[i * rank + r]) * kept(i * summed + k)).sum();
                    // f32 sums of at most 290 exact products of magnitude 1.
                    let distance = (f64::from(*found) - sum).abs();
                    assert!(distance < 3e-5, "{level:?} {keep:?}: {found} at {index}, not {sum}");
                }
            }
        }
    }
}

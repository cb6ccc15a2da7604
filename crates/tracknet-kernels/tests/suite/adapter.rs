//! Adapters and dropout against plain tensor operations, their automatic gradients, and the masks of the host.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor, TensorData};
use tracknet_kernels::adapter::{add_adapter, dropout};
use tracknet_kernels::dropout::KeepMask;
use tracknet_testing::assert_close;

use crate::common::{device, has, host, random};

/// The sum and the gradients of `y`, `x`, `a`, `b` and the bias.
fn run(
    device: &Device,
    dtype: DType,
    [rows, input, output, rank]: [usize; 4],
    operation: impl Fn(Tensor<2>, Tensor<2>, [Tensor<2>; 2], Tensor<1>) -> Tensor<2>,
) -> [Vec<f32>; 6] {
    let device = &device.clone().autodiff();
    let half = |shape, seed| random::<2>(shape, seed, device).cast(dtype).detach().require_grad();
    let (y, x) = (half([rows, output], 1), half([rows, input], 2));
    let [a, b] =
        [([rank, input], 3), ([output, rank], 4)].map(|(shape, seed)| random::<2>(shape, seed, device).require_grad());
    let bias = random::<1>([output], 5, device).require_grad();
    let sum = operation(y.clone(), x.clone(), [a.clone(), b.clone()], bias.clone());
    let loss = sum.clone().cast(DType::F32) * random([rows, output], 6, device);
    let gradients = loss.sum().backward();
    let of = |x: &Tensor<2>| host(x.grad(&gradients).unwrap());
    [host(sum), of(&y), of(&x), of(&a), of(&b), host(bias.grad(&gradients).unwrap())]
}

/// Odd sizes, a rank of one, and rows that are added up in parts.
const SIZES: [[usize; 4]; 4] = [[1, 3, 5, 1], [7, 33, 17, 3], [516, 24, 9, 8], [1280, 40, 72, 4]];

#[test]
fn sums_and_gradients_equal_those_of_plain_operations() {
    for sizes in SIZES {
        for mask in [None, Some(KeepMask { keep: 0.7, seed: 11 })] {
            let found = run(&device(), DType::F32, sizes, |y, x, matrices, bias| {
                add_adapter(y, x, matrices, Some(bias), 1.5, mask)
            });
            let expected = run(&Device::flex(), DType::F32, sizes, |y, x, [a, b], bias| {
                let shape = x.dims();
                let x = match mask {
                    Some(mask) => {
                        let factors = TensorData::new(mask.factors(shape[0] * shape[1]), shape);
                        x * Tensor::from_data(factors, &y.device())
                    }
                    None => x,
                };
                y + x.matmul(a.transpose()).matmul(b.transpose()).mul_scalar(1.5) + bias.unsqueeze()
            });
            for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // Sums of at most 1280 products in f32, in different orders.
                assert_close(found, expected, 2e-5, &format!("{sizes:?} {mask:?} {which}"));
            }
        }
    }
}

#[test]
fn half_precision_gives_what_full_precision_gives_within_its_rounding() {
    for dtype in [DType::BF16, DType::F16].into_iter().filter(|dtype| has(*dtype)) {
        let operation = |y, x, matrices, bias| add_adapter(y, x, matrices, Some(bias), 0.5, None);
        let sizes = [1280, 40, 72, 4];
        let (found, expected) =
            (run(&device(), dtype, sizes, operation), run(&Device::flex(), DType::F32, sizes, operation));
        for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
            // A few roundings to 8 bits, of values up to the largest.
            assert_close(found, expected, 2e-2, &format!("{dtype:?} {which}"));
        }
    }
}

#[test]
fn dropout_keeps_the_values_that_the_host_keeps_and_passes_gradients_through_them() {
    let device = device().autodiff();
    for (count, keep) in [(1, 0.5), (5, 0.5), (40_003, 0.7), (65_536, 0.95)] {
        let mask = KeepMask { keep, seed: 0xdead_beef_1234_5678 };
        let x = Tensor::<1>::ones([count], &device).require_grad();
        let y = dropout(x.clone(), mask);
        let gradients = y.clone().sum().backward();
        assert_eq!(host(y), mask.factors(count));
        assert_eq!(host(x.grad(&gradients).unwrap()), mask.factors(count));
    }
}

#[test]
fn what_is_not_trained_gets_no_gradient() {
    let device = device().autodiff();
    let [y, x] = [random::<2>([3, 5], 1, &device), random([3, 4], 2, &device)];
    let [a, b] = [random([2, 4], 3, &device).require_grad(), random([5, 2], 4, &device)];
    let gradients = add_adapter(y.clone(), x.clone(), [a.clone(), b.clone()], None, 1.0, None).sum().backward();
    assert!(a.grad(&gradients).is_some());
    assert!([y, x, b].iter().all(|tensor| tensor.grad(&gradients).is_none()));
}

#[test]
#[should_panic(expected = "add_adapter: x, a and b are [[3, 4], [2, 5], [5, 2]]")]
fn matrices_that_do_not_fit_are_refused() {
    let zeros = |shape| Tensor::<2>::zeros(shape, &device());
    add_adapter(zeros([3, 5]), zeros([3, 4]), [zeros([2, 5]), zeros([5, 2])], None, 1.0, None);
}

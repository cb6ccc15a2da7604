//! Products and their gradients against Burn's.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::{DType, Device, Tensor, Tolerance};
use tracknet_kernels::matmul::matmul;
use tracknet_testing::assert_close;

use crate::common::{device, has, host, random};

/// The product and the gradients of both factors.
fn run(
    device: &Device,
    dtype: DType,
    [left, right]: [[usize; 3]; 2],
    product: impl Fn(Tensor<3>, Tensor<3>) -> Tensor<3>,
) -> [Vec<f32>; 3] {
    let device = &device.clone().autodiff();
    let factor = |shape, seed| random(shape, seed, device).cast(dtype).detach().require_grad();
    let (lhs, rhs) = (factor(left, 1), factor(right, 2));
    let y = product(lhs.clone(), rhs.clone());
    assert_eq!(y.dtype(), dtype);
    let weights = random([right[0], left[1], right[2]], 3, device);
    let gradients = (y.clone().cast(DType::F32) * weights).sum().backward();
    [host(y), host(lhs.grad(&gradients).unwrap()), host(rhs.grad(&gradients).unwrap())]
}

/// One matrix, as many as there are others, one for all; odd sizes, and sizes of which tiles are multiples.
const SHAPES: [[[usize; 3]; 2]; 5] = [
    [[1, 3, 5], [1, 5, 7]],
    [[4, 3, 5], [4, 5, 7]],
    [[1, 3, 5], [4, 5, 7]],
    [[1, 64, 32], [3, 32, 576]],
    [[1, 1, 64], [2, 64, 256]],
];

#[test]
fn products_and_gradients_equal_those_of_burn() {
    for shapes in SHAPES {
        let found = run(&device(), DType::F32, shapes, matmul);
        let expected = run(&Device::flex(), DType::F32, shapes, |lhs, rhs| lhs.matmul(rhs));
        // Sums of at most 576 products in f32, in different orders.
        for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_close(found, expected, 1e-5, &format!("{shapes:?}, {which}"));
        }
    }
}

#[test]
fn two_matrices_have_the_product_of_burn() {
    let matrix = |shape: [usize; 2], device: &Device| random([1, shape[0], shape[1]], 4, device).squeeze_dim::<2>(0);
    let found = matmul(matrix([5, 33], &device()), matrix([33, 3], &device()));
    assert_eq!(found.dims(), [5, 3]);
    let expected = matrix([5, 33], &Device::flex()).matmul(matrix([33, 3], &Device::flex()));
    found.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
}

#[test]
fn half_precision_gives_what_full_precision_gives_within_its_rounding() {
    for dtype in [DType::BF16, DType::F16].into_iter().filter(|dtype| has(*dtype)) {
        for shapes in SHAPES {
            let found = run(&device(), dtype, shapes, matmul);
            let expected = run(&Device::flex(), DType::F32, shapes, |lhs, rhs| lhs.matmul(rhs));
            // Factors, gradient and result are rounded to at least 8 bits each.
            for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert_close(found, expected, 2e-2, &format!("{dtype:?}, {shapes:?}, {which}"));
            }
        }
    }
}

#[test]
fn a_factor_that_does_not_train_gets_no_gradient() {
    let device = device().autodiff();
    let lhs = random([1, 2, 3], 1, &device);
    let rhs = random([2, 3, 4], 2, &device).require_grad();
    let gradients = matmul(lhs.clone(), rhs.clone()).sum().backward();
    assert!(lhs.grad(&gradients).is_none() && rhs.grad(&gradients).is_some());
}

#[test]
#[should_panic(expected = "matmul: [2, 3, 5] times [4, 5, 7]")]
fn shapes_that_do_not_fit_are_refused() {
    matmul(random([2, 3, 5], 1, &device()), random([4, 5, 7], 2, &device()));
}

//! Attention against plain tensor operations and their automatic gradients.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Tensor, Tolerance};
use tracknet_kernels::ComputeDtype;
use tracknet_kernels::attention::{Rotary, attention};
use tracknet_testing::values;

use crate::common::{device, has, host, multiplies_bfloat16, on_host, tensor};

/// Cosines and sines of a table, `[tokens, head_dim / 2]` each.
fn table(tokens: usize, head_dim: usize) -> [Vec<f32>; 2] {
    let angles = values(tokens * head_dim / 2, 9);
    [f32::cos, f32::sin].map(|f| angles.iter().map(|a| f(2.0 * a)).collect())
}

/// The same from operations that have gradients of their own.
fn plain([query, key, value]: [Tensor<3>; 3], heads: usize, scale: f32, rotary: bool) -> Tensor<3> {
    let [batch, tokens, hidden] = query.dims();
    let head_dim = hidden / heads;
    let split = |x: Tensor<3>| x.reshape([batch, tokens, heads, head_dim]).swap_dims(1, 2);
    let turn = |x: Tensor<4>| {
        if !rotary {
            return x;
        }
        let half = head_dim / 2;
        let [cos, sin] = table(tokens, head_dim).map(|values| tensor(values, [1, 1, tokens, half], &x.device()));
        let x1 = x.clone().slice([0..batch, 0..heads, 0..tokens, 0..half]);
        let x2 = x.slice([0..batch, 0..heads, 0..tokens, half..head_dim]);
        let y1 = x1.clone() * cos.clone() - x2.clone() * sin.clone();
        Tensor::cat(vec![y1, x2 * cos + x1 * sin], 3)
    };
    let scores = turn(split(query)).matmul(turn(split(key)).swap_dims(2, 3)).mul_scalar(scale);
    softmax(scores, 3).matmul(split(value)).swap_dims(1, 2).reshape([batch, tokens, hidden])
}

fn rotary(tokens: usize, head_dim: usize, device: &Device) -> Rotary {
    let [cos, sin] = table(tokens, head_dim);
    Rotary::new(cos, &sin, tokens, device)
}

/// Output and the gradients of query, key and value.
fn run(sizes: [usize; 4], with_rotary: bool, kernel: Option<ComputeDtype>) -> [Vec<f32>; 4] {
    run_in(DType::F32, 0.3, sizes, with_rotary, kernel)
}

/// The same of tensors of a dtype.
fn run_in(
    dtype: DType,
    scale: f32,
    [batch, tokens, heads, head_dim]: [usize; 4],
    with_rotary: bool,
    kernel: Option<ComputeDtype>,
) -> [Vec<f32>; 4] {
    let device = if kernel.is_some() { device() } else { Device::flex() }.autodiff();
    let shape = [batch, tokens, heads * head_dim];
    let input = |seed| tensor(values(shape.iter().product(), seed), shape, &device).cast(dtype).detach();
    let inputs = [1, 2, 3].map(|seed| input(seed).require_grad());
    let y = if let Some(compute) = kernel {
        let rotary = with_rotary.then(|| rotary(tokens, head_dim, &device));
        let [query, key, value] = inputs.clone();
        attention(query, key, value, heads, scale, rotary.as_ref(), compute)
    } else {
        plain(inputs.clone(), heads, scale, with_rotary)
    };
    let gradients = (y.clone().cast(DType::F32) * input(4).cast(DType::F32)).sum().backward();
    let [d_query, d_key, d_value] = inputs.map(|x| host(x.grad(&gradients).unwrap()));
    [host(y), d_query, d_key, d_value]
}

#[test]
fn output_and_gradients_equal_those_of_plain_operations() {
    for sizes in [[2, 5, 3, 8], [1, 65, 2, 64], [2, 201, 1, 80]] {
        for rotary in [false, true] {
            let (found, expected) = (run(sizes, rotary, Some(ComputeDtype::F32)), run(sizes, rotary, None));
            for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // Both round to f32, in different orders.
                let tolerance = 2e-5 * largest(expected, sizes, which);
                assert!(distance(found, expected) <= tolerance, "{sizes:?} {rotary} {which}");
            }
        }
    }
}

/// Heads of every size that a kernel treats in its own way, and tokens around the edges of tiles.
const SIZES: [[usize; 4]; 7] =
    [[2, 5, 3, 8], [2, 1, 2, 16], [1, 16, 3, 32], [1, 65, 2, 64], [2, 63, 1, 64], [1, 131, 2, 80], [1, 97, 1, 128]];

/// The largest of some expected values, against which distances are held.
fn largest(expected: &[f32], [_, tokens, ..]: [usize; 4], which: usize) -> f32 {
    // A single token looks at itself whatever the scores are: these gradients are 0, and what is rounded on the way is
    // the gradient of its probability, which is of magnitude 1.
    if tokens == 1 && (1..3).contains(&which) { 1.0 } else { expected.iter().fold(0.0, |max, x| max.max(x.abs())) }
}

fn distance(found: &[f32], expected: &[f32]) -> f32 {
    found.iter().zip(expected).fold(0.0, |max, (x, y)| max.max((x - y).abs()))
}

#[test]
fn products_of_bfloat16_are_near_those_of_f32_and_not_the_same() {
    for sizes in SIZES {
        for rotary in [false, true] {
            let [found, expected] =
                [ComputeDtype::Bf16, ComputeDtype::F32].map(|compute| run(sizes, rotary, Some(compute)));
            for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let (largest, distance) = (largest(expected, sizes, which), distance(found, expected));
                // Factors have 8 bits instead of 24, where the device multiplies such factors.
                let rounded = distance > 1e-5 * largest || sizes[1] == 1 || !multiplies_bfloat16();
                assert!(distance <= 1e-2 * largest && rounded, "{sizes:?} {rotary} {which}: {distance}");
            }
        }
    }
}

#[test]
fn tensors_of_half_precision_give_what_those_of_f32_give_within_their_rounding() {
    for dtype in [DType::BF16, DType::F16].into_iter().filter(|dtype| has(*dtype)) {
        // With the second scale few probabilities of a row are all of it, and follow the rounding of their scores.
        for (scale, tolerance) in [(0.3, 3e-2), (1.0, 8e-2)] {
            for sizes in SIZES {
                let found = run_in(dtype, scale, sizes, true, Some(ComputeDtype::Bf16));
                let expected = run_in(DType::F32, scale, sizes, true, None);
                for (which, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let (largest, distance) = (largest(expected, sizes, which), distance(found, expected));
                    assert!(distance <= tolerance * largest, "{dtype:?} {scale} {sizes:?} {which}: {distance}");
                }
            }
        }
    }
}

#[test]
fn a_key_that_is_not_finite_shows_in_every_row_of_its_head_and_in_no_other() {
    let (device, [tokens, heads, head_dim]) = (device(), [70, 2, 16]);
    let shape = [2, tokens, heads * head_dim];
    let input = |seed| tensor(values(shape.iter().product(), seed), shape, &device);
    let mut bad = values(shape.iter().product(), 2);
    // The last token of the first frame, in its second head.
    bad[tokens * heads * head_dim - 1] = f32::NAN;
    let y = host(attention(input(1), tensor(bad, shape, &device), input(3), heads, 0.5, None, ComputeDtype::Bf16));
    for (i, value) in y.into_iter().enumerate() {
        let of_it = i < tokens * heads * head_dim && i % (heads * head_dim) >= head_dim;
        assert_eq!(value.is_nan(), of_it, "{i}");
    }
}

#[test]
fn an_input_that_needs_no_gradient_changes_no_other() {
    let device = device().autodiff();
    let shape = [2, 17, 24];
    let input = |seed| tensor(values(2 * 17 * 24, seed), shape, &device);
    let gradient_of = |x: &Tensor<3>, [query, key, value]: [Tensor<3>; 3]| {
        let gradients = attention(query, key, value, 3, 0.3, None, ComputeDtype::F32).powi_scalar(2).sum().backward();
        x.grad(&gradients).map(host).unwrap()
    };
    let all = [1, 2, 3].map(|seed| input(seed).require_grad());
    for i in 0..3 {
        let mut inputs = [1, 2, 3].map(input);
        inputs[i] = inputs[i].clone().require_grad();
        assert_eq!(gradient_of(&inputs[i].clone(), inputs), gradient_of(&all[i].clone(), all.clone()));
    }
}

#[test]
fn one_tensor_as_query_key_and_value_gets_the_sum_of_the_gradients() {
    let gradient = |device: Device, operation: &dyn Fn([Tensor<3>; 3]) -> Tensor<3>| {
        let x = tensor(values(9 * 16, 1), [1, 9, 16], &device.autodiff()).require_grad();
        let y = operation([x.clone(), x.clone(), x.clone()]);
        host(x.grad(&y.powi_scalar(2).sum().backward()).unwrap())
    };
    let found =
        gradient(device(), &|[query, key, value]| attention(query, key, value, 2, 0.4, None, ComputeDtype::F32));
    let expected = gradient(Device::flex(), &|inputs| plain(inputs, 2, 0.4, false));
    for (found, expected) in found.iter().zip(&expected) {
        // f32, gradients of magnitude 1.
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn views_give_what_their_copies_give() {
    let device = device();
    let view = |seed| tensor(values(7 * 2 * 16, seed), [7, 2, 16], &device).swap_dims(0, 1);
    let copy = |seed| tensor(host(view(seed)), [2, 7, 16], &device);
    let rotary = rotary(7, 8, &device);
    let on = |input: &dyn Fn(u32) -> Tensor<3>| {
        host(attention(input(1), input(2), input(3), 2, 0.5, Some(&rotary), ComputeDtype::F32))
    };
    assert_eq!(on(&view), on(&copy));
}

#[test]
fn the_output_has_the_dtype_of_the_input_and_is_rounded_once() {
    let device = device();
    for dtype in [DType::F32, DType::BF16, DType::F16].into_iter().filter(|dtype| has(*dtype)) {
        let input = |seed| tensor(values(2 * 7 * 16, seed), [2, 7, 16], &device).cast(dtype);
        let y = attention(input(1), input(2), input(3), 2, 0.5, None, ComputeDtype::F32);
        assert_eq!(y.dtype(), dtype);
        let [query, key, value] = [1, 2, 3].map(|seed| input(seed).cast(DType::F32));
        let expected = attention(query, key, value, 2, 0.5, None, ComputeDtype::F32).cast(dtype);
        if on_host() {
            assert_eq!(y.into_data(), expected.into_data());
        } else {
            // On a GPU the probabilities are rounded before they meet the values.
            let [y, expected] = [y, expected].map(|y| y.into_data().convert::<f32>());
            y.assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-2));
        }
    }
}

#[test]
fn several_threads_at_once_get_what_one_gets() {
    let alone = run([2, 301, 2, 64], true, Some(ComputeDtype::Bf16));
    std::thread::scope(|scope| {
        let runs: Vec<_> =
            (0..3).map(|_| scope.spawn(|| run([2, 301, 2, 64], true, Some(ComputeDtype::Bf16)))).collect();
        for other in runs {
            assert!(other.join().unwrap() == alone);
        }
    });
}

#[test]
fn no_frames_give_no_output() {
    let empty = || Tensor::<3>::zeros([0, 5, 16], &device());
    assert_eq!(attention(empty(), empty(), empty(), 2, 1.0, None, ComputeDtype::F32).dims(), [0, 5, 16]);
}

#[test]
#[should_panic(expected = "attention: 16 numbers do not split into 3 heads")]
fn heads_that_do_not_divide_the_hidden_size_are_refused() {
    let x = || Tensor::<3>::zeros([1, 5, 16], &device());
    attention(x(), x(), x(), 3, 1.0, None, ComputeDtype::F32);
}

#[test]
#[should_panic(expected = "attention: rotary table [2, 4, 4] for 5 tokens and heads of 8")]
fn a_table_for_other_tokens_is_refused() {
    let x = || Tensor::<3>::zeros([1, 5, 16], &device());
    attention(x(), x(), x(), 2, 1.0, Some(&rotary(4, 8, &device())), ComputeDtype::F32);
}

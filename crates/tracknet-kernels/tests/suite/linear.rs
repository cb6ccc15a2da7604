//! The 4-bit linear layer against dense products, finite differences and itself.
#![cfg(feature = "flex")]
// clippy.toml allows these in test functions, not in the functions they share.
#![allow(clippy::unwrap_used)]

use burn::module::Module;
use burn::tensor::{DType, Device, Distribution, Tensor, TensorData, Tolerance};
use tracknet_kernels::{
    ComputeDtype, Linear4bitWeight, PackedWeight, QuantType, QuantizeError, QuantizeOptions, linear_4bit,
};

use crate::common::{device, has, on_host};

/// Values that look random and are the same everywhere.
fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

fn pack(shape: [usize; 2], quant_type: QuantType, blocksize: usize, double_quant: bool) -> PackedWeight {
    let options = QuantizeOptions { quant_type, blocksize, double_quant };
    PackedWeight::quantize(&values(shape[0] * shape[1], 7), shape, &options).unwrap()
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| ComputeDtype::Bf16.round(*value)).collect()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn host(tensor: Tensor<2>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// `a[m, k] · b[k, n]` in f64.
fn product(a: &[f32], b: impl Fn(usize, usize) -> f32, [m, k, n]: [usize; 3]) -> Vec<f64> {
    let mut out = vec![0.0; m * n];
    for i in 0..m {
        for j in 0..n {
            out[i * n + j] = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(b(l, j))).sum();
        }
    }
    out
}

fn assert_close(found: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0_f64, |max, v| max.max(v.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let distance = (f64::from(*found) - expected).abs();
        assert!(distance <= tolerance * largest, "{what}: element {i} is {found}, expected {expected}");
    }
}

/// Odd, distinct sizes; inner sizes that are no multiple of a block; odd element counts; several row tasks and panels.
const SIZES: [[usize; 3]; 6] = [[1, 1, 1], [3, 65, 33], [5, 7, 11], [2, 200, 96], [300, 70, 31], [3, 5003, 211]];

#[test]
fn forward_and_input_gradient_equal_the_float64_product_with_the_dequantized_weight() {
    let device = device().autodiff();
    for [m, k, n] in SIZES {
        for (quant_type, double_quant) in [(QuantType::Nf4, true), (QuantType::Fp4, false)] {
            for dtype in [ComputeDtype::F32, ComputeDtype::Bf16, ComputeDtype::F16] {
                let packed = pack([n, k], quant_type, 64, double_quant);
                let dense = packed.view().dequantize(dtype);
                let weight = Linear4bitWeight::from_packed(&packed, dtype, &device).unwrap();
                let what = format!("{m}x{k}x{n} {quant_type} {dtype:?}");

                let (x, g) = (values(m * k, 1), values(m * n, 2));
                let input = tensor(x.clone(), [m, k], &device).require_grad();
                let weights = tensor(g.clone(), [m, n], &device);
                // With bfloat16 both factors of a product are rounded.
                let [x, g] = [x, g].map(|values| if dtype == ComputeDtype::Bf16 { rounded(&values) } else { values });
                let y = linear_4bit(input.clone(), &weight, None);
                // f32 accumulation over at most 5003 products of magnitude 1.
                assert_close(&host(y.clone()), &product(&x, |l, j| dense[j * k + l], [m, k, n]), 1e-5, &what);

                let gradients = (y * weights).sum().backward();
                let gradient = host(input.grad(&gradients).unwrap());
                assert_close(&gradient, &product(&g, |l, j| dense[l * k + j], [m, n, k]), 1e-5, &what);
            }
        }
    }
}

#[test]
fn gradients_equal_finite_differences_of_the_loss() {
    let device = device().autodiff();
    let [m, k, n] = [3, 37, 5];
    let packed = pack([n, k], QuantType::Nf4, 32, true);
    let dense = packed.dequantize();
    let weight = Linear4bitWeight::from_packed(&packed, ComputeDtype::F32, &device).unwrap();
    let (x, b) = (values(m * k, 3), values(n, 4));
    // Loss: sum of sin(y), so that the gradient depends on y.
    let loss = |x: &[f64], b: &[f64]| -> f64 {
        (0..m * n)
            .map(|at| {
                let (i, j) = (at / n, at % n);
                let y: f64 = (0..k).map(|l| x[i * k + l] * f64::from(dense[j * k + l])).sum();
                (y + b[j]).sin()
            })
            .sum()
    };
    let input = tensor(x.clone(), [m, k], &device).require_grad();
    let bias = tensor(b.clone(), [n], &device).require_grad();
    let gradients = linear_4bit(input.clone(), &weight, Some(bias.clone())).sin().sum().backward();
    let of_input = host(input.grad(&gradients).unwrap());
    let of_bias: Vec<f32> = bias.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();

    let (x, b): (Vec<f64>, Vec<f64>) =
        (x.iter().map(|v| f64::from(*v)).collect(), b.iter().map(|v| f64::from(*v)).collect());
    let step = 1e-5;
    let slope = |values: &[f64], at: usize, loss: &dyn Fn(&[f64]) -> f64| {
        let (mut up, mut down) = (values.to_vec(), values.to_vec());
        up[at] += step;
        down[at] -= step;
        (loss(&up) - loss(&down)) / (2.0 * step)
    };
    let expected: Vec<f64> = (0..m * k).map(|at| slope(&x, at, &|x| loss(x, &b))).collect();
    // Central differences in f64 err by about 1e-9; the rest is f32.
    assert_close(&of_input, &expected, 1e-5, "input");
    let expected: Vec<f64> = (0..n).map(|at| slope(&b, at, &|b| loss(&x, b))).collect();
    assert_close(&of_bias, &expected, 1e-5, "bias");
}

#[test]
fn gradients_equal_those_that_autodiff_derives_for_the_dense_product() {
    let [m, k, n] = [9, 130, 21];
    let packed = pack([n, k], QuantType::Fp4, 128, true);
    let gradient = |dense: bool| {
        let device = if dense { Device::flex() } else { device() }.autodiff();
        let weight = Linear4bitWeight::from_packed(&packed, ComputeDtype::F16, &device).unwrap();
        let input = tensor(values(m * k, 5), [m, k], &device).require_grad();
        let y = if dense {
            input.clone().matmul(weight.dequantize().transpose())
        } else {
            linear_4bit(input.clone(), &weight, None)
        };
        let gradients = y.powi_scalar(2).sum().backward();
        host(input.grad(&gradients).unwrap())
    };
    let expected: Vec<f64> = gradient(true).into_iter().map(f64::from).collect();
    assert_close(&gradient(false), &expected, 1e-5, "gradient");
}

#[test]
fn leading_dimensions_are_kept() {
    let device = device();
    let packed = pack([11, 13], QuantType::Nf4, 64, false);
    let weight = Linear4bitWeight::from_packed(&packed, ComputeDtype::F32, &device).unwrap();
    let bias = tensor(values(11, 9), [11], &device);
    let x = values(2 * 3 * 5 * 13, 6);
    let flat = linear_4bit(tensor(x.clone(), [30, 13], &device), &weight, Some(bias.clone())).into_data();
    let three = linear_4bit(tensor(x.clone(), [6, 5, 13], &device), &weight, Some(bias.clone()));
    assert_eq!(three.dims(), [6, 5, 11]);
    let four = linear_4bit(tensor(x.clone(), [2, 3, 5, 13], &device), &weight, Some(bias.clone()));
    assert_eq!(four.dims(), [2, 3, 5, 11]);
    assert_eq!(three.reshape([30, 11]).into_data(), flat);
    assert_eq!(four.reshape([30, 11]).into_data(), flat);
    let one = linear_4bit(tensor(x[..13].to_vec(), [13], &device), &weight, Some(bias));
    assert_eq!(one.dims(), [11]);
}

#[test]
fn views_that_are_not_contiguous_give_the_same_result() {
    let device = device();
    let weight =
        Linear4bitWeight::from_packed(&pack([5, 12], QuantType::Nf4, 32, true), ComputeDtype::F32, &device).unwrap();
    let x = tensor(values(12 * 9, 8), [12, 9], &device);
    let view = x.clone().transpose().slice(2..7);
    let copy = tensor(host(view.clone()), [5, 12], &device);
    assert_eq!(linear_4bit(view, &weight, None).into_data(), linear_4bit(copy, &weight, None).into_data());
}

#[test]
fn an_input_without_rows_gives_an_output_without_rows() {
    let device = device();
    let weight =
        Linear4bitWeight::from_packed(&pack([5, 12], QuantType::Nf4, 32, true), ComputeDtype::F32, &device).unwrap();
    assert_eq!(linear_4bit(Tensor::<2>::zeros([0, 12], &device), &weight, None).dims(), [0, 5]);
}

#[test]
fn the_output_has_the_dtype_of_the_input_and_is_rounded_once() {
    let device = device();
    let packed = pack([7, 65], QuantType::Nf4, 64, true);
    let x = tensor(values(3 * 65, 8), [3, 65], &device);
    let bias = tensor(values(7, 9), [7], &device);
    for compute in [ComputeDtype::Bf16, ComputeDtype::F16, ComputeDtype::F32] {
        let weight = Linear4bitWeight::from_packed(&packed, compute, &device).unwrap();
        for dtype in [DType::F32, DType::BF16, DType::F16].into_iter().filter(|dtype| has(*dtype)) {
            let input = x.clone().cast(dtype);
            let y = linear_4bit(input.clone(), &weight, Some(bias.clone()));
            assert_eq!(y.dtype(), dtype);
            let expected = linear_4bit(input.cast(DType::F32), &weight, Some(bias.clone())).cast(dtype);
            if on_host() {
                assert_eq!(y.into_data(), expected.into_data());
            } else {
                // A GPU may add in another order for another type; what is left is one rounding to the type.
                let [y, expected] = [y, expected].map(|y| y.into_data().convert::<f32>());
                y.assert_approx_eq::<f32>(&expected, Tolerance::relative(1e-2));
            }
        }
    }
}

#[test]
fn activations_are_rounded_to_bfloat16_and_to_nothing_else() {
    let device = device();
    let packed = pack([7, 65], QuantType::Nf4, 64, true);
    let x = values(3 * 65, 8);
    for (compute, same) in [(ComputeDtype::Bf16, true), (ComputeDtype::F16, false), (ComputeDtype::F32, false)] {
        let weight = Linear4bitWeight::from_packed(&packed, compute, &device).unwrap();
        let [exact, nearest] =
            [x.clone(), rounded(&x)].map(|x| linear_4bit(tensor(x, [3, 65], &device), &weight, None).into_data());
        assert_eq!(exact == nearest, same, "{compute:?}");
    }
}

#[test]
fn the_bias_gets_its_gradient_where_the_input_has_none() {
    let device = device().autodiff();
    let weight =
        Linear4bitWeight::from_packed(&pack([5, 12], QuantType::Nf4, 32, true), ComputeDtype::Bf16, &device).unwrap();
    let x = tensor(values(36, 1), [3, 12], &device);
    let bias = tensor(values(5, 2), [5], &device).require_grad();
    let factors = values(15, 3);
    let y = linear_4bit(x.clone(), &weight, Some(bias.clone())) * tensor(factors.clone(), [3, 5], &device);
    let gradients = y.sum().backward();
    assert!(x.grad(&gradients).is_none());
    let found: Vec<f32> = bias.grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
    let expected: Vec<f64> = (0..5).map(|j| (0..3).map(|i| f64::from(factors[i * 5 + j])).sum()).collect();
    // Three f32 numbers are added.
    assert_close(&found, &expected, 1e-6, "bias");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let device = Device::flex().autodiff();
    let [m, k, n] = [515, 130, 77];
    let source = values(n * k, 7);
    let run = || {
        let packed = PackedWeight::quantize(&source, [n, k], &QuantizeOptions::default()).unwrap();
        let weight = Linear4bitWeight::from_packed(&packed, ComputeDtype::Bf16, &device).unwrap();
        let input = tensor(values(m * k, 1), [m, k], &device).require_grad();
        let y = linear_4bit(input.clone(), &weight, None);
        let gradients = y.clone().powi_scalar(2).sum().backward();
        (packed, host(y), host(input.grad(&gradients).unwrap()))
    };
    let with_threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run);
    assert!(with_threads(1) == with_threads(3));
}

#[test]
fn a_weight_survives_the_device_byte_for_byte_and_takes_the_bytes_it_reports() {
    for device in [device(), device().autodiff()] {
        for double_quant in [false, true] {
            for quant_type in [QuantType::Nf4, QuantType::Fp4] {
                let packed = pack([33, 65], quant_type, 64, double_quant);
                let weight = Linear4bitWeight::from_packed(&packed, ComputeDtype::Bf16, &device).unwrap();
                assert_eq!(weight.to_packed().unwrap(), packed);
                assert_eq!(weight.storage_bytes(), packed.storage_bytes());
                let dense: Vec<f32> = weight.dequantize().into_data().try_to_vec().unwrap();
                assert_eq!(dense, packed.view().dequantize(ComputeDtype::Bf16));
            }
        }
    }
    // 33 * 65 weights: 1073 bytes of codes, 34 scales of a byte, one of four, the offset.
    assert_eq!(pack([33, 65], QuantType::Nf4, 64, true).storage_bytes(), 1073 + 34 + 4 + 4);
}

#[test]
fn double_quantization_takes_at_most_4_13_bits_a_weight() {
    let packed = pack([384, 1536], QuantType::Nf4, 64, true);
    let bits = packed.storage_bytes() as f64 * 8.0 / packed.num_elements() as f64;
    assert!(bits <= 4.13, "{bits}");
}

#[derive(Module, Debug)]
struct Layer {
    weight: Linear4bitWeight,
    bias: burn::module::Param<Tensor<1>>,
}

#[test]
fn inside_a_module_it_is_constant_and_survives_valid_train_clone_fork_and_to_device() {
    let device = device().autodiff();
    let packed = pack([11, 13], QuantType::Nf4, 32, true);
    let layer = Layer {
        weight: Linear4bitWeight::from_packed(&packed, ComputeDtype::F32, &device).unwrap(),
        bias: burn::module::Param::from_tensor(Tensor::zeros([11], &device)),
    };
    // Only the bias is a parameter.
    assert_eq!(layer.num_params(), 11);

    let input = tensor(values(26, 1), [2, 13], &common::device());
    let expected = linear_4bit(input.clone(), &layer.valid().weight, None).into_data();
    let valid = layer.valid();
    assert_eq!(valid.weight.to_packed().unwrap(), packed);
    let trained = valid.train();
    let forked = trained.clone().fork(&device);
    assert_eq!(trained.clone().to_device(&common::device()).weight.to_packed().unwrap(), packed);
    for (name, layer) in [("new", layer), ("trained", trained), ("forked", forked)] {
        assert_eq!(layer.weight.to_packed().unwrap(), packed);
        let x = Tensor::from_inner(input.clone()).require_grad();
        let y = linear_4bit(x.clone(), &layer.weight, Some(layer.bias.val()));
        assert_eq!(y.clone().inner().into_data(), expected);
        let gradients = y.sum().backward();
        assert!(x.grad(&gradients).is_some());
        assert!(layer.bias.val().grad(&gradients).is_some(), "{name}");
    }
}

#[test]
fn untracked_inputs_give_outputs_without_gradient() {
    let device = device().autodiff();
    let weight =
        Linear4bitWeight::from_packed(&pack([5, 12], QuantType::Nf4, 32, true), ComputeDtype::F32, &device).unwrap();
    let x = Tensor::<2>::random([3, 12], Distribution::Default, &device);
    assert!(!linear_4bit(x.clone(), &weight, None).is_require_grad());
    let other = tensor(values(15, 1), [3, 5], &device).require_grad();
    let gradients = (linear_4bit(x.clone(), &weight, None) * other.clone()).sum().backward();
    assert!(x.grad(&gradients).is_none());
    assert!(other.grad(&gradients).is_some());
}

#[test]
fn gradient_checkpointing_gives_the_same_gradient() {
    let run = |device: Device| {
        let weight =
            Linear4bitWeight::from_packed(&pack([5, 12], QuantType::Nf4, 32, true), ComputeDtype::F32, &device)
                .unwrap();
        let x = tensor(values(36, 1), [3, 12], &device).require_grad();
        let y = linear_4bit(x.clone().exp(), &weight, None).exp();
        let gradients = y.sum().backward();
        host(x.grad(&gradients).unwrap())
    };
    let plain = device().autodiff();
    assert_eq!(run(plain.clone().gradient_checkpointing()), run(plain));
}

#[test]
fn a_scale_that_overflows_float16_is_refused_when_float16_is_asked_for() {
    let options = QuantizeOptions { double_quant: false, ..QuantizeOptions::default() };
    let packed = PackedWeight::quantize(&[1.0, 70_000.0], [1, 2], &options).unwrap();
    let device = device();
    let error = Linear4bitWeight::from_packed(&packed, ComputeDtype::F16, &device).unwrap_err();
    assert!(matches!(error, QuantizeError::BadScale { index: 0, value: 70_000.0, .. }), "{error}");
    assert!(Linear4bitWeight::from_packed(&packed, ComputeDtype::Bf16, &device).is_ok());
}

#[test]
#[should_panic(expected = "x is [2, 12], the weight [5, 13]")]
fn an_input_of_another_width_is_refused_by_shape() {
    let device = device();
    let weight =
        Linear4bitWeight::from_packed(&pack([5, 13], QuantType::Nf4, 32, true), ComputeDtype::F32, &device).unwrap();
    let _ = linear_4bit(Tensor::<2>::zeros([2, 12], &device), &weight, None);
}

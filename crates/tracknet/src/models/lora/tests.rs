//! Adapted layers against the formulas, against PEFT, and kernels against ordinary operations.
#![allow(clippy::unwrap_used)] // Helpers of tests; in the tests themselves it is allowed anyway.

use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Distribution, Gradients, Tensor, TensorData};
use proptest::prelude::*;
use safetensors::SafeTensors;
use tracknet_kernels::{ComputeDtype, Linear4bitWeight, QuantizeOptions};

use super::adapter::Scaling;
use super::layer::forward_adapted;
use super::{AdaptableLayer, LoraAdapter, LoraLayer, MergeInto, fused};
use crate::models::nn::{Builder, Conv2d, ConvSpec, Linear, LinearWeight, RandomSource};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn assert_close<const D: usize>(got: Tensor<D>, want: Tensor<D>, tolerance: f32) {
    let largest = want.clone().abs().max().into_scalar::<f32>();
    let difference = (got - want).abs().max().into_scalar::<f32>();
    assert!(difference <= tolerance * largest, "{difference} of {largest}");
}

/// A frozen linear layer with this weight.
fn linear(weight: Tensor<2>) -> LoraLayer<Linear> {
    let [output, input] = weight.dims();
    let source = RandomSource { seed: 0 };
    let mut linear = Linear::new([output, input], false, 0.1, &Builder::new(&source, &weight.device()));
    linear.weight = LinearWeight::Dense(Param::from_tensor(weight).set_require_grad(false));
    LoraLayer::new(linear)
}

fn adapter([a, b]: [&Tensor<2>; 2], scaling: Scaling) -> LoraAdapter {
    let matrices = [a.clone().into_data(), b.clone().into_data()];
    LoraAdapter::from_data(matrices, scaling, 0.0, "test", &a.device())
}

#[test]
fn output_and_gradients_are_those_of_the_dense_update_at_odd_shapes() {
    let device = Device::default().autodiff();
    let [rows, input, output, rank, scale] = [11, 7, 5, 3, 2];
    let [x, weight] = [random([rows, input], &device).require_grad(), random([output, input], &device)];
    let [a, b] = [random([rank, input], &device), random([output, rank], &device)];
    let mut layer = linear(weight.clone());
    layer.adapter = Some(adapter([&a, &b], Scaling { alpha: (scale * rank) as f32, rslora: false }));
    let got = layer.forward(x.clone());
    let got_gradients = got.clone().square().mean().backward();

    let (a, b) = (a.detach().require_grad(), b.detach().require_grad());
    let y = x.clone().detach().require_grad();
    let dense = weight + b.clone().matmul(a.clone()).mul_scalar(scale as f32);
    let want = y.clone().matmul(dense.transpose());
    let want_gradients = want.clone().square().mean().backward();

    let adapter = layer.adapter.as_ref().unwrap();
    let pairs = [
        (got, want),
        (x.grad(&got_gradients).unwrap(), y.grad(&want_gradients).unwrap()),
        (adapter.a.val().grad(&got_gradients).unwrap(), a.grad(&want_gradients).unwrap()),
        (adapter.b.val().grad(&got_gradients).unwrap(), b.grad(&want_gradients).unwrap()),
    ];
    for (got, want) in pairs {
        // Sums of fewer than a hundred f32 products, associated differently.
        assert_close(got, want, 1e-5);
    }
}

#[test]
fn dora_is_the_formula_of_its_paper_and_its_length_passes_no_gradient() {
    let device = Device::default().autodiff();
    let [rows, input, output, rank] = [6, 9, 5, 2];
    let [x, w] = [random([rows, input], &device), random([output, input], &device)];
    let [a, b] = [random([rank, input], &device), random([output, rank], &device)];
    let m = random([output, 1], &device).abs().add_scalar(0.5);
    let scaling = Scaling { alpha: 3.0, rslora: true };
    let magnitude = m.clone().reshape([output]).into_data();
    let mut layer = linear(w.clone());
    layer.adapter = Some(adapter([&a, &b], scaling).with_dora(w.clone(), Some(magnitude)));
    let got = layer.forward(x.clone());
    let got_gradients = got.clone().square().mean().backward();

    let [a, b, m] = [a, b, m].map(|t| t.detach().require_grad());
    let sum = w + b.clone().matmul(a.clone()).mul_scalar(scaling.factor(rank));
    let length = sum.clone().square().sum_dim(1).sqrt().detach();
    let want = x.matmul((sum * (m.clone() / length)).transpose());
    let gradients = want.clone().square().mean().backward();
    assert_close(got, want, 1e-5);
    let adapter = layer.adapter.as_ref().unwrap();
    let trained = adapter.dora.as_ref().unwrap().magnitude.val().grad(&got_gradients).unwrap();
    assert_close(trained.reshape([output, 1]), m.grad(&gradients).unwrap(), 1e-4);
    assert_close(adapter.a.val().grad(&got_gradients).unwrap(), a.grad(&gradients).unwrap(), 1e-4);
    assert_close(adapter.b.val().grad(&got_gradients).unwrap(), b.grad(&gradients).unwrap(), 1e-4);
}

/// Rows, input and output of the golden's linear layer; its input images; the rank of both.
const GOLDEN_LINEAR: [usize; 3] = [6, 9, 5];
const GOLDEN_IMAGES: [usize; 4] = [2, 3, 5, 4];
const GOLDEN_RANK: usize = 2;

/// A tensor of `dora_dropout.safetensors`, made by PEFT with the masks that are drawn here, in another shape.
fn golden<const D: usize>(name: &str, shape: [usize; D]) -> TensorData {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/dora_dropout.safetensors");
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let bytes = file.tensor(name).unwrap().data().as_chunks().0.iter();
    TensorData::new(bytes.map(|b| f32::from_le_bytes(*b)).collect::<Vec<f32>>(), shape)
}

/// Gives a layer the adapter of the golden `name`, with the stream of dropout that its mask was drawn from.
fn adapt_as_golden(name: &str, layer: &mut dyn AdaptableLayer) {
    let ([output, input], matrix) = (layer.base().shape(), layer.base().matrix());
    let part = |part: &str, shape| golden(&format!("{name}.{part}"), shape);
    let matrices = [part("a", [GOLDEN_RANK, input]), part("b", [output, GOLDEN_RANK])];
    let scaling = Scaling { alpha: 3.0, rslora: false };
    let adapter = LoraAdapter::from_data(matrices, scaling, 0.5, name, &matrix.device())
        .with_dora(matrix, Some(golden(&format!("{name}.m"), [output])));
    *layer.adapter_mut() = Some(adapter);
}

fn assert_golden_gradients(name: &str, adapter: &LoraAdapter, gradients: &Gradients) {
    let [a, b] = [&adapter.a, &adapter.b].map(|p| p.val().grad(gradients).unwrap());
    let m = adapter.dora.as_ref().unwrap().magnitude.val().grad(gradients).unwrap();
    let device = a.device();
    let (a_shape, b_shape, m_shape) = (a.dims(), b.dims(), m.dims());
    let part = |part: &str| format!("{name}.grad_{part}");
    assert_close(a, Tensor::from_data(golden(&part("a"), a_shape), &device), 1e-5);
    assert_close(b, Tensor::from_data(golden(&part("b"), b_shape), &device), 1e-5);
    assert_close(m, Tensor::from_data(golden(&part("m"), m_shape), &device), 1e-5);
}

#[test]
fn dora_with_dropout_gives_the_output_and_the_gradients_of_peft_on_a_linear_layer() {
    let device = Device::default().autodiff();
    let [rows, input, output] = GOLDEN_LINEAR;
    let tensor = |name: &str, shape| Tensor::<2>::from_data(golden(&format!("linear.{name}"), shape), &device);
    let x = tensor("x", [rows, input]).require_grad();
    let mut layer = linear(tensor("w", [output, input]));
    layer.base.bias = Some(Param::from_data(golden("linear.bias", [output]), &device));
    adapt_as_golden("linear", &mut layer);
    let adapter = layer.adapter.as_ref().unwrap();
    adapter.seed_dropout(7);
    let drawn = adapter.dropout(Tensor::<2>::ones([rows, input], &device));
    assert_eq!(drawn.into_data(), golden("linear.mask", [rows, input]), "another mask: make the fixture again");

    adapter.seed_dropout(7);
    let y = layer.forward(x.clone());
    let gradients = y.clone().square().mean().backward();
    assert_close(y, tensor("y", [rows, output]), 1e-5);
    assert_close(x.grad(&gradients).unwrap(), tensor("grad_x", [rows, input]), 1e-5);
    assert_golden_gradients("linear", adapter, &gradients);
}

#[test]
fn dora_with_dropout_gives_the_output_and_the_gradients_of_peft_on_a_convolution() {
    let device = Device::default().autodiff();
    let tensor = |name: &str, shape| Tensor::<4>::from_data(golden(&format!("convolution.{name}"), shape), &device);
    let x = tensor("x", GOLDEN_IMAGES).require_grad();
    let source = RandomSource { seed: 0 };
    let spec = ConvSpec::square([3, 4], 3).stride(2).with_bias();
    let mut layer = LoraLayer::new(spec.build(&Builder::new(&source, &device)));
    layer.base.weight = Param::from_tensor(tensor("w", [4, 3, 3, 3])).set_require_grad(false);
    layer.base.bias = Some(Param::from_data(golden("convolution.bias", [4]), &device));
    adapt_as_golden("convolution", &mut layer);
    let adapter = layer.adapter.as_ref().unwrap();
    adapter.seed_dropout(7);
    let drawn = adapter.dropout(Tensor::<4>::ones(GOLDEN_IMAGES, &device));
    assert_eq!(drawn.into_data(), golden("convolution.mask", GOLDEN_IMAGES), "another mask: make the fixture again");

    adapter.seed_dropout(7);
    let y = layer.forward(x.clone());
    let shape = y.dims();
    let gradients = y.clone().square().mean().backward();
    assert_close(y, tensor("y", shape), 1e-5);
    assert_close(x.grad(&gradients).unwrap(), tensor("grad_x", GOLDEN_IMAGES), 1e-5);
    assert_golden_gradients("convolution", adapter, &gradients);
}

/// A convolution of odd shapes with an adapter, some of them DoRA.
fn adapted_conv(dora: bool, device: &Device) -> LoraLayer<Conv2d> {
    let source = RandomSource { seed: 3 };
    let mut layer = LoraLayer::new(ConvSpec::square([5, 7], 3).with_bias().build(&Builder::new(&source, device)));
    let [output, input] = layer.base.shape();
    let [a, b] = [random([2, input], device), random([output, 2], device)];
    let adapter = adapter([&a, &b], Scaling { alpha: 6.0, rslora: false });
    let magnitude = random([1, output], device).abs().add_scalar(0.5).reshape([output]).into_data();
    layer.adapter = Some(if dora { adapter.with_dora(layer.base.rows(), Some(magnitude)) } else { adapter });
    layer
}

#[test]
fn a_merged_layer_computes_the_same_and_unmerging_returns_the_weight() {
    let device = Device::default();
    for dora in [false, true] {
        let [x, w] = [random([4, 9], &device), random([5, 9], &device)];
        let [a, b] = [random([3, 9], &device), random([5, 3], &device)];
        let adapter = adapter([&a, &b], Scaling { alpha: 6.0, rslora: false });
        let magnitude = TensorData::from([0.5f32, 1.0, 2.0, 3.0, 1.5]);
        let mut layer = linear(w);
        layer.adapter =
            Some(if dora { adapter.with_dora(layer.base.weight.dense(), Some(magnitude)) } else { adapter });
        check_merge(&mut layer, |layer| layer.forward(x.clone()));

        let images = random([2, 5, 6, 4], &device);
        check_merge(&mut adapted_conv(dora, &device), |layer| layer.forward(images.clone()));
    }
}

/// Merges and unmerges a layer. Differences are one rounding of each sum and, with DoRA, of each product.
fn check_merge<L: AdaptableLayer, const D: usize>(layer: &mut L, forward: impl Fn(&L) -> Tensor<D>) {
    let (adapted, weight) = (forward(layer), layer.base().matrix());
    layer.merge("layer", MergeInto::Float).unwrap();
    assert!(layer.adapter().is_none() && layer.merged().is_some());
    assert_close(forward(layer), adapted.clone(), 1e-5);
    layer.unmerge("layer").unwrap();
    assert_close(layer.base().matrix(), weight, 1e-5);
    assert_close(forward(layer), adapted, 1e-5);
}

/// A linear layer of any shape with an adapter that kernels can compute.
#[derive(Debug, Clone, Copy)]
struct Case {
    rows: usize,
    shape: [usize; 2],
    rank: usize,
    dropout: bool,
    bias: bool,
    packed: bool,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1usize..9, 1usize..40, 1usize..40, 1usize..6);
    (sizes, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |((rows, output, input, rank), dropout, bias, packed)| Case {
            rows,
            shape: [output, input],
            rank,
            dropout,
            bias,
            packed,
        },
    )
}

impl Case {
    fn layer(self, compute: ComputeDtype, device: &Device) -> LoraLayer<Linear> {
        let source = RandomSource { seed: 5 };
        let mut linear = Linear::new(self.shape, self.bias, 0.5, &Builder::new(&source, device));
        linear.set_dense_dtype(compute);
        linear.weight = match self.packed {
            false => LinearWeight::Dense(Param::from_tensor(linear.weight.dense()).set_require_grad(false)),
            true => {
                let weight = Linear4bitWeight::quantize(linear.weight.dense(), &QuantizeOptions::default(), compute);
                LinearWeight::Packed(weight.unwrap())
            }
        };
        let [output, input] = self.shape;
        let [a, b] = [random([self.rank, input], device), random([output, self.rank], device)];
        let (scaling, dropout) = (Scaling { alpha: 3.0, rslora: true }, if self.dropout { 0.4 } else { 0.0 });
        let adapter = LoraAdapter::from_data([a.into_data(), b.into_data()], scaling, dropout, "case", device);
        let mut layer = LoraLayer::new(linear);
        layer.adapter = Some(adapter);
        layer
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_update_and_the_bias_in_one_pass_are_those_of_ordinary_operations(case in cases()) {
        let device = Device::default().autodiff();
        let layer = case.layer(ComputeDtype::F32, &device);
        let adapter = layer.adapter.as_ref().unwrap();
        prop_assert!(adapter.is_low_rank());
        let x = random([case.rows, case.shape[1]], &device);
        let outputs = [true, false].map(|is_fused| {
            adapter.seed_dropout(9);
            let x = x.clone().require_grad();
            let y = match is_fused {
                true => fused::forward_rows(&layer.base, adapter, x.clone()),
                false => forward_adapted(&layer.base, adapter, x.clone()),
            };
            let gradients = y.clone().square().sum().backward();
            let [a, b] = [&adapter.a, &adapter.b].map(|p| p.val().grad(&gradients).unwrap());
            [y.inner(), x.grad(&gradients).unwrap(), a, b]
        });
        let [fused, plain] = outputs;
        for (got, want) in fused.into_iter().zip(plain) {
            let largest = want.clone().abs().max().into_scalar::<f32>().max(1.0);
            let difference = (got - want).abs().max().into_scalar::<f32>();
            // Sums of fewer than a hundred f32 products, associated differently.
            prop_assert!(difference <= 1e-4 * largest, "{difference} of {largest}");
        }
    }
}

//! Every kernel beside what the processor can reach.
//!
//! ```text
//! cargo bench --workspace --bench kernels                    # all, a second or two each
//! cargo bench --workspace --bench kernels -- linear          # those whose name contains `linear`
//! ```
//!
//! The shapes are those of a ViT-S at 512×288 and its decoder, batches of 4 frames. The rate is counted from the shapes:
//! operations where arithmetic is the limit, bytes read and written where memory is. `backward` measures the backward
//! pass alone, with everything that it computes again, and counts the gradients only.

// A benchmark that cannot prepare its data stops.
#![allow(clippy::expect_used, clippy::print_stdout)]

mod roofline;

use std::hint::black_box;

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{BatchSize, BenchmarkGroup, Criterion, Throughput};
use tracknet_kernels::attention::{Rotary, attention};
use tracknet_kernels::block::{Adapter, FrozenBlock, FrozenLinear, FrozenNorm, FrozenWeight, frozen_block};
use tracknet_kernels::dropout::KeepMask;
use tracknet_kernels::{
    ComputeDtype, FusedActivation, Linear4bitWeight, NormSpec, PackedWeight, QuantizeOptions, conv3x3,
    depthwise_conv_nhwc, depthwise_conv3x3, gelu, group_norm, layer_norm, linear_4bit, resize_bilinear,
};

use roofline::{Roofline, bytes, operations};

type Group<'a> = BenchmarkGroup<'a, Roofline>;

const FRAMES: usize = 4;
/// Patches of a frame, class and register tokens.
const TOKENS: usize = 18 * 32 + 5;
const HIDDEN: usize = 384;
const HEADS: usize = 6;
const MLP: usize = 1536;
/// Of the adapters.
const RANK: usize = 16;
/// The last stage of the decoder: channels, height, width.
const STAGE: [usize; 3] = [64, 144, 256];

fn main() {
    // As in the program: without it, large outputs measure how fast the system clears pages.
    tracknet_kernels::allocator::keep_large_blocks();
    let roofline = Roofline::measure();
    println!("{roofline}");
    let mut criterion = Criterion::default()
        .with_measurement(roofline)
        .warm_up_time(std::time::Duration::from_millis(200))
        .measurement_time(std::time::Duration::from_millis(800))
        .sample_size(10)
        .without_plots()
        .configure_from_args();
    fourbit(&mut criterion.benchmark_group("linear_4bit"));
    attention_of_a_block(&mut criterion.benchmark_group("attention"));
    whole_block(&mut criterion.benchmark_group("frozen_block"));
    normalization(&mut criterion.benchmark_group("norm"));
    activation(&mut criterion.benchmark_group("gelu"));
    convolution(&mut criterion.benchmark_group("depthwise"));
    convolution_of_cells(&mut criterion.benchmark_group("depthwise_nhwc"));
    dense_convolution(&mut criterion.benchmark_group("conv3x3"));
    resize(&mut criterion.benchmark_group("resize"));
    codec(&mut criterion.benchmark_group("codec"));
    criterion.final_summary();
}

fn device() -> Device {
    Device::flex()
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().expect("the CPU gives its values")
}

fn packed(shape: [usize; 2]) -> PackedWeight {
    let weight = values(random(shape, &device()));
    PackedWeight::quantize(&weight, shape, &QuantizeOptions::default()).expect("normal values are finite")
}

/// Measures `forward`, and the backward pass of it with the output as its own gradient.
///
/// `inputs` makes fresh leaves on the device it gets, each of which requires a gradient.
fn both<const N: usize, const D: usize>(
    group: &mut Group<'_>,
    name: &str,
    [forward_rate, backward_rate]: [Throughput; 2],
    inputs: impl Fn(&Device) -> [Tensor<D>; N],
    forward: impl Fn(&[Tensor<D>; N]) -> Tensor<D>,
) {
    let plain = inputs(&device());
    group.throughput(forward_rate);
    group.bench_function(format!("{name}/forward"), |b| b.iter(|| black_box(forward(&plain))));
    let trained = inputs(&device().autodiff()).map(Tensor::require_grad);
    let gradient = forward(&trained).inner();
    group.throughput(backward_rate);
    group.bench_function(format!("{name}/backward"), |b| {
        b.iter_batched(
            || (forward(&trained) * Tensor::from_inner(gradient.clone())).sum(),
            |loss| black_box(loss.backward()),
            BatchSize::PerIteration,
        );
    });
}

fn fourbit(group: &mut Group<'_>) {
    let rows = FRAMES * TOKENS;
    for [out_features, in_features] in [[HIDDEN, HIDDEN], [MLP, HIDDEN], [HIDDEN, MLP]] {
        for (dtype, compute) in [("bf16", ComputeDtype::Bf16), ("f32", ComputeDtype::F32)] {
            let weight = |device: &Device| {
                let weight = packed([out_features, in_features]);
                Linear4bitWeight::from_packed(&weight, compute, device).expect("scales in range")
            };
            let (plain, trained) = (weight(&device()), weight(&device().autodiff()));
            let name = format!("{in_features}→{out_features}/{dtype}");
            // Backward: the gradient of the input only, the weight is frozen.
            let rate = operations(2 * rows * in_features * out_features, dtype);
            both(
                group,
                &name,
                [rate.clone(), rate],
                |device| [random([rows, in_features], device)],
                |[x]| {
                    let weight = if x.is_require_grad() { &trained } else { &plain };
                    linear_4bit(x.clone(), weight, None)
                },
            );
        }
    }
}

/// Some angles for every token, on the CPU and on the same with gradients.
fn rotary() -> [Rotary; 2] {
    let angles: Vec<f32> = (0..TOKENS * (HIDDEN / HEADS / 2)).map(|i| i as f32 * 0.01).collect();
    let [cos, sin] = [f32::cos, f32::sin].map(|f| angles.iter().map(|&angle| f(angle)).collect::<Vec<_>>());
    [device(), device().autodiff()].map(|device| Rotary::new(cos.clone(), &sin, TOKENS, &device))
}

fn attention_of_a_block(group: &mut Group<'_>) {
    let [plain, trained] = rotary();
    let scale = ((HIDDEN / HEADS) as f32).sqrt().recip();
    // Two products forward, four backward.
    let product = 2 * FRAMES * TOKENS * TOKENS * HIDDEN;
    for (dtype, compute) in [("f32", ComputeDtype::F32), ("bf16", ComputeDtype::Bf16)] {
        both(
            group,
            &format!("{HEADS} heads, {TOKENS} tokens/{dtype}"),
            [operations(2 * product, dtype), operations(4 * product, dtype)],
            |device| [(); 3].map(|()| random([FRAMES, TOKENS, HIDDEN], device)),
            |[q, k, v]| {
                let rotary = if q.is_require_grad() { &trained } else { &plain };
                attention(q.clone(), k.clone(), v.clone(), HEADS, scale, Some(rotary), compute)
            },
        );
    }
}

/// A block in 4 bits or floats with adapters that train, as QLoRA and LoRA run it.
fn whole_block(group: &mut Group<'_>) {
    let shapes = [[HIDDEN; 2], [HIDDEN; 2], [HIDDEN; 2], [HIDDEN; 2], [MLP, HIDDEN], [HIDDEN, MLP]];
    let rows = FRAMES * TOKENS;
    let linear: usize = shapes.iter().map(|[out, input]| 2 * rows * out * input).sum();
    let thin: usize = shapes.iter().map(|[out, input]| 2 * rows * RANK * (out + input)).sum();
    let product = 2 * FRAMES * TOKENS * TOKENS * HIDDEN;
    let rates = [linear + thin + 2 * product, linear + 2 * thin + 4 * product].map(|count| operations(count, "bf16"));
    let rotary = rotary();
    for name in ["nf4, adapters", "float, adapters"] {
        let layers = [device(), device().autodiff()].map(|device| {
            shapes.map(|shape @ [out, input]| {
                let weight = Linear4bitWeight::from_packed(&packed(shape), ComputeDtype::Bf16, &device);
                let [a, b] = [[RANK, input], [out, RANK]].map(|shape| random(shape, &device));
                (weight.expect("scales in range"), random(shape, &device), a, b)
            })
        });
        both(
            group,
            name,
            rates.clone(),
            |device| [random([FRAMES, TOKENS, HIDDEN], device)],
            |[x]| {
                let trains = usize::from(x.is_require_grad());
                let linear = |i: usize| {
                    let (packed, dense, a, b) = &layers[trains][i];
                    let leaf = |matrix: &Tensor<2>| match trains {
                        0 => matrix.clone(),
                        _ => matrix.clone().require_grad(),
                    };
                    let dropout = (trains == 1).then_some(KeepMask { keep: 0.95, seed: i as u64 });
                    FrozenLinear {
                        weight: if name.starts_with("nf4") {
                            FrozenWeight::Packed(packed)
                        } else {
                            FrozenWeight::Dense(dense.clone())
                        },
                        bias: None,
                        adapter: Some(Adapter { a: leaf(a), b: leaf(b), scale: 2.0, dropout }),
                    }
                };
                let norm = || FrozenNorm {
                    weight: Tensor::ones([HIDDEN], &x.device()),
                    bias: Tensor::zeros([HIDDEN], &x.device()),
                    epsilon: 1e-5,
                };
                let block = FrozenBlock {
                    norms: [norm(), norm()],
                    query: linear(0),
                    key: linear(1),
                    value: linear(2),
                    output: linear(3),
                    up: linear(4),
                    down: linear(5),
                    scales: [None, None],
                    heads: HEADS,
                    checkpoint: false,
                };
                frozen_block(x.clone(), Some(&rotary[trains]), block)
            },
        );
    }
}

fn normalization(group: &mut Group<'_>) {
    let size = 4 * FRAMES * TOKENS * HIDDEN;
    let parameters =
        |channels: usize, device: &Device| (Tensor::<1>::ones([channels], device), Tensor::zeros([channels], device));
    let (plain, trained) = (parameters(HIDDEN, &device()), parameters(HIDDEN, &device().autodiff()));
    both(
        group,
        "layer",
        [bytes(2 * size), bytes(3 * size)],
        |device| [random([FRAMES, TOKENS, HIDDEN], device)],
        |[x]| {
            let (weight, bias) = if x.is_require_grad() { &trained } else { &plain };
            layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-5)
        },
    );
    let [channels, height, width] = STAGE;
    let size = 4 * FRAMES * channels * height * width;
    let (plain, trained) = (parameters(channels, &device()), parameters(channels, &device().autodiff()));
    let spec = NormSpec { groups: 32, epsilon: 1e-5, activation: FusedActivation::Gelu };
    both(
        group,
        "group, GELU",
        [bytes(2 * size), bytes(3 * size)],
        |device| [random([FRAMES, channels, height, width], device)],
        |[x]| {
            let (weight, bias) = if x.is_require_grad() { &trained } else { &plain };
            group_norm(x.clone(), weight.clone(), bias.clone(), spec)
        },
    );
}

fn activation(group: &mut Group<'_>) {
    let size = 4 * FRAMES * TOKENS * MLP;
    let rates = [bytes(2 * size), bytes(3 * size)];
    both(group, "MLP", rates, |device| [random([FRAMES, TOKENS, MLP], device)], |[x]| gelu(x.clone()));
}

fn convolution(group: &mut Group<'_>) {
    let [channels, height, width] = STAGE;
    let size = 4 * FRAMES * channels * height * width;
    let weight = |device: &Device| random([channels, 1, 3, 3], device);
    let (plain, trained) = (weight(&device()), weight(&device().autodiff()).require_grad());
    both(
        group,
        "3×3",
        // Backward reads input and gradient and writes both gradients.
        [bytes(2 * size), bytes(3 * size)],
        |device| [random([FRAMES, channels, height, width], device)],
        |[x]| depthwise_conv3x3(x.clone(), if x.is_require_grad() { trained.clone() } else { plain.clone() }),
    );
}

/// Of the first and of the third stage of a ConvNeXt-T; the weight is frozen.
fn convolution_of_cells(group: &mut Group<'_>) {
    for [rows, columns, channels] in [[72, 128, 96], [18, 32, 384]] {
        let count = 2 * 49 * FRAMES * rows * columns * channels;
        let parameters = |device: &Device| (random([channels, 1, 7, 7], device), random([channels], device));
        let (plain, trained) = (parameters(&device()), parameters(&device().autodiff()));
        both(
            group,
            &format!("7×7, {channels} channels"),
            [operations(count, "f32"), operations(count, "f32")],
            |device| [random([FRAMES, rows * columns, channels], device)],
            |[x]| {
                let (weight, bias) = if x.is_require_grad() { &trained } else { &plain };
                depthwise_conv_nhwc(x.clone(), [rows, columns], weight.clone(), bias.clone())
            },
        );
    }
}

fn dense_convolution(group: &mut Group<'_>) {
    let [_, height, width] = STAGE;
    for channels in [16, 32] {
        let count = 2 * 9 * channels * channels * FRAMES * height * width;
        let rates = [operations(count, "f32"), operations(2 * count, "f32")];
        let weight = |device: &Device| random([channels, channels, 3, 3], device);
        let (plain, trained) = (weight(&device()), weight(&device().autodiff()).require_grad());
        both(
            group,
            &format!("{channels}→{channels}"),
            rates,
            |device| [random([FRAMES, channels, height, width], device)],
            |[x]| conv3x3(x.clone(), if x.is_require_grad() { trained.clone() } else { plain.clone() }),
        );
    }
}

fn resize(group: &mut Group<'_>) {
    let [channels, height, width] = STAGE;
    let size = 4 * FRAMES * channels * height * width;
    let rates = [bytes(size + size / 4), bytes(size + size / 4)];
    both(
        group,
        "×2",
        rates,
        |device| [random([FRAMES, channels, height / 2, width / 2], device)],
        |[x]| resize_bilinear(x.clone(), [height, width]),
    );
}

fn codec(group: &mut Group<'_>) {
    let shape = [3072, 768];
    let weight = values(random(shape, &device()));
    let options = QuantizeOptions::default();
    group.throughput(bytes(4 * weight.len()));
    group.bench_function("quantize", |b| b.iter(|| PackedWeight::quantize(black_box(&weight), shape, &options)));
    let packed = packed(shape);
    group.bench_function("dequantize", |b| b.iter(|| black_box(&packed).dequantize()));
}

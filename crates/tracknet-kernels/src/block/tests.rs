//! The block against the same block composed of ordinary operations in f32.

use burn::tensor::{Device, Tensor, TensorData};

use super::layer::{prepared, prepared_mlp};
use super::{Adapter, FrozenBlock, FrozenLinear, FrozenMlp, FrozenNorm, FrozenWeight, frozen_block, frozen_mlp};
use crate::attention::{Rotary, attention};
use crate::dropout::KeepMask;
use crate::product::levels;
use crate::simd::Level;
use crate::{ComputeDtype, Linear4bitWeight, PackedWeight, QuantizeOptions, gelu, layer_norm};

/// Values in -1..1 that look random and are the same everywhere.
fn values(count: usize, seed: usize) -> Vec<f32> {
    let mut state = (seed as u64).wrapping_mul(tracknet_random::GOLDEN);
    (0..count).map(|_| (tracknet_random::next(&mut state) >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
}

fn tensor<const D: usize>(shape: [usize; D], seed: usize, size: f32, device: &Device) -> Tensor<D> {
    let values = values(shape.iter().product(), seed).into_iter().map(|x| x * size).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// What is tested.
#[derive(Debug, Clone, Copy)]
struct Case {
    batch: usize,
    tokens: usize,
    hidden: usize,
    mlp: usize,
    heads: usize,
    rank: usize,
    packed: bool,
    rotary: bool,
    scaled: bool,
    keep: f32,
    /// Bit by bit, which layers have an adapter.
    adapted: u32,
}

const CASES: [Case; 5] = [
    Case {
        batch: 2,
        tokens: 37,
        hidden: 48,
        mlp: 112,
        heads: 3,
        rank: 5,
        packed: true,
        rotary: true,
        scaled: true,
        keep: 0.75,
        adapted: 0b11_1111,
    },
    Case {
        batch: 1,
        tokens: 70,
        hidden: 64,
        mlp: 33,
        heads: 4,
        rank: 16,
        packed: true,
        rotary: false,
        scaled: false,
        keep: 1.0,
        adapted: 0b10_1001,
    },
    Case {
        batch: 3,
        tokens: 3,
        hidden: 34,
        mlp: 65,
        heads: 1,
        rank: 1,
        packed: false,
        rotary: true,
        scaled: true,
        keep: 0.5,
        adapted: 0b01_0110,
    },
    Case {
        batch: 1,
        tokens: 19,
        hidden: 96,
        mlp: 100,
        heads: 6,
        rank: 40,
        packed: true,
        rotary: true,
        scaled: false,
        keep: 0.9,
        adapted: 0b11_1111,
    },
    Case {
        batch: 2,
        tokens: 5,
        hidden: 32,
        mlp: 64,
        heads: 2,
        rank: 4,
        packed: true,
        rotary: true,
        scaled: true,
        keep: 1.0,
        adapted: 0,
    },
];

/// A linear layer as the tests hold it.
struct Layer {
    packed: Option<Linear4bitWeight>,
    dense: Tensor<2>,
    bias: Option<Tensor<1>>,
    a: Tensor<2>,
    b: Tensor<2>,
    adapted: bool,
    dropout: Option<KeepMask>,
}

/// A block as the tests hold it.
struct Parts {
    case: Case,
    layers: Vec<Layer>,
    norms: [(Tensor<1>, Tensor<1>); 2],
    scales: [Option<Tensor<1>>; 2],
    rotary: Option<Rotary>,
    x: Tensor<3>,
    /// What the MLP alone is added to.
    residual: Tensor<3>,
    /// Makes a number of the output, whose gradient is then this.
    weights: Tensor<3>,
}

const SCALE: f32 = 1.5;

impl Parts {
    fn new(case: Case, device: &Device) -> Self {
        let Case { batch, tokens, hidden, mlp, heads, rank, .. } = case;
        let shapes = [[hidden, hidden]; 4].into_iter().chain([[mlp, hidden], [hidden, mlp]]);
        let layers = shapes.enumerate().map(|(i, [output, input])| {
            let size = 1.0 / (input as f32).sqrt();
            let dense: Vec<f32> = values(output * input, 10 + i).into_iter().map(|x| x * size).collect();
            let packed = PackedWeight::quantize(&dense, [output, input], &QuantizeOptions::default()).unwrap();
            let packed = Linear4bitWeight::from_packed(&packed, ComputeDtype::Bf16, device).unwrap();
            let dense = if case.packed {
                packed.dequantize()
            } else {
                let rounded: Vec<f32> = dense.into_iter().map(|x| ComputeDtype::Bf16.round(x)).collect();
                Tensor::from_data(TensorData::new(rounded, [output, input]), device)
            };
            Layer {
                packed: case.packed.then_some(packed),
                dense,
                bias: (i != 1).then(|| tensor([output], 20 + i, 0.3, device)),
                a: tensor([rank, input], 30 + i, size, device).require_grad(),
                b: tensor([output, rank], 40 + i, 0.5, device).require_grad(),
                adapted: case.adapted >> i & 1 == 1,
                dropout: (case.keep < 1.0).then_some(KeepMask { keep: case.keep, seed: 1000 + i as u64 }),
            }
        });
        let norm = |seed| (tensor([hidden], seed, 0.5, device) + 1.0, tensor([hidden], seed + 1, 0.2, device));
        let rotary = case.rotary.then(|| {
            let angles: Vec<f32> = values(tokens * (hidden / heads / 2), 3).into_iter().map(|x| x * 3.0).collect();
            let sin: Vec<f32> = angles.iter().map(|x| x.sin()).collect();
            Rotary::new(angles.iter().map(|x| x.cos()).collect(), &sin, tokens, device)
        });
        Self {
            case,
            layers: layers.collect(),
            norms: [norm(50), norm(52)],
            scales: [60, 61].map(|seed| case.scaled.then(|| tensor([hidden], seed, 1.0, device))),
            rotary,
            x: tensor([batch, tokens, hidden], 1, 1.0, device).require_grad(),
            residual: tensor([batch, tokens, hidden], 4, 1.0, device).require_grad(),
            weights: tensor([batch, tokens, hidden], 2, 1.0, device),
        }
    }

    fn block(&self, checkpoint: bool) -> FrozenBlock<'_> {
        let linear = |i: usize| {
            let layer = &self.layers[i];
            FrozenLinear {
                weight: match &layer.packed {
                    Some(packed) => FrozenWeight::Packed(packed),
                    None => FrozenWeight::Dense(layer.dense.clone()),
                },
                bias: layer.bias.clone(),
                adapter: layer.adapted.then(|| Adapter {
                    a: layer.a.clone(),
                    b: layer.b.clone(),
                    scale: SCALE,
                    dropout: layer.dropout,
                }),
            }
        };
        FrozenBlock {
            norms: self.norms.clone().map(|(weight, bias)| FrozenNorm { weight, bias, epsilon: 1e-5 }),
            query: linear(0),
            key: linear(1),
            value: linear(2),
            output: linear(3),
            up: linear(4),
            down: linear(5),
            scales: self.scales.clone(),
            heads: self.case.heads,
            checkpoint,
        }
    }

    /// The second half of the block.
    fn mlp(&self, checkpoint: bool) -> FrozenMlp<'_> {
        let FrozenBlock { norms: [_, norm], up, down, scales: [_, scale], .. } = self.block(checkpoint);
        FrozenMlp { norm, up, down, scale, checkpoint }
    }

    fn linear(&self, i: usize, x: Tensor<3>) -> Tensor<3> {
        let layer = &self.layers[i];
        let y = x.clone().matmul(layer.dense.clone().transpose().unsqueeze());
        let y = match &layer.bias {
            Some(bias) => y + bias.clone().unsqueeze(),
            None => y,
        };
        if !layer.adapted {
            return y;
        }
        let dropped = match layer.dropout {
            Some(keep) => {
                let factors = keep.factors(x.shape().num_elements());
                let factors = Tensor::from_data(TensorData::new(factors, x.dims()), &x.device());
                x * factors
            }
            None => x,
        };
        let thin = dropped.matmul(layer.a.clone().transpose().unsqueeze());
        y + thin.matmul(layer.b.clone().transpose().unsqueeze()).mul_scalar(SCALE)
    }

    fn norm(&self, i: usize, x: Tensor<3>) -> Tensor<3> {
        let (weight, bias) = self.norms[i].clone();
        layer_norm(x, weight, bias, 1e-5)
    }

    fn scaled(&self, i: usize, x: Tensor<3>) -> Tensor<3> {
        match &self.scales[i] {
            Some(scale) => x * scale.clone().unsqueeze(),
            None => x,
        }
    }

    /// The block composed of ordinary operations.
    fn composed(&self) -> Tensor<3> {
        let x = self.x.clone();
        let normal = self.norm(0, x.clone());
        let [query, key, value] = [0, 1, 2].map(|i| self.linear(i, normal.clone()));
        let scale = 1.0 / ((self.case.hidden / self.case.heads) as f32).sqrt();
        let attended = attention(query, key, value, self.case.heads, scale, self.rotary.as_ref(), ComputeDtype::F32);
        let x = x + self.scaled(0, self.linear(3, attended));
        self.composed_mlp(x.clone(), x)
    }

    /// The MLP composed of ordinary operations.
    fn composed_mlp(&self, residual: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let inner = gelu(self.linear(4, self.norm(1, x)));
        residual + self.scaled(1, self.linear(5, inner))
    }

    /// The output, and the gradients of the input and of the matrices of the adapters.
    fn run(&self, forward: impl Fn(&Self) -> Tensor<3>) -> Vec<Vec<f32>> {
        self.run_layers(0, forward).0
    }

    /// The same of an MLP, and the gradient of what it is added to.
    fn run_mlp(&self, forward: impl Fn(&Self) -> Tensor<3>) -> Vec<Vec<f32>> {
        let (mut all, of_residual) = self.run_layers(4, forward);
        all.push(of_residual.unwrap());
        all
    }

    /// As [`Self::run`] for the layers from `first` on, and the gradient of the residual.
    fn run_layers(&self, first: usize, forward: impl Fn(&Self) -> Tensor<3>) -> (Vec<Vec<f32>>, Option<Vec<f32>>) {
        let y = forward(self);
        let gradients = (y.clone() * self.weights.clone()).sum().backward();
        let mut all = vec![host(y), host(self.x.grad(&gradients).unwrap())];
        for layer in self.layers[first..].iter().filter(|layer| layer.adapted) {
            all.push(host(layer.a.grad(&gradients).unwrap()));
            all.push(host(layer.b.grad(&gradients).unwrap()));
        }
        (all, self.residual.grad(&gradients).map(host))
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// The length of the difference, relative to that of what is expected.
fn distance(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let norm: f64 = expected.iter().map(|x| square(*x)).sum();
    (found.iter().zip(expected).map(|(found, expected)| square(found - expected)).sum::<f64>() / norm).sqrt()
}

#[test]
fn outputs_and_gradients_are_those_of_the_composed_block() {
    let device = Device::flex().autodiff();
    for case in CASES {
        let parts = Parts::new(case, &device);
        let expected = parts.run(Parts::composed);
        let found = parts.run(|parts| frozen_block(parts.x.clone(), parts.rotary.as_ref(), parts.block(false)));
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let distance = distance(found, expected);
            // The output is held to 1e-2. A gradient has gone through a dozen roundings to bfloat16, one behind the other,
            // each by up to 1/512, and through the softmax, whose gradient is a difference of two rounded numbers.
            let tolerance = if i == 0 { 1e-2 } else { 2.5e-2 };
            assert!(distance < tolerance, "{case:?}: result {i} is {distance} off");
        }
    }
}

#[test]
fn outputs_and_gradients_of_an_mlp_are_those_of_the_composed_one() {
    let device = Device::flex().autodiff();
    for case in CASES {
        let parts = Parts::new(case, &device);
        let (residual, x) = (&parts.residual, &parts.x);
        let expected = parts.run_mlp(|parts| parts.composed_mlp(residual.clone(), x.clone()));
        let run = |keep| parts.run_mlp(|parts| frozen_mlp(residual.clone(), x.clone(), parts.mlp(keep)));
        let found = run(false);
        assert_eq!(found.len(), expected.len());
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let distance = distance(found, expected);
            // As for the block, without the attention.
            let tolerance = if i == 0 { 1e-2 } else { 2e-2 };
            assert!(distance < tolerance, "{case:?}: result {i} is {distance} off");
        }
        assert_eq!(run(true), found, "{case:?}: with checkpointing");
    }
}

/// Runs what gives several results with every instruction set and compares them with those of the portable one.
fn agree_at_every_level(case: Case, run: impl Fn(Level) -> Vec<Vec<f32>>) {
    let expected = run(Level::PORTABLE);
    for level in levels() {
        for (i, (found, expected)) in run(level).iter().zip(&expected).enumerate() {
            let distance = distance(found, expected);
            // Sums in another order now and then fall on the other side of a rounding to bfloat16.
            assert!(distance < 3e-3, "{level:?} {case:?}: result {i} is {distance} off");
        }
    }
}

#[test]
fn every_implementation_of_an_mlp_agrees_with_the_portable_one() {
    let device = Device::flex().autodiff();
    for case in CASES {
        let parts = Parts::new(case, &device);
        let (mlp, adapters) = prepared_mlp(&parts.residual, &parts.x, parts.mlp(false));
        let [x, residual, gradient] = [&parts.x, &parts.residual, &parts.weights].map(|x| host(x.clone()));
        let adapters = host(adapters);
        let run = |level| {
            let host = mlp.borrow(&adapters);
            let (y, saved) = host.forward(&x, residual.clone(), level);
            let (of_normal, of_adapters) = host.backward(saved, &gradient, level);
            let mut all = vec![y, of_normal];
            all.extend(of_adapters.into_iter().flatten().flatten());
            all
        };
        agree_at_every_level(case, run);
    }
}

#[test]
fn an_mlp_does_not_depend_on_the_number_of_threads_and_leads_a_gradient_past_it() {
    let device = Device::flex().autodiff();
    let parts = Parts::new(Case { tokens: 301, hidden: 96, mlp: 200, ..CASES[0] }, &device);
    let run = || parts.run_mlp(|parts| frozen_mlp(parts.residual.clone(), parts.x.clone(), parts.mlp(false)));
    let with_threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run);
    assert_eq!(with_threads(1), with_threads(3));
    // A residual that alone is tracked.
    let parts = Parts::new(CASES[4], &device);
    let x = Tensor::from_inner(parts.x.clone().inner());
    let y = frozen_mlp(parts.residual.clone(), x, parts.mlp(false));
    let gradients = (y * parts.weights.clone()).sum().backward();
    assert_eq!(host(parts.residual.grad(&gradients).unwrap()), host(parts.weights.clone()));
}

#[test]
fn checkpointing_changes_no_bit() {
    let device = Device::flex().autodiff();
    for case in CASES {
        let parts = Parts::new(case, &device);
        let run = |checkpoint| {
            parts.run(move |parts| frozen_block(parts.x.clone(), parts.rotary.as_ref(), parts.block(checkpoint)))
        };
        assert_eq!(run(true), run(false), "{case:?}");
    }
}

#[test]
fn every_implementation_agrees_with_the_portable_one() {
    let device = Device::flex().autodiff();
    for case in CASES {
        let parts = Parts::new(case, &device);
        let (block, adapters) = prepared(&parts.x, parts.rotary.as_ref(), parts.block(false));
        let [x, adapters, gradient] = [host(parts.x.clone()), host(adapters), host(parts.weights.clone())];
        let run = |level| {
            let host = block.borrow(parts.x.dims(), &adapters);
            let (y, saved) = host.forward(&x, level);
            let (of_x, of_adapters) = host.backward(&x, saved, &gradient, level);
            let mut all = vec![y, of_x];
            all.extend(of_adapters.into_iter().flatten().flatten());
            all
        };
        agree_at_every_level(case, run);
    }
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let device = Device::flex().autodiff();
    let case = Case { tokens: 301, hidden: 96, mlp: 200, ..CASES[0] };
    let parts = Parts::new(case, &device);
    let run = || parts.run(|parts| frozen_block(parts.x.clone(), parts.rotary.as_ref(), parts.block(false)));
    let with_threads = |count| rayon::ThreadPoolBuilder::new().num_threads(count).build().unwrap().install(run);
    assert_eq!(with_threads(1), with_threads(3));
}

#[test]
fn without_gradients_the_output_is_the_same_and_nothing_is_kept() {
    let device = Device::flex();
    let parts = Parts::new(CASES[0], &Device::flex().autodiff());
    let tracked = host(frozen_block(parts.x.clone(), parts.rotary.as_ref(), parts.block(false)));
    let x = parts.x.clone().without_autodiff();
    assert_eq!(x.device(), device);
    let y = frozen_block(x, parts.rotary.as_ref(), parts.block(false));
    assert_eq!(host(y), tracked);
}

#[test]
fn what_is_not_finite_shows_in_its_frame_and_in_no_other() {
    let device = Device::flex();
    let case = Case { keep: 1.0, ..CASES[0] };
    let parts = Parts::new(case, &Device::flex().autodiff());
    let clean = host(parts.x.clone());
    let run = |values: Vec<f32>| {
        let x = Tensor::<3>::from_data(TensorData::new(values, parts.x.dims()), &device);
        host(frozen_block(x, parts.rotary.as_ref(), parts.block(false)))
    };
    let expected = run(clean.clone());
    for poison in [f32::NAN, f32::INFINITY] {
        let mut values = clean.clone();
        values[3] = poison;
        let found = run(values);
        let frame = found.len() / case.batch;
        assert!(found[..frame].iter().any(|x| x.is_nan()), "{poison} vanished");
        assert_eq!(found[frame..], expected[frame..], "{poison} spread");
    }
}

//! Frozen blocks and MLPs on tensors.

use std::sync::Arc;

use burn::backend::{Dispatch, Flex};
use burn::tensor::{Device, Tensor};

use super::flex::{HostAdapter, HostBlock, HostLinear, HostMlp, HostNorm, HostWeight, on_host};
use super::ops::BlockOps;
use crate::attention::Rotary;
use crate::dropout::KeepMask;
use crate::fourbit::{ComputeDtype, Linear4bitWeight};

/// A pre-norm transformer block whose base is constant; adapters may train.
pub struct FrozenBlock<'a> {
    /// Before the attention and before the MLP.
    pub norms: [FrozenNorm; 2],
    /// The layers of the attention.
    pub query: FrozenLinear<'a>,
    /// See `query`.
    pub key: FrozenLinear<'a>,
    /// See `query`.
    pub value: FrozenLinear<'a>,
    /// The layer behind the attention.
    pub output: FrozenLinear<'a>,
    /// The layers of the MLP, with GELU between them.
    pub up: FrozenLinear<'a>,
    /// See `up`.
    pub down: FrozenLinear<'a>,
    /// Factors `[hidden]` of both branches.
    pub scales: [Option<Tensor<1>>; 2],
    /// Heads of the attention.
    pub heads: usize,
    /// Whether to keep nothing but the input between forward and backward, and to run forward twice.
    pub checkpoint: bool,
}

/// Two linear layers of constant base behind a norm, with GELU between them; adapters may train.
pub struct FrozenMlp<'a> {
    /// Before the layers.
    pub norm: FrozenNorm,
    /// From `hidden` to any number of features.
    pub up: FrozenLinear<'a>,
    /// Back to `hidden`.
    pub down: FrozenLinear<'a>,
    /// Factors `[hidden]` of what they give.
    pub scale: Option<Tensor<1>>,
    /// Whether to keep nothing but the input between forward and backward, and to run forward twice.
    pub checkpoint: bool,
}

/// Layer normalization over `[hidden]`.
pub struct FrozenNorm {
    /// `[hidden]`.
    pub weight: Tensor<1>,
    /// `[hidden]`.
    pub bias: Tensor<1>,
    /// Added to the variance.
    pub epsilon: f64,
}

/// A linear layer from `in` to `out` features.
pub struct FrozenLinear<'a> {
    /// `[out, in]`.
    pub weight: FrozenWeight<'a>,
    /// `[out]`.
    pub bias: Option<Tensor<1>>,
    /// Its adapter.
    pub adapter: Option<Adapter>,
}

/// How a weight `[out, in]` is stored.
#[allow(clippy::large_enum_variant, reason = "six exist at a time")]
pub enum FrozenWeight<'a> {
    /// In 4 bits.
    Packed(&'a Linear4bitWeight),
    /// As floats, which are rounded to bfloat16 when they multiply.
    Dense(Tensor<2>),
}

/// A low-rank adapter: `scale · B(A(dropout(x)))`.
pub struct Adapter {
    /// `[rank, in]`.
    pub a: Tensor<2>,
    /// `[out, rank]`.
    pub b: Tensor<2>,
    /// The factor of the update.
    pub scale: f32,
    /// Dropout of the adapter's input, in training.
    pub dropout: Option<KeepMask>,
}

/// Whether tensors of this device can go through a block or an MLP as one operation.
pub fn is_supported(device: &Device) -> bool {
    *device == Device::flex()
}

/// The block on `x` `[batch, tokens, hidden]`; the result has the same shape and dtype.
///
/// All products, also those of the adapters and of the attention, have bfloat16 factors and f32 sums; queries, keys,
/// values, the attention's output and the input of the activation are rounded to bfloat16 once. The residual stream,
/// norms, softmax and activation are f32. Gradients reach `x` and the matrices of the adapters, nothing else.
///
/// # Panics
/// If the device is another ([`is_supported`]), a packed weight has another compute dtype than bfloat16, or
/// shapes do not fit, like every Burn operation.
pub fn frozen_block(x: Tensor<3>, rotary: Option<&Rotary>, block: FrozenBlock<'_>) -> Tensor<3> {
    let (block, adapters) = prepared(&x, rotary, block);
    Tensor::from_dispatch(Dispatch::frozen_block(x.into_dispatch(), adapters.into_dispatch(), block, None))
}

/// `residual + scale ∘ down(gelu(up(norm(x))))` for `[batch, tokens, hidden]`; the result has the shape and dtype of `residual`.
///
/// Products, roundings and gradients are those of [`frozen_block`]; the gradient reaches `residual`, too.
///
/// # Panics
/// As [`frozen_block`].
pub fn frozen_mlp(residual: Tensor<3>, x: Tensor<3>, mlp: FrozenMlp<'_>) -> Tensor<3> {
    let (mlp, adapters) = prepared_mlp(&residual, &x, mlp);
    let (residual, x) = (residual.into_dispatch(), x.into_dispatch());
    Tensor::from_dispatch(Dispatch::frozen_mlp(residual, x, adapters.into_dispatch(), mlp, None))
}

/// The MLP on the host, and the matrices of its adapters behind each other.
pub(super) fn prepared_mlp(residual: &Tensor<3>, x: &Tensor<3>, mlp: FrozenMlp<'_>) -> (Arc<HostMlp>, Tensor<1>) {
    let FrozenMlp { norm, up, down, scale, checkpoint } = mlp;
    let shape @ [_, _, hidden] = x.dims();
    assert!(residual.dims() == shape, "frozen_mlp: x is {shape:?}, what it is added to {:?}", residual.dims());
    let found = [up.shape(), down.shape()];
    let width = found[0][0];
    assert!(found == [[width, hidden], [hidden, width]], "frozen_mlp: x is {shape:?}, the weights {found:?}");
    check_vectors([&norm.weight, &norm.bias].into_iter().chain(&scale), hidden);
    let mut matrices = Vec::new();
    let linears = [up, down].map(|layer| layer.on_host(&mut matrices));
    let mlp = HostMlp { norm: norm.on_host(), linears, scale: scale.map(host), checkpoint };
    (Arc::new(mlp), behind_each_other(matrices, x))
}

/// The block on the host, and the matrices of its adapters behind each other.
pub(super) fn prepared(x: &Tensor<3>, rotary: Option<&Rotary>, block: FrozenBlock<'_>) -> (Arc<HostBlock>, Tensor<1>) {
    let shape @ [_, tokens, hidden] = x.dims();
    let FrozenBlock { norms, query, key, value, output, up, down, scales, heads, checkpoint } = block;
    let mlp = up.shape()[0];
    let square = [hidden, hidden];
    let layers = [query, key, value, output, up, down];
    let found = layers.each_ref().map(FrozenLinear::shape);
    assert!(
        found == [square, square, square, square, [mlp, hidden], [hidden, mlp]],
        "frozen_block: x is {shape:?}, the weights {found:?}"
    );
    assert!(heads > 0 && hidden.is_multiple_of(heads), "frozen_block: {hidden} numbers in {heads} heads");
    let vectors = norms.iter().flat_map(|norm| [&norm.weight, &norm.bias]).chain(scales.iter().flatten());
    check_vectors(vectors, hidden);
    let table = rotary.map(|rotary| {
        let found = rotary.table().dims();
        assert!(found == [2, tokens, hidden / heads / 2], "frozen_block: rotary table {found:?} for {tokens} tokens");
        host(rotary.table().clone())
    });

    let mut matrices = Vec::new();
    let linears = layers.map(|layer| layer.on_host(&mut matrices));
    let norms = norms.map(FrozenNorm::on_host);
    let scales = scales.map(|scale| scale.map(host));
    let block = HostBlock { norms, linears, scales, heads, table, checkpoint };
    (Arc::new(block), behind_each_other(matrices, x))
}

fn check_vectors<'a>(vectors: impl Iterator<Item = &'a Tensor<1>>, hidden: usize) {
    let lengths: Vec<usize> = vectors.map(|vector| vector.dims()[0]).collect();
    assert!(lengths.iter().all(|length| *length == hidden), "frozen layers: {lengths:?} factors for {hidden} numbers");
}

/// The matrices of all adapters as the operation takes them; without any it takes a tensor all the same.
fn behind_each_other(matrices: Vec<Tensor<1>>, x: &Tensor<3>) -> Tensor<1> {
    match matrices.is_empty() {
        true => Tensor::zeros([1], &x.device()),
        false => Tensor::cat(matrices, 0),
    }
}

impl FrozenNorm {
    fn on_host(self) -> HostNorm {
        HostNorm { weight: host(self.weight), bias: host(self.bias), epsilon: self.epsilon as f32 }
    }
}

impl FrozenLinear<'_> {
    fn shape(&self) -> [usize; 2] {
        match &self.weight {
            FrozenWeight::Packed(weight) => weight.shape(),
            FrozenWeight::Dense(weight) => weight.dims(),
        }
    }

    /// The layer on the host; the matrices of its adapter go to `matrices`.
    fn on_host(self, matrices: &mut Vec<Tensor<1>>) -> HostLinear {
        let shape @ [output, input] = self.shape();
        let bias = self.bias.map(|bias| {
            assert!(bias.dims() == [output], "frozen layer: bias {:?} of a layer {shape:?}", bias.dims());
            host(bias)
        });
        let weight = match self.weight {
            FrozenWeight::Packed(weight) => {
                let dtype = weight.compute_dtype();
                assert!(dtype == ComputeDtype::Bf16, "frozen layer: a weight with compute dtype {dtype:?}");
                let (tensors, format) = weight.on_host();
                HostWeight::Packed(tensors, format)
            }
            FrozenWeight::Dense(weight) => HostWeight::Dense(host(weight)),
        };
        let adapter = self.adapter.map(|Adapter { a, b, scale, dropout }| {
            let rank = a.dims()[0];
            let found = [a.dims(), b.dims()];
            assert!(found == [[rank, input], [output, rank]], "frozen layer: adapter {found:?} of a layer {shape:?}");
            matrices.extend([a.reshape([rank * input]), b.reshape([output * rank])]);
            HostAdapter { rank, scale, dropout }
        });
        HostLinear { weight, bias, adapter }
    }
}

/// A constant as the kernel reads it.
fn host<const D: usize>(tensor: Tensor<D>) -> burn::backend::flex::FlexTensor {
    let primitive = tensor.without_autodiff().try_into_primitive::<Flex>();
    on_host(primitive.unwrap_or_else(|error| panic!("frozen layer: not a tensor of the CPU backend: {error:?}")))
}

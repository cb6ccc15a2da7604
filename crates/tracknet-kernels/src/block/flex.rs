//! The block on the CPU backend: tensors as slices for the [kernel](super::kernel).

use std::sync::{Arc, PoisonError};

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;

use super::gradients::OfAdapter;
use super::kernel::{Adapter, Block, LAYERS, Linear, Norm, Saved, Shape};
use super::mlp::{Mlp, SavedMlp};
use super::ops::{BlockGradients, BlockOps, Tape};
use crate::attention::kernel::RotaryTable;
use crate::dropout::KeepMask;
use crate::fourbit::PackedFormat;
use crate::fourbit::flex::HostTensors;
use crate::host::{cast, contiguous, slice, tensor};
use crate::product::Weight;
use crate::simd::Level;

/// A frozen block as tensors of the CPU backend; cheap to make, because tensors are handles.
#[derive(Debug, Clone)]
pub struct HostBlock {
    pub(super) norms: [HostNorm; 2],
    /// Query, key, value, output, up, down.
    pub(super) linears: [HostLinear; LAYERS],
    pub(super) scales: [Option<FlexTensor>; 2],
    pub(super) heads: usize,
    /// `[2, tokens, head_dim / 2]`: cosines, then sines.
    pub(super) table: Option<FlexTensor>,
    /// Keep nothing but the input, and compute the rest again for backward.
    pub(super) checkpoint: bool,
}

/// An MLP of frozen layers as tensors of the CPU backend.
#[derive(Debug, Clone)]
pub struct HostMlp {
    pub(super) norm: HostNorm,
    /// Up, down.
    pub(super) linears: [HostLinear; 2],
    pub(super) scale: Option<FlexTensor>,
    /// As for a block.
    pub(super) checkpoint: bool,
}

/// Layer normalization.
#[derive(Debug, Clone)]
pub(super) struct HostNorm {
    pub(super) weight: FlexTensor,
    pub(super) bias: FlexTensor,
    pub(super) epsilon: f32,
}

/// A frozen linear layer.
#[derive(Debug, Clone)]
pub(super) struct HostLinear {
    pub(super) weight: HostWeight,
    pub(super) bias: Option<FlexTensor>,
    pub(super) adapter: Option<HostAdapter>,
}

/// How a weight is stored.
#[derive(Debug, Clone)]
#[allow(clippy::large_enum_variant, reason = "six exist at a time")]
pub(super) enum HostWeight {
    Packed(HostTensors, PackedFormat),
    Dense(FlexTensor),
}

/// Rank, scale and dropout of an adapter; its matrices come as one tensor with those of the others.
#[derive(Debug, Clone, Copy)]
pub(super) struct HostAdapter {
    pub(super) rank: usize,
    pub(super) scale: f32,
    pub(super) dropout: Option<KeepMask>,
}

/// What the forward pass of a block saved: its input and, without checkpointing, the activations inside.
pub struct SavedForward {
    x: FlexTensor,
    saved: Option<Activations>,
}

/// The activations inside of what was computed.
#[allow(clippy::large_enum_variant, reason = "one for each layer of a model")]
enum Activations {
    Block(Saved),
    Mlp(SavedMlp),
}

impl std::fmt::Debug for SavedForward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedForward").field("all", &self.saved.is_some()).finish_non_exhaustive()
    }
}

/// Leaves on the tape what backward needs; the activations only without checkpointing.
fn record(tape: &Tape, x: FlexTensor, saved: Activations, checkpoint: bool) {
    let saved = (!checkpoint).then_some(saved);
    *tape.lock().unwrap_or_else(PoisonError::into_inner) = Some(SavedForward { x, saved });
}

/// Takes what is on the tape.
fn replay(tape: &Tape) -> SavedForward {
    let kept = tape.lock().unwrap_or_else(PoisonError::into_inner).take();
    kept.unwrap_or_else(|| panic!("frozen layers: a second backward pass over one graph"))
}

/// A tensor as the kernel reads it.
pub(super) fn on_host(tensor: FlexTensor) -> FlexTensor {
    contiguous(cast(tensor, DType::F32))
}

impl HostWeight {
    fn shape(&self) -> [usize; 2] {
        match self {
            Self::Packed(_, format) => format.shape,
            Self::Dense(tensor) => tensor.shape().dims(),
        }
    }

    fn weight(&self) -> Weight<'_> {
        match self {
            Self::Packed(tensors, format) => tensors.weight(*format),
            Self::Dense(tensor) => Weight::dense(slice(tensor), tensor.shape().dims()),
        }
    }
}

impl HostLinear {
    /// The layer with its adapter's matrices from the front of `adapters`, which goes on behind them.
    fn borrow<'a>(&'a self, adapters: &mut &'a [f32]) -> Linear<'a> {
        let [output, input] = self.weight.shape();
        let adapter = self.adapter.map(|HostAdapter { rank, scale, dropout }| {
            let mut matrix = |shape: [usize; 2]| {
                let (values, rest) = adapters.split_at(shape[0] * shape[1]);
                *adapters = rest;
                Weight::dense(values, shape)
            };
            let (a, b) = (matrix([rank, input]), matrix([output, rank]));
            Adapter { a, b, scale, dropout }
        });
        Linear { weight: self.weight.weight(), bias: self.bias.as_ref().map(slice), adapter }
    }
}

impl HostNorm {
    fn borrow(&self) -> Norm<'_> {
        Norm { weight: slice(&self.weight), bias: slice(&self.bias), epsilon: self.epsilon }
    }
}

impl HostMlp {
    pub(super) fn borrow<'a>(&'a self, mut adapters: &'a [f32]) -> Mlp<'a> {
        let [up, down] = self.linears.each_ref().map(|linear| linear.borrow(&mut adapters));
        Mlp { norm: self.norm.borrow(), up, down, scale: self.scale.as_ref().map(slice) }
    }
}

impl HostBlock {
    pub(super) fn borrow<'a>(&'a self, [batch, tokens, hidden]: [usize; 3], mut adapters: &'a [f32]) -> Block<'a> {
        let [norm1, norm] = self.norms.each_ref().map(HostNorm::borrow);
        let [query, key, value, output, up, down] = self.linears.each_ref().map(|linear| linear.borrow(&mut adapters));
        let [scale1, scale] = self.scales.each_ref().map(|scale| scale.as_ref().map(slice));
        let rotary = self.table.as_ref().map(|table| {
            let table = slice(table);
            let (cos, sin) = table.split_at(table.len() / 2);
            RotaryTable { cos, sin }
        });
        let shape = Shape { batch, tokens, hidden, heads: self.heads };
        Block { shape, norm1, query, key, value, output, scale1, mlp: Mlp { norm, up, down, scale }, rotary }
    }
}

impl BlockOps for Flex {
    fn frozen_block(x: FlexTensor, adapters: FlexTensor, block: Arc<HostBlock>, tape: Option<Tape>) -> FlexTensor {
        let dtype = x.dtype();
        let (x, adapters) = (on_host(x), on_host(adapters));
        let shape = x.shape();
        let (y, saved) = block.borrow(shape.dims(), slice(&adapters)).forward(slice(&x), Level::best());
        if let Some(tape) = tape {
            record(&tape, x, Activations::Block(saved), block.checkpoint);
        }
        cast(tensor(y, shape), dtype)
    }

    fn frozen_mlp(
        residual: FlexTensor,
        x: FlexTensor,
        adapters: FlexTensor,
        mlp: Arc<HostMlp>,
        tape: Option<Tape>,
    ) -> FlexTensor {
        let dtype = residual.dtype();
        let [residual, x, adapters] = [residual, x, adapters].map(on_host);
        let shape = x.shape();
        let (y, saved) = mlp.borrow(slice(&adapters)).forward(slice(&x), slice(&residual).to_vec(), Level::best());
        if let Some(tape) = tape {
            record(&tape, x, Activations::Mlp(saved), mlp.checkpoint);
        }
        cast(tensor(y, shape), dtype)
    }
}

impl BlockGradients for Flex {
    fn frozen_block_gradients(
        gradient: FlexTensor,
        adapters: FlexTensor,
        block: Arc<HostBlock>,
        tape: Tape,
    ) -> [FlexTensor; 2] {
        let SavedForward { x, saved } = replay(&tape);
        let dtype = gradient.dtype();
        let (gradient, adapters) = (on_host(gradient), on_host(adapters));
        let level = Level::best();
        let host = block.borrow(x.shape().dims(), slice(&adapters));
        let saved = match saved {
            Some(Activations::Block(saved)) => saved,
            _ => host.forward(slice(&x), level).1,
        };
        let (of_x, of_adapters) = host.backward(slice(&x), saved, slice(&gradient), level);
        [cast(tensor(of_x, x.shape()), dtype), behind_each_other(of_adapters, &adapters)]
    }

    fn frozen_mlp_gradients(
        gradient: FlexTensor,
        adapters: FlexTensor,
        mlp: Arc<HostMlp>,
        tape: Tape,
    ) -> [FlexTensor; 2] {
        let SavedForward { x, saved } = replay(&tape);
        let dtype = gradient.dtype();
        let (gradient, adapters) = (on_host(gradient), on_host(adapters));
        let level = Level::best();
        let host = mlp.borrow(slice(&adapters));
        let saved = match saved {
            Some(Activations::Mlp(saved)) => saved,
            // What is added to does not matter here.
            _ => host.forward(slice(&x), vec![0.0; x.shape().num_elements()], level).1,
        };
        let (of_normal, of_adapters) = host.backward(saved, slice(&gradient), level);
        let mut of_x = vec![0.0; of_normal.len()];
        host.norm.backward(slice(&x), &of_normal, &mut of_x, level);
        [cast(tensor(of_x, x.shape()), dtype), behind_each_other(of_adapters, &adapters)]
    }
}

/// The gradients of all adapters as one tensor like that of their matrices.
fn behind_each_other<const N: usize>(gradients: [OfAdapter; N], adapters: &FlexTensor) -> FlexTensor {
    let shape = adapters.shape();
    let mut flat: Vec<f32> = gradients.into_iter().flatten().flatten().flatten().collect();
    // Without adapters the operation still has a tensor in their place.
    flat.resize(shape.num_elements(), 0.0);
    tensor(flat, shape)
}

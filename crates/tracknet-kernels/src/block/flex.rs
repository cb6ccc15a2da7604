//! The block on the CPU backend: tensors as slices for the [kernel](super::kernel).

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::DType;

use super::kernel::{Adapter, Block, LAYERS, Linear, Norm, Saved, Shape};
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
    saved: Option<Saved>,
}

impl std::fmt::Debug for SavedForward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedForward").field("all", &self.saved.is_some()).finish_non_exhaustive()
    }
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

impl HostBlock {
    pub(super) fn borrow<'a>(&'a self, [batch, tokens, hidden]: [usize; 3], mut adapters: &'a [f32]) -> Block<'a> {
        let [norm1, norm2] = self.norms.each_ref().map(|norm| Norm {
            weight: slice(&norm.weight),
            bias: slice(&norm.bias),
            epsilon: norm.epsilon,
        });
        let mlp = self.linears[4].weight.shape()[0];
        let [query, key, value, output, up, down] = self.linears.each_ref().map(|linear| linear.borrow(&mut adapters));
        let [scale1, scale2] = self.scales.each_ref().map(|scale| scale.as_ref().map(slice));
        let rotary = self.table.as_ref().map(|table| {
            let table = slice(table);
            let (cos, sin) = table.split_at(table.len() / 2);
            RotaryTable { cos, sin }
        });
        let shape = Shape { batch, tokens, hidden, mlp, heads: self.heads };
        Block { shape, norm1, query, key, value, output, scale1, norm2, up, down, scale2, rotary }
    }
}

impl BlockOps for Flex {
    fn frozen_block(x: FlexTensor, adapters: FlexTensor, block: Arc<HostBlock>, tape: Option<Tape>) -> FlexTensor {
        let dtype = x.dtype();
        let (x, adapters) = (on_host(x), on_host(adapters));
        let shape = x.shape();
        let (y, saved) = block.borrow(shape.dims(), slice(&adapters)).forward(slice(&x), Level::best());
        if let Some(tape) = tape {
            let saved = (!block.checkpoint).then_some(saved);
            *tape.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(SavedForward { x, saved });
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
        let kept = tape.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let SavedForward { x, saved } =
            kept.unwrap_or_else(|| panic!("frozen_block: a second backward pass over one graph"));
        let dtype = gradient.dtype();
        let (gradient, adapters) = (on_host(gradient), on_host(adapters));
        let level = Level::best();
        let host = block.borrow(x.shape().dims(), slice(&adapters));
        let saved = saved.unwrap_or_else(|| host.forward(slice(&x), level).1);
        let (of_x, of_adapters) = host.backward(slice(&x), saved, slice(&gradient), level);
        let mut flat: Vec<f32> = of_adapters.into_iter().flatten().flatten().flatten().collect();
        // Without adapters the operation still has a tensor in their place.
        flat.resize(adapters.shape().num_elements(), 0.0);
        let shape = adapters.shape();
        [cast(tensor(of_x, x.shape()), dtype), tensor(flat, shape)]
    }
}

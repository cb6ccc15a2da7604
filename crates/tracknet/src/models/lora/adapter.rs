//! A low-rank adapter (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>), with the rules of Hugging Face PEFT so that
//! files interchange.
//!
//! One type carries every variant, because they differ in little: rsLoRA (Kalajdzievski, 2023) in the scale, DoRA in a factor
//! for each output feature ([`super::dora`]), the ways to initialize in nothing but the first matrices. The adapter of a
//! convolution holds its kernels as rows, so that all of this is the same for it.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use tracknet_kernels::dropout::KeepMask;
use tracknet_kernels::matmul::matmul;

use crate::models::nn::Dropout;

use super::dora::{self, Dora, Update};

/// The matrices of an update `s · B(A(dropout(x)))`, which [`LoraLayer`](super::LoraLayer) adds to the output of its base.
#[derive(Module, Debug)]
pub struct LoraAdapter {
    /// `[rank, in]`; of a convolution `[rank, in · height · width]`.
    pub a: Param<Tensor<2>>,
    /// `[out, rank]`.
    pub b: Param<Tensor<2>>,
    /// The magnitudes of DoRA.
    pub dora: Option<Dora>,
    dropout: Dropout,
    #[module(skip)]
    scaling: Scaling,
}

/// From `lora_alpha` and the rank to the factor in front of `B(A(x))`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scaling {
    /// `lora_alpha`, or what `alpha_pattern` says for the module.
    pub alpha: f32,
    /// Divide by the root of the rank.
    pub rslora: bool,
}

impl Scaling {
    /// `alpha / rank`, or `alpha / √rank`.
    pub fn factor(self, rank: usize) -> f32 {
        // As Python computes it, in double precision.
        let rank = if self.rslora { (rank as f64).sqrt() } else { rank as f64 };
        (f64::from(self.alpha) / rank) as f32
    }
}

/// All that kernels are given of an adapter: the update is `scale · B(A(mask ∘ x))`.
pub(crate) struct LowRank {
    /// `[rank, in]`.
    pub(crate) a: Tensor<2>,
    /// `[out, rank]`.
    pub(crate) b: Tensor<2>,
    pub(crate) scale: f32,
    /// Dropout of the input, in training.
    pub(crate) mask: Option<KeepMask>,
}

impl LoraAdapter {
    /// An adapter from its matrices `A: [rank, in]` and `B: [out, rank]`, trainable; `path` is the module it adapts.
    pub fn new([a, b]: [Param<Tensor<2>>; 2], scaling: Scaling, dropout: f32, path: &str) -> Self {
        Self { a, b, dora: None, dropout: Dropout::new(dropout, path), scaling }
    }

    /// [`LoraAdapter::new`] from values.
    pub fn from_data(matrices: [TensorData; 2], scaling: Scaling, dropout: f32, path: &str, device: &Device) -> Self {
        Self::new(matrices.map(|data| Param::from_data(data, device)), scaling, dropout, path)
    }

    /// Makes it DoRA on the frozen `weight` `[out, in]`. The magnitudes are `magnitude` `[out]`, or the norms that the rows of
    /// the adapted weight have.
    #[must_use]
    pub fn with_dora(mut self, weight: Tensor<2>, magnitude: Option<TensorData>) -> Self {
        let device = self.a.val().device();
        self.dora = Some(Dora::new(weight, self.matrices(), magnitude, &device));
        self
    }

    /// Gives it a stream of dropout masks of its own, apart from that of its clones.
    pub fn own_dropout(&mut self) {
        self.dropout.own_stream();
    }

    /// Restarts the stream of dropout masks.
    pub fn seed_dropout(&self, seed: u64) {
        self.dropout.seed(seed);
    }

    /// Rows of `A`, columns of `B`.
    pub fn rank(&self) -> usize {
        self.a.lazy_shape()[0]
    }

    /// How the scale comes about.
    pub fn scaling(&self) -> Scaling {
        self.scaling
    }

    /// The factor in front of `B(A(x))`.
    pub fn scale(&self) -> f32 {
        self.scaling.factor(self.rank())
    }

    /// Dropout of the adapter's input; draws the next mask.
    pub(super) fn dropout<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.dropout.forward(x)
    }

    /// Whether [`Self::dropout`] drops elements of `x`.
    pub(super) fn is_dropping<const D: usize>(&self, x: &Tensor<D>) -> bool {
        self.dropout.is_active(x)
    }

    /// The matrices and their scale.
    pub(super) fn matrices(&self) -> Update {
        Update { a: self.a.val(), b: self.b.val(), scale: self.scale() }
    }

    /// Whether kernels can compute it: its update is all there is to it, and dropout leaves something of the input.
    pub(crate) fn is_low_rank(&self) -> bool {
        self.dora.is_none() && self.dropout.probability() < 1.0
    }

    /// What kernels are given of it for the input `x`; draws the next mask. Only where [`Self::is_low_rank`].
    pub(crate) fn low_rank<const D: usize>(&self, x: &Tensor<D>) -> LowRank {
        LowRank { a: self.a.val(), b: self.b.val(), scale: self.scale(), mask: self.dropout.draw(x) }
    }

    /// `s · B · A` `[out, in]`, dense: for merging and comparing, never in a forward pass.
    pub fn delta(&self) -> Tensor<2> {
        matmul(self.b.val(), self.a.val()).mul_scalar(self.scale()).detach()
    }

    /// The weight that alone computes what `weight` `[out, in]` and this adapter compute together, and the gain of DoRA.
    pub(super) fn merge(&self, weight: Tensor<2>) -> (Tensor<2>, Option<Tensor<1>>) {
        let sum = weight + self.delta();
        match &self.dora {
            None => (sum, None),
            Some(dora) => {
                let (merged, gain) = dora.merge(sum);
                (merged, Some(gain))
            }
        }
    }

    /// The weight that [`Self::merge`] was given, within rounding.
    pub(super) fn unmerge(&self, merged: Tensor<2>, gain: Option<Tensor<1>>) -> Tensor<2> {
        let sum = match gain {
            Some(gain) => dora::unmerge(merged, gain),
            None => merged,
        };
        let device = sum.device();
        sum - Tensor::from_data(self.delta().into_data(), &device)
    }
}

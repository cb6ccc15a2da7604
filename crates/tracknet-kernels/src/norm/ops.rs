//! The operations a backend provides for normalization.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, backend_extension};

use super::reference;

/// What follows a normalization.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FusedActivation {
    /// Nothing.
    None,
    /// GELU with the exact error function.
    Gelu,
    /// `max(x, 0)`.
    Relu,
}

/// The numbers of a normalization.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormSpec {
    /// Groups that the channels are cut in.
    pub groups: usize,
    /// Added to the variance.
    pub epsilon: f32,
    /// What follows.
    pub activation: FusedActivation,
}

/// Normalization on a backend.
///
/// `x`, `y` and their gradients are `[batch, channels, space]`, `weight`, `bias` and their gradients `[channels]`,
/// `statistics` (mean and reciprocal deviation) `[batch * groups, 2]`. The default bodies compose ordinary tensor
/// operations; a backend with an own kernel overrides them.
#[backend_extension(Autodiff, Flex: cfg(feature = "flex"), Cube: cfg(feature = "cube"))]
pub trait NormOps: Backend {
    /// `y` and `statistics`.
    fn normalize(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        spec: NormSpec,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        reference::normalize::<Self>(x, weight, bias, spec)
    }

    /// The gradients of `x` and, if `parameters` asks for them, of `weight` and `bias`.
    fn normalize_gradients(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        statistics: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        spec: NormSpec,
        parameters: bool,
    ) -> (FloatTensor<Self>, Option<FloatTensor<Self>>, Option<FloatTensor<Self>>) {
        reference::gradients::<Self>([x, weight, bias, statistics, gradient], spec, parameters)
    }
}

//! Normalization of tokens by their features, and of feature maps by groups within a frame or by channel over the batch.

use burn::module::{Module, Param};
use burn::nn::{BatchNorm, BatchNormConfig};
use burn::tensor::{DType, Device, Tensor};
use tracknet_kernels::{FusedActivation, NormSpec, batch_norm, group_norm, layer_norm};

use crate::config::Norm;
use crate::models::graph::{Graph, Traced};

use super::activation::Activation;
use super::init::{Builder, Fill};

/// Of group and batch normalization.
const EPSILON: f64 = 1e-5;

/// Layer normalization over the last dimension (Ba et al., 2016).
#[derive(Module, Debug)]
pub struct LayerNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNorm {
    /// Weight 1, bias 0, or the checkpoint's.
    pub fn new(channels: usize, epsilon: f64, builder: &Builder<'_>) -> Self {
        Self {
            weight: builder.param("weight", [channels], Fill::ONE),
            bias: builder.param("bias", [channels], Fill::ZERO),
            epsilon,
        }
    }

    /// Whether neither parameter trains.
    #[cfg(feature = "flex")]
    pub(crate) fn is_frozen(&self) -> bool {
        !self.weight.is_require_grad() && !self.bias.is_require_grad()
    }

    /// Weight, bias and epsilon.
    #[cfg(feature = "flex")]
    pub(crate) fn parts(&self) -> (Tensor<1>, Tensor<1>, f64) {
        (self.weight.val(), self.bias.val(), self.epsilon)
    }

    /// `[.., channels]` → the same shape.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }

    /// [`LayerNorm::forward`] as part of a graph.
    pub(crate) fn trace(&self, graph: &mut Graph, x: &Traced) -> Traced {
        graph.layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon as f32)
    }
}

/// The normalization of feature maps that a configuration chose.
#[derive(Module, Debug)]
pub enum ConvNorm {
    /// `gn`.
    Group(GroupNorm),
    /// `bn`.
    Batch(BatchNorm),
}

impl ConvNorm {
    /// Weight 1 and bias 0, or the checkpoint's.
    pub fn new(kind: Norm, channels: usize, builder: &Builder<'_>) -> Self {
        match kind {
            Norm::Gn => Self::Group(GroupNorm::new(channels, builder)),
            Norm::Bn | Norm::FrozenBn => {
                let mut norm = BatchNormConfig::new(channels).with_epsilon(EPSILON).init(builder.device());
                norm.gamma = builder.param("weight", [channels], Fill::ONE);
                norm.beta = builder.param("bias", [channels], Fill::ZERO);
                norm.training = Param::from_bool(kind == Norm::Bn);
                Self::Batch(norm)
            }
        }
    }

    /// Normalization, then the activation: `[batch, channels, height, width]` → the same shape.
    pub fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        match self {
            Self::Group(norm) => norm.forward(x, activation),
            Self::Batch(norm) => match StillNorm::of(norm, &x) {
                Some(still) => activation.forward(still.forward(x)),
                None => train_batch_norm(norm, x, activation),
            },
        }
    }

    /// [`ConvNorm::forward`] as part of a graph, with the running statistics.
    pub(crate) fn trace(&self, graph: &mut Graph, x: &Traced, activation: Activation) -> Traced {
        let y = match self {
            Self::Group(norm) => norm.trace(graph, x),
            Self::Batch(norm) => {
                let StillNorm { scale, shift } = StillNorm::of_running(norm, &norm.gamma.val().device());
                scale_and_shift(graph, x, scale, shift)
            }
        };
        activation.trace(graph, &y)
    }

    /// This normalization as a scale and a shift of each channel in a graph, where it is one.
    pub(crate) fn traced_as_still(&self) -> Option<StillNorm> {
        match self {
            Self::Group(_) => None,
            Self::Batch(norm) => Some(StillNorm::of_running(norm, &norm.gamma.val().device())),
        }
    }

    /// This normalization as a scale and a shift of each channel, where it is one for `x`.
    pub(crate) fn still(&self, x: &Tensor<4>) -> Option<StillNorm> {
        match self {
            Self::Group(_) => None,
            Self::Batch(norm) => StillNorm::of(norm, x),
        }
    }
}

/// Batch normalization whose statistics do not depend on the batch: `scale · x + shift` for each channel.
pub(crate) struct StillNorm {
    /// `[channels]`, f32.
    pub(crate) scale: Tensor<1>,
    /// `[channels]`, f32.
    pub(crate) shift: Tensor<1>,
}

impl StillNorm {
    /// `None` where `x` is trained on and moves the statistics.
    fn of(norm: &BatchNorm, x: &Tensor<4>) -> Option<Self> {
        let device = x.device();
        let moves = norm.training.is_enabled() && device.is_autodiff();
        (!moves).then(|| Self::of_running(norm, &device))
    }

    /// With the running statistics.
    fn of_running(norm: &BatchNorm, device: &Device) -> Self {
        let [mean, variance] = [&norm.running_mean, &norm.running_var].map(|state| state.value().to_device(device));
        let scale = norm.gamma.val() / variance.add_scalar(norm.epsilon).sqrt();
        Self { shift: norm.beta.val() - mean * scale.clone(), scale }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let dtype = x.dtype();
        let [scale, shift] = [&self.scale, &self.shift].map(|of| of.clone().reshape([1, of.dims()[0], 1, 1]));
        (x.cast(DType::F32) * scale + shift).cast(dtype)
    }
}

/// Batch normalization with the statistics of this batch, which move the running ones, and the activation.
fn train_batch_norm(norm: &BatchNorm, x: Tensor<4>, activation: Activation) -> Tensor<4> {
    let fused = activation.fused();
    let (weight, bias) = (norm.gamma.val(), norm.beta.val());
    let (y, [mean, variance]) = batch_norm(x, weight, bias, norm.epsilon, fused.unwrap_or(FusedActivation::None));
    for (running, of_batch) in [(&norm.running_mean, mean), (&norm.running_var, variance)] {
        let before = running.value_sync().to_device(&of_batch.device());
        running.update((before.mul_scalar(1.0 - norm.momentum) + of_batch.mul_scalar(norm.momentum)).detach());
    }
    if fused.is_some() { y } else { activation.forward(y) }
}

/// Group normalization (Wu and He, 2018).
#[derive(Module, Debug)]
pub struct GroupNorm {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
    #[module(skip)]
    groups: usize,
}

impl GroupNorm {
    fn new(channels: usize, builder: &Builder<'_>) -> Self {
        Self {
            weight: builder.param("weight", [channels], Fill::ONE),
            bias: builder.param("bias", [channels], Fill::ZERO),
            groups: groups_for(channels),
        }
    }

    fn forward(&self, x: Tensor<4>, activation: Activation) -> Tensor<4> {
        let fused = activation.fused();
        let spec = NormSpec {
            groups: self.groups,
            epsilon: EPSILON as f32,
            activation: fused.unwrap_or(FusedActivation::None),
        };
        let y = group_norm(x, self.weight.val(), self.bias.val(), spec);
        if fused.is_some() { y } else { activation.forward(y) }
    }

    /// The normalization without an activation as part of a graph.
    fn trace(&self, graph: &mut Graph, x: &Traced) -> Traced {
        let values = x.shape.iter().product::<usize>() / self.groups;
        let rows = graph.reshape(x, &[self.groups, values]);
        let rows = graph.standardize_rows(&rows, EPSILON as f32);
        let y = graph.reshape(&rows, &x.shape);
        scale_and_shift(graph, &y, self.weight.val(), self.bias.val())
    }
}

/// `scale · x + shift` for each channel of `[channels, height, width]`, as part of a graph.
fn scale_and_shift(graph: &mut Graph, x: &Traced, scale: Tensor<1>, shift: Tensor<1>) -> Traced {
    let of_channels = |numbers: Tensor<1>| {
        let [channels] = numbers.dims();
        numbers.reshape([1, channels, 1, 1])
    };
    let y = graph.with_tensor("Mul", x, "weight", of_channels(scale));
    graph.with_tensor("Add", &y, "bias", of_channels(shift))
}

/// 32, halved until it divides the channels.
fn groups_for(channels: usize) -> usize {
    let mut groups = 32;
    while !channels.is_multiple_of(groups) {
        groups /= 2;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::groups_for;

    #[test]
    fn groups_are_halved_until_they_divide_the_channels() {
        assert_eq!([64, 32, 48, 8, 6, 5].map(groups_for), [32, 32, 16, 8, 2, 1]);
    }
}

//! From decoder features to logits.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use super::graph::{Graph, Traced};
use super::nn::{Builder, Conv2d, ConvSpec, Fill};
use super::state::{Group, ParameterInfo};

/// One 1×1 convolution with a bias, to one channel of logits for each heatmap.
#[derive(Module, Debug)]
pub struct HeatmapHead {
    conv: Conv2d,
}

impl HeatmapHead {
    /// A head of `heatmaps` heatmaps on `channels` decoder channels. Its weights begin near zero: with Kaiming values as in the
    /// decoder (fan-out 1) the first heatmaps would be an order of magnitude off the targets.
    pub fn new(channels: usize, heatmaps: usize, builder: &Builder<'_>) -> Self {
        Self::with_prior(channels, heatmaps, 0.5, builder)
    }

    /// A head whose first heatmaps are `prior` everywhere, in 0..1: its bias begins at the logit of it (Lin et al. 2017,
    /// <https://arxiv.org/abs/1708.02002>). A ball covers few pixels; from 0.5 the first hundreds of steps only learn that.
    pub fn with_prior(channels: usize, heatmaps: usize, prior: f32, builder: &Builder<'_>) -> Self {
        let bias = Fill::Constant((prior / (1.0 - prior)).ln());
        let conv = ConvSpec::square([channels, heatmaps], 1).with_bias_of(bias).with_fill(Fill::Normal(0.01));
        Self { conv: conv.build(&builder.at("conv")) }
    }

    /// A head whose logits are higher by `shift`.
    #[must_use]
    pub fn shifted(mut self, shift: f32) -> Self {
        self.conv.bias = self.conv.bias.map(|bias| bias.map(|bias| bias.add_scalar(shift)));
        self
    }

    /// `[batch, channels, height, width]` → `[batch, heatmaps, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
    }

    /// [`HeatmapHead::forward`] as part of a graph.
    pub(crate) fn trace(&self, graph: &mut Graph, x: &Traced) -> Traced {
        graph.within("conv", |graph| self.conv.trace(graph, x))
    }
}

/// A parameter of the head for several heatmaps, from that for one: each heatmap begins as a copy of it. `None` for every other
/// parameter.
pub(crate) fn of_more_heatmaps(parameter: &ParameterInfo, found: &TensorData) -> Option<TensorData> {
    let ParameterInfo { group, shape, .. } = parameter;
    let (heatmaps, one) = (*shape.first()?, found.shape().to_vec());
    if *group != Group::Head || one.first() != Some(&1) || one[1..] != shape[1..] {
        return None;
    }
    let values: Vec<f32> = found.iter::<f32>().collect();
    Some(TensorData::new(values.repeat(heatmaps), shape.clone()))
}

//! From decoder features to logits.

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

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
        let conv = ConvSpec::square([channels, heatmaps], 1).with_bias().with_fill(Fill::Normal(0.01));
        Self { conv: conv.build(&builder.at("conv")) }
    }

    /// `[batch, channels, height, width]` → `[batch, heatmaps, height, width]`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
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

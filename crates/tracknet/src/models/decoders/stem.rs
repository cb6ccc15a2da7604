//! A light convolutional stem: a ball is smaller than one patch, so the patch embedding alone blurs where it is. It is also
//! one of the ways in which a window of frames comes into a model.

use burn::module::Module;
use burn::tensor::Tensor;

use crate::config::DecoderConfig;
use crate::models::graph::{Graph, Traced};
use crate::models::nn::{Builder, ConvSpec};

use super::block::activation;
use super::conv_layer::ConvLayer;

/// The frames that a stem sees, and at which resolutions it gives features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StemSpec {
    /// Frames of a window.
    pub frames: usize,
    /// Whether there are features at stride 1, too.
    pub has_full: bool,
}

/// Features of the frames themselves at half and quarter resolution, and at full resolution where the decoder reaches it.
#[derive(Module, Debug)]
pub struct Stem {
    full: Option<ConvLayer>,
    half: ConvLayer,
    quarter: ConvLayer,
}

/// What a [`Stem`] gives: tensors, or values of a graph.
#[derive(Debug, Clone)]
pub struct StemFeatures<T = Tensor<4>> {
    /// At stride 1, if the stem has it.
    pub full: Option<T>,
    /// At stride 2.
    pub half: T,
    /// At stride 4.
    pub quarter: T,
}

impl Stem {
    /// Channels at stride 1.
    pub const FULL_CHANNELS: usize = 8;
    /// Channels at stride 2 and at stride 4.
    pub const CHANNELS: [usize; 2] = [16, 32];

    /// Two strided convolutions, and one that keeps the resolution if `spec` asks for it.
    pub fn new(spec: StemSpec, config: &DecoderConfig, builder: &Builder<'_>) -> Self {
        let [half, quarter] = Self::CHANNELS;
        let input = 3 * spec.frames;
        let full = || layer([input, Self::FULL_CHANNELS], 1, config, &builder.at("full"));
        Self {
            full: spec.has_full.then(full),
            half: layer([input, half], 2, config, &builder.at("half")),
            quarter: layer([half, quarter], 2, config, &builder.at("quarter")),
        }
    }

    /// Windows `[batch, 3 · frames, height, width]` → features at each of the strides.
    pub fn forward(&self, windows: Tensor<4>) -> StemFeatures {
        let full = self.full.as_ref().map(|layer| layer.forward(windows.clone()));
        let half = self.half.forward(windows);
        let quarter = self.quarter.forward(half.clone());
        StemFeatures { full, half, quarter }
    }

    /// [`Stem::forward`] as part of a graph.
    pub(super) fn trace(&self, graph: &mut Graph, windows: &Traced) -> StemFeatures<Traced> {
        let full = self.full.as_ref().map(|layer| layer.trace(graph, "full", windows));
        let half = self.half.trace(graph, "half", windows);
        let quarter = self.quarter.trace(graph, "quarter", &half);
        StemFeatures { full, half, quarter }
    }

    /// Elements that the backward pass needs of a window of `pixels` a frame, about: convolution, norm and activation of each
    /// layer.
    pub(super) fn activation_elements(&self, pixels: usize) -> usize {
        let [half, quarter] = Self::CHANNELS;
        let full = if self.full.is_some() { Self::FULL_CHANNELS } else { 0 };
        3 * (pixels * full + pixels / 4 * half + pixels / 16 * quarter)
    }
}

/// Convolution 3×3, norm, activation.
fn layer(channels: [usize; 2], stride: usize, config: &DecoderConfig, builder: &Builder<'_>) -> ConvLayer {
    let conv = ConvSpec::square(channels, 3).stride(stride);
    ConvLayer::new(conv, channels[1], (config.norm, activation(config.activation)), builder)
}

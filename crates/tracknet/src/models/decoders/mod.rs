//! From backbone features to heatmap resolution.
//!
//! A decoder is checked against the levels of a backbone first ([`DecoderSpec`]), and then built ([`Decoder`]). A new one is a
//! file with both, a variant of [`Decoder`] and a row in the [registry](super::registry).

mod block;
mod conv_layer;
mod deformable;
mod encoder;
mod fpn;
mod hrnet;
mod levels;
mod resize;
mod stem;
mod unet;
mod upsampling;

use std::fmt::Debug;

use burn::module::Module;
use burn::tensor::Tensor;

use super::features::Features;
use super::graph::{Graph, Traced};
use super::lora::AdaptableLayer;
use super::nn::Builder;

pub use block::ResidualBlock;
pub use deformable::{DeformableDecoder, DeformableSpec};
pub use fpn::{FeaturePyramid, FpnDecoder, FpnSpec, PyramidSpec};
pub use hrnet::{HrnetDecoder, HrnetSpec};
pub use resize::{resize_bilinear, resize_nearest};
pub use stem::{Stem, StemFeatures, StemSpec};
pub use unet::{UnetDecoder, UnetSpec};
pub use upsampling::{Stage, UpsamplingDecoder, UpsamplingSpec};

/// A decoder's configuration, checked against the backbone it follows.
pub trait DecoderSpec: Debug {
    /// Channels that the head receives.
    fn output_channels(&self) -> usize;

    /// Builds the decoder; the builder gives the values.
    fn build(&self, builder: &Builder<'_>) -> Decoder;
}

/// What every kind of decoder computes. Layers go by their paths below the decoder, such as `stages.0.proj`.
pub trait DecoderNetwork {
    /// Features, and the window of frames `[batch, channels, height, width]` that they come from, to
    /// `[batch, channels, heatmap height, heatmap width]`.
    fn forward(&self, features: Features, frames: Tensor<4>) -> Tensor<4>;

    /// [`DecoderNetwork::forward`] as part of a graph, without adapters: from the maps of the levels, finest first.
    fn trace(&self, graph: &mut Graph, levels: &[Traced], frames: &Traced) -> Traced;

    /// Visits the convolutions that can carry an adapter.
    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer));

    /// As [`DecoderNetwork::visit_layers`], to change them.
    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer));

    /// Gives its dropouts streams of masks of their own, apart from those of its clones.
    fn own_dropout(&mut self);

    /// Restarts the streams of masks of its dropouts.
    fn seed_dropout(&self, seed: u64);

    /// Elements that a forward pass over one frame keeps for the backward pass, about; `grids` are the cells of each level of
    /// the features, `[rows, columns]`.
    fn activation_elements(&self, grids: &[[usize; 2]]) -> usize;
}

/// The kinds of decoders.
// A model has one; a box around the larger variants would save nothing that counts.
#[allow(clippy::large_enum_variant)]
#[derive(Module, Debug)]
pub enum Decoder {
    /// `upsampling`.
    Upsampling(UpsamplingDecoder),
    /// `fpn`.
    Fpn(FpnDecoder),
    /// `hrnet`.
    Hrnet(HrnetDecoder),
    /// `deformable`.
    Deformable(DeformableDecoder),
    /// `unet`.
    Unet(UnetDecoder),
}

impl Decoder {
    fn inner(&self) -> &dyn DecoderNetwork {
        match self {
            Self::Upsampling(decoder) => decoder,
            Self::Fpn(decoder) => decoder,
            Self::Hrnet(decoder) => decoder,
            Self::Deformable(decoder) => decoder,
            Self::Unet(decoder) => decoder,
        }
    }

    fn inner_mut(&mut self) -> &mut dyn DecoderNetwork {
        match self {
            Self::Upsampling(decoder) => decoder,
            Self::Fpn(decoder) => decoder,
            Self::Hrnet(decoder) => decoder,
            Self::Deformable(decoder) => decoder,
            Self::Unet(decoder) => decoder,
        }
    }
}

impl DecoderNetwork for Decoder {
    fn forward(&self, features: Features, frames: Tensor<4>) -> Tensor<4> {
        self.inner().forward(features, frames)
    }

    fn trace(&self, graph: &mut Graph, levels: &[Traced], frames: &Traced) -> Traced {
        self.inner().trace(graph, levels, frames)
    }

    fn visit_layers(&self, visit: &mut dyn FnMut(&str, &dyn AdaptableLayer)) {
        self.inner().visit_layers(visit);
    }

    fn visit_layers_mut(&mut self, visit: &mut dyn FnMut(&str, &mut dyn AdaptableLayer)) {
        self.inner_mut().visit_layers_mut(visit);
    }

    fn own_dropout(&mut self) {
        self.inner_mut().own_dropout();
    }

    fn seed_dropout(&self, seed: u64) {
        self.inner().seed_dropout(seed);
    }

    fn activation_elements(&self, grids: &[[usize; 2]]) -> usize {
        self.inner().activation_elements(grids)
    }
}
